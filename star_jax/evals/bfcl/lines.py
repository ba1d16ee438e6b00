"""Steps of reading a literal: to the end of a line, over white space, a whole number."""

from __future__ import annotations

from star_jax.evals.bfcl.crash import Crash


def until(text: str, start: int, end: str) -> str | None:
    """What stands before the next `end` on the same line."""
    stop = text.find(end, start)
    if stop < 0 or text.find("\n", start, stop) >= 0:
        return None
    return text[start:stop]


def line_end(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found


def skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def whole(digits: str) -> int:
    """The number that digits are. Python refuses thousands of them, and so the official checker."""
    try:
        return int(digits)
    except ValueError as error:
        raise Crash("ValueError") from error
