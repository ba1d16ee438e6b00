"""Continuous batching: requests wait, get a slot, are decoded beside each other, and make room.

    rollout = Rollout(engine)
    ticket = rollout.submit(Request(prompt, n, settings, name))
    while rollout.is_busy:
        for piece in rollout.step(): …

A request of n samples is cut into jobs of as many as a slot has rows; its prompt is read once for
all of them. Each step puts waiting jobs into free slots, decodes for a while, and hands out what
was drawn. Knows the engine by a small protocol, and nothing of models.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from star_jax.sampler import ahead
from star_jax.sampler import rows as table
from star_jax.sampler.request import End, Piece, Request, key_of
from star_jax.sampler.rows import Row
from star_jax.sampler.sizes import PROMPT_ROOM, REPLY_ROOM, STOPS, fit, ladder

EAGER = 16  # steps between looks at who has ended, while others wait


class Engine(Protocol):
    """What decodes. `engine.Engine`, or something that counts in a test."""

    slots: int
    group: int
    max_len: int
    max_top: int
    vocab_size: int
    is_warm: bool  # nothing should have to be compiled from now on

    def state(self, S: int, C: int) -> Any: ...
    def restart(self, state: Any) -> Any: ...
    def resize(self, state: Any, S: int, C: int) -> Any: ...
    def read(self, prompts: Sequence[np.ndarray], T: int) -> list[tuple[Any, dict[int, Any]]]: ...
    def place(self, state: Any, prefix: Any, jobs: Sequence[tuple[int, Any]]) -> Any: ...
    def decode(
        self,
        state: Any,
        rows_BW: Any,
        *,
        steps: int,
        ends: int,
        allowed_BW: np.ndarray | None,
        top: int,
    ) -> tuple[Any, np.ndarray, Any]: ...


class Job(NamedTuple):
    """Some samples of one request: as many as a slot has rows, or fewer."""

    ticket: int
    first: int
    count: int


@dataclasses.dataclass
class Open:
    """A request that is not finished."""

    request: Request
    waiting: int  # jobs without a slot
    left: int  # samples that have not ended
    read: Any = None  # (prefix, place) between reading and the last job's slot


@dataclasses.dataclass
class Voice:
    """One sample that is being decoded."""

    ticket: int
    sample: int
    request: Request
    tokens: list[int]
    grammar: Any


class Rollout:
    def __init__(
        self,
        engine: Engine,
        *,
        rooms: Sequence[int] | None = None,
        reply_rooms: Sequence[int] | None = None,
        text_of: Callable[[Sequence[int]], str] | None = None,
        patience: int | None = None,
    ) -> None:
        """`rooms` and `reply_rooms` are the sizes that prompts and replies are given room in;
        `text_of` decodes tokens, which requests with stop strings need; `patience` is the most
        steps between two pieces of a sample, for those who watch."""
        self.engine = engine
        self.rooms = ladder(rooms, PROMPT_ROOM, engine.max_len, "rooms")
        self.reply_rooms = ladder(reply_rooms, REPLY_ROOM, engine.max_len, "reply_rooms")
        self.text_of = text_of
        self.patience = patience
        self._tickets = 0
        self._begin_again()

    def _begin_again(self) -> None:
        self._open: dict[int, Open] = {}
        self._queue: collections.deque[Job] = collections.deque()
        self._slots: list[int | None] = [None] * self.engine.slots  # the ticket in each
        self._voices: dict[int, Voice] = {}  # by row
        self._rows = table.empty(self.engine.slots * self.engine.group, STOPS)
        self._state: Any = None
        self._size = (0, 0)
        self._now = 0
        self._said: list[Piece] = []  # that came of something else than decoding

    @property
    def is_busy(self) -> bool:
        return bool(self._open or self._said)

    def warm_up(self, *, masked: bool = False) -> None:
        """Compile for every size that there is, with `masked` for grammars as well; what is missing
        after this is counted."""
        ahead.compile_all(self.engine, self.rooms, self.reply_rooms, masked=masked)

    def submit(self, request: Request) -> int:
        self._check(request)
        ticket = self._tickets
        self._tickets += 1
        G = self.engine.group
        jobs = [Job(ticket, i, min(G, request.n - i)) for i in range(0, request.n, G)]
        self._open[ticket] = Open(request, len(jobs), request.n)
        self._queue.extend(jobs)
        return ticket

    def _check(self, request: Request) -> None:
        prompt, settings = request.prompt, request.settings
        if request.n < 1:
            raise ValueError(f"n must be at least 1, got {request.n}")
        if prompt.ndim != 1 or not np.issubdtype(prompt.dtype, np.integer) or not len(prompt):
            raise ValueError("a prompt is a list of at least one token id")
        most = self.engine.vocab_size - 1
        if prompt.min() < 0 or prompt.max() > most:
            found = prompt.min() if prompt.min() < 0 else prompt.max()
            raise ValueError(f"prompt token {found} is outside 0 to {most}")
        if (whole := len(prompt) + settings.max_new_tokens) > self.engine.max_len:
            raise ValueError(
                f"{len(prompt)} prompt tokens and {settings.max_new_tokens} new ones are {whole}, "
                f"more than the sampler's room of {self.engine.max_len}; shorten the prompt, lower "
                "max_new_tokens or raise max_len"
            )
        if len(settings.stop_ids) > STOPS:
            raise ValueError(f"at most {STOPS} stop ids, got {len(settings.stop_ids)}")
        if settings.stop and self.text_of is None:
            raise ValueError("stop strings need a tokenizer, and this sampler has none")
        if settings.top_logprobs > self.engine.max_top:
            raise ValueError(
                f"top_logprobs {settings.top_logprobs} is more than the {self.engine.max_top} that "
                "this sampler was made for"
            )

    def cancel(self, ticket: int) -> None:
        opened = self._open.get(ticket)
        if opened is None:
            return
        top = opened.request.settings.top_logprobs
        for row, voice in list(self._voices.items()):
            if voice.ticket == ticket:
                table.kill(self._rows, row)
                self._leave(row)
                self._said.append(_nothing(ticket, voice.sample, top))
        unheard = [job for job in self._queue if job.ticket == ticket]
        self._queue = collections.deque(job for job in self._queue if job.ticket != ticket)
        for job in unheard:
            samples = range(job.first, job.first + job.count)
            self._said += [_nothing(ticket, sample, top) for sample in samples]
        self._slots = [None if held == ticket else held for held in self._slots]
        self._open.pop(ticket, None)

    def clear(self) -> None:
        """Forget whatever is not finished, also what a step that failed has left half done."""
        if self.is_busy:
            self._begin_again()

    def forget(self) -> None:
        """Give back the caches' room; nothing may be going on."""
        if self.is_busy:
            raise RuntimeError("a rollout that is busy can't forget its state")
        self._begin_again()

    def step(self) -> list[Piece]:
        pieces, self._said = self._said, []
        self._fill()
        if self._voices:
            pieces += self._decode()
        return pieces

    # What waits → slots

    def _fill(self) -> None:
        free = [slot for slot, held in enumerate(self._slots) if held is None]
        jobs = [self._queue.popleft() for _ in range(min(len(free), len(self._queue)))]
        if not jobs:
            return
        self._make_room(jobs)
        self._read({job.ticket: self._open[job.ticket] for job in jobs})
        placed: dict[int, tuple[Any, list[tuple[int, Any]]]] = {}
        for slot, job in zip(free, jobs, strict=False):
            opened = self._open[job.ticket]
            prefix, where = opened.read
            placed.setdefault(id(prefix), (prefix, []))[1].append((slot, where))
            self._slots[slot] = job.ticket
            self._begin(slot, job, opened)
            opened.waiting -= 1
            if not opened.waiting:
                opened.read = None
        for prefix, parts in placed.values():
            self._state = self.engine.place(self._state, prefix, parts)

    def _make_room(self, jobs: Sequence[Job]) -> None:
        """A state in which the prompts of these jobs and their first tokens fit."""
        longest = max(len(self._open[job.ticket].request.prompt) - 1 for job in jobs)
        if not self._voices:
            S, C = fit(self.rooms, longest), self.reply_rooms[0]
            if self._state is None or self._size[0] < S:
                self._state = None  # before the next is made
                self._size = (S, max(C, self._size[1]))
                self._state = self.engine.state(*self._size)
            else:
                self._state = self.engine.restart(self._state)
            self._now = 0
        elif longest > self._size[0]:
            self._resize(fit(self.rooms, longest), self._size[1])

    def _resize(self, S: int, C: int) -> None:
        self._state = self.engine.resize(self._state, S, C)
        self._size = (S, C)

    def _read(self, opened: dict[int, Open]) -> None:
        """Read the prompts that have not been read, but for their last tokens."""
        todo = [one for one in opened.values() if one.read is None]
        if not todo:
            return
        prompts = [one.request.prompt[:-1] for one in todo]
        T = fit(self.rooms, max(len(prompt) for prompt in prompts))
        for prefix, places in self.engine.read(prompts, T):
            for index, place in places.items():
                todo[index].read = (prefix, place)

    def _begin(self, slot: int, job: Job, opened: Open) -> None:
        request, settings = opened.request, opened.request.settings
        for offset in range(job.count):
            row, sample = slot * self.engine.group + offset, job.first + offset
            begun = Row(
                token=int(request.prompt[-1]),
                position=len(request.prompt) - 1,
                started=self._now,
                limit=settings.max_new_tokens,
                key=key_of(request, sample),
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                min_p=settings.min_p,
                stop_ids=settings.stop_ids,
            )
            table.write(self._rows, row, begun)
            grammar = request.grammar.start() if request.grammar is not None else None
            self._voices[row] = Voice(job.ticket, sample, request, [], grammar)

    # Decoding

    def _decode(self) -> list[Piece]:
        allowed_BW = self._masks()
        steps = 1 if allowed_BW is not None else self._steps()
        ends = self.engine.group if self._queue else len(self._rows)
        top = max(voice.request.settings.top_logprobs for voice in self._voices.values())
        self._state, self._rows, burst = self.engine.decode(
            self._state,
            self._rows,
            steps=steps,
            ends=ends,
            allowed_BW=allowed_BW,
            top=self.engine.max_top if top else 0,
        )
        self._now += len(burst.token_TB)
        is_live_B = table.is_live(self._rows)
        pieces = [
            self._piece(row, voice, burst, bool(is_live_B[row]))
            for row, voice in list(self._voices.items())
        ]
        self._free()
        return pieces

    def _steps(self) -> int:
        """How many steps can be made before somebody has to be looked at, room made first."""
        most = EAGER if self._queue else 2**30
        most = min(most, self.patience or most)
        if any(voice.request.settings.stop for voice in self._voices.values()):
            most = min(most, EAGER)
        while True:
            S, C = self._size
            # A row that may outgrow the ring must not come around to its own beginning.
            started = [
                int(self._rows[row, 2])
                for row, voice in self._voices.items()
                if voice.request.settings.max_new_tokens > C
            ]
            room = C - (self._now - min(started)) if started else most
            if room > 0:
                return min(most, room)
            self._resize(S, fit(self.reply_rooms, C + 1))

    def _masks(self) -> np.ndarray | None:
        """The tokens that each row may draw next, where any row follows a grammar."""
        bound = {row: voice for row, voice in self._voices.items() if voice.grammar is not None}
        if not bound:
            return None
        words = -(-self.engine.vocab_size // 32)
        allowed_BW = np.full((len(self._rows), words), 0xFFFFFFFF, np.uint32)
        for row, voice in bound.items():
            allowed_BW[row] = np.asarray(voice.grammar.mask()).view(np.uint32)
        return allowed_BW

    def _piece(self, row: int, voice: Voice, burst: Any, is_live: bool) -> Piece:
        token_T = burst.token_TB[:, row]
        count = int(np.sum(token_T >= 0))
        settings = voice.request.settings
        for token in token_T[:count].tolist():
            voice.tokens.append(token)
            if voice.grammar is not None:
                voice.grammar.take(token)
        end: End | None = None
        if not is_live:
            end = "stop" if voice.tokens[-1] in settings.stop_ids else "length"
        if settings.stop and (cut := self._stop_at(voice, len(voice.tokens) - count)) is not None:
            count -= len(voice.tokens) - cut
            end = "string"
        if end is not None:
            table.kill(self._rows, row)
            self._leave(row)
        top = settings.top_logprobs
        return Piece(
            voice.ticket,
            voice.sample,
            token_T[:count].copy(),
            burst.raw_TB[:count, row].copy(),
            burst.drawn_TB[:count, row].copy(),
            burst.top_id_TBA[:count, row, :top].copy(),
            burst.top_raw_TBA[:count, row, :top].copy(),
            end,
        )

    def _stop_at(self, voice: Voice, known: int) -> int | None:
        """How many tokens it takes until a stop string has been said, if it has."""
        text_of, stops = self.text_of, voice.request.settings.stop
        assert text_of is not None

        def is_said(count: int) -> bool:
            text = text_of(voice.tokens[:count])
            return any(stop in text for stop in stops)

        if not is_said(len(voice.tokens)):
            return None
        return next(count for count in range(known + 1, len(voice.tokens) + 1) if is_said(count))

    def _leave(self, row: int) -> None:
        voice = self._voices.pop(row)
        opened = self._open[voice.ticket]
        opened.left -= 1
        if not opened.left:
            del self._open[voice.ticket]

    def _free(self) -> None:
        """Slots whose samples have all ended."""
        held = {row // self.engine.group for row in self._voices}
        self._slots = [ticket if slot in held else None for slot, ticket in enumerate(self._slots)]


def _nothing(ticket: int, sample: int, top: int) -> Piece:
    """The last piece of a cancelled sample."""
    floats, ids = np.zeros(0, np.float32), np.zeros(0, np.int32)
    likeliest = (np.zeros((0, top), np.int32), np.zeros((0, top), np.float32))
    return Piece(ticket, sample, ids, floats, floats, *likeliest, "cancelled")
