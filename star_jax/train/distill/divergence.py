"""Divergences of a teacher p and a student q over a support of E tokens, one number per position.

    forward   Σ p (log p - log q)
    reverse   Σ q (log q - log p)
    jsd       β Σ p (log p - log m) + (1-β) Σ q (log q - log m),   m = βp + (1-β)q
    adaptive  w_head · forward + w_tail · reverse

Both sides come as log-probs. They need not sum to one: what the support leaves out is the business
of `support.close`. All log-probs are finite (see `teacher.NEVER`), so no product is 0 · inf.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Boundary = Literal["star", "author", "roll"]


def forward(logp_NE: Float[Array, "N E"], logq_NE: Float[Array, "N E"]) -> Float[Array, " N"]:
    return jnp.sum(jnp.exp(logp_NE) * (logp_NE - logq_NE), axis=1)


def reverse(logp_NE: Float[Array, "N E"], logq_NE: Float[Array, "N E"]) -> Float[Array, " N"]:
    return jnp.sum(jnp.exp(logq_NE) * (logq_NE - logp_NE), axis=1)


def jensen_shannon(
    logp_NE: Float[Array, "N E"], logq_NE: Float[Array, "N E"], beta: float
) -> Float[Array, " N"]:
    """The generalised form, whose limits at β = 0 and 1 are 0. There TRL returns forward and
    reverse KL instead, and so do we: the scale jumps."""
    if beta == 0.0:
        return forward(logp_NE, logq_NE)
    if beta == 1.0:
        return reverse(logp_NE, logq_NE)
    logm_NE = jnp.logaddexp(logq_NE + math.log1p(-beta), logp_NE + math.log(beta))
    return beta * forward(logp_NE, logm_NE) + (1 - beta) * forward(logq_NE, logm_NE)


def is_head(p_NE: Float[Array, "N E"], boundary: Boundary, head_mass: float) -> Bool[Array, "N E"]:
    """Which of the teacher's tokens, best first, are its head: up to about `head_mass`.

    The published rules part over the token that crosses the boundary, and over lists that do not
    sum to one:
        star    head while the mass before a token is < head_mass: the crossing token is head
        author  head while the mass through a token is <= head_mass: the crossing token is tail
        roll    tail while the mass from a token on is <= 1 - head_mass: the crossing token is head
    star and author call the best token head in any case.
    """
    through_NE = jnp.cumsum(p_NE, axis=1)
    match boundary:
        case "star":
            # A shift, not through - p: that would move the boundary by a rounding error.
            before_NE = jnp.pad(through_NE[:, :-1], ((0, 0), (1, 0)))
            head_NE = before_NE < head_mass
        case "author":
            head_NE = through_NE <= head_mass
        case "roll":
            head_NE = jax.lax.cumsum(p_NE, axis=1, reverse=True) > 1 - head_mass
    return head_NE if boundary == "roll" else head_NE.at[:, 0].set(True)


def adaptive_weights(
    logp_NE: Float[Array, "N E"],
    logq_NE: Float[Array, "N E"],
    boundary: Boundary = "star",
    head_mass: float = 0.5,
    weight_grad: bool = True,
) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
    """The shares of Σ|p - q| that lie in the teacher's head and in its tail.

    STAR's patch differentiates them; the authors of the method do not (`weight_grad=False`).
    """
    if not weight_grad:
        logq_NE = jax.lax.stop_gradient(logq_NE)
    order_NE = jnp.argsort(-logp_NE, axis=1)
    p_NE = jnp.exp(jnp.take_along_axis(logp_NE, order_NE, axis=1))
    gap_NE = jnp.abs(p_NE - jnp.exp(jnp.take_along_axis(logq_NE, order_NE, axis=1)))
    head_NE = is_head(p_NE, boundary, head_mass)
    head_N = jnp.sum(jnp.where(head_NE, gap_NE, 0), axis=1)
    tail_N = jnp.sum(jnp.where(head_NE, 0, gap_NE), axis=1)
    # Equal distributions: STAR divides 0 by 1e-9 and gets 0, the authors' code gets NaN.
    total_N = jnp.where(head_N + tail_N == 0, 1e-9, head_N + tail_N)
    return head_N / total_N, tail_N / total_N


def adaptive(
    logp_NE: Float[Array, "N E"],
    logq_NE: Float[Array, "N E"],
    boundary: Boundary = "star",
    head_mass: float = 0.5,
    weight_grad: bool = True,
) -> Float[Array, " N"]:
    head_N, tail_N = adaptive_weights(logp_NE, logq_NE, boundary, head_mass, weight_grad)
    return head_N * forward(logp_NE, logq_NE) + tail_N * reverse(logp_NE, logq_NE)
