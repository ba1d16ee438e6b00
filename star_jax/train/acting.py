"""The losses of RL: one micro-batch of the policy's own samples → sums.

    hidden states at loss positions → log-prob and entropy of each → the policy's objective
                                    → and a teacher's word on it → a distillation objective
    score   log-probs of samples, without a gradient: the policy's own, or a reference's

Everything a token brings along lies where the token's prediction is made, in rows [B, T] like
`weight_BT`, packed or not; what stands elsewhere is not looked at.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from star_jax.train import distill, policy, vocab
from star_jax.train.loss import Fixed, Forward, Live, seeds
from star_jax.train.step import StepBatch, Sums, at


class Acted(NamedTuple):
    """What is known of each sampled token."""

    old_BT: Any  # log-prob under the policy that this rollout began with; nan: as it is now
    ref_BT: Any  # under the reference
    sampled_BT: Any  # as the sampler had it
    advantage_BT: Any
    guided_BT: Any  # 1 where the policy did not say it: a row's own target


class Micro(NamedTuple):
    tokens: Any  # a TokenBatch
    acted: Acted
    teacher: Live | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Joint:
    """What a step adds up: weights are static."""

    policy: policy.Objective
    policy_weight: float = 1.0
    taught: distill.Objective | None = None  # None: there is no teacher
    own_weight: float = 1.0  # of `taught` at the policy's own tokens
    label_weight: float = 1.0  # and at those of targets
    has_labels: bool = False  # whether any answer is a row's own target
    shows_reference: bool = False  # ref_BT is known, whether or not the loss has a KL


def rl(
    params: Any,
    micro: Micro,
    fixed: Fixed,
    targets: int,
    *,
    forward: Forward,
    joint: Joint,
) -> Sums:
    """Σ weight · the loss of a token, and the count to divide it by. A teacher's part has the same
    weights as the policy's: it is a mean over what the policy's is a mean over."""
    tokens, acted = micro.tokens, micro.acted
    objective = joint.policy
    said, more = _said(params, micro, fixed, targets, forward, joint)
    logp_BT, entropy_BT = said[:2]
    mask_BT = tokens.weight_BT > 0
    # The first update of a rollout is taken by the policy that it began with: the ratio is 1.
    old_BT = jnp.where(jnp.isnan(acted.old_BT), jax.lax.stop_gradient(logp_BT), acted.old_BT)
    loss_BT, told = policy.terms(
        logp_BT,
        old_BT,
        acted.advantage_BT,
        mask_BT,
        objective,
        ref_logp_BT=acted.ref_BT if joint.shows_reference else None,
        sampler_logp_BT=acted.sampled_BT,
        entropy_BT=entropy_BT,
        guided_BT=acted.guided_BT if joint.has_labels else None,
        segment_BT=tokens.segment_BT,
    )
    if joint.policy_weight != 1:
        loss_BT = joint.policy_weight * loss_BT
    if joint.taught is not None:
        taught_BT = jnp.where(acted.guided_BT > 0, joint.label_weight, joint.own_weight)
        loss_BT = loss_BT + jnp.where(mask_BT, taught_BT * said[2], 0)
        told |= {name: jnp.where(mask_BT, x_BT, 0) for name, x_BT in more.items()}
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
    params: Any, micro: Micro, fixed: Fixed, targets: int, forward: Forward, joint: Joint
) -> tuple[tuple[jax.Array, ...], dict[str, jax.Array]]:
    """Log-probs of the targets, the entropies there and a teacher's objective, each with its
    gradient; and what the objective tells."""
    tokens = micro.tokens
    hidden_ND, head_VD, spots = forward.at_targets(params, fixed, tokens, targets)
    label_N = vocab.gather(tokens.target_BT, spots)
    shared, taught = (), None
    if joint.taught is not None:
        if micro.teacher is None:
            raise ValueError("distillation needs a teacher's hidden states beside the tokens")
        seed_N = seeds(tokens, fixed, spots) if joint.taught.kind == "rskd" else None
        taught = vocab.gather_targets(micro.teacher.hidden_BRD, spots), seed_N
        shared = (fixed.teacher_head_VD,)
    values, metrics = vocab.per_token(
        functools.partial(_of_logits, joint.taught),
        hidden_ND,
        head_VD,
        (label_N, taught),
        spots.valid_N,
        shared=shared,
        chunk=forward.chunk,
    )
    put = functools.partial(vocab.scatter, positions=spots)
    return tuple(put(x_N) for x_N in values), {name: put(x_N) for name, x_N in metrics.items()}


def _of_logits(
    objective: distill.Objective | None, logits_CV: jax.Array, data: Any, *shared: jax.Array
) -> tuple[Any, Any]:
    target_C, taught = data
    logz_C = jax.nn.logsumexp(logits_CV, axis=-1)
    mean_C = jnp.sum(jnp.exp(logits_CV - logz_C[:, None]) * logits_CV, axis=-1)
    said = vocab.log_prob(logits_CV, target_C), logz_C - mean_C
    if objective is None:
        return said, {}
    hidden_CD, seed_C = taught
    teacher_CV = vocab.project(hidden_CD, *shared)
    value_C, metrics = objective(logits_CV, distill.Dense(teacher_CV, target_C, seed_C))
    return (*said, value_C), metrics
