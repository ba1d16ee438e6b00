"""The loss and its metrics over a whole file, in the file's order."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from star_jax.train import step
from star_jax.train.feeding import Feeder
from star_jax.train.step import Programs

LOSS = "eval/loss/total_nats"  # by which the best checkpoint is chosen


def evaluate(programs: Programs, feeder: Feeder, params: Any, fixed: Any) -> dict[str, float]:
    """Means over all target positions, as eval/NAME; sums are float64 on the host."""
    sums: step.Total | None = None
    for number in range(feeder.steps):
        plan, batch, _ = feeder.take(number)
        found = jax.device_get(programs(params, batch, fixed, plan.shape.targets))
        found = jax.tree.map(np.float64, found)
        sums = found if sums is None else jax.tree.map(np.add, sums, found)
    assert sums is not None  # a file has at least one example
    weight = max(sums.weight, 1.0)
    means = {"loss/total_nats": sums.loss, **sums.metrics}
    return {f"eval/{name}": float(value / weight) for name, value in means.items()}
