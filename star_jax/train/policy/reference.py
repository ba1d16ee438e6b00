"""The KL divergence from a reference, estimated at the sampled tokens.

    x = log π - log π_ref        k1 = x        k2 = x² / 2        k3 = e^-x - 1 + x        abs = |x|

As a loss, only k2 has on average the gradient of KL(π ‖ π_ref): k1's is 0, and k3's is that of
KL(π_ref ‖ π). "k3+" has the value of k3 and the gradient of k2.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from star_jax.train.policy import check
from star_jax.train.policy.averages import token_mean

AnyArray = Array | np.ndarray
Estimator = Literal["k1", "k2", "k3", "abs", "k3+"]


def kl(
    logp_BT: Float[AnyArray, "B T"],
    ref_logp_BT: Float[AnyArray, "B T"],
    mask_BT: Shaped[AnyArray, "B T"],
    estimator: Estimator = "k2",
    *,
    clamp: float | None = 10.0,
) -> Float[Array, ""]:
    """The token mean of `kl_terms`: STAR's kl_loss."""
    mask_BT = jnp.asarray(mask_BT)
    return token_mean(kl_terms(logp_BT, ref_logp_BT, mask_BT, estimator, clamp=clamp), mask_BT)


def kl_terms(
    logp_BT: Float[AnyArray, "B T"],
    ref_logp_BT: Float[AnyArray, "B T"],
    mask_BT: Shaped[AnyArray, "B T"],
    estimator: Estimator = "k2",
    *,
    clamp: float | None = 10.0,
) -> Float[Array, "B T"]:
    """Each token's estimate, in nats; 0 where the mask is 0. No gradient goes to the reference.

    No estimate leaves ±clamp, and one that would has no gradient, as in OpenRLHF; None lets all
    through, overflow included.
    """
    if estimator not in get_args(Estimator):
        known = ", ".join(get_args(Estimator))
        raise ValueError(f"KL estimator must be one of {known}; got {estimator!r}")
    if clamp is not None and not clamp > 0:
        raise ValueError(f"clamp of the KL must be > 0 or None, got {clamp}")
    check.shapes(mask_BT, mask_BT, {"logp": logp_BT, "ref_logp": ref_logp_BT})
    here_BT = jnp.asarray(mask_BT) > 0
    x_BT = at_least_float32(logp_BT) - jax.lax.stop_gradient(at_least_float32(ref_logp_BT))
    x_BT = jnp.where(here_BT, x_BT, 0)
    if estimator != "k3+":
        return _clamped(x_BT, estimator, clamp)
    k2_BT, k3_BT = (_clamped(x_BT, one, clamp) for one in ("k2", "k3"))
    return k2_BT + jax.lax.stop_gradient(k3_BT - k2_BT)


def kl_in_reward(
    advantages_B: Float[AnyArray, " B"],
    kl_BT: Float[AnyArray, "B T"],
    mask_BT: Shaped[AnyArray, "B T"],
    kl_weight: float,
) -> Float[Array, "B T"]:
    """Advantages that charge a token for the KL from it to its sequence's end, as OpenRLHF's do:

        A_t = A - kl_weight · Σ_{s ≥ t} kl_s

    One sequence per row. The result is a constant: the gradient is the score function's, so k1 is
    the estimator of this place.
    """
    kl_BT = jnp.where(jnp.asarray(mask_BT) > 0, jnp.asarray(kl_BT), 0)
    coming_BT = jax.lax.cumsum(kl_BT, axis=1, reverse=True)
    return jax.lax.stop_gradient(jnp.asarray(advantages_B)[:, None] - kl_weight * coming_BT)


def _clamped(x_BT: Float[Array, "B T"], estimator: str, clamp: float | None) -> Array:
    value_BT = _estimate(x_BT, estimator)
    if clamp is None:
        return value_BT
    is_within_BT = jnp.abs(value_BT) <= clamp
    is_beyond_BT = jnp.abs(value_BT) > clamp
    limit_BT = jnp.where(value_BT > 0, clamp, -clamp)
    # Estimated once more from a harmless x, since the gradient of what overflows is NaN even
    # where another value is chosen.
    tame_BT = _estimate(jnp.where(is_within_BT, x_BT, 0), estimator)
    # What is neither is NaN, and stays: whoever made it has to see it.
    return jnp.where(is_beyond_BT, limit_BT, jnp.where(is_within_BT, tame_BT, x_BT))


def _estimate(x_BT: Float[Array, "B T"], estimator: str) -> Float[Array, "B T"]:
    match estimator:
        case "k2":
            return x_BT**2 / 2
        case "k3":
            # Of a small x, e^-x - 1 + x is what cancellation leaves; expm1 loses less.
            return jnp.expm1(-x_BT) + x_BT
        case "abs":
            return jnp.abs(x_BT)
    return x_BT


def at_least_float32(x: AnyArray) -> Array:
    array = jnp.asarray(x)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
