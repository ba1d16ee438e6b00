"""The weights as decoding reads them: layers apart, projections that share their input as one.

    fuse(params, config, dtype)  →  Weights

One step of decoding is a handful of thin matrix products, so their number is what costs: queries,
keys and values are one product, so are gate and up. Matrices lie [in, out] here, which is the
faster side for few rows. Embedding, head and norms are the model's own arrays where the dtype is.
Weights are made once for every version of the parameters; adapters are added to their matrices.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from star_jax.models import attention, layout, lora, qwen3, sharding
from star_jax.models.attention import Backend, Places
from star_jax.models.config import Qwen3Config


class Layer(NamedTuple):
    attn_norm_D: Any
    qkv_DKJH: Any  # for each key head its R query heads, the key, the value: J = R + 2
    q_norm_H: Any
    k_norm_H: Any
    out_NHD: Any
    mlp_norm_D: Any
    gate_up_D2F: Any
    down_FD: Any


class Weights(NamedTuple):
    embed_VD: Any
    head_VD: Any  # the embedding itself where they are tied
    norm_D: Any
    layers: tuple[Layer, ...]


def fuse(params: layout.Params, config: Qwen3Config, dtype: Any) -> Weights:
    """The decoding weights of a model, on its own mesh: gathered over data and fsdp, split over
    tensor as the model is."""
    dtype = jnp.dtype(dtype)
    mesh = sharding.mesh_of(params)
    placed = None if mesh is None else shardings(config, mesh)
    with sharding.mesh_context(params):
        layers = jax.jit(
            functools.partial(_layers, config=config, dtype=dtype),
            out_shardings=None if placed is None else placed.layers,
        )(params["layers"])

    def own(array: jax.Array, where: Any) -> jax.Array:
        array = array if array.dtype == dtype else array.astype(dtype)
        return array if where is None else jax.device_put(array, where)

    embed = own(params["embed"], placed and placed.embed_VD)
    head = embed if config.tie_word_embeddings else own(params["head"], placed and placed.head_VD)
    return Weights(embed, head, own(params["norm"]["scale"], placed and placed.norm_D), layers)


def _layers(stacked: layout.Params, *, config: Qwen3Config, dtype: Any) -> tuple[Layer, ...]:
    N, K, H = config.num_heads, config.num_kv_heads, config.head_dim
    whole = jax.tree.map(lora.whole, stacked, is_leaf=lora.is_adapted)
    whole = jax.tree.map(lambda x: x.astype(dtype), whole)
    attn, mlp = whole["attn"], whole["mlp"]

    def layer(i: int) -> Layer:
        q_DKRH = attn["q"][i].transpose(2, 0, 1).reshape(-1, K, N // K, H)
        k_DKH, v_DKH = (attn[name][i].transpose(2, 0, 1) for name in ("k", "v"))
        qkv_DKJH = jnp.concatenate([q_DKRH, k_DKH[:, :, None], v_DKH[:, :, None]], axis=2)
        return Layer(
            attn_norm_D=whole["attn_norm"]["scale"][i],
            qkv_DKJH=qkv_DKJH,
            q_norm_H=attn["q_norm"]["scale"][i],
            k_norm_H=attn["k_norm"]["scale"][i],
            out_NHD=attn["o"][i].transpose(1, 2, 0),
            mlp_norm_D=whole["mlp_norm"]["scale"][i],
            gate_up_D2F=jnp.stack([mlp["gate"][i].T, mlp["up"][i].T], axis=1),
            down_FD=mlp["down"][i].T,
        )

    return tuple(layer(i) for i in range(config.num_layers))


def shardings(config: Qwen3Config, mesh: Mesh) -> Weights:
    """Heads, the SwiGLU's width and the vocabulary over tensor; nothing over data and fsdp."""
    tensor = mesh.shape.get("tensor", 1)

    def split(size: int) -> str | None:
        return "tensor" if tensor > 1 and size % tensor == 0 else None

    # Query heads are split with their key head: fewer key heads than devices leave both whole.
    heads, mlp = split(config.num_kv_heads), split(config.intermediate_size)
    vocab = split(config.vocab_size)

    def on(*axes: str | None) -> NamedSharding:
        return NamedSharding(mesh, PartitionSpec(*axes))

    layer = Layer(
        attn_norm_D=on(),
        qkv_DKJH=on(None, heads),
        q_norm_H=on(),
        k_norm_H=on(),
        out_NHD=on(heads),
        mlp_norm_D=on(),
        gate_up_D2F=on(None, None, mlp),
        down_FD=on(mlp),
    )
    return Weights(on(vocab), on(vocab), on(), (layer,) * config.num_layers)


def block(
    layer: Layer, config: Qwen3Config, x_BTD: jax.Array, rope: Any, attend: Any
) -> tuple[jax.Array, Any]:
    """`qwen3.Block` with these weights."""
    dtype, eps, H = x_BTD.dtype, config.rms_norm_eps, config.head_dim
    B, T = x_BTD.shape[:2]

    def product(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.einsum(equation, x, weight, precision=attention.precision(dtype))

    normed_BTD = qwen3.normalise(x_BTD, layer.attn_norm_D, eps).astype(dtype)
    qkv_BTKJH = product("btd,dkjh->btkjh", normed_BTD, layer.qkv_DKJH)
    qkv_BTKJH = sharding.constrain(qkv_BTKJH, "batch", None, "kv_heads", None, None)
    R = config.num_heads // config.num_kv_heads
    q_BTNH = qkv_BTKJH[:, :, :, :R].reshape(B, T, -1, H)
    k_BTKH, v_BTKH = qkv_BTKJH[:, :, :, R], qkv_BTKJH[:, :, :, R + 1]
    q_BTNH = qwen3.rotate(qwen3.normalise(q_BTNH, layer.q_norm_H, eps), rope).astype(dtype)
    k_BTKH = qwen3.rotate(qwen3.normalise(k_BTKH, layer.k_norm_H, eps), rope).astype(dtype)
    out_BTNH, kept = attend(q_BTNH, k_BTKH, v_BTKH)
    x_BTD = x_BTD + product("btnh,nhd->btd", out_BTNH, layer.out_NHD)
    normed_BTD = qwen3.normalise(x_BTD, layer.mlp_norm_D, eps).astype(dtype)
    both_BT2F = product("btd,dgf->btgf", normed_BTD, layer.gate_up_D2F)
    hidden_BTF = jax.nn.silu(both_BT2F[:, :, 0]) * both_BT2F[:, :, 1]
    hidden_BTF = sharding.constrain(hidden_BTF, "batch", None, "mlp")
    x_BTD = x_BTD + product("btf,fd->btd", hidden_BTF, layer.down_FD)
    return sharding.constrain(x_BTD, "batch", None, None), kept


def embed(weights: Weights, tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    return qwen3.embed({"embed": weights.embed_VD}, tokens_BT, weights.embed_VD.dtype)


def unembed(
    weights: Weights, config: Qwen3Config, x_BD: Float[Array, "B D"]
) -> Float[Array, "B V"]:
    """The last norm and the head: float32 logits."""
    x_BD = qwen3.normalise(x_BD, weights.norm_D, config.rms_norm_eps).astype(x_BD.dtype)
    return qwen3.multiply_head(weights.head_VD, x_BD[:, None])[:, 0]


def read(
    weights: Weights,
    config: Qwen3Config,
    tokens_BT: Int[Array, "B T"],
    places: Places,
    backend: Backend = "auto",
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Rows of tokens → every layer's keys as BKHT and values as BKTH. Nothing is projected to the
    vocabulary: the last token of a prompt is read by the step that draws the first new one."""
    rope = qwen3.rotary(config, places.position_BT)

    def attend(q: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, Any]:
        out = attention.within(q, k_BTKH, v_BTKH, places, backend)
        return out, (k_BTKH.transpose(0, 2, 3, 1), v_BTKH.transpose(0, 2, 1, 3))

    x_BTD = embed(weights, tokens_BT)
    kept = []
    for layer in weights.layers:
        x_BTD, entry = block(layer, config, x_BTD, rope, attend)
        kept.append(entry)
    keys, values = zip(*kept, strict=True)
    return keys, values
