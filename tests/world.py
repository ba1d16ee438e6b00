"""A tiny student, its teacher, rows to learn and to look at; and the program, run as people run it.

make(folder)                        student/, teacher/, train.jsonl, eval.jsonl
words("sft", "out", seed=3)         the words of a command, small enough for a test
start(folder, words)                a process of its own, which a test may kill
run_all(folder, (module, words)...) several commands in one other process: started once
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tests import tiny

ROOT = Path(__file__).parents[1]
TRAIN, DATA = "star_jax.train", "star_jax.data"
SIZES = {
    "vocab_size": 264,  # the tokenizer's 263 ids and one that it lacks
    "max_position_embeddings": 1024,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
WORDS = ["alpha", "beta", "gamma", "delta", "oslo", "bern", "rome", "rain", "sun", "wind"]
LIMIT_S = 900.0  # for one process; it takes seconds, or minutes where others run beside it


def make(folder: Path) -> Path:
    student(folder / "student")
    tiny.write(folder / "teacher", seed=2, hidden_size=48, intermediate_size=64, **SIZES)
    tiny.tokenizer(folder / "teacher")
    write_rows(folder / "train.jsonl", rows(60, "t"))
    write_rows(folder / "eval.jsonl", rows(10, "e"))
    return folder


def student(folder: Path, **changes: Any) -> Path:
    sizes = {**SIZES, "hidden_size": 32, "intermediate_size": 48, **changes}
    tiny.write(folder, seed=1, **sizes)
    return tiny.tokenizer(folder)


def rows(count: int, tag: str, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)

    def text(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))

    return [
        {
            "id": f"{tag}{i}",
            "messages": [
                {"role": "user", "content": f"{tag}{i} {text(6)}"},
                {"role": "assistant", "content": text(5), "reasoning_content": text(2)},
            ],
        }
        for i in range(count)
    ]


def write_rows(path: Path, made: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


SMALL = {
    "model": "student",
    "data.train": "train.jsonl",
    "data.max_tokens": 256,
    "batch.examples": 8,
    "optimizer.learning_rate": "1e-3",
    "compute.dtype": "float32",
    "log.tensorboard": "false",
}


def words(loop: str, output: str, /, **changes: Any) -> list[str]:
    """`changes` have two underscores for a dot; None leaves a flag out."""
    given = SMALL | {"output": output}
    given |= {"teacher.dtype": "float32"} if loop == "ckd" else {}
    given |= {name.replace("__", "."): value for name, value in changes.items()}
    flags = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    return [loop, *(word for flag in flags for word in flag)]


def environment(compiled: Path) -> dict[str, str]:
    """One CPU device, quick compilation, and what has been compiled is found again."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


class Started(NamedTuple):
    process: subprocess.Popen[bytes]
    stderr: Path

    def said(self) -> str:
        return self.stderr.read_text()

    def wait(self) -> int:
        return self.process.wait(LIMIT_S)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something, which has to come before the process ends."""
        end = time.monotonic() + LIMIT_S
        while not is_so():
            assert self.process.poll() is None, f"it ended before: {self.said()}"
            assert time.monotonic() < end, self.said()
            time.sleep(0.002)

    def stop(self, number: int) -> int:
        """Send a signal; → the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def kill_while(self, is_so: Callable[[], bool]) -> None:
        """SIGKILL at a moment when something is so: the process stands still while we look."""
        while True:
            self.until(is_so)
            self.process.send_signal(signal.SIGSTOP)
            os.waitpid(self.process.pid, os.WUNTRACED)
            if is_so():
                break
            self.process.send_signal(signal.SIGCONT)
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL


def start(folder: Path, given: list[str], env: dict[str, str], module: str = TRAIN) -> Started:
    stderr = folder / f"stderr-{time.monotonic_ns()}.txt"
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *given],
            cwd=folder,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    return Started(process, stderr)


class Done(NamedTuple):
    status: int
    stdout: str
    stderr: str  # without the log, which goes to the process's own


MANY = """
import contextlib, importlib, io, json, sys
logged, done = sys.stderr, []
importlib.import_module("logging").basicConfig(level="INFO", stream=logged)
for module, given in json.load(sys.stdin):
    main = importlib.import_module(f"{module}.__main__").main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(given)
    done.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


def run_all(folder: Path, env: dict[str, str], *commands: tuple[str, list[str]]) -> list[Done]:
    ran = subprocess.run(
        [sys.executable, "-c", MANY],
        input=json.dumps(commands),
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 0, ran.stderr
    return [Done(*one) for one in json.loads(ran.stdout)]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def count_lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def steps(run: Path) -> list[int]:
    """Of its checkpoints."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())
