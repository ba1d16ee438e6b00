"""Runs of two processes through tpu/local.sh, against runs of one; all of them real commands."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from star_jax.train import log
from tests import cached, tiny

ROOT = Path(__file__).parents[1]
EIGHT = ("-n", "1", "--devices", "8")
TWO = ("-n", "2", "--devices", "4")
STEPS = 21  # of 8 examples, three times through 56
WAIT_S = 400.0  # on a crowded machine XLA compiles for minutes

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Path:
    shape = {"vocab_size": 264, "head_dim": 8, "num_attention_heads": 4, "num_key_value_heads": 2}
    for name, width in (("student", 32), ("teacher", 48)):
        size = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 1}
        tiny.tokenizer(tiny.write(tmp_path / name, seed=width, **shape, **size))
    rows = random.Random(0)
    for name, count in (("train", 56), ("eval", 10)):
        lines = []
        for index in range(count):
            words = " ".join(rows.choice(["rain", "sun", "wind"]) for _ in range(4))
            said = [{"role": "user", "content": f"{name} {index} {words}"}]
            said.append({"role": "assistant", "content": words[::-1]})
            lines.append(json.dumps({"id": f"{name}{index}", "messages": said}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    settings = {
        "model": str(tmp_path / "student"),
        "data": {"train": "train.jsonl", "eval": "eval.jsonl", "max_tokens": 96},
        "batch": {"examples": 8, "rows_per_device": 1},
        "optimizer": {"learning_rate": 0.003},
        "schedule": {"epochs": 3},
        "compute": {"dtype": "float32", "remat": "none", "mesh": {"data": 4, "fsdp": 2}},
        "evaluation": {"every_steps": 5},
        "checkpoint": {"every_steps": 5},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    return tmp_path


class Started:
    """A command of tpu/local.sh that is under way."""

    def __init__(self, world: Path, args: tuple[str, ...], python: str) -> None:
        self.said = world / f"said-{len(list(world.glob('said-*')))}"
        environment = os.environ | {
            "PYTHON": python,
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(world / "compiled"),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # it compiles in half the time
        }
        with self.said.open("w") as file:
            self.process = subprocess.Popen(
                [str(ROOT / "tpu/local.sh"), *args],
                cwd=world,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.said.read_text()

    def pid(self, process: int) -> int:
        self.until(lambda: f"process {process}: pid " in self.text())
        return int(re.findall(rf"process {process}: pid (\d+)\n", self.text())[0])

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not is_so():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)

    def end(self) -> int:
        return self.process.wait(WAIT_S)


@pytest.fixture
def start(world: Path) -> Iterator[Callable[..., Started]]:
    begun: list[Started] = []

    def begin(*args: str, python: str = sys.executable) -> Started:
        begun.append(Started(world, args, python))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.terminate()
        one.process.terminate()
        one.process.wait()


def finish(started: Started) -> None:
    assert started.end() == 0, started.text()


def metrics(folder: Path) -> dict[int, dict[str, float]]:
    path = folder / log.METRICS
    return {row.step: row.metrics for row in log.read(path)} if path.exists() else {}


def assert_same(ours: Path, theirs: Path, steps: int, only: str = "") -> None:
    left, right = metrics(ours), metrics(theirs)
    assert list(left) == list(right) == list(range(1, steps + 1))
    for step in left:
        assert left[step].keys() == right[step].keys()
        for name in filter(lambda name: only in name, left[step]):
            np.testing.assert_allclose(
                left[step][name], right[step][name], rtol=1e-5, atol=1e-5, err_msg=f"{step} {name}"
            )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_stopped_killed_and_resumed_is_one_run(world: Path, start: Callable[..., Started]) -> None:
    """However often it ends and on whatever devices it goes on, the numbers are one process's."""
    finish(start(*EIGHT, "sft", "--config", "run.yaml", "--output", "whole"))
    command = (*TWO, "--", "sft", "--config", "run.yaml", "--output", "run")

    # SIGTERM to one of two. The other stands still until JAX has taken it down, so that the run
    # can't be over by then.
    running = start(*command)
    running.until(lambda: len(metrics(world / "run")) >= 1)
    os.kill(running.pid(1), signal.SIGSTOP)
    os.kill(running.pid(0), signal.SIGTERM)
    running.until(lambda: "SIGTERM caught" in running.text())
    os.kill(running.pid(1), signal.SIGCONT)
    assert running.end() == 75, running.text()
    for process in range(2):
        assert f"process {process}: ended with 75" in running.text()
    stopped = max(metrics(world / "run"))
    assert 1 <= stopped < STEPS
    assert (world / "run/checkpoints" / str(stopped)).is_dir()

    for name, devices, rows in (("eight", 8, 1), ("one", 1, 8)):
        shutil.copytree(world / "run", world / name)
        where = ("--compute.mesh.data", "-1", "--compute.mesh.fsdp", str(2 if devices == 8 else 1))
        finish(
            start(
                *("-n", "1", "--devices", str(devices), "sft", "--config", f"{name}/config.yaml"),
                *("--output", name, "--batch.rows_per_device", str(rows), *where),
            )
        )
        assert_same(world / name, world / "whole", STEPS, "loss/total_nats")

    # One is killed: the other does not go on, and nothing stays behind.
    running = start(*command)
    pids = [running.pid(0), running.pid(1)]
    running.until(lambda: max(metrics(world / "run"), default=0) > stopped)
    os.kill(pids[1], signal.SIGKILL)
    assert running.end() not in (0, 75), running.text()
    assert not any(map(is_alive, pids))
    finish(start(*command))
    assert_same(world / "run", world / "whole", STEPS)
    assert (world / "run/model/model.safetensors").is_file()


@pytest.mark.parametrize("teacher", ["cache", "live"])
def test_two_processes_distil_as_one(
    world: Path, start: Callable[..., Started], teacher: str
) -> None:
    if teacher == "cache":
        for name in ("train", "eval"):
            rows = cached.origin(world / "teacher", world / f"{name}.jsonl")
            cached.make(world / f"cache-{name}", rows)
        flags = ["--teacher.cache", "cache-train", "--teacher.eval_cache", "cache-eval"]
    else:
        # Its rows and parameters lie on other devices than the student's, across both processes.
        mesh = ("data", "2"), ("fsdp", "2"), ("tensor", "2")
        flags = ["--teacher.model", "teacher", "--teacher.dtype", "float32"]
        flags += [word for axis, size in mesh for word in (f"--teacher.mesh.{axis}", size)]
    flags += ["--objective.top_k", "20", "--objective.student_top_m", "9"]
    for name, shape in (("one", EIGHT), ("two", TWO)):
        command = ("ckd", "--config", "run.yaml", "--output", name, "--schedule.max_steps", "5")
        finish(start(*shape, *command, *flags))
    assert_same(world / "one", world / "two", 5)
    assert "eval/distill/divergence_nats" in metrics(world / "two")[5]


@pytest.mark.parametrize("lost", [(0, 1), (1,)], ids=str)
def test_a_mistake_of_any_process_is_told_once(
    world: Path, start: Callable[..., Started], lost: tuple[int, ...]
) -> None:
    elsewhere = world / "elsewhere"
    elsewhere.mkdir()
    python = world / "python"
    here = " ".join(f'[ "$JAX_PROCESS_ID" = {process} ] ||' for process in lost)
    python.write_text(
        f'#!/bin/sh\nif {here} false; then cd {elsewhere}; fi\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    config = str(world / "run.yaml")
    running = start(*TWO, "sft", "--config", config, "--output", "run", python=str(python))
    assert running.end() == 2, running.text()
    told = [line for line in running.text().splitlines() if "there is no such file" in line]
    sentence = "star_jax.train: {}eval.jsonl: there is no such file: check the path"
    if lost == (0, 1):
        assert told == ["[0] " + sentence.format("")]
    else:
        ours, theirs = sentence.format(""), sentence.format("process 1: ")
        assert sorted(told) == [f"[0] {theirs}", f"[1] {ours}"]
    for process in range(2):
        assert f"process {process}: ended with 2" in running.text()
    assert not (world / "run").exists()
