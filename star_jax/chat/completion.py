"""A generation, read: its reasoning, its calls, its reply, and what is wrong with it.

Two readers. The strict one asks for the format that the paper's five rules describe, so far as
they need no list of tools. The compat one accepts what STAR's simrl.py accepts (a call that is
never closed, text around calls, a second </think>), because its rewards are only comparable then.
Both are total: they never raise, and their time grows with the length of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "no_think",
    "unclosed_think",
    "two_thinks",
    "text_before_think",
    "unclosed_call",
    "stray_call_end",
    "bad_json",
    "not_object",
    "missing_name",
    "missing_arguments",
    "name_not_string",
    "arguments_not_object",
    "text_beside_call",
]
Mode = Literal["strict", "compat"]

THINK, THINK_END = "<think>", "</think>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
TURN_END, TEXT_END = "<|im_end|>", "<|endoftext|>"
ASSISTANT = "<|im_start|>assistant\n"
MAX_DEPTH = 100  # nothing that is accepted nests deeper, so whoever walks it has enough stack


@dataclass(frozen=True, slots=True)
class Call:
    """One function call: the tool's name and its arguments as JSON values."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a generation: a short name for machines and a sentence for people."""

    kind: Kind
    detail: str


@dataclass(frozen=True, slots=True)
class Completion:
    """What a generation says, and the first fault found in it.

    `think` is None where no reasoning could be told apart. The other fields hold what could be
    read even when `error` is set: the strict reader stops at a call that it cannot read.
    """

    think: str | None
    calls: tuple[Call, ...]
    reply: str
    error: Problem | None


def parse(text: str, mode: Mode = "strict") -> Completion:
    """Read a generation.

    "strict" asks for one <think>...</think> before everything else, then either a reply or calls,
    each one JSON object with name and arguments between its tags. The opening <think> may be
    missing: some prompts end in it. Tokens that end a turn are no part of the reply. The fault
    reported last is text_beside_call: everything else is in order then. "compat" accepts what
    STAR's simrl.py accepts: the text has to hold its opening <think>, and keeps those tokens.

    Where the prompt holds a closed, empty block (enable_thinking=False), pass the block along with
    the generation, or the completion has no_think.
    """
    match mode:
        case "strict":
            return _parse_strict(text)
        case "compat":
            return _parse_compat(text)
    raise ValueError(f"mode is {mode!r}: use 'strict' or 'compat'")


def _at(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"line {line}, column {position - text.rfind(chr(10), 0, position)}"


def _parse_strict(text: str) -> Completion:
    body = _without_end(text)
    think, start, problem = _read_think(body)
    calls, reply, later = _read_answer(body, start)
    return Completion(think, calls, reply, problem or later)


def _without_end(text: str) -> str:
    """The text up to the tokens that end a turn: a decoded batch may end in many of them."""
    while True:
        body = text.rstrip()
        text = body.removesuffix(TURN_END).removesuffix(TEXT_END)
        if text == body:
            return body


def _read_think(text: str) -> tuple[str | None, int, Problem | None]:
    """The reasoning, where what follows it starts, and what is wrong with it."""
    opening, closing = text.find(THINK), text.find(THINK_END)
    if closing < 0:
        if opening < 0:
            return None, 0, Problem("no_think", f"There is no {THINK}...{THINK_END} block.")
        detail = f"The {THINK} at {_at(text, opening)} is never closed."
        return text[opening + len(THINK) :].strip(), len(text), Problem("unclosed_think", detail)
    after = closing + len(THINK_END)
    if opening < 0 or opening > closing:  # the prompt opened it
        return text[:closing].strip(), after, None
    inside = opening + len(THINK)
    think = text[inside:closing].strip()
    if text[:opening].strip():
        detail = f"Text stands before the {THINK} at {_at(text, opening)}."
        return think, after, Problem("text_before_think", detail)
    second = text.find(THINK, inside, closing)
    if second >= 0:
        detail = f"A second {THINK} opens at {_at(text, second)} inside the first."
        return think, after, Problem("two_thinks", detail)
    return think, after, None


_TAG = re.compile(f"{THINK}|{THINK_END}|{CALL}|{CALL_END}")
_SPACES = ("\n", " ", "\t", "\r")  # what JSON allows between values


def _read_answer(text: str, start: int) -> tuple[tuple[Call, ...], str, Problem | None]:
    """The calls and the text around them, up to the first call that cannot be read."""
    calls: list[Call] = []
    around: list[str] = []
    problem: Problem | None = None
    while tag := _TAG.search(text, start):
        around.append(text[start : tag.start()])
        if tag[0] != CALL:
            problem, start = problem or _stray(text, tag[0], tag.start()), tag.end()
            continue
        found, start = _read_call(text, tag.start(), tag.end())
        if isinstance(found, Problem):
            return tuple(calls), "".join(around).strip(), problem or found
        calls.append(found)
    around.append(text[start:])
    reply = "".join(around).strip()
    if reply and calls and problem is None:
        problem = Problem("text_beside_call", f"Text stands beside the calls: {reply[:60]!r}.")
    return tuple(calls), reply, problem


def _stray(text: str, tag: str, position: int) -> Problem:
    if tag == CALL_END:
        return Problem("stray_call_end", f"The {tag} at {_at(text, position)} closes no call.")
    return Problem(
        "two_thinks", f"After the reasoning stands another {tag} at {_at(text, position)}."
    )


def _read_call(text: str, opening: int, inside: int) -> tuple[Call | Problem, int]:
    """The call that opens at `opening`, or what is wrong with it; where it ends.

    The JSON is decoded before its closing tag is looked for: a string in it may spell that tag.
    """
    begin = _space_end(text, inside)
    value, end, why = _decode(text, begin)
    end = _space_end(text, end)
    if why is None and text.startswith(CALL_END, end):
        end += len(CALL_END)
        if type(value) is dict:  # what the decoder makes; a pattern would cost four times as much
            name, arguments = value.get("name"), value.get("arguments")
            if type(name) is str and type(arguments) is dict:
                return Call(name, arguments), end
        return _fault(value, f"The call at {_at(text, opening)}"), end
    closing, following = text.find(CALL_END, end), text.find(CALL, end)
    if closing < 0 or 0 <= following < closing:
        detail = f"The {CALL} at {_at(text, opening)} is never closed."
        return Problem("unclosed_call", detail), end
    why = why or f"More text follows the JSON object at {_at(text, end)}"
    detail = f"The call at {_at(text, opening)} is not one JSON object: {why}."
    return Problem("bad_json", detail), end


def _space_end(text: str, position: int) -> int:
    while text.startswith(_SPACES, position):
        position += 1
    return position


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _decode(text: str, begin: int) -> tuple[Any, int, str | None]:
    """The JSON value at `begin`, where it ends, and why it cannot be read."""
    try:
        value, end = _DECODER.raw_decode(text, begin)
    except json.JSONDecodeError as error:
        return None, begin, f"{error.msg} at {_at(text, error.pos)}"
    except ValueError as error:  # NaN, Infinity, a number of thousands of digits
        return None, begin, str(error)
    except RecursionError:
        return None, begin, _TOO_DEEP
    if _is_too_deep(text, begin, end, value):
        return None, begin, _TOO_DEEP
    return value, end, None


_TOO_DEEP = f"It nests deeper than {MAX_DEPTH} levels"


def _is_too_deep(text: str, begin: int, end: int, value: object) -> bool:
    if end - begin <= 2 * MAX_DEPTH:  # too short to open and close so many
        return False
    brackets = text.count("{", begin, end) + text.count("[", begin, end)
    # There are nearly always fewer, and counting them is far cheaper than the walk.
    return brackets > MAX_DEPTH and nesting(value) > MAX_DEPTH


def nesting(value: object) -> int:
    """How many objects and lists of a JSON value stand in one another. Needs no stack."""
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        depth += 1
        level = [child for parent in level for child in _containers(parent)]
    return depth


def _containers(value: object) -> list[object]:
    children: Iterable[object] = ()
    match value:
        case dict():
            children = value.values()
        case list():
            children = value
    return [child for child in children if isinstance(child, dict | list)]


def _fault(value: object, where: str) -> Problem:
    """Why a JSON value is no call."""
    match value:
        case {"name": str(), "arguments": other}:
            detail = f"{where} has arguments that are {_kind(other)}, not an object."
            return Problem("arguments_not_object", detail)
        case {"name": str()}:
            return Problem("missing_arguments", f"{where} has no arguments.")
        case {"name": other}:
            return Problem("name_not_string", f"{where} has a name that is {_kind(other)}.")
        case dict():
            return Problem("missing_name", f"{where} has no name.")
    return Problem("not_object", f"{where} is {_kind(value)}, not an object.")


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case dict():
            return "an object"
    return "a list"


def _parse_compat(text: str) -> Completion:
    """simrl.py's parse_generation, which asks for the opening <think> as well."""
    text = text.split(ASSISTANT)[-1]  # it looks for the generation behind the last of these
    thinks = list(_between(text, THINK, THINK_END))
    think, problem = thinks[0].strip() if thinks else None, None
    if len(thinks) != 1:
        kind: Kind = "two_thinks" if thinks else "no_think"
        problem = Problem(kind, f"There are {len(thinks)} {THINK}...{THINK_END} blocks, not one.")
    answer = text.split(THINK_END)[-1].strip()
    if CALL not in answer:
        return Completion(think, (), answer, problem)
    calls: list[Call] = []
    for number, content in enumerate(_between(answer, CALL, CALL_END), 1):
        found = _compat_call(content, f"Call {number}")
        if isinstance(found, Call):
            calls.append(found)
        else:
            problem = problem or found
    return Completion(think, tuple(calls), "", problem)


def _between(text: str, opening: str, closing: str) -> Iterator[str]:
    """What re.findall(f"{opening}(.*?){closing}") finds, in linear time."""
    end = 0
    while (begin := text.find(opening, end)) >= 0:
        begin += len(opening)
        close = text.find(closing, begin)
        if close < 0:
            return
        yield text[begin:close]
        end = close + len(closing)


def _compat_call(content: str, where: str) -> Call | Problem:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        return Problem("bad_json", f"{where} is not JSON: {error}.")
    if _is_too_deep(content, 0, len(content), value):
        return Problem("bad_json", f"{where} is not readable: {_TOO_DEEP}.")
    match value:
        case {"name": str(name), "arguments": dict(arguments)}:
            return Call(name, arguments)
        case {"name": str(name), "arguments": str() | list() as keys} if _are_keys(keys):
            # simrl.py asks of each element whether the tool has an argument of that name. No such
            # argument has a value, so it scores like an argument that the label does not have.
            return Call(name, dict.fromkeys(keys))
    return _fault(value, where)


def _are_keys(values: str | list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)
