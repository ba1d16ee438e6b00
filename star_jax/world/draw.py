"""Random choices that an identity alone decides: the same on every machine and Python.

Of the standard generator only `random()` is used, whose sequence Python promises to keep; what is
made of it here is ours.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A stream of choices. Equal identities give equal streams; nothing global is touched."""

    def __init__(self, *identity: str | int) -> None:
        text = "\0".join(map(str, identity))
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        self._next = random.Random(int.from_bytes(digest, "big")).random

    def chance(self, probability: float) -> bool:
        return self._next() < probability

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self._next() * (high - low + 1))

    def pick(self, values: Sequence[T]) -> T:
        return values[self.whole(0, len(values) - 1)]

    def weighted(self, weights: dict[T, int]) -> T:
        left = self.whole(1, sum(weights.values()))
        for value, weight in weights.items():
            left -= weight
            if left <= 0:
                return value
        raise AssertionError("weights are whole and positive")

    def some(self, values: Sequence[T], count: int) -> list[T]:
        """So many of them, no place twice, in any order."""
        left = list(values)
        return [left.pop(self.whole(0, len(left) - 1)) for _ in range(count)]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        return self.some(values, len(values))
