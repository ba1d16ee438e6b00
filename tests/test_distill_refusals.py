"""What distillation refuses, and in which words; the warning; which tokens a mask selects."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.train import distill
from star_jax.train.distill import presets

N, V, C = 2, 7, 3
LOGITS = jnp.zeros((N, V))
DENSE = distill.Dense(LOGITS)
STORED = distill.truncate(DENSE, C)
DRAWN = distill.Drawn(jnp.zeros((N, C), jnp.int32), jnp.ones((N, C), jnp.int32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ckd"}, "kind must be one of fkl, rkl, mixed, akl, jsd, rskd, alter; got 'ckd'"),
        ({"support": "all"}, "support must be one of teacher, student, union, vocabulary; got"),
        ({"tail": "keep"}, "tail must be one of penalise, drop, renormalise, bucket, zero; got"),
        ({"boundary": "mid"}, "boundary must be one of star, author, roll; got 'mid'"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"student_top_m": -1}, "student_top_m must be >= 1, got -1"),
        ({"kd_ratio": 1.5}, r"kd_ratio must lie in \[0, 1\], got 1.5"),
        ({"beta": -0.1}, r"beta must lie in \[0, 1\], got -0.1"),
        ({"forward_weight": 2.0}, r"forward_weight must lie in \[0, 1\], got 2.0"),
        ({"head_mass": 1.0}, r"head_mass must lie in \(0, 1\), got 1.0"),
        ({"tail_weight": -1.0}, "tail_weight must be >= 0, got -1.0"),
        ({"tail_weight": float("nan")}, "tail_weight must be >= 0, got nan"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"logp_floor": 0.5}, "logp_floor must be < 0 or None, got 0.5"),
        ({"kind": "alter", "support": "union"}, "support must be 'teacher', got 'union'"),
        ({"kind": "rskd", "support": "student"}, "support must be 'teacher', got 'student'"),
        ({"kind": "rskd", "tail": "bucket"}, "tail must be 'penalise' or 'drop', got 'bucket'"),
        ({"support": "vocabulary", "tail": "bucket"}, "has no tail to renormalise or to put in"),
        ({"kind": "jsd", "tail": "zero"}, "defined for kinds fkl, rkl and mixed over support"),
        ({"support": "union", "tail": "zero"}, "got kind 'fkl' over 'union'"),
    ],
)
def test_an_objective_that_makes_no_sense_cannot_be_built(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        distill.Objective(**options)


WIDER = distill.Dense(jnp.zeros((N, V + 5)))
LONGER = distill.Dense(jnp.zeros((N + 1, V)))
BOTH = distill.Dense(LOGITS, seed_N=jnp.zeros(N, jnp.uint32), count_NV=LOGITS)


@pytest.mark.parametrize(
    ("options", "teacher", "message"),
    [
        ({}, WIDER, f"the student scores {V} tokens and the teacher {V + 5}: if the surplus is"),
        ({}, LONGER, r"student logits are \(2, 7\) and teacher logits \(3, 7\)"),
        ({}, LOGITS, "a teacher is Dense, TopK or Drawn, got DynamicJaxprTracer"),
        ({"kd_ratio": 0.5}, DENSE, "mixes in cross-entropy, which needs labels"),
        ({"kind": "rskd"}, DENSE, "needs either seeds .* or the counts that were drawn"),
        ({"kind": "rskd"}, BOTH, "and not both"),
        ({"kind": "rskd"}, STORED, "samples the whole teacher, of which a stored top-k is only"),
        ({"support": "student", "top_k": C}, STORED, "support 'student' asks for teacher log-pr"),
        ({"support": "union", "top_k": C}, STORED, "support 'union' asks for teacher log-probs"),
        ({"support": "vocabulary"}, STORED, "support 'vocabulary' asks for teacher log-probs"),
        ({"top_k": C + 1}, STORED, "top_k is 4 and the store holds 3 tokens per position"),
        ({"top_k": C, "temperature": 2.0}, STORED, "needs the teacher's whole softmax"),
        ({}, DRAWN, "kind 'fkl' needs the teacher's log-probs and got draws: use kind 'rskd'"),
        ({"kind": "rskd"}, DRAWN, "holds the student to the teacher's top-k, which draws do not"),
    ],
)
def test_a_teacher_that_cannot_answer_is_refused_before_anything_runs(
    options: dict[str, Any], teacher: Any, message: str
) -> None:
    objective = distill.Objective(**options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(objective, LOGITS, teacher)


def test_logits_are_positions_by_tokens() -> None:
    with pytest.raises(ValueError, match=r"student logits must be \[N, V\], got shape \(1, 2, 7\)"):
        jax.eval_shape(distill.Objective(), LOGITS[None], DENSE)


def test_a_small_vocabulary_may_be_stored_whole() -> None:
    """No store can hold more tokens than there are."""
    stored = distill.truncate(DENSE, 100)
    assert stored.ids_NC.shape == (N, V)
    jax.eval_shape(distill.Objective(top_k=100), LOGITS, stored)


def test_a_renormalised_list_takes_any_temperature() -> None:
    teacher_NV = jnp.asarray(np.random.default_rng(0).normal(0, 2, (N, V)), jnp.float32)
    objective = distill.Objective(tail="renormalise", top_k=C, temperature=2.0)
    dense = distill.Dense(teacher_NV)
    live_N, _ = objective(LOGITS, dense)
    stored_N, metrics = objective(LOGITS, distill.truncate(dense, C))
    np.testing.assert_allclose(stored_N, live_N, atol=1e-6)
    assert "distill/teacher_mass" not in metrics


COLLAPSING = [
    {"kind": "mixed", "forward_weight": 0.0, "tail": "drop"},
    {"kind": "rkl", "tail": "drop"},
    {"kind": "rkl", "tail_weight": 0.0},
    {"kind": "jsd", "beta": 1.0, "tail": "drop"},
    {"kind": "rkl", "support": "student", "tail": "drop"},
    presets.star("rkl", tail_weight=0.0),
]
HELD = [
    {"kind": "rkl"},
    {"kind": "rkl", "tail": "bucket"},
    {"kind": "rkl", "tail": "renormalise"},
    {"kind": "rkl", "tail": "zero"},
    {"kind": "rkl", "support": "vocabulary", "tail": "drop"},
    {"kind": "fkl", "tail": "drop"},
    {"kind": "jsd", "beta": 0.9, "tail": "drop"},
    presets.star("rkl"),
    presets.nemo("rkl"),
    presets.nemo("mixed", zero_outside=True),
    presets.verl(),
    presets.sdft(1.0),
    presets.gkd(1.0),
]


@pytest.mark.parametrize("options", COLLAPSING, ids=str)
def test_reverse_kl_with_a_dropped_tail_warns_why_and_once(options: dict[str, Any]) -> None:
    with pytest.warns(distill.DroppedTailWarning, match=r"is -q_j·S.*descent raises") as caught:
        objective = distill.Objective(**options)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    # Tracing it, as each chunk and each retrace does, is silent: warnings are errors here.
    jax.eval_shape(objective, LOGITS, DENSE)


@pytest.mark.parametrize("options", HELD, ids=str)
def test_nothing_warns_where_the_tail_is_held(options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distill.Objective(**options)


def test_the_dropped_tail_does_rise() -> None:
    """What the warning says, seen: a step of descent moves mass out of the support."""
    teacher_NV = jnp.asarray([[3.0, 2.0, -1.0, -2.0]])
    student_NV = jnp.asarray([[3.5, 1.0, 0.0, 0.0]])
    with pytest.warns(distill.DroppedTailWarning):
        objective = distill.Objective(kind="rkl", tail="drop", top_k=2)

    def total(logits_NV: jax.Array) -> jax.Array:
        return objective(logits_NV, distill.Dense(teacher_NV))[0].sum()

    moved_NV = student_NV - jax.grad(total)(student_NV)
    before, after = (jax.nn.softmax(x)[0, 2:].sum() for x in (student_NV, moved_NV))
    assert after > before


# Masks. Token 9 ends the thinking; the first two tokens of a row are its prompt.
TOKENS = np.array(
    [
        [9, 5, 1, 9, 2, 9, 3, 4, 0],  # two ends in the target, one in the prompt
        [5, 9, 1, 2, 3, 4, 0, 0, 9],  # none in the target, but before and after it
        [5, 5, 9, 1, 2, 3, 9, 0, 9],  # the last target token ends the thinking
    ]
)
MASK = np.array(
    [[0, 0, 1, 1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 0, 0]]
)
THINK = np.array([[0, 0, 1, 1, 1, 1, 0, 0, 0], [0] * 9, [0, 0, 1, 1, 1, 1, 1, 0, 0]])


def test_masks_part_the_target_after_its_last_end_of_think() -> None:
    def select(kind: distill.Part) -> np.ndarray:
        return np.asarray(distill.select_mask(TOKENS, MASK, kind, end_of_think_id=9)).astype(int)

    np.testing.assert_array_equal(select("all"), MASK)
    np.testing.assert_array_equal(select("think"), THINK)
    np.testing.assert_array_equal(select("answer"), MASK - THINK)
    expected = np.stack([THINK[0], (MASK - THINK)[1], THINK[2]])
    np.testing.assert_array_equal(select("alternating"), expected)


def test_alternation_goes_by_the_sample_not_by_the_row() -> None:
    sample = np.broadcast_to(np.array([[7], [3], [5]]), TOKENS.shape)
    got = distill.select_mask(TOKENS, MASK, "alternating", end_of_think_id=9, sample=sample)
    np.testing.assert_array_equal(np.asarray(got).astype(int), MASK - THINK)


def test_packed_targets_have_their_own_ends() -> None:
    """Rows 0, 1 and 2 in one row, and padding: each is parted as if it were alone."""
    tokens, mask, think = (
        np.concatenate([x.reshape(1, -1), np.zeros((1, 2), int)], axis=1)
        for x in (TOKENS, MASK, THINK)
    )
    segment = np.concatenate([np.repeat([1, 2, 3], TOKENS.shape[1]), [0, 0]])[None]
    got = distill.select_mask(tokens, mask, "think", end_of_think_id=9, segment=segment)
    np.testing.assert_array_equal(np.asarray(got).astype(int), think)


def test_a_mask_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of all, think, answer, alternating; got 'x'"):
        distill.select_mask(TOKENS, MASK, "x", end_of_think_id=9)  # ty: ignore[invalid-argument-type]
