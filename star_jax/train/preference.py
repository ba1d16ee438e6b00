"""Preference losses: log-probs of a chosen and of a rejected answer → a loss a pair.

    h = (log π(chosen) - log π(rejected)) - (log π_ref(chosen) - log π_ref(rejected))

    sigmoid   -(1 - s) · log σ(βh) - s · log σ(-βh)        DPO; with label smoothing s, cDPO
    ipo        (h - 1 / 2β)²                               IPO

    + sft_weight · -log π(chosen) / tokens of chosen

`terms` gives a loss for each pair, so that a step can add up Σ weight · loss and Σ weight over
micro-batches; `dpo` is their mean.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

AnyArray = Array | np.ndarray
Kind = Literal["sigmoid", "ipo"]
Terms = tuple[Float[Array, " B"], dict[str, Float[Array, " B"]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    kind: Kind = "sigmoid"
    beta: float = 0.1  # how closely the reference is kept to; of ipo, h's target is 1 / 2β
    label_smoothing: float = 0.0  # the share of pairs that are held to be the wrong way round
    sft_weight: float = 0.0  # of the chosen answer's cross-entropy, nats a token

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}; got {self.kind!r}")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta must be > 0 and finite, got {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must lie in [0, 0.5), got {self.label_smoothing}")
        if self.kind == "ipo" and self.label_smoothing:
            raise ValueError("kind 'ipo' knows no label smoothing: set label_smoothing to 0")
        if not 0 <= self.sft_weight < float("inf"):
            raise ValueError(f"sft_weight must be >= 0 and finite, got {self.sft_weight}")


def dpo(
    logp_chosen: Float[AnyArray, " B"],
    logp_rejected: Float[AnyArray, " B"],
    ref_chosen: Float[AnyArray, " B"],
    ref_rejected: Float[AnyArray, " B"],
    beta: float = 0.1,
    *,
    kind: Kind = "sigmoid",
    label_smoothing: float = 0.0,
    sft_weight: float = 0.0,
    tokens_chosen: Shaped[AnyArray, " B"] | None = None,
    mask: Shaped[AnyArray, " B"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The mean over the pairs where mask is not 0, and the means of what is known of them.

    Log-probs are sums over an answer's tokens. IPO may be given means instead, as TRL does.
    """
    objective = Objective(
        kind=kind, beta=beta, label_smoothing=label_smoothing, sft_weight=sft_weight
    )
    mask_B = jnp.ones(np.shape(logp_chosen)) if mask is None else jnp.asarray(mask)
    loss_B, metrics = terms(
        logp_chosen,
        logp_rejected,
        ref_chosen,
        ref_rejected,
        objective,
        tokens_chosen_B=tokens_chosen,
        mask_B=mask_B,
    )
    weight_B = mask_B.astype(loss_B.dtype)
    count = weight_B.sum()
    count = jnp.where(count == 0, 1, count)

    def mean(value_B: Float[Array, " B"]) -> Float[Array, ""]:
        return (weight_B * value_B).sum() / count

    return mean(loss_B), {name: mean(value_B) for name, value_B in metrics.items()}


def terms(
    logp_chosen_B: Float[AnyArray, " B"],
    logp_rejected_B: Float[AnyArray, " B"],
    ref_chosen_B: Float[AnyArray, " B"],
    ref_rejected_B: Float[AnyArray, " B"],
    objective: Objective,
    *,
    tokens_chosen_B: Shaped[AnyArray, " B"] | None = None,
    mask_B: Shaped[AnyArray, " B"] | None = None,
) -> Terms:
    """Each pair's loss, and what else is known of it; 0 where the mask is 0.

    The reference gets no gradient. What stands at masked-out pairs, NaN included, reaches neither
    values nor gradients.
    """
    if objective.sft_weight and tokens_chosen_B is None:
        raise ValueError(
            f"sft_weight {objective.sft_weight} is per token and needs tokens_chosen, the lengths "
            "of the chosen answers: pass them, or set sft_weight to 0"
        )
    _check_shapes(
        logp_chosen=logp_chosen_B,
        logp_rejected=logp_rejected_B,
        ref_chosen=ref_chosen_B,
        ref_rejected=ref_rejected_B,
        tokens_chosen=tokens_chosen_B,
        mask=mask_B,
    )
    here_B = jnp.ones(np.shape(logp_chosen_B), bool) if mask_B is None else jnp.asarray(mask_B) > 0
    chosen_B, rejected_B = _read(logp_chosen_B, here_B), _read(logp_rejected_B, here_B)
    gain_B = chosen_B - jax.lax.stop_gradient(_read(ref_chosen_B, here_B))
    rejected_gain_B = rejected_B - jax.lax.stop_gradient(_read(ref_rejected_B, here_B))
    h_B = gain_B - rejected_gain_B
    beta, smoothing = objective.beta, objective.label_smoothing
    match objective.kind:
        case "sigmoid":
            loss_B = -(1 - smoothing) * jax.nn.log_sigmoid(beta * h_B)
            if smoothing:
                loss_B = loss_B - smoothing * jax.nn.log_sigmoid(-beta * h_B)
        case "ipo":
            loss_B = (h_B - 1 / (2 * beta)) ** 2
    metrics = {
        "preference/accuracy": (h_B > 0).astype(h_B.dtype),
        "preference/margin": beta * h_B,
        "preference/chosen_reward": beta * gain_B,
        "preference/rejected_reward": beta * rejected_gain_B,
    }
    if tokens_chosen_B is not None:
        tokens_B = jnp.where(here_B, jnp.asarray(tokens_chosen_B), 1).astype(h_B.dtype)
        cross_entropy_B = -chosen_B / jnp.where(tokens_B == 0, 1, tokens_B)
        metrics["preference/chosen_cross_entropy_nats"] = cross_entropy_B
        if objective.sft_weight:
            loss_B = loss_B + objective.sft_weight * cross_entropy_B
    told = {
        name: jnp.where(here_B, jax.lax.stop_gradient(value_B), 0)
        for name, value_B in metrics.items()
    }
    return jnp.where(here_B, loss_B, 0), told


def _check_shapes(**arrays: AnyArray | None) -> None:
    """[B] against [B, 1] would be [B, B], unseen."""
    shapes = {name: np.shape(array) for name, array in arrays.items() if array is not None}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"preferences are one number a pair, [B], of each kind; got {shapes}")


def _read(x_B: AnyArray, here_B: Array) -> Array:
    array = jnp.asarray(x_B)
    return jnp.where(here_B, array.astype(jnp.promote_types(array.dtype, jnp.float32)), 0)
