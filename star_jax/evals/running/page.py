"""Tables and failures as one HTML page that needs nothing beside it. All text in it is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from star_jax.evals.running.tables import Cell, Span, Table

LONGEST = 6000  # characters of a text that are shown

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bar: #3b7dd8; --bad: #c0392b; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.about, .note { opacity: .75; } .note { font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; } .range { opacity: .7; font-size: .88rem; white-space: nowrap; }
.scale { position: relative; width: 9rem; height: .7rem; background: var(--soft); }
.scale i { position: absolute; height: 100%; background: var(--bar); opacity: .35; }
.scale b { position: absolute; width: 2px; height: 100%; background: var(--bar); }
details { border-bottom: 1px solid var(--line); padding: .4rem 0; }
summary { cursor: pointer; } summary em { color: var(--bad); font-style: normal; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .6rem;
      margin: .2rem 0 .8rem; font-size: .85rem; max-height: 30rem; overflow-y: auto; }
"""


@dataclass(frozen=True)
class Case:
    """One wrong answer beside the right one."""

    id: str
    kind: str
    why: str
    question: str
    answer: str
    expected: str


def page(
    title: str,
    about: str,
    tables: Sequence[Table],
    cases: Sequence[tuple[str, Sequence[Case]]] = (),
) -> str:
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f'<h1>{escape(title)}</h1><p class="about">{escape(about)}</p>',
        *(_table(table) for table in tables if table.rows),
        *(_cases(name, found) for name, found in cases if found),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _table(table: Table) -> str:
    columns = range(len(table.head))
    is_span = [any(isinstance(row[i], Span) for row in table.rows) for i in columns]
    is_number = [all(isinstance(row[i], int | Span) for row in table.rows) for i in columns]
    head = "".join(
        f'<th colspan="{3 if span else 1}"{" class=n" if number and not span else ""}>'
        f"{escape(name)}</th>"
        for name, span, number in zip(table.head, is_span, is_number, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(_cell(cell, is_span[i]) for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2><div class="wide"><table><tr>{head}</tr>{rows}</table>'
        f"</div>{note}"
    )


def _cell(cell: Cell, in_span: bool) -> str:
    if not isinstance(cell, Span):
        kind = " class=n" if isinstance(cell, int) else ""
        return f"<td{kind}{' colspan=3' * in_span}>{escape(str(cell))}</td>"
    value, bounds = cell.words()
    bar = _bar(cell) if cell.unit == "%" and cell.value is not None else ""
    return f"<td class=n>{value}</td><td>{bar}</td><td class=range>{bounds}</td>"


def _bar(cell: Span) -> str:
    """Where the number lies between 0 and 1, and where it may."""
    inside = ""
    if cell.low is not None and cell.high is not None:
        left = 100 * min(max(cell.low, 0.0), 1.0)
        right = 100 * min(max(cell.high, 0.0), 1.0)
        inside = f'<i style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
    at = 100 * min(max(cell.value or 0.0, 0.0), 1.0)
    return f'<div class=scale>{inside}<b style="left:{at:.1f}%"></b></div>'


def _cases(name: str, cases: Sequence[Case]) -> str:
    return f"<h2>{escape(name)}</h2>" + "".join(_case(case) for case in cases)


def _case(case: Case) -> str:
    pair = "".join(
        f"<div><b>{title}</b><pre>{_short(text)}</pre></div>"
        for title, text in (("Answer", case.answer), ("Right", case.expected))
    )
    return (
        f"<details><summary>{escape(case.id)} <em>{escape(case.kind)}</em> {_short(case.why)}"
        f"</summary><b>Question</b><pre>{_short(case.question)}</pre>"
        f'<div class="pair">{pair}</div></details>'
    )


def _short(text: str) -> str:
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text)} characters)"
    return escape(shown.encode(errors="backslashreplace").decode())
