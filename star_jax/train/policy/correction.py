"""Importance weights from what sampled the tokens to what learns from them.

A sampler computes the same parameters' log-probs in another order, or another precision, or with
parameters of a step ago. d = log π_old - log π_sampler at the sampled tokens, and

    token_truncate      exp(d) held in [low, high]                               TIS
    token_mask          exp(d), or 0 outside [low, high]                         IcePop
    sequence_truncate   exp(Σ d) held in [low, high]                             TRL
    sequence_mask       exp(Σ d), or 0 outside [low, high]                       TRL's default
    sequence_mask_mean  exp(d), or 0 where exp(mean d) is outside [low, high]    seq-mask-tis

with Σ and mean over the sequence.
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from star_jax.train.policy import sequences as seq
from star_jax.train.policy import surrogate

AnyArray = Array | np.ndarray
Mode = Literal[
    "none",
    "token_truncate",
    "token_mask",
    "sequence_truncate",
    "sequence_mask",
    "sequence_mask_mean",
]


def importance(
    old_logp_BT: Float[AnyArray, "B T"],
    sampler_logp_BT: Float[AnyArray, "B T"],
    mask_BT: Shaped[AnyArray, "B T"],
    mode: Mode = "token_truncate",
    limits: tuple[float, float] = (0.0, 2.0),
    *,
    segment_BT: Int[AnyArray, "B T"] | None = None,
) -> Float[Array, "B T"]:
    """Each token's weight on its loss, a constant; 0 where the mask is 0. "none" is 1."""
    if mode not in get_args(Mode):
        raise ValueError(f"importance must be one of {', '.join(get_args(Mode))}; got {mode!r}")
    low, high = limits
    if not 0 <= low < high:
        raise ValueError(f"importance_range must hold 0 <= low < high, got {limits}")
    here_BT = jnp.asarray(mask_BT) > 0
    segment_BT = None if segment_BT is None else jnp.asarray(segment_BT)
    apart_BT = jnp.asarray(old_logp_BT) - jnp.asarray(sampler_logp_BT)
    apart_BT = jax.lax.stop_gradient(jnp.where(here_BT, apart_BT, 0))
    weight_BT = surrogate.ratio(apart_BT)
    judged_BT = weight_BT
    match mode:
        case "none":
            weight_BT = jnp.ones_like(weight_BT)
        case "sequence_truncate" | "sequence_mask":
            weight_BT = judged_BT = surrogate.ratio(seq.total(apart_BT, segment_BT))
        case "sequence_mask_mean":
            mean_BT = surrogate.sequence_log_ratio(apart_BT, here_BT, segment_BT)
            judged_BT = surrogate.ratio(mean_BT)
    if mode.endswith("truncate"):
        weight_BT = jnp.clip(weight_BT, low, high)
    elif mode != "none":
        weight_BT = jnp.where((low <= judged_BT) & (judged_BT <= high), weight_BT, 0)
    return jnp.where(here_BT, weight_BT, 0)
