"""A run's checkpoints: folder/<step>, written in the background, read onto any mesh.

    save(step, state, meta, score)  →  folder/<step>        restore(step, abstract)  →  state

A state is any pytree of jax.Arrays. Beside the arrays a checkpoint keeps a record: the caller's
`meta`, its `score`, and of every leaf the shape, the dtype and a checksum, against which a restore
is held. A half-written checkpoint never bears the name of its step.

Every process of a run calls the same methods with the same arguments; the folder is one that all of
them see. One run at a time writes to a folder, others may read from it meanwhile.

This is the only module that imports orbax.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from star_jax.train import leaves

logger = logging.getLogger(__name__)

FORMAT = "star_jax checkpoint 1"
RECORD = "_CHECKPOINT_METADATA"  # Orbax's file of a complete checkpoint, which holds our record
# What a save or a deletion leaves behind when its process is killed.
LEFT_OVER = re.compile(r"\d+\.orbax-checkpoint-tmp.*|\.\d+\.deleted")


class Checkpoints:
    """The newest `keep_last` checkpoints of a folder and the `keep_best` of lowest score."""

    def __init__(self, folder: str | Path, *, keep_last: int = 2, keep_best: int = 1) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, got {keep_last}")
        if keep_best < 0:
            raise ValueError(f"keep_best must be at least 0, got {keep_best}")
        # addFilter adds it once, however often it is called.
        logging.getLogger("absl").addFilter(_is_worth_hearing)
        self.folder = Path(os.path.abspath(folder))
        self.keep_last = keep_last
        self.keep_best = keep_best
        found = _agreed(_scan(self.folder) if jax.process_index() == 0 else [])
        self._scores: dict[int, float | None] = {step: score for step, score in found}
        self._own: set[int] = set()  # steps that this object has written or read
        self._pending: tuple[int, float | None, ocp.AsyncResponse[None]] | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def save(
        self,
        step: int,
        state: Any,
        meta: dict[str, Any],
        score: float | None = None,
        wait: bool = False,
    ) -> bool:
        """Begin to write a checkpoint; → whether one is written.

        Returns when the arrays may be donated. The rest happens in the background unless `wait`; a
        save that is still going on is waited for first. A step that this object has saved or
        restored is not written again: its state is the same. The lower the score, the better; one
        that is not finite is none. `meta` is JSON.
        """
        self.wait()
        if step in self._own:
            return False
        self._check_step(step)
        score = float(score) if score is not None and math.isfinite(score) else None
        shapes = leaves.shapes(state)
        record: dict[str, Any] = {
            "format": FORMAT,
            "score": score,
            # Refused here, on the caller's thread, if it is no JSON.
            "meta": json.loads(json.dumps(meta, allow_nan=False)),
            "shapes": {name: [dtype, list(shape)] for name, (dtype, shape) in shapes.items()},
            "checksums": leaves.checksums(state),
        }
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            _sweep(self.folder)
            _set_aside(self._path(step))
        response = ocp.save_async(str(self._path(step)), state, custom_metadata=record)
        self._pending = (step, score, response)
        if wait:
            self.wait()
        return True

    def wait(self) -> None:
        """Until what was saved is on the disk; only then older checkpoints go."""
        if self._pending is None:
            return
        step, score, response = self._pending
        try:
            response.result()
        except Exception as error:  # Orbax and the file systems below it raise whatever they like
            self._pending = None
            raise OSError(
                f"{self._path(step)}: the checkpoint could not be written ({_first_line(error)}); "
                "earlier ones are as they were: look for room on the disk, and resume from the "
                "latest"
            ) from error
        self._pending = None
        self._scores[step] = score
        self._own.add(step)
        if jax.process_index() == 0:
            _sync(self._path(step))
        self._drop(self._superfluous())

    def close(self) -> None:
        self.wait()

    def steps(self) -> list[int]:
        self.wait()
        return sorted(self._scores)

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step of the lowest score, the first of equal ones; None if none has a score."""
        self.wait()
        ranked = self._ranked()
        return ranked[0] if ranked else None

    def is_among_best(self, score: float) -> bool:
        """Whether a checkpoint of this score would stay for it."""
        held = [*self._scores.values(), None if self._pending is None else self._pending[1]]
        better = sum(1 for other in held if other is not None and other <= score)
        return math.isfinite(score) and better < self.keep_best

    def meta(self, step: int) -> dict[str, Any]:
        """What was given to `save` of this step."""
        self.wait()
        return self._recorded(step)["meta"]

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a step, as `abstract` describes it: a pytree of ShapeDtypeStructs.

        Each has the sharding that its array shall have, whatever mesh the checkpoint was written
        from. Shapes, dtypes and names have to be the checkpoint's, and are never converted.
        """
        self.wait()
        path = self._path(step)
        record = self._recorded(step)
        there = {name: (dtype, tuple(shape)) for name, (dtype, shape) in record["shapes"].items()}
        if (difference := leaves.difference(there, leaves.shapes(abstract))) is not None:
            raise ValueError(
                f"{path}: {difference}; this run's model, optimizer or dtypes differ from the "
                "checkpoint's: use those that it was written with, or start anew in another folder"
            )
        try:
            state = ocp.load(str(path), abstract)
        except Exception as error:  # as above: a damaged file raises a bare Exception, and others
            raise ValueError(
                f"{path}: the checkpoint is damaged ({_first_line(error)}): restore another step"
            ) from error
        # Orbax and the store below it notice a file that is cut off, but not a bit that flips.
        for name, found in leaves.checksums(state).items():
            if found != record["checksums"][name]:
                raise ValueError(
                    f"{path}: the checkpoint is damaged ({name} is not what was saved, by its "
                    "checksum): restore another step"
                )
        self._own.add(step)
        return state

    def drop_after(self, step: int) -> None:
        """Delete the checkpoints of later steps, which a run that goes on from here replaces."""
        self._drop([later for later in self.steps() if later > step])

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _recorded(self, step: int) -> dict[str, Any]:
        path = self._path(step)
        if not path.exists():
            steps = ", ".join(map(str, self.steps())) or "none"
            raise ValueError(f"{path}: there is no such checkpoint; the folder's steps: {steps}")
        return _record(path)

    def _check_step(self, step: int) -> None:
        if step < 0:
            raise ValueError(f"a checkpoint's step must be at least 0, got {step}")
        latest = max(self._scores, default=None)
        if latest is not None and step <= latest:
            raise ValueError(
                f"{self.folder}: holds step {latest}, so step {step} of this run would be mixed "
                "with another's: resume from the latest, start in another folder, or drop what is "
                "later (drop_after)"
            )

    def _ranked(self) -> list[int]:
        scored = [(score, step) for step, score in self._scores.items() if score is not None]
        return [step for _, step in sorted(scored)]

    def _superfluous(self) -> list[int]:
        newest = sorted(self._scores)[-self.keep_last :]
        kept = {*newest, *self._ranked()[: self.keep_best]}
        return [step for step in self._scores if step not in kept]

    def _drop(self, steps: list[int]) -> None:
        for step in steps:
            del self._scores[step]
            self._own.discard(step)
            if jax.process_index() == 0:
                # Out of sight first: a folder that is half deleted is no checkpoint.
                hidden = self.folder / f".{step}.deleted"
                if self._path(step).exists():
                    self._path(step).rename(hidden)
                    shutil.rmtree(hidden)


def _is_worth_hearing(record: logging.LogRecord) -> bool:
    """On absl's logger, Orbax tells of each of its steps at INFO, and each of its threads prints
    the error that `wait` raises."""
    if "orbax" not in record.pathname:
        return True
    return record.levelno >= logging.WARNING and record.exc_info is None


def _agreed(value: Any) -> Any:
    """The first process's value, for all of them; JSON."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    mine = text if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(mine))))


def _scan(folder: Path) -> list[tuple[int, float | None]]:
    """(step, score) of every complete checkpoint."""
    found = []
    for path in folder.glob("*"):
        if re.fullmatch(r"0|[1-9]\d*", path.name):
            try:
                found.append((int(path.name), _record(path)["score"]))
            except ValueError as error:
                logger.warning("passed over: %s", error)
    return sorted(found)


def _record(path: Path) -> dict[str, Any]:
    """What `save` wrote beside the arrays; ValueError where that is not there."""
    try:
        record = json.loads((path / RECORD).read_bytes())["custom_metadata"]
        if record["format"] == FORMAT:
            return record
        reason = f"its format is {record['format']!r}, not {FORMAT!r}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{RECORD}: {type(error).__name__} {error}"
    raise ValueError(
        f"{path}: is no checkpoint of star_jax, or is damaged ({reason}): restore another step, "
        "or move it away"
    )


def _sweep(folder: Path) -> None:
    for path in folder.glob("*"):
        if LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path)


def _set_aside(path: Path) -> None:
    """What bears the name of a step and is no checkpoint is kept, under another name."""
    if not path.exists():
        return
    number = 1
    while (other := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(other)
    logger.warning("%s: was there and is no checkpoint; it is now %s", path, other.name)


def _sync(folder: Path) -> None:
    """Everything in a folder, and its name, onto the disk."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:400]}" if lines else type(error).__name__
