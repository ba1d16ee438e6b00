"""Which conversations may be written as text: every fault has a field, a reason and a remedy.

A template renders nothing where it finds what it does not expect: a list for content, a role it
does not know, reasoning under another name. All of that is refused here before it is lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from star_jax.chat.completion import Call

Message = Mapping[str, Any]
Tool = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """What is wrong with a conversation, where, and what to do about it."""

    field: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.field}: {self.what}: {self.remedy}"


def check(messages: object, tools: object = None) -> Iterator[Fault]:
    """Every reason why a conversation cannot be rendered without losing or inventing something."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        yield Fault("messages", f"is {_kind(messages)}", "give a list with at least one message")
        return
    for index, message in enumerate(messages):
        yield from _check_message(f"messages[{index}]", message)
    yield from check_tools(tools)


def check_tools(tools: object) -> Iterator[Fault]:
    """Every reason why a list of tool schemas cannot be rendered; None is no tools."""
    if tools is None:
        return
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        yield Fault("tools", f"is {_kind(tools)}", "give a list of tool schemas, or null for none")
        return
    for index, tool in enumerate(tools):
        yield from _check_tool(f"tools[{index}]", tool)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string" if value else "an empty string"
        case Mapping():
            return "an object"
        case Sequence():
            return "a list" if value else "an empty list"
        case _:
            return f"a {type(value).__name__}"


def _check_message(field: str, message: object) -> Iterator[Fault]:
    if not isinstance(message, Mapping):
        yield Fault(field, f"is {_kind(message)}", "give an object with role and content")
        return
    role = message.get("role")
    if role not in ("system", "user", "assistant", "tool"):
        what = f"is {role!r}" if "role" in message else "is missing"
        yield Fault(f"{field}.role", what, "use system, user, assistant or tool")
        return
    yield from _check_content(field, role, message)
    for name in ("reasoning", "thinking"):
        if message.get(name) is not None:
            yield Fault(
                f"{field}.{name}", "is not read by the template", "name it reasoning_content"
            )
    reasoning = message.get("reasoning_content")
    if reasoning and role != "assistant":
        yield Fault(f"{field}.reasoning_content", f"stands in a {role} message", "remove it")
    elif reasoning is not None and not isinstance(reasoning, str):
        yield Fault(f"{field}.reasoning_content", f"is {_kind(reasoning)}", "give a string or null")
    yield from _check_calls(field, role, message.get("tool_calls"))


def _check_content(field: str, role: str, message: Message) -> Iterator[Fault]:
    content = message.get("content")
    if isinstance(content, str) or (role == "assistant" and content is None):
        return
    if "content" not in message:
        yield Fault(f"{field}.content", "is missing", "give a string")
    elif content is not None or role == "system":
        # The template would render nothing in its place.
        remedy = "give a string; join parts to one, write objects as JSON text"
        yield Fault(f"{field}.content", f"is {_kind(content)}", remedy)


def _check_calls(field: str, role: str, calls: object) -> Iterator[Fault]:
    field = f"{field}.tool_calls"
    if not calls:
        return
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        yield Fault(field, f"is {_kind(calls)}", "give a list of calls, or null for none")
    elif role != "assistant":
        yield Fault(field, f"stands in a {role} message", "only an assistant message may call")
    else:
        for index, call in enumerate(calls):
            yield from _check_call(f"{field}[{index}]", call)


def _check_call(field: str, call: object) -> Iterator[Fault]:
    if not isinstance(call, Mapping):
        yield Fault(field, f"is {_kind(call)}", "give an object with name and arguments")
        return
    if call.get("function"):
        field, call = f"{field}.function", call["function"]
        if not isinstance(call, Mapping):
            yield Fault(field, f"is {_kind(call)}", "give an object with name and arguments")
            return
    yield from _check_name(field, call)
    arguments = call.get("arguments")
    if isinstance(arguments, Mapping):
        return
    what = f"is {_kind(arguments)}" if "arguments" in call else "is missing"
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            what = f"is a string that is not JSON ({error})"
        else:
            if isinstance(value, dict):
                return
            what = f"is a string that holds {_kind(value)}"
    yield Fault(f"{field}.arguments", what, "give an object, {} for none, or its JSON as a string")


def _check_name(field: str, holder: Mapping[str, Any]) -> Iterator[Fault]:
    name = holder.get("name")
    if not isinstance(name, str) or not name:
        what = f"is {_kind(name)}" if "name" in holder else "is missing"
        yield Fault(f"{field}.name", what, "give the function's name")
    elif json.dumps(name, ensure_ascii=False) != f'"{name}"':
        # The template writes the name between quotes as it stands.
        yield Fault(f"{field}.name", f"is {name!r}", "leave out quotes, backslashes and controls")


def _check_tool(field: str, tool: object) -> Iterator[Fault]:
    if not isinstance(tool, Mapping):
        yield Fault(field, f"is {_kind(tool)}", "give the tool's schema as an object")
    elif "function" not in tool:
        yield from _check_name(field, tool)
    elif isinstance(tool["function"], Mapping):
        yield from _check_name(f"{field}.function", tool["function"])
    else:
        what = f"is {_kind(tool['function'])}"
        yield Fault(f"{field}.function", what, "give the tool's schema as an object")


def refuse_faults(messages: object, tools: object) -> None:
    for fault in check(messages, tools):
        raise ValueError(str(fault))


def called(tool_call: Mapping[str, Any]) -> Call:
    """A call of a checked message: flat or under `function`, arguments as object or as string."""
    function = tool_call.get("function") or tool_call
    arguments = function["arguments"]
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return Call(function["name"], dict(arguments))
