"""Every knob of a run, in frozen dataclasses: YAML file = flags = these fields.

    load(Ckd, ["--config", "run.yaml", "--optimizer.learning_rate", "1e-5"]) → Ckd(...)

A flag goes over the file, the file over the default. A key that is not known, a value of another
kind and a missing one are refused in one sentence with its place.
"""

from __future__ import annotations

from star_jax.train.config.distilling import Ckd, Objective, Preset, Teacher
from star_jax.train.config.others import (
    CacheOf,
    Dpo,
    Keep,
    Measure,
    Preference,
    Sampling,
    Teach,
    TeachData,
)
from star_jax.train.config.policies import Beside, Filter, Policy, PolicyPreset, Reward, Rl, Rollout
from star_jax.train.config.shared import (
    Adapters,
    Batch,
    Checkpoint,
    Compute,
    Data,
    Distributed,
    Dtype,
    Evaluation,
    Log,
    Mesh,
    Optimizer,
    Schedule,
    Sft,
    Training,
)

__all__ = [
    "Adapters",
    "Batch",
    "Beside",
    "CacheOf",
    "Checkpoint",
    "Ckd",
    "Compute",
    "Data",
    "Distributed",
    "Dpo",
    "Dtype",
    "Evaluation",
    "Filter",
    "Keep",
    "Log",
    "Measure",
    "Mesh",
    "Objective",
    "Optimizer",
    "Policy",
    "PolicyPreset",
    "Preference",
    "Preset",
    "Reward",
    "Rl",
    "Rollout",
    "Sampling",
    "Schedule",
    "Sft",
    "Teach",
    "TeachData",
    "Teacher",
    "Training",
]
