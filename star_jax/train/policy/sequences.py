"""Sums over a sequence: a row, or a segment of a row where several are packed into it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped


def total(
    value_BT: Shaped[Array, "B T"], segment_BT: Int[Array, "B T"] | None
) -> Shaped[Array, "B T"]:
    """At every token, the sum over the sequence that it belongs to."""
    if segment_BT is None:
        return jnp.broadcast_to(value_BT.sum(1, keepdims=True), value_BT.shape)
    place_BT = _place(segment_BT)
    return jnp.take_along_axis(_sums(value_BT, place_BT), place_BT, axis=1)


def count(here_BT: Shaped[Array, "B T"], segment_BT: Int[Array, "B T"] | None) -> Int[Array, ""]:
    """The number of sequences with at least one token that is here."""
    if segment_BT is None:
        return jnp.any(here_BT, axis=1).sum()
    return (_sums(here_BT.astype(jnp.int32), _place(segment_BT)) > 0).sum()


def _place(segment_BT: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """A sequence's place among those of its row: segments stand side by side, and their numbers
    may have gaps."""
    begins_BT = segment_BT[:, 1:] != segment_BT[:, :-1]
    return jnp.pad(jnp.cumsum(begins_BT, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))


def _sums(value_BT: Shaped[Array, "B T"], place_BT: Int[Array, "B T"]) -> Shaped[Array, "B T"]:
    """Sums by place; a row has room for as many sequences as tokens."""

    def row(value_T: Array, place_T: Array) -> Array:
        return jax.ops.segment_sum(value_T, place_T, num_segments=value_T.shape[0])

    return jax.vmap(row)(value_BT, place_BT)
