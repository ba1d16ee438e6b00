"""Where the core's arrays lie on the ambient mesh, in the terms of its axes data, fsdp, tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

BATCH = ("data", "fsdp")  # the mesh axes that split the rows of a batch


def size(*names: str) -> int:
    """The devices along these axes; one along an axis that is absent, or mapped by hand."""
    mesh: Any = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    found = [count for name, count, kind in axes if name in names and kind == AxisType.Auto]
    return int(np.prod(found, dtype=int))


def groups(count: int) -> int:
    """How many groups of equal size `count` rows or positions make."""
    return size(*BATCH) if count % size(*BATCH) == 0 else 1


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an array; "batch" is data × fsdp, and a dimension that does not divide stays whole."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    parts = []
    for length, axis in zip(x.shape, axes, strict=True):
        named = BATCH if axis == "batch" else (axis,)
        names = tuple(name for name in named if name and size(name) > 1)
        parts.append(names if names and length % size(*names) == 0 else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*parts))


def by_rows(x: jax.Array) -> jax.Array:
    """The first dimension over data × fsdp, the others whole."""
    return constrain(x, "batch", *(None,) * (x.ndim - 1))


def each_group(fn: Callable[..., Any], *rows: Any, whole: Any = ()) -> Any:
    """fn(*rows, whole), where each device of data × fsdp sees its own rows of the arrays only.

    For functions of single rows, whatever they are made of: the partitioner gathers the operands
    of a top-k, all rows of them on all devices. The axis tensor is left to the partitioner.
    """
    axes = tuple(name for name in BATCH if size(name) > 1)
    if not axes or any(x.shape[0] % size(*axes) for x in jax.tree.leaves(rows)):
        return fn(*rows, whole)
    split = PartitionSpec(axes)
    specs = (*(split for _ in rows), PartitionSpec())
    mapped = jax.shard_map(
        fn, in_specs=specs, out_specs=split, axis_names=set(axes), check_vma=False
    )
    return mapped(*rows, whole)
