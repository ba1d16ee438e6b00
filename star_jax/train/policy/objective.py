"""A policy objective: log-probs of sampled tokens, new and old, and advantages → a loss a token.

    loss = w · surrogate(ρ, A) + kl_weight · KL - entropy_weight · entropy         ρ = π / π_old

An `Objective` is a frozen bag of scalars: hashable, so that it can be a static argument. What makes
no sense is refused when it is built. How tokens become one number is `averages.weights`;
`Objective.weights` calls it with this objective's choice.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from star_jax.train.policy import averages, check, correction, reference, surrogate
from star_jax.train.policy.reference import at_least_float32

AnyArray = Array | np.ndarray
Kind = Literal["ppo", "gspo", "cispo", "sapo"]
Terms = tuple[Float[Array, "B T"], dict[str, Float[Array, "B T"]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    kind: Kind = "ppo"
    clip: tuple[float, float] | None = (0.2, 0.2)  # ρ is held in [1 - low, 1 + high]; None: nowhere
    dual_clip: float | None = None  # where A < 0 no token's loss exceeds dual_clip · |A|
    per: averages.Per | None = None  # None: "sequence" of gspo, "token" of the others
    length: float | None = None  # tokens that per "fixed" divides by
    kl_weight: float = 0.0  # of the KL from the reference, added to the loss
    kl_estimator: reference.Estimator = "k2"
    kl_clamp: float | None = 10.0  # nats that no token's KL exceeds; None: no limit
    entropy_weight: float = 0.0  # nats of entropy are worth this much loss
    importance: correction.Mode = "none"  # sampler → trainer
    importance_range: tuple[float, float] = (0.0, 2.0)  # the weights it lets through
    guide_gamma: float | None = 0.1  # γ of f(π) = π / (π + γ) at guided tokens; None: f(π) = π
    sapo_temperatures: tuple[float, float] = (1.0, 1.05)  # of sapo, where A > 0 and elsewhere

    def __post_init__(self) -> None:
        check.names(self, {"kind": Kind, "importance": correction.Mode})
        check.names(self, {"kl_estimator": reference.Estimator})
        check.average(self, averages.Per)
        check.clipping(self)
        check.numbers(self)

    def weights(
        self,
        mask_BT: Shaped[AnyArray, "B T"],
        *,
        sequences: Shaped[AnyArray, ""] | int | None = None,
        segment_BT: Int[AnyArray, "B T"] | None = None,
    ) -> averages.Weights:
        """`averages.weights` with this objective's `per` and `length`."""
        per = self.per or ("sequence" if self.kind == "gspo" else "token")
        return averages.weights(
            mask_BT, per, length=self.length, sequences=sequences, segment_BT=segment_BT
        )


def terms(
    logp_BT: Float[AnyArray, "B T"],
    old_logp_BT: Float[AnyArray, "B T"],
    advantages_B: Float[AnyArray, " B"] | Float[AnyArray, "B T"],
    mask_BT: Shaped[AnyArray, "B T"],
    objective: Objective,
    *,
    ref_logp_BT: Float[AnyArray, "B T"] | None = None,
    sampler_logp_BT: Float[AnyArray, "B T"] | None = None,
    entropy_BT: Float[AnyArray, "B T"] | None = None,
    guided_BT: Shaped[AnyArray, "B T"] | None = None,
    segment_BT: Int[AnyArray, "B T"] | None = None,
) -> Terms:
    """Each token's loss, not averaged yet, and what else is known of it; 0 where the mask is 0.

    Rows are whole sequences; with `segment_BT` a row holds several side by side, and advantages are
    one a token. `guided_BT` marks tokens of a guide's trace, which the policy did not sample.
    Gradients go to `logp_BT` and `entropy_BT` alone. What stands at masked-out positions, NaN
    included, reaches neither values nor gradients.
    """
    beside = {
        "ref_logp_BT": ref_logp_BT,
        "sampler_logp_BT": sampler_logp_BT,
        "entropy_BT": entropy_BT,
    }
    check.given(objective, beside, is_guided=guided_BT is not None)
    beside |= {"logp_BT": logp_BT, "old_logp_BT": old_logp_BT}
    beside |= {"guided_BT": guided_BT, "segment_BT": segment_BT}
    check.shapes(mask_BT, advantages_B, beside)
    here_BT = jnp.asarray(mask_BT) > 0
    guided_BT = jnp.zeros_like(here_BT) if guided_BT is None else jnp.asarray(guided_BT) > 0
    sampled_BT = here_BT & ~guided_BT
    segment_BT = None if segment_BT is None else jnp.asarray(segment_BT)
    logp_BT = _where(here_BT, logp_BT)
    old_BT = jax.lax.stop_gradient(_where(sampled_BT, old_logp_BT))
    adv_BT = jax.lax.stop_gradient(_where(here_BT, _a_token(advantages_B, here_BT, segment_BT)))

    loss_BT, metrics = _sampled(logp_BT, old_BT, adv_BT, sampled_BT, segment_BT, objective)
    guide_BT = -adv_BT * surrogate.guided(logp_BT, objective.guide_gamma)
    loss_BT = jnp.where(guided_BT, guide_BT, loss_BT)
    if sampler_logp_BT is not None:
        sampler_BT = _where(sampled_BT, sampler_logp_BT)
        mode, limits = objective.importance, objective.importance_range
        weight_BT = correction.importance(
            old_BT, sampler_BT, sampled_BT, mode, limits, segment_BT=segment_BT
        )
        weight_BT = jnp.where(guided_BT, 1, weight_BT)
        loss_BT = surrogate.times(weight_BT, loss_BT)
        metrics |= {
            "policy/importance_weight": weight_BT,
            "policy/sampler_gap_nats": jnp.abs(old_BT - sampler_BT),
        }
    added_BT, more = _added(logp_BT, here_BT, objective, ref_logp_BT, entropy_BT)
    told = {
        name: jnp.where(here_BT, jax.lax.stop_gradient(value_BT), 0)
        for name, value_BT in (metrics | more).items()
    }
    return loss_BT + added_BT, told  # 0 outside the mask, as the advantages are


def _sampled(
    logp_BT: Float[Array, "B T"],
    old_BT: Float[Array, "B T"],
    adv_BT: Float[Array, "B T"],
    sampled_BT: Bool[Array, "B T"],
    segment_BT: Int[Array, "B T"] | None,
    objective: Objective,
) -> Terms:
    """The surrogate of what the policy sampled itself."""
    log_ratio_BT = jnp.where(sampled_BT, logp_BT - old_BT, 0)
    ratio_BT = surrogate.ratio(log_ratio_BT)
    clip = objective.clip
    match objective.kind:
        case "ppo":
            loss_BT, is_cut_BT = surrogate.clipped(ratio_BT, adv_BT, clip, objective.dual_clip)
        case "gspo":
            ratio_BT = surrogate.ratio(
                surrogate.sequence_log_ratio(log_ratio_BT, sampled_BT, segment_BT)
            )
            loss_BT, is_cut_BT = surrogate.clipped(ratio_BT, adv_BT, clip, objective.dual_clip)
        case "cispo":
            loss_BT, is_cut_BT = surrogate.weighted(logp_BT, ratio_BT, adv_BT, clip)
        case "sapo":
            loss_BT = surrogate.gated(ratio_BT, adv_BT, objective.sapo_temperatures)
            is_cut_BT = jnp.zeros_like(sampled_BT)
    return loss_BT, {
        "policy/clip_ratio": is_cut_BT.astype(loss_BT.dtype),
        "policy/ratio": ratio_BT,
        "policy/old_kl_nats": -log_ratio_BT,  # k1 of KL(π_old ‖ π), at tokens that π_old sampled
    }


def _added(
    logp_BT: Float[Array, "B T"],
    here_BT: Bool[Array, "B T"],
    objective: Objective,
    ref_logp_BT: AnyArray | None,
    entropy_BT: AnyArray | None,
) -> Terms:
    """What is added to the surrogate. With a weight of 0 it is looked at, and costs nothing."""
    added_BT, metrics = jnp.zeros_like(logp_BT), {}
    if ref_logp_BT is not None:
        kl_BT = reference.kl_terms(
            logp_BT, ref_logp_BT, here_BT, objective.kl_estimator, clamp=objective.kl_clamp
        )
        metrics["policy/reference_kl_nats"] = kl_BT
        if objective.kl_weight:
            added_BT += objective.kl_weight * kl_BT
    if entropy_BT is not None:
        held_BT = _where(here_BT, entropy_BT)
        metrics["policy/entropy_nats"] = held_BT
        if objective.entropy_weight:
            added_BT -= objective.entropy_weight * held_BT
    return added_BT, metrics


def _where(here_BT: Bool[Array, "B T"], x_BT: AnyArray) -> Float[Array, "B T"]:
    return jnp.where(here_BT, at_least_float32(x_BT), 0)


def _a_token(advantages: AnyArray, here_BT: Array, segment_BT: AnyArray | None) -> Array:
    adv = jnp.asarray(advantages)
    if adv.ndim == 1 and segment_BT is not None:
        raise ValueError(
            "rows that hold several sequences need an advantage a token, [B, T]; got one a row"
        )
    return jnp.broadcast_to(adv[:, None], here_BT.shape) if adv.ndim == 1 else adv
