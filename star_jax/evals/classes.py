"""Which part of a generation every token belongs to: for entropy per class of token, and the like.

    tokens' texts (or ids and a decoder) → a class for every token

    think   reasoning                              name    the name of the function called
    reply   text to the user                       key     names of parameters, nested ones too
    other   markup, the JSON's punctuation, its    value   what the parameters are
            keys `name` and `arguments`, space around all of these, tokens that end a turn

Quotes are punctuation. A token of several classes has the one, other than `other`, that most of its
characters have. Generations are Qwen3's, as `chat.parse` reads them: an opening <think> may be
missing, a call's JSON is decoded before its closing tag is looked for, as a text in it may spell
that tag. Malformed and truncated ones are classed as far as they go, and never raise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from star_jax.chat.completion import CALL, CALL_END, THINK, THINK_END

TokenClass = Literal["other", "think", "name", "key", "value", "reply"]
CLASSES: tuple[TokenClass, ...] = ("other", "think", "name", "key", "value", "reply")

Span = tuple[int, int, TokenClass]  # start, end, what it is; what no span covers is `other`


def of_pieces(pieces: Sequence[str], *, in_think: bool = False) -> list[TokenClass]:
    """The class of every token, from the tokens' texts. `in_think`: the prompt ended in <think>.

    An empty piece has the class of the character that follows it, which it may be a part of.
    """
    text = "".join(pieces)
    codes = bytearray(len(text) + 1)  # every character's index in CLASSES
    for start, end, kind in _spans(text, in_think):
        codes[start:end] = bytes([CLASSES.index(kind)]) * (end - start)
    found: list[TokenClass] = []
    start = 0
    for piece in pieces:
        end = start + len(piece)
        found.append(CLASSES[_majority(codes[start : max(end, start + 1)])])
        start = end
    return found


def of_ids(
    ids: Sequence[int], decode: Callable[[list[int]], str], *, in_think: bool = False
) -> list[TokenClass]:
    """The same from ids. `decode` leaves special tokens in.

    Every token is decoded alone: a character split over several becomes a replacement character in
    each, at the same place, and markup has none such.
    """
    return of_pieces([decode([token]) for token in ids], in_think=in_think)


def totals(
    values_T: ArrayLike, classes: Sequence[TokenClass]
) -> dict[TokenClass, tuple[float, int]]:
    """The sum of the tokens' values and their number, for every class that occurs."""
    values = np.asarray(values_T, dtype=np.float64)
    if values.shape != (len(classes),):
        raise ValueError(
            f"values of shape {values.shape} for {len(classes)} tokens: give one for each"
        )
    kinds = np.array([CLASSES.index(kind) for kind in classes], dtype=np.int64)
    present = [CLASSES[code] for code in np.unique(kinds)]
    masks = {kind: kinds == CLASSES.index(kind) for kind in present}
    return {kind: (float(values[mask].sum()), int(mask.sum())) for kind, mask in masks.items()}


def _majority(codes: bytearray) -> int:
    """The code that occurs most often, the first of equals; 0 counts only where it is alone."""
    counted = {code: codes.count(code) for code in dict.fromkeys(codes) if code}
    return max(counted, key=counted.__getitem__, default=0)


# --- a generation ------------------------------------------------------------

_TAG = re.compile(f"{THINK}|{THINK_END}|{CALL}|{CALL_END}")
_CALL_TAG = re.compile(f"{CALL}|{CALL_END}")
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")  # <|im_end|>


def _spans(text: str, in_think: bool) -> Iterator[Span]:
    opening, closing = text.find(THINK), text.find(THINK_END)
    start = 0
    if in_think or (closing >= 0 and not 0 <= opening < closing):  # the prompt opened it
        end = closing if closing >= 0 else len(text)
        yield from _prose(text, 0, end, "think")
        start = end
    while tag := _TAG.search(text, start):
        yield from _prose(text, start, tag.start(), "reply")
        start = tag.end()
        if tag[0] == THINK:
            closing = text.find(THINK_END, start)
            end = closing if closing >= 0 else len(text)
            yield from _prose(text, start, end, "think")
            start = end
        elif tag[0] == CALL:
            end = _call_end(text, start)
            yield from _call(text, start, end)
            start = end
    yield from _prose(text, start, len(text), "reply")


def _prose(text: str, start: int, end: int, kind: TokenClass) -> Iterator[Span]:
    """The text between special tokens, without the space at its ends."""
    for special in [*_SPECIAL.finditer(text, start, end), None]:
        stop = special.start() if special else end
        inside = text[start:stop]
        begin = start + len(inside) - len(inside.lstrip())
        if inside.strip():
            yield begin, start + len(inside.rstrip()), kind
        start = special.end() if special else end


def _call_end(text: str, start: int) -> int:
    """Where a call's JSON ends, with whatever stands between it and the closing tag."""
    whole = _json_end(text, start)
    tag = _CALL_TAG.search(text, start if whole is None else whole)
    if whole is not None and (tag is None or tag[0] == CALL):
        return whole  # never closed: what follows is a reply
    return tag.start() if tag else len(text)


# --- a call's JSON -----------------------------------------------------------

_TOKEN = re.compile(
    r'"(?P<text>[^"\\]*(?:\\.[^"\\]*)*)"?|[{}\[\]:,]|(?P<bare><|[^\s{}\[\]:,"<]+)', re.DOTALL
)


def _json_end(text: str, start: int) -> int | None:
    """Where the object or list ends that stands here; None if it is no JSON, so far as matters.

    Tags in it stand in texts. A quote that was never closed takes in a tag as well, but then a word
    follows where the next quote ends it; and a tag outside of texts is two words in a row.
    """
    depth, is_behind_value = 0, False
    for token in _TOKEN.finditer(text, start):
        group = token.lastgroup
        if group is not None:
            if is_behind_value or depth == 0:
                return None
        elif token[0] in "{[":
            depth += 1
        elif token[0] in "}]":
            depth -= 1
            if depth <= 0:
                return token.end() if depth == 0 else None
        is_behind_value = group is not None
    return None


@dataclass
class _Open:
    """An object or a list that is not closed yet."""

    is_object: bool
    wants_key: bool
    objects: int  # how many it stands in, itself among them; the first is the call
    section: str  # the key of the call that it belongs to
    key: str = ""  # the last one


def _call(text: str, start: int, end: int) -> Iterator[Span]:
    stack: list[_Open] = []
    for token in _TOKEN.finditer(text, start, end):
        group = token.lastgroup
        if group is None:
            _step(stack, token[0])
        elif stack:
            kind = _kind(stack[-1])
            if stack[-1].wants_key:
                stack[-1].key = token[group]
            if kind != "other":
                yield token.start(group), token.end(group), kind


def _step(stack: list[_Open], mark: str) -> None:
    if mark in "{[":
        is_object = mark == "{"
        level = stack[-1] if stack else _Open(False, False, 0, "")
        section = level.key if _is_call(level) else level.section
        stack.append(_Open(is_object, is_object, level.objects + is_object, section))
    elif mark in "}]":
        del stack[-1:]
    elif stack and stack[-1].is_object:
        stack[-1].wants_key = mark == ","


def _is_call(level: _Open) -> bool:
    return level.is_object and level.objects == 1


def _kind(level: _Open) -> TokenClass:
    """What a text or a bare word is, directly in this object or list."""
    section = level.key if _is_call(level) else level.section
    if level.wants_key and _is_call(level):
        return "other"
    if section == "arguments":
        return "key" if level.wants_key else "value"
    return "name" if section == "name" and _is_call(level) else "other"
