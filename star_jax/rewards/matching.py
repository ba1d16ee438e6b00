"""Which predicted call stands for which gold call, and what the pairs are worth together.

    R = Σ similarity(p, g) over pairs / (|P| + |G| − |pairs|)            (STAR, eq. 7)

Calls pair only with calls of the same name, one to one. Greedy (Algorithm 2): predictions in
order, each takes the most similar gold call still free, the first of equals; it takes one even
where the similarity is 0. Optimal: the pairing of the largest sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from star_jax.rewards.reward import Reward

Matching = Literal["greedy", "optimal"]
ArgumentsSimilarity = Callable[[Any, Any], float]


class Callish(Protocol):
    """Anything with a name and arguments: chat.Call, or a call as the reference reads it."""

    @property
    def name(self) -> Any: ...  # the reference lets any JSON value be a name

    @property
    def arguments(self) -> Any: ...  # and any be arguments


@dataclass(frozen=True, slots=True)
class Pair:
    """Predicted call number `predicted` stands for gold call number `gold`."""

    predicted: int
    gold: int
    similarity: float


def greedy(
    predicted: Sequence[Callish], gold: Sequence[Callish], similarity: ArgumentsSimilarity
) -> list[Pair]:
    """Each prediction, in order, takes the most similar gold call of its name that is free."""
    free = by_name(gold)
    pairs = []
    for index, call in enumerate(predicted):
        candidates = free.get(call.name)
        if not candidates:
            continue
        if len(candidates) == 1:
            last = candidates.pop()
            value = similarity(call.arguments, gold[last].arguments)
            pairs.append(Pair(index, last, value))
            continue
        best, best_at = -1.0, 0
        for at, candidate in enumerate(candidates):
            value = similarity(call.arguments, gold[candidate].arguments)
            if value > best:
                best, best_at = value, at
        pairs.append(Pair(index, candidates.pop(best_at), best))
    return pairs


def optimal(
    predicted: Sequence[Callish], gold: Sequence[Callish], similarity: ArgumentsSimilarity
) -> list[Pair]:
    """The one-to-one pairing, within names, whose similarities sum to the most."""
    theirs = by_name(gold)
    pairs = []
    for name, rows in by_name(predicted).items():
        columns = theirs.get(name, [])
        values = [
            [similarity(predicted[row].arguments, gold[column].arguments) for column in columns]
            for row in rows
        ]
        for row, column in assign(values):
            pairs.append(Pair(rows[row], columns[column], values[row][column]))
    return sorted(pairs, key=lambda pair: pair.predicted)


def by_name(calls: Sequence[Callish]) -> dict[Any, list[int]]:
    """The calls' numbers under their names, in order."""
    numbers: dict[Any, list[int]] = {}
    for index, call in enumerate(calls):
        numbers.setdefault(call.name, []).append(index)
    return numbers


def assign(values: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """(row, column) pairs, as many as fit, with the largest sum of values.

    The Hungarian algorithm by shortest augmenting paths with potentials (Jonker and Volgenant,
    1987), over the smaller side's rows.
    """
    if not values or not values[0]:
        return []
    if len(values) > len(values[0]):
        flipped = [list(column) for column in zip(*values, strict=True)]
        return sorted((row, column) for column, row in assign(flipped))
    search = _Search(values)
    for row in range(len(values)):
        search.admit(row)
    return sorted((row, column) for column, row in enumerate(search.row_of[:-1]) if row >= 0)


def calls_reward(total: float, paired: int, predicted: int, gold: int) -> Reward:
    """Eq. 7 from the pairs' summed similarity and the three counts."""
    union = predicted + gold - paired
    value = total / union
    return Reward(
        value,
        1.0,
        value,
        "calls",
        "{1} calls, {2} in the label, {0} paired: similarity {3:.4f} / {4}",
        (paired, predicted, gold, total, union),
        {"paired": paired, "predicted": predicted, "gold": gold, "similarity": total},
    )


class _Search:
    """The state of `assign`: prices, and the row that holds each column.

    Column number `width` is a place outside the table where the row that is being admitted waits.
    """

    def __init__(self, values: Sequence[Sequence[float]]) -> None:
        self.values = values
        self.width = len(values[0])
        self.row_price = [0.0] * len(values)
        self.column_price = [0.0] * (self.width + 1)
        self.row_of = [-1] * (self.width + 1)

    def admit(self, row: int) -> None:
        """Give the row a column, moving rows along the cheapest path to a free one."""
        self.row_of[self.width] = row
        came_from = [self.width] * self.width
        cost = [float("inf")] * self.width
        seen: list[int] = []
        column = self.width
        while self.row_of[column] >= 0:
            seen.append(column)
            column = self._step(column, set(seen), cost, came_from)
        while column != self.width:
            before = came_from[column]
            self.row_of[column] = self.row_of[before]
            column = before
        self.row_of[self.width] = -1

    def _step(self, column: int, seen: set[int], cost: list[float], came_from: list[int]) -> int:
        """Relax the edges of the row at a column; return the next cheapest column unseen."""
        row = self.row_of[column]
        unseen = [other for other in range(self.width) if other not in seen]
        for other in unseen:
            price = -self.values[row][other] - self.row_price[row] - self.column_price[other]
            if price < cost[other]:
                cost[other], came_from[other] = price, column
        nearest = min(unseen, key=cost.__getitem__)
        delta = cost[nearest]
        for other in seen:
            self.row_price[self.row_of[other]] += delta
            self.column_price[other] -= delta
        for other in unseen:
            cost[other] -= delta
        return nearest
