"""What is computed of one chunk's logits, wherever on the mesh their vocabulary lies."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from star_jax.train.vocab import placing


def project(hidden_CD: Float[Array, "C D"], head_VD: Float[Array, "V D"]) -> Float[Array, "C V"]:
    """Logits in float32, of a product in the dtype of the hidden states."""
    logits_CV = einsum("cd,vd->cv", hidden_CD, head_VD.astype(hidden_CD.dtype))
    return placing.constrain(logits_CV, "batch", "tensor")


def whole_width(head_VD: Float[Array, "V D"], dtype: Any) -> Float[Array, "V D"]:
    """A head as chunks need it: in the dtype of the hidden states, and gathered over fsdp."""
    return placing.constrain(head_VD.astype(dtype), "tensor", None)


def einsum(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Sums in float32 at least. A product of float32 is one on every device: no TF32 on GPU, no
    bfloat16 passes on TPU."""
    sums = jnp.promote_types(x.dtype, jnp.float32)
    exact = jax.lax.Precision.HIGHEST if x.dtype == sums else jax.lax.Precision.DEFAULT
    return jnp.einsum(equation, x, y, precision=exact, preferred_element_type=sums)


def log_prob(logits_CV: Float[Array, "C V"], target_C: Int[Array, " C"]) -> Float[Array, " C"]:
    """log softmax(logits) at the target."""
    return _at(logits_CV, target_C) - jax.nn.logsumexp(logits_CV, axis=-1)


def cross_entropy(
    logits_CV: Float[Array, "C V"], target_C: Int[Array, " C"]
) -> tuple[Float[Array, " C"], dict[str, Bool[Array, " C"]]]:
    """An objective: -log p(target), and whether the target is the most likely token."""
    hit_C = jnp.argmax(logits_CV, axis=-1) == target_C
    return -log_prob(logits_CV, target_C), {"hit": hit_C}


class Statistics(NamedTuple):
    """What is known of a distribution; arrays of [C], then [N], None where it was not asked for."""

    log_z: Any  # log Σ exp(logit)
    entropy: Any  # in nats
    logp: Any = None  # log-prob of the target
    top_ids: Any = None  # [C, K], the most likely first
    top_logps: Any = None  # [C, K]
    tail: Any = None  # the probability outside the top-k
    overlap: Any = None  # the part of the given ids that lies in the top-k, 0 to 1


def measure(
    logits_CV: Float[Array, "C V"],
    target_C: Int[Array, " C"] | None = None,
    given_CK: Int[Array, "C K"] | None = None,
    *,
    top_k: int = 0,
    approximate: bool = False,
) -> Statistics:
    """Statistics of a chunk; an objective may return them as metrics of its own pass."""
    if given_CK is not None and top_k == 0:
        raise ValueError("an overlap of given ids with the top-k needs a top_k above 0")
    log_z_C = jax.nn.logsumexp(logits_CV, axis=-1)
    logp_CV = logits_CV - log_z_C[:, None]
    # A logit of -inf has probability 0 and adds 0, not 0 · ∞.
    entropy_C = -jnp.where(logp_CV > -jnp.inf, jnp.exp(logp_CV) * logp_CV, 0).sum(axis=-1)
    logp_C = None if target_C is None else _at(logits_CV, target_C) - log_z_C
    if top_k == 0:
        return Statistics(log_z_C, entropy_C, logp_C)
    logit_CK, ids_CK = largest(logits_CV, top_k, approximate=approximate)
    # The tail is summed itself: 1 - Σ top would lose all of a mass below 1e-7.
    outside_CV = jnp.put_along_axis(logp_CV, ids_CK, -jnp.inf, axis=1, inplace=False)
    tail_C = jnp.exp(outside_CV).sum(axis=-1)
    overlap_C = None if given_CK is None else _overlap(given_CK, ids_CK)
    top_logp_CK = logit_CK - log_z_C[:, None]
    return Statistics(log_z_C, entropy_C, logp_C, ids_CK, top_logp_CK, tail_C, overlap_C)


def largest(
    logits_CV: Float[Array, "C V"], k: int, *, approximate: bool = False
) -> tuple[Float[Array, "C K"], Int[Array, "C K"]]:
    """The k largest logits and their ids, in falling order, of equal ones the lower id first.

    Where the vocabulary is split over devices each finds the k largest of its own part, and those
    are merged: k numbers a position travel, not the logits. `approximate` finds each of them with
    a probability of 95 %, by a cheaper reduction where the device has one (TPU).
    """
    V, pieces = logits_CV.shape[1], placing.size("tensor")
    if not 1 <= k <= V:
        raise ValueError(f"the top-k of {V} tokens has 1 to {V} of them, got {k}")
    find = jax.lax.approx_max_k if approximate else jax.lax.top_k
    if pieces == 1 or V % pieces:
        logit_CK, ids_CK = find(logits_CV, k)
        return logit_CK, ids_CK
    each = V // pieces

    def merged(logits_CW: jax.Array) -> tuple[jax.Array, jax.Array]:
        found_CK, ids_CK = find(logits_CW, min(k, each))
        ids_CK += each * jax.lax.axis_index("tensor").astype(ids_CK.dtype)
        # Parts in the order of their ids: of equal logits the lower id stays first.
        found_CM, ids_CM = jax.lax.all_gather((found_CK, ids_CK), "tensor", axis=1, tiled=True)
        logit_CK, at_CK = jax.lax.top_k(found_CM, k)
        return logit_CK, jnp.take_along_axis(ids_CM, at_CK, axis=1)

    parts, whole = PartitionSpec(None, "tensor"), PartitionSpec()
    run = jax.shard_map(
        merged, in_specs=(parts,), out_specs=whole, axis_names={"tensor"}, check_vma=False
    )
    logit_CK, ids_CK = run(logits_CV)
    return logit_CK, ids_CK


def _at(logits_CV: jax.Array, target_C: jax.Array) -> jax.Array:
    """The target's logit, by comparison: unlike a gather's, its gradient is no scatter, and logits
    whose vocabulary is split over devices stay where they are."""
    id_1V = jax.lax.broadcasted_iota(jnp.int32, (1, logits_CV.shape[1]), 1)
    return jnp.where(id_1V == target_C[:, None], logits_CV, 0).sum(axis=-1)


def _overlap(given_CK: jax.Array, ids_CM: jax.Array) -> jax.Array:
    return (given_CK[:, :, None] == ids_CM[:, None, :]).any(axis=2).mean(axis=1)
