"""Where the official checker ends with an exception, and the answer counts as wrong."""

from __future__ import annotations


class Crash(Exception):
    """The official checker raises the exception of this name; `check` makes a Verdict of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name
