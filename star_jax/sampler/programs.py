"""The compiled functions of the engine: pure, shapes from their arguments, nothing hidden.

    read     tokens of packed prompts             → every layer's keys and values (a Prefix)
    place    a Prefix and where its prompts go    → prompts with them
    decode   weights, prompts, replies, rows      → replies, rows, and what was drawn at each step
    resize   prompts, replies                     → the same with more room

`decode` runs until its steps are done, until nobody lives, or until so many samples have ended that
it is worth the host's while to put new ones in their places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from star_jax.models import attention, fused, grouped
from star_jax.models.attention import Backend
from star_jax.models.config import Qwen3Config
from star_jax.models.fused import Weights
from star_jax.models.grouped import Prompts, Replies
from star_jax.sampler import draw, rows
from star_jax.sampler.rows import Rows


class Prefix(NamedTuple):
    """What reading made of packed rows of prompts."""

    key_BKHT: tuple[Any, ...]
    value_BKTH: tuple[Any, ...]


class Drawn(NamedTuple):
    """What each step drew, int32 [steps, B, 3 + 2A]: token (-1 where the row was not alive), the
    bits of its raw and of its drawn log-probability, A likeliest ids and their log-probs' bits."""

    packed: Any
    steps: Any  # of which so many were made


def read(
    weights: Weights,
    tokens_BT: jax.Array,
    segment_BT: jax.Array,
    *,
    config: Qwen3Config,
    backend: Backend,
) -> Prefix:
    places = attention.packed(segment_BT)
    return Prefix(*fused.read(weights, config, tokens_BT, places, backend))


def place(
    prompts: Prompts, prefix: Prefix, jobs_P4: jax.Array, count: jax.Array, *, length: int
) -> Prompts:
    """Copy `count` prompts from where they were read to their slots.

    A job is (slot, row of the prefix, offset in that row, length); at most `length` tokens of it
    are copied, which is what a slot has room for or what a row of the prefix holds.
    """

    def copy(index: jax.Array, prompts: Prompts) -> Prompts:
        slot, row, offset, size = (jobs_P4[index, i] for i in range(4))

        def one(kept: Any, new: jax.Array, axis: int, H_axis: int) -> Any:
            window = _window(new, row, offset, length, axis)
            return jax.tree.map(
                lambda into, piece: jax.lax.dynamic_update_slice(into, piece, (slot, 0, 0, 0)),
                kept,
                grouped.like(window, kept, H_axis),
            )

        pairs = zip(prompts.key_PKHS, prefix.key_BKHT, strict=True)
        keys = tuple(one(kept, new, 3, 2) for kept, new in pairs)
        pairs = zip(prompts.value_PKSH, prefix.value_BKTH, strict=True)
        values = tuple(one(kept, new, 2, 3) for kept, new in pairs)
        return Prompts(keys, values, prompts.length_P.at[slot].set(size))

    return jax.lax.fori_loop(0, count, copy, prompts)


def _window(new: jax.Array, row: Any, offset: Any, length: int, axis: int) -> jax.Array:
    """`length` tokens of one row from `offset` on; what lies past its end comes as anything."""
    T = new.shape[axis]
    size = (1, *new.shape[1:])
    whole = jax.lax.dynamic_slice(new, (row, 0, 0, 0), size)
    rolled = jnp.roll(whole, -offset, axis=axis)
    return jax.lax.slice_in_dim(rolled, 0, min(length, T), axis=axis)


def decode(
    weights: Weights,
    replies: Replies,
    prompts: Prompts,
    rows_BW: jax.Array,
    limits: jax.Array,
    allowed_BW: jax.Array | None,
    *,
    config: Qwen3Config,
    most: int,
    top: int,
) -> tuple[Replies, jax.Array, Drawn]:
    """`limits` is (steps to make, at most `most`; samples that may end before it returns)."""
    steps, ends = limits[0], limits[1]
    state = rows.unpack(rows_BW)
    B = rows_BW.shape[0]

    def goes_on(carry: Any) -> jax.Array:
        i, ended, state, _, _ = carry
        return (i < steps) & (ended < ends) & jnp.any(state.is_live_B)

    def step(carry: Any) -> Any:
        i, ended, state, replies, out = carry
        logits_BV, replies = grouped.step(
            weights, config, state.token_B, state.position_B, state.started_B, prompts, replies
        )
        drawn = draw.draw(logits_BV, state.knobs, state.key_B2, state.count_B, allowed_BW, top)
        out = jax.lax.dynamic_update_slice_in_dim(out, _shown(drawn, state)[None], i, 0)
        after = _after(state, drawn.token_B)
        just_ended = jnp.sum(state.is_live_B & ~after.is_live_B, dtype=jnp.int32)
        return i + 1, ended + just_ended, after, replies, out

    out = jnp.zeros((most, B, 3 + 2 * top), jnp.int32)
    start = (jnp.int32(0), jnp.int32(0), state, replies, out)
    i, _, state, replies, out = jax.lax.while_loop(goes_on, step, start)
    return replies, rows.pack(rows_BW, state), Drawn(out, i)


def _after(state: Rows, token_B: jax.Array) -> Rows:
    """The rows that have drawn these tokens; a stop id, or the last that fits, ends one."""
    live_B = state.is_live_B.astype(jnp.int32)
    count_B = state.count_B + live_B
    stops_B = jnp.any(token_B[:, None] == state.stop_BE, axis=1)
    return state._replace(
        token_B=jnp.where(state.is_live_B, token_B, state.token_B),
        position_B=state.position_B + live_B,
        count_B=count_B,
        is_live_B=state.is_live_B & ~stops_B & (count_B < state.limit_B),
    )


def _shown(drawn: draw.Drawn, state: Rows) -> jax.Array:
    def bits(x: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)

    token_B = jnp.where(state.is_live_B, drawn.token_B, -1)
    own_B3 = jnp.stack([token_B, bits(drawn.raw_B), bits(drawn.drawn_B)], axis=1)
    return jnp.concatenate([own_B3, drawn.top_id_BA, bits(drawn.top_raw_BA)], axis=1)


def resize(prompts: Prompts, replies: Replies, *, S: int, C: int) -> tuple[Prompts, Replies]:
    """More room for prompts, and a ring of another width whose columns keep their steps."""
    old = grouped.width(replies.key_BKHC[0])
    column_C = jnp.arange(C, dtype=jnp.int32)
    # The last step that falls on column c of the new ring; its place in the old one.
    last = replies.now - 1
    step_C = last - (last - column_C) % C
    source_C = step_C % old

    def longer(kept: Any, axis: int) -> Any:
        def one(array: jax.Array) -> jax.Array:
            room = [(0, 0)] * 4
            room[axis] = (0, S - array.shape[axis])
            return jnp.pad(array, room)

        return jax.tree.map(one, kept)

    def turned(kept: Any, axis: int) -> Any:
        return jax.tree.map(lambda array: jnp.take(array, source_C, axis=axis), kept)

    return (
        Prompts(
            tuple(longer(key, 3) for key in prompts.key_PKHS),
            tuple(longer(value, 2) for value in prompts.value_PKSH),
            prompts.length_P,
        ),
        Replies(
            tuple(turned(key, 3) for key in replies.key_BKHC),
            tuple(turned(value, 2) for value in replies.value_BKCH),
            replies.now,
        ),
    )
