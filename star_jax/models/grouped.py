"""One step of decoding for groups of rows that share a prompt.

The keys and values of a prompt are kept once for its group and read once for it; what each row has
decoded lies in an array of its own. A query sees both as two segments of one softmax:

    out_B = (e^(q·k_prompt - m) · v_prompt + e^(q·k_own - m) · v_own) / (Σ both)

The own arrays are rings: at step `now` every row writes column now mod C, wherever it is in its
text, so that a step writes one slice. A row that started at step s sees the columns written since;
C must be at least what a row may decode. P prompts of G rows each make B = P·G rows, row p·G + g.

Keys lie [.., H, S] and values [.., S, H], as their two products want to read them; int8 ones carry
a scale a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from star_jax.models import fused, qwen3, sharding
from star_jax.models.attention import UNSEEN, precision
from star_jax.models.config import Qwen3Config
from star_jax.models.fused import Weights


class Small(NamedTuple):
    """int8 numbers and their scale: value = number · scale, one scale a token and head."""

    number: Any  # int8
    scale: Any  # float32, 1 where the number has H


class Prompts(NamedTuple):
    key_PKHS: tuple[Any, ...]  # one a layer; arrays, or Small
    value_PKSH: tuple[Any, ...]
    length_P: Any  # int32: tokens of the prompt that are in here


class Replies(NamedTuple):
    key_BKHC: tuple[Any, ...]
    value_BKCH: tuple[Any, ...]
    now: Any  # int32, steps since the ring was empty; the next one writes column now mod C


def zeros(
    config: Qwen3Config, P: int, G: int, S: int, C: int, dtype: Any, *, small: bool = False
) -> tuple[Prompts, Replies]:
    """Empty prompts and replies. Every leaf is a buffer of its own, so that all can be donated."""
    K, H, layers = config.num_kv_heads, config.head_dim, range(config.num_layers)

    def array(rows: int, H_axis: int, tokens: int) -> Any:
        shape = (rows, K, H, tokens) if H_axis == 2 else (rows, K, tokens, H)
        if not small:
            return jnp.zeros(shape, dtype)
        thin = tuple(1 if axis == H_axis else size for axis, size in enumerate(shape))
        return Small(jnp.zeros(shape, jnp.int8), jnp.zeros(thin, jnp.float32))

    prompts = Prompts(
        tuple(array(P, 2, S) for _ in layers),
        tuple(array(P, 3, S) for _ in layers),
        jnp.zeros(P, jnp.int32),
    )
    replies = Replies(
        tuple(array(P * G, 2, C) for _ in layers),
        tuple(array(P * G, 3, C) for _ in layers),
        jnp.zeros((), jnp.int32),
    )
    return prompts, replies


def shrink(array: jax.Array, H_axis: int) -> Small:
    """int8: the largest number of a token's head becomes 127."""
    scale = jnp.max(jnp.abs(array.astype(jnp.float32)), axis=H_axis, keepdims=True) / 127
    safe = jnp.where(scale > 0, scale, 1)
    return Small(jnp.round(array.astype(jnp.float32) / safe).astype(jnp.int8), scale)


def like(array: jax.Array, kept: Any, H_axis: int) -> Any:
    """An array in the form of what it is put into."""
    return shrink(array, H_axis) if isinstance(kept, Small) else array.astype(kept.dtype)


def step(
    weights: Weights,
    config: Qwen3Config,
    token_B: Int[Array, " B"],
    position_B: Int[Array, " B"],
    started_B: Int[Array, " B"],
    prompts: Prompts,
    replies: Replies,
) -> tuple[Float[Array, "B V"], Replies]:
    """Read one token a row, each at its own position → logits of its next, and the longer replies.

    `started_B` is the step at which a row read its first token here, the last one of its prompt.
    """
    C = width(replies.key_BKHC[0])
    now, column = replies.now, replies.now % C
    written_C = now - (column - jnp.arange(C, dtype=jnp.int32)) % C  # the step of each column
    seen_BC = written_C[None, :] >= started_B[:, None]
    S = width(prompts.key_PKHS[0])
    seen_PS = jnp.arange(S, dtype=jnp.int32)[None, :] < prompts.length_P[:, None]
    rope = qwen3.rotary(config, position_B[:, None])

    def attend_over(i: int) -> Callable[..., tuple[jax.Array, Any]]:
        def attend(q_B1NH: jax.Array, k_B1KH: jax.Array, v_B1KH: jax.Array) -> tuple[Any, Any]:
            key = _put(replies.key_BKHC[i], k_B1KH.transpose(0, 2, 3, 1), 3, column)
            value = _put(replies.value_BKCH[i], v_B1KH.transpose(0, 2, 1, 3), 2, column)
            shared = (prompts.key_PKHS[i], prompts.value_PKSH[i], seen_PS)
            return _attend(q_B1NH[:, 0], shared, (key, value, seen_BC))[:, None], (key, value)

        return attend

    x_B1D = fused.embed(weights, token_B[:, None])
    kept = []
    for i, layer in enumerate(weights.layers):
        x_B1D, entry = fused.block(layer, config, x_B1D, rope, attend_over(i))
        kept.append(entry)
    keys, values = zip(*kept, strict=True)
    logits_BV = fused.unembed(weights, config, x_B1D[:, 0])
    return logits_BV, Replies(keys, values, now + 1)


def _attend(q_BNH: jax.Array, shared: Any, own: Any) -> jax.Array:
    """Two segments, one softmax."""
    (pk, pv, seen_PS), (ok, ov, seen_BC) = shared, own
    B, N, H = q_BNH.shape
    P, K = _rows(pk), _heads(pk)
    G, R = B // P, N // K
    # A group's rows stand beside each other in the products over what they share.
    q_PKMH = q_BNH.reshape(P, G, K, R, H).transpose(0, 2, 1, 3, 4).reshape(P, K, G * R, H)
    score_PKMS = _score(q_PKMH, pk, seen_PS)
    score_BKRC = _score(q_BNH.reshape(B, K, R, H), ok, seen_BC)
    most_PKM = jnp.max(score_PKMS, axis=-1)
    most_BKR = jnp.maximum(_rows_of(most_PKM, G, R), jnp.max(score_BKRC, axis=-1))
    weight_PKMS = jnp.exp(score_PKMS - _groups_of(most_BKR, G)[..., None])
    weight_BKRC = jnp.exp(score_BKRC - most_BKR[..., None])
    sum_BKR = _rows_of(jnp.sum(weight_PKMS, axis=-1), G, R) + jnp.sum(weight_BKRC, axis=-1)
    out_PKMH = _mix(weight_PKMS, pv, q_BNH.dtype)
    out_BKRH = _rows_of(out_PKMH, G, R) + _mix(weight_BKRC, ov, q_BNH.dtype)
    out_BNH = (out_BKRH / sum_BKR[..., None]).astype(q_BNH.dtype).reshape(B, N, H)
    return sharding.constrain(out_BNH, "batch", "heads", None)


def _rows_of(x_PKM: jax.Array, G: int, R: int) -> jax.Array:
    """[P, K, G·R, …] → [P·G, K, R, …]"""
    P, K, _, *rest = x_PKM.shape
    split = x_PKM.reshape(P, K, G, R, *rest)
    return jnp.swapaxes(split, 1, 2).reshape(P * G, K, R, *rest)


def _groups_of(x_BKR: jax.Array, G: int) -> jax.Array:
    """[P·G, K, R] → [P, K, G·R]"""
    B, K, R = x_BKR.shape
    return jnp.swapaxes(x_BKR.reshape(B // G, G, K, R), 1, 2).reshape(B // G, K, G * R)


def _score(q_PKMH: jax.Array, key: Any, seen_PS: jax.Array) -> jax.Array:
    H = q_PKMH.shape[-1]
    number = key.number.astype(q_PKMH.dtype) if isinstance(key, Small) else key
    score_PKMS = jnp.matmul(
        q_PKMH, number, precision=precision(q_PKMH.dtype), preferred_element_type=jnp.float32
    )
    if isinstance(key, Small):
        score_PKMS = score_PKMS * key.scale
    return jnp.where(seen_PS[:, None, None, :], score_PKMS * H**-0.5, UNSEEN)


def _mix(weight_PKMS: jax.Array, value: Any, dtype: Any) -> jax.Array:
    number = value
    if isinstance(value, Small):
        weight_PKMS = weight_PKMS * jnp.swapaxes(value.scale, 2, 3)
        number = value.number.astype(dtype)
    return jnp.matmul(
        weight_PKMS.astype(dtype),
        number,
        precision=precision(dtype),
        preferred_element_type=jnp.float32,
    )


def _put(kept: Any, new: jax.Array, axis: int, column: jax.Array) -> Any:
    """One column of tokens into the ring."""
    H_axis = 2 if axis == 3 else 3
    new = like(new, kept, H_axis)

    def one(kept: jax.Array, new: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(kept, new, column, axis)

    return jax.tree.map(one, kept, new)


def _first(kept: Any) -> jax.Array:
    return kept.number if isinstance(kept, Small) else kept


def _rows(kept: Any) -> int:
    return _first(kept).shape[0]


def _heads(kept: Any) -> int:
    return _first(kept).shape[1]


def width(key: Any) -> int:
    """Columns of an array of keys."""
    return _first(key).shape[3]
