"""What a policy can do, asked greedily: rewards and exact answers, split by what is due.

    marks(prompts, texts, score) → {"call_exact": …, "words_reward": …, …}

Exact is `rewards.binary`: the label's calls in any order, or its reply to the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from star_jax import chat, rewards
from star_jax.rewards import Reward
from star_jax.train.prompts import Prompt, Reader

KINDS = ("call", "words")


def readable(score: Reader) -> Reader:
    """The same reward; a label of which nobody could say what exactly it is, is a ValueError."""

    def read(generation: str, label: str, tools: Sequence[Any]) -> Reward:
        rewards.binary(label, label, tools)
        return score(generation, label, tools)

    return read


def marks(prompts: Sequence[Prompt], texts: Sequence[str], score: Reader) -> dict[str, float]:
    """Means over prompts whose answer is a call, over those whose answer is words, and over all."""
    given = [score(text, p.label, p.tools) for p, text in zip(prompts, texts, strict=True)]
    exact = [
        rewards.binary(text, p.label, p.tools).total for p, text in zip(prompts, texts, strict=True)
    ]
    calls = [bool(chat.parse(text).calls) for text in texts]
    found: dict[str, float] = {}
    for kind in ("", *KINDS):
        at = [i for i, prompt in enumerate(prompts) if not kind or prompt.wanted == kind]
        if not at:
            continue
        name = f"{kind}_" if kind else ""
        found |= {
            f"{name}exact": float(np.mean([exact[i] for i in at])),
            f"{name}reward": float(np.mean([given[i].total for i in at])),
            f"{name}valid_share": float(np.mean([given[i].format > 0 for i in at])),
            f"{name}call_share": float(np.mean([calls[i] for i in at])),
        }
    return found
