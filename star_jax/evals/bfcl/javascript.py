"""JavaScript literals as Python values, as the official checker reads them.

    "true", "Boolean" → True      "[1, 'a']", "array" → [1, "a"]      "{a: 1}", "dict" → {"a": 1}

As with Java (see there): what does not look like a literal of its type stays text, the patterns
are the official ones with all that they miss, and no text makes this slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from star_jax.evals.bfcl.crash import Crash
from star_jax.evals.bfcl.lines import skip_space, until, whole

INTEGER = re.compile(r"-?\d+$")
FLOAT = re.compile(r"-?\d+(?:\.\d+)?$")
BIGINT = re.compile(r"-?\d+n$")
NEW_ARRAY = re.compile(r"new\s+Array\(")
ROW_OPENS = re.compile(r"\s*\[")
NEXT_ROW = re.compile(r",\s*\[")
ROW = re.compile(r"\[(.*?)\]")
ANYWHERE = re.compile("")
QUOTES = "\"'"


def convert(text: str, kind: str, items: str | None = None) -> Any:
    """The value that `text` is for a parameter of type `kind`; of `items` in an array."""
    match kind:
        case "String":
            return unquoted(text)
        case "integer":
            return whole(text) if INTEGER.match(text) else text
        case "float":
            return float(text) if FLOAT.match(text) else text
        case "Bigint":
            # A newline at the end passes the pattern, and is what `int` then stumbles over.
            return whole(text[:-1]) if BIGINT.match(text) else text
        case "Boolean":
            return {"true": True, "false": False}.get(text, text)
        case "any":
            return text
        case "array" | "dict":
            return collection(text, kind, items)
    raise Crash("ValueError")


def unquoted(text: str) -> str:
    for quote in QUOTES:
        if text.startswith(quote) and text.endswith(quote):
            return text[1:-1]
    return text


def untyped(text: str) -> Any:
    """An element of a collection whose elements have no type: whatever it looks like."""
    text = text.strip()
    if text in ("true", "false"):
        return text == "true"
    if (bare := unquoted(text)) != text:
        return bare
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def collection(text: str, kind: str, items: str | None) -> Any:
    """An array, `[...]` or `new Array(...)`, or an object; the stripped text if it is neither."""
    text = text.strip()
    try:
        found = array(text, items) if kind == "array" else mapping(text)
    except Crash:  # an element's type is unknown, or its number too long
        return text
    return text if found is None else found


def array(text: str, items: str | None) -> list[Any] | None:
    if body := opened(text):
        start, end = body
        if table := rows(text, start, end):
            return [[untyped(part) for part in row.split(",")] for row in table]
        row = until(text, start, end)
        if row is not None:
            parts = row.split(",") if row.strip() else []
            return [element(part.strip(), items) for part in parts]
    return None


def element(text: str, items: str | None) -> Any:
    return untyped(text) if items is None else convert(text, items)


def opened(text: str) -> tuple[int, str] | None:
    """Where an array's elements begin, and the bracket that ends them."""
    if text.startswith("["):
        return 1, "]"
    head = NEW_ARRAY.match(text)
    return (head.end(), ")") if head else None


def rows(text: str, start: int, end: str) -> list[str]:
    """The rows of an array of arrays; none if it is no such array."""
    row = ROW_OPENS.match(text, start)
    while row is not None:
        close = text.find("]", row.end())
        if close < 0 or text.find("\n", row.end(), close) >= 0:
            return []
        after = skip_space(text, close + 1)
        if text.startswith(end, after):
            return found_rows(text[: after + 1])
        # No next row and no end: the bracket belonged to the row's text.
        row = NEXT_ROW.match(text, after) or ANYWHERE.match(text, close + 1)
    return []


def found_rows(text: str) -> list[str]:
    found = ROW.findall(text)
    # In `[[1, 2], ...]` the first row is found with the bracket before it.
    return found and [found[0].lstrip().removeprefix("["), *found[1:]]


def mapping(text: str) -> dict[str, Any] | None:
    """`{key: value, ...}`: up to the first brace that closes, on one line."""
    body = until(text, 1, "}") if text.startswith("{") else None
    return None if body is None else {unmarked(key): valued(value) for key, value in pairs(body)}


def valued(text: str) -> Any:
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return collection(text, "array", None)
    return untyped(text.strip(QUOTES))


def unmarked(key: str) -> str:
    return key.strip().strip(QUOTES)


def pairs(body: str) -> Iterator[tuple[str, str]]:
    """Keys and values of an object's body: a comma ends a value if a key follows it."""
    start = 0
    while True:
        while body.startswith(":", start):
            start += 1
        colon = body.find(":", start)
        if colon < 0:
            return
        comma, following = next_key(body, colon + 1)
        yield body[start:colon], body[colon + 1 : comma]
        if comma == len(body):
            return
        start = following


def next_key(body: str, start: int) -> tuple[int, int]:
    """The first comma with a key behind it, and where the key begins; twice the end if none has.

    A key has a character or more, none of them a comma, and a colon behind it.
    """
    comma = body.find(",", start)
    while comma >= 0:
        end = body.find(",", comma + 1)
        last = len(body) if end < 0 else end
        key = skip_space(body, comma + 1)
        if body.find(":", key + 1, last) >= 0:
            return comma, key
        if key > comma + 1 and body.startswith(":", key):
            return comma, key - 1  # a key of one space
        comma = end
    return len(body), len(body)
