"""What must hold of every policy objective; and each of them once more, token by token in NumPy."""

from __future__ import annotations

import functools
import math
import statistics
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.train import policy

B, T = 6, 7
QUICK: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}
KINDS: tuple[policy.AdvantageKind, ...] = get_args(policy.AdvantageKind)

OBJECTIVES: dict[str, dict[str, Any]] = {
    "star": policy.presets.star(),
    "star_paper": policy.presets.star_paper(),
    "grpo": policy.presets.grpo(),
    "dr_grpo": policy.presets.dr_grpo(length=20),
    "dapo": policy.presets.dapo(),
    "gspo": policy.presets.gspo(),
    "gspo-token": {"kind": "gspo", "clip": (0.1, 0.1), "per": "token", "dual_clip": 1.05},
    "cispo": policy.presets.cispo(),
    "cispo-two-sided": policy.presets.cispo(above=0.28, below=0.2),
    "luffy": policy.presets.luffy(length=20),
    "sapo": {"kind": "sapo", "per": "sequence"},
    "dual": {"dual_clip": 1.1, "clip": (0.05, 0.05)},
    "unclipped": {"clip": None, "kl_weight": 0.5, "kl_estimator": "k1", "kl_clamp": 0.2},
    "abs": {"kl_weight": 0.5, "kl_estimator": "abs", "entropy_weight": 0.1},
    "k3+": {"kl_weight": 0.5, "kl_estimator": "k3+", "entropy_weight": 0.1},
    **{
        mode: {"importance": mode, "importance_range": (0.6, 1.5)}
        for mode in get_args(policy.Mode)[1:]
    },
}


def rows(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of several lengths, one of them empty; ratios on both sides of every range."""
    rng = np.random.default_rng(seed)
    logp = -rng.gamma(1.0, 1.0, (B, T))
    old, ref, sampler = (logp + rng.normal(0, scale, (B, T)) for scale in (0.4, 0.7, 0.3))
    mask = np.arange(T) < np.array([[7], [3], [5], [1], [0], [6]])
    mask[2, 1] = False  # a token of a tool's, amid the row
    return {
        "logp": logp,
        "old_logp": old,
        "ref_logp": ref,
        "sampler_logp": sampler,
        "entropy": rng.gamma(1.0, 1.0, (B, T)),
        "advantages_B": rng.normal(0, 1, B),
        "mask": mask,
        "guided": GUIDED,
    }


# Row 0 is a guide's, of luffy alone.
GUIDED = np.broadcast_to(np.arange(B)[:, None] == 0, (B, T))


class Answer(NamedTuple):
    value: Any  # Σ weight · loss
    count: Any
    grad: Any  # of the value
    metrics: dict[str, Any]  # a token

    @property
    def loss(self) -> float:
        return float(self.value / self.count)

    @property
    def slope(self) -> np.ndarray:
        return np.asarray(self.grad / self.count)


def answer(name: str, data: dict[str, jax.Array]) -> Answer:
    objective = policy.Objective(**OBJECTIVES[name])
    segment_BT = data.get("segment")

    def total(logp: jax.Array) -> Any:
        loss_BT, metrics = policy.terms(
            logp,
            data["old_logp"],
            data["advantages_B"],
            data["mask"],
            objective,
            ref_logp_BT=data["ref_logp"],
            sampler_logp_BT=data["sampler_logp"],
            entropy_BT=data["entropy"],
            guided_BT=data["guided"] if name == "luffy" else None,
            segment_BT=segment_BT,
        )
        weight_BT, count = objective.weights(data["mask"], segment_BT=segment_BT)
        return (weight_BT * loss_BT).sum(), (count, metrics | {"loss": loss_BT})

    (value, (count, metrics)), grad = jax.value_and_grad(total, has_aux=True)(data["logp"])
    return Answer(value, count, grad, metrics)


@functools.partial(jax.jit, compiler_options=QUICK, static_argnums=1)
def _measure(data: dict[str, jax.Array], names: tuple[str, ...]) -> dict[str, Answer]:
    """One program for all of them: compiling is what takes long."""
    return {name: answer(name, data) for name in names}


def measure(
    data: dict[str, np.ndarray], names: tuple[str, ...] = tuple(OBJECTIVES)
) -> dict[str, Answer]:
    return _measure({key: jnp.asarray(value) for key, value in data.items()}, names)


@pytest.fixture(scope="module")
def plain() -> dict[str, Answer]:
    """Of `rows`, in float64."""
    with jax.enable_x64(True):
        return measure(rows())


# --- By hand: floats, loops and the textbook. Each function gives a value and its slope in log π.


def by_hand(name: str, data: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    objective = policy.Objective(**OBJECTIVES[name])
    value, grad = 0.0, np.zeros((B, T))
    spots_B = [np.flatnonzero(row) for row in data["mask"]]
    tokens = sum(len(spots) for spots in spots_B)
    filled = sum(len(spots) > 0 for spots in spots_B)
    kind_of_mean = objective.per or "token"
    for b, spots in enumerate(spots_B):
        if not len(spots):
            continue
        weight = {
            "token": 1 / tokens,
            "micro": 1 / tokens,
            "sequence": 1 / len(spots) / filled,
            "fixed": 1 / 20 / filled,
        }[kind_of_mean]
        for t in spots:
            term, slopes = token_by_hand(name, objective, data, b, t, spots)
            value += weight * term
            grad[b] += weight * slopes
    return value, grad


def token_by_hand(
    name: str, o: policy.Objective, data: dict[str, np.ndarray], b: int, t: int, spots: np.ndarray
) -> tuple[float, np.ndarray]:
    logp, old, A = data["logp"][b, t], data["old_logp"][b, t], data["advantages_B"][b]
    slopes = np.zeros(T)
    if name == "luffy" and b == 0:
        p = math.exp(logp)
        term, slopes[t] = -A * p / (p + 0.1), -A * p * 0.1 / (p + 0.1) ** 2
    elif o.kind == "gspo":
        apart = data["logp"][b, spots] - data["old_logp"][b, spots]
        term, slope = clipped_by_hand(math.exp(apart.mean()), A, o)
        slopes[spots] = slope / len(spots)
    elif o.kind == "cispo":
        assert o.clip is not None
        held = min(max(math.exp(logp - old), 1 - o.clip[0]), 1 + o.clip[1])
        term, slopes[t] = -held * A * logp, -held * A
    elif o.kind == "sapo":
        ratio, tau = math.exp(logp - old), 1.0 if A > 0 else 1.05
        gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
        term, slopes[t] = -A * gate * 4 / tau, -A * 4 * gate * (1 - gate) * ratio
    else:
        term, slopes[t] = clipped_by_hand(math.exp(logp - old), A, o)
    share = importance_by_hand(o, data, b, t, spots)
    term, slopes = share * term, share * slopes
    kl, slope = kl_by_hand(o, logp - data["ref_logp"][b, t])
    term += o.kl_weight * kl - o.entropy_weight * data["entropy"][b, t]
    slopes[t] += o.kl_weight * slope
    return term, slopes


def clipped_by_hand(ratio: float, A: float, o: policy.Objective) -> tuple[float, float]:
    gain, slope = ratio * A, ratio * A
    if o.clip is not None:
        held = A * min(max(ratio, 1 - o.clip[0]), 1 + o.clip[1])
        if held < gain:
            gain, slope = held, 0.0
    if o.dual_clip is not None and A < 0 and gain < o.dual_clip * A:
        gain, slope = o.dual_clip * A, 0.0
    return -gain, -slope


def importance_by_hand(
    o: policy.Objective, data: dict[str, np.ndarray], b: int, t: int, spots: np.ndarray
) -> float:
    d = data["old_logp"][b] - data["sampler_logp"][b]
    low, high = o.importance_range
    one, all_, mean = math.exp(d[t]), math.exp(d[spots].sum()), math.exp(d[spots].mean())
    return {
        "none": 1.0,
        "token_truncate": min(max(one, low), high),
        "token_mask": one if low <= one <= high else 0.0,
        "sequence_truncate": min(max(all_, low), high),
        "sequence_mask": all_ if low <= all_ <= high else 0.0,
        "sequence_mask_mean": one if low <= mean <= high else 0.0,
    }[o.importance]


def kl_by_hand(o: policy.Objective, x: float) -> tuple[float, float]:
    value, slope = {
        "k1": (x, 1.0),
        "k2": (x * x / 2, x),
        "k3": (math.exp(-x) - 1 + x, 1 - math.exp(-x)),
        "abs": (abs(x), math.copysign(1, x)),
        "k3+": (math.exp(-x) - 1 + x, x),
    }[o.kl_estimator]
    if o.kl_clamp is not None and abs(value) > o.kl_clamp:
        return math.copysign(o.kl_clamp, value), 0.0
    return value, slope


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_are_those_of_the_formula(plain: dict[str, Answer], name: str) -> None:
    expected, slopes = by_hand(name, rows())
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(plain[name].loss, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(plain[name].slope, slopes, rtol=0, atol=1e-12)


def test_the_rows_meet_every_bound() -> None:
    """Else a bound could be missing unseen."""
    data = rows()
    A = data["advantages_B"][:, None]
    ratio = np.exp(data["logp"] - data["old_logp"])
    for bad in (ratio > 1.28, ratio < 0.8):
        for sign in (A > 0, A < 0):
            assert (data["mask"] & bad & sign).any()
    weight = np.exp(data["old_logp"] - data["sampler_logp"])
    assert (data["mask"] & (weight < 0.6)).any()
    assert (data["mask"] & (weight > 1.5)).any()


# --- What is cut into micro-batches, packed, masked, or out of range.

SPLITS = [
    [[0, 1, 2, 3, 4, 5]],
    [[0, 1, 2], [3, 4, 5]],
    [[4], [0, 5], [1], [2, 3]],
    [[3, 0, 4, 2, 5, 1]],
]
CUT = [name for name in OBJECTIVES if OBJECTIVES[name].get("per") != "micro"]


def micro_batches(split: list[list[int]]) -> list[tuple[list[int], dict[str, Answer]]]:
    """The sums of each; what is left of its shape are rows of padding."""
    data, found = rows(), []
    for chosen in split:
        part = {key: np.zeros_like(value) for key, value in data.items()}
        for key, value in data.items():
            part[key][: len(chosen)] = value[chosen]
        with jax.enable_x64(True):
            found.append((chosen, measure(part)))
    return found


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_any_cut_into_micro_batches_gives_the_same_loss_and_gradient(
    plain: dict[str, Answer], split: list[list[int]]
) -> None:
    found = micro_batches(split)
    for name in CUT:
        total, grad, divisor = 0.0, np.zeros((B, T)), 0.0
        for chosen, answers in found:
            total += float(answers[name].value)
            divisor += float(answers[name].count)
            grad[chosen] += np.asarray(answers[name].grad)[: len(chosen)]
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-14, err_msg=name)
        close(total / divisor, plain[name].loss)
        close(grad / divisor, plain[name].slope)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_stars_mean_is_that_of_micro_batches(split: list[list[int]]) -> None:
    """A micro-batch without a token is none: row 4 alone."""
    found = [(chosen, answers["star"]) for chosen, answers in micro_batches(split)]
    assert [int(one.count) for _, one in found] == [int(chosen != [4]) for chosen, _ in found]
    data, own = rows(), []
    for chosen, _ in found:
        mask = data["mask"] & np.isin(np.arange(B), chosen)[:, None]
        if mask.any():
            own.append(by_hand("star", data | {"mask": mask})[0])
    mean = sum(float(one.value) for _, one in found) / sum(int(one.count) for _, one in found)
    assert mean == pytest.approx(np.mean(own), rel=0, abs=1e-12)
    whole, _ = by_hand("star", data)
    assert (abs(mean - whole) > 1e-3) == (len(split) > 1)


def test_sequences_may_be_counted_by_the_caller() -> None:
    """Of six rows five have tokens; TRL and verl would divide by six."""
    mask = rows()["mask"]
    assert policy.weights(mask, "sequence").count == 5
    assert policy.weights(mask, "fixed", length=9).count == 5
    weight_BT, count = policy.weights(mask, "sequence", sequences=6)
    assert count == 6
    np.testing.assert_allclose(weight_BT.sum(axis=1), [1, 1, 1, 1, 0, 1], rtol=1e-6)


def test_gspo_is_a_mean_of_sequences_unless_told_otherwise() -> None:
    mask = rows()["mask"]
    for options, per in (({}, "token"), ({"kind": "gspo"}, "sequence")):
        got, expected = policy.Objective(**options).weights(mask), policy.weights(mask, per)
        np.testing.assert_array_equal(got.weight_BT, expected.weight_BT)
        assert got.count == expected.count
    told = policy.Objective(kind="gspo", per="token").weights(mask)
    assert told.count == mask.sum()


def test_a_mask_may_hold_weights() -> None:
    mask = np.array([[2.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
    token, count = policy.weights(mask)
    np.testing.assert_array_equal(token, mask)
    assert count == 3.5
    sequence, count = policy.weights(mask, "sequence")
    np.testing.assert_allclose(sequence, [[2 / 3, 1 / 3, 0], [1, 0, 0]], rtol=1e-6)
    assert count == 2


def test_packed_rows_are_the_rows_apart(plain: dict[str, Answer]) -> None:
    """Three sequences in a row, and two with an empty one and padding: their numbers have a gap
    and fall."""
    data = rows()
    data["advantages_B"] = np.broadcast_to(data["advantages_B"][:, None], (B, T))
    data["segment"] = np.repeat([[3], [2], [9], [4], [5], [0]], T, axis=1)
    names = ("dr_grpo", "gspo", "gspo-token", "sapo", "sequence_mask", "sequence_mask_mean")
    with jax.enable_x64(True):
        packed = measure({key: np.reshape(value, (2, 3 * T)) for key, value in data.items()}, names)
    for name, one in packed.items():
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-14, err_msg=name)
        close(one.loss, plain[name].loss)
        close(np.reshape(one.slope, (B, T)), plain[name].slope)
        for key, value_BT in one.metrics.items():
            close(np.reshape(value_BT, (B, T)), plain[name].metrics[key])


def test_what_is_masked_out_has_no_influence() -> None:
    anything = (np.nan, np.inf, -np.inf, 1e30, -1e30)
    data = rows()
    clean = measure(data)
    for number, key in enumerate(("logp", "old_logp", "ref_logp", "sampler_logp", "entropy")):
        filler = np.resize(np.roll(anything, number), (B, T))
        data[key] = np.where(data["mask"], data[key], filler)
    data["advantages_B"] = np.where(data["mask"].any(axis=1), data["advantages_B"], np.nan)
    dirty = measure(data)
    for name, one in dirty.items():
        same = functools.partial(np.testing.assert_array_equal, err_msg=name)
        assert one.value.dtype == one.grad.dtype == np.float32
        same(one.value, clean[name].value)
        same(one.grad, clean[name].grad)
        assert not one.slope[~data["mask"]].any(), name
        for key, value_BT in one.metrics.items():
            same(value_BT, clean[name].metrics[key])
            assert not np.asarray(value_BT)[~data["mask"]].any(), key


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
def test_extreme_log_probs_leave_values_and_gradients_finite(advantage: float) -> None:
    """Every pair of them, in float32."""
    far = np.array([-3e4, -90.0, -25.0, -1e-6, 0.0, -1.0])
    new, old = (np.pad(side, ((0, 0), (0, 1))) for side in np.meshgrid(far, far))
    data = rows() | {"logp": new, "old_logp": old, "ref_logp": old, "sampler_logp": new}
    data |= {"advantages_B": np.full(B, advantage), "mask": np.ones((B, T), bool)}
    for name, one in measure(data).items():
        if name != "grpo":  # whose KL is not clamped: e^-x overflows
            assert np.isfinite(one.value), name
            assert np.isfinite(one.grad).all(), name


def test_a_log_prob_of_minus_infinity_gives_no_nan_gradient() -> None:
    data = rows()
    data["logp"] = np.where(np.arange(T) == 0, -np.inf, data["logp"])
    for name, one in measure(data).items():
        assert not np.isnan(one.grad).any(), name


def test_nan_where_it_counts_is_not_hidden() -> None:
    """A step that refuses what is not finite has to see it."""
    data = rows()
    data["logp"][1, 0] = np.nan
    data["sampler_logp"] = data["old_logp"]  # else a weight of 0 may leave the row out
    for name, one in measure(data).items():
        assert np.isnan(one.value), name


def test_parts_that_are_called_alone_look_at_the_mask_too() -> None:
    mask, dirty = np.array([[1, 0, 1]]), jnp.array([[1.0, np.nan, 2.0]])
    assert policy.token_mean(dirty, jnp.asarray(mask)) == 1.5
    for estimator in get_args(policy.Estimator):
        kl_BT = policy.kl_terms(dirty, np.zeros((1, 3)), mask, estimator)
        assert kl_BT[0, 1] == 0
        assert np.isnan(policy.kl(dirty, np.zeros((1, 3)), np.ones((1, 3)), estimator))


def test_of_guided_tokens_neither_old_nor_samplers_log_probs_are_read() -> None:
    """The guide's tokens of a row, beside the policy's own."""
    logp, guided = np.array([[-1.0, -2.0, -0.5]]), np.array([[1, 1, 0]])
    unknown = np.where(guided, np.nan, -0.75)

    def loss(logp: jax.Array) -> Any:
        return policy.loss(
            logp,
            unknown,
            np.ones(1),
            np.ones((1, 3)),
            per="fixed",
            length=1,
            guided=guided,
            sampler_logp=np.where(guided, np.nan, -1.0),
            importance="sequence_truncate",
        )

    with jax.enable_x64(True):
        run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
        (value, metrics), grad = run(jnp.asarray(logp))
    p = np.exp(logp[0, :2])
    # Clipped at 1.2, under the weight exp(-0.75 + 1).
    expected = -(p / (p + 0.1)).sum() - 1.2 * math.exp(0.25)
    assert float(value) == pytest.approx(expected, rel=0, abs=1e-12)
    np.testing.assert_allclose(grad[0], [*(-p * 0.1 / (p + 0.1) ** 2), 0], rtol=0, atol=1e-12)
    assert metrics["policy/sampler_gap_nats"] == pytest.approx(0.25 / 3)


def test_no_advantage_is_no_loss_whatever_the_log_prob() -> None:
    value, _ = policy.loss(
        np.array([[-np.inf]]), np.zeros((1, 1)), np.zeros(1), np.ones((1, 1)), kind="cispo"
    )
    assert value == 0


def test_nothing_in_the_mask_is_no_loss() -> None:
    for name, one in measure(rows() | {"mask": np.zeros((B, T), bool)}).items():
        assert one.value == one.count == 0, name
        assert not np.asarray(one.grad).any(), name
    value, metrics = policy.loss(*np.ones((2, 1, 1)), np.ones(1), np.zeros((1, 1)))
    assert value == 0
    assert not any(metrics.values())


def test_gradients_go_to_the_policy_alone() -> None:
    data = {key: jnp.asarray(value, jnp.float32) for key, value in rows().items()}
    fixed = ("old_logp", "ref_logp", "sampler_logp", "advantages_B")
    options: dict[str, Any] = {"kl_weight": 1.0, "importance": "token_truncate"}
    del data["guided"]

    def loss(others: dict[str, jax.Array]) -> jax.Array:
        return policy.loss(**(data | others), **options)[0]

    slope = jax.jit(jax.grad(loss), compiler_options=QUICK)
    slopes = slope({key: data[key] for key in (*fixed, "logp")})
    assert np.asarray(slopes.pop("logp")).any()
    assert not any(np.asarray(one).any() for one in slopes.values())


def test_half_precision_is_computed_in_float32() -> None:
    data = {key: jnp.asarray(value, jnp.bfloat16) for key, value in rows().items()}
    value, metrics = jax.eval_shape(lambda: policy.loss(**data))
    assert value.dtype == np.float32
    assert metrics["policy/ratio"].dtype == np.float32


def test_unfinished_samples_are_masked_out_whole() -> None:
    mask = rows()["mask"]
    finished = np.array([1, 0, 1, 1, 0, 1], bool)
    got = policy.drop_unfinished(mask, finished)
    np.testing.assert_array_equal(got, mask & finished[:, None])


def test_kl_in_the_reward_is_charged_to_what_comes_before_it() -> None:
    data = rows()
    kl = data["logp"] - data["ref_logp"]
    with jax.enable_x64(True):
        got = policy.kl_in_reward(
            data["advantages_B"], np.where(data["mask"], kl, np.nan), data["mask"], 0.3
        )
    for b in range(B):
        for t in np.flatnonzero(data["mask"][b]):
            left = sum(kl[b, s] for s in range(t, T) if data["mask"][b, s])
            assert got[b, t] == pytest.approx(data["advantages_B"][b] - 0.3 * left, abs=1e-12)


def test_k2_has_the_gradient_of_the_divergence_and_k3_of_its_reverse() -> None:
    """In expectation over the policy's own tokens, by all of a vocabulary."""
    with jax.enable_x64(True):
        logits, other = jnp.asarray(np.random.default_rng(0).normal(0, 1, (2, 9)))
        ref = jax.nn.log_softmax(other)

        def expected(logits: jax.Array, estimator: policy.Estimator) -> jax.Array:
            logp = jax.nn.log_softmax(logits)
            kl = policy.kl_terms(logp[None], ref[None], np.ones((1, 9)), estimator)[0]
            return jnp.sum(jax.lax.stop_gradient(jnp.exp(logp)) * kl)

        def forward(logits: jax.Array) -> jax.Array:
            logp = jax.nn.log_softmax(logits)
            return jnp.sum(jnp.exp(logp) * (logp - ref))

        def reverse(logits: jax.Array) -> jax.Array:
            return jnp.sum(jnp.exp(ref) * (ref - jax.nn.log_softmax(logits)))

        def slopes(logits: jax.Array) -> dict[str, jax.Array]:
            kinds: tuple[policy.Estimator, ...] = ("k1", "k2", "k3", "k3+")
            found: dict[str, jax.Array] = {one: jax.grad(expected)(logits, one) for one in kinds}
            return found | {
                "forward": jax.grad(forward)(logits),
                "reverse": jax.grad(reverse)(logits),
            }

        slope = jax.jit(slopes, compiler_options=QUICK)(logits)
    np.testing.assert_allclose(slope["k1"], np.zeros(9), atol=1e-12)
    np.testing.assert_allclose(slope["k2"], slope["forward"], atol=1e-12)
    np.testing.assert_allclose(slope["k3+"], slope["forward"], atol=1e-12)
    np.testing.assert_allclose(slope["k3"], slope["reverse"], atol=1e-12)


# --- Advantages and groups.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_rewards_have_no_advantage_at_all(dtype: Any, kind: policy.AdvantageKind) -> None:
    constants = (np.arange(1, 1000) / 1000).astype(dtype)
    for G in range(1, 17):
        rewards_PG = np.repeat(constants[:, None], G, axis=1)
        got = policy.advantages(rewards_PG, kind)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, np.zeros_like(rewards_PG))


@functools.partial(jax.jit, compiler_options=QUICK)
def every_kind(rewards_PG: jax.Array) -> dict[str, jax.Array]:
    return {kind: policy.advantages(rewards_PG, kind) for kind in KINDS}


@pytest.mark.parametrize("G", [3, 16])
def test_equal_rewards_have_no_advantage_on_a_device(G: int) -> None:
    constants = jnp.arange(1, 1000) / 1000
    for got in every_kind(jnp.repeat(constants[:, None], G, axis=1)).values():
        assert not np.asarray(got).any()


def advantage_by_hand(
    rewards: list[list[float]], p: int, g: int, kind: policy.AdvantageKind
) -> float:
    """The standard library's mean and standard deviation."""
    own = rewards[p][g]
    group = [r for r in rewards[p] if not math.isnan(r)]
    if math.isnan(own) or len(set(group)) < 2:
        return 0.0
    others = [r for j, r in enumerate(rewards[p]) if j != g and not math.isnan(r)]
    spread = statistics.stdev(others) if len(set(others)) > 1 else 0.0
    batch = [r for row in rewards for r in row if not math.isnan(r)]
    return {
        "group_norm": (own - statistics.mean(group)) / (statistics.stdev(group) + 1e-9),
        "dr_grpo": own - statistics.mean(group),
        "rloo": own - statistics.mean(others),
        "leave_one_out": (own - statistics.mean(others)) / (spread + 1e-6 if spread else 1),
        "batch_norm": (own - statistics.mean(group)) / (statistics.stdev(batch) + 1e-4),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_those_of_the_formula(kind: policy.AdvantageKind) -> None:
    """With a sample without a reward, a group without any, one of equals and one odd one out."""
    nan = math.nan
    rewards = [
        [1.0, 0.25, 0.0, 0.75],
        [0.3, nan, -1.0, 0.3],
        [nan, nan, nan, nan],
        [0.7, 0.7, 0.7, 0.7],
        [0.1, 0.1, 0.1, 1.0],
        [nan, nan, 0.5, nan],
        [nan, 0.5, 0.25, nan],
    ]
    expected = [[advantage_by_hand(rewards, p, g, kind) for g in range(4)] for p in range(7)]
    got = policy.advantages(np.array(rewards), kind)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    with jax.enable_x64(True):
        traced = every_kind(jnp.asarray(rewards))[kind]
    np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-12)


def test_the_odd_one_out_is_not_divided_by_rounding() -> None:
    """The others of the last sample are equal, and 0.1 is no dyadic number."""
    for G in range(3, 17):
        rewards = np.array([[0.1] * (G - 1) + [1.0]])
        assert policy.advantages(rewards, "leave_one_out")[0, -1] == pytest.approx(0.9)


def test_whole_numbers_and_lists_are_rewards() -> None:
    expected = policy.advantages(np.array([[1.0, 0.0]]))
    np.testing.assert_array_equal(policy.advantages(np.array([[1, 0]])), expected)
    np.testing.assert_array_equal(policy.advantages(np.array([[True, False]])), expected)


GROUPS = np.array(
    [
        [0.0, 0.0],  # all wrong
        [1.0, 1.0],  # all right
        [0.5, 0.5],
        [-1.0, -1.0],
        [-1.0, 0.0],  # one malformed, one wrong
        [0.0, 1.0],
        [0.99, 0.9901],
        [0.0, 0.019],
        [math.nan, 0.5],
        [math.nan, math.nan],
        [-1.0, 1.0],
    ]
)
KEPT: dict[policy.Rule, list[int]] = {
    "spread": [4, 5, 6, 7, 10],
    "code": [5],
    "paper": [2, 3, 4, 5, 6, 7, 8],
}


@pytest.mark.parametrize("rule", KEPT)
def test_rules_keep_what_they_say(rule: policy.Rule) -> None:
    for rewards in (GROUPS, jnp.asarray(GROUPS)):
        kept = policy.keep(rewards, rule)
        assert kept.dtype == bool
        assert np.flatnonzero(kept).tolist() == KEPT[rule]


def test_rules_have_bounds() -> None:
    assert np.flatnonzero(policy.keep(GROUPS, "spread", min_spread=0.5)).tolist() == [4, 5, 10]
    kept = policy.keep(GROUPS, "code", low=-2.0, high=2.0)
    assert np.flatnonzero(kept).tolist() == [4, 5, 6, 7, 10]
    # OpenRLHF's margin: a mean has to be inside by a millionth.
    edge = np.array([[0.0, 0.02], [0.0, 0.020001], [0.0, 0.02001]])
    assert policy.keep(edge, "code").tolist() == [False, False, True]


def test_stars_filter_does_not_see_what_its_advantages_do() -> None:
    """It looks at the answers' scores, where a malformed sample is 0 like a wrong one."""
    rewards, scores = np.array([[-1.0, 0.0]]), np.array([[0.0, 0.0]])
    assert not policy.keep(scores, "code").any()
    assert policy.keep(rewards, "spread").all()
    assert policy.advantages(rewards).any()
