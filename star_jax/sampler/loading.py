"""A model folder as something that serves requests.

folder --load--> Loaded(tokenizer, render, scheduler, …)
"""

from __future__ import annotations

import importlib.util
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


TOP = 20  # likeliest tokens that may be reported beside each
PATIENCE = 8  # steps between two pieces of a sample
LEAST_ROOM = 64  # tokens of a prompt or of a reply


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


def load(
    model_dir: str | Path,
    *,
    dtype: str = "bfloat16",
    slots: int = 64,
    max_prompt: int = 4096,
    max_new: int = 1024,
    tensor: int = 1,
    small_cache: bool = False,
    driver: str = "own",
    warm_up: bool = False,
) -> Loaded:
    """The model of a folder, ready to answer, on all devices that there are: weights split over
    `tensor` of them, rows over the rest. `small_cache` keeps keys and values as int8; `driver`
    "jetstream" has JetStream's Driver schedule the engine; `warm_up` compiles for every size
    before the first request."""
    import jax

    from star_jax import models
    from star_jax.data import template
    from star_jax.data.cache import identity

    folder = Path(model_dir)
    tokenizer, render = Tokenizer(folder), template.load(folder)
    mesh = models.make_mesh(tensor=tensor) if len(jax.devices()) > 1 or tensor > 1 else None
    model = models.load(folder, dtype=dtype, mesh=mesh)
    config = model.config
    if tokenizer.size > config.vocab_size:
        raise ValueError(
            f"{folder}: its tokenizer has {tokenizer.size} ids and its model {config.vocab_size}; "
            "copy both from the same model"
        )
    positions = config.max_position_embeddings
    max_prompt, max_new = min(max_prompt, positions - 1), min(max_new, positions - 1)
    stops = _stop_ids(folder, tokenizer)
    sizes = {"slots": slots, "max_prompt": max_prompt, "max_new": max_new}
    scheduler = (
        _jetstream(model, tokenizer, stops, small_cache, **sizes)
        if driver == "jetstream"
        else _own(model, tokenizer, warm_up, small_cache, **sizes)
    )
    name = folder.resolve().name
    return Loaded(
        tokenizer=tokenizer,
        scheduler=scheduler,
        config=config,
        max_prompt=max_prompt,
        max_new=max_new,
        about={
            "model": name,
            "hash": f"{identity.teacher_hash(folder)}-{dtype}{'-int8' * small_cache}",
            "slots": slots,
            "dtype": dtype,
            "driver": driver,
        },
        render=render,
        stop_ids=stops,
        grammar=_grammars(tokenizer, config.vocab_size, stops),
    )


def _own(
    model: Any,
    tokenizer: Tokenizer,
    warm_up: bool,
    small_cache: bool,
    *,
    slots: int,
    max_prompt: int,
    max_new: int,
) -> Scheduler:
    from star_jax.sampler.engine import Engine
    from star_jax.sampler.rollout import Rollout

    most = min(max_prompt + max_new, model.config.max_position_embeddings)
    engine = Engine(model, slots=slots, max_len=most, small_cache=small_cache, top=TOP)
    rollout = Rollout(
        engine,
        rooms=_sizes(max_prompt),
        reply_rooms=_sizes(max_new),
        text_of=tokenizer.decode,
        patience=PATIENCE,
    )
    if warm_up:
        rollout.warm_up(masked=importlib.util.find_spec("llguidance") is not None)
    return rollout


def _jetstream(
    model: Any,
    tokenizer: Tokenizer,
    stops: tuple[int, ...],
    small_cache: bool,
    *,
    slots: int,
    max_prompt: int,
    max_new: int,
) -> Scheduler:
    from star_jax.sampler import jetstream
    from star_jax.sampler.driven import Driven
    from star_jax.sampler.jetstream.qwen3 import Qwen3Engine
    from star_jax.sampler.request import Settings

    jetstream.require()
    most = model.config.max_position_embeddings
    settings = Settings(max_new_tokens=max_new, stop_ids=stops)
    return Driven(
        Qwen3Engine(
            model,
            slots=slots,
            max_prompt=min(max_prompt, most - max_new),
            max_new=max_new,
            settings=settings,
            text_of=tokenizer.decode,
            small_cache=small_cache,
        )
    )


def _sizes(longest: int) -> tuple[int, ...]:
    """Few sizes, each four times the one before: every pair of them is a program of its own."""
    sizes = [longest]
    while sizes[-1] > 4 * LEAST_ROOM:
        sizes.append(-(-sizes[-1] // 4))
    return tuple(reversed(sizes))


def _stop_ids(folder: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The end of a turn, and what the folder's generation_config.json ends at."""
    from star_jax.models import hf

    path = folder / hf.GENERATION
    given = hf.read_json(path).get("eos_token_id", []) if path.is_file() else []
    ids = given if isinstance(given, list) else [given]
    found = [i for i in ids if isinstance(i, int) and 0 <= i < tokenizer.size]
    return tuple(dict.fromkeys([tokenizer.end_of_turn, *found]))


def _grammars(tokenizer: Tokenizer, vocab_size: int, stops: tuple[int, ...]) -> MakeGrammar | None:
    """None where llguidance is not installed: then asking for a grammar is refused."""
    if importlib.util.find_spec("llguidance") is None:
        return None

    def make(tools: Sequence[Tool], choice: str | dict[str, str]) -> Any:
        from star_jax.sampler import grammar

        one: Any = choice
        if isinstance(choice, dict):
            one = {"type": "function", "function": {"name": choice["name"]}}
        return grammar.compile(tokenizer, tools, choice=one, vocab_size=vocab_size, stop_ids=stops)

    return make
