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

from star_jax.evals.bfcl.crash import Crash
from star_jax.evals.bfcl.lines import line_end, skip_space, whole

INTEGER = re.compile(r"-?\d+$")
LONG = re.compile(r"(-?\d+)[lL]$")
FLOAT = re.compile(r"(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[fF]$")
DOUBLE = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?$")

ARRAY = re.compile(r"new\s+\w+\[\]\s*\{")
LIST_OF = re.compile(r"new\s+ArrayList<\w*>\(Arrays\.asList\(")
LIST = re.compile(r"new\s+ArrayList<\w*>\(\)")
LIST_BLOCK = re.compile(r"new\s+ArrayList<\w*>\(\)\s*\{\{\s*")
ADD = re.compile(r"add\(")
MAP = re.compile(r"new\s+HashMap<")
MAP_TAIL = re.compile(r">\s*\(\)")
MAP_BLOCK = re.compile(r">\s*\(\)\s*\{")

# Types that the official table knows and its converter has no code for.
UNREADABLE = frozenset({"Set", "Hashtable", "Queue", "Stack"})


def convert(text: str, kind: str, items: str | None = None) -> Any:
    """The value that `text` is for a parameter of type `kind`; of `items` in a collection."""
    match kind:
        case "byte" | "short" | "integer":
            return whole(text) if INTEGER.match(text) else text
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
    for body in bodies(text, ARRAY, "}"):
        elements = (part.strip() for part in body.split(","))
        return [element(part, items) for part in elements if part]
    return text


def element(text: str, items: str | None) -> Any:
    return untyped(text) if items is None else convert(text, items)


def array_list(text: str, items: str | None) -> Any:
    """`new ArrayList<T>(Arrays.asList(...))`, or with a block of `add(...)`, or empty."""
    for body in bodies(text, LIST_OF, "))", least=1):
        return [listed(part.strip(), items) for part in body.split(",")]
    if block := LIST_BLOCK.search(text):
        stop = text.find("}}", block.end() + 1)
        if stop >= 0:
            added = bodies(text[block.end() : stop], ADD, ")", least=1)
            return [listed(part.strip(), items) for part in added]
    return [] if LIST.search(text) else text


def listed(text: str, items: str | None) -> Any:
    # The official converter takes quotes off without a look whether there are any.
    return text[1:-1] if items in ("String", "char") else element(text, items)


def hash_map(text: str) -> Any:
    """`new HashMap<K, V>()` with a block of `put("key", value);` up to the first closing brace."""
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
    at, end = 0, -1
    while (start := block.find('put("', at)) >= 0:
        if end < start:
            end = line_end(block, start)
        pair = key_and_value(block, start + 5, end)
        if pair is None:
            at = end  # no other put on this line has what this one lacks
            continue
        key, value, at = pair
        yield key, value.strip()


def key_and_value(block: str, start: int, end: int) -> tuple[str, str, int] | None:
    """The key from `start` on, the value behind it, and where that ends.

    The key ends at the line's first `",`. Where no value follows on that line, the value may stand
    on the next, behind a `",` that ends the line.
    """
    for find in (block.find, block.rfind):
        split = find('",', start, end)
        if split < 0:
            return None
        opens = skip_space(block, split + 2)
        closes = block.find(")", opens, line_end(block, opens) if opens > end else end)
        if closes >= 0:
            return block[start:split], block[opens:closes], closes + 1
    return None


def bodies(text: str, head: re.Pattern[str], end: str, least: int = 0) -> Iterator[str]:
    """What stands between each head and the next `end`, where that is on the same line.

    `least` is the number of characters that a body has at least. Where an end or a line's end was
    found, it is kept for the heads to come: a text of nothing but heads is read once.
    """
    stop = line = -1
    after = 0
    for found in head.finditer(text):
        start = found.end()
        if found.start() < after:
            continue
        if stop < start + least:
            stop = text.find(end, start + least)
        if stop < 0:
            return
        if line < start:
            line = line_end(text, start)
        if stop < line:
            yield text[start:stop]
            after = stop + len(end)
