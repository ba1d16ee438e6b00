"""The weights as decoding reads them: layers apart, projections that share their input as one.

    fuse(params, config, dtype)  →  Weights

One step of decoding is a handful of thin matrix products, so their number is what costs: queries,
keys and values are one product, so are gate and up. Matrices lie [out, in], as in the file.
Embedding, head and norms are the model's own arrays where the dtype is. Weights are made once for
every version of the parameters; adapters are added to their matrices.
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
    qkv_KJHD: Any  # for each key head its R query heads, the key, the value: J = R + 2
    q_norm_H: Any
    k_norm_H: Any
    out_DNH: Any
    mlp_norm_D: Any
    gate_up_2FD: Any
    down_DF: Any


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
        q_KRHD = attn["q"][i].reshape(K, N // K, H, -1)
        k_KHD, v_KHD = attn["k"][i], attn["v"][i]
        return Layer(
            attn_norm_D=whole["attn_norm"]["scale"][i],
            qkv_KJHD=jnp.concatenate([q_KRHD, k_KHD[:, None], v_KHD[:, None]], axis=1),
            q_norm_H=attn["q_norm"]["scale"][i],
            k_norm_H=attn["k_norm"]["scale"][i],
            out_DNH=attn["o"][i],
            mlp_norm_D=whole["mlp_norm"]["scale"][i],
            gate_up_2FD=jnp.stack([mlp["gate"][i], mlp["up"][i]]),
            down_DF=mlp["down"][i],
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
        qkv_KJHD=on(heads),
        q_norm_H=on(),
        k_norm_H=on(),
        out_DNH=on(None, heads),
        mlp_norm_D=on(),
        gate_up_2FD=on(None, mlp),
        down_DF=on(None, mlp),
    )
    return Weights(on(vocab), on(vocab), on(), (layer,) * config.num_layers)


def block(
    layer: Layer, config: Qwen3Config, x_BTD: jax.Array, rope: Any, attend: Any
) -> tuple[jax.Array, Any]:
    """`qwen3.Block` with these weights."""
    dtype, eps, H = x_BTD.dtype, config.rms_norm_eps, config.head_dim
    B, T = x_BTD.shape[:2]

    normed_BTD = qwen3.normalise(x_BTD, layer.attn_norm_D, eps).astype(dtype)
    qkv_BTKJH = _product(layer.qkv_KJHD, normed_BTD)
    qkv_BTKJH = sharding.constrain(qkv_BTKJH, "batch", None, "kv_heads", None, None)
    R = config.num_heads // config.num_kv_heads
    q_BTNH = qkv_BTKJH[:, :, :, :R].reshape(B, T, -1, H)
    k_BTKH, v_BTKH = qkv_BTKJH[:, :, :, R], qkv_BTKJH[:, :, :, R + 1]
    q_BTNH = qwen3.rotate(qwen3.normalise(q_BTNH, layer.q_norm_H, eps), rope).astype(dtype)
    k_BTKH = qwen3.rotate(qwen3.normalise(k_BTKH, layer.k_norm_H, eps), rope).astype(dtype)
    out_BTNH, kept = attend(q_BTNH, k_BTKH, v_BTKH)
    x_BTD = x_BTD + _product(layer.out_DNH, out_BTNH)
    normed_BTD = qwen3.normalise(x_BTD, layer.mlp_norm_D, eps).astype(dtype)
    both_BT2F = _product(layer.gate_up_2FD, normed_BTD)
    hidden_BTF = jax.nn.silu(both_BT2F[:, :, 0]) * both_BT2F[:, :, 1]
    hidden_BTF = sharding.constrain(hidden_BTF, "batch", None, "mlp")
    x_BTD = x_BTD + _product(layer.down_DF, hidden_BTF)
    return sharding.constrain(x_BTD, "batch", None, None), kept


def _product(weight: jax.Array, x_BT: jax.Array, dtype: Any = None) -> jax.Array:
    """weight [*out, *in] and x [B, T, *in] → [B, T, *out].

    On a CPU a step's few rows stand to the right: a product packs what stands there, on each call,
    and packing the weights took as long as multiplying them. The barrier keeps the sides.
    """
    count = x_BT.ndim - 2  # of the axes that are summed over
    inner = tuple(range(-count, 0))
    options: Any = {
        "precision": attention.precision(x_BT.dtype),
        "preferred_element_type": dtype or x_BT.dtype,
    }

    def plain(weight: jax.Array, x_BT: jax.Array) -> jax.Array:
        return jnp.tensordot(x_BT, weight, (inner, inner), **options)

    def weights_first(weight: jax.Array, x_BT: jax.Array) -> jax.Array:
        y_B = jnp.tensordot(weight, x_BT[:, 0], (inner, inner), **options)
        return jnp.moveaxis(jax.lax.optimization_barrier(y_B), -1, 0)[:, None]

    if x_BT.shape[1] > 1:
        return plain(weight, x_BT)
    return jax.lax.platform_dependent(weight, x_BT, cpu=weights_first, default=plain)


def embed(weights: Weights, tokens_BT: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    return qwen3.embed({"embed": weights.embed_VD}, tokens_BT, weights.embed_VD.dtype)


def unembed(
    weights: Weights, config: Qwen3Config, x_BD: Float[Array, "B D"]
) -> Float[Array, "B V"]:
    """The last norm and the head: float32 logits."""
    x_BD = qwen3.normalise(x_BD, weights.norm_D, config.rms_norm_eps).astype(x_BD.dtype)
    logits_B1V = _product(weights.head_VD, x_BD[:, None], jnp.float32)
    return sharding.constrain(logits_B1V[:, 0], "batch", "vocab")


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
