"""The losses of supervised training and distillation: one micro-batch of rows → sums.

    hidden states → those at loss positions → the vocabulary core, chunk by chunk
    sft   Σ w · -log q(target)
    ckd   Σ w · objective(student logits, teacher), the teacher from a cache or live

Each has the signature of `step.Loss`. Everything static is bound when a loop builds it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from star_jax.models import attention, lora, qwen3
from star_jax.models.config import Qwen3Config
from star_jax.models.lora import Lora
from star_jax.train import distill, vocab
from star_jax.train.step import StepBatch, Sums, at


class Stored(NamedTuple):
    """A teacher's words from a cache: a row's targets one after the other."""

    ids_BRC: Any
    logp_BRC: Any
    tail_logp_BR: Any
    label_logp_BR: Any


class Live(NamedTuple):
    """A teacher's hidden states at a row's targets; its head is among what is fixed."""

    hidden_BRD: Any


class Micro(NamedTuple):
    tokens: Any  # a TokenBatch
    teacher: Any = None  # Stored, Live, or what another loss has beside its tokens


class Fixed(NamedTuple):
    """What a step reads and does not change."""

    base: Any = None  # the frozen parameters under LoRA's adapters
    teacher_head_VD: Any = None
    seed: Any = None  # uint32, of this step: what RSKD draws with


@dataclass(frozen=True, kw_only=True)
class Forward:
    """How hidden states are computed: nothing of it changes what they are, but for rounding."""

    config: Qwen3Config
    dtype: Any = jnp.bfloat16
    backend: attention.Backend = "auto"
    remat: qwen3.Remat = "none"
    chunk: int = 256
    lora: Lora | None = None  # None: the parameters themselves are trained

    def hidden(self, params: Any, tokens: Any) -> Any:
        return qwen3.hidden(
            params,
            self.config,
            tokens.tokens_BT,
            attention.packed(tokens.segment_BT),
            dtype=self.dtype,
            backend=self.backend,
            remat=self.remat,
        )

    def at_targets(
        self, params: Any, fixed: Fixed, tokens: Any, targets: int
    ) -> tuple[Any, Any, vocab.Positions]:
        """→ hidden states at the loss positions [N, D], the head [V, D], and where they stand."""
        whole = params
        if self.lora is not None:
            whole = lora.attach(self.config, fixed.base, params, self.lora)
        hidden_BTD, _ = self.hidden(whole, tokens)
        spots = vocab.locate(tokens.weight_BT, targets)
        head_VD = whole["embed"] if self.config.tie_word_embeddings else whole["head"]
        return vocab.gather(hidden_BTD, spots), head_VD, spots


def sft(params: Any, micro: Micro, fixed: Fixed, targets: int, *, forward: Forward) -> Sums:
    """Cross-entropy of the targets."""
    hidden_ND, head_VD, spots = forward.at_targets(params, fixed, micro.tokens, targets)
    label_N = vocab.gather(micro.tokens.target_BT, spots)
    total, metrics = vocab.reduce(
        vocab.cross_entropy, hidden_ND, head_VD, label_N, spots.weight_N, chunk=forward.chunk
    )
    return total, (
        spots.weight_N.sum(),
        {
            "loss/cross_entropy_nats": jax.lax.stop_gradient(total),
            "loss/token_accuracy": metrics["hit"],
        },
    )


def ckd(
    params: Any,
    micro: Micro,
    fixed: Fixed,
    targets: int,
    *,
    forward: Forward,
    objective: distill.Objective,
    part: distill.Part = "all",
    end_of_think: int,
) -> Sums:
    """A distillation objective at the targets, or at a part of them."""
    tokens = micro.tokens
    hidden_ND, head_VD, spots = forward.at_targets(params, fixed, tokens, targets)
    # All targets are gathered, so that the teacher's stand beside them; what is left out weighs 0.
    chosen_BT = distill.select_mask(
        tokens.target_BT,
        tokens.weight_BT,
        part,
        end_of_think_id=end_of_think,
        segment=_rising(tokens.segment_BT),
        sample=tokens.example_BT,
    )
    weight_N = jnp.where(vocab.gather(chosen_BT, spots), spots.weight_N, 0)
    data, shared, meet = _teacher(micro, fixed, spots, objective)
    total, metrics = vocab.reduce(
        meet, hidden_ND, head_VD, data, weight_N, shared=shared, chunk=forward.chunk
    )
    return total, (weight_N.sum(), metrics)


def _rising(segment_BT: jax.Array) -> jax.Array:
    """Segment numbers that do not fall from left to right: padding comes last, so 0 counts as the
    highest."""
    return jnp.where(segment_BT == 0, jnp.iinfo(jnp.int32).max - 1, segment_BT)


def _teacher(
    micro: Micro, fixed: Fixed, spots: vocab.Positions, objective: distill.Objective
) -> tuple[Any, tuple[Any, ...], Callable[..., Any]]:
    """What the vocabulary core cuts into chunks, what it passes whole, and the function of both."""
    label_N = vocab.gather(micro.tokens.target_BT, spots)
    pick = functools.partial(vocab.gather_targets, positions=spots)
    match micro.teacher:
        case Stored(ids_BRC, logp_BRC, tail_logp_BR, label_logp_BR):
            known = distill.TopK(
                pick(ids_BRC), pick(logp_BRC), pick(tail_logp_BR), label_N, pick(label_logp_BR)
            )
            return known, (), objective
        case Live(hidden_BRD):
            seed_N = seeds(micro.tokens, fixed, spots) if objective.kind == "rskd" else None
            return (
                (pick(hidden_BRD), label_N, seed_N),
                (fixed.teacher_head_VD,),
                functools.partial(_meet_live, objective),
            )
    raise ValueError("distillation needs a teacher, live or from a cache")


def _meet_live(
    objective: distill.Objective, logits_CV: jax.Array, data: Any, teacher_head_VD: jax.Array
) -> Any:
    hidden_CD, label_C, seed_C = data
    teacher_CV = vocab.project(hidden_CD, teacher_head_VD)
    return objective(logits_CV, distill.Dense(teacher_CV, label_C, seed_C))


def seeds(tokens: Any, fixed: Fixed, spots: vocab.Positions) -> jax.Array:
    """A seed for every position, from the step's, the example's number and its place in it."""
    place_BT = attention.packed(tokens.segment_BT).position_BT
    example_N, place_N = vocab.gather(tokens.example_BT, spots), vocab.gather(place_BT, spots)

    def make(example: jax.Array, place: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(fixed.seed), example)
        return jax.random.bits(jax.random.fold_in(key, place), (), jnp.uint32)

    return jax.vmap(make)(example_N, place_N)


def teacher_hidden(
    params: Any, batch: StepBatch, fixed: Any, targets: int, *, forward: Forward
) -> jax.Array:
    """A live teacher: its hidden states at the targets of every micro-batch, [M, B, R, D].

    Under the teacher's own mesh, so in an order that knows no mesh: a row's targets one after the
    other, whatever stands in the room that is left. Hidden states rather than logits travel to the
    student's mesh: 8 KB a position of an 8B teacher, where its logits are 600.
    """

    def one(tokens: Any) -> jax.Array:
        hidden_BTD, _ = forward.hidden(params, tokens)
        order_BT = jnp.argsort(tokens.weight_BT == 0, axis=1, stable=True)
        return jnp.take_along_axis(hidden_BTD, order_BT[:, :targets, None], axis=1)

    def advance(number: Any, made_MBRD: jax.Array) -> jax.Array:
        return made_MBRD.at[number].set(one(at(batch.micro.tokens, number)))

    like = jax.eval_shape(lambda: one(at(batch.micro.tokens, 0)))
    M = batch.micro.tokens.tokens_BT.shape[0]
    return jax.lax.fori_loop(0, batch.used, advance, jnp.zeros((M, *like.shape), like.dtype))
