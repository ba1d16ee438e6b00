"""What the policy's mathematics refuses, and in which words."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.train import policy

NAN, INF = math.nan, math.inf
LOGP = jnp.zeros((2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "trpo"}, "kind must be one of ppo, gspo, cispo, sapo; got 'trpo'"),
        ({"importance": "tis"}, "importance must be one of none, token_truncate, .*; got 'tis'"),
        ({"kl_estimator": "k4"}, r"kl_estimator must be one of k1, k2, k3, abs, k3\+; got 'k4'"),
        ({"per": "row"}, "per must be one of token, sequence, fixed, micro or None; got 'row'"),
        ({"per": "fixed"}, "per 'fixed' divides by a constant: set length to the longest answer"),
        ({"length": 8}, "length 8 is the divisor of per 'fixed', and per is None: leave it out"),
        ({"per": "fixed", "length": 0}, "length must be > 0, got 0"),
        ({"clip": 0.2}, r"clip must be a pair \(below 1, above 1\) or None, got 0.2"),
        ({"clip": (0.2,)}, "clip must be a pair"),
        ({"clip": [0.2, 0.2]}, "clip must be a pair"),
        ({"clip": (-0.1, 0.2)}, "clip must hold 0 <= below <= 1 and above >= 0, got"),
        ({"clip": (1.1, 0.2)}, "clip must hold 0 <= below <= 1 and above >= 0, got"),
        ({"clip": (0.2, NAN)}, "clip must hold 0 <= below <= 1 and above >= 0, got"),
        ({"dual_clip": 1.0}, "dual_clip must be > 1 or None, got 1.0"),
        ({"dual_clip": 3.0, "kind": "cispo"}, "dual_clip bounds .* kind 'cispo' has none"),
        ({"importance_range": [0.0, 2.0]}, r"importance_range must be a pair \(low, high\), got"),
        ({"sapo_temperatures": 1.0}, r"sapo_temperatures must be a pair .*, got 1.0"),
        ({"sapo_temperatures": (1.0, 0.0)}, "sapo_temperatures must be > 0, got"),
        ({"kl_weight": -1.0}, "kl_weight must be >= 0 and finite, got -1.0"),
        ({"kl_weight": INF}, "kl_weight must be >= 0 and finite, got inf"),
        ({"entropy_weight": NAN}, "entropy_weight must be >= 0 and finite, got nan"),
        ({"kl_clamp": 0.0}, "kl_clamp must be > 0 or None, got 0.0"),
        ({"guide_gamma": 0.0}, "guide_gamma must be > 0 or None, got 0.0"),
        ({"importance_range": (2.0, 2.0)}, "importance_range must hold 0 <= low < high, got"),
        ({"importance_range": (-1.0, 2.0)}, "importance_range must hold 0 <= low < high, got"),
    ],
)
def test_an_objective_that_makes_no_sense_cannot_be_built(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        policy.Objective(**options)


def test_objectives_are_static() -> None:
    assert hash(policy.Objective()) == hash(policy.Objective(clip=(0.2, 0.2)))
    assert policy.Objective(**policy.presets.star()) != policy.Objective()


@pytest.mark.parametrize(
    ("options", "arrays", "message"),
    [
        ({"kl_weight": 0.1}, {}, "kl_weight 0.1 needs ref_logp_BT: pass it, or switch kl_weight o"),
        ({"importance": "token_mask"}, {}, "importance 'token_mask' needs sampler_logp_BT"),
        ({"entropy_weight": 0.1}, {}, "entropy_weight 0.1 needs entropy_BT"),
        ({"kind": "gspo"}, {"guided_BT": LOGP}, "gspo' has one ratio per sequence, and guided"),
        ({}, {"segment_BT": LOGP.astype(int)}, r"need an advantage a token, \[B, T\]; got one a r"),
    ],
)
def test_what_an_objective_asks_for_has_to_be_there(
    options: dict[str, Any], arrays: dict[str, Any], message: str
) -> None:
    objective = policy.Objective(**options)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: policy.terms(LOGP, LOGP, jnp.zeros(2), LOGP, objective, **arrays))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"mask": (3,)}, r"mask must be \[B, T\], got shape \(3,\)"),
        ({"logp": (2, 1)}, r"logp_BT has shape \(2, 1\) and the mask \(2, 3\)"),
        ({"old_logp": (1, 3)}, r"old_logp_BT has shape \(1, 3\) and the mask \(2, 3\)"),
        ({"ref_logp": (2, 1)}, r"ref_logp_BT has shape \(2, 1\) and the mask \(2, 3\)"),
        ({"advantages_B": (2, 1)}, r"advantages have shape \(2, 1\): give one a row, \(2,\)"),
        ({"advantages_B": (3,)}, r"advantages have shape \(3,\): .* or one a token, \(2, 3\)"),
    ],
)
def test_shapes_that_would_broadcast_are_refused(
    shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    names = {"logp": (2, 3), "old_logp": (2, 3), "advantages_B": (2,), "mask": (2, 3)} | shapes
    with pytest.raises(ValueError, match=message):
        policy.loss(**{name: np.zeros(shape) for name, shape in names.items()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "row"}, "per must be one of token, sequence, fixed, micro; got 'row'"),
        ({"per": "fixed"}, "length is the divisor of per 'fixed'; got None with per 'fixed'"),
        ({"length": 3}, "length is the divisor of per 'fixed'; got 3 with per 'token'"),
        ({"per": "fixed", "length": -1}, "length must be > 0, got -1"),
        ({"sequences": 3}, "per 'token' counts no sequences: leave `sequences` out"),
    ],
)
def test_weights_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy.weights(LOGP, **options)


REWARDS = np.array([[1.0, 0.0]])


@pytest.mark.parametrize(
    ("rewards", "options", "message"),
    [
        (REWARDS, {"kind": "gae"}, "kind of advantage must be one of group_norm, .*; got 'gae'"),
        (REWARDS, {"eps": -1.0}, "eps of advantages must be >= 0, got -1.0"),
        (REWARDS, {"eps": 1.0, "kind": "rloo"}, "advantages 'rloo' divide by nothing: eps has no"),
        (REWARDS[0], {}, r"advantages: rewards must be \[prompts, samples\] .* got shape \(2,\)"),
        (np.zeros((2, 0)), {}, r"with at least one sample, got shape \(2, 0\)"),
        (np.array([[0.0, -INF]]), {}, "advantages: the reward of prompt 0, sample 1 is -inf; give"),
    ],
)
def test_advantages_refuse(rewards: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy.advantages(rewards, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "mean"}, "rule must be one of spread, code, paper; got 'mean'"),
        ({"low": 0.5, "high": 0.5}, "low must be < high, got 0.5 and 0.5"),
        ({"min_spread": -0.1}, "min_spread must be >= 0, got -0.1"),
    ],
)
def test_rules_refuse(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        policy.keep(REWARDS, **options)


def test_estimators_and_corrections_refuse() -> None:
    with pytest.raises(ValueError, match=r"KL estimator must be one of k1, k2, .*; got 'k9'"):
        policy.kl(LOGP, LOGP, LOGP, "k9")  # ty: ignore[invalid-argument-type]
    with pytest.raises(ValueError, match="clamp of the KL must be > 0 or None, got -1"):
        policy.kl(LOGP, LOGP, LOGP, clamp=-1)
    with pytest.raises(ValueError, match=r"importance must be one of none, .*; got 'tis'"):
        policy.importance(LOGP, LOGP, LOGP, "tis")  # ty: ignore[invalid-argument-type]
    with pytest.raises(ValueError, match=r"must hold 0 <= low < high, got \(3, 2\)"):
        policy.importance(LOGP, LOGP, LOGP, limits=(3, 2))
