"""config.json: both spellings read and written, everything unimplemented refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from star_jax.models import config as config_module
from star_jax.models.config import Qwen3Config
from tests import tiny

NEWER = {
    **{key: value for key, value in tiny.BASE.items() if key not in ("rope_theta", "torch_dtype")},
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "dtype": "float32",
    "layer_types": ["full_attention", "full_attention"],
}
DROPPED = object()

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "yarn": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "rope_scaling is {'rope_type': 'yarn', 'factor': 4.0}: scaled rotary",
    ),
    "linear, old spelling": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
    "yarn, newer spelling": (
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}},
        "rope_parameters is .*only rope_type 'default'",
    ),
    "partial rotation": (
        {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "partial_rotary_factor": 0.5,
            }
        },
        "rope_parameters is .*partial_rotary_factor",
    ),
    "rope_parameters of another kind": ({"rope_parameters": 7}, "rope_parameters is 7"),
    "two thetas": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}},
        "rope_theta is 1000000.0 but rope_parameters.rope_theta is 5000000.0",
    ),
    "window": ({"use_sliding_window": True, "sliding_window": 64}, "sliding_window is 64"),
    "window, not switched on": ({"sliding_window": 64}, "sliding_window is 64"),
    "layer types": (
        {"layer_types": ["full_attention", "sliding_attention"]},
        r"layer_types holds \['sliding_attention'\]",
    ),
    "too few layer types": ({"layer_types": ["full_attention"]}, "layer_types lists 1 layers"),
    "attention bias": ({"attention_bias": True}, "attention_bias is True"),
    "dropout": ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config is"),
    "experts": ({"model_type": "qwen3_moe"}, "'qwen3_moe' .a mixture of experts"),
    "expert count": ({"num_experts": 8}, "num_experts is 8"),
    "another model": ({"model_type": "llama"}, "model_type is 'llama'"),
    "no model type": ({"model_type": DROPPED}, "model_type is None"),
    "no width": ({"hidden_size": DROPPED}, "hidden_size is missing, expected a whole number"),
    "no head_dim": ({"head_dim": DROPPED}, "head_dim is missing"),
    "width of text": ({"hidden_size": "64"}, "hidden_size is '64', expected a whole number"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "no theta": ({"rope_theta": DROPPED}, "rope_theta is missing"),
    "negative theta": ({"rope_theta": -1.0}, "rope_theta is -1.0"),
    "no eps": ({"rms_norm_eps": DROPPED}, "rms_norm_eps is missing"),
    "tied unsaid": ({"tie_word_embeddings": DROPPED}, "tie_word_embeddings is missing"),
    "layer types of another kind": ({"layer_types": 5}, "layer_types is 5, expected a list"),
    "layer type alone": ({"layer_types": "full_attention"}, "expected a list"),
    "theta in the scaling": (
        {"rope_scaling": {"rope_type": "default", "rope_theta": 1e4}},
        "rope_theta is 1000000.0 but rope_scaling.rope_theta is 10000.0",
    ),
    "huge theta": ({"rope_theta": 10**400}, "rope_theta is 1000"),
    "infinite eps": ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf"),
    "no initializer": ({"initializer_range": None}, "initializer_range is None"),
    "initializer of text": ({"initializer_range": "x"}, "initializer_range is 'x'"),
    "odd head": ({"head_dim": 15}, "head_dim must be even"),
    "heads do not divide": ({"num_key_value_heads": 3}, "num_heads 8 is not a multiple"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(changes: dict[str, Any], message: str) -> None:
    raw = {key: value for key, value in {**tiny.BASE, **changes}.items() if value is not DROPPED}
    with pytest.raises(ValueError, match=message):
        config_module.from_hf(raw)


def test_both_spellings_are_one_architecture() -> None:
    assert config_module.from_hf(tiny.BASE) == config_module.from_hf(NEWER)
    # Harmless in both: a scaling that scales nothing.
    config_module.from_hf({**tiny.BASE, "rope_scaling": {"rope_type": "default"}})


@pytest.mark.parametrize("raw", [tiny.BASE, NEWER, None], ids=["published", "newer", "fresh"])
def test_written_in_both_spellings(raw: dict[str, Any] | None) -> None:
    config = config_module.from_hf(tiny.BASE)
    out = config_module.to_hf(config, "bfloat16", like=raw)
    assert config_module.from_hf(out) == config
    assert (out["rope_theta"], out["torch_dtype"]) == (1e6, "bfloat16")
    assert config_module.dtype_name(out) == "bfloat16"
    changed = {"torch_dtype", "dtype", "rope_theta"}
    assert {key: out[key] for key in (raw or {}).keys() - changed} == {
        key: value for key, value in (raw or {}).items() if key not in changed
    }


def test_a_changed_architecture_is_what_is_written() -> None:
    smaller = {**NEWER, "num_hidden_layers": 1, "layer_types": ["full_attention"]}
    config = config_module.from_hf(smaller)
    out = config_module.to_hf(config, "float32", like=NEWER)
    assert config_module.from_hf(out) == config


def test_every_number_reaches_the_architecture() -> None:
    """Each number of config.json, changed alone, changes the config: none is ignored."""
    numbers = {
        "vocab_size": 256,
        "hidden_size": 72,
        "intermediate_size": 100,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 20,
        "max_position_embeddings": 99,
        "rope_theta": 2e4,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "initializer_range": 0.5,
    }
    seen = {config_module.from_hf({**tiny.BASE, key: value}) for key, value in numbers.items()}
    assert len(seen | {config_module.from_hf(tiny.BASE)}) == len(numbers) + 1
    assert len(numbers) == len(Qwen3Config.__dataclass_fields__)
