"""A teacher's lists: those of a dense teacher, however rows are packed and split."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import batch, models
from star_jax.batch import Example
from star_jax.data.cache import scoring
from star_jax.models import layout, sharding

CONFIG = models.Qwen3Config(
    vocab_size=272,
    hidden_size=32,
    intermediate_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    max_position_embeddings=512,
)
TOP_K = 12
LENGTHS = [5, 60, 33, 2, 100, 17, 64, 40, 9]


@functools.cache
def model(mesh: tuple[int, int, int] | None = None) -> models.Model:
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype),
        layout.abstract(CONFIG, jnp.float32),
    )
    if mesh is not None:
        placed = sharding.param_shardings(CONFIG, models.make_mesh(*mesh))
        params = jax.device_put(params, placed)
    return models.Model(CONFIG, params)


@functools.cache
def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [Example(rng.integers(0, 272, n).astype(np.int32), 1 + n // 3, f"r{n}") for n in LENGTHS]


@functools.cache
def dense() -> tuple[np.ndarray, np.ndarray]:
    """The log-probs of all tokens at every target position, and the targets."""
    padded = batch.pad(examples(), 128)
    lengths_B = np.array(LENGTHS)
    logits = models.logits(model().params, CONFIG, padded.tokens_BT, lengths_B)
    logp_BTV = np.asarray(jax.nn.log_softmax(logits))
    is_target = padded.weight_BT != 0
    return logp_BTV[is_target], padded.target_BT[is_target]


def check(made: scoring.Scores) -> None:
    """Against the dense teacher; lists may differ where its own log-probs are closer than float32
    tells."""
    logp_PV, label_P = dense()
    at = np.arange(len(label_P))
    np.testing.assert_allclose(
        made.logp_PC, -np.sort(-logp_PV, axis=1)[:, :TOP_K], rtol=0, atol=2e-5
    )
    own_PC = np.take_along_axis(logp_PV, made.ids_PC, axis=1)
    np.testing.assert_allclose(made.logp_PC, own_PC, rtol=0, atol=2e-5)
    assert all(len(set(row)) == TOP_K for row in made.ids_PC.tolist())
    np.testing.assert_allclose(made.label_logp_P, logp_PV[at, label_P], rtol=0, atol=2e-5)
    rest_PV = np.exp(logp_PV.astype(np.float64))
    np.put_along_axis(rest_PV, made.ids_PC, 0, axis=1)
    np.testing.assert_allclose(made.tail_logp_P, np.log(rest_PV.sum(axis=1)), rtol=0, atol=2e-5)


PACKED = [
    pytest.param(128, 128, id="rows of 128"),
    pytest.param(256, 256, id="one row", marks=pytest.mark.slow),
    pytest.param(64, 128, id="three lengths", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("smallest", "tokens"), PACKED)
def test_lists_are_those_of_a_dense_teacher_however_rows_are_packed(
    smallest: int, tokens: int
) -> None:
    heard: list[int] = []
    made = scoring.score_examples(
        model(),
        examples(),
        top_k=TOP_K,
        smallest=smallest,
        tokens=tokens,
        chunk=7,
        on_batch=heard.append,
    )
    check(made)
    assert sum(heard) == sum(LENGTHS)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 4, 2)], ids=str)
def test_lists_are_the_same_on_a_mesh(mesh: tuple[int, int, int]) -> None:
    placed = model(mesh)
    check(scoring.score_examples(placed, examples(), top_k=TOP_K, smallest=128, tokens=128))


@pytest.mark.slow
def test_the_whole_vocabulary_leaves_no_tail() -> None:
    made = scoring.score_examples(model(), examples()[:3], top_k=272, smallest=128, tokens=128)
    assert np.isneginf(made.tail_logp_P).all()
    np.testing.assert_allclose(np.exp(made.logp_PC).sum(axis=1), 1, rtol=1e-5)


def logits_at_once(chunk: int) -> int:
    """Positions of the largest array of the compiled program that has a vocabulary."""
    one = next(scoring.batches(examples(), 1, 512, 128))
    arrays = (one.tokens_BT, one.segment_BT, one.target_BT, one.weight_BT)
    options: dict[str, Any] = {"config": CONFIG, "top_k": TOP_K, "chunk": chunk}
    program = scoring.score.lower(model().params, *arrays, **options).compile()
    shapes = re.findall(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]+)\]", program.as_text())
    sizes = [tuple(map(int, shape.split(","))) for shape in shapes]
    return max(math.prod(size) // 272 for size in sizes if 272 in size)


@pytest.mark.slow
def test_no_array_of_logits_is_in_the_compiled_teacher() -> None:
    assert logits_at_once(chunk=8) == 32  # the head, 272 × 32
    assert logits_at_once(chunk=512) == 512  # of all four rows of 128, had they been asked for


def test_batches_have_few_shapes_and_every_example_once() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(2, 700, 300)
    given = [Example(np.arange(n), 1, str(i)) for i, n in enumerate(lengths)]
    made = list(scoring.batches(given, groups=4, tokens=1024, smallest=256))
    lengths_of = {one.tokens_BT.shape for one in made}
    assert lengths_of == {(16, 256), (8, 384), (8, 512), (4, 768)}
    found = []
    for one in made:
        for _, index, place in batch.segments(one):
            found.append((index, place.stop - place.start))
            assert one.tokens_BT.shape[1] == batch.bucket(lengths[index], 256)
    assert sorted(found) == list(enumerate(lengths))
