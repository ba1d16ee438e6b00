"""Reinforcement learning's mathematics: arrays in, arrays out.

    advantages   rewards of groups → how much better each sample is
    keep         which groups have something to learn from
    loss         the whole of a policy loss for one batch, as a scalar
    terms        the same at every token, and `weights`: what a micro-batched step adds up

`loss` is Σ weight · terms / count with `weights`' numbers.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from star_jax.train.policy import presets as presets
from star_jax.train.policy.averages import Per, Weights, drop_unfinished, token_mean, weights
from star_jax.train.policy.correction import Mode, importance
from star_jax.train.policy.groups import AdvantageKind, Rule, advantages, keep
from star_jax.train.policy.objective import Kind, Objective, terms
from star_jax.train.policy.reference import Estimator, kl, kl_in_reward, kl_terms

__all__ = [
    "AdvantageKind",
    "Estimator",
    "Kind",
    "Mode",
    "Objective",
    "Per",
    "Rule",
    "Weights",
    "advantages",
    "drop_unfinished",
    "importance",
    "keep",
    "kl",
    "kl_in_reward",
    "kl_terms",
    "loss",
    "presets",
    "terms",
    "token_mean",
    "weights",
]

AnyArray = Array | np.ndarray


def loss(
    logp: Float[AnyArray, "B T"],
    old_logp: Float[AnyArray, "B T"],
    advantages_B: Float[AnyArray, " B"] | Float[AnyArray, "B T"],
    mask: Shaped[AnyArray, "B T"],
    kind: Kind = "ppo",
    clip: tuple[float, float] | None = (0.2, 0.2),
    per: Per | None = None,
    dual_clip: float | None = None,
    *,
    ref_logp: Float[AnyArray, "B T"] | None = None,
    sampler_logp: Float[AnyArray, "B T"] | None = None,
    entropy: Float[AnyArray, "B T"] | None = None,
    guided: Shaped[AnyArray, "B T"] | None = None,
    segment: Int[AnyArray, "B T"] | None = None,
    sequences: Shaped[AnyArray, ""] | int | None = None,
    **options: Any,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a batch that is one micro-batch, and the token mean of each thing known of it.

    `per` None is the token mean, or of kind "gspo" the mean of sequences. `options` are
    `Objective`'s other fields. With nothing in the mask the loss is 0.
    """
    objective = Objective(kind=kind, clip=clip, per=per, dual_clip=dual_clip, **options)
    loss_BT, metrics = terms(
        logp,
        old_logp,
        advantages_B,
        mask,
        objective,
        ref_logp_BT=ref_logp,
        sampler_logp_BT=sampler_logp,
        entropy_BT=entropy,
        guided_BT=guided,
        segment_BT=segment,
    )
    mask_BT = jnp.asarray(mask)
    weight_BT, count = objective.weights(mask_BT, sequences=sequences, segment_BT=segment)
    # In the loss's own precision: float64 weights would make a float32 loss float64.
    weight_BT, count = weight_BT.astype(loss_BT.dtype), count.astype(loss_BT.dtype)
    total = (weight_BT * loss_BT).sum() / jnp.where(count == 0, 1, count)
    return total, {name: token_mean(value_BT, mask_BT) for name, value_BT in metrics.items()}
