"""Which examples a step learns from, and how they lie in its rows: pure functions of the step.

    (seed, epoch, place) → example      a shuffled order per epoch, the same in every process
    step → Plan(examples, bins, shape)  `batch` examples a step, each in one of its rows
    Plan, rows → TokenBatch             [M, B, T]: micro-batches of rows of tokens

Nothing is remembered between steps, so a run goes on at any step from two integers, the seed and
the step; a process that holds some rows of a batch builds those alone. What a step learns from does
not depend on packing, on the size of micro-batches or on how many processes there are.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from star_jax import batch
from star_jax.batch import TokenBatch
from star_jax.data.encode import Examples


class Shape(NamedTuple):
    """The static shape of a step: one program is compiled for each."""

    micro: int  # M, micro-batches
    rows: int  # B, rows of a micro-batch, over all devices
    tokens: int  # T, places of a row
    targets: int  # R, loss positions that a row has room for


class Plan(NamedTuple):
    """What one step does."""

    step: int  # from 0
    indices: np.ndarray  # the examples, in the order of the data
    bins: list[list[int]]  # M · B rows, each with its examples; the last ones may be empty
    used: int  # micro-batches that are not empty
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The batches of a run over examples of these lengths."""

    length: np.ndarray  # tokens of each example
    n_target: np.ndarray  # of them, to be learnt
    batch: int  # examples a step
    rows: int  # rows of a micro-batch
    tokens: int  # places of a row where rows are packed, else the most that a row may have
    seed: int = 0
    epochs: float = 1.0
    max_steps: int | None = None
    packing: bool = True
    shuffle: bool = True

    def __post_init__(self) -> None:
        if len(self.length) == 0:
            raise ValueError("there is no example to learn from")
        if (longest := int(self.length.max())) > self.tokens:
            raise ValueError(f"an example has {longest} tokens, rows have room for {self.tokens}")
        if self.places == 0:
            raise ValueError(
                f"{self.epochs:g} epochs of {len(self.length)} examples are less than one example: "
                f"give at least {1 / len(self.length):.2g} epochs"
            )

    @property
    def places(self) -> int:
        """Examples that the whole run sees, repeated ones counted again."""
        whole = round(self.epochs * len(self.length))
        return whole if self.max_steps is None else min(whole, self.max_steps * self.batch)

    @property
    def steps(self) -> int:
        return -(-self.places // self.batch)

    def epoch(self, step: int) -> float:
        """How often the data have been seen after so many steps."""
        return min(step * self.batch, self.places) / len(self.length)

    def indices(self, step: int) -> np.ndarray:
        """The examples of a step. Batches run on across epochs' ends; the last is what is left."""
        place = np.arange(step * self.batch, min((step + 1) * self.batch, self.places))
        if not self.shuffle:
            return place % len(self.length)
        count = len(self.length)
        epochs = range(place[0] // count, place[-1] // count + 1)
        parts = [order(self.seed, e, count)[place[place // count == e] % count] for e in epochs]
        return np.concatenate(parts)

    def plan(self, step: int) -> Plan:
        if not 0 <= step < self.steps:
            raise ValueError(f"step {step} is none of the {self.steps} of this run")
        indices, bins, micro, tokens = self._bins(step)
        shape = Shape(_few(micro), self.rows, tokens, self._room(tokens))
        rows = shape.micro * self.rows
        return Plan(step, indices, bins + [[] for _ in range(rows - len(bins))], micro, shape)

    def shapes(self) -> dict[Shape, int]:
        """Every shape that the run will meet, and in how many steps."""
        counts, _ = self._survey
        return {Shape(m, self.rows, t, self._room(t)): n for (m, t), n in sorted(counts.items())}

    @functools.cached_property
    def _survey(self) -> tuple[Counter[tuple[int, int]], dict[int, int]]:
        """All steps looked at once: how often each shape comes, and the most loss positions that a
        row of T places ever has."""
        counts: Counter[tuple[int, int]] = Counter()
        most: dict[int, int] = {}
        for step in range(self.steps):
            _, bins, micro, T = self._bins(step)
            counts[_few(micro), T] += 1
            fullest = max(int(self.n_target[members].sum()) for members in bins)
            most[T] = max(most.get(T, 1), fullest)
        return counts, most

    def _room(self, tokens: int) -> int:
        """Loss positions of the fullest row of T places in the whole run, rounded up."""
        return min(batch.bucket(self._survey[1][tokens], smallest=32), tokens)

    def _bins(self, step: int) -> tuple[np.ndarray, list[list[int]], int, int]:
        indices = self.indices(step)
        length = self.length[indices]
        if self.packing:
            tokens = self.tokens
            bins = batch.first_fit(length.tolist(), tokens)
            dealt = [[int(indices[i]) for i in members] for members in bins]
        else:
            tokens = min(batch.bucket(int(length.max())), self.tokens)
            dealt = [[int(i)] for i in indices]
        return indices, dealt, -(-len(dealt) // self.rows), tokens


def _few(micro: int) -> int:
    """1, 2, 3, 4, 6, 8, 12, …: room for so many micro-batches, so that few programs do for all."""
    return 1 if micro == 1 else batch.bucket(micro, smallest=2)


@functools.lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """A permutation of the examples, from two integers. By our own arithmetic: NumPy's generators
    may shuffle otherwise in another version."""
    index = np.arange(count, dtype=np.uint64)
    keys = _mix(_mix(_mix(np.uint64(seed % 2**64)) + np.uint64(epoch)) + index)
    return np.argsort(keys, kind="stable")


def _mix(x: np.ndarray | np.uint64) -> np.ndarray:
    """The finalizer of splitmix64: every bit of the result depends on every bit of x."""
    with np.errstate(over="ignore"):
        z = np.asarray(x, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def lay_out(plan: Plan, examples: Examples, rows: slice = slice(None)) -> TokenBatch:
    """The rows [M, rows, T] of a step; `example_BT` numbers examples as `examples` does."""
    M, _, T, _ = plan.shape
    chosen = bins_of(plan, rows)
    made = batch.lay_out(examples, chosen, T, len(chosen))
    return batch.split(made, M)


def bins_of(plan: Plan, rows: slice) -> list[list[int]]:
    """The bins of these rows of every micro-batch, micro-batch by micro-batch."""
    M, B = plan.shape.micro, plan.shape.rows
    return [plan.bins[m * B + row] for m in range(M) for row in range(B)[rows]]


def targets_of(
    plan: Plan, n_target: np.ndarray, rows: slice
) -> Sequence[tuple[int, int, int, int, int]]:
    """(micro, row, first, count, example) of every target in these rows: where a teacher's words on
    it belong in arrays [M, rows, R, ...], which hold a row's targets one after the other."""
    per_micro = len(range(plan.shape.rows)[rows])
    found = []
    for number, members in enumerate(bins_of(plan, rows)):
        first = 0
        for index in members:
            count = int(n_target[index])
            found.append((number // per_micro, number % per_micro, first, count, index))
            first += count
    return found
