"""One bad call costs one sample, whatever it does: here, on workers, and in an event loop."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from star_jax import rewards
from star_jax.rewards import Reward, Sample, Term
from star_jax.rewards.cli import main

SAMPLES = [Sample("bad", "", None), Sample("good", "", None)]


class Mute(Exception):
    def __str__(self) -> str:
        raise KeyError("no text")


def huge(generation: str, label: str, tools: Any) -> Any:
    return 10**400 if generation == "bad" else 1


def leaves(generation: str, label: str, tools: Any) -> Any:
    return sys.exit(3) if generation == "bad" else 1


def mute(generation: str, label: str, tools: Any) -> Any:
    if generation == "bad":
        raise Mute
    return 1


def surrogate(generation: str, label: str, tools: Any) -> Any:
    if generation == "bad":
        raise ValueError("half a pair: \ud800")
    return 1


def not_a_number(generation: str, label: str, tools: Any) -> Any:
    return Reward(float("nan") if generation == "bad" else 1.0, 1.0, 1.0, "kind", "why")


async def cancelled(generation: str, label: str, tools: Any) -> Any:
    if generation == "bad":
        raise asyncio.CancelledError
    return 1


def fine(generation: str, label: str, tools: Any) -> Any:
    return 1


CASES = {
    huge: "returned a int, not a finite number",
    leaves: "SystemExit: 3",
    mute: "Mute: (its text raises KeyError)",
    surrogate: "ValueError: half a pair: ?",
    not_a_number: "returned nan, not a finite number",
    cancelled: "CancelledError: ",
}


@pytest.mark.parametrize("function", CASES, ids=lambda function: function.__name__)
def test_one_failure_costs_one_sample(function: Any) -> None:
    scores = rewards.score(SAMPLES, [Term(reward=function)])
    assert scores.totals == (None, 1.0)
    [failure] = scores.failures
    assert failure.reason.startswith(CASES[function])
    failure.reason.encode()


def test_numbers_of_other_libraries_are_numbers() -> None:
    for value in (np.float32(0.5), np.int64(2), True):
        scores = rewards.score(SAMPLES[1:], [Term(reward=lambda *_, value=value: value)])
        assert scores.totals == (float(value),)
    assert rewards.score(SAMPLES[1:], [Term(reward=lambda *_: "1")]).totals == (None,)


def test_an_object_whose_call_is_a_coroutine() -> None:
    class Judge:
        async def __call__(self, generation: str, label: str, tools: Any) -> float:
            return 0.25

    assert rewards.score(SAMPLES, [Term(reward=Judge())]).totals == (0.25, 0.25)


def test_sums_beyond_float64_fail_by_themselves() -> None:
    def large(generation: str, label: str, tools: Any) -> float:
        return 1.7e308 if generation == "bad" else 1.0

    for weights in ((1.0, 1.0), (10.0, -10.0), (10.0, 1.0)):
        scores = rewards.score(SAMPLES, [Term(reward=large, weight=weight) for weight in weights])
        assert scores.totals == (None, sum(weights))
        assert [failure.reason for failure in scores.failures] == [
            "the weighted sum is beyond float64"
        ]
    with pytest.raises(ValueError, match="weight is nan; give a finite number"):
        rewards.score(SAMPLES, [Term(reward=fine, weight=float("nan"))])
    with pytest.raises(ValueError, match="timeout_s is nan; give seconds"):
        rewards.score(SAMPLES, [Term(reward=fine)], timeout_s=float("nan"))


def test_a_worker_that_dies_between_batches_costs_nothing() -> None:
    samples = [Sample("<think></think>a", "</think>a", None)] * 4
    term = Term(reward="star_jax.rewards.simrl")
    with rewards.Pool(1) as pool:
        assert rewards.score(samples, [term], pool=pool).totals == (1.0,) * 4
        [worker] = pool._workers
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        assert rewards.score(samples, [term], pool=pool).totals == (1.0,) * 4


ROW = {"id": "a", "generation": "<think></think>x", "label": "</think>x", "tools": []}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "cut.jsonl.gz",
            gzip.compress(json.dumps(ROW).encode() * 50, mtime=0)[:-9],
            "gz:1: the gz",
        ),
        ("deep.jsonl", b"[" * 100_000, "deep.jsonl:1: not JSON"),
        ("latin.jsonl", b'{"id": "\xe9"}', "latin.jsonl:1: not JSON"),
        ("half.jsonl", b'{"id": "\\ud800"}', "half.jsonl:1: not JSON"),
    ],
)
def test_a_damaged_file_is_one_sentence(
    tmp_path: Path, name: str, data: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(data)
    assert main(["replay", str(tmp_path / name), "--reward", "simrl"]) == 2
    assert message in capsys.readouterr().err
