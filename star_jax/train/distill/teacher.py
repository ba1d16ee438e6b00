"""What a teacher says about N positions: everything, its best few, or what was drawn from it.

    Dense   the logits of all V tokens                    a live teacher, chunk by chunk
    TopK    the best C ids and their log-probs            a live teacher cut short, or a cache
    Drawn   ids that were sampled, and how often each     random-sampling distillation

Log-probs are always those of the softmax over the whole vocabulary: a list of raw logits would not
say how much of the teacher it leaves out. `Softmax` keeps shifted logits and one number per
position, so that reading a few log-probs builds no second [N, V] array.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt

# A token of probability zero: exp(it) is 0 in float32 and float64, and unlike -inf it makes no NaN
# of 0 · log 0, neither in the value nor in the gradient.
NEVER = -1e30


class Dense(NamedTuple):
    """All logits. `seed_N` or `count_NV` are for kind "rskd" alone: what to draw with, or the draws
    themselves. Seeds are plain numbers so that they can be cut and padded like any other array."""

    logits_NV: Any
    label_N: Any = None  # int, the token that was there
    seed_N: Any = None  # uint32, see `draw`
    count_NV: Any = None  # how often each token was drawn


class TopK(NamedTuple):
    """The teacher's best tokens, best first. A slot of log-prob -inf is empty, whatever its id."""

    ids_NC: Any
    logp_NC: Any
    tail_logp_N: Any = None  # log of the mass outside the list; None: what the list leaves of 1
    label_N: Any = None  # int, the token that was there
    label_logp_N: Any = None  # the teacher's own log-prob of it


class Drawn(NamedTuple):
    """Sampled tokens: distinct ids and their counts. A slot of count 0 is empty."""

    ids_NC: Any
    count_NC: Any
    label_N: Any = None


Teacher = Dense | TopK | Drawn


class Softmax(NamedTuple):
    """log softmax(z)_v = shifted_v - log_total; the best token's shifted logit is 0."""

    shifted_NV: Any
    log_total_N: Any


def normalise(logits_NV: Float[Array, "N V"], temperature: float = 1.0) -> Softmax:
    """The softmax of logits / temperature, in float32 or wider.

    Shifting before summing keeps log-probs exact where logits are large: z - logsumexp(z) of
    float32 logits around 1e4 is off by 1e-3.
    """
    wide_NV = logits_NV.astype(jnp.promote_types(logits_NV.dtype, jnp.float32)) / temperature
    best_N = jax.lax.stop_gradient(jnp.max(wide_NV, axis=1))
    shifted_NV = jnp.maximum(wide_NV - best_N[:, None], NEVER)
    return Softmax(shifted_NV, jnp.log(jnp.sum(jnp.exp(shifted_NV), axis=1)))


def logp_of(softmax: Softmax, ids_NE: Int[Array, "N E"]) -> Float[Array, "N E"]:
    shifted_NE = jnp.take_along_axis(softmax.shifted_NV, ids_NE, axis=1, mode="clip")
    return shifted_NE - softmax.log_total_N[:, None]


def logp_all(softmax: Softmax) -> Float[Array, "N V"]:
    return softmax.shifted_NV - softmax.log_total_N[:, None]


def best(softmax: Softmax, k: int, approximate: bool = False) -> Int[Array, "N k"]:
    """Ids of the k best tokens (all V if k is more), best first. No gradient flows through it."""
    score_NV = jax.lax.stop_gradient(softmax.shifted_NV)
    k = min(k, score_NV.shape[1])
    choose = jax.lax.approx_max_k if approximate else jax.lax.top_k
    return choose(score_NV, k)[1]


def log_rest(log_mass_N: Float[Array, " N"], least: float) -> Float[Array, " N"]:
    """log(1 - exp(log_mass)), where at least about `least` is held to be left."""
    return jnp.log(-jnp.expm1(jnp.minimum(log_mass_N, -least)))


def truncate(
    teacher: Dense, top_k: int, temperature: float = 1.0, approximate: bool = False
) -> TopK:
    """What a cache keeps of a dense teacher."""
    softmax = normalise(teacher.logits_NV, temperature)
    ids_NC = best(softmax, top_k, approximate)
    logp_NC = logp_of(softmax, ids_NC)
    tail_logp_N = outside(logp_NC)
    label_logp_N = None
    if teacher.label_N is not None:
        label_logp_N = logp_of(normalise(teacher.logits_NV), teacher.label_N[:, None])[:, 0]
    return TopK(ids_NC, logp_NC, tail_logp_N, teacher.label_N, label_logp_N)


def outside(logp_NC: Float[Array, "N C"]) -> Float[Array, " N"]:
    """log of what a list of log-probs leaves of 1, as far as its dtype can tell."""
    eps = float(jnp.finfo(logp_NC.dtype).eps)
    return log_rest(jax.nn.logsumexp(logp_NC, axis=1), eps)


def shorten(stored: TopK, top_k: int) -> TopK:
    """The first top_k of a stored list; what is cut off joins the tail."""
    if top_k >= stored.ids_NC.shape[1]:
        return stored
    cut_N = jax.nn.logsumexp(stored.logp_NC[:, top_k:], axis=1)
    tail_logp_N = None
    if stored.tail_logp_N is not None:
        tail_logp_N = jnp.logaddexp(stored.tail_logp_N, cut_N)
    return stored._replace(
        ids_NC=stored.ids_NC[:, :top_k], logp_NC=stored.logp_NC[:, :top_k], tail_logp_N=tail_logp_N
    )


def draw(
    seed_N: UInt[Array, " N"], logits_NV: Float[Array, "N V"], draws: int, temperature: float = 1.0
) -> Drawn:
    """`draws` samples with replacement at every position, from that position's own seed: what is
    drawn does not depend on which positions lie beside it.

    Inverting the cumulative sum costs one pass over V; Gumbel noise would cost one per draw.
    """
    cumulative_NV = jnp.cumsum(jnp.exp(logp_all(normalise(logits_NV, temperature))), axis=1)

    def place(seed: Array, cumulative_V: Array) -> Array:
        dart_C = jax.random.uniform(jax.random.key(seed), (draws,), cumulative_V.dtype)
        return _hit(cumulative_V, dart_C * cumulative_V[-1])

    hit_NC = jnp.sort(jax.vmap(place)(seed_N, cumulative_NV), axis=1)
    hit_NC = jnp.minimum(hit_NC, logits_NV.shape[1] - 1).astype(jnp.int32)
    count_NC = jnp.sum(hit_NC[:, :, None] == hit_NC[:, None, :], axis=2)
    first_NC = jnp.pad(hit_NC[:, 1:] != hit_NC[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return Drawn(hit_NC, jnp.where(first_NC, count_NC, 0))


def _hit(cumulative_V: Float[Array, " V"], dart_C: Float[Array, " C"]) -> Int[Array, " C"]:
    """The first token whose cumulative mass passes the dart: one of probability 0 never does."""
    return jnp.searchsorted(cumulative_V, dart_C, side="right")


def contains(listed_NC: Int[Array, "N C"], ids_NM: Int[Array, "N M"]) -> Bool[Array, "N M"]:
    """Which of the ids are on their position's list."""
    return jnp.any(ids_NM[:, :, None] == listed_NC[:, None, :], axis=2)
