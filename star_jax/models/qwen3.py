"""Qwen3 as Flax NNX modules, and the pure functions that apply them to a tree of parameters.

    x = embed[token]
    x = x + o · attend(rope(norm(q·n)), rope(norm(k·n)), v·n)     n = attn_norm(x), per layer
    x = x + down · (silu(gate·n) * (up·n))                        n = mlp_norm(x)
    logits = head · norm(x)                                       head = embed where tied

Modules hold the mathematics and the initialisers. They are split once per architecture; what is
jitted are functions of (params, arrays), and no module crosses a jit boundary. Norms, rotary
positions, softmax and logits are float32 whatever the parameters are.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int, Key

from star_jax.models import attention, layout, lora, sharding
from star_jax.models.attention import Backend, Places
from star_jax.models.config import Qwen3Config

Remat = Literal["none", "dots", "block"]
PRODUCT = "product"  # the name under which remat "dots" finds the results of matrix products
Tokens = Int[Array, "B T"] | Int[np.ndarray, "B T"]
Lengths = Int[Array, " B"] | Int[np.ndarray, " B"]


class RMSNorm(nnx.Module):
    """x / √(mean(x²) + ε) · scale, in float32."""

    def __init__(self, width: int, eps: float) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return normalise(x, self.scale[...], self.eps)


def normalise(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
    scale = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    return x * jax.lax.rsqrt(mean_square + eps) * scale


class Attention(nnx.Module):
    """Projections with per-head norms of queries and keys."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs) -> None:
        D, N, K, H = config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim
        make = functools.partial(_weight, config, rngs)
        self.q, self.k, self.v = make((N, H, D)), make((K, H, D)), make((K, H, D))
        self.o = make((D, N, H))
        self.q_norm = RMSNorm(H, config.rms_norm_eps)
        self.k_norm = RMSNorm(H, config.rms_norm_eps)

    def project(self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array]) -> tuple[Any, Any, Any]:
        """Queries, keys and values of the tokens, the first two normed and rotated."""
        dtype = x_BTD.dtype
        q_BTNH = rotate(self.q_norm(_matmul("btd,nhd->btnh", x_BTD, self.q)), rope).astype(dtype)
        k_BTKH = rotate(self.k_norm(_matmul("btd,khd->btkh", x_BTD, self.k)), rope).astype(dtype)
        v_BTKH = _matmul("btd,khd->btkh", x_BTD, self.v)
        return (
            sharding.constrain(q_BTNH, "batch", None, "heads", None),
            sharding.constrain(k_BTKH, "batch", None, "kv_heads", None),
            sharding.constrain(v_BTKH, "batch", None, "kv_heads", None),
        )

    def merge(self, out_BTNH: jax.Array) -> jax.Array:
        return _matmul("btnh,dnh->btd", out_BTNH, self.o)


class SwiGLU(nnx.Module):
    """down · (silu(gate · x) * (up · x))"""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs) -> None:
        D, F = config.hidden_size, config.intermediate_size
        make = functools.partial(_weight, config, rngs)
        self.gate, self.up, self.down = make((F, D)), make((F, D)), make((D, F))

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        gate_BTF = _matmul("btd,fd->btf", x_BTD, self.gate)
        up_BTF = _matmul("btd,fd->btf", x_BTD, self.up)
        hidden_BTF = sharding.constrain(jax.nn.silu(gate_BTF) * up_BTF, "batch", None, "mlp")
        return _matmul("btf,df->btd", hidden_BTF, self.down)


class Block(nnx.Module):
    """One layer. Training and decoding differ in where keys come from, so they pass `attend`."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs) -> None:
        self.attn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attn = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config, rngs)

    def __call__(
        self, x_BTD: jax.Array, rope: tuple[jax.Array, jax.Array], attend: Any
    ) -> tuple[jax.Array, Any]:
        """→ the tokens after this layer, and what `attend(q, k, v)` returned beside its output."""
        dtype = x_BTD.dtype
        q_BTNH, k_BTKH, v_BTKH = self.attn.project(self.attn_norm(x_BTD).astype(dtype), rope)
        out_BTNH, kept = attend(q_BTNH, k_BTKH, v_BTKH)
        x_BTD = sharding.constrain(x_BTD + self.attn.merge(out_BTNH), "batch", None, None)
        x_BTD = x_BTD + self.mlp(self.mlp_norm(x_BTD).astype(dtype))
        return sharding.constrain(x_BTD, "batch", None, None), kept


class Qwen3(nnx.Module):
    """The whole model; `layers` is one block whose arrays carry a leading axis of layers."""

    def __init__(self, config: Qwen3Config, rngs: nnx.Rngs) -> None:
        V, D = config.vocab_size, config.hidden_size

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs)

        self.embed = _weight(config, rngs, (V, D))
        self.layers = stacked(rngs)
        self.norm = RMSNorm(D, config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.head = _weight(config, rngs, (V, D))


def _weight(config: Qwen3Config, rngs: nnx.Rngs, shape: tuple[int, ...]) -> nnx.Param:
    init = nnx.initializers.normal(config.initializer_range)
    return nnx.Param(init(rngs.params(), shape, jnp.float32))


def _matmul(equation: str, x: jax.Array, weight: Any) -> jax.Array:
    match weight.get_value():
        case lora.Adapted() as adapted:
            return checkpoint_name(_multiply_beside(equation, x, adapted), PRODUCT)
        case plain:
            return checkpoint_name(multiply(equation, x, plain), PRODUCT)


def _multiply_beside(equation: str, x: jax.Array, weight: lora.Adapted) -> jax.Array:
    """x·W + scale · (x·A)·B. W and B·A are never added up, so that W needs no gradient."""
    down, up = lora.equations(equation)
    thin_BTr = checkpoint_name(multiply(down, x, weight.down), PRODUCT)
    thin_BTr = sharding.constrain(weight.scale * thin_BTr, "batch", None, None)
    return multiply(equation, x, weight.weight) + multiply(up, thin_BTr, weight.up)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def multiply(equation: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """An einsum in the dtype of what flows through it. The weight's gradient, a sum over all tokens
    and all devices that have some, is float32 until it is the weight's own dtype."""
    return _einsum(equation, x, weight.astype(x.dtype), x.dtype)


def _multiply_forward(equation: str, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, Any]:
    return multiply(equation, x, weight), (x, weight)


def _multiply_backward(equation: str, kept: Any, gradient: jax.Array) -> tuple[Any, Any]:
    x, weight = kept
    x_axes, weight_axes, out_axes = equation.replace("->", ",").split(",")
    back = _einsum(f"{out_axes},{weight_axes}->{x_axes}", gradient, weight.astype(x.dtype), x.dtype)
    over = _einsum(f"{x_axes},{out_axes}->{weight_axes}", x, gradient, jnp.float32)
    return back, over.astype(weight.dtype)


multiply.defvjp(_multiply_forward, _multiply_backward)


def _einsum(equation: str, left: jax.Array, right: jax.Array, out: Any) -> jax.Array:
    exact = attention.precision(left.dtype)
    return jnp.einsum(equation, left, right, precision=exact, preferred_element_type=out)


def rotary(config: Qwen3Config, position_BT: Int[Array, "B T"]) -> tuple[jax.Array, jax.Array]:
    """cos and sin of position · θ^(-2i/H), for the H/2 pairs (i, i + H/2) of a head."""
    half = config.head_dim // 2
    exponent_h = jnp.arange(half, dtype=jnp.float32) / half
    frequency_h = 1.0 / (jnp.float32(config.rope_theta) ** exponent_h)
    angle_BTh = position_BT.astype(jnp.float32)[:, :, None] * frequency_h[None, None, :]
    return jnp.cos(angle_BTh), jnp.sin(angle_BTh)


def rotate(x_BTNH: jax.Array, rope: tuple[jax.Array, jax.Array]) -> jax.Array:
    cos_BT1h, sin_BT1h = (part[:, :, None, :] for part in rope)
    left_BTNh, right_BTNh = jnp.split(x_BTNH, 2, axis=-1)
    turned = (
        left_BTNh * cos_BT1h - right_BTNh * sin_BT1h,
        right_BTNh * cos_BT1h + left_BTNh * sin_BT1h,
    )
    return jnp.concatenate(turned, axis=-1)


@functools.lru_cache(maxsize=64)
def graphs(config: Qwen3Config) -> tuple[nnx.GraphDef, nnx.GraphDef]:
    """The model and one block without their arrays: `nnx.merge(graph, params)` gives them back."""
    model = nnx.eval_shape(lambda: Qwen3(config, nnx.Rngs(0)))
    block = nnx.eval_shape(lambda: Block(config, nnx.Rngs(0)))
    return nnx.split(model)[0], nnx.split(block)[0]


def init(
    config: Qwen3Config,
    key: Key[Array, ""],
    dtype: Any = jnp.float32,
    mesh: jax.sharding.Mesh | None = None,
) -> layout.Params:
    """A fresh model: normal matrices, norms of one. On a mesh each shard is made where it lies."""

    def make(key: jax.Array) -> layout.Params:
        state = nnx.state(Qwen3(config, nnx.Rngs(params=key)))
        return jax.tree.map(lambda x: x.astype(dtype), nnx.to_pure_dict(state))

    placed = None if mesh is None else sharding.param_shardings(config, mesh)
    return jax.jit(make, out_shardings=placed)(key)


def compute_dtype(params: layout.Params) -> Any:
    """bfloat16 parameters compute in bfloat16, all others in float32."""
    return jnp.bfloat16 if params["embed"].dtype == jnp.bfloat16 else jnp.float32


def embed(params: layout.Params, tokens_BT: jax.Array, dtype: Any) -> jax.Array:
    # The width is gathered before the lookup: looking up in pieces of rows and then trading pieces
    # of width for rows is what the partitioner can only do by copying everything everywhere.
    table_VD = sharding.constrain(params["embed"], "vocab", None)
    x_BTD = look_up(table_VD, tokens_BT).astype(dtype)
    return sharding.constrain(x_BTD, "batch", None, None)


@jax.custom_vjp
def look_up(table_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    """Rows of the table. Their gradients are summed in float32: in bfloat16 the sum of a frequent
    token's would stop growing after a few hundred."""
    return jnp.take(table_VD, tokens_BT, axis=0, mode="clip")


def _look_up_forward(table_VD: jax.Array, tokens_BT: jax.Array) -> tuple[jax.Array, Any]:
    # An empty array carries the table's size and dtype to the backward pass, not its values.
    shape_V0 = jnp.zeros((table_VD.shape[0], 0), table_VD.dtype)
    return look_up(table_VD, tokens_BT), (shape_V0, tokens_BT)


def _look_up_backward(kept: Any, gradient_BTD: jax.Array) -> tuple[jax.Array, None]:
    shape_V0, tokens_BT = kept
    zero_VD = jnp.zeros((shape_V0.shape[0], gradient_BTD.shape[-1]), jnp.float32)
    sum_VD = zero_VD.at[tokens_BT].add(gradient_BTD.astype(jnp.float32), mode="clip")
    return sharding.constrain(sum_VD, "vocab", None).astype(shape_V0.dtype), None


look_up.defvjp(_look_up_forward, _look_up_backward)


def final_norm(params: layout.Params, config: Qwen3Config, x_BTD: jax.Array) -> jax.Array:
    norm = nnx.merge(graphs(config)[0], params).norm
    return norm(x_BTD).astype(x_BTD.dtype)


def hidden(
    params: layout.Params,
    config: Qwen3Config,
    tokens_BT: Int[Array, "B T"],
    places: Places,
    *,
    dtype: Any = None,
    backend: Backend = "auto",
    remat: Remat = "none",
    keep_cache: bool = False,
) -> tuple[Float[Array, "B T D"], Any]:
    """Tokens → hidden states after the last norm, and (keys, values) as LBTKH if they are kept.

    A scan over layers: the program's size does not grow with depth. Parameters that adapters are
    attached to (`lora.attach`) go the same way.
    """
    rope = rotary(config, places.position_BT)
    block_graph = graphs(config)[1]

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
        return attention.within(q, k, v, places, backend), (k, v) if keep_cache else None

    def layer(x_BTD: jax.Array, layer_params: Any) -> tuple[jax.Array, Any]:
        return nnx.merge(block_graph, layer_params)(x_BTD, rope, attend)

    x_BTD = embed(params, tokens_BT, dtype or compute_dtype(params))
    x_BTD, kept = jax.lax.scan(rematerialised(layer, remat), x_BTD, params["layers"])
    return final_norm(params, config, x_BTD), kept


def rematerialised(layer: Any, remat: Remat) -> Any:
    """What the backward pass recomputes: nothing, all but the matrix products, or whole layers."""
    match remat:
        case "none":
            return layer
        case "dots":
            policy = jax.checkpoint_policies.save_only_these_names(PRODUCT)
            return jax.checkpoint(layer, policy=policy, prevent_cse=False)
        case "block":
            return jax.checkpoint(layer, prevent_cse=False)
        case _:
            raise ValueError(f"remat must be none, dots or block, got {remat!r}")


def project(
    params: layout.Params, config: Qwen3Config, hidden_BTD: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
    """Hidden states → float32 logits. Training goes through the vocabulary core instead."""
    head_VD = params["embed"] if config.tie_word_embeddings else params["head"]
    return multiply_head(head_VD, hidden_BTD)


def multiply_head(
    head_VD: Float[Array, "V D"], hidden_BTD: Float[Array, "B T D"]
) -> Float[Array, "B T V"]:
    logits_BTV = jnp.einsum(
        "btd,vd->btv",
        hidden_BTD,
        head_VD.astype(hidden_BTD.dtype),
        precision=attention.precision(hidden_BTD.dtype),
        preferred_element_type=jnp.float32,
    )
    return sharding.constrain(logits_BTV, "batch", None, "vocab")


def logits(
    params: layout.Params,
    config: Qwen3Config,
    tokens_BT: Tokens,
    lengths_B: Lengths,
    *,
    backend: Backend = "auto",
) -> Float[Array, "B T V"]:
    """Right-padded rows → float32 logits; what stands at positions ≥ length is unspecified."""
    rows = check_rows(params, config, tokens_BT, lengths_B)
    with sharding.mesh_context(params):
        return _logits(params, *rows, config=config, backend=backend)


def check_rows(
    params: layout.Params, config: Qwen3Config, tokens_BT: Any, lengths_B: Any
) -> tuple[jax.Array, jax.Array]:
    """The rows as int32 on the device; ValueError where they are none for this model.

    Values are looked at where that is free: on the host, before they are moved.
    """
    layout.check(config, lora.detach(params))
    rows = []
    for name, given, rank in (("tokens", tokens_BT, 2), ("lengths", lengths_B, 1)):
        given = given if isinstance(given, jax.Array) else np.asarray(given)
        if given.ndim != rank or not jnp.issubdtype(given.dtype, jnp.integer):
            raise ValueError(f"{name} must be {rank}-D integers, got {given.dtype}{given.shape}")
        rows.append(given)
    tokens_BT, lengths_B = rows
    B, T = tokens_BT.shape
    if lengths_B.shape != (B,):
        raise ValueError(f"{B} rows of tokens need {B} lengths, got {lengths_B.shape[0]}")
    bounds = (("token", tokens_BT, config.vocab_size - 1), ("length", lengths_B, T))
    for name, given, most in bounds:
        if isinstance(given, np.ndarray) and given.size:
            low, high = given.min(), given.max()
            if low < 0 or high > most:
                found = low if low < 0 else high
                raise ValueError(f"{name} {found} is outside 0 to {most}")
    return jnp.asarray(tokens_BT, jnp.int32), jnp.asarray(lengths_B, jnp.int32)


@functools.partial(jax.jit, static_argnames=("config", "backend"))
def _logits(
    params: layout.Params, tokens_BT: Any, lengths_B: Any, *, config: Qwen3Config, backend: Backend
) -> jax.Array:
    places = attention.padded(lengths_B, tokens_BT.shape[1])
    hidden_BTD, _ = hidden(params, config, tokens_BT, places, backend=backend)
    return project(params, config, hidden_BTD)
