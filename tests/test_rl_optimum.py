"""A policy from a random start finds the answer that is known to be best."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import bandit, world

SEEDS, STEPS = 3, 30


@pytest.mark.slow
def test_a_random_policy_reaches_the_optimum(tmp_path: Path) -> None:
    """Small letters alone are worth 1, and a random model says a sixth of that at first."""
    world.student(tmp_path / "student")
    bandit.write(tmp_path / "train.jsonl", 16)
    settings = {
        "data__max_tokens": 64,
        "data__eval": None,
        "rollout__max_new_tokens": 2,
        "rollout__prompts": 16,
        "rollout__slots": 128,
        "batch__examples": 128,
        "batch__rows_per_device": 8,
        "optimizer__learning_rate": "1e-2",
        "schedule__epochs": 60,
        "schedule__max_steps": STEPS,
        "schedule__curve": "constant",
        "schedule__warmup_share": 0,
        "checkpoint__every_steps": 1000,
        "evaluation__every_steps": None,
        "reward__function": "tests.bandit.letters",
        "filter__rule": "all",  # near the optimum few groups differ, and the run would end
    }
    commands = [
        (world.TRAIN, world.words("rl", f"run{seed}", seed=seed, **settings))
        for seed in range(SEEDS)
    ]
    env = world.environment(tmp_path / "compiled")
    assert all(done.status == 0 for done in world.run_all(tmp_path, env, *commands))
    for seed in range(SEEDS):
        lines = world.metrics(tmp_path / f"run{seed}")
        rewards = [line["rollout/reward"] for line in lines if "rollout/reward" in line]
        assert rewards[0] < 0.25
        assert max(rewards) >= 0.95
