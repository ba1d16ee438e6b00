"""What a checker says of an answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """Right or wrong; what kind of error, in the official checker's words, and what it is about.

    `raises` names the exception that the official checker ends with on this answer; the answer is
    wrong then, and `error_type` is None, as there is none.
    """

    valid: bool
    error_type: str | None = None  # None where the answer is right
    error: tuple[str, ...] = ()  # for people: what was expected and what was found
    sub_error_types: tuple[str, ...] = ()  # of the calls that were tried, where several were
    raises: str | None = None
