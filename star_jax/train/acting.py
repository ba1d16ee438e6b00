"""The losses of RL: one micro-batch of the policy's own samples → sums.

    hidden states at loss positions → log-prob and entropy of each → the policy's objective
    score   log-probs of samples, without a gradient: the policy's own, or a reference's

Everything a token brings along lies where the token's prediction is made, in rows [B, T] like
`weight_BT`, packed or not; what stands elsewhere is not looked at.
"""

from __future__ import annotations

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


def rl(
    params: Any,
    micro: Micro,
    fixed: Fixed,
    targets: int,
    *,
    forward: Forward,
    objective: policy.Objective,
) -> Sums:
    """Σ weight · the objective's loss of a token, and the count to divide it by."""
    tokens, acted = micro
    logp_BT, entropy_BT = _said(params, tokens, fixed, targets, forward)
    mask_BT = tokens.weight_BT > 0
    # The first update of a rollout is taken by the policy that it began with: the ratio is 1.
    old_BT = jnp.where(jnp.isnan(acted.old_BT), jax.lax.stop_gradient(logp_BT), acted.old_BT)
    loss_BT, told = policy.terms(
        logp_BT,
        old_BT,
        acted.advantage_BT,
        mask_BT,
        objective,
        ref_logp_BT=acted.ref_BT if objective.kl_weight else None,
        sampler_logp_BT=acted.sampled_BT,
        entropy_BT=entropy_BT,
        segment_BT=tokens.segment_BT,
    )
    weight_BT, count = objective.weights(mask_BT, segment_BT=tokens.segment_BT)

    # Divided by a constant a metric would be no mean: it is one of sequences' means there.
    share_BT = weight_BT
    if objective.per == "fixed":
        share_BT = policy.weights(mask_BT, "sequence", segment_BT=tokens.segment_BT).weight_BT
    sums = {name: jnp.sum(share_BT * x_BT) for name, x_BT in told.items()}
    return jnp.sum(weight_BT * loss_BT), (count, sums)


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
