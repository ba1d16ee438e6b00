"""Random tiny Qwen3 folders, written with the safetensors library alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors.numpy
import tokenizers
from tokenizers import decoders, pre_tokenizers

from star_jax import models
from star_jax.models import layout, sharding

BASE = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "eos_token_id": 5,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 8,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 128,
}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def shapes(raw: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Written out by hand, on purpose: the package's own table is what these tests check."""
    V, D, F = raw["vocab_size"], raw["hidden_size"], raw["intermediate_size"]
    N, K, H = raw["num_attention_heads"], raw["num_key_value_heads"], raw["head_dim"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (V, D)}
    for layer in range(raw["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        found[at + "input_layernorm.weight"] = (D,)
        found[at + "self_attn.q_proj.weight"] = (N * H, D)
        found[at + "self_attn.k_proj.weight"] = (K * H, D)
        found[at + "self_attn.v_proj.weight"] = (K * H, D)
        found[at + "self_attn.o_proj.weight"] = (D, N * H)
        found[at + "self_attn.q_norm.weight"] = (H,)
        found[at + "self_attn.k_norm.weight"] = (H,)
        found[at + "post_attention_layernorm.weight"] = (D,)
        found[at + "mlp.gate_proj.weight"] = (F, D)
        found[at + "mlp.up_proj.weight"] = (F, D)
        found[at + "mlp.down_proj.weight"] = (D, F)
    found["model.norm.weight"] = (D,)
    if not raw["tie_word_embeddings"]:
        found["lm_head.weight"] = (V, D)
    return found


def tensors(raw: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Matrices that make logits of a few units, norms around one, all of them different."""
    rng = np.random.default_rng(seed)
    dtype = DTYPES[raw.get("torch_dtype") or raw["dtype"]]
    made = {}
    for name, shape in shapes(raw).items():
        if len(shape) == 1:
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = rng.normal(0, 1 / np.sqrt(shape[-1]), shape)
        made[name] = values.astype(dtype)
    return made


def write(folder: Path, *, seed: int = 0, shards: int = 1, **changes: Any) -> Path:
    """A folder with BASE and `changes` (a value of ... drops the key) in its config.json."""
    raw = {key: value for key, value in {**BASE, **changes}.items() if value is not ...}
    return write_tensors(folder, raw, tensors(raw, seed), shards)


def write_tensors(
    folder: Path, raw: dict[str, Any], made: dict[str, np.ndarray], shards: int = 1
) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(raw, indent=2))
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 5, "pad_token_id": 0})
    )
    if shards == 1:
        safetensors.numpy.save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    names = sorted(made)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        held = {name: made[name] for name in names[number::shards]}
        safetensors.numpy.save_file(held, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    size = sum(tensor.nbytes for tensor in made.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def params(config: models.Qwen3Config, seed: int = 0, mesh: Any = None) -> Any:
    """Random parameters from NumPy: `models.init` takes seconds to compile, whatever the size."""
    rng = np.random.default_rng(seed)

    def make(row: layout.Row) -> np.ndarray:
        shape = row.shape(config)
        made = np.ones(shape) if row.path[-1] == "scale" else rng.normal(0, 0.02, shape)
        return made.astype(np.float32)

    made = layout.tree(config, make)
    placed = None if mesh is None else sharding.param_shardings(config, mesh)
    return jax.device_put(made, placed)


def rows(seed: int, lengths: list[int], vocab: int = 128, T: int | None = None) -> np.ndarray:
    """Right-padded random rows; the padding is an ordinary token, as Qwen3's is."""
    rng = np.random.default_rng(seed)
    made = rng.integers(1, vocab, (len(lengths), T or max(lengths)))
    for row, length in zip(made, lengths, strict=True):
        row[length:] = 0
    return made.astype(np.int32)


SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
)


def tokenizer(folder: Path) -> Path:
    """One token a byte, then Qwen3's special ones: 263 ids, and no text that they cannot write."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, [])
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return folder
