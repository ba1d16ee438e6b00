"""Where the official checker ends with an exception, and the answer counts as wrong."""

from __future__ import annotations


class Crash(Exception):
    """The official code raises the exception of this name; a Verdict or a Failure is made of it."""

    def __init__(self, name: str, why: str = "") -> None:
        super().__init__(name)
        self.name = name
        self.why = why
