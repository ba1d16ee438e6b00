"""What must hold of every distillation objective, on logits of no particular origin."""

from __future__ import annotations

import functools
import itertools
import warnings
from typing import Any

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.train import distill
from star_jax.train.distill.teacher import _hit, contains

# Hypothesis draws shapes, and each of them is a program to compile.
pytestmark = pytest.mark.slow

N, V = 4, 13
QUICK: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}
LISTS = {"top_k": 5, "student_top_m": 4, "tail_weight": 3.0}

# Every kind, and every place to compare at. What a kind computes does not depend on the place, so
# forward KL goes everywhere and the others where a list is, where a bucket is, and where all is.
KINDS: list[dict[str, Any]] = [
    {"kind": "rkl"},
    {"kind": "mixed", "forward_weight": 0.3},
    {"kind": "akl"},
    {"kind": "akl", "boundary": "author", "weight_grad": False},
    {"kind": "akl", "boundary": "roll", "head_mass": 0.7},
    {"kind": "jsd", "beta": 0.2},
    {"kind": "fkl", "clamp": True, "logp_floor": -3.0},
]
PLACES: list[dict[str, Any]] = [
    {"support": support, "tail": tail}
    for support, tail in itertools.product(
        ("teacher", "student", "union"), ("penalise", "drop", "renormalise", "bucket")
    )
] + [{"support": "vocabulary", "tail": tail} for tail in ("penalise", "drop")]
FEW_PLACES: list[dict[str, Any]] = [
    {"support": "teacher", "tail": "penalise"},
    {"support": "teacher", "tail": "bucket"},
    {"support": "vocabulary", "tail": "drop"},
]
ZEROED: list[dict[str, Any]] = [{"kind": kind, "tail": "zero"} for kind in ("fkl", "rkl", "mixed")]
EVERYTHING = (
    [LISTS | {"kind": "fkl"} | place for place in PLACES]
    + [LISTS | kind | place for kind in KINDS for place in FEW_PLACES]
    + [LISTS | zeroed for zeroed in ZEROED]
)
ON_A_LIST = [options for options in EVERYTHING if options.get("support", "teacher") == "teacher"]


def name(options: dict[str, Any]) -> str:
    return "-".join(str(value) for key, value in options.items() if key not in LISTS)


def build(options: dict[str, Any]) -> distill.Objective:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", distill.DroppedTailWarning)
        return distill.Objective(**options)


def logits(seed: int, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    student_NV, teacher_NV = np.random.default_rng(seed).normal(0, scale, (2, N, V))
    return student_NV, teacher_NV


Answer = tuple[tuple[jax.Array, dict[str, jax.Array]], jax.Array]


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def _measure_all(objectives: tuple[distill.Objective, ...], student_NV: Any, teacher: Any) -> Any:
    def total(student_NV: jax.Array, objective: distill.Objective) -> tuple[jax.Array, Any]:
        loss_N, metrics = objective(student_NV, teacher)
        return loss_N.sum(), (loss_N, metrics)

    answers = []
    for objective in objectives:
        (_, answer), grad_NV = jax.value_and_grad(total, has_aux=True)(student_NV, objective)
        answers.append((answer, grad_NV))
    return answers


def measure_all(all_options: list[dict[str, Any]], student_NV: Any, teacher: Any) -> list[Answer]:
    """Losses, metrics and the gradient of Σ losses of many objectives, from one program: compiling
    is what takes long, and they share the most of it."""
    objectives = tuple(build(options) for options in all_options)
    return jax.device_get(_measure_all(objectives, student_NV, teacher))


def measure(options: dict[str, Any], student_NV: Any, teacher: Any) -> Answer:
    return measure_all([options], student_NV, teacher)[0]


SLOPE_STEP_NV = 1e-5 * np.random.default_rng(6).normal(0, 1, (N, V))
ORDER_V = np.random.default_rng(6).permutation(V)


@pytest.fixture(scope="module")
def near() -> dict[str, Answer]:
    """Every objective at 4 positions, a step up and down from there, and with tokens renamed."""
    student_NV, teacher_NV = logits(5)
    step_NV = SLOPE_STEP_NV
    students = [student_NV, student_NV + step_NV, student_NV - step_NV, student_NV[:, ORDER_V]]
    teachers = [teacher_NV, teacher_NV, teacher_NV, teacher_NV[:, ORDER_V]]
    # A stopped gradient is no slope.
    all_options = [options | {"weight_grad": True} for options in EVERYTHING]
    with jax.enable_x64(True):
        teacher = distill.Dense(np.concatenate(teachers))
        answers = measure_all(all_options, np.concatenate(students), teacher)
    return dict(zip(map(name, EVERYTHING), answers, strict=True))


@pytest.mark.parametrize("label", [name(options) for options in EVERYTHING])
def test_gradients_are_slopes_and_tokens_have_no_order(near: dict[str, Answer], label: str) -> None:
    (loss_N, _), grad_NV = near[label]
    here_N, up_N, down_N, renamed_N = np.split(np.asarray(loss_N), 4)
    slope_N = np.sum(grad_NV[:N] * 2 * SLOPE_STEP_NV, axis=1)
    np.testing.assert_allclose(slope_N, up_N - down_N, rtol=1e-5, atol=1e-10)
    np.testing.assert_allclose(renamed_N, here_N, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(grad_NV[3 * N :], grad_NV[:N, ORDER_V], rtol=1e-8, atol=1e-12)


def test_a_stored_list_is_as_good_as_the_logits() -> None:
    student_NV, teacher_NV = logits(8)
    all_options = [options | {"kd_ratio": 0.6} for options in ON_A_LIST]
    with jax.enable_x64(True):
        dense = distill.Dense(jnp.asarray(teacher_NV), jnp.arange(N))
        stored = distill.truncate(dense, top_k=9)
        live = measure_all(all_options, student_NV, dense)
        cut = measure_all(all_options, student_NV, stored)
        for options, a, b in zip(all_options, live, cut, strict=True):
            _assert_same(a, b, name(options))
        bucket = LISTS | {"tail": "bucket"}
        a = measure(bucket, student_NV, stored)
        b = measure(bucket, student_NV, stored._replace(tail_logp_N=None))
        _assert_same(a, b, "tail unknown")


def _assert_same(a: Any, b: Any, label: str) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b), label
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12, err_msg=label)


def test_a_stored_tail_stands_for_what_rounding_lost() -> None:
    """Log-probs kept in bfloat16 no longer say what they leave of 1; the stored tail does."""
    student_NV, teacher_NV = logits(8)
    options = LISTS | {"kind": "fkl", "tail": "bucket"}
    dense = distill.Dense(jnp.asarray(teacher_NV, jnp.float32))
    (exact_N, _), _ = measure(options, student_NV, dense)
    stored = distill.truncate(dense, 5)
    rounded = stored._replace(logp_NC=stored.logp_NC.astype(jnp.bfloat16))
    (with_N, _), _ = measure(options, student_NV, rounded)
    (without_N, _), _ = measure(options, student_NV, rounded._replace(tail_logp_N=None))
    assert np.abs(with_N - exact_N).sum() < np.abs(without_N - exact_N).sum()


def _extremes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    huge_NV, other_NV = 1e4 * rng.choice([-1.0, 1.0], (2, N, V))
    spread_NV = rng.uniform(-1e4, 1e4, (N, V))
    flat_NV = np.zeros((N, V))
    shut_NV = np.where(np.arange(V) % 3 == 0, -np.inf, flat_NV)
    return {
        "huge": (huge_NV, other_NV),
        "opposite": (huge_NV, -huge_NV),
        "equal": (spread_NV, spread_NV),
        "spread": (spread_NV, -spread_NV),
        "ties": (flat_NV, flat_NV),
        "certain teacher": (flat_NV, spread_NV),
        "certain student": (spread_NV, flat_NV),
        "far from zero": (rng.normal(1e4, 1, (N, V)), rng.normal(-1e4, 1, (N, V))),
        "shut tokens": (shut_NV, shut_NV),
    }


EXTREMES = _extremes()
EXTREME_STUDENT, EXTREME_TEACHER = (
    np.concatenate([pair[side] for pair in EXTREMES.values()]).astype(np.float32) for side in (0, 1)
)


def test_extreme_logits_give_finite_losses_and_gradients() -> None:
    labels = np.repeat(list(EXTREMES), N)
    answers = measure_all(EVERYTHING, EXTREME_STUDENT, distill.Dense(EXTREME_TEACHER))
    for options, answer in zip(EVERYTHING, answers, strict=True):
        for leaf in jax.tree.leaves(answer):
            broken_N = ~np.isfinite(leaf.reshape(len(labels), -1)).all(axis=1)
            assert not broken_N.any(), (name(options), set(labels[broken_N]))


@pytest.mark.parametrize("k", [1, V, V + 87])
def test_lists_of_one_token_and_of_all_of_them(k: int) -> None:
    student_NV, teacher_NV = (x.astype(np.float32) for x in logits(2))
    lists = {"kind": "rkl", "top_k": k, "student_top_m": k}
    whole = {"kind": "rkl", "support": "vocabulary", "tail": "drop"}
    all_options = [lists | place for place in [*PLACES, {"tail": "zero"}]]
    answers = measure_all([whole, *all_options], student_NV, distill.Dense(teacher_NV))
    for options, answer in zip(all_options, answers[1:], strict=True):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(answer))
        if k >= V:
            # No tail is left, so that all ways of closing it agree with the whole vocabulary.
            label = name(options)
            np.testing.assert_allclose(answer[0][0], answers[0][0][0], atol=1e-5, err_msg=label)
            np.testing.assert_allclose(answer[1], answers[0][1], atol=1e-5, err_msg=label)


def test_one_renormalised_token_teaches_nothing() -> None:
    student_NV, teacher_NV = logits(4)
    options = {"top_k": 1, "tail": "renormalise"}
    (loss_N, _), grad_NV = measure(options, student_NV, distill.Dense(jnp.asarray(teacher_NV)))
    assert not np.any(loss_N)
    assert not np.any(grad_NV)


rows = hnp.arrays(np.float32, (N, V), elements=st.floats(-30, 30, width=32))
SUPPORTED = {
    "whole": {"support": "vocabulary", "tail": "drop"},
    "renormalised": {"tail": "renormalise"},
    "bucketed": {"tail": "bucket"},
}
COMPARED = ({"kind": "fkl"}, {"kind": "rkl"}, {"kind": "jsd", "beta": 0.2})


@functools.partial(jax.jit, compiler_options=QUICK)
def closed(student_NV: Any, teacher_NV: Any) -> dict[str, list[jax.Array]]:
    """Losses of divergences whose tail is closed, by support and then by kind."""
    return {
        label: [
            build(LISTS | kind | support)(student_NV, distill.Dense(teacher_NV))[0]
            for kind in COMPARED
        ]
        for label, support in SUPPORTED.items()
    }


@settings(max_examples=40, deadline=None)
@given(rows, rows)
def test_closed_divergences_are_never_negative(student_NV: Any, teacher_NV: Any) -> None:
    """Whole, renormalised or bucketed they compare distributions; a bucket sees less than all."""
    with jax.enable_x64(True):
        loss = jax.device_get(closed(np.float64(student_NV), np.float64(teacher_NV)))
    for whole_N, renormalised_N, bucketed_N in zip(
        *(loss[name] for name in SUPPORTED), strict=True
    ):
        assert min(whole_N.min(), renormalised_N.min(), bucketed_N.min()) > -1e-12
        # TRL's bucket holds 1e-7 at least, which can be more than there is.
        assert (bucketed_N <= whole_N + 1e-5).all()


@settings(max_examples=40, deadline=None)
@given(rows, rows)
def test_forward_kl_is_zero_for_equal_softmaxes_alone(student_NV: Any, teacher_NV: Any) -> None:
    student_NV, teacher_NV = np.float64(student_NV), np.float64(teacher_NV)
    with jax.enable_x64(True):
        same_N = jax.device_get(closed(teacher_NV + 3.5, teacher_NV))["whole"][0]
        loss_N = jax.device_get(closed(student_NV, teacher_NV))["whole"][0]
    assert np.abs(same_N).max() < 1e-12
    p_NV, q_NV = (np.exp(x - np.logaddexp.reduce(x, 1)[:, None]) for x in (teacher_NV, student_NV))
    # Pinsker: a divergence is at least half the square of the L1 distance.
    assert (loss_N >= np.abs(p_NV - q_NV).sum(axis=1) ** 2 / 2 - 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), hnp.arrays(bool, (2, 3)))
def test_masked_positions_do_not_exist(seed: int, mask: np.ndarray) -> None:
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 2, (2, 2, 3, V)).astype(np.float32)
    labels = np.where(mask, rng.integers(0, V, (2, 3)), -100)
    spoilt = np.where(mask[..., None], student, np.nan)
    spoilt_teacher = np.where(mask[..., None], teacher, np.inf)
    value, grad = masked_mean(student, teacher, mask, np.maximum(labels, 0))
    other, other_grad = masked_mean(spoilt, spoilt_teacher, mask, labels)
    assert value == other
    np.testing.assert_array_equal(grad, other_grad)
    assert not np.any(grad[~mask])
    assert mask.any() or value == 0


@jax.jit
def masked_mean(student: Any, teacher: Any, mask: Any, labels: Any) -> tuple[Any, Any]:
    return jax.value_and_grad(distill.loss)(
        student, teacher, mask, top_k=5, student_top_m=4, kd_ratio=0.5, labels=labels
    )


def test_the_mean_is_over_tokens_and_takes_weights() -> None:
    student_NV, teacher_NV = logits(9)
    (loss_N, _), _ = measure(LISTS, student_NV, distill.Dense(jnp.asarray(teacher_NV)))
    weight_N = np.array([0.0, 1.0, 0.5, 2.0])
    shape = (2, 2, V)
    value, metrics = distill.loss_and_metrics(
        student_NV.reshape(shape), teacher_NV.reshape(shape), weight_N.reshape(2, 2), **LISTS
    )
    expected = (weight_N * np.asarray(loss_N)).sum() / weight_N.sum()
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert {"distill/divergence_nats", "distill/teacher_mass", "distill/student_mass"} < set(
        metrics
    )
    parts = metrics["distill/divergence_nats"] + 3.0 * metrics["distill/mistake_mass"]
    assert float(parts) == pytest.approx(expected, rel=1e-6)


def test_metrics_say_what_is_on_the_lists() -> None:
    p_V = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    q_V = np.array([0.0625, 0.5, 0.0625, 0.25, 0.125])
    teacher = distill.Dense(jnp.log(jnp.asarray([p_V])), label_N=jnp.asarray([2]))
    _, metrics = distill.Objective(top_k=2, student_top_m=2)(jnp.log(jnp.asarray([q_V])), teacher)
    expected = {
        "distill/divergence_nats": 0.5 * np.log(8) + 0.25 * np.log(0.5),
        "distill/teacher_mass": 0.75,
        "distill/student_mass": 0.5625,
        "distill/overlap": 0.5,
        "distill/mistake_mass": 0.25,
        "distill/cross_entropy_nats": np.log(16),
        "distill/teacher_nll_nats": np.log(8),
    }
    assert set(metrics) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], [value], atol=1e-6, err_msg=key)


def test_an_approximate_list_is_a_list() -> None:
    """On a CPU the approximation is exact; elsewhere it may miss a token."""
    student_NV, teacher_NV = logits(1)
    teacher = distill.Dense(jnp.asarray(teacher_NV))
    for kind in ("fkl", "akl"):
        options = LISTS | {"kind": kind, "support": "union"}
        exact, close = (
            measure(options | {"approximate": flag}, student_NV, teacher) for flag in (False, True)
        )
        np.testing.assert_allclose(exact[0][0], close[0][0], atol=1e-6)


# The sampled teacher.


def seeds(count: int) -> jax.Array:
    return jax.random.bits(jax.random.key(3), (count,), jnp.uint32)


def test_draws_follow_the_teacher() -> None:
    p_V = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    with np.errstate(divide="ignore"):
        logits_NV = jnp.broadcast_to(jnp.asarray(np.log(p_V))[None, :], (8, 5))
    drawn = distill.draw(seeds(8), logits_NV, 200)
    count_V = np.zeros(5)
    np.add.at(count_V, np.asarray(drawn.ids_NC), np.asarray(drawn.count_NC))
    assert count_V.sum() == 1600
    assert count_V[1] == 0
    # Four standard deviations of 1,600 draws.
    assert (np.abs(count_V / 1600 - p_V) <= 4 * np.sqrt(p_V * (1 - p_V) / 1600)).all()


def test_a_dart_on_the_edge_hits_no_impossible_token() -> None:
    cumulative_V = jnp.asarray([0.0, 0.25, 0.25, 1.0])
    np.testing.assert_array_equal(_hit(cumulative_V, jnp.asarray([0.0, 0.1, 0.25])), [1, 1, 3])


def test_draws_belong_to_their_position() -> None:
    _, teacher_NV = logits(4)
    seed_N = seeds(N)
    drawn = distill.draw(seed_N, jnp.asarray(teacher_NV), 16)
    alike = distill.draw(seed_N, jnp.asarray(np.tile(teacher_NV[:1], (N, 1))), 16)
    assert len(np.unique(alike.ids_NC, axis=0)) > 1
    alone = distill.draw(seed_N[2:3], jnp.asarray(teacher_NV[2:3]), 16)
    np.testing.assert_array_equal(alone.ids_NC[0], drawn.ids_NC[2])
    np.testing.assert_array_equal(alone.count_NC[0], drawn.count_NC[2])


def test_sampled_forward_kl_is_that_of_the_counts() -> None:
    student_NV, teacher_NV = (np.float32(x) for x in logits(4))
    options = {"kind": "rskd", "tail": "drop", "top_k": 16}
    seeded = distill.Dense(jnp.asarray(teacher_NV), seed_N=seeds(N))
    drawn = distill.draw(seeds(N), seeded.logits_NV, 16)
    count_NV = np.zeros((N, V))
    np.add.at(count_NV, (np.arange(N)[:, None], drawn.ids_NC), drawn.count_NC)
    counted = distill.Dense(seeded.logits_NV, count_NV=jnp.asarray(count_NV))
    logq_NV = np.asarray(jax.nn.log_softmax(student_NV))
    share_NV = count_NV / 16
    expected_N = np.where(
        share_NV > 0, share_NV * (np.log(np.maximum(share_NV, 1e-9)) - logq_NV), 0
    ).sum(axis=1)
    for teacher in (seeded, drawn, counted):
        (loss_N, _), grad_NV = measure(options, student_NV, teacher)
        np.testing.assert_allclose(loss_N, expected_N, atol=1e-5)
        np.testing.assert_allclose(grad_NV, np.exp(logq_NV) - share_NV, atol=1e-5)


def test_a_sampled_teacher_can_be_given_as_a_key_or_as_counts() -> None:
    student, teacher = (x.reshape(2, 2, V) for x in logits(4))
    mask = np.array([[1, 1], [1, 0]])
    by_key = distill.loss(student, teacher, mask, "rskd", top_k=8, key=jax.random.key(1))
    again = distill.loss(student, teacher, mask, "rskd", top_k=8, key=jax.random.key(1))
    other = distill.loss(student, teacher, mask, "rskd", top_k=8, key=jax.random.key(2))
    assert by_key == again != other
    # The penalty is held against the teacher's own list, not against what was drawn of it.
    counts = np.ones((2, 2, V))
    counted, metrics = distill.loss_and_metrics(
        student, teacher, mask, kind="rskd", top_k=8, student_top_m=V, counts=counts
    )
    outside = 1 - distill.loss_and_metrics(
        student, teacher, mask, top_k=8, tail="drop"
    )[1]["distill/student_mass"]  # fmt: skip
    np.testing.assert_allclose(metrics["distill/mistake_mass"], outside, atol=1e-5)
    expected = metrics["distill/divergence_nats"] + 10 * metrics["distill/mistake_mass"]
    np.testing.assert_allclose(counted, expected, rtol=1e-5)


def test_empty_slots_of_a_list_are_no_tokens() -> None:
    """A list shorter than its array: id 0 in a slot of log-prob -inf trusts nothing."""
    student_NV, teacher_NV = logits(3)
    with jax.enable_x64(True):
        stored = distill.truncate(distill.Dense(jnp.asarray(teacher_NV)), 5)
        padded = distill.TopK(
            jnp.pad(stored.ids_NC, ((0, 0), (0, 2))),
            jnp.pad(stored.logp_NC, ((0, 0), (0, 2)), constant_values=-jnp.inf),
        )
        student_NV[:, 0] = 20.0
        assert not contains(stored.ids_NC, jnp.zeros((N, 1), jnp.int32)).all()
        some = [LISTS | x for x in (*PLACES[:4], {"kind": "rkl", "tail": "zero"}, {"kind": "akl"})]
        short = measure_all([x | {"top_k": 5} for x in some], student_NV, stored)
        long = measure_all([x | {"top_k": 7} for x in some], student_NV, padded)
    for options, a, b in zip(some, short, long, strict=True):
        _assert_same(a, b, name(options))


def test_no_gradient_reaches_the_teacher() -> None:
    student_NV, teacher_NV = (jnp.asarray(x) for x in logits(3))

    def total(teacher_NV: jax.Array) -> jax.Array:
        return build(LISTS)(student_NV, distill.Dense(teacher_NV))[0].sum()

    assert not np.any(jax.grad(total)(teacher_NV))
