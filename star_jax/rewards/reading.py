"""A sample read: what the label wants, what the generation says, and whether tools allow it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from star_jax import chat
from star_jax.rewards.calls import Tool, fault, signatures
from star_jax.rewards.reward import Reward

Compat = Literal["star"] | None

# Where a turn ends; what a decoder left after it was never said.
ENDS = ("<|im_end|>", "<|endoftext|>")

# No rule of the paper forbids words beside a call, and gold answers of real data have them.
ALLOWED = frozenset({"text_beside_call"})


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a generation breaks the format: a word, and a sentence with its facts."""

    kind: str
    sentence: str
    facts: tuple[object, ...]

    def reward(self, total: float) -> Reward:
        """The reward of a generation with this problem."""
        return Reward(total, -1.0, 0.0, self.kind, self.sentence, self.facts)


UNOPENED = Problem(
    "unopened_think",
    "−1: <think> is never opened; where the prompt ends in it, it belongs to the generation too",
    (),
)


def spoken(text: str) -> str:
    """The text up to the first token that ends a turn."""
    for end in ENDS:
        text = text.partition(end)[0]
    return text


@lru_cache(maxsize=1 << 12)
def read_label(label: str) -> chat.Completion:
    """The right answer; ValueError where the label cannot be one."""
    count = label.count("</think>")
    if count != 1:
        raise ValueError(
            f"label has {count} </think>, it needs exactly one; "
            f"write </think> before the answer: {label[:80]!r}"
        )
    gold = chat.parse(spoken(label))
    if gold.error and gold.error.kind not in ALLOWED:
        raise ValueError(f"label: {gold.error.detail}; correct it: {label[:80]!r}")
    return gold


def read_generation(
    generation: str, tools: Sequence[Tool] | None
) -> tuple[chat.Completion, Problem | None]:
    """What the model said, and the first of the five format rules that it breaks, if any."""
    known = signatures(tools)
    text = spoken(generation)
    said = parse(text)
    if said.error and said.error.kind not in ALLOWED:
        return said, Problem(said.error.kind, "−1: {0}", (said.error.detail,))
    if not text.startswith("<think>") and not text.lstrip().startswith("<think>"):
        return said, UNOPENED
    return said, schema_problem(said.calls, known) if said.calls else None


@lru_cache(maxsize=1 << 12)
def parse(text: str) -> chat.Completion:
    """chat.parse: groups repeat themselves, and several rewards read the same generation."""
    return chat.parse(text)


def schema_problem(calls: Sequence[chat.Call], known: dict) -> Problem | None:
    """A call that no tool takes: an unknown tool, or an unknown argument."""
    match fault(calls, known):
        case None:
            return None
        case "unknown_tool", facts:
            return Problem("unknown_tool", "−1: call {0} names {1!r}; tools are {2}", facts)
        case kind, facts:
            return Problem(kind, "−1: call {0}, {1}, has argument {2!r}; known are {3}", facts)
