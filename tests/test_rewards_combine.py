"""Combinations: weights, skips, failures that cost one sample, and the same values everywhere."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from star_jax import rewards
from star_jax.rewards import Pool, Sample, Term
from star_jax.rewards import pool as pools

TOOL: dict[str, Any] = {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}
GENERATIONS = ("yes", "no", "yes please", '<tool_call>{"name": "f", "arguments": {}}</tool_call>')
SAMPLES = [
    Sample(
        "<think></think>" + text, "</think>yes", [TOOL], id=f"row-{number}", fields={"length": 9}
    )
    for number, text in enumerate(GENERATIONS * 3)
]

THEIRS = """
import os, signal, time

def length(generation, label, tools):
    return len(generation)

def fussy(generation, label, tools, word="no"):
    if generation.endswith(word):
        raise KeyError(word)
    return 1.0

def deadly(generation, label, tools):
    if generation.endswith("no"):
        os._exit(7)
    return 1.0

def stuck(generation, label, tools):
    if generation.endswith("no"):
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(60)
    return 1.0

def sleepy(generation, label, tools):
    while generation.endswith("no"):
        try:
            time.sleep(60)
        except Exception:
            pass
    return 1.0

def odd(generation, label, tools):
    return {"yes": float("nan"), "no": "text"}.get(generation.removeprefix("<think></think>"))

def local(generation, label, tools):
    return rewards.Reward(1.0, 1.0, 1.0, "local", "{0}", (lambda: None,))

from star_jax import rewards
"""


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of somebody's reward functions, which workers can import too."""
    (tmp_path / "their_rewards.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pools, "GRACE_S", 0.3)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(2) as made:
        yield made


def half(generation: str, label: str, tools: Any) -> float:
    return 0.5


def no_opinion(generation: str, label: str, tools: Any) -> None:
    return None


async def waited(generation: str, label: str, tools: Any, seconds: float = 0.0) -> float:
    await asyncio.sleep(seconds if generation.endswith("no") else 0)
    if generation.endswith("please"):
        raise TimeoutError("theirs")
    return 0.5


def test_totals_are_weighted_sums() -> None:
    terms = [
        Term(reward=rewards.simrl, weight=2.0),
        Term(reward=half, weight=-1.0),
        Term(reward=no_opinion, weight=100.0),
    ]
    scores = rewards.score(SAMPLES[:4], terms)
    singles = [rewards.simrl(s.generation, s.label, s.tools) for s in SAMPLES[:4]]
    assert scores.totals == tuple(2.0 * single.total - 0.5 for single in singles)
    assert scores.values == (tuple(singles), (0.5,) * 4, (None,) * 4)
    assert scores.failures == ()


def test_a_sample_that_every_term_skips_has_no_total() -> None:
    assert rewards.score(SAMPLES[:2], [Term(reward=no_opinion)]).totals == (None, None)


def test_a_failure_costs_one_sample_and_is_counted() -> None:
    terms = [Term(reward=half), Term(reward="their_rewards.fussy")]
    scores = rewards.score(SAMPLES, terms)
    failed = [number for number, total in enumerate(scores.totals) if total is None]
    assert failed == [1, 5, 9]
    assert [failure.sample for failure in scores.failures] == ["row-1", "row-5", "row-9"]
    assert scores.failure_counts == {("their_rewards.fussy", "KeyError: 'no'"): 3}
    assert {total for total in scores.totals if total is not None} == {1.5}


def test_what_is_no_finite_number_is_a_failure() -> None:
    scores = rewards.score(SAMPLES[:3], [Term(reward="their_rewards.odd")])
    assert [failure.reason for failure in scores.failures] == [
        "returned nan, not a finite number, a Reward or None",
        "returned a str, not a finite number, a Reward or None",
    ]
    assert scores.totals == (None, None, None)


def test_a_malformed_label_costs_its_sample_only() -> None:
    samples = [SAMPLES[0], Sample("<think></think>x", "no end", [])]
    scores = rewards.score(samples, [Term(reward="star_jax.rewards.simrl")])
    assert scores.totals == (1.0, None)
    assert scores.failures[0].sample == "1"
    assert scores.failures[0].reason.startswith("ValueError: label has 0 </think>")


def test_options_and_fields_reach_the_function() -> None:
    terms = [
        Term(reward="their_rewards.fussy", options={"word": "please"}),
        Term(
            reward="star_jax.rewards.soft_overlong",
            options={"limit": 10, "buffer": 4},
            takes=("length",),
        ),
    ]
    scores = rewards.score(SAMPLES[:4], terms)
    assert scores.totals == (0.25, 0.25, None, 0.25)
    with pytest.raises(ValueError, match=r"takes \['width'\], which sample 'row-0' lacks"):
        rewards.score(SAMPLES, [Term(reward=half, takes=("width",))])


@pytest.mark.parametrize(
    "path", ["simrl", "no_such_module.f", "star_jax.rewards.nothing", "star_jax.rewards.__all__"]
)
def test_unknown_paths_are_errors(path: str) -> None:
    with pytest.raises(ValueError, match=r"write package\.module\.function"):
        rewards.score(SAMPLES, [Term(reward=path)])


def test_values_are_the_same_wherever_they_are_computed(pool: Pool) -> None:
    many = SAMPLES * 20
    for path in ("star_jax.rewards.simrl", "their_rewards.fussy", "their_rewards.length"):
        here = rewards.score(many, [Term(reward=path)])
        assert rewards.score(many, [Term(reward=path)], timeout_s=5.0) == here
        assert rewards.score(many, [Term(reward=path)], pool=pool) == here
        assert rewards.score(many, [Term(reward=path)], pool=pool, timeout_s=5.0) == here
    waiting = rewards.score(many[:8], [Term(reward=waited)])
    assert asyncio.run(_inside_a_loop(many[:8])) == waiting


async def _inside_a_loop(samples: list[Sample]) -> Any:
    return rewards.score(samples, [Term(reward=waited)])


def test_a_call_that_takes_too_long_is_interrupted() -> None:
    start = time.monotonic()
    scores = rewards.score(SAMPLES[:4], [Term(reward="their_rewards.sleepy")], timeout_s=0.2)
    assert time.monotonic() - start < 5
    assert scores.totals == (1.0, None, 1.0, 1.0)
    assert scores.failures[0].reason == "took longer than 0.2 s"


def test_a_coroutine_that_takes_too_long_is_cancelled() -> None:
    term = Term(reward=waited, options={"seconds": 60.0})
    scores = rewards.score(SAMPLES[:4], [term], timeout_s=0.2)
    assert scores.totals == (0.5, None, None, 0.5)
    reasons = [failure.reason for failure in scores.failures]
    assert reasons == ["took longer than 0.2 s", "TimeoutError: theirs"]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("sleepy", "took longer than 0.3 s"),
        ("stuck", "took longer than 0.3 s"),
        ("deadly", "its process ended with code 7"),
    ],
)
def test_a_pool_survives_what_its_workers_do_not(pool: Pool, function: str, reason: str) -> None:
    scores = rewards.score(
        SAMPLES, [Term(reward=f"their_rewards.{function}")], pool=pool, timeout_s=0.3
    )
    assert scores.totals == (1.0, None, 1.0, 1.0) * 3
    assert [failure.reason for failure in scores.failures] == [reason] * 3
    again = rewards.score(SAMPLES, [Term(reward="their_rewards.length")], pool=pool)
    assert None not in again.totals


def test_what_a_dead_worker_had_left_is_still_computed(pool: Pool) -> None:
    samples = [SAMPLES[0]] * 5 + [SAMPLES[1]] + [SAMPLES[0]] * 40 + [SAMPLES[1]] + [SAMPLES[0]] * 33
    scores = rewards.score(samples, [Term(reward="their_rewards.deadly")], pool=pool)
    assert [number for number, total in enumerate(scores.totals) if total is None] == [5, 46]


def test_a_value_that_cannot_travel_costs_its_sample(pool: Pool, capfd: Any) -> None:
    scores = rewards.score(SAMPLES[:2], [Term(reward="their_rewards.local")], pool=pool)
    assert scores.totals == (None, None)
    assert all("its process ended" in failure.reason for failure in scores.failures)
    assert "pickle" in capfd.readouterr().err


def test_a_pool_ends_its_processes() -> None:
    with Pool(1) as pool:
        rewards.score(SAMPLES[:2], [Term(reward="their_rewards.length")], pool=pool)
        process = pool._workers[0].process
        assert process.poll() is None
    assert process.poll() is not None


def test_a_pool_needs_a_path_and_a_worker(pool: Pool) -> None:
    with pytest.raises(ValueError, match="dotted path"):
        rewards.score(SAMPLES, [Term(reward=half)], pool=pool)
    with pytest.raises(ValueError, match="at least one worker"):
        Pool(0)


def test_a_time_limit_off_the_main_thread_needs_a_pool(pool: Pool) -> None:
    said: list[str] = []
    totals: list[Any] = []

    def work() -> None:
        term = Term(reward="their_rewards.length")
        try:
            rewards.score(SAMPLES[:1], [term], timeout_s=1.0)
        except ValueError as error:
            said.append(str(error))
        totals.extend(rewards.score(SAMPLES[:1], [term], timeout_s=1.0, pool=pool).totals)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "pass a Pool" in said[0]
    assert totals == [float(len(SAMPLES[0].generation))]


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="no terms"):
        rewards.score(SAMPLES, [])
    with pytest.raises(ValueError, match="timeout_s"):
        rewards.score(SAMPLES, [Term(reward=half)], timeout_s=0.0)
