"""Objectives of single positions, summed or one by one, and their gradients.

`reduce` differentiates each chunk while its logits are there, and the backward pass only scales
what was found: three products of [C, D] with [V, D], where recomputing the logits takes four. No
memory is paid for that, because the head is the last thing of a forward pass and the first of the
backward one: its gradient is alive from the one to the other either way. `per_token` does not know
its cotangents in the forward pass, so it recomputes. At 512 positions of 1,024 × 152k on two CPU
cores the one took 3.3 s a step, the other 4.4 s, in the same memory: benchmarks/vocab.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from star_jax.train.vocab import chunks, softmax

CHUNK = 256  # positions that a device projects at once: 0.16 GB of float32 logits at 152k

# (logits_CV, data of the chunk, *shared) → (values, metrics), each a tree of [C, ...] of which
# position c depends on position c of the arguments alone: C is a chunk as one device has it.
# Where the vocabulary is split too, jax.lax.top_k would gather its logits; `largest` does not.
Objective = Callable[..., tuple[Any, Any]]


def reduce(
    fn: Objective,
    hidden_ND: Float[Array, "N D"],
    head_VD: Float[Array, "V D"],
    data: Any,
    weight_N: Num[Array, " N"] | Bool[Array, " N"],
    *,
    shared: tuple[Any, ...] = (),
    chunk: int = CHUNK,
    grad_data: bool = False,
) -> tuple[Float[Array, ""], Any]:
    """Σ weight · value, and of each metric Σ weight · metric, for an objective of values [C].

    fn is called as fn(logits_CV, data, *shared): arrays of `data` begin with N and come in chunks,
    `shared` comes whole (another model's head, say). Gradients reach hidden and head, summed in
    float32 and cast to their dtypes at the end. Metrics, weights and `shared` have none; the floats
    of `data` have one only if `grad_data`, being as a rule what a teacher said. A position of
    weight 0 adds exactly nothing, whatever fn makes of it.
    """
    call, moving, fixed = _part(fn, data, grad_data)
    plan = chunks.plan(hidden_ND, head_VD, chunk)
    return _reduce(call, plan, hidden_ND, head_VD, moving, (fixed, weight_N, shared))


def per_token(
    fn: Objective,
    hidden_ND: Float[Array, "N D"],
    head_VD: Float[Array, "V D"],
    data: Any,
    valid_N: Bool[Array, " N"],
    *,
    shared: tuple[Any, ...] = (),
    chunk: int = CHUNK,
    grad_data: bool = False,
) -> tuple[Any, Any]:
    """fn's values and metrics of every position, 0 where it is not valid.

    Values may be any tree of [C, ...] and are differentiable position by position; the rest is as
    in `reduce`.
    """
    call, moving, fixed = _part(fn, data, grad_data)
    plan = chunks.plan(hidden_ND, head_VD, chunk)
    return _per_token(call, plan, hidden_ND, head_VD, moving, (fixed, valid_N, shared))


def statistics(
    hidden_ND: Float[Array, "N D"],
    head_VD: Float[Array, "V D"],
    valid_N: Bool[Array, " N"],
    *,
    target_N: Int[Array, " N"] | None = None,
    given_NK: Int[Array, "N K"] | None = None,
    top_k: int = 0,
    approximate: bool = False,
    chunk: int = CHUNK,
) -> softmax.Statistics:
    """Statistics of every position, 0 where it is not valid, in one pass without a gradient."""

    def fn(logits_CV: jax.Array, data: tuple[Any, Any]) -> tuple[Any, Any]:
        return (), softmax.measure(logits_CV, *data, top_k=top_k, approximate=approximate)

    call, _, fixed = _part(fn, (target_N, given_NK), False)
    hidden_ND, head_VD, fixed = jax.lax.stop_gradient((hidden_ND, head_VD, fixed))
    plan = chunks.plan(hidden_ND, head_VD, chunk)
    return chunks.outputs(call, plan, hidden_ND, head_VD, ([], fixed), valid_N, ())[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _reduce(
    call: chunks.Call, plan: chunks.Plan, hidden_ND: Any, head_VD: Any, moving: Any, still: Any
) -> Any:
    fixed, weight_N, shared = still
    data, valid_N = (moving, fixed), weight_N != 0
    found = chunks.outputs(call, plan, hidden_ND, head_VD, data, valid_N, shared)
    return _weigh(found, weight_N)


def _reduce_forward(
    call: chunks.Call, plan: chunks.Plan, hidden_ND: Any, head_VD: Any, moving: Any, still: Any
) -> Any:
    fixed, weight_N, shared = still
    data, valid_N = (moving, fixed), weight_N != 0
    found, made = chunks.gradients(
        call, plan, hidden_ND, head_VD, data, valid_N, shared, weight_N.astype(plan.sums)
    )
    return _weigh(found, weight_N), made


def _reduce_backward(call: chunks.Call, plan: chunks.Plan, made: Any, cotangent: Any) -> Any:
    return _as_cotangents(plan, jax.tree.map(lambda x: x * cotangent[0].astype(x.dtype), made))


_reduce.defvjp(_reduce_forward, _reduce_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _per_token(
    call: chunks.Call, plan: chunks.Plan, hidden_ND: Any, head_VD: Any, moving: Any, still: Any
) -> Any:
    fixed, valid_N, shared = still
    return chunks.outputs(call, plan, hidden_ND, head_VD, (moving, fixed), valid_N, shared)


def _per_token_forward(
    call: chunks.Call, plan: chunks.Plan, hidden_ND: Any, head_VD: Any, moving: Any, still: Any
) -> Any:
    args = (hidden_ND, head_VD, moving, still)
    return _per_token(call, plan, *args), args


def _per_token_backward(call: chunks.Call, plan: chunks.Plan, args: Any, cotangent: Any) -> Any:
    hidden_ND, head_VD, moving, (fixed, valid_N, shared) = args
    _, made = chunks.gradients(
        call, plan, hidden_ND, head_VD, (moving, fixed), valid_N, shared, cotangent[0]
    )
    return _as_cotangents(plan, made)


_per_token.defvjp(_per_token_forward, _per_token_backward)


def _as_cotangents(plan: chunks.Plan, made: tuple[Any, Any, Any]) -> tuple[Any, Any, Any, None]:
    """Of (hidden, head, moving, still); None is no gradient."""
    dhidden_ND, dhead_VD, dmoving = made
    return dhidden_ND.astype(plan.hidden), dhead_VD.astype(plan.head), dmoving, None


def _part(fn: Objective, data: Any, moves: bool) -> tuple[chunks.Call, list[Any], list[Any]]:
    """fn as the chunks call it, the leaves of data that are differentiated, and the others."""
    leaves, tree = jax.tree.flatten(data)
    is_moving = tuple(moves and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    moving = [leaf for leaf, moves in zip(leaves, is_moving, strict=True) if moves]
    fixed = [leaf for leaf, moves in zip(leaves, is_moving, strict=True) if not moves]

    def call(logits_CV: jax.Array, parts: tuple[Any, Any], shared: Any) -> tuple[Any, Any]:
        moving, fixed = map(iter, parts)
        chunk = [next(moving if moves else fixed) for moves in is_moving]
        found = fn(logits_CV, jax.tree.unflatten(tree, chunk), *shared)
        for made in jax.tree.leaves(found):
            if made.shape[:1] != logits_CV.shape[:1]:
                raise ValueError(
                    "an objective returns something for every position, [C, ...]; for a chunk of "
                    f"{logits_CV.shape[0]} it returned {made.shape}"
                )
        return found

    return call, moving, fixed


def _weigh(found: tuple[Any, Any], weight_N: jax.Array) -> tuple[Any, Any]:
    """Sums over positions, in one piece: they do not depend on how the chunks were cut."""
    value_N, metrics = found

    def total(x_N: jax.Array) -> jax.Array:
        if x_N.shape != weight_N.shape:
            raise ValueError(f"reduce sums one number a position, the objective gave {x_N.shape}")
        x_N = x_N.astype(jnp.promote_types(x_N.dtype, jnp.float32))
        return (weight_N.astype(x_N.dtype) * x_N).sum()

    return total(value_N), jax.tree.map(total, metrics)
