"""How often at least one of k samples is right, and how often one is: pass@k and mean@k.

    right samples and samples of every prompt → a number for every prompt, or the mean over prompts

Of n samples of a prompt c are right. The unbiased estimate (arXiv 2107.03374, eq. 1) is the share
of the k-subsets of these samples that hold a right one:

    pass@k = 1 − C(n − c, k) / C(n, k) = Σ_{j<k} c / (n − j) · Π_{i<j} (n − c − i) / (n − i)

The sum has no negative term: it is exact but for rounding, where 1 − Π would lose a small pass@k to
cancellation. 1 − (1 − c/n)^k, which one also meets, is biased.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

IntP = np.ndarray  # one count for every prompt
FloatP = np.ndarray

KS = (1, 2, 4, 8, 16, 32, 64)


def pass_at_k(correct_P: ArrayLike, samples_P: ArrayLike, k: int) -> FloatP:
    """pass@k of every prompt. `samples_P` may be one number for all of them."""
    correct, samples = _counts(correct_P, samples_P)
    if k < 1:
        raise ValueError(f"pass@{k} asks for no sample: k has to be at least 1")
    if (few := np.flatnonzero(samples < k)).size:
        p = few[0]
        raise ValueError(
            f"pass@{k} needs {k} samples of every prompt, prompt {p} has {samples[p]}: "
            f"draw more samples, or ask for k up to {samples.min()}"
        )
    none_P, some_P = np.ones(len(correct)), np.zeros(len(correct))
    for j in range(k):  # none_P: that j draws without replacement are all wrong
        some_P += none_P * (correct / (samples - j))
        none_P *= (samples - correct - j) / (samples - j)
    # Once there are too few wrong samples none_P is 0 and the sum is 1, but for rounding.
    return np.where(samples - correct < k, 1.0, np.minimum(some_P, 1.0))


def mean_at_k(correct_P: ArrayLike, samples_P: ArrayLike) -> FloatP:
    """The share of right samples of every prompt: mean@k for k samples, and pass@1 as well."""
    correct, samples = _counts(correct_P, samples_P)
    if (none := np.flatnonzero(samples == 0)).size:
        raise ValueError(f"prompt {none[0]} has no sample: draw one, or leave the prompt out")
    return correct / samples


def curve(
    correct_P: ArrayLike, samples_P: ArrayLike, ks: Sequence[int] | None = None
) -> dict[int, float]:
    """The mean pass@k over prompts, for each k; by default the KS that there are samples for."""
    correct, samples = _counts(correct_P, samples_P)
    if len(correct) == 0:
        raise ValueError("there is no prompt to average over: sample at least one")
    if ks is None:
        ks = [k for k in KS if k <= samples.min()]
    return {k: float(pass_at_k(correct, samples, k).mean()) for k in ks}


def _counts(correct_P: ArrayLike, samples_P: ArrayLike) -> tuple[IntP, IntP]:
    correct, samples = np.asarray(correct_P), np.asarray(samples_P)
    for name, counts in (("correct_P", correct), ("samples_P", samples)):
        if counts.size and counts.dtype.kind not in "iub":
            raise ValueError(f"{name} is of {counts.dtype}: give whole numbers, counts of samples")
    if correct.ndim != 1 or samples.shape not in ((), correct.shape):
        raise ValueError(
            f"correct_P has shape {correct.shape}, samples_P {samples.shape}: "
            "give one count for every prompt"
        )
    correct = correct.astype(np.int64)
    samples = np.broadcast_to(samples, correct.shape).astype(np.int64)
    if (bad := np.flatnonzero((correct < 0) | (correct > samples))).size:
        p = bad[0]
        raise ValueError(
            f"prompt {p} has {correct[p]} right of {samples[p]} samples: "
            "count from 0 to the number of samples"
        )
    return correct, samples
