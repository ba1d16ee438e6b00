"""What training changes: a step number, the trained arrays and the optimizer's, on a mesh.

    State(step, params, opt_state, is_sound)

`params` is the tree that the optimizer updates: a model's float32 master weights, or LoRA's
adapters. `is_sound` falls when a loss or a gradient is not finite, and everything else stays as it
was from then on: what a run saves after that is the state before the fault.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Schedule = Literal["cosine", "linear", "constant"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state", "is_sound"],
    meta_fields=[],
)
@dataclass(frozen=True)
class State:
    step: Any  # int32, how many steps have been taken
    params: Any
    opt_state: Any
    is_sound: Any  # bool


def learning_rate(
    peak: float,
    steps: int,
    *,
    schedule: Schedule = "cosine",
    warmup_share: float = 0.03,
    final_share: float = 0.1,
) -> Callable[[Any], Any]:
    """Step (from 0) → rate: a linear rise from 0 over the first share of the steps, then down to
    `final_share` of the peak along half a cosine or a line, or not at all."""
    # A run of one step would otherwise be over before its rate has risen.
    warmup = min(math.ceil(round(warmup_share * steps, 6)), steps - 1)
    rest = max(steps - warmup, 1)
    match schedule:
        case "cosine":
            after = optax.cosine_decay_schedule(peak, rest, alpha=final_share)
        case "linear":
            after = optax.linear_schedule(peak, final_share * peak, rest)
        case "constant":
            after = optax.constant_schedule(peak)
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def adamw(
    rate: Callable[[Any], Any],
    *,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with float32 moments; vectors, which here are the scales of norms, do not decay.

    Its update takes `is_sound`: where that is false, the moments stay as they were.
    """
    return optax.chain(
        _adam(beta1, beta2, eps),
        optax.add_decayed_weights(weight_decay, mask=decays),
        optax.scale_by_learning_rate(rate),
    )


def _adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_adam, the same numbers in less room. Moments are settled, then read: a
    compiler that is free to read the old ones again, for the parameters, copies them all first.
    """

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        is_sound: Any = True,
        **_: Any,
    ) -> tuple[Any, optax.ScaleByAdamState]:
        def settle(new: Any, old: Any) -> Any:
            return jax.lax.optimization_barrier(jnp.where(is_sound, new, old))

        first = optax.tree.update_moment(updates, state.mu, beta1, 1)
        second = optax.tree.update_moment_per_elem_norm(updates, state.nu, beta2, 2)
        mu = jax.tree.map(settle, first, state.mu)
        nu = jax.tree.map(settle, second, state.nu)
        count = optax.safe_increment(state.count)
        moved = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v) + eps),
            optax.tree.bias_correction(mu, beta1, count),
            optax.tree.bias_correction(nu, beta2, count),
        )
        return moved, optax.ScaleByAdamState(count, mu, nu)

    plain = optax.scale_by_adam(beta1, beta2, eps)
    return optax.GradientTransformationExtraArgs(plain.init, update)


def decays(params: Any) -> Any:
    """True where a leaf is a matrix. A norm's scale is stacked over layers, so its rank can't tell:
    its name does, for a tree of a model's parameters, and LoRA's adapters have no norms."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", None) != "scale", params
    )


def init(params: Any, optimizer: optax.GradientTransformation) -> State:
    """A fresh state around these parameters; moments lie where their parameters do."""
    placed = shardings(params, optimizer)
    opt_state = jax.jit(optimizer.init, out_shardings=placed.opt_state)(params)
    step, is_sound = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    return State(
        jax.device_put(step, placed.step), params, opt_state, jax.device_put(is_sound, placed.step)
    )


def abstract(params: Any, optimizer: optax.GradientTransformation) -> State:
    """Shapes, dtypes and shardings of a state, nothing allocated; `params` may be abstract."""

    def make(params: Any) -> State:
        return State(jnp.zeros((), jnp.int32), params, optimizer.init(params), jnp.ones((), bool))

    shapes = jax.eval_shape(make, params)
    return jax.tree.map(
        lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
        shapes,
        shardings(params, optimizer),
    )


def shardings(params: Any, optimizer: optax.GradientTransformation) -> State:
    """Where each array of a state lies: moments beside their parameters, scalars everywhere."""
    at = jax.tree.map(lambda x: x.sharding, params)
    anywhere = _everywhere(at)
    moments = jax.eval_shape(optimizer.init, params)
    opt_state = optax.tree.map_params(
        optimizer,
        lambda _, placed: placed,
        moments,
        at,
        transform_non_params=lambda _: anywhere,
    )
    return State(anywhere, at, opt_state, anywhere)


def _everywhere(at: Any) -> Any:
    """A sharding that copies a scalar onto all the devices that the parameters lie on."""
    one = jax.tree.leaves(at)[0]
    if isinstance(one, NamedSharding) and isinstance(one.mesh, Mesh):
        return NamedSharding(one.mesh, PartitionSpec())
    return one
