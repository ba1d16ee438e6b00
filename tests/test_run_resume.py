"""A run that is killed, told to stop, or moved to other devices ends as if nothing had been."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import world

EPOCHS = {"schedule__epochs": 8, "checkpoint__every_steps": 3}
STEPS = 60
LOOPS: dict[str, dict[str, Any]] = {
    "sft": {"data__eval": "eval.jsonl", "evaluation__every_steps": 7},
    "ckd": {"teacher__cache": "cache"},
}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return world.environment(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> Path:
    """The world, a cache of its teacher, and a run of each loop that nothing interrupts."""
    made = world.make(tmp_path_factory.mktemp("world"))
    cache = ["cache", "build", "cache", "--teacher", "teacher", "--rows", "train.jsonl"]
    cache += ["--compute", "float32", "--dtype", "float32", "--top-k", "100"]
    done = world.run_all(
        made,
        env,
        (world.DATA, cache),
        *((world.TRAIN, command(loop, f"{loop}-whole")) for loop in LOOPS),
    )
    assert [one.status for one in done] == [0, 0, 0], done
    return made


def command(loop: str, output: str, **changes: Any) -> list[str]:
    return world.words(loop, output, **{**EPOCHS, **LOOPS[loop], **changes})


def state(run: Path) -> dict[str, Any]:
    """Checksums of everything in the last checkpoint: moments too, which no model shows."""
    record = run / "checkpoints" / str(world.steps(run)[-1]) / "_CHECKPOINT_METADATA"
    return json.loads(record.read_bytes())["custom_metadata"]["checksums"]


def is_same(run: Path, whole: Path) -> None:
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    assert state(run) == state(whole)
    assert world.steps(run)[-1] == STEPS
    assert not [path for path in (run / "checkpoints").iterdir() if not path.name.isdigit()]


@pytest.mark.slow
def test_killed_and_told_to_stop_sft(folder: Path, env: dict[str, str]) -> None:
    rng, run = random.Random(0), folder / "sft-killed"

    def begin(**changes: Any) -> world.Started:
        return world.start(folder, command("sft", run.name, **changes), env)

    at = rng.randint(1, 3)
    early = begin(checkpoint__every_steps=100, evaluation__every_steps=100)
    early.until(lambda: world.count_lines(run) >= at)
    assert early.stop(signal.SIGKILL) == -signal.SIGKILL
    assert world.steps(run) == []

    for first, last in ((5, 12), (18, 25)):
        at = rng.randint(first, last)
        going = begin()
        going.until(lambda at=at: world.count_lines(run) >= at)
        assert going.stop(signal.SIGKILL) == -signal.SIGKILL
        assert world.steps(run)[-1] >= at - 3 - 2  # a save each third, one may be under way

    before = world.steps(run)[-1]
    told = begin()
    told.until(lambda: world.count_lines(run) >= 32)
    assert told.stop(signal.SIGTERM) == 75
    assert f"going on from step {before} of" in told.said()
    assert "stopped and saved in sft-killed: the same command goes on" in told.said()
    assert world.steps(run)[-1] == world.count_lines(run) >= 32

    assert begin().wait() == 0
    is_same(run, folder / "sft-whole")


@pytest.mark.slow
def test_killed_and_interrupted_ckd_from_a_cache(folder: Path, env: dict[str, str]) -> None:
    rng, run = random.Random(1), folder / "ckd-killed"

    def begin(**changes: Any) -> world.Started:
        return world.start(folder, command("ckd", run.name, **changes), env)

    def is_writing() -> bool:
        names = [path.name for path in (run / "checkpoints").glob("*.orbax-checkpoint-tmp*")]
        return any(int(name.partition(".")[0]) >= 4 for name in names)

    begin(checkpoint__every_steps=1).kill_while(is_writing)
    assert is_writing(), "it was killed, and what it wrote is there"
    left = world.steps(run)[-1]

    at = rng.randint(left + 3, left + 15)
    going = begin()
    going.until(lambda: world.count_lines(run) >= at)
    assert going.stop(signal.SIGKILL) == -signal.SIGKILL
    assert f"going on from step {left} of" in going.said()

    at = world.count_lines(run) + 4
    told = begin()
    told.until(lambda: world.count_lines(run) >= at)
    assert told.stop(signal.SIGINT) == 130
    assert "the same command goes on" in told.said()
    assert "Traceback" not in told.said()

    assert begin().wait() == 0
    is_same(run, folder / "ckd-whole")


EARLY: dict[str, tuple[int, Callable[[str], bool], int]] = {
    "SIGTERM as it compiles": (signal.SIGTERM, lambda said: "compiling" in said, 75),
    "Ctrl-C as it compiles": (signal.SIGINT, lambda said: "compiling" in said, 130),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EARLY)
def test_told_to_stop_before_a_step(folder: Path, env: dict[str, str], name: str) -> None:
    number, is_time, status = EARLY[name]
    run = name.replace(" ", "-")
    going = world.start(folder, world.words("sft", run, seed=5), env)
    going.until(lambda: is_time(going.said()))
    assert going.stop(number) == status
    assert "the same command goes on" in going.said()
    assert "Traceback" not in going.said()
    assert not world.steps(folder / run)


MESHES: list[dict[str, Any]] = [
    {"compute__cpu_devices": 8, "compute__mesh__fsdp": 2, "compute__mesh__tensor": 2},
    {"compute__cpu_devices": 2, "compute__mesh__fsdp": 2},
    {},
]


# Small steps: at 1e-3 two runs on different meshes, neither of them moved, are 1e-5 apart after
# sixty steps: the penalty jumps where rounding decides which token is the student's hundredth.
GENTLE = {"batch__rows_per_device": 1, "optimizer__learning_rate": "1e-4"}


@pytest.mark.slow
def test_eight_devices_then_two_then_one(folder: Path, env: dict[str, str]) -> None:
    stays, run = folder / "stays", folder / "moves"
    done = world.run_all(folder, env, (world.TRAIN, command("ckd", stays.name, **GENTLE)))
    assert [one.status for one in done] == [0], done

    def begin(mesh: dict[str, Any]) -> world.Started:
        return world.start(folder, command("ckd", run.name, **GENTLE, **mesh), env)

    for mesh in MESHES[:2]:
        at = world.count_lines(run) + 10
        going = begin(mesh)
        going.until(lambda at=at: world.count_lines(run) >= at)
        assert going.stop(signal.SIGTERM) == 75, going.said()
    assert begin(MESHES[2]).wait() == 0
    moved, whole = world.metrics(run), world.metrics(stays)
    assert len(moved) == len(whole) == STEPS
    losses = ["loss/total_nats", "distill/divergence_nats", "distill/cross_entropy_nats"]
    for ours, theirs in zip(moved, whole, strict=True):
        assert ours.keys() == theirs.keys()
        for name in losses:
            assert ours[name] == pytest.approx(theirs[name], rel=0, abs=1e-5), (name, ours["step"])
