"""A sample as it comes in, read: ids to text, text up to a stop, and what of it is said to whom.

    ids --Decoder--> text --Cut--> text before the first stop --Reader--> Reasoning, Content, Call

What comes out is final: no half character, nothing that may yet turn out to be a stop or a tag. All
of it joined does not depend on how the ids came in pieces, so that a stream and a whole answer say
the same. Generated text never raises: what is no readable call is content, character for character.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from star_jax import chat
from star_jax.chat import Call
from star_jax.chat.completion import CALL, CALL_END, THINK, THINK_END

LOST = "�"  # what a decoder writes for bytes that are no character, or not yet


@dataclass(frozen=True)
class Reasoning:
    """A bit of what stands between <think> and </think>."""

    text: str


@dataclass(frozen=True)
class Content:
    """A bit of the reply."""

    text: str


Part = Reasoning | Content | Call


class Decoder:
    """Ids to text. Ids whose bytes end inside a character wait for the next ones."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._waiting: list[int] = []

    def feed(self, ids: Sequence[int]) -> str:
        text = self._decode([*self._waiting, *ids])
        if not text.endswith(LOST):
            self._waiting = []
            return text
        return "".join([self._add(int(i)) for i in ids])

    def _add(self, token: int) -> str:
        self._waiting.append(token)
        text = self._decode(self._waiting)
        if not text.endswith(LOST):
            self._waiting = []
            return text
        # A cut that changes nothing now changes nothing later: what follows comes behind it.
        for cut in range(len(self._waiting) - 1, 0, -1):
            before, behind = self._waiting[:cut], self._waiting[cut:]
            done = self._decode(before)
            if done + self._decode(behind) == text:
                self._waiting = behind
                return done
        return ""

    def end(self) -> str:
        text = self._decode(self._waiting) if self._waiting else ""
        self._waiting = []
        return text


def held(text: str, marks: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of the marks."""
    longest = min(len(text), max(map(len, marks), default=1) - 1)
    for count in range(longest, 0, -1):
        tail = text[-count:]
        if any(len(mark) > count and mark.startswith(tail) for mark in marks):
            return count
    return 0


class Cut:
    """Text up to the first of the stops, which is left out with all that follows it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._text = ""
        self.is_cut = False

    def feed(self, text: str) -> str:
        if self.is_cut:
            return ""
        self._text += text
        # The one that is complete first, as it would be if the text came letter by letter.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._text.find(stop)) >= 0]
        if found:
            self.is_cut = True
            return self._take(min(found)[1])
        return self._take(len(self._text) - held(self._text, self._stops))

    def _take(self, count: int) -> str:
        taken, self._text = self._text[:count], self._text[count:]
        return taken

    def end(self) -> str:
        return "" if self.is_cut else self._take(len(self._text))


def read_call(block: str) -> Call | None:
    """The call of <tool_call>…</tool_call>; None where it is none that can be said again."""
    found = chat.parse(f"{THINK}{THINK_END}{block}")
    if found.error is not None or len(found.calls) != 1 or found.reply:
        return None
    call = found.calls[0]
    try:  # 1e999 and half of a pair are read, but can't be written
        written = json.dumps([call.name, call.arguments], ensure_ascii=False, allow_nan=False)
        written.encode()
    except (ValueError, RecursionError):
        return None
    message = {"role": "assistant", "tool_calls": [{"name": call.name, "arguments": {}}]}
    return None if any(chat.check([message])) else call


class Reader:
    """The text of a completion as reasoning, content and calls.

    `is_open` says that the prompt has opened a <think>, `is_thought` that it has closed one too.
    Without `reads_calls` a call is content. White space at the ends of reasoning and of content is
    left out, as `chat.parse` does.
    """

    def __init__(self, *, is_open: bool, is_thought: bool, reads_calls: bool) -> None:
        self._state = self._think if is_open else self._answer if is_thought else self._start
        self._reads_calls = reads_calls
        self._text = ""  # what is not read yet
        self._looked = 0  # so much of it holds no end of a call
        self._space = ""  # which is content once something follows it
        self._has_said = False
        self._parts: list[Part] = []

    def feed(self, text: str) -> list[Part]:
        self._text += text
        while self._state():
            pass
        parts, self._parts = self._parts, []
        return parts

    def end(self) -> list[Part]:
        """What was held back is what it looks like."""
        self._say(self._text, Reasoning if self._state == self._think else Content)
        self._text = ""
        parts, self._parts = self._parts, []
        return parts

    def _say(self, text: str, kind: type[Reasoning | Content]) -> None:
        text = self._space + text
        if not self._has_said:
            text = text.lstrip()
        said = text.rstrip()
        self._space = text[len(said) :]
        if said:
            self._has_said = True
            self._parts.append(kind(said))

    # Each state reads what it can, and says whether another one may go on with the rest.

    def _start(self) -> bool:
        text = self._text.lstrip()
        if text.startswith(THINK):
            self._text, self._state = text[len(THINK) :], self._think
            return True
        if THINK.startswith(text):
            return False
        self._state = self._answer
        return True

    def _think(self) -> bool:
        before, tag, after = self._text.partition(THINK_END)
        if not tag:
            self._say_but(held(self._text, [THINK_END]), Reasoning)
            return False
        self._say(before, Reasoning)
        self._text, self._state = after, self._answer
        self._space, self._has_said = "", False
        return True

    def _answer(self) -> bool:
        if not self._reads_calls:
            self._say_but(0, Content)
            return False
        at = self._text.find(CALL)
        if at < 0:
            self._say_but(held(self._text, [CALL]), Content)
            return False
        self._say_but(len(self._text) - at, Content)
        self._state, self._looked = self._call, 0
        return True

    def _call(self) -> bool:
        # A string of its arguments may spell the closing tag, so each of them is tried.
        while (at := self._text.find(CALL_END, self._looked)) >= 0:
            end = at + len(CALL_END)
            call = read_call(self._text[:end])
            if call is not None:
                self._parts.append(call)
                self._text, self._state = self._text[end:], self._answer
                return True
            self._looked = end
        self._looked = max(self._looked, len(self._text) - len(CALL_END) + 1)
        return False

    def _say_but(self, count: int, kind: type[Reasoning | Content]) -> None:
        """All but the last `count` characters."""
        at = len(self._text) - count
        text, self._text = self._text[:at], self._text[at:]
        self._say(text, kind)
