"""Attention under one contract: a query sees a key iff both lie in the same segment and the key's
position is not after the query's.

    out_BTNH = softmax(q_BTNH · k_BSKH / √H  where visible) · v_BSKH

What is visible is data (`Places`), never guessed from token ids. Right padding has segment 0;
packed rows number their segments from 1 and start each at position 0. What a padding query computes
is unspecified but finite, and nothing of it reaches another token.

Backends, chosen by device or by name, all held to the same answer:
    xla     einsums everywhere; long rows go through query blocks that skip the keys after them
    cudnn   flash attention on NVIDIA, bfloat16 or float16
    splash  the Pallas kernel on TPU
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

Backend = Literal["auto", "xla", "cudnn", "splash"]

# Longer rows are attended to in blocks of so many queries, and a row's blocks are dealt into so
# many spans; all blocks of a span see the keys up to its end. Of blocks of 64, 128 and 256, and of
# 2, 4 and 8 spans, this pair was fastest or near it, forward and backward, on two CPU cores with
# 1,024 and 4,096 tokens and 8 heads of 32: benchmarks/attention.py.
QUERY_BLOCK: int = 128
SPANS: int = 8
# What an invisible key scores: exp(it) is exactly 0 in float32, and unlike -inf it makes no NaN of
# a row that sees nothing.
UNSEEN = -1e30


class Places(NamedTuple):
    """Where the tokens of a batch of rows lie."""

    position_BT: Any  # int32, from 0 within each segment
    segment_BT: Any  # int32, 0 where there is no token
    length_B: Any = None  # int32 where each row is one right-padded segment, else None


def padded(length_B: Int[Array, " B"], T: int) -> Places:
    """Rows of one segment each, padded on the right to T tokens."""
    position_T = jnp.arange(T, dtype=jnp.int32)
    position_BT = jnp.broadcast_to(position_T[None, :], (length_B.shape[0], T))
    segment_BT = (position_BT < length_B[:, None]).astype(jnp.int32)
    return Places(position_BT, segment_BT, length_B.astype(jnp.int32))


def packed(segment_BT: Int[Array, "B T"]) -> Places:
    """Rows of several segments; equal neighbouring numbers are one segment, 0 is padding.

    Segments are numbered anew, so that a number that comes back later in the row is another one.
    """
    index_T = jnp.arange(segment_BT.shape[1], dtype=jnp.int32)
    before_BT = jnp.pad(segment_BT, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    starts_BT = segment_BT != before_BT
    start_BT = jnp.where(starts_BT, index_T[None, :], 0)
    position_BT = index_T[None, :] - jax.lax.cummax(start_BT, axis=1)
    number_BT = jnp.cumsum(starts_BT, axis=1, dtype=jnp.int32)
    return Places(position_BT, jnp.where(segment_BT != 0, number_BT, 0))


def visible(query: Places, key: Places) -> Bool[Array, "B T S"]:
    """The contract."""
    same_BTS = query.segment_BT[:, :, None] == key.segment_BT[:, None, :]
    past_BTS = key.position_BT[:, None, :] <= query.position_BT[:, :, None]
    token_BTS = key.segment_BT[:, None, :] != 0
    return same_BTS & past_BTS & token_BTS


def cross(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    query: Places,
    key: Places,
) -> Float[Array, "B T N H"]:
    """Queries over keys that lie elsewhere, a cache; einsums on every device."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    exact = precision(q_BTNH.dtype)
    q_BTKRH = q_BTNH.reshape(B, T, K, N // K, H)
    score_BKRTS = jnp.einsum(
        "btkrh,bskh->bkrts",
        q_BTKRH,
        k_BSKH,
        precision=exact,
        preferred_element_type=jnp.float32,
    )
    seen_B11TS = visible(query, key)[:, None, None]
    score_BKRTS = jnp.where(seen_B11TS, score_BKRTS * H**-0.5, UNSEEN)
    weight_BKRTS = jax.nn.softmax(score_BKRTS, axis=-1).astype(v_BSKH.dtype)
    out_BTKRH = jnp.einsum("bkrts,bskh->btkrh", weight_BKRTS, v_BSKH, precision=exact)
    return out_BTKRH.reshape(B, T, N, H)


def within(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKH: Float[Array, "B T K H"],
    places: Places,
    backend: Backend = "auto",
) -> Float[Array, "B T N H"]:
    """Self-attention of whole rows, whose tokens lie in the order of their positions."""
    match choose(backend, q_BTNH):
        case "cudnn":
            return _cudnn(q_BTNH, k_BTKH, v_BTKH, places)
        case "splash":
            return _splash(q_BTNH, k_BTKH, v_BTKH, places)
        case _:
            return _blocks(q_BTNH, k_BTKH, v_BTKH, places)


def choose(backend: Backend, q_BTNH: Any) -> str:
    """The backend for queries of this shape; ValueError where the one asked for can't take them."""
    platform = jax.default_backend()
    obstacles = {"cudnn": _cudnn_obstacle(platform, q_BTNH), "splash": _splash_obstacle(q_BTNH)}
    if platform != "tpu" and obstacles["splash"] is None:
        obstacles["splash"] = f"it needs a TPU, this is {platform}"
    if backend == "auto":
        return next((name for name, obstacle in obstacles.items() if obstacle is None), "xla")
    if backend not in ("xla", *obstacles):
        raise ValueError(f"attention {backend!r} is unknown; known are auto, xla, cudnn, splash")
    if obstacle := obstacles.get(backend):
        raise ValueError(f"attention {backend!r} can't run here: {obstacle}; use 'auto' or 'xla'")
    return backend


def _cudnn_obstacle(platform: str, q_BTNH: Any) -> str | None:
    H = q_BTNH.shape[3]
    if platform not in ("gpu", "cuda"):
        return f"it needs an NVIDIA GPU, this is {platform}"
    if q_BTNH.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, the queries are {q_BTNH.dtype}"
    if H % 8 or H > 128:
        return f"head_dim must be a multiple of 8 up to 128, it is {H}"
    return None


def _splash_obstacle(q_BTNH: Any) -> str | None:
    T, H = q_BTNH.shape[1], q_BTNH.shape[3]
    if T % 128 or H % 128:
        return f"rows and heads must be multiples of 128, they are {T} and {H}"
    return None


def precision(dtype: Any) -> jax.lax.Precision:
    """float32 means float32 on every device: no TF32 on GPU, no bfloat16 passes on TPU."""
    is_float32 = jnp.dtype(dtype) == jnp.float32
    return jax.lax.Precision.HIGHEST if is_float32 else jax.lax.Precision.DEFAULT


def _blocks(q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, places: Places) -> Any:
    """Blocks of queries, each over the keys up to its span's end: a bit over half the work.

    Blocks of a span run one after the other and are rematerialised in the backward pass: memory
    grows with T, not with T². (Unrolled blocks would not do: XLA keeps them all alive at once.)
    """
    T = q_BTNH.shape[1]
    if T <= QUERY_BLOCK:
        return cross(q_BTNH, k_BTKH, v_BTKH, places, places)
    blocks = -(-T // QUERY_BLOCK)
    width = -(-blocks // SPANS) * QUERY_BLOCK
    outs = [
        _span(q_BTNH, k_BTKH[:, :end], v_BTKH[:, :end], places, start, end)
        for start in range(0, T, width)
        for end in [min(start + width, T)]
    ]
    return jnp.concatenate(outs, axis=1)


def _span(q_BTNH: Any, k_BSKH: Any, v_BSKH: Any, places: Places, start: int, end: int) -> Any:
    """Queries start:end over the keys before `end`, block by block."""
    B = q_BTNH.shape[0]
    count = -(-(end - start) // QUERY_BLOCK)
    missing = count * QUERY_BLOCK - (end - start)

    def cut(x: Any) -> Any:
        x = jnp.pad(x[:, start:end], ((0, 0), (0, missing), *(((0, 0),) * (x.ndim - 2))))
        return x.reshape(B, count, QUERY_BLOCK, *x.shape[2:]).swapaxes(0, 1)

    key = Places(places.position_BT[:, :end], places.segment_BT[:, :end])

    @jax.checkpoint
    def attend(block: Any) -> Any:
        q, position, segment = block
        return cross(q, k_BSKH, v_BSKH, Places(position, segment), key)

    out = jax.lax.map(attend, (cut(q_BTNH), cut(places.position_BT), cut(places.segment_BT)))
    return out.swapaxes(0, 1).reshape(B, -1, *q_BTNH.shape[2:])[:, : end - start]


def _cudnn(q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, places: Places) -> Any:
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    if places.length_B is not None:
        lengths = {
            "query_seq_lengths": places.length_B,
            "key_value_seq_lengths": places.length_B,
        }
        return attend(q_BTNH, k_BTKH, v_BTKH, is_causal=True, **lengths)
    # Packed rows go by an explicit mask: JAX's public call knows lengths, but not packed offsets.
    # A padding query sees itself there, because cuDNN makes NaN of a row that sees nothing.
    T = q_BTNH.shape[1]
    seen_BTT = visible(places, places) | jnp.eye(T, dtype=bool)[None]
    return attend(q_BTNH, k_BTKH, v_BTKH, mask=seen_BTT[:, None])


def _splash(
    q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, places: Places, *, interpret: bool = False
) -> Any:
    """The TPU kernel, one call a device: a Pallas kernel is not split by the compiler."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    run = functools.partial(_splash_rows, interpret=interpret)
    args = (q_BTNH, k_BTKH, v_BTKH, places.segment_BT)
    if mesh.empty:
        return run(*args)
    B, _, N, _ = q_BTNH.shape
    rows, heads = _splash_split(mesh, B, N, k_BTKH.shape[2])
    whole = PartitionSpec(rows, None, heads, None)
    specs = (whole, whole, whole, PartitionSpec(rows, None))
    return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)(*args)


def _splash_split(mesh: Any, B: int, N: int, K: int) -> tuple[Any, Any]:
    """The mesh axes over which rows and heads are split: those that divide them."""
    rows = tuple(name for name in ("data", "fsdp") if mesh.shape.get(name, 1) > 1)
    ways = 1
    for name in rows:
        ways *= mesh.shape[name]
    tensor = mesh.shape.get("tensor", 1)
    heads = "tensor" if tensor > 1 and N % tensor == 0 and K % tensor == 0 else None
    return (rows if rows and B % ways == 0 else None), heads


def _splash_rows(q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, segment_BT: Any, *, interpret: bool) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    T, N, H = q_BTNH.shape[1:]
    causal = masks.MultiHeadMask([masks.CausalMask((T, T)) for _ in range(N)])
    attend = kernel.make_splash_mha(mask=causal, head_shards=1, q_seq_shards=1, interpret=interpret)

    def row(q_TNH: Any, k_TKH: Any, v_TKH: Any, segment_T: Any) -> Any:
        heads_first = (x.swapaxes(0, 1) for x in (q_TNH * H**-0.5, k_TKH, v_TKH))
        segments = kernel.SegmentIds(q=segment_T, kv=segment_T)
        return attend(*heads_first, segment_ids=segments).swapaxes(0, 1)

    return jax.vmap(row)(q_BTNH, k_BTKH, v_BTKH, segment_BT)
