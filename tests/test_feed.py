"""What a step learns from is decided by two integers, and by nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from star_jax.data import feed
from star_jax.data.encode import Examples
from star_jax.data.feed import Feed


def examples(count: int, seed: int = 0, longest: int = 60) -> Examples:
    rng = np.random.default_rng(seed)
    length = rng.integers(4, longest, count)
    return Examples(
        "rows.jsonl",
        rng.integers(0, 100, length.sum()).astype(np.int32),
        np.concatenate([[0], np.cumsum(length)]),
        np.maximum(1, length // 2).astype(np.int32),
        np.arange(1, count + 1),
        tuple(map(str, range(count))),
    )


def make(held: Examples, **changes: object) -> Feed:
    options = {"batch": 8, "rows": 2, "tokens": 64, "seed": 3, "epochs": 2.0} | changes
    return Feed(length=held.lengths, n_target=held.n_target, **options)  # ty: ignore


@pytest.mark.parametrize(("count", "batch", "epochs"), [(50, 8, 3.0), (7, 16, 2.0), (33, 4, 1.5)])
def test_each_epoch_goes_through_every_example_once(count: int, batch: int, epochs: float) -> None:
    made = make(examples(count), batch=batch, epochs=epochs)
    seen = np.concatenate([made.indices(step) for step in range(made.steps)])
    assert len(seen) == round(epochs * count)
    for first in range(0, len(seen) - count + 1, count):
        assert sorted(seen[first : first + count]) == list(range(count))
    assert [len(made.indices(step)) for step in range(made.steps - 1)] == [batch] * (made.steps - 1)


def test_the_order_is_another_in_each_epoch_and_for_each_seed() -> None:
    orders = [tuple(feed.order(seed, epoch, 100)) for seed in range(4) for epoch in range(4)]
    assert len(set(orders)) == 16
    # Fixed: a run that is resumed with another version of anything finds its place again.
    assert feed.order(0, 0, 10).tolist() == [4, 8, 0, 1, 7, 6, 2, 5, 3, 9]
    # No place of the order prefers an example.
    firsts = Counter(int(feed.order(seed, 0, 5)[0]) for seed in range(2000))
    assert all(abs(count - 400) < 100 for count in firsts.values())


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 8])
def test_a_step_learns_from_the_same_examples_however_they_lie(packing: bool, rows: int) -> None:
    held = examples(40)
    made, plain = make(held, packing=packing, rows=rows), make(held, packing=False, rows=1)
    for step in range(made.steps):
        plan = made.plan(step)
        assert sorted(i for members in plan.bins for i in members) == sorted(plain.indices(step))
        batch = feed.lay_out(plan, held)
        M, B, T, R = plan.shape
        assert batch.tokens_BT.shape == (M, rows, T) == (M, B, T)
        assert batch.loss_positions == held.n_target[plan.indices].sum()
        assert np.count_nonzero(batch.weight_BT, axis=2).max() <= R
        assert not batch.segment_BT[plan.used :].any()
        assert batch.segment_BT[: plan.used].any(axis=(1, 2)).all()


def test_a_process_builds_only_its_rows() -> None:
    held = examples(40)
    plan = make(held, rows=4).plan(2)
    whole = feed.lay_out(plan, held)
    for part in (slice(0, 1), slice(1, 3), slice(3, 4)):
        own = feed.lay_out(plan, held, part)
        for mine, all_rows in zip(own, whole, strict=True):
            np.testing.assert_array_equal(mine, all_rows[:, part])


def test_targets_are_found_where_the_rows_have_them() -> None:
    held = examples(40)
    plan = make(held, rows=4).plan(1)
    for part in (slice(0, 4), slice(1, 3)):
        batch = feed.lay_out(plan, held, part)
        told = np.full((*batch.tokens_BT.shape[:2], plan.shape.targets), -1)
        for m, row, first, count, index in feed.targets_of(plan, held.n_target, part):
            told[m, row, first : first + count] = held[index].ids[held.n_prompt[index] :]
        for m, row in np.ndindex(told.shape[:2]):
            learnt = batch.target_BT[m, row][batch.weight_BT[m, row] > 0]
            assert told[m, row][told[m, row] >= 0].tolist() == learnt.tolist()


@pytest.mark.parametrize("packing", [True, False])
def test_the_shapes_of_a_run_are_known_before_it(packing: bool) -> None:
    made = make(examples(200, longest=60), packing=packing, batch=16, epochs=3.0)
    met = Counter(made.plan(step).shape for step in range(made.steps))
    assert made.shapes() == met
    assert len(met) <= 4


def test_steps_end_where_they_are_told_to() -> None:
    made = make(examples(40), max_steps=3)
    assert made.steps == 3
    assert made.epoch(3) == 24 / 40
    with pytest.raises(ValueError, match="step 3 is none of the 3 of this run"):
        made.plan(3)


def test_evaluation_goes_through_the_file_in_its_order() -> None:
    made = make(examples(20), shuffle=False, epochs=1.0)
    assert np.concatenate([made.indices(s) for s in range(made.steps)]).tolist() == list(range(20))


def test_examples_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="an example has 59 tokens, rows have room for 58"):
        make(examples(200), tokens=58)


@pytest.mark.parametrize(("count", "epochs"), [(40, 0.01), (1, 0.5)])
def test_epochs_without_a_single_example_are_refused(count: int, epochs: float) -> None:
    """They would end at once, and export the model that they began with."""
    with pytest.raises(ValueError, match=f"{epochs} epochs of {count} examples are less than one"):
        make(examples(count), epochs=epochs)
