"""Qwen3Config: the architecture, read from config.json and written back to it.

config.json comes in two spellings: the published one (`rope_theta`, `torch_dtype`) and that of
transformers 5 (`rope_parameters`, `dtype`). Both are read. What is written always has the published
one, beside the newer one where that was there: transformers 5 reads it too, while transformers 4
takes a file without `rope_theta` for theta = 10000 and says nothing.

Every number is taken from the file. What the model does not implement is refused by name, never
ignored: `problems` says what, and `from_hf` raises on the first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Qwen3Config:
    """The architecture of one Qwen3: what fixes the shapes of its parameters and its equations."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int  # width of the SwiGLU between its two projections
    num_layers: int
    num_heads: int  # query heads
    num_kv_heads: int  # key and value heads; each serves num_heads / num_kv_heads query heads
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool  # True: the output head is the embedding table
    max_position_embeddings: int  # the longest sequence that the model was trained for
    initializer_range: float = 0.02  # standard deviation of a fresh model's weights

    def __post_init__(self) -> None:
        for field in _WHOLE.values():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{field} must be a whole number above 0, got {value!r}")
        for field in ("rope_theta", "rms_norm_eps", "initializer_range"):
            if not getattr(self, field) > 0:
                raise ValueError(f"{field} must be above 0, got {getattr(self, field)!r}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")


# Keys of config.json that are whole numbers, and our names for them.
_WHOLE = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "head_dim": "head_dim",
    "max_position_embeddings": "max_position_embeddings",
}

# A key and the values under which it asks for nothing that this model lacks. An absent key is fine.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "attention_dropout": (0, None),
    "hidden_act": ("silu",),
    "quantization_config": (None,),
    "num_experts": (None, 0),
    "pruned_heads": (None, {}),
    "add_cross_attention": (False, None),
    "is_decoder": (False, True, None),
}


def rope_theta(raw: Mapping[str, Any]) -> Any:
    """Theta as either spelling gives it; None where neither does."""
    nested = raw.get("rope_parameters")
    if isinstance(nested, Mapping) and "rope_theta" in nested:
        return nested["rope_theta"]
    return raw.get("rope_theta")


def dtype_name(raw: Mapping[str, Any]) -> str | None:
    """The dtype that config.json claims for the weights, in either spelling."""
    return raw.get("dtype", raw.get("torch_dtype"))


def problems(raw: Mapping[str, Any]) -> Iterator[str]:
    """What stops this config.json from being a Qwen3 that star_jax computes exactly."""
    kind = raw.get("model_type")
    if kind != "qwen3":
        moe = " (a mixture of experts is another architecture)" if "moe" in str(kind) else ""
        yield f"model_type is {kind!r}{moe}; star_jax implements 'qwen3'"
    yield from _unimplemented(raw)
    yield from _rope_problems(raw)
    yield from _number_problems(raw)


def _unimplemented(raw: Mapping[str, Any]) -> Iterator[str]:
    for key, harmless in _HARMLESS.items():
        if key in raw and raw[key] not in harmless:
            yield f"{key} is {raw[key]!r}, which star_jax does not implement"
    if raw.get("use_sliding_window") or raw.get("sliding_window") is not None:
        yield (
            f"sliding_window is {raw.get('sliding_window')!r}, use_sliding_window is "
            f"{raw.get('use_sliding_window')!r}: sliding window attention is not implemented; "
            "if the model was trained without a window, set them to null and false"
        )
    layer_types = raw.get("layer_types")
    if layer_types is not None and not isinstance(layer_types, list):
        yield f"layer_types is {layer_types!r}, expected a list"
    elif layer_types is not None:
        unknown = sorted({str(kind) for kind in layer_types} - {"full_attention"})
        if unknown:
            yield f"layer_types holds {unknown}; star_jax implements 'full_attention' alone"
        if len(layer_types) != raw.get("num_hidden_layers"):
            yield (
                f"layer_types lists {len(layer_types)} layers, "
                f"num_hidden_layers says {raw.get('num_hidden_layers')}"
            )


def _rope_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    if raw.get("rope_scaling") is not None:
        scaling = raw["rope_scaling"]
        plain = isinstance(scaling, Mapping) and _is_plain_rope(scaling)
        if plain and scaling.get("rope_theta", rope_theta(raw)) != rope_theta(raw):
            yield (
                f"rope_theta is {rope_theta(raw)!r} but rope_scaling.rope_theta is "
                f"{scaling['rope_theta']!r}; keep the one that the model was trained with"
            )
        if not plain:
            yield f"rope_scaling is {scaling!r}: scaled rotary positions are not implemented"
    nested = raw.get("rope_parameters")
    if nested is not None:
        if not isinstance(nested, Mapping):
            yield f"rope_parameters is {nested!r}, expected an object"
        elif not _is_plain_rope(nested):
            yield f"rope_parameters is {dict(nested)!r}: only rope_type 'default' is implemented"
        elif raw.get("rope_theta", rope_theta(raw)) != rope_theta(raw):
            yield (
                f"rope_theta is {raw['rope_theta']!r} but rope_parameters.rope_theta is "
                f"{rope_theta(raw)!r}; keep the one that the model was trained with"
            )


def _is_plain_rope(rope: Mapping[str, Any]) -> bool:
    kind = rope.get("rope_type", rope.get("type", "default"))
    others = set(rope) - {"rope_type", "type", "rope_theta"}
    return kind == "default" and not any(rope[key] not in (None, 1, 1.0) for key in others)


def _number_problems(raw: Mapping[str, Any]) -> Iterator[str]:
    for key in _WHOLE:
        value = raw.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield f"{key} is {_shown(raw, key)}, expected a whole number above 0"
    numbers = {
        "rms_norm_eps": raw.get("rms_norm_eps"),
        "rope_theta": rope_theta(raw),
        "initializer_range": raw.get("initializer_range", 0.02),
    }
    for key, value in numbers.items():
        if not _is_positive(value):
            given = "missing" if value is None and key not in raw else repr(value)[:80]
            yield f"{key} is {given}, expected a number above 0"
    if not isinstance(raw.get("tie_word_embeddings"), bool):
        yield f"tie_word_embeddings is {_shown(raw, 'tie_word_embeddings')}, expected true or false"


def _is_positive(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return 0 < value <= sys.float_info.max


def _shown(raw: Mapping[str, Any], key: str) -> str:
    return repr(raw[key]) if key in raw else "missing"


def from_hf(raw: Mapping[str, Any]) -> Qwen3Config:
    """The architecture that a config.json describes; ValueError where there is a problem."""
    for problem in problems(raw):
        raise ValueError(problem)
    theta = rope_theta(raw)
    assert theta is not None  # `problems` has seen to it
    return Qwen3Config(
        **{ours: raw[theirs] for theirs, ours in _WHOLE.items()},
        rope_theta=float(theta),
        rms_norm_eps=float(raw["rms_norm_eps"]),
        tie_word_embeddings=raw["tie_word_embeddings"],
        initializer_range=float(raw.get("initializer_range", 0.02)),
    )


def to_hf(config: Qwen3Config, dtype: str, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """config.json as data: `like`, or a fresh one, with this architecture and dtype in it.

    Keys of `like` keep their order and, where nothing changed, their value; theta and dtype are
    there in the published spelling, whichever `like` has.
    """
    raw = dict(like) if like is not None else dict(_FRESH)
    for theirs, ours in _WHOLE.items():
        raw[theirs] = getattr(config, ours)
    raw["rms_norm_eps"] = config.rms_norm_eps
    raw["tie_word_embeddings"] = config.tie_word_embeddings
    raw["initializer_range"] = config.initializer_range
    raw["rope_theta"] = config.rope_theta
    if isinstance(raw.get("rope_parameters"), Mapping):
        raw["rope_parameters"] = {**raw["rope_parameters"], "rope_theta": config.rope_theta}
    if "layer_types" in raw:
        raw["layer_types"] = ["full_attention"] * config.num_layers
    raw["torch_dtype"] = dtype
    if "dtype" in raw:
        raw["dtype"] = dtype
    return raw


_FRESH: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "rope_scaling": None,
    "sliding_window": None,
    "use_sliding_window": False,
    "use_cache": True,
}
