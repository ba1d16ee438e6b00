"""Files of a run that may be missing, torn or another's: what can be read, and a note on the rest.

A run that is under way or was killed ends its .jsonl files in half a line, which is passed over in
silence: going on, it is written again. Anything else that can't be read is told on the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def load(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """A JSON object; None where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        notes.append(f"{path.name} can't be read ({error}).")
        return None
    if not isinstance(found, dict):
        notes.append(f"{path.name} is no JSON object.")
        return None
    return found


def rows(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file, but for half a last line."""
    bad: list[int] = []
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n"):
                    break
                row = _parsed(raw)
                if row is None:
                    bad.append(number)
                else:
                    yield row
    except FileNotFoundError:
        return
    except OSError as error:
        notes.append(f"{path.name} can't be read ({error}).")
    if bad:
        some = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        notes.append(f"{path.name}: {len(bad)} lines are no JSON object and passed over: {some}.")


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def text(path: Path, notes: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="backslashreplace")
    except FileNotFoundError:
        return None
    except OSError as error:
        notes.append(f"{path.name} can't be read ({error}).")
        return None


def as_number(value: Any) -> float | None:
    """Of what JSON holds; a number that is not finite is written as "nan", "inf" or "-inf"."""
    if isinstance(value, int | float) or value in ("nan", "inf", "-inf"):
        try:
            return float(value)
        except OverflowError:  # an integer of hundreds of digits
            return float("inf")
    return None


def numbers(found: Any) -> dict[str, float]:
    """The entries of an object that are numbers."""
    if not isinstance(found, dict):
        return {}
    read = {str(key): as_number(value) for key, value in found.items()}
    return {key: value for key, value in read.items() if value is not None}


def finite(found: Any) -> dict[str, float]:
    return {key: value for key, value in numbers(found).items() if abs(value) < float("inf")}
