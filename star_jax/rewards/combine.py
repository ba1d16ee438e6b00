"""Several rewards as one: any Python callables, weighted, over a batch of samples.

    total_i = Σ_k w_k · r_k(i)      over the terms k that gave sample i a value

A term is a function or its dotted path. It is called `f(generation, label, tools, **options)`, the
row fields in `takes` added as keywords, and returns a number, a Reward, or None to skip the
sample. It may be a coroutine function. One that raises, returns something else or overruns its
time has failed: that sample's total is None, since a sum without the term would not compare with
its group's, and the failure is listed with its reason. No other sample is touched.

Values do not depend on how they were computed: here, on worker processes, or in an event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from star_jax.rewards.calls import Tool
from star_jax.rewards.outcome import Job, Outcome, judged, overrun, run_in_time, said
from star_jax.rewards.path import load
from star_jax.rewards.pool import Pool
from star_jax.rewards.reward import Reward
from star_jax.rewards.waiting import finish

MOST_SECONDS = 1e6  # a longer limit is a mistake, and more than a timer can take
CONCURRENT = 64  # calls of a coroutine function under way at once


@dataclass(frozen=True, slots=True)
class Sample:
    """What is scored; `fields` are further values that a term may take by name."""

    generation: str
    label: str
    tools: Sequence[Tool] | None
    id: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Term:
    """One reward of a combination."""

    reward: Callable[..., Any] | str  # a function, or the dotted path of one
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)  # keywords of every call
    takes: tuple[str, ...] = ()  # names of Sample.fields passed as keywords

    @property
    def name(self) -> str:
        """The path, or the function's own name."""
        if isinstance(self.reward, str):
            return self.reward
        return getattr(self.reward, "__qualname__", repr(self.reward))  # partials have none


@dataclass(frozen=True, slots=True)
class Failure:
    """A term that gave a sample no value, and why."""

    sample: str
    term: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The weighted totals, each term's values in the samples' order, and what went wrong."""

    totals: tuple[float | None, ...]
    values: tuple[tuple[Reward | float | None, ...], ...]
    failures: tuple[Failure, ...]

    @property
    def failure_counts(self) -> Counter[tuple[str, str]]:
        """How often each (term, reason) occurred."""
        return Counter((failure.term, failure.reason) for failure in self.failures)


def score(
    samples: Sequence[Sample],
    terms: Sequence[Term],
    *,
    timeout_s: float | None = None,
    pool: Pool | None = None,
) -> Scores:
    """Score every sample by every term.

    `timeout_s` bounds each call. `pool` computes plain functions on worker processes; they are
    named by dotted path then. A call outlasting its time is interrupted by a signal, which only a
    main thread can receive: elsewhere a time limit needs a pool.
    """
    if timeout_s is not None and not 0 < timeout_s < MOST_SECONDS:
        raise ValueError(f"rewards: timeout_s is {timeout_s}; give seconds > 0, or None")
    for term in terms:
        if not math.isfinite(term.weight):
            raise ValueError(f"reward {term.name}: weight is {term.weight}; give a finite number")
    if not terms:
        raise ValueError("rewards: no terms; give at least one reward")
    columns = [_column(samples, term, timeout_s, pool) for term in terms]
    weights = [term.weight for term in terms]
    totals = tuple(_total(weights, row) for row in zip(*columns, strict=True))
    failures = tuple(
        Failure(sample.id or str(number), term.name, outcome.failure)
        for term, column in zip(terms, columns, strict=True)
        for number, (sample, outcome) in enumerate(zip(samples, column, strict=True))
        if outcome.failure is not None
    )
    failures += tuple(
        Failure(sample.id or str(number), "sum", "the weighted sum is beyond float64")
        for number, (sample, total, row) in enumerate(
            zip(samples, totals, zip(*columns, strict=True), strict=True)
        )
        if total is None
        and any(outcome.value is not None for outcome in row)
        and all(outcome.failure is None for outcome in row)
    )
    values = tuple(tuple(outcome.value for outcome in column) for column in columns)
    return Scores(totals, values, failures)


def _total(weights: Sequence[float], outcomes: Sequence[Outcome]) -> float | None:
    if any(outcome.failure is not None for outcome in outcomes):
        return None
    products = [
        weight * (outcome.value.total if isinstance(outcome.value, Reward) else outcome.value)
        for weight, outcome in zip(weights, outcomes, strict=True)
        if outcome.value is not None
    ]
    try:
        total = math.fsum(products) if products else None
    except (OverflowError, ValueError):  # products beyond float64, or of both infinite signs
        return None
    return total if total is None or math.isfinite(total) else None


def _column(
    samples: Sequence[Sample], term: Term, timeout_s: float | None, pool: Pool | None
) -> list[Outcome]:
    function = load(term.reward) if isinstance(term.reward, str) else term.reward
    jobs = [_job(sample, term) for sample in samples]
    call = getattr(function, "__call__", None)  # noqa: B004  # of an object that is a coroutine's
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        call
    ):  # waits for others, so it stays in this process
        return finish(_gather(function, jobs, timeout_s))
    if pool is None:
        if timeout_s is not None and threading.current_thread() is not threading.main_thread():
            raise ValueError(
                "a time limit needs a signal, which only a main thread receives: pass a Pool"
            )
        return [run_in_time(function, job, timeout_s) for job in jobs]
    if not isinstance(term.reward, str):
        raise ValueError(f"reward {term.name}: a pool needs its dotted path, not the function")
    return pool.map(term.reward, jobs, timeout_s)


def _job(sample: Sample, term: Term) -> Job:
    missing = [name for name in term.takes if name not in sample.fields]
    if missing:
        raise ValueError(
            f"reward {term.name} takes {missing}, which sample {sample.id!r} lacks; "
            f"its fields are {sorted(sample.fields)}"
        )
    taken = {name: sample.fields[name] for name in term.takes}
    return (sample.generation, sample.label, sample.tools), {**term.options, **taken}


async def _gather(
    function: Callable[..., Any],
    jobs: Sequence[Job],
    timeout_s: float | None,
) -> list[Outcome]:
    gate = asyncio.Semaphore(CONCURRENT)

    async def one(job: Job) -> Outcome:
        arguments, keywords = job
        async with gate:
            try:
                async with asyncio.timeout(timeout_s) as limit:
                    return judged(await function(*arguments, **keywords))
            except TimeoutError as error:
                late = limit.expired()
                return Outcome(failure=overrun(timeout_s) if late else said(error))
            except (Exception, SystemExit, asyncio.CancelledError) as error:  # as in run_in_time
                return Outcome(failure=said(error))

    return await asyncio.gather(*[one(job) for job in jobs])
