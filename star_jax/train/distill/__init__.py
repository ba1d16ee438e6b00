"""Distillation objectives: arrays in, arrays out.

`loss` is the whole of it for dense logits [B, T, V]: the mean over the masked-in tokens, STAR's
micro-batch mean, as a scalar; `loss_and_metrics` says more about the same number. An `Objective` is
the part under the mean, for callers that cut the positions into chunks and never hold [B, T, V],
and for teachers that come from a store.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from star_jax.train.distill import presets as presets
from star_jax.train.distill.masks import Part as Part
from star_jax.train.distill.masks import select_mask as select_mask
from star_jax.train.distill.objective import DroppedTailWarning as DroppedTailWarning
from star_jax.train.distill.objective import Kind, Objective
from star_jax.train.distill.teacher import Dense, truncate
from star_jax.train.distill.teacher import Drawn as Drawn
from star_jax.train.distill.teacher import Teacher as Teacher
from star_jax.train.distill.teacher import TopK as TopK
from star_jax.train.distill.teacher import draw as draw

__all__ = [
    "Dense",
    "Drawn",
    "DroppedTailWarning",
    "Kind",
    "Objective",
    "Part",
    "Teacher",
    "TopK",
    "draw",
    "loss",
    "loss_and_metrics",
    "presets",
    "select_mask",
    "token_mean",
    "truncate",
]

AnyArray = Array | np.ndarray


def loss(
    student_logits: Float[AnyArray, "B T V"],
    teacher_logits: Float[AnyArray, "B T V"],
    mask: Shaped[AnyArray, "B T"],
    kind: Kind = "fkl",
    top_k: int = 100,
    student_top_m: int = 100,
    tail_weight: float = 10.0,
    kd_ratio: float = 1.0,
    labels: Int[AnyArray, "B T"] | None = None,
    **options: Any,
) -> Float[Array, ""]:
    """The mean of an objective over the tokens where mask is not 0; 0 where it is 0 everywhere.

    `options` are `Objective`'s other fields, and for kind "rskd" either `key`, a jax.random key to
    draw with, or `counts` [B, T, V], the draws themselves. What stands at masked-out positions,
    NaN included, reaches neither the value nor the gradient.
    """
    mean, _ = loss_and_metrics(
        student_logits,
        teacher_logits,
        mask,
        kind=kind,
        top_k=top_k,
        student_top_m=student_top_m,
        tail_weight=tail_weight,
        kd_ratio=kd_ratio,
        labels=labels,
        **options,
    )
    return mean


def loss_and_metrics(
    student_logits: Float[AnyArray, "B T V"],
    teacher_logits: Float[AnyArray, "B T V"],
    mask: Shaped[AnyArray, "B T"],
    *,
    labels: Int[AnyArray, "B T"] | None = None,
    key: Array | None = None,
    counts: Shaped[AnyArray, "B T V"] | None = None,
    **options: Any,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """`loss`, and the token mean of each thing the objective knows of a position."""
    objective = Objective(**options)
    mask_N = jnp.asarray(mask).reshape(-1)
    student_NV = _rows(student_logits, mask_N)
    known = Dense(_rows(teacher_logits, mask_N))
    if labels is not None:
        known = known._replace(label_N=jnp.where(mask_N > 0, jnp.asarray(labels).reshape(-1), 0))
    if key is not None:
        known = known._replace(seed_N=jax.random.bits(key, mask_N.shape, jnp.uint32))
    if counts is not None:
        known = known._replace(count_NV=_rows(counts, mask_N))
    loss_N, metrics = objective(student_NV, known)
    return token_mean(loss_N, mask_N), {
        name: token_mean(value_N, mask_N) for name, value_N in metrics.items()
    }


def token_mean(value_N: Float[Array, " N"], mask_N: Shaped[Array, " N"]) -> Float[Array, ""]:
    """Σ mask · value / Σ mask: STAR's mean over a micro-batch. A mask may hold weights."""
    weight_N = mask_N.astype(value_N.dtype)
    total = jnp.sum(weight_N)
    return jnp.sum(weight_N * value_N) / jnp.where(total == 0, 1, total)


def _rows(x_BTV: AnyArray, mask_N: Array) -> Array:
    """Positions in a row, with zeros where the mask is 0: padding may hold anything."""
    x_NV = jnp.asarray(x_BTV).reshape(mask_N.shape[0], -1)
    return jnp.where(mask_N[:, None] > 0, x_NV, 0)
