"""Where teacher and student are compared, and what happens to the rest of the vocabulary.

A `Pair` holds both log-probs on E tokens. With P and Q the masses of teacher and student there:

    drop         nothing: p and q as they are, Σp = P < 1, Σq = Q < 1
    renormalise  p/P against q/Q
    bucket       one more entry, 1-P against 1-Q: a coarser view of the same two distributions
    zero         p/P against q, the teacher held to put e^-100 on each token of the rest
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from star_jax.train.distill.teacher import (
    NEVER,
    Dense,
    Drawn,
    Softmax,
    TopK,
    contains,
    log_rest,
    logp_all,
    logp_of,
)

Closing = Literal["drop", "renormalise", "bucket", "zero"]

# The smallest mass that TRL grants the bucket; log of it is where both sides stop differing.
LEAST_TAIL = 1e-7
# NeMo's log-prob of a token outside a teacher list that it holds to be the whole teacher.
OUTSIDE_LOGP = -100.0


class Pair(NamedTuple):
    """Both sides on E tokens. No member: log-prob NEVER on both sides, which adds 0 everywhere."""

    logp_NE: jax.Array
    logq_NE: jax.Array
    ids_NE: jax.Array | None = None  # None: all of the vocabulary; -1 where there is no member
    tail_logp_N: jax.Array | None = None  # the teacher's log mass elsewhere, if it was stored


def on_list(listed: TopK, student: Softmax) -> Pair:
    """The teacher's list; empty slots (log-prob -inf) are no members."""
    member_NC = jnp.isfinite(listed.logp_NC)
    logp_NC = jnp.where(member_NC, listed.logp_NC, NEVER).astype(student.shifted_NV.dtype)
    logq_NC = jnp.where(member_NC, logp_of(student, listed.ids_NC), NEVER)
    return Pair(logp_NC, logq_NC, jnp.where(member_NC, listed.ids_NC, -1), listed.tail_logp_N)


def on_ids(teacher: Softmax, student: Softmax, ids_NM: Int[Array, "N M"]) -> Pair:
    return Pair(logp_of(teacher, ids_NM), logp_of(student, ids_NM), ids_NM)


def on_union(
    teacher: Softmax, student: Softmax, ids_NC: Int[Array, "N C"], own_NM: Int[Array, "N M"]
) -> Pair:
    """The teacher's list, and what of the student's own list is not on it."""
    shared_NM = contains(ids_NC, own_NM)
    ids_NE = jnp.concatenate([ids_NC, jnp.where(shared_NM, -1, own_NM)], axis=1)
    logp_NE = jnp.where(ids_NE < 0, NEVER, logp_of(teacher, ids_NE))
    logq_NE = jnp.where(ids_NE < 0, NEVER, logp_of(student, ids_NE))
    return Pair(logp_NE, logq_NE, ids_NE)


def on_vocabulary(teacher: Softmax, student: Softmax) -> Pair:
    return Pair(logp_all(teacher), logp_all(student))


def on_draws(drawn: Drawn, student: Softmax) -> Pair:
    """p = count / number of draws. STAR keeps log 0 in its list and makes 0 · -inf of it; here a
    token that was not drawn is no member."""
    share_NC = drawn.count_NC / jnp.maximum(jnp.sum(drawn.count_NC, axis=1, keepdims=True), 1)
    hit_NC = drawn.count_NC > 0
    logp_NC = jnp.where(hit_NC, jnp.log(jnp.where(hit_NC, share_NC, 1)), NEVER)
    logq_NC = jnp.where(hit_NC, logp_of(student, drawn.ids_NC), NEVER)
    logp_NC = logp_NC.astype(student.shifted_NV.dtype)
    return Pair(logp_NC, logq_NC, jnp.where(hit_NC, drawn.ids_NC, -1))


def as_draws(teacher: Dense) -> Drawn:
    """Counts over the vocabulary as a list of all its tokens."""
    N, V = teacher.count_NV.shape
    ids_NV = jnp.broadcast_to(jnp.arange(V, dtype=jnp.int32)[None, :], (N, V))
    return Drawn(ids_NV, teacher.count_NV, teacher.label_N)


def log_mass(logp_NE: Float[Array, "N E"]) -> Float[Array, " N"]:
    return jax.nn.logsumexp(logp_NE, axis=1)


def _renormalised(logp_NE: Float[Array, "N E"]) -> Float[Array, "N E"]:
    return logp_NE - log_mass(logp_NE)[:, None]


def _with_bucket(
    logp_NE: Float[Array, "N E"], tail_logp_N: Float[Array, " N"] | None
) -> Float[Array, "N E+1"]:
    if tail_logp_N is None:
        tail_logp_N = log_rest(log_mass(logp_NE), LEAST_TAIL)
    tail_logp_N = jnp.maximum(tail_logp_N.astype(logp_NE.dtype), math.log(LEAST_TAIL))
    return jnp.concatenate([logp_NE, tail_logp_N[:, None]], axis=1)


def close(pair: Pair, closing: Closing) -> tuple[Float[Array, "N F"], Float[Array, "N F"]]:
    """Log-probs of teacher and student once the tail has been dealt with."""
    logp_NE, logq_NE = pair.logp_NE, pair.logq_NE
    match closing:
        case "drop":
            return logp_NE, logq_NE
        case "renormalise":
            return _renormalised(logp_NE), _renormalised(logq_NE)
        case "bucket":
            return _with_bucket(logp_NE, pair.tail_logp_N), _with_bucket(logq_NE, None)
        case "zero":
            return _renormalised(logp_NE), logq_NE


def reverse_outside(student: Softmax, ids_NE: Int[Array, "N E"]) -> Float[Array, " N"]:
    """What tail "zero" adds to a reverse KL: Σ q (log q + 100) over the tokens off the list (-1:
    no token)."""
    N, V = student.shifted_NV.shape
    # An id of V is off the end of the vocabulary, where nothing is written.
    ids_NE = jnp.where(ids_NE < 0, V, ids_NE)
    off_NV = jnp.ones((N, V), bool).at[jnp.arange(N)[:, None], ids_NE].set(False, mode="drop")
    logq_NV = logp_all(student)
    term_NV = jnp.exp(logq_NV) * (logq_NV - OUTSIDE_LOGP)
    return jnp.sum(jnp.where(off_NV, term_NV, 0), axis=1)


def mistake_mass(
    student: Softmax, trusted_NC: Int[Array, "N C"], own_NM: Int[Array, "N M"]
) -> Float[Array, " N"]:
    """Σ q over the student's own best tokens that the teacher's list lacks: "confidently wrong".

    The gradient is that of the q; both lists are constants.
    """
    q_NM = jnp.exp(logp_of(student, own_NM))
    return jnp.sum(jnp.where(contains(trusted_NC, own_NM), 0, q_NM), axis=1)
