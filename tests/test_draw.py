"""What is drawn, against a plain sorted transcription of Hugging Face's warpers and their order."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.sampler import draw
from star_jax.sampler.draw import Knobs

DRAWS = 20_000
PROBABILITY_V = np.array([0.30, 0.22, 0.15, 0.10, 0.08, 0.06, 0.04, 0.03, 0.015, 0.005])
LOGITS_V = np.log(PROBABILITY_V) + 3.0
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "hot": {"temperature": 2.5},
    "top-k": {"top_k": 3},
    "top-p": {"top_p": 0.7},
    "min-p": {"min_p": 0.25},
    "temperature before top-p": {"temperature": 2.0, "top_p": 0.7},
    "temperature before min-p": {"temperature": 0.5, "min_p": 0.1},
    "top-k before top-p": {"top_k": 4, "top_p": 0.75},
    "all": {"temperature": 1.3, "top_k": 7, "top_p": 0.9, "min_p": 0.12},
}


def warped(logits_V: np.ndarray, **how: Any) -> np.ndarray:
    """Probabilities after temperature, top-k, top-p and min-p, one after the other, by sorting."""
    how = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | how
    score_V = logits_V / how["temperature"]
    if how["top_k"]:
        score_V = np.where(
            score_V < np.sort(score_V)[-min(how["top_k"], len(score_V))], -np.inf, score_V
        )
    if how["top_p"] < 1:
        order = np.argsort(score_V)  # rising
        mass = np.cumsum(softmax(score_V)[order])
        removed = mass <= 1 - how["top_p"]
        removed[-1] = False
        score_V[order[removed]] = -np.inf
    p_V = softmax(score_V)
    score_V = np.where(p_V < how["min_p"] * p_V.max(), -np.inf, score_V)
    return softmax(score_V)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def knobs(B: int, **how: Any) -> Knobs:
    how = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | how
    return Knobs(
        jnp.full(B, how["temperature"], jnp.float32),
        jnp.full(B, how["top_k"], jnp.int32),
        jnp.full(B, how["top_p"], jnp.float32),
        jnp.full(B, how["min_p"], jnp.float32),
    )


def keys(B: int, seed: int = 0) -> jax.Array:
    bits = np.random.default_rng(seed).integers(0, 2**32, (B, 2), dtype=np.uint32)
    return jnp.asarray(bits)


@functools.partial(jax.jit, static_argnames=("top",))
def drawn(
    logits_BV: Any, how: Knobs, key_B2: Any, count_B: Any, allowed_BW: Any = None, top: int = 0
) -> Any:
    return draw.draw(logits_BV, how, key_B2, count_B, allowed_BW, top)


def chi_square(count_V: np.ndarray, p_V: np.ndarray) -> float:
    expected_V = p_V[p_V > 0] * count_V.sum()
    return float(np.sum((count_V[p_V > 0] - expected_V) ** 2 / expected_V))


# The 99.9 % points of chi-square with 0 to 9 degrees of freedom.
LIMIT = [0.0, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32, 26.12, 27.88]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ways", ["rows", "positions"])
def test_frequencies_are_those_of_the_warpers(name: str, ways: str) -> None:
    """By many rows at one position, and by one row at many positions."""
    how, p_V = CASES[name], warped(LOGITS_V.copy(), **CASES[name])
    logits_BV = jnp.asarray(np.tile(LOGITS_V, (DRAWS, 1)), jnp.float32)
    if ways == "rows":
        key_B2, count_B = keys(DRAWS), jnp.zeros(DRAWS, jnp.int32)
    else:
        key_B2, count_B = jnp.tile(keys(1), (DRAWS, 1)), jnp.arange(DRAWS, dtype=jnp.int32)
    found = drawn(logits_BV, knobs(DRAWS, **how), key_B2, count_B)
    count_V = np.bincount(np.asarray(found.token_B), minlength=len(p_V))
    assert count_V[p_V == 0].sum() == 0
    assert chi_square(count_V, p_V) < LIMIT[np.count_nonzero(p_V) - 1]
    np.testing.assert_allclose(np.exp(found.drawn_B), p_V[found.token_B], rtol=2e-5)
    np.testing.assert_allclose(np.exp(found.raw_B), PROBABILITY_V[found.token_B], rtol=2e-5)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_equals_sorting(seed: int) -> None:
    """Random logits and knobs, a row each: the support is that of the sorted transcription."""
    rng = np.random.default_rng(seed)
    B, V = 200, 97
    logits_BV = (rng.standard_normal((B, V)) * rng.uniform(0.1, 6, (B, 1))).astype(np.float32)
    how = {
        "temperature": rng.uniform(0.3, 3, B),
        "top_k": rng.integers(0, 2 * V, B),
        "top_p": np.where(rng.random(B) < 0.3, 1, rng.uniform(0.02, 1, B)),
        "min_p": np.where(rng.random(B) < 0.5, 0, rng.uniform(0, 0.5, B)),
    }
    p_BV = np.exp((logits_BV - logits_BV.max(1, keepdims=True)) / how["temperature"][:, None])
    packed = Knobs(
        jnp.asarray(how["temperature"], jnp.float32),
        jnp.asarray(how["top_k"], jnp.int32),
        jnp.asarray(how["top_p"], jnp.float32),
        jnp.asarray(how["min_p"], jnp.float32),
    )
    least_B = np.asarray(jax.jit(draw.threshold)(jnp.asarray(p_BV, jnp.float32), packed))
    for row in range(B):
        one = {name: values[row] for name, values in how.items()}
        p_V = warped(logits_BV[row].astype(np.float64), **one)
        kept = p_BV[row].astype(np.float32) >= least_B[row]
        # A token whose mass decides lies on the edge to within rounding.
        assert np.abs(kept.astype(int) - (p_V > 0)).sum() <= 1
        assert abs(p_BV[row][kept].sum() - p_BV[row][p_V > 0].sum()) < 2e-2 * p_BV[row].sum()
        if one["top_p"] == 1:
            assert (kept == (p_V > 0)).all()


def test_ties_with_the_last_one_kept_are_kept() -> None:
    p_BV = jnp.asarray([[1.0, 0.5, 0.5, 0.5, 0.1]], jnp.float32)
    assert draw.threshold(p_BV, knobs(1, top_k=2))[0] == 0.5


def test_greedy_takes_the_first_of_the_largest_and_costs_nothing() -> None:
    logits_BV = jnp.asarray([[0.0, 2.0, 2.0, 1.0], [5.0, 1.0, 5.0, 5.0]], jnp.float32)
    found = drawn(logits_BV, knobs(2, temperature=0.0, top_k=1), keys(2), jnp.zeros(2, jnp.int32))
    assert found.token_B.tolist() == [1, 0]
    assert found.drawn_B.tolist() == [0, 0]
    np.testing.assert_allclose(
        found.raw_B, jax.nn.log_softmax(logits_BV)[[0, 1], [1, 0]], atol=1e-6
    )


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    logits_BV = jnp.asarray(np.tile(LOGITS_V, (400, 1)), jnp.float32)
    how = knobs(400)._replace(temperature_B=jnp.asarray([0.0, 1.0] * 200, jnp.float32))
    found = drawn(logits_BV, how, keys(400), jnp.zeros(400, jnp.int32))
    assert set(found.token_B[::2].tolist()) == {0}
    assert len(set(found.token_B[1::2].tolist())) > 5


def test_a_mask_is_drawn_from_and_not_part_of_the_raw_log_prob() -> None:
    allowed_BW = jnp.asarray(np.full((DRAWS, 1), 0b10_1100_0100, np.uint32))
    logits_BV = jnp.asarray(np.tile(LOGITS_V, (DRAWS, 1)), jnp.float32)
    found = drawn(logits_BV, knobs(DRAWS), keys(DRAWS), jnp.zeros(DRAWS, jnp.int32), allowed_BW)
    is_open_V = np.array([0, 0, 1, 0, 0, 0, 1, 1, 0, 1], bool)
    p_V = np.where(is_open_V, PROBABILITY_V, 0) / PROBABILITY_V[is_open_V].sum()
    count_V = np.bincount(np.asarray(found.token_B), minlength=len(p_V))
    assert count_V[~is_open_V].sum() == 0
    assert chi_square(count_V, p_V) < LIMIT[3]
    np.testing.assert_allclose(np.exp(found.drawn_B), p_V[found.token_B], rtol=2e-5)
    np.testing.assert_allclose(np.exp(found.raw_B), PROBABILITY_V[found.token_B], rtol=2e-5)


def test_the_likeliest_come_beside_it() -> None:
    logits_BV = jnp.asarray(LOGITS_V[None], jnp.float32)
    found = drawn(logits_BV, knobs(1, top_k=1), keys(1), jnp.zeros(1, jnp.int32), top=3)
    assert found.top_id_BA.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(np.exp(found.top_raw_BA[0]), PROBABILITY_V[:3], rtol=1e-5)


def test_the_noise_is_uniform_and_its_neighbours_are_strangers() -> None:
    uniform_BV = np.asarray(draw.uniform(keys(64), 4096), np.float64)
    assert 0 < uniform_BV.min() <= uniform_BV.max() <= 1
    count = np.histogram(uniform_BV, bins=256, range=(0, 1))[0]
    assert chi_square(count, np.full(256, 1 / 256)) < 330.5  # 99.9 % of 255 degrees of freedom
    centred_BV = uniform_BV - 0.5
    for shift in (1, 2, 32, 1024):
        beside = np.mean(centred_BV[:, shift:] * centred_BV[:, :-shift]) * 12
        assert abs(beside) < 4 / np.sqrt(centred_BV.size)
    between_rows = np.mean(centred_BV[1:] * centred_BV[:-1]) * 12
    assert abs(between_rows) < 4 / np.sqrt(centred_BV.size)
