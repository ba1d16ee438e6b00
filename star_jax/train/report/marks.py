"""The table of marks: every evaluation of a set of prompts, split by what is due.

measured(set, runs, labels)    a row an evaluation; the change from the first to the last; means of
                               seeds
sampled(runs, labels)          what sampling at a temperature showed

Prompts that call for a tool and those that call for words are never averaged without being shown
apart: a mean can rise while a model gives up its calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from star_jax.train.report import aggregate
from star_jax.train.report.aggregate import Mark
from star_jax.train.report.figures import CALL, WORDS, mark
from star_jax.train.report.markup import PERCENT, Html, el, fixed, in_unit, join, number, share
from star_jax.train.report.run import Run, Stage
from star_jax.train.report.tables import plain


class Column(NamedTuple):
    title: str
    name: str  # of marks.json
    unit: str
    better: int = 1  # 1 where more is better, −1 where less is


GROUPS: dict[str, tuple[Column, ...]] = {
    CALL: (
        Column("calls", "call_call_share", "share"),
        Column("exact", "call_exact", "share"),
        Column("reward", "call_reward", ""),
        Column("valid", "call_valid_share", "share"),
    ),
    WORDS: (
        Column("calls", "words_call_share", "share", -1),
        Column("exact", "words_exact", "share"),
        Column("reward", "words_reward", ""),
        Column("valid", "words_valid_share", "share"),
    ),
    "all prompts": (
        Column("exact", "exact", "share"),
        Column("reward", "reward", ""),
        Column("valid", "valid_share", "share"),
    ),
}
COLUMNS = tuple(column for columns in GROUPS.values() for column in columns)


class Change(NamedTuple):
    """From one mark to another."""

    by: float
    is_clear: bool  # their 95 % intervals share nothing; of a mean, its own lies off 0
    low: float | None = None
    high: float | None = None


class Entry(NamedTuple):
    """A row of the table of marks."""

    label: str
    cells: Mapping[str, Mark | Change | None]
    cls: str | None = None


def change(before: Mark | None, after: Mark | None) -> Change | None:
    if before is None or after is None:
        return None
    return Change(after.value - before.value, are_apart(before, after))


def are_apart(one: Mark, other: Mark) -> bool:
    """Whether the intervals share nothing; False where one is missing."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.high < other.low or other.high < one.low


# What was measured


def measured(name: str, runs: Sequence[Run], labels: Sequence[str]) -> Html:
    """One set of prompts: a row an evaluation, and what changed from the first to the last."""
    body = []
    if len(runs) == 1:
        rows = [_entry(stage.name, stage, name) for stage in runs[0].measured if name in stage.sets]
        body = [el("tbody", *map(_row, [*rows, *_changes(runs, labels, name)]))]
    else:
        stages = dict.fromkeys(stage.name for run in runs for stage in run.measured)
        for stage in stages:
            rows = _of_runs(runs, labels, name, stage)
            body.append(_body(f"{stage}", rows))
        body.append(_body("change, first to last", _changes(runs, labels, name)))
    heads = [
        el("th", title, colspan=len(columns), scope="colgroup", cls="part")
        for title, columns in GROUPS.items()
    ]
    names = [
        el("th", column.title, scope="col", cls=_cls("n", i))
        for columns in GROUPS.values()
        for i, column in enumerate(columns)
    ]
    corner = el("th", "after the stage" if len(runs) == 1 else "run", rowspan=2, scope="col")
    head = el("thead", el("tr", corner, *heads), el("tr", *names))
    return el("div", el("table", head, *body, cls="marks"), cls="wide")


def _cls(name: str, i: int) -> str:
    return f"{name} part" if i == 0 else name


def _body(title: str, rows: Sequence[Entry]) -> Html | None:
    if not rows:
        return None
    heading = el("tr", el("th", title, colspan=1 + len(COLUMNS), scope="rowgroup", cls="over"))
    return el("tbody", heading, *map(_row, rows))


def _entry(label: str, stage: Stage, name: str) -> Entry:
    found = stage.sets.get(name)
    return Entry(label, {column.name: mark(found, column.name) for column in COLUMNS})


def _of_runs(runs: Sequence[Run], labels: Sequence[str], name: str, stage: str) -> list[Entry]:
    entries = [
        (run, _entry(label, found, name))
        for run, label in zip(runs, labels, strict=True)
        for found in run.measured
        if found.name == stage and name in found.sets
    ]
    return [entry for _, entry in entries] + list(_means(entries))


def _changes(runs: Sequence[Run], labels: Sequence[str], name: str) -> list[Entry]:
    entries = []
    for run, label in zip(runs, labels, strict=True):
        there = [stage.sets[name] for stage in run.measured if name in stage.sets]
        if len(there) > 1:
            cells = {
                column.name: change(mark(there[0], column.name), mark(there[-1], column.name))
                for column in COLUMNS
            }
            text = "change, first to last" if len(runs) == 1 else label
            entries.append((run, Entry(text, cells, "change")))
    return [entry for _, entry in entries] + list(_means(entries))


def _means(entries: Sequence[tuple[Run, Entry]]) -> Iterator[Entry]:
    """Of runs that share a name and differ in their seeds."""
    for name in dict.fromkeys(run.name for run, _ in entries):
        some = [entry for run, entry in entries if run.name == name]
        if len(some) > 1:
            cells = {
                column.name: _mean(entry.cells[column.name] for entry in some) for column in COLUMNS
            }
            yield Entry(f"{name}, mean of\N{NO-BREAK SPACE}{len(some)}", cells, "mean")


def _mean(cells: Iterable[Mark | Change | None]) -> Mark | Change | None:
    some = [cell for cell in cells if cell is not None]
    if not some:
        return None
    value, low, high = aggregate.mean([cell[0] for cell in some])
    if isinstance(some[0], Mark):
        return Mark(value, low, high)
    is_clear = low is not None and high is not None and not low <= 0 <= high
    return Change(value, is_clear, low, high)


def _row(entry: Entry) -> Html:
    cells = [
        el("td", _cell(entry.cells[column.name], column), cls=_cls("n", i))
        for columns in GROUPS.values()
        for i, column in enumerate(columns)
    ]
    return el("tr", el("th", entry.label, scope="row"), *cells, cls=entry.cls)


def _cell(cell: Mark | Change | None, column: Column) -> Html:
    match cell:
        case None:
            return Html("–")
        case Change(by, is_clear, low, high):
            return join([_changed(by, is_clear, column), _ends(low, high, column.unit)])
        case Mark(value, low, high):
            return join([in_unit(value, column.unit), _ends(low, high, column.unit)])


def _ends(low: float | None, high: float | None, unit: str) -> Html | None:
    if low is None or high is None:
        return None
    scale, digits = (100, 1) if unit == "share" else (1, 2)
    return el("small", f"{fixed(scale * low, digits)} to {fixed(scale * high, digits)}")


def _changed(by: float, is_clear: bool, column: Column) -> Html:
    shown = in_unit(abs(by), column.unit).removesuffix(PERCENT)
    if not float(shown):
        return Html("0")
    word = "better" if by * column.better > 0 else "worse"
    text = f"{'▲' if by > 0 else '▼'} {shown}"
    if is_clear:
        return el("span", text, cls=f"{word} clear", title=f"{word}, clearly")
    return el("span", text, cls=word, title=f"{word}, which may be chance")


SAMPLED = {
    "entropy_nats": ("entropy, nats", number),
    "call_spread_share": ("call prompts that vary", share),
    "samples": ("samples a prompt", number),
    "temperature": ("temperature", number),
}


def sampled(runs: Sequence[Run], labels: Sequence[str]) -> Html | None:
    """What sampling at a temperature showed: pass@k in numbers, entropy, spread."""
    rows, counts = [], set()
    for run in runs:
        for stage in run.measured:
            for found in stage.sets.values():
                counts |= {k for by_count in found.passk.values() for k in by_count}
    shown = sorted(counts)
    for run, label in zip(runs, labels, strict=True):
        for stage in run.measured:
            for name, found in stage.sets.items():
                if not found.passk and not set(SAMPLED) & set(found.others):
                    continue
                first = stage.name if len(runs) == 1 else f"{label}, {stage.name}"
                cells = [
                    share(found.passk.get(kind, {}).get(k))
                    for kind in ("call", "words")
                    for k in shown
                ]
                cells += [write(found.others.get(key)) for key, (_, write) in SAMPLED.items()]
                rows.append((first, name, *cells))
    if not rows:
        return None
    heads = [f"{kind}: pass@{k}" for kind in ("call", "words") for k in shown]
    return plain(["after", "set", *heads, *(title for title, _ in SAMPLED.values())], rows, texts=2)
