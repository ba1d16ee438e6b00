"""The stages of a curriculum: what kinds there are, what each reads, and how one is run.

configured(stage, settings) → its dataclass      open_stage(…) → what is checked before compute
run(stage, config, told)    → None where it is done, else the signal that it was stopped by
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from star_jax import world
from star_jax.train import config as configs
from star_jax.train import flags, presets
from star_jax.world import files as world_files

log = logging.getLogger(__name__)

Kind = Literal["world", "teacher", "sft", "ckd", "rl", "dpo", "evaluate", "export"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class Files:
    """Rows of the embedded world, written for the stages after it."""

    output: str  # folder for the files
    rows: int = 600  # of train.jsonl
    held: int = 160  # of each file that is measured on
    sets: tuple[str, ...] = ("seen", "unseen_tools")  # splits that are measured on
    seed: int = 0
    start: int = 0  # the first row of train


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A model under its final name."""

    model: str  # folder of the model
    output: str  # where it goes


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    run: Kind
    preset: str | None = None
    ready: bool = False  # of evaluate: say whether RL can work from here
    settings: Mapping[str, Any] = field(default_factory=dict)


def kind_of(run: str) -> Any:
    """The dataclass that a stage's settings are of."""
    return {
        "world": Files,
        "teacher": configs.Teach,
        "sft": configs.Sft,
        "ckd": configs.Ckd,
        "rl": configs.Rl,
        "dpo": configs.Dpo,
        "evaluate": configs.Measure,
        "export": Copy,
    }[run]


def configured(stage: Stage, settings: Mapping[str, Any], source: str) -> Any:
    """The stage's dataclass; ValueError names the stage and the key."""
    under = presets.of(stage.run, stage.preset) if stage.preset is not None else {}
    raw = flags.overlaid(under, settings)
    return flags.nested(kind_of(stage.run), raw, f"{source}: stage {stage.name}: ")


Told = Callable[[], int | None]  # the signal that came, if one did


def run(stage: Stage, config: Any, told: Told) -> int | None:
    """Everything of a stage that is not there yet; → the signal that it was stopped by."""
    match stage.run:
        case "world":
            return _write(config)
        case "export":
            return _copy(config)
        case "teacher":
            from star_jax.train import teacher

            made = teacher.run(teacher.open(config), should_stop=lambda: told() is not None)
            if made is not None:
                for line in made.lines():
                    log.info("%s", line)
            return told() if made is None else None
        case "evaluate":
            return _measure(stage, config, told)
        case "rl":
            from star_jax.train import rl

            return rl.go_on(rl.begin(rl.open(config)))
        case _:
            from star_jax.train import fit

            return fit.go_on(fit.begin(task(stage.run, config)))


def task(loop: str, config: Any, *, load: bool = True) -> Any:
    """A loop over rows that are known from the start."""
    from star_jax.train import ckd, dpo, sft

    match loop:
        case "sft":
            return sft.task(config)
        case "ckd":
            return ckd.task(config, load=load)
        case _:
            return dpo.task(config, load=load)


def _measure(stage: Stage, config: configs.Measure, told: Told) -> int | None:
    from star_jax.train import measure

    try:
        found = measure.run(measure.open(config), should_stop=lambda: told() is not None)
    except measure.Stopped:
        return told()
    for name, numbers in found["sets"].items():
        marks = numbers["marks"]
        log.info(
            "%s, %s: where a call is due %.0f%% exact, calls in %.0f%%; words: reward %.2f",
            stage.name,
            name,
            100 * marks.get("call_exact", float("nan")),
            100 * marks.get("call_call_share", float("nan")),
            marks.get("words_reward", float("nan")),
        )
    if stage.ready:
        is_ready, said = measure.readiness(next(iter(found["sets"].values())))
        log.log(logging.INFO if is_ready else logging.WARNING, "%s", said)
    return None


def _write(config: Files) -> None:
    out = Path(config.output)
    out.mkdir(parents=True, exist_ok=True)
    rows = world.rows("train", config.seed, config.rows, start=config.start)
    world_files.write(out / "train.jsonl", rows, overwrite=True)
    for split in config.sets:
        # What is measured on does not change with the seed: runs are compared on the same rows.
        rows = world.rows(split, 0, config.held)
        world_files.write(out / f"{split}.jsonl", rows, overwrite=True)


def _copy(config: Copy) -> None:
    out = Path(config.output)
    part = out.with_name(f".{out.name}.part")
    if part.exists():
        shutil.rmtree(part)
    shutil.copytree(config.model, part)
    if out.exists():
        shutil.rmtree(out)
    part.replace(out)
