"""A run's folder: what it was asked for, and whether the same is asked for now.

OUTPUT/config.yaml      the configuration, resolved; --config takes it
OUTPUT/run.json         which loop, over which rows
OUTPUT/metrics.jsonl    and pace.jsonl, tensorboard/: see log
OUTPUT/checkpoints/N    see checkpoint
OUTPUT/model            the trained model in Hugging Face format, when the run has ended
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import yaml

from star_jax.train import flags, processes
from star_jax.train.config import Distributed, Training
from star_jax.train.setup import Learner
from star_jax.version import __version__

CONFIG, RUN, CHECKPOINTS, MODEL = "config.yaml", "run.json", "checkpoints", "model"

# What may be another when a run goes on: it changes where and how, not what is computed (but for
# rounding, where rows are split otherwise). Rows are known by their content, not by their path.
FREE = (
    "output",
    "data.train",
    "data.eval",
    "data.allow",
    "batch.rows_per_device",
    "compute.mesh",
    "compute.remat",
    "compute.attention",
    "compute.chunk",
    "compute.cpu_devices",
    "compute.peak_flops",
    "compute.debug_nans",
    "checkpoint",
    "evaluation",
    "log",
    "distributed",
    "teacher.mesh",
    "rollout.slots",
    "rollout.most_batches",
    "rollout.gap_limit",
    "rollout.stalled",
    "rollout.parts",
    "rollout.allow_collapse",
)


_BEGUN = (CONFIG, f"{CONFIG}.part", f"{RUN}.part")


def claim(run: Learner, loop: str) -> None:
    """Make the folder, or find the same run in it; ValueError for anything else."""
    problem = None
    if jax.process_index() == 0:
        try:
            problem = _made(run, loop)
        except OSError as error:
            problem = f"output: {error}"
    processes.agree(problem)
    if not (run.output / RUN).is_file():
        problem = (
            f"output: {run.output} is not there, though process 0 has just made it: give a folder "
            "that all processes share"
        )
    processes.agree(problem)


def _made(run: Learner, loop: str) -> str | None:
    problem = _problem(run, loop)
    if problem is None and not (run.output / RUN).is_file():
        run.output.mkdir(parents=True, exist_ok=True)
        _write(run.output / CONFIG, config_text(run.config, loop))
        _write(run.output / RUN, json.dumps(_identity(run, loop), indent=2) + "\n")
    return problem


def is_done(run: Learner) -> bool:
    """Whether its last checkpoint and its model are there: each has its name when it is whole."""
    has_last = run.last_step is None or (run.output / CHECKPOINTS / str(run.last_step)).is_dir()
    return has_last and (run.output / MODEL).is_dir()


def _identity(run: Learner, loop: str) -> dict[str, Any]:
    return {
        "loop": loop,
        **run.hashes,
        "tokenizer_hash": run.tokenizer.hash,
        "star_jax": __version__,
    }


def _problem(run: Learner, loop: str) -> str | None:
    output = run.output
    if not output.exists():
        return None
    if not output.is_dir():
        return f"output: {output} is a file: choose a folder"
    # A process that was killed as it made the folder may have left the first of its two files.
    others = [path for path in output.iterdir() if path.name.lstrip(".") not in _BEGUN]
    if not (output / RUN).is_file() and not others:
        return None
    if not (output / RUN).is_file():
        return f"output: {output} holds other things than a run: choose another folder"
    held = json.loads((output / RUN).read_text(encoding="utf-8"))
    asked = _identity(run, loop)
    if held["loop"] != loop:
        return f"output: {output} holds a run of {held['loop']}: choose another folder for {loop}"
    names = {"train_hash": "data.train", "eval_hash": "data.eval", "tokenizer_hash": "model"}
    for key, name in names.items():
        if held[key] != asked[key]:
            what = "other rows" if key != "tokenizer_hash" else "another tokenizer"
            return (
                f"{name}: the run in {output} began with {what}: restore them, or choose another "
                "output"
            )
    return _other_value(run)


def _other_value(run: Learner) -> str | None:
    path = run.output / CONFIG
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    held = flags.values(flags.decode(type(run.config), raw, f"{path}: "))
    for name, value in flags.values(run.config).items():
        is_free = any(name == free or name.startswith(f"{free}.") for free in FREE)
        if not is_free and held[name] != value:
            return (
                f"{name}: is {value}, the run in {run.output} began with {held[name]}: give that, "
                "or choose another output"
            )
    return None


def config_text(config: Training, loop: str) -> str:
    """What `--config` takes."""
    # Where the processes met is of this start alone: the next one would look for them there.
    config = dataclasses.replace(config, distributed=Distributed())
    return f"# python -m star_jax.train {loop} --config THIS_FILE\n{flags.to_yaml(config)}"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
