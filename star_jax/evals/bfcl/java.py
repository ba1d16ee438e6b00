"""Java literals as Python values, as the official checker reads them.

    "5L", "long" → 5        'new int[]{1, 2}', "Array" → [1, 2]        "5.0f", "double" → "5.0f"

A model answers a Java question with every argument as a string of Java source. What does not look
like a literal of its type stays the text that it is, and fails the check of types later. The
official converter is a handful of patterns; what they take and what they leave is kept here, but
read in one pass: no text makes this slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from star_jax.evals.bfcl.crash import Crash, whole

INTEGER = re.compile(r"-?\d+$")
LONG = re.compile(r"(-?\d+)[lL]$")
FLOAT = re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[fF]$")
DOUBLE = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$")

ARRAY = re.compile(r"new\s+\w+\[\]\s*\{")
LIST_OF = re.compile(r"new\s+ArrayList<\w*>\(Arrays\.asList\(")
LIST = re.compile(r"new\s+ArrayList<\w*>\(\)")
LIST_BLOCK = re.compile(r"new\s+ArrayList<\w*>\(\)\s*\{\{\s*")
MAP = re.compile(r"new\s+HashMap<")
MAP_TAIL = re.compile(r">\s*\(\)")
MAP_BLOCK = re.compile(r">\s*\(\)\s*\{")
SPACE = re.compile(r"\s*")

# Types that the official table knows and its converter has no code for. (It names Set for both.)
UNREADABLE = frozenset({"Set", "Hashtable", "Queue", "Stack"})


def convert(text: str, kind: str, items: str | None = None) -> Any:
    """The value that `text` is for a parameter of type `kind`; of `items` in a collection."""
    if number := {"byte": INTEGER, "short": INTEGER, "integer": INTEGER}.get(kind):
        return whole(text) if number.match(text) else text
    match kind:
        case "long":
            found = LONG.match(text)
            return whole(found[1]) if found else text
        case "float":
            found = FLOAT.match(text)
            return float(found[1]) if found else text
        case "double":
            return float(text) if DOUBLE.match(text) else text
        case "boolean":
            return {"true": True, "false": False}.get(text, text)
        case "char" | "String" | "any":
            return text
        case "Array":
            return array(text, items)
        case "ArrayList":
            return array_list(text, items)
        case "HashMap":
            return hash_map(text)
    raise Crash("NotImplementedError" if kind in UNREADABLE else "ValueError")


def untyped(text: str) -> Any:
    """An element of a collection whose elements have no type: whatever it looks like."""
    if text in ("true", "false"):
        return text == "true"
    if text.startswith('"') and text.endswith('"'):
        return text[1:-1]
    if found := LONG.match(text):
        return whole(found[1])
    if found := FLOAT.match(text):
        return float(found[1])
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def array(text: str, items: str | None) -> Any:
    """`new T[]{...}`, wherever in the text: up to the first brace that closes, on one line."""
    for start in ARRAY.finditer(text):
        body = until(text, start.end(), "}")
        if body is not None:
            elements = (part.strip() for part in body.split(","))
            return [element(part, items) for part in elements if part]
    return text


def element(text: str, items: str | None) -> Any:
    return untyped(text) if items is None else convert(text, items)


def array_list(text: str, items: str | None) -> Any:
    """`new ArrayList<T>(Arrays.asList(...))`, or with a block of `add(...)`, or empty."""
    for start in LIST_OF.finditer(text):
        body = until(text, start.end(), "))", least=1)
        if body is not None:
            return [listed(part.strip(), items) for part in body.split(",")]
    if block := LIST_BLOCK.search(text):
        stop = text.find("}}", block.end() + 1)
        if stop >= 0:
            return [listed(part.strip(), items) for part in added(text[block.end() : stop])]
    return [] if LIST.search(text) else text


def added(block: str) -> Iterator[str]:
    """What stands between the brackets of every `add(...)`."""
    at = 0
    while (start := block.find("add(", at)) >= 0:
        body = until(block, start + 4, ")", least=1)
        at = start + 4 if body is None else start + 4 + len(body) + 1
        if body is not None:
            yield body


def listed(text: str, items: str | None) -> Any:
    # The official converter takes quotes off without a look whether there are any.
    return text[1:-1] if items in ("String", "char") else element(text, items)


def hash_map(text: str) -> Any:
    """`new HashMap<K, V>()` with a block of `put("key", value);`, up to the first brace that closes."""
    head = MAP.search(text)
    if head is None:
        return text
    block = MAP_BLOCK.search(text, head.end())
    stop = text.find("}", block.end()) if block else -1
    if block and stop >= 0:
        return {key: untyped(value) for key, value in pairs(text[block.end() : stop])}
    return {} if is_empty_map(text) else text


def is_empty_map(text: str) -> bool:
    """Whether there is a `new HashMap<K, V>()` whose type stands on one line."""
    tail, line = MAP_TAIL.search(text), -1
    for head in MAP.finditer(text):
        if tail and tail.start() < head.end():
            tail = MAP_TAIL.search(text, head.end())
        if tail is None:
            return False
        if line < head.end():
            line = text.find("\n", head.end())
            line = len(text) if line < 0 else line
        if tail.start() < line:
            return True
    return False


def pairs(block: str) -> Iterator[tuple[str, str]]:
    """Every `put("key", value)` of a block."""
    at = 0
    while (start := block.find('put("', at)) >= 0:
        end = block.find("\n", start)
        end = len(block) if end < 0 else end
        for split in (block.find('",', start + 5, end), block.rfind('",', start + 5, end)):
            found = SPACE.match(block, split + 2)
            value = until(block, found.end(), ")") if split >= 0 and found else None
            if found and value is not None:
                yield block[start + 5 : split], value.strip()
                at = found.end() + len(value) + 1
                break
        else:
            at = end  # no other put on this line has what this one lacks


def until(text: str, start: int, end: str, least: int = 0) -> str | None:
    """What stands before the next `end` on the same line; `least` characters of it at least."""
    stop = text.find(end, start + least)
    line = text.find("\n", start, None if stop < 0 else stop)
    return None if stop < 0 or line >= 0 else text[start:stop]
