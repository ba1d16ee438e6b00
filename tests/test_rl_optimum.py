"""A policy from a random start finds the answer that is known to be best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import bandit, world

SEEDS, STEPS = 3, 30
SETTINGS: dict[str, Any] = {
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
    "filter__rule": "all",  # near the optimum few groups differ, and the run would end
}


def command(name: str, preset: str, seed: int, **changes: Any) -> tuple[str, list[str]]:
    words = world.words("rl", f"{name}-{seed}", seed=seed, **{**SETTINGS, **changes})
    return world.TRAIN, [*words, "--preset", preset]


def rewards(run: Path) -> list[float]:
    return [line["rollout/reward"] for line in world.metrics(run) if "rollout/reward" in line]


@pytest.mark.slow
def test_a_random_policy_reaches_the_optimum(tmp_path: Path) -> None:
    """Small letters alone are worth 1, and a random model says a sixth of that at first."""
    world.student(tmp_path / "student")
    bandit.write(tmp_path / "train.jsonl", 16)
    commands = [
        command("letters", "sim-rl", seed, reward__function="tests.bandit.letters")
        for seed in range(SEEDS)
    ]
    env = world.environment(tmp_path / "compiled")
    assert all(done.status == 0 for done in world.run_all(tmp_path, env, *commands))
    for seed in range(SEEDS):
        found = rewards(tmp_path / f"letters-{seed}")
        assert found[0] < 0.25
        assert max(found) >= 0.95


# The rows of the paper's tables, on two calls of which either may be right alone.
ROWS = {"graded": "sim-rl", "binary": "binary-rl", "toolrl": "toolrl", "luffy": "luffy"}
LIMIT = 60  # steps in which every row has to be there


@pytest.mark.slow
def test_every_row_reaches_the_optimum_and_a_graded_reward_is_there_first(tmp_path: Path) -> None:
    world.student(tmp_path / "student")
    bandit.write(tmp_path / "train.jsonl", 16, "az<|im_end|>")
    commands = []
    for name, preset in ROWS.items():
        function = "both" if name == "binary" else "two"
        changes: dict[str, Any] = {
            "reward__function": f"tests.bandit.{function}",
            "schedule__max_steps": LIMIT,
            "rollout__samples": 8,
            "policy__entropy_weight": 0,
        }
        if name == "luffy":
            changes["rollout__max_new_tokens"] = 3  # the target ends its turn
        commands += [command(name, preset, seed, **changes) for seed in range(SEEDS)]
    env = world.environment(tmp_path / "compiled")
    assert all(done.status == 0 for done in world.run_all(tmp_path, env, *commands))
    needed: dict[str, list[int]] = {}
    for name in ROWS:
        for seed in range(SEEDS):
            found = rewards(tmp_path / f"{name}-{seed}")
            there = [step for step, value in enumerate(found, 1) if value >= 0.95]
            assert there, (name, seed, max(found))
            needed.setdefault(name, []).append(there[0])
    assert sum(needed["graded"]) < sum(needed["binary"]), needed
