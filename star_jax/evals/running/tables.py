"""Tables as a terminal and a page show them: rows of texts, counts and spans."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Span:
    """A number between two bounds (None: unbounded). `unit`: "%" is a share, "points" a difference
    of two, "plain" and "signed" are shown as they are."""

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = "%"

    def words(self) -> tuple[str, str]:
        if self.value is None:
            return "–", ""
        if self.low is None or self.high is None:
            return self._one(self.value), ""
        return self._one(self.value), f"{self._one(self.low)} to {self._one(self.high)}"

    def _one(self, value: float) -> str:
        match self.unit:
            case "%":
                return f"{100 * value:.1f}"
            case "points":
                return f"{100 * value:+.1f}"
            case "signed":
                return f"{value:+.3f}"
        return f"{value:.3f}"


Cell = str | int | Span


@dataclass(frozen=True)
class Table:
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def span(found: Mapping[str, Any], unit: str = "%") -> Span:
    return Span(found["value"], found["low"], found["high"], unit)


def text(table: Table) -> str:
    """The table for a terminal: words to the left, numbers to the right."""
    if not table.rows:
        return ""
    head, rows, is_words = _spread(table)
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [_aligned(row, widths, is_words) for row in [head, *rows]]
    parts = [table.title, *(f"  {line}" for line in lines)]
    if table.note:
        parts += textwrap.wrap(table.note, 98, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(parts) + "\n"


def _spread(table: Table) -> tuple[list[str], list[list[str]], list[bool]]:
    """Spans take two columns: the number, and its bounds. Also which columns are words."""
    columns = range(len(table.head))
    is_span = [any(isinstance(row[i], Span) for row in table.rows) for i in columns]
    head: list[str] = []
    is_words: list[bool] = []
    for i, two in enumerate(is_span):
        head += [table.head[i], "95 % interval"] if two else [table.head[i]]
        words = [isinstance(row[i], str) for row in table.rows]
        is_words += [False, False] if two else [all(words)]
    rows = []
    for row in table.rows:
        cells: list[str] = []
        for cell, two in zip(row, is_span, strict=True):
            shown = cell.words() if isinstance(cell, Span) else (str(cell), "")
            cells += shown if two else shown[:1]
        rows.append(cells)
    return head, rows, is_words


def _aligned(row: Sequence[str], widths: Sequence[int], is_words: Sequence[bool]) -> str:
    cells = [
        cell.ljust(width) if words else cell.rjust(width)
        for cell, width, words in zip(row, widths, is_words, strict=True)
    ]
    return "  ".join(cells).rstrip()
