"""A run of RL that is killed wherever it is, and told to stop, ends as if nothing had been."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import bandit, world

RUN: dict[str, Any] = {
    "data__max_tokens": 64,
    "data__eval": None,
    "rollout__max_new_tokens": 3,
    "rollout__prompts": 6,
    "rollout__samples": 4,
    "rollout__slots": 24,
    "batch__examples": 8,
    "optimizer__learning_rate": 3e-3,
    "schedule__epochs": 6,
    "checkpoint__every_steps": 4,
    "reward__function": "tests.bandit.letters",
    "filter__rule": "spread",
}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return world.environment(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Path:
    made = tmp_path_factory.mktemp("rl")
    world.student(made / "student")
    bandit.write(made / "train.jsonl", 16)
    (done,) = world.run_all(made, env, (world.TRAIN, command("whole")))
    assert done.status == 0, done
    return made


def command(output: str, **changes: Any) -> list[str]:
    return world.words("rl", output, **{**RUN, **changes})


@pytest.mark.slow
def test_killed_anywhere_and_told_to_stop(folder: Path, env: dict[str, str]) -> None:
    """While it samples, updates and saves; in the end every completion and number is the same."""
    rng, run, whole = random.Random(0), folder / "killed", folder / "whole"
    steps = world.count_lines(whole)

    def begin() -> world.Started:
        return world.start(folder, command("killed"), env)

    def rollouts() -> int:
        return len(list((run / "rollouts").glob("*.parquet")))

    def is_saving() -> bool:
        return bool(list((run / "checkpoints").glob("*.orbax-checkpoint-tmp*")))

    def lines(least: int) -> Callable[[], bool]:
        return lambda: world.count_lines(run) >= least

    def is_sampling() -> bool:
        """All updates of a rollout have landed, and the next one has no file."""
        return lines(at)() and world.count_lines(run) == 3 * rollouts() - 1

    at = steps // 2
    for reached in (
        lambda: rollouts() > 0,
        lines(rng.randint(steps // 4, at)),
        is_saving,
        is_sampling,
        lines(rng.randint(at, 3 * steps // 4)),
    ):
        going = begin()
        going.until(reached)
        assert going.stop(signal.SIGKILL) == -signal.SIGKILL
    told = begin()
    told.until(lines(3 * steps // 4))
    assert told.stop(signal.SIGTERM) == 75
    assert begin().wait() == 0

    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    names = sorted(path.name for path in (whole / "rollouts").iterdir())
    assert names == sorted(path.name for path in (run / "rollouts").iterdir())
    assert len(names) > 8
    for name in names:
        mine, theirs = (one / "rollouts" / name for one in (run, whole))
        assert mine.read_bytes() == theirs.read_bytes()
