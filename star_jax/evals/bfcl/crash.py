"""What the official checker cannot take: it ends with an exception, and the answer counts as wrong."""

from __future__ import annotations


class Crash(Exception):
    """The official checker raises the exception of this name here; `check` makes a Verdict of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def whole(digits: str) -> int:
    """The number that digits are. Python refuses thousands of them, and so the official checker."""
    try:
        return int(digits)
    except ValueError as error:
        raise Crash("ValueError") from error
