"""Where a run's numbers go: files, TensorBoard, wandb, and a person's terminal.

    push(step, metrics on devices)  →  metrics.jsonl      pace(step, clocks)  →  pace.jsonl

What is pushed is fetched when the next step is pushed, so that the device never waits for the host.
metrics.jsonl holds nothing that depends on when or where a run ran: one that was killed and resumed
has the same bytes as one that was not. Clocks are in pace.jsonl. A line is in the file when it is
written; TensorBoard lags by up to two minutes and is the copy, not the record.

Every process of a run pushes; the first one writes.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from star_jax.train import boards, units

METRICS = "metrics.jsonl"
PACE = "pace.jsonl"

Number = jax.Array | np.ndarray | float | int


class Row(NamedTuple):
    """A step's metrics, on the host."""

    step: int
    metrics: dict[str, float]


class Log:
    """The record of one run in `folder`, going on after `start_step`.

    Lines of later steps, which a killed run left, are cut off; where start_step is 0, all lines.
    Metrics are fetched and written at multiples of `every`, at the last step, and where a step has
    an evaluation. `wandb` holds the arguments of wandb.init. By default a bar is drawn where stderr
    is a terminal; without a bar, a line is logged now and then.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        total_steps: int,
        start_step: int = 0,
        tensorboard: bool = True,
        wandb: dict[str, Any] | None = None,
        bar: bool | None = None,
        every: int = 1,
    ) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.folder = Path(folder)
        self.total_steps = total_steps
        self.every = every
        self._last = start_step if start_step > 0 else -1  # the last step that has its line
        self._pending: tuple[int, dict[str, Number]] | None = None
        self._speed: dict[str, float] = {}
        self._files: dict[str, IO[str]] = {}
        self._boards: list[boards.Board] = []
        self._display: boards.Bar | boards.Lines | None = None
        if jax.process_index() == 0:
            self._open(start_step, tensorboard, wandb, bar)

    def _open(
        self, start_step: int, tensorboard: bool, wandb: dict[str, Any] | None, bar: bool | None
    ) -> None:
        if wandb is not None:
            self._boards.append(boards.Wandb(self.folder, wandb))
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (METRICS, PACE):
            cut(self.folder / name, start_step)
        for name in (METRICS, PACE):
            self._files[name] = (self.folder / name).open("a", buffering=1, encoding="utf-8")
        if tensorboard:
            self._boards.append(boards.TensorBoard(self.folder / "tensorboard", self._last + 1))
        drawn = sys.stderr.isatty() if bar is None else bar
        self._display = (boards.Bar if drawn else boards.Lines)(self.total_steps, start_step)

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def push(self, step: int, metrics: Mapping[str, Number]) -> Row | None:
        """Take a step's metrics, scalars on devices; → the previous step's, on the host.

        A step may be pushed in several parts, one after the other: they become one line.
        """
        for name, value in metrics.items():
            if not units.is_metric(name):
                raise ValueError(f"metric {name!r} is not in star_jax.train.units.METRICS: add it")
            if (shape := getattr(value, "shape", ())) != ():
                raise ValueError(f"metric {name!r} must be one number, its shape is {shape}")
        if self._pending is not None and self._pending[0] == step:
            held = self._pending[1]
            if twice := sorted(held.keys() & metrics.keys()):
                raise ValueError(f"metric {twice[0]!r} of step {step} is pushed twice")
            held.update(metrics)
            return None
        row = self.flush()
        if step <= self._last:
            raise ValueError(
                f"step {step} is pushed after step {self._last} was written: push all of a step "
                "before flush or sync, and steps in their order"
            )
        if self._is_due(step) or any(name.startswith("eval/") for name in metrics):
            self._pending = (step, dict(metrics))
        return row

    def flush(self) -> Row | None:
        """Fetch what is pending, waiting for its step to end, and write it."""
        if self._pending is None:
            return None
        (step, metrics), self._pending = self._pending, None
        row = Row(step, {name: _number(x) for name, x in jax.device_get(metrics).items()})
        self._last = step
        self._write(METRICS, step, row.metrics)
        if self._display is not None:
            self._display.show(step, row.metrics.get("loss/total_nats"), self._speed)
        return row

    def discard(self) -> None:
        """Forget what is pending."""
        self._pending = None

    def pace(self, step: int, metrics: Mapping[str, float]) -> None:
        """What the clocks say of a step."""
        for name in metrics:
            if not units.is_pace(name):
                raise ValueError(f"clock {name!r} is not in star_jax.train.units.PACE: add it")
        self._speed = {name: float(value) for name, value in metrics.items()}
        self._write(PACE, step, self._speed)

    def sync(self) -> Row | None:
        """Flush, and see every line onto the disk: to be called before a checkpoint is saved.

        A run resumed from that checkpoint then finds the lines of all steps before it.
        """
        row = self.flush()
        for file in self._files.values():
            os.fsync(file.fileno())
        for board in self._boards:
            board.flush()
        return row

    def close(self) -> None:
        try:
            self.sync()
        finally:
            for file in self._files.values():
                file.close()
            self._files = {}
            for board in self._boards:
                board.close()
            self._boards = []
            if self._display is not None:
                self._display.close()
                self._display = None

    def _is_due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.total_steps

    def _write(self, name: str, step: int, metrics: Mapping[str, float]) -> None:
        if (file := self._files.get(name)) is not None:
            file.write(line(step, metrics))
        for board in self._boards:
            board.add(step, metrics)


def line(step: int, metrics: Mapping[str, float]) -> str:
    """One line of JSON. NaN and infinities, which JSON lacks, are texts: "nan", "inf", "-inf".

    A float is written with as many digits as read back as the same float.
    """
    shown = {
        name: value if math.isfinite(value) else str(value)
        for name, value in sorted(metrics.items())
    }
    return json.dumps({"step": step, **shown}, allow_nan=False) + "\n"


def read(path: str | Path) -> Iterator[Row]:
    """The rows of a file of lines; half a last line is none."""
    with Path(path).open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.endswith(b"\n"):
                yield _parse(path, number, raw)


def cut(path: Path, step: int) -> None:
    """Keep the lines of steps up to `step`; none if it is 0. Half a last line goes."""
    if not path.exists():
        return
    part = path.with_name(f".{path.name}.part")
    with path.open("rb") as old, part.open("wb") as new:
        for number, raw in enumerate(old if step > 0 else (), start=1):
            if raw.endswith(b"\n") and _parse(path, number, raw).step <= step:
                new.write(raw)
        new.flush()
        os.fsync(new.fileno())
    part.replace(path)


def _parse(path: str | Path, number: int, raw: bytes) -> Row:
    try:
        row = json.loads(raw)
        step = int(row.pop("step"))
        return Row(step, {name: x if type(x) is int else float(x) for name, x in row.items()})
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}:{number}: is no line of a run's numbers ({type(error).__name__}: {error}): "
            "move the file away, or start in another folder"
        ) from error


def _number(value: Any) -> float:
    """A Python number that equals it exactly."""
    array = np.asarray(value)
    return int(array) if array.dtype.kind in "biu" else float(array)
