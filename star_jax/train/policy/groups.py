"""Rewards of groups → advantages, and which groups to keep.

    rewards_PG: P prompts, G samples of each; a NaN is a sample without a reward

NumPy comes back as NumPy in its own float type, since a loop has its rewards on the host; JAX
arrays come back as such, and may be traced.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

AnyArray = Array | np.ndarray
AdvantageKind = Literal["group_norm", "dr_grpo", "rloo", "leave_one_out", "batch_norm"]
Rule = Literal["spread", "code", "paper"]

# What keeps a division finite, as the sources of the three kinds have it.
EPS = {"group_norm": 1e-9, "leave_one_out": 1e-6, "batch_norm": 1e-4}

# OpenRLHF keeps its means this far inside the bounds.
MARGIN = 1e-6


def advantages(
    rewards_PG: Shaped[AnyArray, "P G"],
    kind: AdvantageKind = "group_norm",
    *,
    eps: float | None = None,
) -> Float[AnyArray, "P G"]:
    """How much better each sample is than its group.

        group_norm     (r - mean) / (std + eps)
        dr_grpo         r - mean
        rloo            r - mean of the others
        leave_one_out  (r - mean of the others) / (std of the others + eps), / 1 where that is 0
        batch_norm     (r - mean) / (std of the whole batch + eps)

    Standard deviations are unbiased (ddof 1). A group whose rewards are all the same gets exactly
    0, which is not what rounding leaves of r - mean: dividing that by a std of rounding alone can
    make a large number of it. So does a group of one, which nothing can be compared with.
    A sample without a reward gets 0 and counts for nothing.
    """
    if kind not in get_args(AdvantageKind):
        known = ", ".join(get_args(AdvantageKind))
        raise ValueError(f"kind of advantage must be one of {known}; got {kind!r}")
    if eps is not None and not eps >= 0:
        raise ValueError(f"eps of advantages must be >= 0, got {eps}")
    if eps is not None and kind not in EPS:
        raise ValueError(f"advantages {kind!r} divide by nothing: eps has no meaning for them")
    xp, value_PG = _read(rewards_PG, "advantages")
    there_PG = ~xp.isnan(value_PG)
    value_PG = xp.where(there_PG, value_PG, 0)
    small = EPS.get(kind, 0.0) if eps is None else eps
    match kind:
        case "dr_grpo":
            gain_PG = value_PG - _mean(xp, value_PG, there_PG)
        case "group_norm":
            std_P1 = _std(xp, value_PG, there_PG)
            gain_PG = (value_PG - _mean(xp, value_PG, there_PG)) / _divisor(xp, std_P1, small)
        case "batch_norm":
            std_11 = _std(xp, value_PG.reshape(1, -1), there_PG.reshape(1, -1))
            gain_PG = (value_PG - _mean(xp, value_PG, there_PG)) / _divisor(xp, std_11, small)
        case "rloo":
            gain_PG = value_PG - _others(xp, value_PG, there_PG)[0]
        case "leave_one_out":
            mean_PG, std_PG = _others(xp, value_PG, there_PG)
            gain_PG = (value_PG - mean_PG) / xp.where(std_PG > 0, std_PG + small, 1)
    return xp.where(there_PG & (_spread(xp, value_PG, there_PG) > 0)[:, None], gain_PG, 0)


def keep(
    rewards_PG: Shaped[AnyArray, "P G"],
    rule: Rule = "spread",
    *,
    low: float = 0.01,
    high: float = 0.99,
    min_spread: float = 0.0,
) -> Bool[AnyArray, " P"]:
    """Which groups have something to learn from.

        spread  max - min > min_spread
        code    low < mean < high and max - min > min_spread: STAR's code, which asks it of the
                answers' scores (0 where the format is wrong) and not of the rewards (-1 there)
        paper   the mean is neither 0 nor 1: STAR's paper, after DAPO

    Samples without a reward are not looked at; a group with none at all is dropped.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}; got {rule!r}")
    if not low < high:
        raise ValueError(f"low must be < high, got {low} and {high}")
    if not min_spread >= 0:
        raise ValueError(f"min_spread must be >= 0, got {min_spread}")
    xp, value_PG = _read(rewards_PG, "keep")
    there_PG = ~xp.isnan(value_PG)
    value_PG = xp.where(there_PG, value_PG, 0)
    mean_P = _mean(xp, value_PG, there_PG)[:, 0]
    is_wide_P = _spread(xp, value_PG, there_PG) > min_spread
    match rule:
        case "spread":
            return is_wide_P
        case "code":
            return is_wide_P & (mean_P > low + MARGIN) & (mean_P < high - MARGIN)
        case "paper":
            return (mean_P != 0) & (mean_P != 1)  # of no rewards at all the mean is 0, too


def _read(rewards_PG: Any, what: str) -> tuple[ModuleType, Any]:
    xp = jnp if isinstance(rewards_PG, jax.Array) else np
    value_PG = xp.asarray(rewards_PG)
    if value_PG.ndim != 2 or value_PG.shape[1] == 0:
        raise ValueError(
            f"{what}: rewards must be [prompts, samples] with at least one sample, "
            f"got shape {value_PG.shape}"
        )
    if xp is np and np.isinf(value_PG).any():
        prompt, sample = np.argwhere(np.isinf(value_PG))[0]
        value = value_PG[prompt, sample]
        raise ValueError(
            f"{what}: the reward of prompt {prompt}, sample {sample} is {value}; "
            "give a finite number, or NaN for a sample without a reward"
        )
    if not jnp.issubdtype(value_PG.dtype, jnp.floating):
        value_PG = value_PG.astype(float)
    elif value_PG.dtype.itemsize < 4:
        value_PG = value_PG.astype(np.float32)
    return xp, value_PG


def _mean(xp: ModuleType, value_PG: Any, there_PG: Any) -> Any:
    """[P, 1]; 0 of nothing."""
    count_P1 = there_PG.sum(1, keepdims=True).astype(value_PG.dtype)
    return value_PG.sum(1, keepdims=True) / xp.where(count_P1 == 0, 1, count_P1)


def _std(xp: ModuleType, value_PG: Any, there_PG: Any) -> Any:
    """[P, 1], unbiased; 0 where fewer than two are there."""
    apart_PG = xp.where(there_PG, value_PG - _mean(xp, value_PG, there_PG), 0)
    free_P1 = there_PG.sum(1, keepdims=True).astype(value_PG.dtype) - 1
    return xp.sqrt((apart_PG**2).sum(1, keepdims=True) / xp.where(free_P1 < 1, 1, free_P1))


def _divisor(xp: ModuleType, std: Any, eps: float) -> Any:
    """Never 0. Groups without spread are told by their range; what is divided there is dropped."""
    return xp.where(std + eps > 0, std + eps, 1)


def _spread(xp: ModuleType, value_PG: Any, there_PG: Any) -> Any:
    """[P]: largest less smallest, -inf of nothing. Of equal numbers it is 0 without rounding."""
    most_P = xp.where(there_PG, value_PG, -xp.inf).max(1)
    least_P = xp.where(there_PG, value_PG, xp.inf).min(1)
    return most_P - least_P


def _others(xp: ModuleType, value_PG: Any, there_PG: Any) -> tuple[Any, Any]:
    """Mean and unbiased std of the other samples, both [P, G].

    The std is 0 where the others are all the same, and is that exactly: what rounding leaves of it
    would be divided by.
    """
    G = value_PG.shape[1]
    other_PGG = there_PG[:, None, :] & ~xp.eye(G, dtype=bool)[None]
    value_PGG = xp.where(other_PGG, value_PG[:, None, :], 0)
    count_PG = other_PGG.sum(2).astype(value_PG.dtype)
    mean_PG = value_PGG.sum(2) / xp.where(count_PG == 0, 1, count_PG)
    apart_PGG = xp.where(other_PGG, value_PGG - mean_PG[:, :, None], 0)
    variance_PG = (apart_PGG**2).sum(2) / xp.where(count_PG < 2, 1, count_PG - 1)
    most_PG = xp.where(other_PGG, value_PGG, -xp.inf).max(2)
    least_PG = xp.where(other_PGG, value_PGG, xp.inf).min(2)
    return mean_PG, xp.where(most_PG > least_PG, xp.sqrt(variance_PG), 0)
