"""The real model through its hidden states and the vocabulary core, beside its dense head."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import models
from star_jax.models import attention, layout, qwen3, sharding
from star_jax.train import vocab
from tests.test_vocab import PER_ROW, B, T, jit, relative


def config_of(tied: bool) -> models.Qwen3Config:
    return models.Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=4,
        num_kv_heads=4,
        head_dim=8,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        max_position_embeddings=64,
    )


@functools.cache
def batch(packed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, segments and a mask with a loss at up to PER_ROW positions of each row."""
    rng = np.random.default_rng(packed)
    tokens_BT = rng.integers(0, 512, (B, T), np.int32)
    segment_BT = np.zeros((B, T), np.int32)
    for row, end in zip(segment_BT, [48, 30, 17, 40, 9, 25, 48, 2], strict=True):
        row[:end] = 1
        if packed:
            row[end // 3 : end] = 2
            row[end // 2 : end] = 3
    # The last token of a segment has no next one to learn.
    continues_BT = np.pad(segment_BT[:, 1:] == segment_BT[:, :-1], ((0, 0), (0, 1)))
    mask_BT = continues_BT & (segment_BT > 0) & (rng.random((B, T)) < 0.4)
    assert 0 < mask_BT.sum(axis=1).max() <= PER_ROW
    return tokens_BT, segment_BT, mask_BT


@functools.cache
def params_of(tied: bool) -> Any:
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype),
        layout.abstract(config_of(tied), jnp.float32),
    )


def step(tied: bool, chunk: int | None) -> Any:
    """Mean cross-entropy of the next tokens and its gradient; dense where there is no chunk."""
    config = config_of(tied)

    def loss(params: Any, tokens_BT: Any, segment_BT: Any, mask_BT: Any) -> jax.Array:
        hidden_BTD, _ = qwen3.hidden(params, config, tokens_BT, attention.packed(segment_BT))
        next_BT = jnp.roll(tokens_BT, -1, axis=1)
        if chunk is None:
            logp_BTV = jax.nn.log_softmax(qwen3.project(params, config, hidden_BTD))
            nll_BT = -jnp.take_along_axis(logp_BTV, next_BT[:, :, None], axis=2)[:, :, 0]
            return jnp.where(mask_BT, nll_BT, 0).sum() / mask_BT.sum()
        positions = vocab.locate(mask_BT, PER_ROW)
        hidden_ND, next_N = (vocab.gather(x, positions) for x in (hidden_BTD, next_BT))
        head_VD = params["embed"] if tied else params["head"]
        total, _ = vocab.reduce(
            vocab.cross_entropy, hidden_ND, head_VD, next_N, positions.weight_N, chunk=chunk
        )
        return total / positions.weight_N.sum()

    return jax.value_and_grad(loss)


@functools.cache
def compiled(tied: bool, chunk: int | None, mesh_shape: tuple[int, int, int] | None) -> Any:
    """The program, and the parameters it runs on."""
    params, arrays = params_of(tied), batch(False)
    if mesh_shape is None:
        return jit(step(tied, chunk)).lower(params, *arrays).compile(), params
    mesh = models.make_mesh(*mesh_shape)
    at, rows = sharding.param_shardings(config_of(tied), mesh), sharding.batch_sharding(mesh)
    params = jax.device_put(params, at)
    with jax.set_mesh(mesh):
        run = jit(step(tied, chunk), in_shardings=(at, rows, rows, rows))
        return run.lower(params, *arrays).compile(), params


CASES: list[tuple[bool, int, tuple[int, int, int] | None]] = [
    (True, 7, None),
    (False, 1, None),
    (False, 7, (8, 1, 1)),
    (True, 1, (1, 8, 1)),
    (False, 256, (2, 2, 2)),
    (True, 7, (1, 2, 4)),
]


@pytest.mark.parametrize(("tied", "chunk", "mesh_shape"), CASES, ids=str)
def test_the_model_learns_the_same_as_with_a_dense_head(
    tied: bool, chunk: int, mesh_shape: tuple[int, int, int] | None
) -> None:
    dense, whole = compiled(tied, None, None)
    ours, params = compiled(tied, chunk, mesh_shape)
    for packed in (False, True):
        wanted_loss, wanted = dense(whole, *batch(packed))
        loss, gradient = jax.block_until_ready(ours(params, *placed(packed, mesh_shape)))
        assert relative(loss, wanted_loss) <= 1e-5
        for row in layout.rows(config_of(tied)):
            assert relative(layout.leaf(gradient, row), layout.leaf(wanted, row)) <= 1e-5, row.path


def placed(packed: bool, mesh_shape: tuple[int, int, int] | None) -> Any:
    if mesh_shape is None:
        return batch(packed)
    return jax.device_put(batch(packed), sharding.batch_sharding(models.make_mesh(*mesh_shape)))


def largest_array(program: Any) -> int:
    """Elements of the largest array that a compiled program names, fused or not."""
    shapes = re.findall(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]+)\]", program.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


# 256 positions are a chunk here, and their logits an array.
SMALL = [case for case in CASES if case[1] < 256]


@pytest.mark.parametrize(("tied", "chunk", "mesh_shape"), SMALL, ids=str)
def test_no_array_of_logits_is_in_the_compiled_step(
    tied: bool, chunk: int, mesh_shape: tuple[int, int, int] | None
) -> None:
    """On a mesh not even a device's share of one."""
    program, _ = compiled(tied, chunk, mesh_shape)
    assert largest_array(program) < B * T * 512 // (1 if mesh_shape is None else 8)


def test_logits_are_found_where_the_head_is_dense() -> None:
    assert largest_array(compiled(True, None, None)[0]) >= B * T * 512
