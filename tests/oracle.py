"""Qwen3 once more, in float64 NumPy: its equations over a folder's own tensors.

It shares no code with the package: it reads with the safetensors library, keeps Hugging Face's
names and layout, repeats key heads, and attends token by token.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    tensors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= safetensors.numpy.load_file(path)
    return json.loads((folder / "config.json").read_text()), tensors


def norm(x: np.ndarray, scale: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """[T, heads, H], token t turned by t; pairs are (i, i + H/2)."""
    T, _, H = x.shape
    pair = np.arange(H // 2)
    angle = np.arange(T)[:, None, None] / theta ** (2 * pair / H)
    a, b = x[..., : H // 2], x[..., H // 2 :]
    c, s = np.cos(angle), np.sin(angle)
    return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)


def logits(folder: Path, ids: list[int]) -> np.ndarray:
    """One row without padding → [T, V]."""
    raw, stored = read(folder)
    w = {name: tensor.astype(np.float64) for name, tensor in stored.items()}
    theta = raw["rope_parameters"]["rope_theta"] if "rope_parameters" in raw else raw["rope_theta"]
    N, K = raw["num_attention_heads"], raw["num_key_value_heads"]
    H, eps, T = raw["head_dim"], raw["rms_norm_eps"], len(ids)
    x = w["model.embed_tokens.weight"][ids]
    for layer in range(raw["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        h = norm(x, w[at + "input_layernorm.weight"], eps)
        q, k, v = (
            (h @ w[at + f"self_attn.{part}_proj.weight"].T).reshape(T, heads, H)
            for part, heads in (("q", N), ("k", K), ("v", K))
        )
        q = rotate(norm(q, w[at + "self_attn.q_norm.weight"], eps), theta)
        k = rotate(norm(k, w[at + "self_attn.k_norm.weight"], eps), theta)
        k, v = (np.repeat(part, N // K, axis=1) for part in (k, v))
        out = np.zeros((T, N, H))
        for t in range(T):
            score = np.einsum("nh,snh->ns", q[t], k[: t + 1]) / np.sqrt(H)
            weight = np.exp(score - score.max(-1, keepdims=True))
            weight /= weight.sum(-1, keepdims=True)
            out[t] = np.einsum("ns,snh->nh", weight, v[: t + 1])
        x = x + out.reshape(T, N * H) @ w[at + "self_attn.o_proj.weight"].T
        h = norm(x, w[at + "post_attention_layernorm.weight"], eps)
        gate, up = (h @ w[at + f"mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj.weight"].T
    x = norm(x, w["model.norm.weight"], eps)
    return x @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T
