"""How tokens' losses become one number: weights, and what to divide by.

    loss = Σ_m Σ weight · loss / Σ_m count           m: the micro-batches of a step

    token     weight = mask                   count = Σ mask                  every token alike
    sequence  weight = mask / Σ mask of seq.  count = sequences               every sequence alike
    fixed     weight = mask / length          count = sequences               Dr. GRPO's constant
    micro     weight = mask / Σ mask          count = 1 (0 if it is empty)    OpenRLHF's, and STAR's

Of the first three any cut of a batch between sequences gives the same loss and the same gradient.
The last one is the mean of micro-batches' own token means, and depends on the cut by intent.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from star_jax.train.policy import sequences as seq

AnyArray = Array | np.ndarray
Per = Literal["token", "sequence", "fixed", "micro"]


class Weights(NamedTuple):
    weight_BT: Array
    count: Array  # scalar: a micro-batch's part of the divisor


def weights(
    mask_BT: Shaped[AnyArray, "B T"],
    per: Per = "token",
    *,
    length: float | None = None,
    sequences: Shaped[AnyArray, ""] | int | None = None,
    segment_BT: Int[AnyArray, "B T"] | None = None,
) -> Weights:
    """One micro-batch's weights and its count. A mask may hold weights of its own.

    `length` is the divisor of "fixed", in tokens. `sequences` is how many this micro-batch counts
    for "sequence" and "fixed"; None counts those with a token in the mask, so that padding rows and
    masked-out samples are none. `segment_BT` tells packed sequences of a row apart.
    """
    if per not in get_args(Per):
        raise ValueError(f"per must be one of {', '.join(get_args(Per))}; got {per!r}")
    if (per == "fixed") != (length is not None):
        raise ValueError(f"length is the divisor of per 'fixed'; got {length} with per {per!r}")
    divisor = 1.0 if length is None else length
    if not divisor > 0:
        raise ValueError(f"length must be > 0, got {length}")
    if sequences is not None and per not in ("sequence", "fixed"):
        raise ValueError(f"per {per!r} counts no sequences: leave `sequences` out")
    mask_BT = jnp.asarray(mask_BT)
    segment_BT = None if segment_BT is None else jnp.asarray(segment_BT)
    dtype = jnp.result_type(float)  # float64 where JAX has it: a third is not one in float32
    weight_BT = mask_BT.astype(dtype)
    match per:
        case "token":
            return Weights(weight_BT, weight_BT.sum())
        case "micro":
            whole = weight_BT.sum()
            return Weights(weight_BT / jnp.where(whole == 0, 1, whole), (whole > 0).astype(dtype))
        case "sequence":
            whole_BT = seq.total(weight_BT, segment_BT)
            weight_BT = weight_BT / jnp.where(whole_BT == 0, 1, whole_BT)
        case "fixed":
            weight_BT = weight_BT / divisor
    if sequences is None:
        sequences = seq.count(mask_BT > 0, segment_BT)
    return Weights(weight_BT, jnp.asarray(sequences).astype(dtype))


def drop_unfinished(
    mask_BT: Shaped[AnyArray, "B T"], finished_B: Shaped[AnyArray, " B"]
) -> Shaped[Array, "B T"]:
    """The mask without the samples that ran into the length limit (DAPO's overlong filtering):
    their rewards judge an answer that was not finished. Their groups still count them."""
    mask_BT = jnp.asarray(mask_BT)
    return jnp.where(jnp.asarray(finished_B)[:, None], mask_BT, jnp.zeros_like(mask_BT))


def token_mean(value_BT: Float[Array, "B T"], mask_BT: Shaped[Array, "B T"]) -> Float[Array, ""]:
    """Σ mask · value / Σ mask; 0 where the mask is 0 everywhere."""
    weight_BT = mask_BT.astype(value_BT.dtype)
    whole = weight_BT.sum()
    kept_BT = jnp.where(weight_BT > 0, value_BT, 0)
    return (weight_BT * kept_BT).sum() / jnp.where(whole == 0, 1, whole)
