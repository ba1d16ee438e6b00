"""Token ids into batches: pad, pack, split. NumPy in, NumPy out; lengths and masks are data.

    Example(ids, n_prompt)  --pad | pack-->  TokenBatch  --split-->  micro-batches

A batch says for every place which token stands there, which segment it belongs to, which token
should come next, and how much that prediction counts. Nothing is inferred from token values: Qwen's
padding id is an ordinary token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Example(NamedTuple):
    """One sequence: a prompt and what should follow it, as token ids."""

    ids: Sequence[int] | np.ndarray
    n_prompt: int  # how many of them are prompt; the rest is learnt
    row_id: str = ""


class TokenBatch(NamedTuple):
    """B rows of T places. A pytree: every field is an array of [B, T]."""

    tokens_BT: np.ndarray  # int32; 0 where there is none
    segment_BT: np.ndarray  # int32; 1, 2, … within a row, 0 where there is no token
    target_BT: np.ndarray  # int32; the token that follows in the same segment, else 0
    weight_BT: np.ndarray  # float32; 1 where the target is to be learnt, else 0
    example_BT: np.ndarray  # int32; the example's index in what was packed, -1 where there is none

    @property
    def loss_positions(self) -> int:
        """How many predictions count."""
        return int(np.count_nonzero(self.weight_BT))


def pad(examples: Sequence[Example], T: int, rows: int | None = None) -> TokenBatch:
    """One example a row, padded on the right to T; with `rows`, filled up with empty rows."""
    bins = [[index] for index in range(len(examples))]
    return lay_out(examples, bins, T, len(bins) if rows is None else rows)


def pack(examples: Sequence[Example], T: int, rows: int | None = None) -> TokenBatch:
    """Several examples a row, first fit in order of falling length."""
    bins = first_fit([len(example.ids) for example in examples], T)
    return lay_out(examples, bins, T, len(bins) if rows is None else rows)


def first_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Indices of the lengths, dealt into bins of `room`: longest first, each into the first bin
    that still has room for it. Equal lengths keep their order, so the result is determined."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    bins: list[list[int]] = []
    free = np.zeros(0, np.int64)
    for index in order:
        fits = np.flatnonzero(free >= lengths[index])
        if fits.size:
            at = int(fits[0])
        else:
            at = len(bins)
            bins.append([])
            free = np.append(free, room)
        bins[at].append(index)
        free[at] -= lengths[index]
    return bins


def lay_out(
    examples: Sequence[Example], bins: Sequence[Sequence[int]], T: int, rows: int
) -> TokenBatch:
    """The batch in which row b holds the examples of bin b, one after the other."""
    if len(bins) > rows:
        raise ValueError(f"{len(bins)} rows are needed, there is room for {rows}")
    batch = TokenBatch(
        tokens_BT=np.zeros((rows, T), np.int32),
        segment_BT=np.zeros((rows, T), np.int32),
        target_BT=np.zeros((rows, T), np.int32),
        weight_BT=np.zeros((rows, T), np.float32),
        example_BT=np.full((rows, T), -1, np.int32),
    )
    for row, members in enumerate(bins):
        start = 0
        for segment, index in enumerate(members, start=1):
            end = start + len(examples[index].ids)
            _place(batch, row, slice(start, end), segment, index, examples[index])
            start = end
    return batch


def _place(
    batch: TokenBatch, row: int, place: slice, segment: int, index: int, example: Example
) -> None:
    count = len(example.ids)
    T = batch.tokens_BT.shape[1]
    where = f"example {example.row_id or index}"
    if not 0 < example.n_prompt <= count:
        raise ValueError(f"{where}: {example.n_prompt} prompt tokens of {count}; give 1 to {count}")
    if place.stop > T:
        raise ValueError(f"{where}: {count} tokens do not fit into rows of {T}")
    ids = np.asarray(example.ids, np.int32)
    batch.tokens_BT[row, place] = ids
    batch.segment_BT[row, place] = segment
    batch.example_BT[row, place] = index
    batch.target_BT[row, place.start : place.stop - 1] = ids[1:]
    # The last prompt token predicts the first one that is learnt.
    batch.weight_BT[row, place.start + example.n_prompt - 1 : place.stop - 1] = 1


def split(batch: TokenBatch, count: int) -> TokenBatch:
    """[B, T] → [count, B / count, T]: what a scan over micro-batches eats."""
    rows = batch.tokens_BT.shape[0]
    if rows % count:
        raise ValueError(f"{rows} rows do not divide into {count} micro-batches")
    return TokenBatch(*(field.reshape(count, rows // count, *field.shape[1:]) for field in batch))


def bucket(length: int, smallest: int = 128) -> int:
    """The next of 128, 192, 256, 384, 512, …: two shapes an octave, so that few are compiled."""
    if smallest < 2 or smallest & (smallest - 1):
        raise ValueError(f"the smallest size is a power of two from 2 on, got {smallest}")
    size = smallest
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def segments(batch: TokenBatch) -> Iterator[tuple[int, int, slice]]:
    """(row, example, place) of every segment, in the order of rows and places."""
    for row, (segment_T, example_T) in enumerate(
        zip(batch.segment_BT, batch.example_BT, strict=True)
    ):
        for segment in range(1, int(segment_T.max(initial=0)) + 1):
            places = np.flatnonzero(segment_T == segment)
            yield row, int(example_T[places[0]]), slice(int(places[0]), int(places[-1]) + 1)
