"""From the host onto a mesh: each process makes only the rows that its own devices hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from star_jax.batch import TokenBatch

BATCH = ("data", "fsdp")
Host = dict[tuple[int, int], Any]  # first and last row → a tree of arrays [M, rows, ...]


def micro_sharding(mesh: Mesh) -> NamedSharding:
    """Of [M, B, ...]: the rows of a micro-batch over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH))


def ways(mesh: Mesh) -> int:
    """Into how many parts a micro-batch's rows are split."""
    return int(np.prod([mesh.shape[name] for name in BATCH]))


def on_host(mesh: Mesh, rows: int, make: Callable[[slice], Any]) -> Host:
    """The rows of this process's devices, each made once; may run in another thread."""
    return {bounds: make(slice(*bounds)) for bounds in sorted(set(_bounds(mesh, rows).values()))}


def on_mesh(mesh: Mesh, rows: int, host: Host) -> Any:
    """What `on_host` made, as arrays over all processes."""
    devices = _bounds(mesh, rows)
    leaves = {bounds: jax.tree.leaves(tree) for bounds, tree in host.items()}
    tree = jax.tree.structure(next(iter(host.values())))
    made = []
    for number in range(tree.num_leaves):
        one = next(iter(leaves.values()))[number]
        shape = (one.shape[0], rows, *one.shape[2:])
        parts = [jax.device_put(leaves[bounds][number], at) for at, bounds in devices.items()]
        made.append(jax.make_array_from_single_device_arrays(shape, micro_sharding(mesh), parts))
    return jax.tree.unflatten(tree, made)


def everywhere(mesh: Mesh, value: Any) -> jax.Array:
    """A small array that every device has, and every process made alike."""
    value = np.asarray(value)
    placed = NamedSharding(mesh, PartitionSpec())
    return jax.make_array_from_callback(value.shape, placed, lambda index: value[index])


def abstract_rows(mesh: Mesh, micro: int, rows: int, tokens: int) -> TokenBatch:
    """The token arrays [M, B, T] that `on_mesh` gives, without their values."""
    shape = (micro, rows, tokens)
    dtypes = [jnp.float32 if name == "weight_BT" else jnp.int32 for name in TokenBatch._fields]
    at = micro_sharding(mesh)
    made = [jax.ShapeDtypeStruct(shape, dtype, sharding=at) for dtype in dtypes]
    return TokenBatch._make(made)


def abstract_number(mesh: Mesh, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
    """The scalar that `everywhere` gives."""
    return jax.ShapeDtypeStruct((), dtype, sharding=NamedSharding(mesh, PartitionSpec()))


def _bounds(mesh: Mesh, rows: int) -> dict[jax.Device, tuple[int, int]]:
    """Of each device of this process, the rows that it holds."""
    found = micro_sharding(mesh).addressable_devices_indices_map((1, rows))
    return {device: _ends(index[1], rows) for device, index in found.items() if index is not None}


def _ends(part: slice, rows: int) -> tuple[int, int]:
    start, end, _ = part.indices(rows)
    return start, end
