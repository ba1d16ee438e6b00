"""Several seeds of one thing: their mean, and how far it may be from the mean of all seeds.

mean ± t · s / √n        t so that Student's distribution with n − 1 degrees holds 95 % within
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Mark(NamedTuple):
    """A number and the ends of its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


def mean(values: Sequence[float]) -> Mark:
    """Of at least one; the interval needs two."""
    middle = statistics.fmean(values)
    if len(values) < 2:
        return Mark(middle)
    half = quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return Mark(middle, middle - half, middle + half)


def quantile(degrees: int, within: float = 0.95) -> float:
    """The t that |T| stays below with probability `within`."""
    low, high = 0.0, 1e4
    for _ in range(100):  # halves 1e4 down to a float's last bit
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < within else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """P(|T| < t), as the finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2
    term, total = (cosine, 0.0) if is_odd else (1.0, 0.0)
    for i in range(1 + is_odd, degrees, 2):
        total += term
        term *= cosine**2 * i / (i + 1)
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total
