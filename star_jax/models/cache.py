"""The keys and values of what was read, and reading on from them: prefill, decode, greedy.

A cache is a value: functions take one and return the next; a jitted caller may donate the old one.
Layers are separate arrays, because decoding runs them unrolled: a loop that carries one stacked
array would copy all of it to change one position.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from star_jax.models import attention, layout, qwen3, sharding
from star_jax.models.attention import Backend, Places
from star_jax.models.config import Qwen3Config
from star_jax.models.qwen3 import Lengths, Tokens


class Cache(NamedTuple):
    """What B rows have read so far, with room for S tokens each."""

    key_BSKH: tuple[Any, ...]  # one array a layer
    value_BSKH: tuple[Any, ...]
    length_B: Any  # int32: tokens in the cache, each row at its own


class Generated(NamedTuple):
    tokens_BT: Any  # int32, 0 after a row has stopped
    length_B: Any  # tokens generated, the stop id among them


def prefill(
    params: layout.Params,
    config: Qwen3Config,
    tokens_BT: Tokens,
    lengths_B: Lengths,
    capacity: int,
    *,
    dtype: Any = None,
    backend: Backend = "auto",
) -> tuple[Float[Array, "B V"], Cache]:
    """Read right-padded rows → logits of each row's next token, a cache of `capacity` tokens."""
    tokens_BT, lengths_B = qwen3.check_rows(params, config, tokens_BT, lengths_B)
    B, T = tokens_BT.shape
    if capacity < T:
        raise ValueError(f"a cache of {capacity} tokens has no room for rows of {T}")
    places = attention.padded(lengths_B, T)
    hidden_BTD, (key_LBTKH, value_LBTKH) = qwen3.hidden(
        params, config, tokens_BT, places, dtype=dtype, backend=backend, keep_cache=True
    )
    room = ((0, 0), (0, capacity - T), (0, 0), (0, 0))
    cache = Cache(
        tuple(jnp.pad(key_LBTKH[i], room) for i in range(config.num_layers)),
        tuple(jnp.pad(value_LBTKH[i], room) for i in range(config.num_layers)),
        lengths_B,
    )
    last_BD = hidden_BTD[jnp.arange(B), jnp.maximum(lengths_B - 1, 0)]
    return qwen3.project(params, config, last_BD[:, None])[:, 0], cache


def unstack(params: layout.Params, config: Qwen3Config) -> tuple[layout.Params, ...]:
    """The layers one by one; taken once, outside a decoding loop."""
    take = lambda i: jax.tree.map(lambda stacked: stacked[i], params["layers"])  # noqa: E731
    return tuple(take(i) for i in range(config.num_layers))


def decode(
    params: layout.Params,
    layers: Sequence[layout.Params],
    config: Qwen3Config,
    token_B: Int[Array, " B"],
    cache: Cache,
) -> tuple[Float[Array, "B V"], Cache]:
    """One token a row → logits of the next, and the cache with this token in it.

    A row whose cache is full overwrites its last place: its caller has stopped listening to it.
    """
    B, S = cache.key_BSKH[0].shape[:2]
    place_B = jnp.minimum(cache.length_B, S - 1)
    query = Places(place_B[:, None], jnp.ones((B, 1), jnp.int32))
    slot_BS = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32)[None], (B, S))
    key = Places(slot_BS, (slot_BS <= place_B[:, None]).astype(jnp.int32))
    rope = qwen3.rotary(config, query.position_BT)
    block_graph = qwen3.graphs(config)[1]
    row_B = jnp.arange(B)

    def attend_over(i: int) -> Any:
        def attend(q_B1NH: Any, k_B1KH: Any, v_B1KH: Any) -> tuple[Any, Any]:
            k_BSKH = cache.key_BSKH[i].at[row_B, place_B].set(k_B1KH[:, 0])
            v_BSKH = cache.value_BSKH[i].at[row_B, place_B].set(v_B1KH[:, 0])
            return attention.cross(q_B1NH, k_BSKH, v_BSKH, query, key), (k_BSKH, v_BSKH)

        return attend

    x_B1D = qwen3.embed(params, token_B[:, None], cache.key_BSKH[0].dtype)
    kept = []
    for i, layer in enumerate(layers):
        x_B1D, entry = nnx.merge(block_graph, layer)(x_B1D, rope, attend_over(i))
        kept.append(entry)
    x_B1D = qwen3.final_norm(params, config, x_B1D)
    keys, values = zip(*kept, strict=True)
    logits_BV = qwen3.project(params, config, x_B1D)[:, 0]
    return logits_BV, Cache(keys, values, jnp.minimum(cache.length_B + 1, S))


def greedy(
    params: layout.Params,
    config: Qwen3Config,
    tokens_BT: Tokens,
    lengths_B: Lengths,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    backend: Backend = "auto",
) -> Generated:
    """The most likely next token, again and again, through the cache, in one compiled loop."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
    longest = np.shape(tokens_BT)[1]
    if isinstance(lengths_B, np.ndarray) and lengths_B.size:
        longest = int(lengths_B.max())  # padding takes up no position
    if longest + max_new_tokens > config.max_position_embeddings:
        raise ValueError(
            f"{longest} prompt tokens and {max_new_tokens} new ones are more than the "
            f"{config.max_position_embeddings} positions that the model knows"
        )
    rows = qwen3.check_rows(params, config, tokens_BT, lengths_B)
    with sharding.mesh_context(params):
        return _greedy(
            params,
            *rows,
            config=config,
            max_new_tokens=max_new_tokens,
            stop_ids=tuple(stop_ids),
            backend=backend,
        )


@functools.partial(jax.jit, static_argnames=("config", "max_new_tokens", "stop_ids", "backend"))
def _greedy(
    params: layout.Params,
    tokens_BT: Any,
    lengths_B: Any,
    *,
    config: Qwen3Config,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
    backend: Backend,
) -> Generated:
    B, T = tokens_BT.shape
    stops = jnp.asarray(stop_ids, jnp.int32)
    logits_BV, cache = prefill(
        params, config, tokens_BT, lengths_B, T + max_new_tokens, backend=backend
    )
    layers = unstack(params, config)

    def goes_on(carry: Any) -> jax.Array:
        step, _, _, _, is_live_B = carry[:5]
        return (step < max_new_tokens) & jnp.any(is_live_B)

    def read_on(carry: Any) -> Any:
        step, logits_BV, out_BT, count_B, is_live_B, cache = carry
        token_B = jnp.where(is_live_B, jnp.argmax(logits_BV, axis=-1).astype(jnp.int32), 0)
        out_BT = out_BT.at[:, step].set(token_B)
        count_B = count_B + is_live_B.astype(jnp.int32)
        is_live_B = is_live_B & ~jnp.isin(token_B, stops)
        logits_BV, cache = decode(params, layers, config, token_B, cache)
        return step + 1, logits_BV, out_BT, count_B, is_live_B, cache

    out_BT = jnp.zeros((B, max_new_tokens), jnp.int32)
    start = (jnp.int32(0), logits_BV, out_BT, jnp.zeros(B, jnp.int32), jnp.ones(B, bool), cache)
    _, _, out_BT, count_B, _, _ = jax.lax.while_loop(goes_on, read_on, start)
    return Generated(out_BT, count_B)
