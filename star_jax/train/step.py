"""One step for every loss, and one evaluation: Σ over micro-batches, then one update.

    loss(params, micro, fixed, targets) → (Σ loss, (Σ weight, {metric: Σ}))   of one micro-batch
    step(state, batch, fixed, targets)  → (state, metrics)                    donates the state

    gradient = Σ_m ∇(Σ loss)_m / Σ_m Σ weight          mean "tokens": however a batch is cut
             = mean_m (∇(Σ loss)_m / (Σ weight)_m)     mean "micro": as STAR's trainer averages

`fixed` is what a step reads and does not change: frozen parameters, a teacher's head, a seed.
Gradients, losses and metrics are summed in float32. Where a loss or a gradient is not finite
nothing is updated, in this step or in any later one.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from star_jax.train.state import State

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).parents[1]

Sums = tuple[Any, tuple[Any, dict[str, Any]]]
Loss = Callable[[Any, Any, Any, int], Sums]
Mean = Literal["tokens", "micro"]


class StepBatch(NamedTuple):
    """What a step learns from: arrays [M, B, ...]; the first `used` micro-batches count."""

    micro: Any
    used: Any  # int32


def make_step(
    loss: Loss,
    optimizer: optax.GradientTransformationExtraArgs,
    rate: Callable[[Any], Any],
    *,
    clip_norm: float | None = 1.0,
    mean: Mean = "tokens",
) -> Callable[..., tuple[State, dict[str, Any]]]:
    """The function to jit; `targets` is static, the loss positions that a row has room for."""

    def step(
        state: State, batch: StepBatch, fixed: Any, targets: int
    ) -> tuple[State, dict[str, Any]]:
        total, summed, count = _gradient(loss, state.params, batch, fixed, targets, mean)
        norm = optax.tree.norm(summed) / count
        too_long = jnp.zeros((), bool) if clip_norm is None else norm > clip_norm
        scale = jnp.where(too_long, (clip_norm or 1.0) / norm, 1.0) / count
        # Mean and clipping in one product, which is part of the update: no other copy is made.
        gradient = jax.tree.map(lambda g: g * scale, summed)
        averages = means(total)
        is_sound = state.is_sound & jnp.isfinite(averages["loss/total_nats"]) & jnp.isfinite(norm)
        updates, opt_state = optimizer.update(
            gradient, state.opt_state, state.params, is_sound=is_sound
        )
        params = optax.apply_updates(state.params, updates)

        def keep(new: Any, old: Any) -> Any:
            return jnp.where(is_sound, new, old)

        # The moments have been told already: choosing once more would keep the old ones alive.
        settled = jax.tree.map(
            lambda new, old: new if new.ndim else keep(new, old), opt_state, state.opt_state
        )
        # The step counts what was learnt: it stands still with everything else.
        now = keep(state.step + 1, state.step)
        trained = jax.tree.map(keep, params, state.params)
        metrics = averages | {
            "data/loss_tokens": total.weight,
            "optim/learning_rate": rate(state.step),
            "optim/gradient_norm": norm,
            "optim/clipped": too_long.astype(jnp.float32),
        }
        return State(now, trained, settled, is_sound), metrics

    return step


class Total(NamedTuple):
    """Sums over the positions of all micro-batches."""

    loss: Any
    weight: Any
    metrics: dict[str, Any]


def means(total: Total) -> dict[str, Any]:
    """Every position counts alike; a batch with nothing to learn has loss 0."""
    weight = jnp.where(total.weight == 0, 1, total.weight)
    return {"loss/total_nats": total.loss / weight} | {
        name: value / weight for name, value in total.metrics.items()
    }


def _gradient(
    loss: Loss, params: Any, batch: StepBatch, fixed: Any, targets: int, mean: Mean
) -> tuple[Total, Any, Any]:
    """→ sums of losses, sums of gradients, and what the latter are to be divided by."""

    def differentiate(number: Any) -> tuple[Total, Any]:
        micro = at(batch.micro, number)
        (value, (weight, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, micro, fixed, targets
        )
        if mean == "micro":
            share = jnp.where(weight == 0, 0, 1 / jnp.where(weight == 0, 1, weight))
            gradient = jax.tree.map(lambda g: g * share, gradient)
        return _float32((Total(value, weight, metrics), gradient))

    def advance(number: Any, carry: Any) -> Any:
        return jax.tree.map(jnp.add, carry, differentiate(number))

    if jax.tree.leaves(batch.micro)[0].shape[0] == 1:
        total, gradient = differentiate(0)  # nothing to add it to: one gradient less in memory
    else:
        nothing = _zeros(jax.eval_shape(differentiate, 0), params)
        total, gradient = jax.lax.fori_loop(0, batch.used, advance, nothing)
    count = total.weight if mean == "tokens" else batch.used.astype(jnp.float32)
    return total, gradient, jnp.where(count == 0, 1, count)


def make_evaluation(loss: Loss) -> Callable[..., Total]:
    """The function to jit: the same sums without a gradient. The host adds those of several batches
    up, and `means` divides."""

    def evaluate(params: Any, batch: StepBatch, fixed: Any, targets: int) -> Total:
        def look(number: Any) -> Total:
            value, (weight, metrics) = loss(params, at(batch.micro, number), fixed, targets)
            return _float32(Total(value, weight, metrics))

        def advance(number: Any, carry: Any) -> Any:
            return jax.tree.map(jnp.add, carry, look(number))

        empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(look, 0))
        return jax.lax.fori_loop(0, batch.used, advance, empty)

    return evaluate


def at(micro: Any, number: Any) -> Any:
    """One micro-batch of arrays [M, B, ...]."""
    return jax.tree.map(
        lambda x: jax.lax.dynamic_index_in_dim(x, number, axis=0, keepdims=False), micro
    )


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)


def _zeros(like: tuple[Total, Any], params: Any) -> tuple[Total, Any]:
    """Sums of nothing. A gradient's lies where its parameter does, which the compiler is told by
    adding zeros of it: an array of zeros alone would be whole on every device."""
    total, gradient = like
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), total)
    beside = jax.tree.map(lambda g, p: jnp.zeros_like(p, dtype=g.dtype), gradient, params)
    return empty, beside


class Programs:
    """A jitted function compiled ahead for every shape of its batch.

    A shape that nobody announced is compiled when it comes; it is counted, and said.
    """

    def __init__(self, name: str, function: Callable[..., Any], donate: bool) -> None:
        self.name = name
        self.unplanned = 0
        self._plain = function
        self._function = jax.jit(
            function, static_argnames="targets", donate_argnums=(0,) if donate else ()
        )
        self._compiled: dict[Any, Any] = {}

    def compile(self, state: Any, batch: Any, fixed: Any, targets: int) -> Any:
        """The program for such arguments, which may be abstract."""
        key = _key(batch, targets)
        if key not in self._compiled:
            lowered = self._function.lower(state, batch, fixed, targets=targets)
            self._compiled[key] = lowered.compile()
        return self._compiled[key]

    def __call__(self, state: Any, batch: Any, fixed: Any, targets: int) -> Any:
        found = self._compiled.get(_key(batch, targets))
        if found is None:
            self.unplanned += 1
            log.warning(
                "%s: compiling a shape that was not planned: %s", self.name, _key(batch, targets)
            )
            found = self.compile(state, batch, fixed, targets)
        return found(state, batch, fixed)

    def blame(self, state: Any, batch: Any, fixed: Any, targets: int) -> str | None:
        """Run one operation at a time, and say which makes the first NaN; None if none does."""
        try:
            with jax.disable_jit(), jax.debug_nans(True):
                self._plain(state, batch, fixed, targets)
        except FloatingPointError as error:
            # Of an operation that differentiation has made, the cause is where its origin stands.
            frames = traceback.extract_tb((error.__cause__ or error).__traceback__)
            last = [one for one in frames if Path(one.filename).is_relative_to(PACKAGE)][-1]
            return f"{error}, at {last.filename}:{last.lineno} ({last.line})"
        return None


def _key(batch: Any, targets: int) -> Any:
    return targets, tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(batch))
