"""Supervised training: cross-entropy with the targets of the rows."""

from __future__ import annotations

import functools

from star_jax.train import loss, setup
from star_jax.train.config import Sft
from star_jax.train.fit import Task
from star_jax.train.teaching import Nobody


def task(config: Sft) -> Task:
    """ValueError where the configuration, the model or the rows will not do."""
    run = setup.open(config)
    objective = functools.partial(loss.sft, forward=run.forward)
    return Task(
        loop="sft",
        run=run,
        loss=objective,
        source=Nobody(),
        eval_loss=objective,
        eval_source=Nobody(),
    )
