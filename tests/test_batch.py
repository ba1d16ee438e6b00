"""Batches: every token once, every target where it belongs, nothing guessed from token values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax import batch
from star_jax.batch import Example

examples = st.lists(
    st.tuples(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 12)).map(
        lambda drawn: Example(drawn[0], min(drawn[1], len(drawn[0])))
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(examples, st.sampled_from([batch.pad, batch.pack]))
def test_every_example_stands_whole_in_one_place(given_examples: list, lay: object) -> None:
    made = lay(given_examples, 12)  # type: ignore[operator]  # pad and pack have one signature
    found = {}
    for row, index, place in batch.segments(made):
        assert index not in found
        found[index] = made.tokens_BT[row, place].tolist()
        example = given_examples[index]
        assert made.target_BT[row, place].tolist() == [*example.ids[1:], 0]
        weights = [0.0] * (example.n_prompt - 1) + [1.0] * (len(example.ids) - example.n_prompt)
        assert made.weight_BT[row, place].tolist() == [*weights, 0.0]
        assert set(made.example_BT[row, place].tolist()) == {index}
    assert found == {index: list(example.ids) for index, example in enumerate(given_examples)}
    empty = made.segment_BT == 0
    assert not made.weight_BT[empty].any()
    assert (made.example_BT[empty] == -1).all()
    learnt = sum(len(example.ids) - example.n_prompt for example in given_examples)
    assert made.loss_positions == learnt


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=40))
def test_first_fit_wastes_no_bin(lengths: list[int]) -> None:
    bins = batch.first_fit(lengths, 20)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in members) for members in bins]
    assert all(load <= 20 for load in loads)
    # No two bins could have been one: what opens a bin did not fit into any before it.
    for later, members in enumerate(bins):
        for earlier in range(later):
            before = [i for i in bins[earlier] if lengths[i] >= lengths[members[0]]]
            assert sum(lengths[i] for i in before) + lengths[members[0]] > 20


def test_packing_by_hand() -> None:
    given_examples = [Example([1, 2], 1), Example([3, 4, 5, 6], 2), Example([7, 8, 9], 3)]
    made = batch.pack(given_examples, 6, rows=3)
    assert made.tokens_BT.tolist() == [[3, 4, 5, 6, 1, 2], [7, 8, 9, 0, 0, 0], [0] * 6]
    assert made.segment_BT.tolist() == [[1, 1, 1, 1, 2, 2], [1, 1, 1, 0, 0, 0], [0] * 6]
    assert made.target_BT.tolist() == [[4, 5, 6, 0, 2, 0], [8, 9, 0, 0, 0, 0], [0] * 6]
    assert made.weight_BT.tolist() == [[0, 1, 1, 0, 1, 0], [0] * 6, [0] * 6]


def test_split_keeps_rows_in_order() -> None:
    made = batch.pad([Example([i, i, i], 1) for i in range(6)], 4)
    parts = batch.split(made, 3)
    assert parts.tokens_BT.shape == (3, 2, 4)
    np.testing.assert_array_equal(parts.tokens_BT.reshape(6, 4), made.tokens_BT)


@pytest.mark.parametrize(
    ("length", "size"), [(1, 128), (128, 128), (129, 192), (193, 256), (257, 384), (5000, 6144)]
)
def test_buckets(length: int, size: int) -> None:
    assert batch.bucket(length) == size


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="example w7: 5 tokens do not fit into rows of 4"):
        batch.pad([Example([1] * 5, 1, "w7")], 4)
    with pytest.raises(ValueError, match="example 0: 0 prompt tokens of 2; give 1 to 2"):
        batch.pad([Example([1, 2], 0)], 4)
    with pytest.raises(ValueError, match="2 rows are needed, there is room for 1"):
        batch.pad([Example([1], 1)] * 2, 4, rows=1)
    with pytest.raises(ValueError, match="6 rows do not divide into 4 micro-batches"):
        batch.split(batch.pad([Example([1], 1)] * 6, 4), 4)
