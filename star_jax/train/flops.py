"""How many floating point operations a step needs, and which share of the devices' peak that is.

    forward  = 2 · body · tokens  +  4 · N · H · L · pairs  +  2 · D · V · loss_positions
    training = 3 · forward, without what remat computes again
    MFU      = operations of a step / (seconds · devices · peak of one)

A multiplication and an addition are two operations. Counted is what the result needs: the body's
matrices at every token, scores and their sums at every pair of a query and a key that it sees, the
head where there is a loss. Padding, masked pairs, norms and softmaxes are not counted.
"""

from __future__ import annotations

import numpy as np

from star_jax.models.config import Qwen3Config

# Dense bfloat16 with float32 sums, one device, operations a second, from the makers' data sheets.
# The longest key that a device's kind holds, in lower case, is its own.
PEAK = {
    "tpu v4": 275e12,
    "tpu v4 lite": 138e12,
    "tpu v5 lite": 197e12,  # v5e
    "tpu v5e": 197e12,
    "tpu v5": 459e12,  # v5p
    "tpu v6 lite": 918e12,  # v6e
    "tpu v6e": 918e12,
    "a100": 312e12,
    "h100": 989e12,  # SXM
    "h100 pcie": 756e12,
    "h100 nvl": 835e12,
    "h200": 989e12,
    "h200 nvl": 835e12,
    "gh200": 989e12,
    "b200": 2250e12,
    "gb200": 2500e12,
    "l40s": 362e12,
    "rtx 4090": 165e12,
}


def body_params(config: Qwen3Config) -> int:
    """Numbers in the layers' matrices: no embedding, no head, no norms."""
    D, F, H = config.hidden_size, config.intermediate_size, config.head_dim
    query_and_out = 2 * D * config.num_heads * H
    key_and_value = 2 * D * config.num_kv_heads * H
    return config.num_layers * (query_and_out + key_and_value + 3 * D * F)


def head_params(config: Qwen3Config) -> int:
    """Numbers in the output head, tied to the embedding or not."""
    return config.hidden_size * config.vocab_size


def pairs(lengths: np.ndarray | list[int]) -> int:
    """Pairs of a query and a key that it sees, in sequences of these lengths."""
    length = np.asarray(lengths, np.int64)
    return int((length * (length + 1) // 2).sum())


def forward_flops(config: Qwen3Config, tokens: int, loss_positions: int, pairs: int) -> int:
    """Of a forward pass; also of a teacher, with its config. `pairs` are those of one layer."""
    body = 2 * body_params(config) * tokens
    attention = 4 * config.num_heads * config.head_dim * config.num_layers * pairs
    return body + attention + 2 * head_params(config) * loss_positions


def training_flops(config: Qwen3Config, tokens: int, loss_positions: int, pairs: int) -> int:
    """Of a forward and a backward pass, which multiplies each matrix twice."""
    return 3 * forward_flops(config, tokens, loss_positions, pairs)


def peak(device_kind: str) -> float | None:
    """Of one device, as jax.Device.device_kind calls it; None where it is not known."""
    kind = device_kind.lower()
    found = [name for name in PEAK if name in kind]
    return PEAK[max(found, key=len)] if found else None


def mfu(flops_per_step: float, seconds: float, devices: int, peak: float | None) -> float | None:
    """Model FLOPs utilisation; None where the peak is not known."""
    return None if peak is None else flops_per_step / (seconds * devices * peak)
