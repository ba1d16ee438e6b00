"""Lines of answers as numbers with intervals: of categories, of published averages, of calls.

    lines → by category → {accuracy, low, high, right, total, error_types, …}

A line's `calls` says for every turn whether a call was due and whether one was made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from star_jax.evals import stats
from star_jax.evals.stats import Interval

Line = Mapping[str, Any]
Units = dict[str, list[float]]  # category → a value for each of what is counted there
SCORES, ANSWERS, PAGE = "scores.json", "answers.jsonl", "scores.html"


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_category(lines: Iterable[Line]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = {}
    for line in lines:
        found.setdefault(line["category"], []).append(line)
    return found


def interval(values: ArrayLike) -> Interval:
    """Of a mean over entries, by bootstrap. Resampling sees no doubt where all entries are alike:
    for shares that are all 0 or all 1 it is Wilson's, for other numbers there is none."""
    found = np.asarray(values, np.float64)
    if len(found) and not found.any():
        return stats.wilson(0, len(found))
    if len(found) and (found == 1).all():
        return stats.wilson(len(found), len(found))
    return doubted(stats.bootstrap(found), found)


def doubted(found: Interval, *values: ArrayLike) -> Interval:
    """Without bounds where entries of no stratum differ."""
    if any(np.ptp(one) > 0 for one in values if np.size(one)):
        return found
    return dataclasses.replace(found, low=-math.inf, high=math.inf)


def number(interval: Interval) -> dict[str, Any]:
    """For JSON, which has no infinity: what is unbounded is null."""
    return {
        "value": _finite(interval.value),
        "low": _finite(interval.low),
        "high": _finite(interval.high),
        "count": interval.count,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def category(lines: Sequence[Line]) -> dict[str, Any]:
    return {
        **number(interval([float(line["valid"]) for line in lines])),
        "right": sum(line["valid"] for line in lines),
        "error_types": errors(lines),
        "lost": sum(bool(line["lost"]) for line in lines),
    }


def errors(lines: Iterable[Line]) -> dict[str, int]:
    """How often each kind of error was made, the most frequent first."""
    kinds = [
        line["error_type"] or f"raises {line['raises']}" for line in lines if not line["valid"]
    ]
    ordered = sorted(Counter(kinds).items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered)


def averages(
    units: Units, shares: Mapping[str, Mapping[str, float]], seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Each average with its interval, resampled within categories. `missing` count as wrong."""
    made = {}
    for name, share in shares.items():
        there = [one for one in share if one in units]
        missing = [one for one in share if one not in units]
        if not there:
            continue
        found = stats.bootstrap_strata(
            [units[one] for one in there], [share[one] for one in there], seed=seed
        )
        if not found.high - found.low > 0 or math.isinf(found.high):
            found = mover([units[one] for one in there], [share[one] for one in there])
        made[name] = {**number(found), "missing": missing}
    return made


def mover(strata: Sequence[Sequence[float]], weights: Sequence[float]) -> Interval:
    """Of a weighted sum of shares, from Wilson's interval of each (Zou and Donner's MOVER): for few
    entries, or such that came out alike, in which resampling sees no doubt."""
    found = [stats.wilson(round(sum(values)), len(values)) for values in strata]
    value = sum(w * one.value for w, one in zip(weights, found, strict=True))
    below = sum((w * (one.value - one.low)) ** 2 for w, one in zip(weights, found, strict=True))
    above = sum((w * (one.high - one.value)) ** 2 for w, one in zip(weights, found, strict=True))
    count = sum(one.count for one in found)
    low, high = value - math.sqrt(below), value + math.sqrt(above)
    return Interval(value, low, high, stats.LEVEL, count)


def calls(lines: Iterable[Line]) -> dict[str, dict[str, Any]]:
    """How often a call was made, where one was due and where none was."""
    turns = [turn for line in lines for turn in line["calls"]]
    found = {}
    for name, is_due in (("call_rate", True), ("over_call_rate", False)):
        made = [called for due, called in turns if due == is_due]
        if made:
            found[name] = {**number(stats.wilson(sum(made), len(made))), "right": sum(made)}
    return found


def failures(lines: Iterable[Line], most: int) -> list[Line]:
    """Wrong answers to look at, of each kind of error one before any has two."""
    kinds: dict[str, list[Line]] = {}
    for line in lines:
        if not line["valid"]:
            kinds.setdefault(str(line["error_type"]), []).append(line)
    chosen: list[Line] = []
    for depth in range(most):
        chosen += [found[depth] for found in kinds.values() if depth < len(found)]
    return chosen[:most]


def digest(items: Iterable[Any]) -> str:
    """Of entries as they were asked and judged, so that other entries are told apart."""
    made = hashlib.blake2b(digest_size=8)
    for item in items:
        made.update(json.dumps(item, sort_keys=True, default=str).encode() + b"\n")
    return made.hexdigest()


def digests(entries: Iterable[Any], of: Callable[[Any], tuple[str, Any]]) -> dict[str, str]:
    """A digest of every category's entries."""
    found: dict[str, list[Any]] = {}
    for entry in entries:
        name, item = of(entry)
        found.setdefault(name, []).append(item)
    return {name: digest(items) for name, items in found.items()}
