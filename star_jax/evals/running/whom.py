"""Who is asked, and how, from the words of a command; and the signals that end one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from star_jax.evals.running.asking import Asker, Local
from star_jax.evals.running.endpoint import Endpoint, Server
from star_jax.evals.running.prompting import Mode, Prompting


@dataclass(frozen=True, kw_only=True)
class Who:
    """A model's folder or a server, and how its answers are drawn."""

    model: Path | None
    endpoint: str | None
    served: str | None
    key: str | None
    slots: int
    timeout_s: float
    context: int | None  # None: the model's own
    dtype: str
    tensor: int
    think: bool | None
    system: Path | None  # a file
    temperature: float
    max_new_tokens: int
    seed: int


def asked(who: Who, mode: Mode) -> tuple[Prompting, Asker]:
    """How to ask, and whom. Nothing is loaded before the request is known to be sound."""
    system = None if who.system is None else who.system.read_text(encoding="utf-8").strip("\n")
    if who.endpoint is None:
        return _folder(who, mode, system)
    server = Server(
        url=who.endpoint,
        model=who.served,
        key=who.key,
        at_once=who.slots,
        timeout_s=who.timeout_s,
    )
    prompting = Prompting(mode, who.think, system)
    endpoint = Endpoint(
        server,
        max_new_tokens=who.max_new_tokens,
        temperature=who.temperature,
        seed=who.seed,
        think=who.think,
    )
    return prompting, endpoint


def _folder(who: Who, mode: Mode, system: str | None) -> tuple[Prompting, Local]:
    from star_jax.data import template
    from star_jax.models import hf
    from star_jax.sampler import loading
    from star_jax.sampler.request import Settings

    assert who.model is not None
    prompting = Prompting(mode, who.think, system, template.load(who.model))
    positions = hf.read_config(who.model).max_position_embeddings
    context = min(positions, who.context or positions)
    settings = Settings(
        max_new_tokens=who.max_new_tokens, temperature=who.temperature, seed=who.seed
    )
    loaded = loading.load(
        who.model,
        dtype=who.dtype,
        slots=who.slots,
        max_prompt=context - 1,
        max_new=min(who.max_new_tokens, context - 1),
        tensor=who.tensor,
    )
    return prompting, Local(loaded, settings, context)


@contextmanager
def told() -> Generator[list[int]]:
    """The signals that came: a first one is heeded when a step is over, a second one at once."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(received: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(received)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
