"""A model folder as something that serves requests.

folder --load--> Loaded(tokenizer, render, scheduler, …)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star_jax import chat
from star_jax.chat import Tool
from star_jax.data.encode import Tokenizer
from star_jax.data.template import Render
from star_jax.sampler.request import Scheduler

if TYPE_CHECKING:
    from star_jax.models.config import Qwen3Config

# What a call of the tools must look like, compiled; None where that can't be done. The choice is
# "auto", "required", or the name of one tool in a dict {"name": …}.
MakeGrammar = Callable[[Sequence[Tool], str | dict[str, str]], Any]


@dataclass(frozen=True)
class Loaded:
    """What answers, and how much it has room for."""

    tokenizer: Tokenizer
    scheduler: Scheduler
    config: Qwen3Config | None
    max_prompt: int  # tokens
    max_new: int  # tokens of one sample
    # `model`: its name. `hash`: of all that decides which tokens come out (weights, configuration,
    # dtype). `slots`: samples that are decoded at once. Anything else is for people.
    about: dict[str, Any] = field(default_factory=dict)
    render: Render = chat.render
    stop_ids: tuple[int, ...] = ()  # the model's own; none: the tokenizer's end of a turn
    grammar: MakeGrammar | None = None

    @property
    def stops(self) -> tuple[int, ...]:
        return self.stop_ids or (self.tokenizer.end_of_turn,)

    @property
    def name(self) -> str:
        return str(self.about.get("model", "model"))


def load(model_dir: str | Path, **options: Any) -> Loaded:
    """The model of a folder, ready to answer."""
    raise NotImplementedError
