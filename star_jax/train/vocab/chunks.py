"""The two loops over chunks: values alone, and values with their gradients.

A loop ends after the last valid position: room that a batch does not use costs no time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from star_jax.train.vocab import placing
from star_jax.train.vocab.softmax import einsum, project, whole_width

# (logits_CV, (moving, fixed), shared) → (values, metrics)
Call = Callable[..., tuple[Any, Any]]


@dataclass(frozen=True)
class Plan:
    """How N positions are dealt into steps of C = G · width, and the dtypes of the gradients."""

    count: int
    groups: int
    width: int
    hidden: Any
    head: Any

    @property
    def each(self) -> int:
        """Positions of a group."""
        return self.count // self.groups

    @property
    def steps(self) -> int:
        return -(-self.each // self.width)

    @property
    def sums(self) -> Any:
        """float32, or float64 where the hidden states are."""
        return jnp.promote_types(self.hidden, jnp.float32)

    def split(self, tree: Any) -> Any:
        """[N, ...] → [G, P, ...], padded with zeros to whole steps."""
        missing = self.steps * self.width - self.each

        def cut(x_N: jax.Array) -> jax.Array:
            x_GP = placing.by_rows(x_N.reshape(self.groups, self.each, *x_N.shape[1:]))
            return jnp.pad(x_GP, ((0, 0), (0, missing), *((0, 0),) * (x_N.ndim - 1)))

        return jax.tree.map(cut, tree)

    def join(self, tree: Any) -> Any:
        """[G, P, ...] → [N, ...]"""

        def paste(x_GP: jax.Array) -> jax.Array:
            x_N = x_GP[:, : self.each].reshape(self.count, *x_GP.shape[2:])
            return placing.by_rows(x_N)

        return jax.tree.map(paste, tree)

    def at(self, tree: Any, step: Any) -> Any:
        """A step's part of what was split, [C, ...]."""

        def cut(x_GP: jax.Array) -> jax.Array:
            part = jax.lax.dynamic_slice_in_dim(x_GP, step * self.width, self.width, axis=1)
            return placing.by_rows(part.reshape(-1, *x_GP.shape[2:]))

        return jax.tree.map(cut, tree)

    def put(self, tree: Any, part: Any, step: Any) -> Any:
        def paste(x_GP: jax.Array, part_C: jax.Array) -> jax.Array:
            part = part_C.reshape(self.groups, self.width, *x_GP.shape[2:])
            return jax.lax.dynamic_update_slice_in_dim(x_GP, part, step * self.width, axis=1)

        return jax.tree.map(paste, tree, part)

    def room(self, part: Any) -> Any:
        """Zeros for all steps, of the shapes of one step's part."""

        def zeros(x: Any) -> jax.Array:
            shape = (self.groups, self.steps * self.width, *x.shape[1:])
            return placing.by_rows(jnp.zeros(shape, x.dtype))

        return jax.tree.map(zeros, part)

    def used(self, valid_N: jax.Array) -> jax.Array:
        """The number of steps up to the last valid position."""
        valid_GSc = self.split(valid_N).reshape(self.groups, self.steps, self.width)
        return jnp.where(valid_GSc.any(axis=(0, 2)), jnp.arange(1, self.steps + 1), 0).max()


def plan(hidden_ND: jax.Array, head_VD: jax.Array, chunk: int) -> Plan:
    if chunk < 1:
        raise ValueError(f"a chunk holds at least 1 position, got {chunk}")
    count = hidden_ND.shape[0]
    groups = placing.groups(count)
    width = min(chunk, count // groups)
    return Plan(count, groups, width, hidden_ND.dtype, head_VD.dtype)


def outputs(
    call: Call,
    plan: Plan,
    hidden_ND: jax.Array,
    head_VD: jax.Array,
    data: Any,
    valid_N: jax.Array,
    shared: Any,
) -> Any:
    """(values, metrics) of all positions, 0 where not valid."""
    matrix_VD = whole_width(head_VD, hidden_ND.dtype)
    parts = plan.split((hidden_ND, data, valid_N))

    def run(step: Any) -> Any:
        hidden_CD, data_C, valid_C = plan.at(parts, step)
        logits_CV = project(_where(valid_C, hidden_CD), matrix_VD)
        values, metrics = placing.each_group(call, logits_CV, data_C, whole=shared)
        return _where(valid_C, (_cast(values, plan.sums), metrics))

    def advance(step: Any, found: Any) -> Any:
        return plan.put(found, run(step), step)

    found = plan.room(jax.eval_shape(run, 0))
    return plan.join(jax.lax.fori_loop(0, plan.used(valid_N), advance, found))


def gradients(
    call: Call,
    plan: Plan,
    hidden_ND: jax.Array,
    head_VD: jax.Array,
    data: tuple[Any, Any],
    valid_N: jax.Array,
    shared: Any,
    cotangent_N: Any,
) -> tuple[Any, tuple[Any, Any, Any]]:
    """The same, and the gradients of Σ cotangent · value wrt hidden, head and the moving data."""
    matrix_VD = whole_width(head_VD, hidden_ND.dtype)
    parts = plan.split((hidden_ND, data, valid_N, cotangent_N))

    def differentiate(
        logits_CV: jax.Array, moving_C: Any, fixed_C: Any, cotangent_C: Any, shared: Any
    ) -> Any:
        def objective(logits_CV: jax.Array, moving_C: Any) -> Any:
            values, metrics = call(logits_CV, (moving_C, fixed_C), shared)
            return _cast(values, plan.sums), metrics

        values, pull, metrics = jax.vjp(objective, logits_CV, moving_C, has_aux=True)
        return (values, metrics), pull(cotangent_C)

    def run(step: Any) -> Any:
        hidden_CD, (moving_C, fixed_C), valid_C, cotangent_C = plan.at(parts, step)
        hidden_CD, cotangent_C = _where(valid_C, (hidden_CD, cotangent_C))
        logits_CV = project(hidden_CD, matrix_VD)
        args = (logits_CV, moving_C, fixed_C, cotangent_C)
        found, pulled = placing.each_group(differentiate, *args, whole=shared)
        dlogits_CV, dmoving_C = _where(valid_C, pulled)
        # In the dtype of the product that made the logits: where that is bfloat16, so are these.
        dlogits_CV = placing.constrain(dlogits_CV.astype(plan.hidden), "batch", "tensor")
        dhidden_CD = placing.by_rows(einsum("cv,vd->cd", dlogits_CV, matrix_VD))
        kept = (_where(valid_C, found), dhidden_CD, dmoving_C)
        return kept, _by_group(plan, dlogits_CV, hidden_CD)

    def advance(step: Any, carry: Any) -> Any:
        kept, dhead_GVD = carry
        new, added_GVD = run(step)
        return plan.put(kept, new, step), dhead_GVD + added_GVD

    room, sums = jax.eval_shape(run, 0)
    dhead_GVD = placing.constrain(jnp.zeros(sums.shape, sums.dtype), "batch", "tensor", None)
    carry = (plan.room(room), dhead_GVD)
    kept, dhead_GVD = jax.lax.fori_loop(0, plan.used(valid_N), advance, carry)
    found, dhidden_ND, dmoving = plan.join(kept)
    dhead_VD = placing.constrain(dhead_GVD.sum(axis=0), "tensor", "fsdp")
    return found, (dhidden_ND, dhead_VD, dmoving)


def _by_group(plan: Plan, dlogits_CV: jax.Array, hidden_CD: jax.Array) -> jax.Array:
    """The head's gradient of a chunk, one sum a group.

    Adding over groups here would send [V, D] over the mesh with every chunk.
    """
    dlogits_GcV = dlogits_CV.reshape(plan.groups, plan.width, -1)
    hidden_GcD = hidden_CD.reshape(plan.groups, plan.width, -1)
    dhead_GVD = einsum("gcv,gcd->gvd", dlogits_GcV, hidden_GcD)
    return placing.constrain(dhead_GVD, "batch", "tensor", None)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _where(valid_C: jax.Array, tree: Any) -> Any:
    """Zeros where not valid, of arrays [C, ...]; also where something there is not finite."""

    def keep(x_C: jax.Array) -> jax.Array:
        valid = valid_C.reshape(-1, *(1,) * (x_C.ndim - 1))
        return jnp.where(valid, x_C, jnp.zeros((), x_C.dtype))

    return jax.tree.map(keep, tree)
