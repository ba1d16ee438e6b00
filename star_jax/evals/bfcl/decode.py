"""What a model wrote as the calls that BFCL's Qwen handler finds in it, or as a Failure.

    text → clean → bodies of <tool_call> → calls

    [{"name": "f", "arguments": {"x": 1}}, ...]      [] where there is no call

No text raises. v3 (bfcl-eval 2025.8.6.2) and v4 (2026.3.23) differ where a body is no JSON object:
v3 then finds no call at all; v4 leaves out what is no JSON and fails on JSON that is no object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from star_jax.evals.bfcl.crash import Crash

Version = Literal["v3", "v4"]

OPEN, CLOSE = "<tool_call>\n", "\n</tool_call>"
THINK, THINK_END = "<think>", "</think>"


class Call(TypedDict):
    name: Any  # of any type that may be a key: the official decoder asks for no string
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """The official decoder ends with an exception. A wrong answer, and a correct refusal."""

    error: str  # the exception's name
    why: str

    def __str__(self) -> str:
        return f"{self.error}: {self.why}"


def decode(text: str, version: Version = "v3") -> list[Call] | Failure:
    """The calls of a single turn, for `check`."""
    return _calls(text, version, strings=False)


def decode_turn(text: str, version: Version = "v3") -> list[Call] | Failure:
    """The calls of a step of a multi-turn entry: here arguments may be a string of JSON."""
    return _calls(text, version, strings=True)


def decode_execute(text: str, version: Version = "v3") -> list[str] | Failure:
    """The calls of a step as Python, `f(x=1)`, as the official multi-turn checker takes them.

    Text for comparing and for prompts, never for running: a model chose every name in it.
    """
    calls = decode_turn(text, version)
    if isinstance(calls, Failure):
        return calls
    try:
        return [spelled(call) for call in calls]
    except RecursionError:
        return Failure("RecursionError", "arguments nest too deep to be written")


def spelled(call: Call) -> str:
    return f"{call['name']}({','.join(f'{k}={v!r}' for k, v in call['arguments'].items())})"


def clean(text: str) -> tuple[str, str]:
    """The reasoning and the answer behind it. Without `</think>` all of the text is the answer."""
    before, *rest = text.split(THINK_END)
    if not rest:
        return "", text
    return before.rstrip("\n").split(THINK)[-1].lstrip("\n"), rest[-1].lstrip("\n")


def _calls(text: str, version: Version, *, strings: bool) -> list[Call] | Failure:
    if version not in get_args(Version):
        raise ValueError(f"version is {version!r}: give one of {', '.join(get_args(Version))}")
    found = [_loaded(body) for body in bodies(clean(text)[1])]
    if version == "v4":
        found = [value for value in found if not isinstance(value, Unreadable)]
    if not all(isinstance(value, dict) for value in found):
        return [] if version == "v3" else Failure("ValueError", "a call is no JSON object")
    try:
        return [_call(value, strings) for value in found]
    except Crash as crash:
        return Failure(crash.name, crash.why)


def bodies(text: str) -> Iterator[str]:
    """What stands between the tags. The newlines beside them are part of the tags."""
    start = text.find(OPEN)
    while start >= 0:
        start += len(OPEN)
        stop = text.find(CLOSE, start)
        if stop < 0:
            return
        yield text[start:stop]
        start = text.find(OPEN, stop + len(CLOSE))


class Unreadable:
    """A body that is no JSON."""


def _loaded(body: str) -> Any:
    try:
        return json.loads(body)
    # Also a number of thousands of digits (ValueError), and brackets in brackets without end.
    except (ValueError, RecursionError):
        return Unreadable()


def _call(value: dict[str, Any], strings: bool) -> Call:
    for field in ("name", "arguments"):
        if field not in value:
            raise Crash("KeyError", f"a call has no {field!r}")
    name, arguments = value["name"], value["arguments"]
    if strings and isinstance(arguments, str):
        arguments = _unpacked(arguments)
    if isinstance(name, list | dict):
        raise Crash("TypeError", "a call's name is a list or an object")
    if not isinstance(arguments, dict):
        raise Crash("AttributeError", "a call's arguments are no object")
    return {"name": name, "arguments": arguments}


def _unpacked(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Crash(type(error).__name__, "a call's arguments are a string without JSON") from error
