"""The losses of RL: one micro-batch of the policy's own samples → sums.

    hidden states at loss positions → log-prob and entropy of each → the policy's objective
    score   log-probs of samples, without a gradient: the policy's own, or a reference's

Everything a token brings along lies where the token's prediction is made, in rows [B, T] like
`weight_BT`, packed or not; what stands elsewhere is not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from star_jax.train import policy, vocab
from star_jax.train.loss import Fixed, Forward
from star_jax.train.step import StepBatch, Sums, at


class Acted(NamedTuple):
    """What is known of each sampled token."""

    old_BT: Any  # log-prob under the policy that this rollout began with; nan: as it is now
    ref_BT: Any  # under the reference
    sampled_BT: Any  # as the sampler had it
    advantage_BT: Any


class Micro(NamedTuple):
    tokens: Any  # a TokenBatch
    acted: Acted


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is added to the policy's loss, and how tokens count."""

    per: policy.Per = "token"
    length: float | None = None  # the divisor of "fixed"
    kl: float = 0.0
    estimator: policy.Estimator = "k2"
    clamp: float | None = 10.0
    entropy: float = 0.0


def rl(
    params: Any,
    micro: Micro,
    fixed: Fixed,
    targets: int,
    *,
    forward: Forward,
    objective: policy.Objective,
    weights: Weights,
) -> Sums:
    """Σ weight · (policy loss + kl · KL(policy, reference) - entropy bonus)."""
    tokens, acted = micro
    logp_BT, entropy_BT = _said(params, tokens, fixed, targets, forward)
    mask_BT, segment_BT = tokens.weight_BT > 0, tokens.segment_BT
    # The first update of a rollout is taken by the policy that it began with: the ratio is 1.
    old_BT = jnp.where(jnp.isnan(acted.old_BT), jax.lax.stop_gradient(logp_BT), acted.old_BT)
    policy_BT, told = policy.terms(
        logp_BT,
        old_BT,
        acted.advantage_BT,
        mask_BT,
        objective,
        segment_BT=segment_BT,
        sampled_logp_BT=acted.sampled_BT,
    )
    value_BT = policy_BT - weights.entropy * entropy_BT
    if weights.kl:  # else there may be no reference
        kl_BT = policy.kl_terms(
            logp_BT, acted.ref_BT, mask_BT, weights.estimator, clamp=weights.clamp
        )
        value_BT += weights.kl * kl_BT
        told = {**told, "kl_nats": kl_BT}
    weight_BT, count = policy.weights(
        mask_BT, weights.per, length=weights.length, segment_BT=segment_BT
    )

    def add_up(x_BT: jax.Array) -> jax.Array:
        return jnp.sum(weight_BT * jnp.where(mask_BT, x_BT, 0))

    metrics = {
        "policy/loss": policy_BT,
        "policy/entropy_nats": entropy_BT,
        **{f"policy/{name}": x_BT for name, x_BT in told.items()},
    }
    sums = {name: add_up(jax.lax.stop_gradient(x_BT)) for name, x_BT in metrics.items()}
    return add_up(value_BT), (count, sums)


def score(
    params: Any, batch: StepBatch, fixed: Any, targets: int, *, forward: Forward
) -> jax.Array:
    """Log-probs of every target of every micro-batch, [M, B, T]; 0 elsewhere."""

    def one(tokens: Any) -> jax.Array:
        hidden_ND, head_VD, spots = forward.at_targets(params, fixed, tokens, targets)
        label_N = vocab.gather(tokens.target_BT, spots)
        found = vocab.statistics(
            hidden_ND, head_VD, spots.valid_N, target_N=label_N, chunk=forward.chunk
        )
        return vocab.scatter(found.logp, spots)

    def advance(number: Any, made_MBT: jax.Array) -> jax.Array:
        return made_MBT.at[number].set(one(at(batch.micro, number)))

    shape = batch.micro.tokens_BT.shape
    return jax.lax.fori_loop(0, batch.used, advance, jnp.zeros(shape, jnp.float32))


def _said(
    params: Any, tokens: Any, fixed: Fixed, targets: int, forward: Forward
) -> tuple[jax.Array, jax.Array]:
    """Log-probs of the targets and the entropies there, both with their gradients."""
    hidden_ND, head_VD, spots = forward.at_targets(params, fixed, tokens, targets)
    label_N = vocab.gather(tokens.target_BT, spots)
    (logp_N, entropy_N), _ = vocab.per_token(
        _of_logits, hidden_ND, head_VD, label_N, spots.valid_N, chunk=forward.chunk
    )
    return vocab.scatter(logp_N, spots), vocab.scatter(entropy_N, spots)


def _of_logits(logits_CV: jax.Array, target_C: jax.Array) -> tuple[Any, Any]:
    logz_C = jax.nn.logsumexp(logits_CV, axis=-1)
    mean_C = jnp.sum(jnp.exp(logits_CV - logz_C[:, None]) * logits_CV, axis=-1)
    return (vocab.log_prob(logits_CV, target_C), logz_C - mean_C), {}
