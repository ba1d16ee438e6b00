"""Arithmetic between constants, where an answer computes a value: `hours=24*7`.

The official checker hands such an expression to Python's `eval`. Here it is computed on constants
alone, by the operators below, and no result may grow large. What would have to be run (a name, a
call, a formatted string) is Unreadable: that is where a verdict can differ from the official one.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

MAX_BITS = 20_000  # of an integer that is computed
MAX_LENGTH = 10_000  # of a text that is computed

Number = bool | int | float | complex


class Unreadable(ValueError):
    """The text is no list of calls with constant arguments."""


UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.inv,
    ast.Not: operator.not_,
}
BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}


def compute(node: ast.expr | None) -> Any:
    """The value of an expression of constants. Whatever Python's operators raise goes through."""
    match node:
        case ast.Constant(value):
            return value
        case ast.UnaryOp(op, operand):
            return UNARY[type(op)](compute(operand))
        case ast.BinOp(left, op, right):
            return _apply(op, compute(left), compute(right))
        case ast.List(items):
            return [compute(item) for item in items]
        case ast.Tuple(items):
            return tuple(compute(item) for item in items)
        case ast.Dict(keys, values):
            return {compute(key): compute(value) for key, value in zip(keys, values, strict=True)}
    raise Unreadable(f"{type(node).__name__} inside arithmetic would have to be run")


def _apply(op: ast.operator, left: Any, right: Any) -> Any:
    if type(op) not in BINARY:
        raise Unreadable(f"{type(op).__name__} is no arithmetic")
    if isinstance(left, Number) and isinstance(right, Number):
        _refuse_large_number(op, left, right)
    elif isinstance(op, ast.Mult | ast.Mod):
        _refuse_large_text(op, left, right)
    return BINARY[type(op)](left, right)


def _refuse_large_number(op: ast.operator, left: Number, right: Number) -> None:
    if not (isinstance(left, int) and isinstance(right, int)):
        return  # floats overflow, and say so
    bits = left.bit_length() + right.bit_length()
    if isinstance(op, ast.Pow):
        bits = left.bit_length() * max(right, 0)
    elif isinstance(op, ast.LShift):
        bits = left.bit_length() + max(right, 0)
    if bits > MAX_BITS:
        raise Unreadable("an integer would grow too large")


def _refuse_large_text(op: ast.operator, left: Any, right: Any) -> None:
    """A text may be repeated, not too often. Repeating a list, or formatting with `%`, is left to
    nobody: lists in lists would grow without bound, and so would padded fields."""
    text, count = (right, left) if isinstance(left, int) else (left, right)
    if isinstance(op, ast.Mod) or not isinstance(text, str | bytes) or not isinstance(count, int):
        raise Unreadable("only numbers are multiplied, and texts by numbers")
    if len(text) * count > MAX_LENGTH:
        raise Unreadable("a text would grow too long")
