"""THE table: one row per kind of parameter drives loading, export and sharding.

Our tree of parameters keeps every matrix in the file's own orientation, [out, in]: reading is a
reshape and a stack over layers, never a transpose, so bytes go from the file to their place in one
copy and come back bit for bit. XLA contracts either side of a matrix equally well.

The tree, for a tied model (an untied one has `head` too):

    embed                          [V, D]
    layers/attn_norm/scale         [L, D]        layers/mlp_norm/scale  [L, D]
    layers/attn/{q,k,v}            [L, N|K, H, D]
    layers/attn/{q_norm,k_norm}/scale [L, H]
    layers/attn/o                  [L, D, N, H]
    layers/mlp/{gate,up}           [L, F, D]     layers/mlp/down        [L, D, F]
    norm/scale                     [D]
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from star_jax.models.config import Qwen3Config

Params = Any  # a nested dict of arrays, shaped like `tree(config)`


@dataclass(frozen=True)
class Row:
    """One kind of parameter: where it lies with us, its name and shape in the file, its axes."""

    path: tuple[str, ...]
    hf_name: str  # "{}" stands for the layer's number
    hf_axes: tuple[
        tuple[str, ...], ...
    ]  # per dimension of the file's tensor, the axes merged in it

    @property
    def is_stacked(self) -> bool:
        return "{}" in self.hf_name

    @property
    def axes(self) -> tuple[str, ...]:
        """Logical axes of our array."""
        own = tuple(axis for merged in self.hf_axes for axis in merged)
        return ("layers", *own) if self.is_stacked else own

    def shape(self, config: Qwen3Config) -> tuple[int, ...]:
        sizes = axis_sizes(config)
        return tuple(sizes[axis] for axis in self.axes)

    def layer_shape(self, config: Qwen3Config) -> tuple[int, ...]:
        """The shape of what one tensor of the file holds, in our axes."""
        return self.shape(config)[1:] if self.is_stacked else self.shape(config)

    def hf_shape(self, config: Qwen3Config) -> tuple[int, ...]:
        sizes = axis_sizes(config)
        return tuple(math.prod(sizes[axis] for axis in merged) for merged in self.hf_axes)

    def hf_names(self, config: Qwen3Config) -> list[str]:
        """The file's tensors that make up our array, in layer order."""
        if not self.is_stacked:
            return [self.hf_name]
        return [self.hf_name.format(layer) for layer in range(config.num_layers)]


def axis_sizes(config: Qwen3Config) -> dict[str, int]:
    return {
        "layers": config.num_layers,
        "vocab": config.vocab_size,
        "embed": config.hidden_size,
        "norm": config.hidden_size,  # the same width, but of a vector that is never split
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "mlp": config.intermediate_size,
    }


_Q = (("heads", "head_dim"), ("embed",))
_KV = (("kv_heads", "head_dim"), ("embed",))
_BLOCK = "model.layers.{}."

EMBED = Row(("embed",), "model.embed_tokens.weight", (("vocab",), ("embed",)))
HEAD = Row(("head",), "lm_head.weight", (("vocab",), ("embed",)))
_BODY = (
    Row(("layers", "attn_norm", "scale"), _BLOCK + "input_layernorm.weight", (("norm",),)),
    Row(("layers", "attn", "q"), _BLOCK + "self_attn.q_proj.weight", _Q),
    Row(("layers", "attn", "k"), _BLOCK + "self_attn.k_proj.weight", _KV),
    Row(("layers", "attn", "v"), _BLOCK + "self_attn.v_proj.weight", _KV),
    Row(
        ("layers", "attn", "o"),
        _BLOCK + "self_attn.o_proj.weight",
        (("embed",), ("heads", "head_dim")),
    ),
    Row(
        ("layers", "attn", "q_norm", "scale"), _BLOCK + "self_attn.q_norm.weight", (("head_dim",),)
    ),
    Row(
        ("layers", "attn", "k_norm", "scale"), _BLOCK + "self_attn.k_norm.weight", (("head_dim",),)
    ),
    Row(("layers", "mlp_norm", "scale"), _BLOCK + "post_attention_layernorm.weight", (("norm",),)),
    Row(("layers", "mlp", "gate"), _BLOCK + "mlp.gate_proj.weight", (("mlp",), ("embed",))),
    Row(("layers", "mlp", "up"), _BLOCK + "mlp.up_proj.weight", (("mlp",), ("embed",))),
    Row(("layers", "mlp", "down"), _BLOCK + "mlp.down_proj.weight", (("embed",), ("mlp",))),
    Row(("norm", "scale"), "model.norm.weight", (("norm",),)),
)


# The matrices of a layer: outputs are in the first of the file's dimensions, inputs in the second.
MATRICES = tuple(row for row in _BODY if len(row.hf_axes) == 2)


def rows(config: Qwen3Config) -> tuple[Row, ...]:
    """The rows that a model of this architecture has."""
    return (EMBED, *_BODY) if config.tie_word_embeddings else (EMBED, *_BODY, HEAD)


def tree(config: Qwen3Config, make: Any) -> Params:
    """A tree of parameters with `make(row)` at every leaf."""
    return nest(rows(config), make)


def nest(rows: Iterable[Row], make: Any) -> Any:
    """A nested dict with `make(row)` at every row's path."""
    top: dict[str, Any] = {}
    for row in rows:
        node = top
        for key in row.path[:-1]:
            node = node.setdefault(key, {})
        node[row.path[-1]] = make(row)
    return top


def leaf(params: Params, row: Row) -> Any:
    for key in row.path:
        params = params[key]
    return params


def abstract(config: Qwen3Config, dtype: Any) -> Params:
    """Shapes and dtypes of a model's parameters, nothing allocated."""
    return tree(config, lambda row: jax.ShapeDtypeStruct(row.shape(config), dtype))


def count(config: Qwen3Config) -> int:
    """How many parameters a model of this architecture has."""
    return sum(math.prod(row.shape(config)) for row in rows(config))


def hf_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a folder of this architecture must hold."""
    return {name: row.hf_shape(config) for row in rows(config) for name in row.hf_names(config)}


def hf_tensors(config: Qwen3Config, params: Params) -> Iterator[tuple[str, jax.Array]]:
    """The parameters as the file's tensors, one at a time, in the table's order.

    Works on anything shaped like the parameters: gradients and optimizer moments too.
    """
    check(config, params)
    for row in rows(config):
        array = leaf(params, row)
        for layer, name in enumerate(row.hf_names(config)):
            # Indexed, not iterated: an array that other hosts have parts of can't be.
            part = array[layer] if row.is_stacked else array
            yield name, part.reshape(row.hf_shape(config))


def from_hf_tensors(config: Qwen3Config, tensors: Mapping[str, Any], stack: Any) -> Params:
    """The tree made from the file's tensors in memory; `stack` is np.stack or jnp.stack."""

    def make(row: Row) -> Any:
        parts = [tensors[name].reshape(row.layer_shape(config)) for name in row.hf_names(config)]
        return stack(parts) if row.is_stacked else parts[0]

    return tree(config, make)


def check(config: Qwen3Config, params: Params) -> None:
    """ValueError unless the tree has exactly the leaves and shapes that the table asks for."""
    compare("params", params, {"/".join(row.path): row.shape(config) for row in rows(config)})


def compare(name: str, tree: Any, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """ValueError unless the tree has exactly these leaves and shapes."""
    found = {
        "/".join(str(getattr(key, "key", key)) for key in path): value.shape
        for path, value in jax.tree_util.tree_leaves_with_path(tree)
    }
    if lost := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{name} lack {lost[0]} {wanted[lost[0]]}, which this config asks for")
    if extra := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{name} hold {extra[0]} {found[extra[0]]}, which this config knows not")
    for path, shape in wanted.items():
        if found[path] != shape:
            raise ValueError(f"{name}: {path} is {found[path]}, this config asks for {shape}")
