"""The seam between a benchmark and what answers: questions in, answers out, many at once.

    ticket = asker.ask(question)
    for ticket, answer in asker.step():   whatever has ended since

`Local` asks the model of a folder through its scheduler; `endpoint.Endpoint` a server. An answer
depends on the question's name, the seed and the model, not on what is asked beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from star_jax.sampler.loading import Loaded
from star_jax.sampler.request import Piece, Request, Settings, join

SPARE = 2  # positions that the official harness leaves free


@dataclass(frozen=True)
class Question:
    """What to answer: a text to go on from, or messages where a server writes the prompt."""

    name: bytes  # who asks: the entry and the step, by which an answer is drawn
    text: str | None
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Answer:
    text: str  # without the token that ended it
    prompt_tokens: int
    tokens: int
    end: str  # stop, string, length
    lost: str = ""  # why there is no answer: the question does not fit the model's context


def lost(why: str) -> Answer:
    """What stands for an answer, in the official harness's words."""
    return Answer(f"Error during inference: {why}", 0, 0, "lost", why)


class Asker(Protocol):
    @property
    def ahead(self) -> int:
        """How many entries to have open, so that nothing stands idle."""
        ...

    @property
    def about(self) -> dict[str, Any]:
        """All that decides about its answers."""
        ...

    def ask(self, question: Question) -> int: ...

    def step(self) -> list[tuple[int, Answer]]:
        """Wait for a short while → what has been answered."""
        ...

    def take_tokens(self) -> int:
        """How many tokens were made since the last call."""
        ...

    def close(self) -> None: ...


def name_of(*parts: object) -> bytes:
    """The identity of a question, from what it belongs to."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


class Local:
    """The model of a folder. `context`: tokens of a prompt and its answer together."""

    def __init__(self, loaded: Loaded, settings: Settings, context: int) -> None:
        self._loaded, self._context = loaded, context
        self._settings = dataclasses.replace(settings, stop_ids=loaded.stops)
        self._pieces: dict[int, list[Piece]] = defaultdict(list)
        self._prompt_tokens: dict[int, int] = {}
        self._tokens = 0
        self._lost: list[tuple[int, Answer]] = []
        self._refused = 0  # their tickets are negative

    @property
    def ahead(self) -> int:
        return 4 * int(self._loaded.about.get("slots", 64))

    @property
    def about(self) -> dict[str, Any]:
        return {
            "model": self._loaded.name,
            "weights": self._loaded.about.get("hash"),
            "tokenizer": self._loaded.tokenizer.hash,
            "context": self._context,
            **dataclasses.asdict(self._settings),
        }

    def ask(self, question: Question) -> int:
        if question.text is None:
            raise ValueError("a model's folder is asked with a prompt, not with messages")
        ids = np.array(self._loaded.tokenizer.encode([question.text])[0], np.int32)
        room = self._context - len(ids) - SPARE
        if room < 1:
            self._refused -= 1
            why = f"the prompt has {len(ids)} tokens, the context {self._context}"
            self._lost.append((self._refused, lost(why)))
            return self._refused
        most = min(self._settings.max_new_tokens, room)
        settings = dataclasses.replace(self._settings, max_new_tokens=most)
        ticket = self._loaded.scheduler.submit(Request(ids, 1, settings, question.name))
        self._prompt_tokens[ticket] = len(ids)
        return ticket

    def step(self) -> list[tuple[int, Answer]]:
        ended, self._lost = self._lost, []
        if not self._loaded.scheduler.is_busy:
            return ended
        for piece in self._loaded.scheduler.step():
            self._tokens += len(piece.tokens)
            self._pieces[piece.ticket].append(piece)
            if piece.end is not None:
                ended.append((piece.ticket, self._answer(piece.ticket)))
        return ended

    def _answer(self, ticket: int) -> Answer:
        sample = join(self._pieces.pop(ticket))
        text = spoken(sample.tokens, self._loaded)
        return Answer(text, self._prompt_tokens.pop(ticket), len(sample.tokens), sample.end)

    def take_tokens(self) -> int:
        made, self._tokens = self._tokens, 0
        return made

    def close(self) -> None:
        for ticket in list(self._prompt_tokens):
            self._loaded.scheduler.cancel(ticket)
        self._prompt_tokens.clear()
        self._pieces.clear()


def spoken(tokens: Sequence[int] | np.ndarray, loaded: Loaded) -> str:
    """What tokens say, without the one that ended them."""
    ids = [int(token) for token in tokens]
    if ids and ids[-1] in loaded.stops:
        ids = ids[:-1]
    return loaded.tokenizer.decode(ids)
