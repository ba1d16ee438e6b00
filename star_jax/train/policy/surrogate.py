"""What a token's ratio and advantage cost, before any averaging.

Everything here stays finite where ratios do not, in value and in gradient: a branch that is not
taken is fed something harmless.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from star_jax.train.policy import sequences as seq

# No log-ratio leaves ±20, as in OpenRLHF from 0.11 on; beyond, the gradient is 0.
LIMIT = 20.0

Cut = tuple[Float[Array, "B T"], Bool[Array, "B T"]]


def ratio(log_ratio_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
    return jnp.exp(jnp.clip(log_ratio_BT, -LIMIT, LIMIT))


def sequence_log_ratio(
    log_ratio_BT: Float[Array, "B T"],
    here_BT: Bool[Array, "B T"],
    segment_BT: Int[Array, "B T"] | None,
) -> Float[Array, "B T"]:
    """GSPO's: the mean over a sequence's tokens, at each of them. Log-ratios are 0 elsewhere."""
    tokens_BT = seq.total(here_BT.astype(log_ratio_BT.dtype), segment_BT)
    return seq.total(log_ratio_BT, segment_BT) / jnp.where(tokens_BT == 0, 1, tokens_BT)


def clipped(
    ratio_BT: Float[Array, "B T"],
    adv_BT: Float[Array, "B T"],
    clip: tuple[float, float] | None,
    dual_clip: float | None,
) -> Cut:
    """-min(ρA, clip(ρ)A); under a dual clip, and where A < 0, -max(that, dual_clip · A)."""
    gain_BT = ratio_BT * adv_BT
    is_cut_BT = jnp.zeros(ratio_BT.shape, bool)
    if clip is not None:
        bounded_BT = _bounded(ratio_BT, clip) * adv_BT
        is_cut_BT = bounded_BT < gain_BT
        gain_BT = jnp.where(is_cut_BT, bounded_BT, gain_BT)
    if dual_clip is not None:
        least_BT = dual_clip * adv_BT
        gain_BT = jnp.where((adv_BT < 0) & (gain_BT < least_BT), least_BT, gain_BT)
    return -gain_BT, is_cut_BT


def weighted(
    logp_BT: Float[Array, "B T"],
    ratio_BT: Float[Array, "B T"],
    adv_BT: Float[Array, "B T"],
    clip: tuple[float, float] | None,
) -> Cut:
    """CISPO: -sg(clip(ρ)) · A · log π. A clipped ratio weighs less; its gradient is not cut off."""
    weight_BT = ratio_BT if clip is None else _bounded(ratio_BT, clip)
    weight_BT = jax.lax.stop_gradient(weight_BT)
    return -times(weight_BT * adv_BT, logp_BT), weight_BT != ratio_BT


def gated(
    ratio_BT: Float[Array, "B T"], adv_BT: Float[Array, "B T"], temperatures: tuple[float, float]
) -> Float[Array, "B T"]:
    """SAPO: -A · σ(τ(ρ - 1)) · 4/τ, a soft clip of slope 1 at ρ = 1."""
    tau_BT = jnp.where(adv_BT > 0, temperatures[0], temperatures[1]).astype(ratio_BT.dtype)
    return -adv_BT * jax.nn.sigmoid(tau_BT * (ratio_BT - 1)) * 4 / tau_BT


def guided(logp_BT: Float[Array, "B T"], gamma: float | None) -> Float[Array, "B T"]:
    """LUFFY: f(π) = π / (π + γ), whose slope γ / (π + γ)² is largest where the policy would not
    have gone. Nothing is known of the guide's own π, which counts as 1."""
    if gamma is None:
        return jnp.exp(logp_BT)
    return jax.nn.sigmoid(logp_BT - jnp.log(gamma))


def times(weight_BT: Float[Array, "B T"], value_BT: Float[Array, "B T"]) -> Float[Array, "B T"]:
    """A product in which a weight of 0 wins over anything."""
    return jnp.where(weight_BT == 0, 0, weight_BT * jnp.where(weight_BT == 0, 0, value_BT))


def _bounded(ratio_BT: Float[Array, "B T"], clip: tuple[float, float]) -> Float[Array, "B T"]:
    return jnp.clip(ratio_BT, 1 - clip[0], 1 + clip[1])
