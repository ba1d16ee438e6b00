"""LoRA: a matrix W is left alone, and what is learnt is a product of two thin ones beside it.

    init(config, lora, key)                 adapters that change nothing: A is random, B is zeros
    attach(config, params, adapters, lora)  params that compute x·W + scale · (x·A)·B, to train
    merge(config, params, adapters, lora)   params that hold W + scale · B·A, to export

    adapters/layers/{attn,mlp}/TARGET/down  A [L, r, *in]
    adapters/layers/{attn,mlp}/TARGET/up    B [L, *out, r]

Attached parameters go wherever parameters go: `hidden`, `logits`, `greedy`, on a mesh or not. The
gradient is taken with respect to the adapters, and then no gradient of a W is ever made.
"""

from __future__ import annotations

import difflib
import functools
import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key

from star_jax.models import layout, sharding
from star_jax.models.config import Qwen3Config
from star_jax.models.layout import Row

Adapters = Any  # a nested dict of float32 arrays, as above
TARGETS = tuple(row.path[-1] for row in layout.MATRICES)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Which matrices of a layer learn, and how much."""

    rank: int = 16  # r, the width between A and B
    alpha: float = 32.0  # the product counts alpha / rank, so that a rank can change alone
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank must be at least 1, got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"lora.alpha must be a number above 0, got {self.alpha}")
        if isinstance(self.targets, str) or not self.targets:
            known = ", ".join(TARGETS)
            raise ValueError(f"lora.targets must be some of {known}, got {self.targets!r}")
        for name in self.targets:
            if name not in TARGETS:
                near = difflib.get_close_matches(name, TARGETS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"they are {', '.join(TARGETS)}"
                raise ValueError(f"lora.targets: there is no matrix {name!r}: {hint}")
            if self.targets.count(name) > 1:
                raise ValueError(f"lora.targets: {name} stands twice in {self.targets}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def rows(self) -> tuple[Row, ...]:
        """The table's rows that have adapters."""
        return tuple(row for row in layout.MATRICES if row.path[-1] in self.targets)


# A pytree, so that a scan over layers takes a layer's three arrays along. Its fields are Any: trees
# are rebuilt with shardings and shapes in the place of arrays.
@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["weight", "down", "up"],
    meta_fields=["scale"],
)
@dataclass(frozen=True)
class Adapted:
    """A matrix with its adapters, where a tree of parameters has the matrix alone."""

    weight: Any
    down: Any
    up: Any
    scale: float = field(kw_only=True)


def equations(equation: str) -> tuple[str, str]:
    """The einsum of x and W as that of x and A, and that of what comes of it and B.

    "btd,nhd->btnh" becomes "btd,rd->btr" and "btr,nhr->btnh".
    """
    x_axes, weight_axes, out_axes = equation.replace("->", ",").split(",")
    inner = "".join(axis for axis in weight_axes if axis in x_axes)
    outer = "".join(axis for axis in weight_axes if axis not in x_axes)
    thin = "".join(axis for axis in x_axes if axis not in inner) + "r"
    return f"{x_axes},r{inner}->{thin}", f"{thin},{outer}r->{out_axes}"


def _parts(row: Row, whole: tuple[Any, ...]) -> tuple[tuple[Any, ...], ...]:
    """(layers, out, in) of a tuple that has one entry for each axis of the row's array."""
    count = len(row.hf_axes[0])
    return whole[:1], whole[1 : 1 + count], whole[1 + count :]


def _shapes(config: Qwen3Config, lora: Lora, row: Row) -> dict[str, tuple[int, ...]]:
    layers, out, inside = _parts(row, row.shape(config))
    return {"down": (*layers, lora.rank, *inside), "up": (*layers, *out, lora.rank)}


def abstract(config: Qwen3Config, lora: Lora) -> Adapters:
    """Shapes and dtypes of the adapters, nothing allocated."""

    def make(row: Row) -> dict[str, Any]:
        shapes = _shapes(config, lora, row)
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    return layout.nest(lora.rows, make)


def shardings(config: Qwen3Config, lora: Lora, mesh: Mesh) -> Adapters:
    """Each axis is split as the matrix's is; the rank never."""

    def make(row: Row) -> dict[str, Any]:
        layers, out, inside = _parts(row, tuple(sharding.spec(config, row, mesh)))
        specs = {"down": (*layers, None, *inside), "up": (*layers, *out, None)}
        return {name: NamedSharding(mesh, PartitionSpec(*spec)) for name, spec in specs.items()}

    return layout.nest(lora.rows, make)


def init(
    config: Qwen3Config, lora: Lora, key: Key[Array, ""], mesh: Mesh | None = None
) -> Adapters:
    """Adapters that change nothing yet. On a mesh each shard is made where it lies.

    A matrix's A depends on the key and on the matrix, not on which others have adapters.
    """

    def make(key: jax.Array, row: Row) -> dict[str, Any]:
        shapes = _shapes(config, lora, row)
        fan_in = math.prod(shapes["down"][2:])
        own = jax.random.fold_in(key, layout.MATRICES.index(row))
        down = jax.random.normal(own, shapes["down"], jnp.float32) / math.sqrt(fan_in)
        return {"down": down, "up": jnp.zeros(shapes["up"], jnp.float32)}

    placed = None if mesh is None else shardings(config, lora, mesh)

    def tree(key: jax.Array) -> Adapters:
        return layout.nest(lora.rows, functools.partial(make, key))

    return jax.jit(tree, out_shardings=placed)(key)


def check(config: Qwen3Config, lora: Lora, adapters: Adapters) -> None:
    """ValueError unless the tree has exactly the leaves and shapes that the targets ask for."""
    wanted = {
        "/".join((*row.path, name)): shape
        for row in lora.rows
        for name, shape in _shapes(config, lora, row).items()
    }
    layout.compare("adapters", adapters, wanted)


def attach(
    config: Qwen3Config, params: layout.Params, adapters: Adapters, lora: Lora
) -> layout.Params:
    """The parameters with every target beside its adapters. No array is copied."""

    def make(row: Row, weight: Any, pair: dict[str, Any]) -> Any:
        return Adapted(weight, pair["down"], pair["up"], scale=lora.scale)

    return _join(config, params, adapters, lora, make)


def detach(params: layout.Params) -> layout.Params:
    """The parameters without what is attached to them."""
    return jax.tree.map(lambda x: x.weight if is_adapted(x) else x, params, is_leaf=is_adapted)


def is_adapted(value: Any) -> bool:
    return isinstance(value, Adapted)


def whole(weight: Any) -> Any:
    """A stacked matrix as it counts, W + scale · B·A, in W's dtype; one without adapters as it is.
    Inside a trace, where `merge` is for arrays."""
    if not is_adapted(weight):
        return weight
    exact = jax.lax.Precision.HIGHEST
    product = jax.vmap(functools.partial(jnp.tensordot, axes=1, precision=exact))
    added = weight.scale * product(weight.up, weight.down)
    return (weight.weight.astype(jnp.float32) + added).astype(weight.weight.dtype)


def merge(
    config: Qwen3Config, params: layout.Params, adapters: Adapters, lora: Lora
) -> layout.Params:
    """The parameters with W + scale · B·A for every target: computed in float32, kept in W's dtype
    and place."""

    def make(row: Row, weight: Any, pair: dict[str, Any]) -> Any:
        return _merged(weight, pair["down"], pair["up"], row=row, scale=lora.scale)

    with sharding.mesh_context(params):
        return _join(config, params, adapters, lora, make)


@functools.partial(jax.jit, static_argnames=("row", "scale"))
def _merged(weight: Any, down: Any, up: Any, *, row: Row, scale: float) -> jax.Array:
    def one(layer: Any) -> jax.Array:
        weight, down, up = layer
        product = jnp.tensordot(up, down, axes=1, precision=jax.lax.Precision.HIGHEST)
        return (weight.astype(jnp.float32) + scale * product).astype(weight.dtype)

    # One layer at a time: float32 is held of one, not of all.
    return sharding.constrain(jax.lax.map(one, (weight, down, up)), *row.axes)


def _join(
    config: Qwen3Config, params: layout.Params, adapters: Adapters, lora: Lora, make: Any
) -> layout.Params:
    layout.check(config, params)
    check(config, lora, adapters)

    def leaf(row: Row) -> Any:
        weight = layout.leaf(params, row)
        return make(row, weight, layout.leaf(adapters, row)) if row in lora.rows else weight

    return layout.tree(config, leaf)
