"""Preference losses: closed forms, masks, extremes. DPO's recorded value is in test_policy.py."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.train import preference

B = 5
QUICK: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}
OPTIONS: dict[str, dict[str, Any]] = {
    "dpo": {},
    "beta": {"beta": 0.7},
    "smooth": {"label_smoothing": 0.2},
    "ipo": {"kind": "ipo", "beta": 0.3},
    "sft": {"sft_weight": 0.5},
    "ipo-sft": {"kind": "ipo", "sft_weight": 2.0},
}
TOKENS = np.array([3, 1, 7, 2, 4])


def pairs(seed: int = 0) -> dict[str, np.ndarray]:
    names = ("logp_chosen", "logp_rejected", "ref_chosen", "ref_rejected")
    return dict(zip(names, -np.random.default_rng(seed).gamma(2.0, 3.0, (4, B)), strict=True))


def by_hand(options: dict[str, Any], data: dict[str, np.ndarray], b: int) -> list[float]:
    """Loss of a pair, and its slopes in the log-probs of chosen and rejected."""
    beta = options.get("beta", 0.1)
    chosen = data["logp_chosen"][b] - data["ref_chosen"][b]
    rejected = data["logp_rejected"][b] - data["ref_rejected"][b]
    h = chosen - rejected
    if options.get("kind") == "ipo":
        loss, slope = (h - 1 / (2 * beta)) ** 2, 2 * (h - 1 / (2 * beta))
    else:
        s, p = options.get("label_smoothing", 0.0), 1 / (1 + math.exp(-beta * h))
        loss = -(1 - s) * math.log(p) - s * math.log(1 - p)
        slope = beta * (s * p - (1 - s) * (1 - p))
    sft = options.get("sft_weight", 0.0)
    loss -= sft * data["logp_chosen"][b] / TOKENS[b]
    return [loss, slope - sft / TOKENS[b], -slope]


def measure(options: dict[str, Any], data: dict[str, np.ndarray], mask: Any = None) -> Any:
    def loss(data: dict[str, jax.Array]) -> Any:
        return preference.dpo(**data, **options, tokens_chosen=TOKENS, mask=mask)

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    (value, metrics), grads = run({key: jnp.asarray(value) for key, value in data.items()})
    return value, metrics, grads


@pytest.mark.parametrize("name", OPTIONS)
def test_loss_and_gradient_are_those_of_the_formula(name: str) -> None:
    data = pairs()
    expected = np.array([by_hand(OPTIONS[name], data, b) for b in range(B)])
    with jax.enable_x64(True):
        value, metrics, grads = measure(OPTIONS[name], data)
    np.testing.assert_allclose(value, expected[:, 0].mean(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads["logp_chosen"], expected[:, 1] / B, rtol=0, atol=1e-12)
    np.testing.assert_allclose(grads["logp_rejected"], expected[:, 2] / B, rtol=0, atol=1e-12)
    assert not np.asarray(grads["ref_chosen"]).any()
    assert not np.asarray(grads["ref_rejected"]).any()
    beta = OPTIONS[name].get("beta", 0.1)
    chosen = beta * (data["logp_chosen"] - data["ref_chosen"])
    rejected = beta * (data["logp_rejected"] - data["ref_rejected"])
    known = {
        "preference/accuracy": (chosen > rejected).mean(),
        "preference/margin": (chosen - rejected).mean(),
        "preference/chosen_reward": chosen.mean(),
        "preference/rejected_reward": rejected.mean(),
        "preference/chosen_cross_entropy_nats": (-data["logp_chosen"] / TOKENS).mean(),
    }
    assert metrics.keys() == known.keys()
    for key, one in known.items():
        np.testing.assert_allclose(metrics[key], one, rtol=0, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", ["smooth", "ipo-sft"])
def test_pairs_that_are_masked_out_have_no_influence(name: str) -> None:
    mask = np.array([1, 0, 1, 0, 1])
    data = pairs()
    dirty = {key: np.where(mask, value, np.nan) for key, value in data.items()}
    value, metrics, grads = measure(OPTIONS[name], dirty, mask)
    with jax.enable_x64(True):
        expected = np.mean([by_hand(OPTIONS[name], data, b)[0] for b in (0, 2, 4)])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(list(metrics.values())).all()
    for grad in grads.values():
        assert np.isfinite(grad).all()
        assert not np.asarray(grad)[mask == 0].any()


def test_masked_out_pairs_have_no_loss_of_their_own() -> None:
    mask = np.array([1, 0, 1, 0, 1])
    loss_B, metrics = preference.terms(*pairs().values(), preference.Objective(), mask_B=mask)
    for value_B in (loss_B, *metrics.values()):
        assert not np.asarray(value_B)[mask == 0].any()


def test_any_cut_into_micro_batches_gives_the_same_loss() -> None:
    data, objective = pairs(), preference.Objective(sft_weight=0.5)
    with jax.enable_x64(True):
        whole, _ = preference.dpo(**data, sft_weight=0.5, tokens_chosen=TOKENS)
        total = 0.0
        for part in (slice(0, 1), slice(1, 3), slice(3, 5)):
            loss_B, _ = preference.terms(
                *(value[part] for value in data.values()), objective, tokens_chosen_B=TOKENS[part]
            )
            total += float(loss_B.sum())
    assert total / B == pytest.approx(float(whole), rel=0, abs=1e-14)


def test_extreme_log_probs_leave_values_and_gradients_finite() -> None:
    data = pairs() | {
        "logp_chosen": np.array([-1e5, 0, -1e5, 0, -1e5]),
        "logp_rejected": np.array([0, -1e5, -1e5, 0, -1e5]),
    }
    for options in (OPTIONS["dpo"], OPTIONS["smooth"]):
        value, _, grads = measure(options, data)
        assert np.isfinite(value)
        assert all(np.isfinite(grad).all() for grad in grads.values())
    # A pair that is ranked the wrong way round without end is still pulled at by all of beta.
    _, _, grads = measure(OPTIONS["dpo"], data)
    assert grads["logp_chosen"][0] * B == pytest.approx(-0.1)


def test_no_pairs_are_no_loss() -> None:
    value, metrics, _ = measure({}, pairs(), np.zeros(B))
    assert value == 0
    assert not any(metrics.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kto"}, "kind must be one of sigmoid, ipo; got 'kto'"),
        ({"beta": 0.0}, "beta must be > 0 and finite, got 0.0"),
        ({"label_smoothing": 0.5}, r"label_smoothing must lie in \[0, 0.5\), got 0.5"),
        ({"kind": "ipo", "label_smoothing": 0.1}, "kind 'ipo' knows no label smoothing"),
        ({"sft_weight": -1.0}, "sft_weight must be >= 0 and finite, got -1.0"),
        ({"sft_weight": 1.0}, "sft_weight 1.0 is per token and needs tokens_chosen"),
    ],
)
def test_preferences_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preference.dpo(*pairs().values(), **options)


def test_shapes_that_would_broadcast_are_refused() -> None:
    chosen, *others = pairs().values()
    with pytest.raises(ValueError, match=r"one number a pair, \[B\], .*'logp_chosen': \(5, 1\)"):
        preference.dpo(chosen[:, None], *others)
    with pytest.raises(ValueError, match=r"'mask': \(1,\)"):
        preference.dpo(chosen, *others, mask=np.ones(1))
