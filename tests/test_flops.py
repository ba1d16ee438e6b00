"""Operations of a step: by hand, against XLA's own count, and as a share of a device's peak."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import models
from star_jax.models import attention
from star_jax.models import config as configs
from star_jax.train import flops
from tests import tiny

TINY = configs.from_hf(tiny.BASE)
QWEN3_06B = configs.from_hf(
    tiny.BASE
    | {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    }
)


def test_parameters_of_qwen3() -> None:
    # A layer: q and o 1024 · 2048, k and v 1024 · 1024, three of 1024 · 3072.
    layer = 2 * 2_097_152 + 2 * 1_048_576 + 3 * 3_145_728
    assert flops.body_params(QWEN3_06B) == 28 * layer == 440_401_920
    assert flops.head_params(QWEN3_06B) == 155_582_464
    # As the table of the published sizes has it: 0.44 billion without the embedding.
    assert round(flops.body_params(QWEN3_06B) / 1e9, 2) == 0.44


def test_a_tiny_model_by_hand() -> None:
    # D 64, F 96, N 8, K 4, H 16, L 2, V 128; one sequence of 3 tokens, one of 2, losses at 4.
    # q 64·128, k 64·64, v 64·64, o 128·64, gate, up, down 64·96 each: 43,008 a layer.
    assert flops.body_params(TINY) == 2 * 43_008
    seen = flops.pairs([3, 2])
    assert seen == (1 + 2 + 3) + (1 + 2)
    # scores: 8 heads · 9 pairs · 16 multiplications and additions; weighted sums: as many.
    attention = 2 * (8 * 9 * 16 * 2 + 8 * 9 * 16 * 2)
    wanted = 2 * 86_016 * 5 + attention + 2 * 64 * 128 * 4
    assert flops.forward_flops(TINY, 5, 4, seen) == wanted
    assert flops.training_flops(TINY, 5, 4, seen) == 3 * wanted


def test_pairs_of_long_sequences_do_not_overflow() -> None:
    assert flops.pairs(np.full(1000, 80_000, np.int32)) == 1000 * 80_000 * 80_001 // 2
    assert flops.pairs([]) == 0


def counted(config: configs.Qwen3Config, B: int, T: int) -> float:
    """XLA's operations of a forward pass with logits everywhere."""
    params = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    tokens_BT = jax.ShapeDtypeStruct((B, T), jnp.int32)
    lengths_B = jax.ShapeDtypeStruct((B,), jnp.int32)

    def forward(params: Any, tokens_BT: Any, lengths_B: Any) -> Any:
        places = attention.padded(lengths_B, T)
        return models.project(params, config, models.hidden(params, config, tokens_BT, places)[0])

    found = jax.jit(forward).lower(params, tokens_BT, lengths_B).compile().cost_analysis()
    return found["flops"]


def test_xla_counts_the_same() -> None:
    """One layer, because XLA counts a loop's body once. It computes all T·T pairs, and norms,
    softmaxes and rotations as well, which were 0.25 % at these sizes; attention is 2.4 %, and each
    other part is more, so none could be missing or counted twice."""
    config = dataclasses.replace(
        TINY, num_layers=1, hidden_size=512, intermediate_size=1536, head_dim=64, vocab_size=4096
    )
    B, T = 2, 128
    ours = flops.forward_flops(config, B * T, B * T, B * T * T)
    assert ours < counted(config, B, T) < 1.005 * ours


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("cpu", None),
        ("NVIDIA GeForce RTX 3060", None),
    ],
)
def test_peaks(kind: str, wanted: float | None) -> None:
    assert flops.peak(kind) == wanted


def test_utilisation() -> None:
    assert flops.mfu(4e14, 0.5, 4, 1e15) == 0.2
    assert flops.mfu(4e14, 0.5, 4, None) is None
    assert flops.peak(jax.devices("cpu")[0].device_kind) is None
