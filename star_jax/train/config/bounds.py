"""What a number may be; a sentence where it is not."""

from __future__ import annotations


def at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise ValueError(f"{name}: is {value}: give {least} or more")


def above(name: str, value: float | None, bound: float) -> None:
    if value is not None and not bound < value < float("inf"):
        raise ValueError(f"{name}: is {value}: give a number above {bound}")


def share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}: is {value}: give 0 or more, below 1")
