"""The text of an answer → calls, by the rules of ACEBench's decoder.

    "[book(city='Oslo', nights=2)]" → [Call("book", {"city": "Oslo", "nights": 2})]

The text is parsed as Python and never run. All white space goes first, that inside of strings too:
official, and why 'New York' is judged as 'NewYork'. The odd rules are the official decoder's:
positional arguments are dropped, a bare name is a text, `not True` is −1 (every sign is a minus),
`(f(),)` and `{f()}` are as good as `[f()]`.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import Any

from star_jax.evals.acebench.arithmetic import Number, Unreadable, compute

MAX_CHARS = 100_000  # of an answer; official runs stop after 1,024 tokens


@dataclass(frozen=True)
class Call:
    """One call. The key of `**arguments` is None, as in the official decoder."""

    name: str
    arguments: dict[str | None, Any]


# What Python's parser and operators end with on a text that is no list of calls.
_FAILURES = (
    SyntaxError,
    ValueError,  # null bytes, lone surrogates, too many digits; Unreadable
    TypeError,  # {[]: 1}, 1 + 'a'
    ArithmeticError,  # 1/0, 2.0**9999
    RecursionError,
    MemoryError,  # the parser's own stack
)


def decode(text: str) -> list[Call]:
    """The calls of an answer. Raises Unreadable, and nothing else, where it is no list of calls."""
    if not isinstance(text, str):
        raise Unreadable(f"it is {type(text).__name__}, not text")
    if len(text) > MAX_CHARS:
        raise Unreadable(f"{len(text)} characters are too many to read ({MAX_CHARS} at most)")
    try:
        return _read("".join(text.split()))
    except _FAILURES as error:
        raise Unreadable(str(error) or type(error).__name__) from error


def _read(text: str) -> list[Call]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # '\d' is a text like any other
        body = ast.parse(text, mode="eval").body
    if not isinstance(body, ast.List | ast.Tuple | ast.Set):
        raise Unreadable("it is no list of calls")
    return [_call(element) for element in body.elts]


def _call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call):
        raise Unreadable(f"the list holds something that is no call: {type(node).__name__}")
    arguments = {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    return Call(_name(node.func), arguments)


def _name(node: ast.expr) -> str:
    """`a.b.c` of a.b.c(…). What stands before the dots is left out where it is no name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def _value(node: ast.expr | None) -> Any:
    match node:
        case ast.Constant(value):
            return "..." if value is ... else value
        case ast.UnaryOp(operand=ast.Constant(value)):
            return _negative(value)
        case ast.List(items):
            return [_value(item) for item in items]
        case ast.Tuple(items):
            return tuple(_value(item) for item in items)
        case ast.Dict(keys, values):
            pairs = zip(keys, values, strict=True)
            return {_value(key): _value(value) for key, value in pairs}
        case ast.BinOp():
            return compute(node)
        case ast.Name(name):
            return name
        case ast.Call():
            call = _call(node)
            return {call.name: call.arguments}
        case ast.Subscript(value, index):
            return f"{ast.unparse(value)}[{ast.unparse(index)}]"
    raise Unreadable(f"{type(node).__name__} is no constant")


def _negative(value: Any) -> Number:
    if not isinstance(value, Number):
        raise Unreadable(f"a sign stands before {type(value).__name__}")
    return -value
