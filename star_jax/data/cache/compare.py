"""Stored lists beside fresh ones: where they differ by more than storing and computing explain.

How far a stored log-prob may be from a fresh one is the sum of two bounds:

    rounding   half a unit in the last place of the storage dtype: |x| / 2^11 in float16, |x| / 2^8
               in bfloat16, nothing in float32
    noise      what two runs of the teacher may differ by, other shapes and other devices; given in
               nats

A list is held against the fresh exact list in three ways. Its c-th log-prob must be the c-th fresh
one; a token's log-prob must be that token's; and a token that the fresh list lacks must not be more
likely than the fresh list's last. Together: the ids are the same wherever the gap to the neighbour
is above those bounds. Lists of an approximate top-k miss tokens, so the first does not hold them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from star_jax.data.cache.reader import Read
from star_jax.data.cache.scoring import Scores

# Relative half unit in the last place, and the absolute one of the smallest numbers.
ROUNDING = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 0.0), "float32": (0.0, 0.0)}
FLOOR = -80.0  # log-probs below it are all the same: float32 sums of e^x begin to vanish there


class Difference(NamedTuple):
    position: int  # among those compared
    what: str
    stored: float
    fresh: float


class Outcome(NamedTuple):
    differences: list[Difference]  # the first of each kind
    count: int  # positions that differ
    largest: float  # difference of any log-prob that was found on both sides


def rounding(dtype: str, logp: np.ndarray) -> np.ndarray:
    """How far storing moves a log-prob at most."""
    relative, absolute = ROUNDING[dtype]
    # An empty slot is -inf on both sides, or is a difference.
    finite = np.where(np.isfinite(logp), np.abs(logp), 0)
    return np.maximum(finite * relative, absolute)


def compare(
    stored: Read, fresh: Scores, *, dtype: str, noise: float, approximate: bool = False
) -> Outcome:
    """`fresh` is exact and one token longer than the stored lists, or of the whole vocabulary."""
    C = stored.ids_nC.shape[1]
    logp_nC, fresh_nE = stored.logp_nC.astype(np.float64), fresh.logp_PC.astype(np.float64)
    own_nC = _look_up(stored.ids_nC, fresh.ids_PC, fresh_nE)
    is_known = ~np.isnan(own_nC)
    # What the fresh list lacks is at most as likely as its last, and that may be anything below.
    bound_nC = np.broadcast_to(fresh_nE[:, -1:], logp_nC.shape)
    target_nC = np.where(is_known, own_nC, np.minimum(bound_nC, logp_nC))
    checks = {"a token's log-prob": (logp_nC, target_nC, rounding(dtype, target_nC))}
    if not approximate:
        checks["the list's order"] = (logp_nC, fresh_nE[:, :C], rounding(dtype, fresh_nE[:, :C]))
    checks["the log of the mass outside the list"] = _tails(stored, fresh, is_known, dtype)
    label_n1, fresh_n1 = _floored(stored.label_logp_n), _floored(fresh.label_logp_P)
    checks["the target's log-prob"] = (label_n1, fresh_n1, np.zeros(1))
    return _outcome(checks, noise)


Check = tuple[np.ndarray, np.ndarray, np.ndarray]  # stored, fresh, what storing explains


def _outcome(checks: dict[str, Check], noise: float) -> Outcome:
    found: list[Difference] = []
    largest, is_other = 0.0, np.zeros(0, bool)
    for what, (ours, theirs, allowed) in checks.items():
        with np.errstate(invalid="ignore"):  # between equal infinities
            gap = np.where(ours == theirs, 0, np.abs(ours - theirs))
        wrong = ~(gap <= allowed + noise)
        largest = max(largest, float(np.where(np.isfinite(gap), gap, 0).max(initial=0)))
        is_other = wrong.any(axis=1) | (is_other if is_other.size else False)
        if wrong.any():
            n, c = (int(at) for at in np.argwhere(wrong)[0])
            found.append(Difference(n, what, float(ours[n, c]), float(theirs[n, c])))
    return Outcome(found, int(is_other.sum()), largest)


def _look_up(ids_nC: np.ndarray, listed_nE: np.ndarray, value_nE: np.ndarray) -> np.ndarray:
    """The value that each id has in the list of its position, NaN where it is not listed."""
    if ids_nC.size == 0:
        return np.zeros(ids_nC.shape)
    # One sorted search over all positions: a token's key is its position and its id.
    most = np.int64(max(int(listed_nE.max()), int(ids_nC.max())) + 1)
    base_n1 = np.arange(len(ids_nC), dtype=np.int64)[:, None] * most
    keys, wanted = (base_n1 + listed_nE).reshape(-1), (base_n1 + ids_nC).reshape(-1)
    order = np.argsort(keys)
    at = order[np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)]
    found = np.where(keys[at] == wanted, value_nE.reshape(-1)[at], np.nan)
    return found.reshape(ids_nC.shape)


def _tails(stored: Read, fresh: Scores, is_known: np.ndarray, dtype: str) -> Check:
    """The mass outside the stored list: that outside the fresh one, what of the fresh one is not
    stored, less what is stored and not fresh; of that the rounded log-prob is all that is known."""
    logp_nC, fresh_nE = stored.logp_nC.astype(np.float64), fresh.logp_PC.astype(np.float64)
    is_stored = ~np.isnan(_look_up(fresh.ids_PC, stored.ids_nC, logp_nC))
    lacking_n = np.where(is_stored, 0, np.exp(fresh_nE)).sum(axis=1)
    strange_nC = np.where(is_known, 0, np.exp(logp_nC))
    mass_n = np.exp(fresh.tail_logp_P.astype(np.float64)) + lacking_n - strange_nC.sum(axis=1)
    mass_n = np.maximum(mass_n, np.exp(FLOOR))
    unsure_n = (strange_nC * rounding(dtype, logp_nC)).sum(axis=1) / mass_n
    return _floored(stored.tail_logp_n), np.log(mass_n)[:, None], unsure_n[:, None]


def _floored(logp_n: np.ndarray) -> np.ndarray:
    return np.maximum(logp_n.astype(np.float64), FLOOR)[:, None]
