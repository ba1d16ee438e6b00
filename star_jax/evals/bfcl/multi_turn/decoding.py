"""What a model's text is in a dialogue: a message of the history, and the calls to perform.

The rules are those of the official local Qwen handler (`decode_execute`), which differ from its
single-turn ones: arguments may be a string that holds JSON. No text raises.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

_OPEN, _CLOSE = "<tool_call>\n", "\n</tool_call>"
_END_OF_THOUGHT = "</think>"


@dataclass(frozen=True)
class Step:
    """A model's text, read."""

    message: dict[str, Any]  # as it stands in the history
    calls: tuple[dict[str, Any], ...]  # {name, arguments}; none ends the turn
    unprintable: str | None  # why the official prompt cannot hold the message, if it cannot


def read(text: str, version: str) -> Step:
    """Read a text. Bodies that are no JSON are dropped in v4, and spoil the text in v3."""
    reply, reasoning = text, ""
    if _END_OF_THOUGHT in text:
        head, *_, reply = text.split(_END_OF_THOUGHT)
        reasoning = head.rstrip("\n").split("<think>")[-1].lstrip("\n")
        reply = reply.lstrip("\n")
    # The history is made from the whole text: a call inside the thoughts is written there as one.
    written = _bodies(text, version)
    message: dict[str, Any] = {"role": "assistant", "content": "" if written else reply}
    if written:
        message["tool_calls"] = written
    message["reasoning_content"] = reasoning
    return Step(message, _calls(_bodies(reply, version)), _unprintable(written))


def spelled(call: dict[str, Any]) -> str:
    """A call as Python, which is how the official code names a tool's message."""
    try:
        inside = ",".join(f"{key}={value!r}" for key, value in call["arguments"].items())
    except (RecursionError, ValueError):
        inside = "..."  # nested too deeply, or a number too long to print
    return f"{call['name']}({inside})"


def _bodies(text: str, version: str) -> list[Any]:
    """What stands between the tags; a body that is no JSON as its text, in v3."""
    found: list[Any] = []
    at = text.find(_OPEN)
    while at >= 0:
        start = at + len(_OPEN)
        end = text.find(_CLOSE, start)
        if end < 0:
            break
        body = text[start:end]
        try:
            found.append(json.loads(body))
        except (ValueError, RecursionError):
            if version == "v3":
                found.append(body)
        at = text.find(_OPEN, end + len(_CLOSE))
    return found


def _calls(bodies: list[Any]) -> tuple[dict[str, Any], ...]:
    """The calls, or none at all where one of them is malformed."""
    calls = []
    for body in bodies:
        if not isinstance(body, dict) or "name" not in body or "arguments" not in body:
            return ()
        arguments = body["arguments"]
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError):
                return ()
        if not isinstance(arguments, dict) or isinstance(body["name"], (list, dict)):
            return ()
        calls.append({"name": body["name"], "arguments": arguments})
    return tuple(calls)


def _unprintable(bodies: list[Any]) -> str | None:
    for body in bodies:
        call = body.get("function", body) if isinstance(body, dict) else body
        if not isinstance(call, dict):
            return "a tool call is no JSON object"
        if not isinstance(call.get("name"), str):
            return "a tool call has no name, or one that is no string"
        if "arguments" not in call:
            return "a tool call has no arguments"
    return None
