"""A run's checkpoint → a model folder in Hugging Face format.

export(run_folder, out, which)    which: "last", "best" or a step
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import yaml

from star_jax import models
from star_jax.models import hf
from star_jax.train import config as configs
from star_jax.train import flags, folder, setup, state
from star_jax.train.checkpoint import Checkpoints


def export(run: str | Path, out: str | Path, which: str = "last", **options: Any) -> Path:
    """Adapters are merged. `options` are `models.save`'s; the tokenizer's files come along."""
    run = Path(run)
    config = read(run)
    student = setup.Student(
        config=config, mesh=models.make_mesh(), model=hf.read_config(Path(config.model))
    )
    with Checkpoints(run / folder.CHECKPOINTS) as checkpoints:
        step = _step(checkpoints, run, which)
        # The rate is not part of a state, so any will do for its shape.
        abstract = state.abstract(setup.trained(student), state.adamw(lambda _: 0.0))
        params = checkpoints.restore(step, abstract).params
    with jax.set_mesh(student.mesh):
        merged = setup.whole(student, params)
    options.setdefault("dtype", setup.stored_dtype(config.model))
    return models.save(out, student.model, merged, like=config.model, **options)


def read(run: Path) -> configs.Training:
    """The configuration that a run began with."""
    described, path = run / folder.RUN, run / folder.CONFIG
    if not described.is_file() or not path.is_file():
        raise ValueError(
            f"{run}: is no run (it lacks {described.name}): give a run's output folder"
        )
    loop = json.loads(described.read_text(encoding="utf-8"))["loop"]
    kind = configs.Ckd if loop == "ckd" else configs.Sft
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return flags.decode(kind, raw, f"{path}: ")


def _step(checkpoints: Checkpoints, run: Path, which: str) -> int:
    there = checkpoints.steps()
    if not there:
        raise ValueError(f"{run}: has no checkpoint yet: let it run until one is saved")
    match which:
        case "last":
            return there[-1]
        case "best":
            if (best := checkpoints.best()) is None:
                raise ValueError(
                    f"{run}: no checkpoint has an evaluation: give --step last or one of "
                    f"{', '.join(map(str, there))}"
                )
            return best
    if which.isdigit() and int(which) in there:
        return int(which)
    raise ValueError(
        f"{run}: has no checkpoint {which}: give last, best or one of {', '.join(map(str, there))}"
    )
