"""Conversations as text, and text as completions.

`render` writes messages and tools as the Qwen3 chat template does, character for character.
`parse` reads what a model wrote after the generation prompt; it is total: every string is a
Completion, and what is wrong with it is a Problem in `error`, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "no_think",
    "two_thinks",
    "unclosed_think",
    "nested_think",
    "text_before_think",
    "unclosed_call",
    "stray_call_end",
    "nested_call",
    "bad_json",
    "not_object",
    "missing_name",
    "missing_arguments",
    "name_not_string",
    "arguments_not_object",
    "extra_key",
    "text_beside_call",
]
Mode = Literal["strict", "compat"]


@dataclass(frozen=True)
class Call:
    """One function call: the tool's name and its arguments as JSON values."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a generation: a short name for machines and a sentence for people."""

    kind: Kind
    detail: str


@dataclass(frozen=True)
class Completion:
    """What a generation says: its reasoning, its calls, its reply, and the first fault found.

    `think` is None where the text holds no block of reasoning. The other fields hold what could
    be read even when `error` is set.
    """

    think: str | None
    calls: tuple[Call, ...]
    reply: str
    error: Problem | None


def render(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    *,
    add_generation_prompt: bool = False,
    enable_thinking: bool | None = None,
) -> str:
    """The conversation as the text that Qwen3's chat template gives."""
    raise NotImplementedError


def parse(text: str, mode: Mode = "strict") -> Completion:
    """Read a generation, with or without its opening <think>. Never raises."""
    raise NotImplementedError
