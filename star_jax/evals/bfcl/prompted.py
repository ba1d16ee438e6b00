"""Calls that a prompted model wrote as Python, `[f(a=1), g.h(b="x")]`, read and never run.

    text → calls as `decode` gives them, or a Failure

For models without tool calls of their own. Follows the official reader of Python syntax with its
habits: positional arguments are dropped, a bare name is a string, a call inside a call is a dict,
any sign is a minus. Where that evaluates arithmetic, this computes it, for numbers and strings
alone.
"""

from __future__ import annotations

import ast
import operator
import warnings
from typing import Any

from star_jax.evals.bfcl.crash import Crash
from star_jax.evals.bfcl.decode import Call, Failure, Version

# Far more than any answer has. Python's parser needs a thousand times a text's size for the worst.
MAX_CHARS = 100_000
MAX_BITS = 4096  # of a number that arithmetic makes
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def decode_prompted(text: str, version: Version = "v3") -> list[Call] | Failure:
    """The calls of an answer to a prompt that asks for a list of Python calls."""
    if len(text) > MAX_CHARS:
        return Failure("MemoryError", f"longer than {MAX_CHARS} characters")
    try:
        return [called(node) for node in nodes(text, version)]
    except Crash as crash:
        return Failure(crash.name, crash.why)
    # What Python's parser says of a text that is no Python, nests too deep, has half a character.
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return Failure(type(error).__name__, "no list of calls in Python")


def nodes(text: str, version: Version) -> list[ast.Call]:
    text = text.strip("`\n ")
    text = text if text.startswith("[") else "[" + text
    text = text if text.endswith("]") else text + "]"
    if version == "v3":
        text = text.strip("[]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of escapes that it does not know
        found = ast.parse(text, mode="eval").body
    if isinstance(found, ast.Call):
        return [found]
    if not isinstance(found, ast.List | ast.Tuple | ast.Set):
        raise Crash("AttributeError", "no list of calls")
    if not all(isinstance(node, ast.Call) for node in found.elts):
        raise Crash("AssertionError", "an element of the list is no call")
    return [node for node in found.elts if isinstance(node, ast.Call)]


def refuse(node: ast.AST | None) -> Any:
    raise Crash("Exception", f"{type(node).__name__} is nothing that a call may hold")


def called(node: ast.Call) -> Call:
    return {"name": dotted(node.func), "arguments": keywords(node)}


def keywords(node: ast.Call) -> dict[Any, Any]:
    return {keyword.arg: value(keyword.value) for keyword in node.keywords}


def dotted(node: ast.expr) -> str:
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        names.append(node.id)
    return ".".join(reversed(names))


def value(node: ast.expr | None) -> Any:
    match node:
        case ast.Constant():
            return "..." if node.value is ... else node.value
        case ast.Name():
            return node.id
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() | complex() as number)):
            return -number
        case ast.List():
            return [value(item) for item in node.elts]
        case ast.Tuple():
            return tuple(value(item) for item in node.elts)
        case ast.Dict():
            return {
                key(name): value(item) for name, item in zip(node.keys, node.values, strict=True)
            }
        case ast.Call():
            return {dotted(node.func): keywords(node)} if node.keywords else ast.unparse(node)
        case ast.Subscript():
            return f"{ast.unparse(node.value)}[{ast.unparse(node.slice)}]"
        case ast.BinOp():
            return computed(node)
    return refuse(node)


def key(node: ast.expr | None) -> Any:
    found = value(node)
    try:
        hash(found)
    except TypeError as error:
        raise Crash("TypeError", "a dict's key is a list or a dict") from error
    return found


def computed(node: ast.expr) -> Any:
    """Arithmetic on numbers, and strings put together."""
    match node:
        case ast.Constant(value=int() | float() | complex() | str()):
            return node.value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            number = computed(operand)
            return refuse(node) if isinstance(number, str) else -number
        case ast.BinOp():
            left, right = computed(node.left), computed(node.right)
            return combined(node, left, right)
    return refuse(node)


def combined(node: ast.BinOp, left: Any, right: Any) -> Any:
    operation = OPERATORS.get(type(node.op))
    if operation is None or too_large(node.op, left, right):
        return refuse(node)
    try:
        return operation(left, right)
    except (ArithmeticError, TypeError) as error:
        raise Crash(type(error).__name__, "arithmetic that fails") from error


def too_large(operation: ast.operator, left: Any, right: Any) -> bool:
    if isinstance(left, str) or isinstance(right, str):
        return not isinstance(operation, ast.Add)
    bits = [item.bit_length() for item in (left, right) if isinstance(item, int)]
    if isinstance(operation, ast.Pow) and len(bits) == 2:
        return bits[0] * max(right, 1) > MAX_BITS
    return any(count > MAX_BITS for count in bits)
