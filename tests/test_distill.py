"""Distillation against recorded values of STAR's formulas and of other projects' own functions."""

from __future__ import annotations

import functools
import json
import math
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.train import distill
from star_jax.train.distill import divergence, presets

CASES = range(12)
KINDS: list[distill.Kind] = ["fkl", "rkl", "akl", "alter"]

# What is compiled here runs once, on a few numbers.
QUICK: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}

# The logits behind every value of peer_values.json.
TEACHER = [2.0, 1.0, 0.5, 0.0, -1.0]
STUDENT = [1.0, 1.5, 0.0, 0.7, -0.9]
WRONG_STUDENT = [0.0, 1.0, -1.0, 2.0, 0.5]  # its best token is the teacher's fourth


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    with np.load(shared / "golden" / "distill.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def peers(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "golden" / "peer_values.json").read_text())


def settings(golden: dict[str, np.ndarray], case: int) -> dict[str, Any]:
    meta = json.loads(str(golden["meta"]))[case]
    return {
        "top_k": meta["teacher_top_k"],
        "student_top_m": meta["student_top_m"],
        "tail_weight": meta["tail_weight"],
        "kd_ratio": meta["kd_ratio"],
    }


@functools.cache
def all_kinds(path: Path, case: int, bits: int) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Loss and gradient of each kind, from one compiled program: compiling is what takes long."""
    with np.load(path) as file:
        golden = dict(file)
    teacher, mask, labels = (golden[f"{case}/{name}"] for name in ("teacher", "mask", "labels"))
    options = settings(golden, case)

    def run(student: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        def loss(logits: jax.Array, kind: distill.Kind) -> jax.Array:
            return distill.loss(logits, teacher, mask, kind=kind, labels=labels, **options)

        return {kind: jax.value_and_grad(loss)(student, kind) for kind in KINDS}

    with jax.enable_x64(bits == 64), warnings.catch_warnings():
        # Some of the recorded cases are reverse KL without the penalty.
        warnings.simplefilter("ignore", distill.DroppedTailWarning)
        return jax.jit(run, compiler_options=QUICK)(jnp.asarray(golden[f"{case}/student"]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("bits", [64, 32])
def test_loss_and_gradient_are_stars(
    shared: Path, golden: dict[str, np.ndarray], bits: int, case: int, kind: distill.Kind
) -> None:
    tolerance = {64: 1e-6, 32: 1e-4}[bits]
    value, grad = all_kinds(shared / "golden" / "distill.npz", case, bits)[kind]
    assert value.dtype == grad.dtype == f"float{bits}"
    np.testing.assert_allclose(value, golden[f"{case}/{kind}/loss"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(grad, golden[f"{case}/{kind}/grad"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_parts_of_a_token_are_stars(golden: dict[str, np.ndarray], case: int) -> None:
    options = settings(golden, case) | {"tail_weight": 1.0, "kd_ratio": 1.0}
    V = golden[f"{case}/student"].shape[-1]
    with jax.enable_x64(True):
        student_NV = jnp.asarray(golden[f"{case}/student"].reshape(-1, V))
        teacher = distill.Dense(jnp.asarray(golden[f"{case}/teacher"].reshape(-1, V)))
        loss_N, metrics = jax.jit(distill.Objective(**options))(student_NV, teacher)
    fkl_N = golden[f"{case}/fkl_per_token"].reshape(-1)
    tail_N = golden[f"{case}/tail_per_token"].reshape(-1)
    np.testing.assert_allclose(metrics["distill/divergence_nats"], fkl_N, rtol=0, atol=1e-12)
    np.testing.assert_allclose(metrics["distill/mistake_mass"], tail_N, rtol=0, atol=1e-12)
    np.testing.assert_allclose(loss_N, fkl_N + tail_N, rtol=0, atol=1e-12)


def one_token(
    options: dict[str, Any], student: list[float] = STUDENT, teacher: list[float] = TEACHER
) -> float:
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", distill.DroppedTailWarning)
        objective = distill.Objective(**options)
        loss_N, _ = objective(jnp.asarray([student]), distill.Dense(jnp.asarray([teacher])))
        return float(loss_N[0])


def plain_star(kind: str, k: int, m: int = 1, tail_weight: float = 0.0) -> dict[str, Any]:
    return presets.star(kind, top_k=k, student_top_m=m, tail_weight=tail_weight)  # ty: ignore[invalid-argument-type]


NEGATIVE = {"student": [3.0, 0, 0, 0, 0], "teacher": [1.0, 0, 0, 0, 0]}
PEER_VALUES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{
        f"star.{kind}.k{k}": (plain_star(kind, k), {})
        for kind in ("fkl", "rkl", "akl")
        for k in (2, 3, 5)
    },
    "star.fkl.k1.negative_example": (plain_star("fkl", 1), NEGATIVE),
    "star.ckd.k2.m2.l1_10.SL": (plain_star("fkl", 2, 2, 10.0), {}),
    "star.ckd.k2.m2.l1_10.SL2": (plain_star("fkl", 2, 2, 10.0), {"student": WRONG_STUDENT}),
    "akl_ref.loss": (
        {
            "kind": "akl",
            "support": "vocabulary",
            "tail": "drop",
            "boundary": "author",
            "weight_grad": False,
        },
        {},
    ),
    **{
        f"trl.gjsd.beta{beta}": (presets.gkd(beta), {}) for beta in (0.0, 0.1, 0.5, 0.9, 1.0)
    },
    "trl.gjsd.beta0.T2": (presets.gkd(0.0, temperature=2.0), {}),
    **{
        f"trl.sdft_topk(student support).k2.tail_{tail}.alpha{alpha}": (
            presets.sdft(alpha, top_k=2, add_tail=tail),
            {},
        )
        for tail in (True, False)
        for alpha in (0.0, 0.5, 1.0)
    },
    **{
        f"trl.server_fkl(teacher support).k{k}.tail_{tail}": (
            presets.trl_server(0.0, top_k=k, add_tail=tail),
            {},
        )
        for k in (1, 2, 3)
        for tail in (True, False)
    },
    "verl.forward_kl_topk.k2.raw": (presets.verl(top_k=2), {}),
    "verl.forward_kl_topk.clamped_negative_example": (presets.verl(top_k=1), NEGATIVE),
    **{
        f"nemo.kd.k{k}.{name}.zero_outside_{zero}": (presets.nemo(kind, k, zero), {})
        for k in (2, 3)
        for kind, name in (("fkl", "forward"), ("rkl", "reverse"), ("mixed", "mixed"))
        for zero in (True, False)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PEER_VALUES)
def test_presets_give_the_peers_numbers(peers: dict[str, Any], name: str) -> None:
    options, logits = PEER_VALUES[name]
    assert one_token(options, **logits) == pytest.approx(peers[name], rel=1e-6, abs=1e-6)


def test_every_distillation_value_of_the_peers_is_tried(peers: dict[str, Any]) -> None:
    families = ("star.", "akl_ref.", "trl.gjsd", "trl.sdft", "trl.server", "nemo.kd", "verl.forw")
    elsewhere = {
        "star.mistake_mass.k2.m2.SL2",
        "star.mistake_mass.k2.m5.SL2",
        "star.akl_ratio.p4321",
        "akl_ref.ratio.p4321",
        "akl_ref.head_tail",
    }
    recorded = {name for name in peers if name.startswith(families)}
    assert recorded == set(PEER_VALUES) | elsewhere


@pytest.mark.parametrize("m", [2, 5])
def test_mistake_mass_is_stars(peers: dict[str, Any], m: int) -> None:
    objective = distill.Objective(top_k=2, student_top_m=m)
    with jax.enable_x64(True):
        teacher = distill.Dense(jnp.asarray([TEACHER]))
        _, metrics = objective(jnp.asarray([WRONG_STUDENT]), teacher)
    expected = peers[f"star.mistake_mass.k2.m{m}.SL2"]
    np.testing.assert_allclose(metrics["distill/mistake_mass"], [expected], atol=1e-6)


@pytest.mark.parametrize(
    ("boundary", "name"),
    [("author", "akl_ref.ratio.p4321"), ("star", "star.akl_ratio.p4321"), ("roll", None)],
)
def test_adaptive_weights_have_three_boundaries(
    peers: dict[str, Any], boundary: divergence.Boundary, name: str | None
) -> None:
    logp_NE = jnp.log(jnp.asarray([[0.4, 0.3, 0.2, 0.1]]))
    weights = divergence.adaptive_weights(logp_NE, logp_NE[:, ::-1], boundary)
    # ROLL counts from the small end and calls the same tokens head as STAR, for a whole softmax.
    expected = peers[name or "star.akl_ratio.p4321"]
    np.testing.assert_allclose(np.ravel(weights), expected, atol=1e-6)


def test_adaptive_weights_over_the_vocabulary_are_the_authors(peers: dict[str, Any]) -> None:
    logp_NV, logq_NV = (jax.nn.log_softmax(jnp.asarray([x])) for x in (TEACHER, STUDENT))
    weights = divergence.adaptive_weights(logp_NV, logq_NV, "author")
    np.testing.assert_allclose(np.ravel(weights), peers["akl_ref.head_tail"], atol=1e-6)


# Gradients in closed form, with V of 11 and none of the lists all of it.


class Closed:
    """p, q and who is on which list, for one position each of 5 random pairs of logits."""

    def __init__(self, k: int, m: int) -> None:
        rng = np.random.default_rng(7)
        self.z_NV, self.teacher_NV = rng.normal(0, 2, (2, 5, 11))
        self.p_NV, self.q_NV = (
            np.exp(x - np.logaddexp.reduce(x, axis=1, keepdims=True))
            for x in (self.teacher_NV, self.z_NV)
        )
        self.listed_NV = _ranks(self.p_NV) < k
        self.mistaken_NV = (_ranks(self.q_NV) < m) & ~self.listed_NV

    def grad(self, **options: Any) -> jax.Array:
        with jax.enable_x64(True):
            objective = distill.Objective(**options)
            teacher = distill.Dense(jnp.asarray(self.teacher_NV))
            grad = jax.grad(lambda z_NV: objective(z_NV, teacher)[0].sum())
            return jax.jit(grad, compiler_options=QUICK)(jnp.asarray(self.z_NV))


def _ranks(x_NV: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(-x_NV, axis=1), axis=1)


def test_gradient_of_forward_kl_in_closed_form() -> None:
    c = Closed(k=4, m=3)
    mass_N1 = np.sum(c.p_NV * c.listed_NV, axis=1, keepdims=True)
    expected = c.q_NV * mass_N1 - c.p_NV * c.listed_NV
    grad_NV = c.grad(kind="fkl", top_k=4, tail="drop")
    np.testing.assert_allclose(grad_NV, expected, atol=1e-12)


def test_gradient_of_reverse_kl_in_closed_form() -> None:
    c = Closed(k=4, m=3)
    inner_NV = np.where(c.listed_NV, np.log(c.q_NV / c.p_NV) + 1, 0)
    sum_N1 = np.sum(c.q_NV * inner_NV, axis=1, keepdims=True)
    expected = c.q_NV * (inner_NV - sum_N1)  # outside the list: -q_j S
    with pytest.warns(distill.DroppedTailWarning):
        grad_NV = c.grad(kind="rkl", top_k=4, tail="drop")
    np.testing.assert_allclose(grad_NV, expected, atol=1e-12)
    rises_N = sum_N1[:, 0] > 0
    assert rises_N.any()
    assert (np.where(c.listed_NV, -1, grad_NV)[rises_N] < 0).all()


def test_gradient_of_constrained_distillation_in_closed_form() -> None:
    c, weight = Closed(k=4, m=6), 10.0
    assert c.mistaken_NV.any(axis=1).all()
    mass_N1 = np.sum(c.p_NV * c.listed_NV, axis=1, keepdims=True)
    mistake_N1 = np.sum(c.q_NV * c.mistaken_NV, axis=1, keepdims=True)
    expected = c.q_NV * (mass_N1 - weight * mistake_N1)
    expected -= np.where(c.listed_NV, c.p_NV, 0)
    expected += np.where(c.mistaken_NV, weight * c.q_NV, 0)
    grad_NV = c.grad(kind="fkl", top_k=4, student_top_m=6, tail_weight=weight)
    np.testing.assert_allclose(grad_NV, expected, atol=1e-12)


def test_detached_weights_leave_the_value_and_change_the_gradient() -> None:
    rng = np.random.default_rng(3)
    student_NE, teacher_NE = (jnp.asarray(x) for x in rng.normal(0, 2, (2, 3, 6)))
    logp_NE = jax.nn.log_softmax(teacher_NE)

    def run(logq_NE: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        def adaptive(logq_NE: jax.Array, weight_grad: bool) -> jax.Array:
            return divergence.adaptive(logp_NE, logq_NE, weight_grad=weight_grad).sum()

        def weighted(logq_NE: jax.Array) -> jax.Array:
            forward_N = head_N * divergence.forward(logp_NE, logq_NE)
            return (forward_N + tail_N * divergence.reverse(logp_NE, logq_NE)).sum()

        head_N, tail_N = divergence.adaptive_weights(logp_NE, logq_NE)
        return {
            "through": jax.value_and_grad(adaptive)(logq_NE, True),
            "detached": jax.value_and_grad(adaptive)(logq_NE, False),
            "weighted": jax.value_and_grad(weighted)(logq_NE),
        }

    got = jax.jit(run, compiler_options=QUICK)(jax.nn.log_softmax(student_NE))
    for name in ("through", "detached"):
        np.testing.assert_allclose(got[name][0], got["weighted"][0], rtol=1e-6)
    np.testing.assert_allclose(got["detached"][1], got["weighted"][1], atol=1e-6)
    assert np.abs(got["through"][1] - got["weighted"][1]).max() > 1e-2


def test_a_temperature_divides_both_sides() -> None:
    halved = [[x / 2 for x in logits] for logits in (STUDENT, TEACHER)]
    for options in (presets.gkd(0.5), presets.nemo("fkl", 2), plain_star("fkl", 2, 2, 10.0)):
        warm = one_token(options | {"temperature": 2.0})
        assert warm == pytest.approx(one_token(options, *halved), rel=1e-12)


def test_cross_entropy_knows_no_temperature() -> None:
    options = {"kd_ratio": 0.0, "temperature": 3.0, "top_k": 2}
    logits = jnp.asarray([[STUDENT]])
    value = distill.loss(logits, logits, jnp.ones((1, 1)), labels=jnp.asarray([[3]]), **options)
    expected = -(STUDENT[3] - math.log(sum(math.exp(x) for x in STUDENT)))
    assert float(value) == pytest.approx(expected, abs=1e-6)


def test_presets_are_keywords_of_an_objective() -> None:
    for preset in (presets.star, presets.verl, presets.nemo, presets.trl_server, presets.sdft):
        distill.Objective(**preset())
    distill.Objective(**presets.gkd())
    assert distill.Objective(**presets.star()) == distill.Objective()
