"""How sure a measured number is, and whether one model is better than another or only luckier.

    values of entries     → an interval of their mean           bootstrap, bootstrap_strata
    right and answered    → an interval of a rate               wilson
    one number per seed   → an interval over seeds (Student t)  over_seeds
    two models' values over the same entries → a Comparison     compare, compare_strata

Resampling is seeded and gives the same interval on every machine: indices are made of PCG64's raw
integers, as NumPy's own distributions may change between versions.

An interval over entries says how the number would move with other questions of the kind. It says
nothing of other training seeds: that is `over_seeds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import cos, inf, nan, pi, sin, sqrt, tan
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
RESAMPLES = 10_000
CHUNK = 2**20  # indices drawn at a time


@dataclass(frozen=True)
class Interval:
    """A number and where it may lie. Unbounded where too little was measured to say."""

    value: float  # nan where nothing was measured
    low: float
    high: float
    level: float
    count: int  # the entries, or seeds, behind it


@dataclass(frozen=True)
class Comparison:
    """Model A against model B over the same entries. `difference` is A − B."""

    difference: Interval
    wins: int  # entries where A is better
    losses: int
    ties: int
    p: float  # of the two-sided sign test: are wins and losses equally likely?
    verdict: Literal["better", "worse", "noise"]  # of A
    sentence: str


def bootstrap(
    values_N: ArrayLike, *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean over entries, with its percentile bootstrap interval.

    Where all entries agree the interval has no width, which claims too much: for rates near 0 or 1
    take `wilson`. One entry says nothing of the spread.
    """
    return bootstrap_strata([values_N], level=level, resamples=resamples, seed=seed)


def bootstrap_strata(
    strata: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Σ weight · mean over strata, each resampled on its own; without weights their plain mean.

    An average of averages is such a sum: a category's weight is the product of its shares.
    """
    _check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}: draw at least one, better thousands")
    values = [_values(f"stratum {g}", stratum) for g, stratum in enumerate(strata)]
    shares = _weights(weights, len(values))
    count = sum(map(len, values))
    if len(values) > 1 and not all(map(len, values)):
        empty = [len(stratum) for stratum in values].index(0)
        raise ValueError(f"stratum {empty} holds no entry: leave it out, or measure it")
    if count == 0:
        return Interval(nan, -inf, inf, level, 0)
    value = sum(share * float(v.mean()) for share, v in zip(shares, values, strict=True))
    if min(map(len, values)) == 1:
        return Interval(value, -inf, inf, level, count)
    bits = np.random.PCG64(seed)
    sums = np.zeros(resamples)
    for share, stratum in zip(shares, values, strict=True):
        sums += share * np.concatenate(list(_resampled_means(stratum, resamples, bits)))
    low, high = np.quantile(sums, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, count)


def _resampled_means(
    values_N: np.ndarray, resamples: int, bits: np.random.PCG64
) -> Iterator[np.ndarray]:
    """The means of resamples, some at a time; how many does not change what is drawn."""
    size = len(values_N)
    rows = max(1, CHUNK // size)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), size)
        raw = bits.random_raw(shape[0] * size).reshape(shape)
        # The upper 32 bits, scaled: an index is off its fair share by at most size / 2^32.
        yield values_N[((raw >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)].mean(axis=1)


def wilson(right: int, answered: int, *, level: float = LEVEL) -> Interval:
    """A rate with Wilson's score interval, sound for few answers and for rates of 0 and 1."""
    _check_level(level)
    if not 0 <= right <= answered:
        raise ValueError(f"{right} right of {answered} answers: count from 0 to the answers")
    if answered == 0:
        return Interval(nan, 0.0, 1.0, level, 0)
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate, n = right / answered, answered
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if right == 0 else middle - half
    high = 1.0 if right == answered else middle + half
    return Interval(rate, low, high, level, n)


def over_seeds(values_S: ArrayLike, *, level: float = LEVEL) -> Interval:
    """The mean over runs that differ in their seeds, with Student's t interval."""
    _check_level(level)
    values = _values("over_seeds", values_S)
    count = len(values)
    if count < 2:
        return Interval(float(values[0]) if count else nan, -inf, inf, level, count)
    value = float(values.mean())
    half = _t_bound(level, count - 1) * float(values.std(ddof=1)) / sqrt(count)
    return Interval(value, value - half, value + half, level, count)


def sign_test(wins: int, losses: int) -> float:
    """The two-sided p of so uneven a split of the entries that differ (McNemar's exact test)."""
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses: counts cannot be negative")
    n = wins + losses
    tail, term = 0, 1
    for i in range(min(wins, losses) + 1):
        tail, term = tail + term, term * (n - i) // (i + 1)
    return min(1.0, 2 * tail / 2**n)  # the division of integers is exact but for rounding


def compare(
    a_N: ArrayLike,
    b_N: ArrayLike,
    *,
    names: tuple[str, str] = ("A", "B"),
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Two models over the same entries, in the same order. What is higher is better."""
    return compare_strata([a_N], [b_N], names=names, level=level, resamples=resamples, seed=seed)


def compare_strata(
    a: Sequence[ArrayLike],
    b: Sequence[ArrayLike],
    weights: Sequence[float] | None = None,
    *,
    names: tuple[str, str] = ("A", "B"),
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """The same for averages of averages, weighted as in `bootstrap_strata`.

    A difference is called one only where both its interval leaves out 0 and the sign test over all
    entries has p < 1 − level. The sign test knows no weights: it guards against few entries.
    """
    if len(a) != len(b):
        raise ValueError(f"{names[0]} has {len(a)} strata, {names[1]} {len(b)}: pair them")
    pairs = []
    for g, (one, other) in enumerate(zip(a, b, strict=True)):
        one_N, other_N = _values(names[0], one), _values(names[1], other)
        if len(one_N) != len(other_N):
            raise ValueError(
                f"stratum {g}: {names[0]} has {len(one_N)} entries, {names[1]} {len(other_N)}: "
                "compare over the same entries"
            )
        pairs.append(one_N - other_N)
    difference = bootstrap_strata(pairs, weights, level=level, resamples=resamples, seed=seed)
    wins = sum(int((pair > 0).sum()) for pair in pairs)
    losses = sum(int((pair < 0).sum()) for pair in pairs)
    p = sign_test(wins, losses)
    verdict: Literal["better", "worse", "noise"] = "noise"
    if p < 1 - level and (difference.low > 0 or difference.high < 0):
        verdict = "better" if difference.low > 0 else "worse"
    ties = difference.count - wins - losses
    sentence = _sentence(difference, wins, losses, p, verdict, names)
    return Comparison(difference, wins, losses, ties, p, verdict, sentence)


def _sentence(
    difference: Interval, wins: int, losses: int, p: float, verdict: str, names: tuple[str, str]
) -> str:
    a, b = names
    count, size = difference.count, abs(difference.value)
    if count == 0:
        return f"There is no entry to compare {a} and {b} on."
    if wins == losses == 0:
        entries = "the one entry" if count == 1 else f"all {count} entries"
        return f"{a} and {b} have the same value on {entries}."
    if difference.low == -inf:
        return f"A stratum of one entry cannot tell {a} and {b} apart."
    low, high = difference.low, difference.high
    if difference.value < 0:
        low, high = -high, -low
    evidence = (
        f"({100 * difference.level:g} % interval {low:.4f} to {high:.4f} over {count} entries; "
        f"{a} better on {wins}, {b} on {losses}, sign test p = {p:.2g})"
    )
    if difference.value == 0:
        return f"{a} and {b} come out level {evidence}."
    if verdict == "noise":
        ahead = a if difference.value > 0 else b
        return f"{ahead} is ahead by {size:.4f}, which is within noise {evidence}."
    first, second = (a, b) if verdict == "better" else (b, a)
    return f"{first} is better than {second} by {size:.4f} {evidence}."


def _values(name: str, given: ArrayLike) -> np.ndarray:
    values = np.asarray(given)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "biuf"):
        raise ValueError(f"{name} has shape {values.shape}, {values.dtype}: give a row of numbers")
    values = values.astype(np.float64)
    if (bad := np.flatnonzero(~np.isfinite(values))).size:
        raise ValueError(f"{name}: entry {bad[0]} is {values[bad[0]]}: leave it out, or mend it")
    return values


def _weights(weights: Sequence[float] | None, strata: int) -> list[float]:
    if strata == 0:
        raise ValueError("there is no stratum: give at least one row of values")
    if weights is None:
        return [1 / strata] * strata
    if len(weights) != strata:
        raise ValueError(f"there are {len(weights)} weights, {strata} strata: give one for each")
    return [float(weight) for weight in weights]


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a share between 0 and 1, like 0.95")


def _t_bound(level: float, freedom: int) -> float:
    """The t that |T| stays below with this probability."""
    low, high = 0.0, pi / 2
    for _ in range(100):  # halving the angle whose tangent it is
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, freedom) < level else (low, middle)
    return sqrt(freedom) * tan(low)


def _t_inside(angle: float, freedom: int) -> float:
    """P(|T| ≤ √freedom · tan(angle)): Abramowitz and Stegun 26.7.3 and 26.7.4."""
    odd = freedom % 2
    term = cos(angle) if odd else 1.0
    total = 0.0
    for i in range(1 + odd, freedom, 2):
        total += term
        term *= cos(angle) ** 2 * i / (i + 1)
    return (angle + sin(angle) * total) * 2 / pi if odd else sin(angle) * total
