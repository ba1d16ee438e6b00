"""Where arrays lie on a mesh: logical axes of the table → the mesh axes data, fsdp, tensor.

`data` copies the parameters and splits the batch; `fsdp` splits parameters along the model's width
and the batch too; `tensor` splits heads, the SwiGLU's width and the vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from star_jax.models import layout
from star_jax.models.config import Qwen3Config

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the mesh axes that split the rows of a batch

# Logical axis → mesh axis. What is not named here is never split.
RULES = {
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "embed": "fsdp",
}


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over all devices (or the given ones); at most one axis may be -1, "what is left"."""
    devices = jax.devices() if devices is None else list(devices)
    shape = [data, fsdp, tensor]
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise ValueError(f"mesh sizes must be above 0, at most one of them -1, got {tuple(shape)}")
    if -1 in shape:
        known = -int(np.prod(shape))
        if len(devices) % known:
            raise ValueError(f"a mesh of {tuple(shape)} does not divide {len(devices)} devices")
        shape[shape.index(-1)] = len(devices) // known
    if (needed := int(np.prod(shape))) != len(devices):
        raise ValueError(
            f"a mesh of {tuple(shape)} needs {needed} devices, there are {len(devices)}"
        )
    auto = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(shape), AXES, axis_types=auto, devices=devices)


def spec(config: Qwen3Config, row: layout.Row, mesh: Mesh) -> PartitionSpec:
    """How one parameter is split over the mesh; ValueError where a size does not divide."""
    sizes = layout.axis_sizes(config)
    return PartitionSpec(*(_mesh_axis(axis, sizes[axis], mesh, row) for axis in row.axes))


def _mesh_axis(axis: str, size: int, mesh: Mesh, row: layout.Row) -> str | None:
    name = RULES.get(axis)
    if name is None or mesh.shape.get(name, 1) == 1:
        return None
    parts = mesh.shape[name]
    if size % parts == 0:
        return name
    if axis == "kv_heads" and parts % size == 0:
        # Fewer key heads than tensor shards: every shard keeps them all, its query heads are split.
        return None
    raise ValueError(
        f"{'/'.join(row.path)}: {axis} = {size} does not divide over {parts} devices of mesh axis "
        f"{name!r}; choose a {name!r} size that divides {size}"
    )


def param_shardings(config: Qwen3Config, mesh: Mesh) -> layout.Params:
    """The tree of shardings of a model's parameters."""
    _check_axes(mesh)
    return layout.tree(config, lambda row: NamedSharding(mesh, spec(config, row, mesh)))


def _check_axes(mesh: Mesh) -> None:
    unknown = [name for name in mesh.axis_names if name not in AXES and mesh.shape[name] > 1]
    if unknown:
        raise ValueError(f"mesh axis {unknown[0]!r} is unknown; the axes are {', '.join(AXES)}")
    explicit = [
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if kind != AxisType.Auto
    ]
    if explicit:
        raise ValueError(
            f"mesh axis {explicit[0]!r} is not AxisType.Auto; make the mesh with "
            "star_jax.models.make_mesh, or pass axis_types=(AxisType.Auto, ...)"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(_present(BATCH, mesh)))


def mesh_of(params: layout.Params) -> Mesh | None:
    """The mesh that concrete parameters lie on; None for one device, and for traced values."""
    for array in jax.tree.leaves(params):
        if isinstance(array, jax.Array) and not isinstance(array, Tracer):
            placed = array.sharding
            if isinstance(placed, NamedSharding) and isinstance(placed.mesh, Mesh):
                return placed.mesh
    return None


def mesh_context(params: layout.Params) -> AbstractContextManager[Any]:
    """Make the parameters' own mesh the ambient one, inside and outside of a trace."""
    return context_of(mesh_of(params))


def context_of(mesh: Mesh | None) -> AbstractContextManager[Any]:
    if mesh is None:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def constrain(array: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an activation to the ambient mesh; one name or None per dimension, "batch" for the rows.

    A dimension that does not divide stays whole (a batch of 4 rows on 8 devices is computed on each
    of them): that changes the work, not the result. Without a mesh nothing is pinned.
    """
    mesh: Any = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return array
    parts = []
    for size, axis in zip(array.shape, axes, strict=True):
        names = BATCH if axis == "batch" else tuple(filter(None, [RULES.get(axis or "")]))
        names = _present(names, mesh)
        fits = size % int(np.prod([mesh.shape[name] for name in names], dtype=int)) == 0
        parts.append(names if names and fits else None)
    return jax.lax.with_sharding_constraint(array, PartitionSpec(*parts))


def _present(names: Sequence[str], mesh: Any) -> tuple[str, ...]:
    return tuple(name for name in names if mesh.shape.get(name, 1) > 1)
