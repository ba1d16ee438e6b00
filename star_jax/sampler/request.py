"""What is asked of a sampler, and what it answers: requests, settings, samples and their pieces.

    Request(prompt, n, settings)  →  Piece, Piece, … per sample as they are decoded  →  Sample

Nothing here knows a model or a device.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

# Why a sample ended: a stop id, a stop string, its length, or because nobody listens any more.
End = Literal["stop", "string", "length", "cancelled"]
SEED_LIMIT = 2**63


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How the next token is drawn, and when to stop. Filters apply after the temperature, in the
    order top-k, top-p, min-p, each to what the one before has left."""

    max_new_tokens: int = 512
    temperature: float = 1.0  # 0 takes the most likely token
    top_k: int = 0  # so many most likely tokens; 0 keeps all
    top_p: float = 1.0  # the fewest tokens that hold this mass; 1 keeps all
    min_p: float = 0.0  # tokens at least this likely, as a share of the likeliest; 0 keeps all
    stop_ids: tuple[int, ...] = ()  # the id that stops a sample is its last token
    stop: tuple[str, ...] = ()  # texts that end a sample; they stay in its tokens
    seed: int = 0
    step: int = 0  # of a training run, so that steps differ under one seed
    top_logprobs: int = 0  # so many likeliest tokens are reported beside each sampled one

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_ids", tuple(int(i) for i in self.stop_ids))
        object.__setattr__(self, "stop", tuple(self.stop))
        for name, given, least, most in (
            ("max_new_tokens", self.max_new_tokens, 1, math.inf),
            ("temperature", self.temperature, 0, 100),
            ("top_k", self.top_k, 0, math.inf),
            ("top_p", self.top_p, 0, 1),
            ("min_p", self.min_p, 0, 1),
            ("seed", self.seed, 0, SEED_LIMIT - 1),
            ("step", self.step, 0, SEED_LIMIT - 1),
            ("top_logprobs", self.top_logprobs, 0, math.inf),
        ):
            if isinstance(given, bool) or not least <= given <= most:  # a nan is not inside either
                limit = f"{least} to {most:g}" if most < math.inf else f"at least {least}"
                raise ValueError(f"{name} must be {limit}, got {given!r}")
        if self.top_p == 0:
            raise ValueError("top_p must be above 0, got 0; temperature 0 takes the likeliest token")
        if any(not text for text in self.stop):
            raise ValueError("stop holds an empty text, which every sample contains")


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt and how many samples of it are wanted.

    `name` says which prompt this is: samples depend on (seed, step, name, number of the sample,
    position) and on nothing else, wherever and beside whatever they are decoded.
    """

    prompt: np.ndarray  # int32 token ids, at least one
    n: int
    settings: Settings
    name: bytes
    grammar: Any = None  # a compiled Grammar where samples must follow one


def name_of(prompt: np.ndarray, occurrence: int = 0) -> bytes:
    """The identity of a prompt by what it says; the second of two equal prompts is another one."""
    tokens = np.ascontiguousarray(prompt, "<i4").tobytes()
    return hashlib.blake2b(tokens + occurrence.to_bytes(8, "little"), digest_size=16).digest()


def key_of(request: Request, sample: int) -> np.ndarray:
    """Two uint32: the random key of one sample, from which its positions fold theirs."""
    settings = request.settings
    numbers = np.array([settings.seed, settings.step, sample], "<u8").tobytes()
    digest = hashlib.blake2b(numbers + request.name, digest_size=8).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


class Piece(NamedTuple):
    """The next tokens of one sample of one request; `end` is set on its last piece."""

    ticket: int
    sample: int
    tokens: np.ndarray  # int32
    logprobs: np.ndarray  # float32: of these tokens, at temperature 1 and unfiltered
    drawn_logprobs: np.ndarray  # float32: under the distribution they were drawn from
    top_ids: np.ndarray  # int32 [tokens, top_logprobs]
    top_logprobs: np.ndarray  # float32 [tokens, top_logprobs]
    end: End | None


class Sample(NamedTuple):
    """One whole sample."""

    tokens: np.ndarray
    logprobs: np.ndarray
    drawn_logprobs: np.ndarray
    end: End

    @property
    def stopped(self) -> bool:
        """Ended by itself, and not because there was no more room."""
        return self.end in ("stop", "string")


class Scheduler(Protocol):
    """What serves requests: `rollout.Rollout` over an engine, or a stand-in in a test.

    Not thread-safe: one thread owns it, calls `step` while `is_busy`, and hands out the pieces.
    """

    @property
    def is_busy(self) -> bool: ...

    def submit(self, request: Request) -> int:
        """→ a ticket; ValueError, one sentence, where the request can't be served here."""
        ...

    def cancel(self, ticket: int) -> None:
        """Frees what the request holds; its open samples end with "cancelled"."""
        ...

    def step(self) -> Sequence[Piece]:
        """Decode for a short while → the pieces that came out."""
        ...


def join(pieces: Sequence[Piece]) -> Sample:
    """The pieces of one sample, in their order."""
    end = pieces[-1].end
    if end is None:
        raise ValueError("the last piece of a sample is missing")
    return Sample(
        np.concatenate([piece.tokens for piece in pieces]),
        np.concatenate([piece.logprobs for piece in pieces]),
        np.concatenate([piece.drawn_logprobs for piece in pieces]),
        end,
    )
