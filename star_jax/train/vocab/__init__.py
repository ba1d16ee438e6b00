"""The vocabulary core: hidden states at loss positions → functions of one position's logits.

    spots = locate(mask_BT, per_row)             where there is a loss
    gather(hidden_BTD, spots)                    what stands there, [N, D]
    reduce(fn, hidden_ND, head_VD, data, ...)    Σ weight · fn(logits), for a loss and its metrics
    per_token(fn, ...)                           fn(logits) position by position
    statistics(...)                              log-probs, entropy, top-k, tail mass; no gradient

logits_CV = hidden_CD · head_VD exist in float32 for one chunk of C positions at a time, in either
pass. What is kept between chunks is a few numbers a position and, for the gradient, float32 sums:
nothing grows with positions × vocabulary.

Dims: B rows, T tokens, N loss positions of the batch, C of a chunk, D width, V vocabulary, K of a
top-k, R targets of a row, G groups, P positions of a group.

How it is split. Where a mesh is set, the N positions are G groups laid end to end, one for each
device of the axes data × fsdp, and every chunk takes the same number from each. A device projects
positions of its own rows only, against its own part of the vocabulary (axis tensor). The head is
gathered over fsdp once, before the first chunk, and its gradient is summed over the groups once,
after the last. A count that G does not divide is computed on every device, as everywhere in the
model: more work, the same result.
"""

from star_jax.train.vocab.objective import Objective, per_token, reduce, statistics
from star_jax.train.vocab.positions import (
    Positions,
    check,
    gather,
    gather_targets,
    locate,
    scatter,
)
from star_jax.train.vocab.softmax import (
    Statistics,
    cross_entropy,
    largest,
    log_prob,
    measure,
    project,
    whole_width,
)

__all__ = [
    "Objective",
    "Positions",
    "Statistics",
    "check",
    "cross_entropy",
    "gather",
    "gather_targets",
    "largest",
    "locate",
    "log_prob",
    "measure",
    "per_token",
    "project",
    "reduce",
    "scatter",
    "statistics",
    "whole_width",
]
