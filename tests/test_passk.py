"""pass@k is the share of k-subsets with a right sample: counted, in fractions, and estimated."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from star_jax.evals.passk import KS, curve, mean_at_k, pass_at_k


def exact(correct: int, samples: int, k: int) -> Fraction:
    return 1 - Fraction(comb(samples - correct, k), comb(samples, k))


def test_it_is_the_share_of_subsets_that_hold_a_right_one() -> None:
    for samples in range(1, 8):
        for correct in range(samples + 1):
            rows = [n < correct for n in range(samples)]
            for k in range(1, samples + 1):
                subsets = [any(subset) for subset in itertools.combinations(rows, k)]
                (found,) = pass_at_k([correct], samples, k)
                assert found == pytest.approx(sum(subsets) / len(subsets), rel=1e-15)


@pytest.mark.parametrize("k", range(1, 65))
def test_it_is_exact_for_every_k_and_any_size(k: int) -> None:
    samples = np.array([64, 65, 100, 128, 1000, 10**6, 10**6, 64, 64, 200])
    correct = np.array([1, 1, 3, 64, 999, 1, 10**6 - 1, 0, 64, 137])
    found = pass_at_k(correct, samples, k)
    for value, c, n in zip(found, correct, samples, strict=True):
        assert value == pytest.approx(float(exact(int(c), int(n), k)), rel=2e-14, abs=0)
        assert 0 <= value <= 1
        assert value == 1 or n - c >= k
    assert found[7] == 0


def test_small_chances_are_not_lost() -> None:
    (found,) = pass_at_k([1], 10**15, 64)
    assert found == pytest.approx(64e-15, rel=1e-12)  # 1 − Π would be off by a hundredth


def test_where_there_are_too_few_wrong_samples_it_is_one() -> None:
    for k in range(1, 65):
        samples, wrong = (grid.ravel() for grid in np.meshgrid(np.arange(k, 65), np.arange(k)))
        assert (pass_at_k(samples - wrong, samples, k) == 1).all()


def test_pass_at_1_is_the_mean() -> None:
    correct, samples = np.array([0, 1, 5, 7]), np.array([3, 3, 8, 7])
    assert (pass_at_k(correct, samples, 1) == mean_at_k(correct, samples)).all()
    assert mean_at_k([1, 2], 4).tolist() == [0.25, 0.5]


def test_it_grows_with_k_and_with_right_samples() -> None:
    by_k = np.stack([pass_at_k(np.arange(65), 64, k) for k in range(1, 65)])
    rounding = 2**-50
    assert (np.diff(by_k, axis=0) >= -rounding).all()
    assert (np.diff(by_k, axis=1) >= -rounding).all()
    assert by_k.max() == 1


def test_it_is_unbiased() -> None:
    # The mean over all outcomes of 6 samples, each right with probability 0.3, is 1 − 0.7³.
    chances = [comb(6, c) * 0.3**c * 0.7 ** (6 - c) for c in range(7)]
    assert np.dot(chances, pass_at_k(np.arange(7), 6, 3)) == pytest.approx(1 - 0.7**3, rel=1e-14)


def test_the_curve_is_the_mean_over_prompts() -> None:
    found = curve([0, 2, 4], [4, 4, 8])
    assert list(found) == [1, 2, 4]  # no k that a prompt has too few samples for
    assert found[2] == pytest.approx((0 + 5 / 6 + (1 - 6 / 28)) / 3)
    assert list(curve([3], 3, ks=[3, 1])) == [3, 1]
    assert list(curve([1] * 5, 64)) == list(KS)
    assert pass_at_k([], 4, 2).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([1, 2], [4, 3], 4), "pass@4 needs 4 samples of every prompt, prompt 1 has 3: draw more"),
        (([1], 4, 0), "pass@0 asks for no sample: k has to be at least 1"),
        (([5], 4, 2), "prompt 0 has 5 right of 4 samples: count from 0"),
        (([0, -1], 4, 2), "prompt 1 has -1 right of 4 samples: count from 0"),
        (([0.5], 4, 2), "correct_P is of float64: give whole numbers"),
        (([1], 4.0, 2), "samples_P is of float64: give whole numbers"),
        (([1, 1], [4, 4, 4], 2), r"correct_P has shape \(2,\), samples_P \(3,\): give one count"),
        (([[1]], 4, 2), r"correct_P has shape \(1, 1\), samples_P \(\): give one count"),
    ],
)
def test_what_cannot_be_counted(arguments: tuple, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        pass_at_k(*arguments)


def test_what_cannot_be_averaged() -> None:
    with pytest.raises(ValueError, match="prompt 1 has no sample: draw one, or leave the prompt"):
        mean_at_k([1, 0], [1, 0])
    with pytest.raises(ValueError, match="there is no prompt to average over: sample at least one"):
        curve([], 4)
