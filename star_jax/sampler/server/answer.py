"""Pieces of samples as OpenAI's answers: one object, or a stream of chunks.

Piece --Voice--> parts --Chat | Text--> chunks, and at the end the whole
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from star_jax.chat import Call
from star_jax.sampler.reading import Content, Cut, Decoder, Part, Reasoning
from star_jax.sampler.request import Piece
from star_jax.sampler.server.asking import Asked

Decode = Callable[[Sequence[int]], str]
LEAST = -9999.0  # stands for minus infinity, which JSON lacks


class Scored(NamedTuple):
    """A token, its log-prob, and the likeliest ones beside it; `at` is where its text begins."""

    text: str
    logprob: float
    tops: list[tuple[str, float]]
    at: int


def _finite(logprob: float) -> float:
    return float(logprob) if math.isfinite(logprob) else LEAST


class Voice:
    """One sample as it is said."""

    def __init__(self, asked: Asked, prompt: int, decode: Decode) -> None:
        self.prompt = prompt
        self.parts: list[Part] = []
        self.scored: list[Scored] = []
        self.tokens = 0
        self.told = 0  # log-probs that a chunk has told
        self.calls = 0
        self.finish: str | None = None
        self._decode, self._top = decode, asked.top
        self._decoder = Decoder(decode)
        stops = asked.requests[prompt].settings.stop
        self._cut, self._reader = Cut(stops), asked.reader()
        self._length = 0

    def hear(self, piece: Piece) -> list[Part]:
        """What is final with this piece. A voice that has finished hears nothing."""
        if self.finish is not None:
            return []
        self.tokens += len(piece.tokens)
        is_over = piece.end is not None
        text = self._spell(piece) + (self._decoder.end() if is_over else "")
        text = self._cut.feed(text) + (self._cut.end() if is_over else "")
        is_over |= self._cut.is_cut
        parts = self._reader.feed(text) + (self._reader.end() if is_over else [])
        self.calls += sum(isinstance(part, Call) for part in parts)
        self.parts += parts
        if is_over:
            self.finish = self._reason(piece)
        return parts

    def _reason(self, piece: Piece) -> str:
        if piece.end == "length" and not self._cut.is_cut:
            return "length"
        return "tool_calls" if self.calls else "stop"

    def _spell(self, piece: Piece) -> str:
        """The text of a piece; the id that stops a sample is no part of what it says."""
        ids = [int(token) for token in piece.tokens]
        spoken = len(ids) - (piece.end == "stop")
        if self._top is None:
            return self._decoder.feed(ids[:spoken])
        text = ""
        for index, token in enumerate(ids):
            self.scored.append(self._score(token, piece, index))
            said = self._decoder.feed([token]) if index < spoken else ""
            self._length += len(said)
            text += said
        return text

    def _score(self, token: int, piece: Piece, index: int) -> Scored:
        found = zip(piece.top_ids[index], piece.top_logprobs[index], strict=True)
        tops = [(self._decode([int(top)]), _finite(logprob)) for top, logprob in found]
        logprob = _finite(piece.logprobs[index])
        return Scored(self._decode([token]), logprob, tops[: self._top], self._length)

    def untold(self) -> list[Scored]:
        found, self.told = self.scored[self.told :], len(self.scored)
        return found


class _Frame:
    """What every object of an answer begins with."""

    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, asked: Asked, model: str) -> None:
        self._asked = asked
        self._same = {"created": int(time.time()), "model": model}
        self._id = f"{self.prefix}{secrets.token_hex(12)}"

    def _chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        choices = [] if choice is None else [choice]
        made = {"id": self._id, "object": self.chunk_kind, **self._same, "choices": choices}
        return {**made, "usage": None} if self._asked.wants_usage else made

    def last(self, usage: dict[str, int]) -> dict[str, Any]:
        return {**self._chunk(None), "usage": usage}

    def _whole(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        frame = {"id": self._id, "object": self.kind, **self._same}
        return {**frame, "choices": choices, "usage": usage}


class Chat(_Frame):
    prefix, kind, chunk_kind = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> list[dict[str, Any]]:
        return [self._delta(index, {"role": "assistant", "content": ""}, [], None)]

    def chunks(self, index: int, voice: Voice, parts: list[Part]) -> list[dict[str, Any]]:
        made = []
        call = voice.calls - sum(isinstance(part, Call) for part in parts)
        for part in parts:
            match part:
                case Content(text):
                    delta: dict[str, Any] = {"content": text}
                case Reasoning(text):
                    delta = {"reasoning_content": text}
                case _:
                    delta = {"tool_calls": [{"index": call, **_call(part)}]}
                    call += 1
            made.append(self._delta(index, delta, voice.untold(), None))
        if voice.finish is not None:
            made.append(self._delta(index, {}, voice.untold(), voice.finish))
        return made

    def _delta(
        self, index: int, delta: dict[str, Any], scored: list[Scored], finish: str | None
    ) -> dict[str, Any]:
        logprobs = _chat_logprobs(scored) if scored else None
        return self._chunk(
            {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        )

    def whole(self, voices: Sequence[Voice], usage: dict[str, int]) -> dict[str, Any]:
        choices = []
        for index, voice in enumerate(voices):
            scored = None if self._asked.top is None else _chat_logprobs(voice.scored)
            choices.append(
                {
                    "index": index,
                    "message": _message(voice.parts),
                    "logprobs": scored,
                    "finish_reason": voice.finish,
                }
            )
        return self._whole(choices, usage)


def _message(parts: Sequence[Part]) -> dict[str, Any]:
    content = "".join(part.text for part in parts if isinstance(part, Content))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls = [_call(part) for part in parts if isinstance(part, Call)]
    made: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else "")}
    if reasoning:
        made["reasoning_content"] = reasoning
    if calls:
        made["tool_calls"] = calls
    return made


def _call(call: Call) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _chat_logprobs(scored: Sequence[Scored]) -> dict[str, Any]:
    return {
        "content": [
            {
                **_scored(one.text, one.logprob),
                "top_logprobs": [_scored(text, logprob) for text, logprob in one.tops],
            }
            for one in scored
        ],
        "refusal": None,
    }


def _scored(text: str, logprob: float) -> dict[str, Any]:
    # A token that is no whole characters has no bytes that its text would tell.
    whole = None if "�" in text else list(text.encode())
    return {"token": text, "logprob": logprob, "bytes": whole}


class Text(_Frame):
    prefix, kind, chunk_kind = "cmpl-", "text_completion", "text_completion"

    def opening(self, index: int) -> list[dict[str, Any]]:
        return []

    def chunks(self, index: int, voice: Voice, parts: list[Part]) -> list[dict[str, Any]]:
        text = "".join(part.text for part in parts if isinstance(part, Content))
        if not text and voice.finish is None:
            return []
        return [self._chunk(self._choice(index, text, voice.untold(), voice.finish))]

    def _choice(
        self, index: int, text: str, scored: list[Scored], finish: str | None
    ) -> dict[str, Any]:
        logprobs = None if self._asked.top is None else _text_logprobs(scored, self._asked.top)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def whole(self, voices: Sequence[Voice], usage: dict[str, int]) -> dict[str, Any]:
        choices = []
        for index, voice in enumerate(voices):
            text = "".join(part.text for part in voice.parts if isinstance(part, Content))
            choices.append(self._choice(index, text, voice.scored, voice.finish))
        return self._whole(choices, usage)


def _text_logprobs(scored: Sequence[Scored], top: int) -> dict[str, Any]:
    return {
        "tokens": [one.text for one in scored],
        "token_logprobs": [one.logprob for one in scored],
        # Tokens that are spelt alike share a key; the likeliest comes first and stays.
        "top_logprobs": [{**dict(reversed(one.tops)), one.text: one.logprob} for one in scored]
        if top
        else None,
        "text_offset": [one.at for one in scored],
    }
