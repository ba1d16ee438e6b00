"""What a pytree's leaves are called, their dtypes and shapes, and checksums of what they hold."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Shapes = dict[str, tuple[str, tuple[int, ...]]]  # a leaf's path → dtype, shape


def shapes(state: Any) -> Shapes:
    """Of jax.Arrays or of ShapeDtypeStructs with shardings; paths like params/layers/attn/q."""
    found: Shapes = {}
    for path, leaf in jax.tree.leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if getattr(leaf, "sharding", None) is None:
            raise ValueError(
                f"{name or 'the state'} is a {type(leaf).__name__} without a sharding: give "
                "jax.Arrays, or ShapeDtypeStructs that have a sharding"
            )
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise ValueError(f"{name} is of {leaf.dtype.name}: give its jax.random.key_data")
        if name in found:
            raise ValueError(f"two leaves are called {name}: rename one")
        found[name] = (leaf.dtype.name, tuple(leaf.shape))
    return found


def difference(there: Shapes, wanted: Shapes) -> str | None:
    """In words, the first leaf that is not in both of them, or not the same in both."""
    for name, leaf in wanted.items():
        if name not in there:
            return f"{name} is not there and is asked for as {_shown(leaf)}"
        if there[name] != leaf:
            return f"{name} is {_shown(there[name])} there and is asked for as {_shown(leaf)}"
    for name, leaf in there.items():
        if name not in wanted:
            return f"{name} is {_shown(leaf)} there and is not asked for"
    return None


def _shown(leaf: tuple[str, tuple[int, ...]]) -> str:
    dtype, shape = leaf
    return f"{dtype}{list(shape)}"


def checksums(state: Any) -> dict[str, int]:
    """By path, of every leaf; on the host."""
    found = jax.device_get([checksum(leaf) for leaf in jax.tree.leaves(state)])
    return {name: int(value) for name, value in zip(shapes(state), found, strict=True)}


@jax.jit
def checksum(x: jax.Array) -> jax.Array:
    """32 bits that change with any one element and do not depend on how the array is split.

    Sums of integers are exact in any order, so each element's bits are mixed with its place by a
    function that can be inverted (murmur3's finalizer), and what comes out is added up.
    """
    if x.dtype == bool:
        x = x.astype(jnp.uint8)
    width = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    mixed = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)  # 8 bytes become two of 4
    stride = 1
    for axis in reversed(range(mixed.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, mixed.shape, axis)
        mixed += place * jnp.uint32(stride * 0x9E3779B1 % 2**32)
        stride *= mixed.shape[axis]
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    return (mixed ^ (mixed >> 16)).sum(dtype=jnp.uint32)
