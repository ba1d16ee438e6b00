"""Which target tokens are distilled: all of them, the thinking, the answer, or the two in turn."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

Part = Literal["all", "think", "answer", "alternating"]


def select_mask(
    tokens: Int[Array | np.ndarray, "B T"],
    mask: Shaped[Array | np.ndarray, "B T"],
    kind: Part = "all",
    *,
    end_of_think_id: int,
    segment: Int[Array | np.ndarray, "B T"] | None = None,
    sample: Int[Array | np.ndarray, "B T"] | None = None,
) -> Bool[Array, "B T"]:
    """The part of `mask` (the target tokens) that `kind` names.

        think        up to and including the target's last end-of-think token
        answer       what follows it; the whole target where there is none, which STAR cannot take
        alternating  the thinking of even samples, the answer of odd ones

    Only an end-of-think inside the mask counts: prompts carry those of earlier turns. `segment`
    tells packed targets of one row apart (numbers that do not fall from left to right, 0 for
    padding); `sample` is each token's sample number, for which the row's own stands in.
    """
    if kind not in get_args(Part):
        raise ValueError(f"kind of mask must be one of {', '.join(get_args(Part))}; got {kind!r}")
    target_BT = jnp.asarray(mask) > 0
    if kind == "all":
        return target_BT
    B, T = target_BT.shape
    segment_BT = jnp.ones((B, T), jnp.int32) if segment is None else jnp.asarray(segment)
    end_BT = target_BT & (jnp.asarray(tokens) == end_of_think_id)
    # Segments do not fall, so the lowest that still has an end to come is one's own, or a later.
    last = jnp.iinfo(segment_BT.dtype).max
    coming_BT = jax.lax.cummin(jnp.where(end_BT, segment_BT, last), axis=1, reverse=True)
    think_BT = target_BT & (coming_BT == segment_BT)
    if kind == "think":
        return think_BT
    answer_BT = target_BT & ~think_BT
    if kind == "answer":
        return answer_BT
    sample_BT = jnp.arange(B)[:, None] if sample is None else jnp.asarray(sample)
    return jnp.where(jnp.broadcast_to(sample_BT % 2 == 0, (B, T)), think_BT, answer_BT)
