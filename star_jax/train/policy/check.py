"""What a policy objective refuses, each time with the way out; nothing here computes."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from star_jax.train.policy.objective import Objective


def names(objective: Objective, choices: dict[str, Any]) -> None:
    """Every field with a closed set of names holds one of them."""
    for field, literal in choices.items():
        value, known = getattr(objective, field), typing.get_args(literal)
        if value not in known:
            raise ValueError(f"{field} must be one of {', '.join(known)}; got {value!r}")


def average(objective: Objective, literal: Any) -> None:
    known = typing.get_args(literal)
    if objective.per is not None and objective.per not in known:
        raise ValueError(f"per must be one of {', '.join(known)} or None; got {objective.per!r}")
    if objective.per == "fixed" and objective.length is None:
        raise ValueError(
            "per 'fixed' divides by a constant: set length to the longest answer in tokens"
        )
    if objective.per != "fixed" and objective.length is not None:
        raise ValueError(
            f"length {objective.length} is the divisor of per 'fixed', and per is "
            f"{objective.per!r}: leave it out"
        )
    if objective.length is not None and not objective.length > 0:
        raise ValueError(f"length must be > 0, got {objective.length}")


def clipping(objective: Objective) -> None:
    clip, dual = objective.clip, objective.dual_clip
    if clip is not None:
        _pair("clip", clip, "(below 1, above 1) or None")
        if not (0 <= clip[0] <= 1 and clip[1] >= 0):
            raise ValueError(f"clip must hold 0 <= below <= 1 and above >= 0, got {clip}")
    if dual is not None and not dual > 1:
        raise ValueError(f"dual_clip must be > 1 or None, got {dual}")
    if dual is not None and objective.kind not in ("ppo", "gspo"):
        raise ValueError(
            f"dual_clip bounds the clipped losses of ppo and gspo: kind {objective.kind!r} has none"
        )
    _pair("sapo_temperatures", objective.sapo_temperatures, "(where A > 0, elsewhere)")
    if any(not tau > 0 for tau in objective.sapo_temperatures):
        raise ValueError(f"sapo_temperatures must be > 0, got {objective.sapo_temperatures}")


def _pair(field: str, value: Any, meaning: str) -> None:
    """A tuple, since an objective is to be hashable."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise ValueError(f"{field} must be a pair {meaning}, got {value!r}")


def numbers(objective: Objective) -> None:
    for field in ("kl_weight", "entropy_weight"):
        value = getattr(objective, field)
        if not 0 <= value < float("inf"):
            raise ValueError(f"{field} must be >= 0 and finite, got {value}")
    for field in ("kl_clamp", "guide_gamma"):
        value = getattr(objective, field)
        if value is not None and not value > 0:
            raise ValueError(f"{field} must be > 0 or None, got {value}")
    _pair("importance_range", objective.importance_range, "(low, high)")
    low, high = objective.importance_range
    if not 0 <= low < high:
        raise ValueError(
            f"importance_range must hold 0 <= low < high, got {objective.importance_range}"
        )


def shapes(mask: Any, advantages: Any, arrays: dict[str, Any]) -> None:
    """Whether all stand beside the mask: of equal ranks, other shapes would broadcast unseen."""
    whole = np.shape(mask)
    if len(whole) != 2:
        raise ValueError(f"mask must be [B, T], got shape {whole}")
    for name, array in arrays.items():
        if array is not None and np.shape(array) != whole:
            raise ValueError(f"{name} has shape {np.shape(array)} and the mask {whole}")
    if np.shape(advantages) not in (whole, whole[:1]):
        raise ValueError(
            f"advantages have shape {np.shape(advantages)}: give one a row, {whole[:1]}, or one a "
            f"token, {whole}"
        )


def given(objective: Objective, arrays: dict[str, Any], *, is_guided: bool) -> None:
    """Whether the arrays that an objective asks for are there; presence only, so it costs nothing
    in a compiled program."""
    needs = {
        "ref_logp_BT": ("kl_weight", objective.kl_weight > 0),
        "sampler_logp_BT": ("importance", objective.importance != "none"),
        "entropy_BT": ("entropy_weight", objective.entropy_weight > 0),
    }
    for name, (field, is_needed) in needs.items():
        if is_needed and arrays[name] is None:
            raise ValueError(
                f"{field} {getattr(objective, field)!r} needs {name}: pass it, or switch "
                f"{field} off"
            )
    if is_guided and objective.kind == "gspo":
        raise ValueError(
            "kind 'gspo' has one ratio per sequence, and guided tokens have none: use kind 'ppo'"
        )
