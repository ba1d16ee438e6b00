"""What was said: answers of RL's rollouts and of evaluations, a few of them to be read.

of_rollouts(folder, most, notes) → Rollouts      counts of every rollout, and `most` of its answers
of_evaluation(path, notes) → the answers of one evaluation

Texts are cut to what a page can hold. Those that are shown are evenly chosen by their place, never
by what they are worth.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from star_jax.train.report import lines
from star_jax.train.report.markup import shown

PROMPT, ANSWER, WHY = 6000, 4000, 600  # characters of each that are kept

_COUNTED = ["place", "drawn_at", "format", "kind", "use", "guided"]
_TEXTS = {
    "row_id": 120,
    "wanted": 20,
    "prompt": PROMPT,
    "generation": ANSWER,
    "calls": ANSWER,
    "label": ANSWER,
    "kind": 60,
    "why": WHY,
    "end": 20,
    "use": 20,
}
_NUMBERS = ["rollout", "line", "sample", "reward", "format", "answer", "advantage"]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one rollout's policy said, in counts."""

    rollout: int
    samples: int  # the policy's own
    bad: dict[str, int]  # a wrong format's kind → samples
    groups: int  # asked
    kept: int  # groups that are learnt from, now or later


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    tallies: tuple[Tally, ...] = ()
    answers: tuple[dict[str, Any], ...] = ()  # the columns of _TEXTS and _NUMBERS, and guided
    total: int = 0  # answers that there are


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer of an evaluation."""

    set: str
    id: str
    case: str
    wanted: str
    prompt: str
    label: str
    text: str
    exact: bool | None
    reward: float | None
    why: str


@dataclass
class _File:
    path: Path
    fresh: list[int] = field(default_factory=list)  # rows that were said in this rollout


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the places 0 … count − 1, evenly apart."""
    few = min(count, most)
    return [(2 * i + 1) * count // (2 * few) for i in range(few)]


def of_rollouts(folder: Path, most: int, notes: list[str]) -> Rollouts:
    files, tallies = [], []
    for path in sorted(folder.glob("[0-9]*.parquet")):
        rows = _read(path, _COUNTED, notes)
        if rows is None:
            continue
        number = int(path.stem) if path.stem.isdigit() else len(tallies)
        # Groups that were carried over stand in the file of the rollout before this one, too.
        fresh = [i for i, row in enumerate(rows) if row.get("drawn_at") in (number, None)]
        files.append(_File(path, fresh))
        tallies.append(_tally(number, [rows[i] for i in fresh]))
    total = sum(len(file.fresh) for file in files)
    answers = _chosen(files, spread(total, most), notes)
    return Rollouts(tallies=tuple(tallies), answers=tuple(answers), total=total)


def _tally(number: int, rows: Sequence[dict[str, Any]]) -> Tally:
    own = [row for row in rows if not row.get("guided")]
    bad = Counter(str(row.get("kind")) for row in own if (row.get("format") or 0) <= 0)
    groups = {row.get("place"): row.get("use") for row in rows}
    return Tally(
        rollout=number,
        samples=len(own),
        bad=dict(bad),
        groups=len(groups),
        kept=sum(use in ("now", "later") for use in groups.values()),
    )


def _read(path: Path, columns: Sequence[str], notes: list[str]) -> list[dict[str, Any]] | None:
    try:
        file = pq.ParquetFile(path)
        there = [name for name in columns if name in file.schema_arrow.names]
        return file.read(columns=there).to_pylist()
    except (OSError, pa.ArrowException, ValueError) as error:
        notes.append(f"{path.name} can't be read ({shown(str(error), 200)}).")
        return None


def _chosen(files: Sequence[_File], places: Sequence[int], notes: list[str]) -> list[dict]:
    wanted, start, found = set(places), 0, []
    for file in files:
        here = [row for i, row in enumerate(file.fresh, start) if i in wanted]
        start += len(file.fresh)
        rows = _read(file.path, [*_NUMBERS, *_TEXTS, "guided"], notes) if here else None
        found += [_answer(rows[i]) for i in here] if rows is not None else []
    return found


def _answer(row: dict[str, Any]) -> dict[str, Any]:
    texts = {name: shown(row.get(name) or "", most) for name, most in _TEXTS.items()}
    texts["calls"] = shown(_calls(row.get("calls")), ANSWER)
    numbers = {name: lines.finite({name: row.get(name)}).get(name) for name in _NUMBERS}
    return texts | numbers | {"guided": bool(row.get("guided"))}


def _calls(text: Any) -> str:
    """A line a call: name(arguments)."""
    try:
        calls = json.loads(text)
        made = [f"{name}({json.dumps(given, ensure_ascii=False)})" for name, given in calls]
    except (TypeError, ValueError, RecursionError):
        return text if isinstance(text, str) else ""
    return "\n".join(made)


def of_evaluation(path: Path, notes: list[str]) -> tuple[Said, ...]:
    return tuple(_said(row) for row in lines.rows(path, notes))


def _said(row: dict[str, Any]) -> Said:
    def text(name: str, most: int) -> str:
        return shown(row.get(name) if row.get(name) is not None else "", most)

    exact = lines.as_number(row.get("exact"))
    return Said(
        set=text("set", 120),
        id=text("id", 120),
        case=text("case", 60),
        wanted=text("wanted", 20),
        prompt=text("prompt", PROMPT),
        label=text("label", ANSWER),
        text=text("text", ANSWER),
        exact=None if exact is None else exact > 0,
        reward=lines.finite(row).get("reward"),
        why=text("why", WHY),
    )
