"""Conversations as text, and text as completions.

`render` writes messages and tools as the Qwen3 chat template does, character for character, and
`render_with` lets a model's own template do it. `parse` reads what a model wrote after the
generation prompt. The two ends treat faults differently: malformed messages are somebody's data
and raise a ValueError that names message, field and remedy; a malformed generation is a value,
so `parse` is total and says in `Completion.error` what is wrong.
"""

from star_jax.chat.completion import (
    MAX_DEPTH,
    Call,
    Completion,
    Kind,
    Mode,
    Problem,
    nesting,
    parse,
)
from star_jax.chat.messages import Fault, Message, Tool, called, check, check_tools
from star_jax.chat.template import render, render_with

__all__ = [
    "MAX_DEPTH",
    "Call",
    "Completion",
    "Fault",
    "Kind",
    "Message",
    "Mode",
    "Problem",
    "Tool",
    "called",
    "check",
    "check_tools",
    "nesting",
    "parse",
    "render",
    "render_with",
]
