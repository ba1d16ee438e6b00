"""A sampler without a model: a scheduler with slots that says what a script tells it to.

Its state can be counted, its steps can be held, and it can be told to fail.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.data.encode import Tokenizer
from star_jax.sampler.loading import Loaded
from star_jax.sampler.request import End, Piece, Request, Settings, key_of
from tests import tiny

# Request, number of the sample → the ids it would say if nothing stopped it.
Script = Callable[[Request, int], Sequence[int]]


def noise(request: Request, sample: int) -> list[int]:
    """Any bytes, drawn from the sample's own key; half of them letters, so that words come up."""
    key = [int(part) for part in key_of(request, sample)]
    if request.settings.temperature == 0:
        key = [len(request.prompt)]
    rng = np.random.default_rng(key)
    draws = rng.integers(0, 258, 4096)
    letters = rng.integers(66, 90, 4096)
    return [int(i) for i in np.where(rng.random(4096) < 0.5, draws, letters)]


class Speaker:
    """`slots` samples at once, `tokens` of each a step."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        script: Script = noise,
        *,
        slots: int = 8,
        tokens: int = 3,
        max_prompt: int = 4096,
    ) -> None:
        self._tokenizer = tokenizer
        self.script = script
        self.slots, self.tokens, self.max_prompt = slots, tokens, max_prompt
        self.requests: list[Request] = []  # all that were ever submitted
        self.cancelled: list[int] = []
        self.most_open = 0  # requests at once
        self.fails: Exception | None = None
        self.go = threading.Event()  # cleared: a step waits
        self.go.set()
        self.after = 10**9  # so many steps and then `go` is cleared
        self.owners: set[int] = set()  # the threads that called
        self._tickets = itertools.count()
        self._waiting: list[tuple[int, int]] = []
        self._running: dict[tuple[int, int], list[int]] = {}
        self._said: dict[tuple[int, int], int] = {}
        self._by_ticket: dict[int, Request] = {}

    @property
    def held(self) -> int:
        """Slots and places in the queue that are taken."""
        return len(self._waiting) + len(self._running)

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting or self._running)

    def submit(self, request: Request) -> int:
        self.owners.add(threading.get_ident())
        if len(request.prompt) > self.max_prompt:
            raise ValueError(f"a prompt of {len(request.prompt)} tokens is too long for the fake")
        ticket = next(self._tickets)
        self.requests.append(request)
        self._by_ticket[ticket] = request
        self.most_open = max(self.most_open, len(self._by_ticket))
        self._waiting += [(ticket, sample) for sample in range(request.n)]
        return ticket

    def cancel(self, ticket: int) -> None:
        self.owners.add(threading.get_ident())
        self.cancelled.append(ticket)
        self._waiting = [key for key in self._waiting if key[0] != ticket]
        for key in [key for key in self._running if key[0] == ticket]:
            del self._running[key], self._said[key]
        del self._by_ticket[ticket]

    def step(self) -> list[Piece]:
        self.owners.add(threading.get_ident())
        if self.after <= 0:
            self.go.clear()
        assert self.go.wait(60), "a test held the steps and never let go"
        self.after -= 1
        if self.fails is not None:
            raise self.fails
        while self._waiting and len(self._running) < self.slots:
            ticket, sample = key = self._waiting.pop(0)
            self._running[key] = list(self.script(self._by_ticket[ticket], sample))
            self._said[key] = 0
        return [self._advance(key) for key in list(self._running)]

    def _advance(self, key: tuple[int, int]) -> Piece:
        request, script, begin = self._by_ticket[key[0]], self._running[key], self._said[key]
        made: list[int] = []
        end: End | None = None
        while end is None and len(made) < self.tokens:
            made.append(script[begin + len(made)])
            end = self._end(request.settings, script[: begin + len(made)])
        self._said[key] += len(made)
        if end is not None:
            del self._running[key], self._said[key]
            if not any(other[0] == key[0] for other in [*self._running, *self._waiting]):
                del self._by_ticket[key[0]]
        k = request.settings.top_logprobs
        tokens = np.array(made, np.int32)
        logprobs = -(tokens.astype(np.float32) + 1) / 64
        tops = (tokens[:, None] + np.arange(k, dtype=np.int32)) % 256
        top_logprobs = np.repeat(logprobs[:, None], k, 1) - np.arange(k, dtype=np.float32)
        return Piece(*key, tokens, logprobs, logprobs / 2, tops, top_logprobs, end)

    def _end(self, settings: Settings, said: Sequence[int]) -> End | None:
        if said[-1] in settings.stop_ids:
            return "stop"
        if settings.stop:
            text = self._tokenizer.decode(said)
            if any(stop in text for stop in settings.stop):
                return "string"
        return "length" if len(said) == settings.max_new_tokens else None


def says(tokenizer: Tokenizer, *texts: str) -> Script:
    """The first text for the first sample of every request, and so on; each ends its turn."""
    spoken = [tokenizer.encode([text])[0] + [tokenizer.end_of_turn] for text in texts]
    return lambda request, sample: spoken[sample % len(spoken)]


def loaded(folder: Path, script: Script = noise, **options: Any) -> Loaded:
    """`script` is noise, or takes the tokenizer and gives one."""
    about = options.pop("about", {})
    changes = {key: options.pop(key) for key in ("max_prompt", "max_new") if key in options}
    grammar = options.pop("grammar", None)
    tokenizer = Tokenizer(tiny.tokenizer(folder))
    slots = options.get("slots", 8)
    return Loaded(
        tokenizer=tokenizer,
        scheduler=Speaker(tokenizer, script, **options),
        config=None,
        max_prompt=changes.get("max_prompt", 2048),
        max_new=changes.get("max_new", 256),
        about={"model": "tiny", "hash": "0", "slots": slots, **about},
        grammar=grammar,
    )
