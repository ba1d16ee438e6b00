"""The model card (README.md) of an exported folder: what it is, in words and in front matter."""

from __future__ import annotations

from pathlib import Path

from star_jax.models.config import Qwen3Config
from star_jax.version import __version__


def text(config: Qwen3Config, parameters: int, dtype: str, like: Path | None) -> str:
    head = "shares the embedding table" if config.tie_word_embeddings else "is a matrix of its own"
    origin = ""
    if like is not None:
        # The folder's own name only: where it lay on somebody's disk is nobody's business.
        origin = f"\nIts config and tokenizer come from the folder `{like.resolve().name}`.\n"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- qwen3
- function-calling
- star_jax
---

# A Qwen3 of {in_words(parameters)} parameters

Written by star_jax {__version__}.
{origin}
| | |
|---|---|
| layers | {config.num_layers} |
| width | {config.hidden_size} |
| heads | {config.num_heads} of {config.head_dim}, {config.num_kv_heads} for keys and values |
| SwiGLU width | {config.intermediate_size} |
| vocabulary | {config.vocab_size}; the output head {head} |
| rotary theta | {config.rope_theta:g} |
| parameters | {parameters:,} |
| dtype | {dtype} |

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("this folder", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("this folder")
```
"""


def in_words(count: int) -> str:
    """1234567 → "1.2 M"."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {unit}"
    return str(count)
