"""Calls by name: what an API object answers, as text.

    objects → the methods that a call may reach          methods
    methods, a call → the text that the model is shown   perform

The official code evaluates `name(key=value, ...)` as Python. Here a call reaches a public method
that an involved class itself defines, and nothing else: no attribute, no dunder, no builtin.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any

Call = Mapping[str, Any] | str  # {name, arguments}, or Python such as cd(folder='a')
Method = Callable[..., Any]

FAILED = "Error during execution: "  # how every failure begins, in the official words
MAX_SOURCE = 1_000_000  # characters of a call
MAX_RESULT = 10_000_000  # characters of an answer

# Names that the official code refuses before it evaluates anything.
_BLOCKED = frozenset({"kill", "exit", "quit", "remove", "unlink", "popen", "Popen", "run"})


class _Refused(Exception):
    """A call that reaches nothing, and why."""


def methods(objects: Mapping[str, object]) -> dict[str, Method]:
    """The public methods by name. Of two classes with one name the last involved has it."""
    found: dict[str, Method] = {}
    for owner in objects.values():
        for name, function in vars(type(owner)).items():
            if isinstance(function, FunctionType) and not name.startswith("_"):
                found[name] = function.__get__(owner)
    return found


def perform(table: Mapping[str, Method], call: object) -> str:
    """A call's result as the official code writes it; a failure is a result too."""
    try:
        name, positional, named = _read(call)
        method = _reached(table, name)
        if word := unwritable(named.values()):
            raise _Refused(f"name {word!r} is not defined")
        result = _written(method(*positional, **named))
    except Exception as error:
        # The model is shown whatever goes wrong inside an API, as the official code does it.
        return f"{FAILED}{error}"
    return result if len(result) <= MAX_RESULT else f"{FAILED}the result is too long"


def _read(call: object) -> tuple[str, list[Any], dict[str, Any]]:
    if isinstance(call, str):
        return _parsed(call)
    if not isinstance(call, Mapping):
        raise _Refused("a call is an object with name and arguments")
    name, named = call["name"], call.get("arguments")
    if not isinstance(name, str):
        raise _Refused("the name of a call is a string")
    if not isinstance(named, Mapping):
        raise _Refused("the arguments of a call are an object")
    name = name.strip()
    for key in named:
        if not isinstance(key, str) or not key.isidentifier() or keyword.iskeyword(key):
            raise _Refused("invalid syntax (<string>, line 1)")
    return name, [], dict(named)


def _parsed(source: str) -> tuple[str, list[Any], dict[str, Any]]:
    """A call written as Python, its arguments literals."""
    if len(source) > MAX_SOURCE:
        raise _Refused("the call is too long")
    node = ast.parse(source.strip(), "<string>", mode="eval").body
    if not isinstance(node, ast.Call) or any(one.arg is None for one in node.keywords):
        raise _Refused("invalid syntax (<string>, line 1)")
    try:
        positional = [ast.literal_eval(one) for one in node.args]
        named = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
    except ValueError:
        raise _Refused("the arguments of a call are literals") from None
    return ast.unparse(node.func), positional, named


def _reached(table: Mapping[str, Method], name: str) -> Method:
    parts = name.split(".")
    word = parts[1] if len(parts) > 1 else name
    if word in _BLOCKED:
        raise _Refused(f"Function call {word} is not allowed.")
    if name not in table:
        raise _Refused(f"name {parts[0]!r} is not defined")
    return table[name]


def _written(result: object) -> str:
    if isinstance(result, str):
        return result
    if type(result) is dict:
        try:
            return json.dumps(result)
        except (TypeError, ValueError, RecursionError):
            return str(result)  # it holds what JSON cannot say, such as a number of mpmath
    return str(result)


def unwritable(values: Iterable[Any]) -> str | None:
    """`nan` or `inf`, whichever stands first among the values, if any.

    Their Python spelling names nothing: the official code answers such a call with an error.
    """
    waiting = list(values)[::-1]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return "nan" if math.isnan(value) else "inf"
        if isinstance(value, dict):
            waiting.extend(list(value.values())[::-1])
        elif isinstance(value, list):
            waiting.extend(value[::-1])
    return None
