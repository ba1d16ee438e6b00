"""Tasks whose best answer is known, for a random model of 264 tokens: rewards by dotted path.

letters   the share of the answer's characters that are small letters: 1 is the most
word      1 where all of them are, else 0
two       two calls in small: half for a first letter of a to f, half for a second one of u to z
both      1 where both are right, else 0
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from star_jax.rewards import Reward


def _share(generation: str) -> float:
    said = generation.removesuffix("<|im_end|>")
    return sum(char in "abcdefghijklmnopqrstuvwxyz" for char in said) / max(len(said), 1)


def letters(generation: str, label: str, tools: Any, compat: None = None) -> Reward:
    value = _share(generation)
    return Reward(value, 1.0, value, "letters", "the share of small letters is {0:.2f}", (value,))


def word(generation: str, label: str, tools: Any, compat: None = None) -> Reward:
    value = float(_share(generation) == 1)
    return Reward(value, 1.0, value, "word", "{0:.0f} if all are small letters", (value,))


def _right(generation: str) -> float:
    first, second = f"{generation}  "[:2]
    return (("a" <= first <= "f") + ("u" <= second <= "z")) / 2


def two(generation: str, label: str, tools: Any, compat: None = None) -> Reward:
    value = _right(generation)
    return Reward(value, 1.0, value, "two", "{0} of both", (value,))


def both(generation: str, label: str, tools: Any, compat: None = None) -> Reward:
    value = float(_right(generation) == 1)
    return Reward(value, 1.0, value, "both", "{0}", (value,))


def write(path: Path, count: int, target: str = "ok<|im_end|>") -> Path:
    rows = [
        {"id": f"p{i}", "inputs": f"say {i}: ", "targets": target, "tools": []}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
