"""Logits → the next token of each row, and how likely it was.

    drawn = argmax_v p_v / E_v,   E_v = -log(1 - u_v)

of a uniform u_v that depends on the row's key, the position and v alone,

which draws v with probability p_v / Σp, as Gumbel's trick does, without a second logarithm; and two
computations of the same p that differ by rounding draw the same token unless its race was a tie.

p is what Hugging Face's warpers leave, in their order: temperature, top-k, top-p, min-p. Nothing is
sorted: a threshold on p is found by halving the interval between the float32 that it can be. Where
several tokens are exactly as likely as the last one kept, all of them are kept.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

HALVINGS = 31  # the bits of a positive float32


class Knobs(NamedTuple):
    """Per row; what turns a filter off is 0 for top-k and min-p, 1 for top-p."""

    temperature_B: Any
    top_k_B: Any
    top_p_B: Any
    min_p_B: Any


class Drawn(NamedTuple):
    token_B: Any
    raw_B: Any  # its log-probability at temperature 1, before any filter or mask
    drawn_B: Any  # its log-probability in what it was drawn from
    top_id_BA: Any  # the A most likely tokens before filters, and their raw log-probabilities
    top_raw_BA: Any


def draw(
    logits_BV: Float[Array, "B V"],
    knobs: Knobs,
    key_B2: Any,
    count_B: Int[Array, " B"],
    allowed_BW: Any = None,
    top: int = 0,
) -> Drawn:
    """`count_B` is how many tokens the row has drawn before; `allowed_BW` has a bit for each token
    that may be drawn (bit j of word i is token 32·i + j)."""
    raw_max_B = jnp.max(logits_BV, axis=-1)
    raw_BV = logits_BV - raw_max_B[:, None]
    raw_sum_B = jnp.sum(jnp.exp(raw_BV), axis=-1)
    is_greedy_B = knobs.temperature_B == 0
    scale_B = 1 / jnp.where(is_greedy_B, 1, knobs.temperature_B)
    open_BV = (
        raw_BV if allowed_BW is None else jnp.where(bits(allowed_BW, raw_BV), raw_BV, -jnp.inf)
    )
    most_B = jnp.max(open_BV, axis=-1)
    p_BV = jnp.exp((open_BV - most_B[:, None]) * scale_B[:, None])
    least_B = jax.lax.cond(
        jnp.any(has_filter(knobs) & ~is_greedy_B),
        lambda: threshold(p_BV, knobs),
        lambda: jnp.zeros_like(most_B),
    )
    p_BV = jnp.where(p_BV >= least_B[:, None], p_BV, 0)
    token_B = jax.lax.cond(
        jnp.all(is_greedy_B),
        lambda: first_largest(open_BV),
        lambda: _race(p_BV, open_BV, is_greedy_B, key_B2, count_B),
    )
    raw_token_B = _at(raw_BV, token_B)
    drawn_B = (raw_token_B - most_B) * scale_B - jnp.log(jnp.sum(p_BV, axis=-1))
    top_raw_BA, top_id_BA = jax.lax.top_k(raw_BV, top)
    return Drawn(
        token_B,
        raw_token_B - jnp.log(raw_sum_B),
        jnp.where(is_greedy_B, 0, drawn_B),
        top_id_BA,
        top_raw_BA - jnp.log(raw_sum_B)[:, None],
    )


def _race(p_BV: Any, open_BV: Any, is_greedy_B: Any, key_B2: Any, count_B: Any) -> jax.Array:
    keys_B = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(key_B2), count_B)
    ratio_BV = p_BV / -jnp.log1p(-uniform(jax.random.key_data(keys_B), p_BV.shape[1]))
    return first_largest(jnp.where(is_greedy_B[:, None], open_BV, ratio_BV))


def uniform(key_B2: Any, V: int) -> Float[Array, "B V"]:
    """V numbers inside (0, 1) for each key, by hashing 0 to V - 1 twice with it.

    Threefry gives each row and position a key; over the vocabulary it would cost a tenth of a step.
    (bits + ½) / 2³²: near 0, where races are won, neighbours are 2⁻³² apart.
    """
    v_1V = jax.lax.broadcasted_iota(jnp.uint32, (1, V), 1)
    bits_BV = scatter_bits(scatter_bits(v_1V ^ key_B2[:, :1]) + key_B2[:, 1:])
    return bits_BV.astype(jnp.float32) * 2.0**-32 + 2.0**-33


def scatter_bits(x: jax.Array) -> jax.Array:
    """A bijection of 32 bits in which every input bit turns over half of the output's (the
    constants are those of Ettinger's lowbias32)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def first_largest(x_BV: jax.Array) -> jax.Array:
    """argmax as two plain reductions, which vectorise where its own does not. The barrier keeps
    what makes x from being computed twice."""
    x_BV = jax.lax.optimization_barrier(x_BV)
    V = x_BV.shape[-1]
    v_BV = jax.lax.broadcasted_iota(jnp.int32, x_BV.shape, 1)
    is_largest_BV = x_BV == jnp.max(x_BV, axis=-1, keepdims=True)
    return jnp.minimum(jnp.min(jnp.where(is_largest_BV, v_BV, V), axis=-1), V - 1)


def has_filter(knobs: Knobs) -> jax.Array:
    return (knobs.top_k_B > 0) | (knobs.top_p_B < 1) | (knobs.min_p_B > 0)


def threshold(p_BV: Float[Array, "B V"], knobs: Knobs) -> Float[Array, " B"]:
    """The least p that is kept, where the greatest is 1."""
    V = p_BV.shape[-1]
    k_B = jnp.where(knobs.top_k_B > 0, jnp.minimum(knobs.top_k_B, V), V)
    least_B = _largest(lambda at_B1: jnp.sum(p_BV >= at_B1, axis=-1) >= k_B, p_BV.shape[0])
    kept_BV = jnp.where(p_BV >= least_B[:, None], p_BV, 0)
    mass_B = knobs.top_p_B * jnp.sum(kept_BV, axis=-1)

    def holds(at_B1: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(kept_BV >= at_B1, kept_BV, 0), axis=-1) >= mass_B

    # A sum over all may be a rounding below itself: top-p 1 keeps everything by decree.
    by_mass_B = jnp.where(knobs.top_p_B < 1, _largest(holds, p_BV.shape[0]), 0)
    return jnp.maximum(jnp.maximum(least_B, by_mass_B), knobs.min_p_B)


def _largest(holds: Any, B: int) -> jax.Array:
    """The largest float32 in [0, 1] at which `holds`, which is true at 0 and never true again once
    it is false. Positive floats are ordered as their bits are."""

    def halve(_: Any, bounds: Any) -> Any:
        low_B, high_B = bounds  # it holds at low, and not at high
        middle_B = low_B + (high_B - low_B) // 2
        is_true_B = holds(jax.lax.bitcast_convert_type(middle_B, jnp.float32)[:, None])
        return jnp.where(is_true_B, middle_B, low_B), jnp.where(is_true_B, high_B, middle_B)

    one = jax.lax.bitcast_convert_type(jnp.float32(1), jnp.int32)
    start = (jnp.zeros(B, jnp.int32), jnp.full(B, one + 1))
    low_B, _ = jax.lax.fori_loop(0, HALVINGS, halve, start)
    return jax.lax.bitcast_convert_type(low_B, jnp.float32)


def bits(allowed_BW: Any, like_BV: Any) -> jax.Array:
    """Words of 32 bits → a boolean for each token."""
    V = like_BV.shape[-1]
    place_W32 = jnp.arange(32, dtype=jnp.uint32)[None, None, :]
    is_set = (allowed_BW.astype(jnp.uint32)[:, :, None] >> place_W32) & 1
    return is_set.reshape(allowed_BW.shape[0], -1)[:, :V].astype(bool)


def _at(x_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BV, token_B[:, None], axis=-1)[:, 0]
