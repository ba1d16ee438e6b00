"""Runs over the same entries, compared entry by entry: who is better, and is it more than luck?

    folder → Run           answers of bfcl, acebench, passk, or of a training's evaluate stage
    first run, another → a row for every category and for the averages, with a sentence

Runs over different entries are refused: their numbers differ for that alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_jax.data.cache import partfile
from star_jax.evals import stats
from star_jax.evals.bfcl.shares import shares
from star_jax.evals.running import acebench, curves, scoring
from star_jax.evals.running.page import page
from star_jax.evals.running.tables import Span, Table

MARKS = "marks.json"  # of a training's evaluate stage
TITLES = {
    "average": "averages",
    "category": "categories",
    "all": "all prompts",
    "call": "a call is due",
    "words": "words are due",
}
Values = dict[str, dict[str, float]]  # category → what is counted there → its value


@dataclass(frozen=True)
class Run:
    name: str
    kind: str  # bfcl v3, acebench en, passk, evaluation
    values: Values
    averages: Mapping[str, Mapping[str, float]]  # what each category weighs
    digests: Mapping[str, str]  # of the entries, where the run keeps them
    settings: Mapping[str, Any]


def read(folder: Path) -> list[Run]:
    """The run of a folder, or the runs of several models."""
    if (folder / MARKS).is_file():
        return [_evaluation(folder)]
    path = folder / scoring.SCORES
    if not path.is_file():
        raise ValueError(
            f"{folder}: holds neither {scoring.SCORES} nor {MARKS}: give the output of an "
            "evaluation that has ended"
        )
    scores = _json(path)
    match scores.get("benchmark"):
        case "bfcl" | "acebench":
            return [_benchmark(folder, scores)]
        case "passk":
            return [_passk(folder, scores, name) for name in scores["models"]]
    raise ValueError(f"{path}: is of no known benchmark: give the output of an evaluation")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}): run the evaluation again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: is no object: run the evaluation again")
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: keep it beside the scores")
    try:
        return scoring.read_lines(path)
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}): run the evaluation again") from error


def _benchmark(folder: Path, scores: Mapping[str, Any]) -> Run:
    found = scoring.by_category(_lines(folder / scoring.ANSWERS))
    values: Values = {}
    for name, lines in found.items():
        if scores["benchmark"] == "acebench":
            values[name] = dict(acebench.named_units(lines))
        else:
            values[name] = {line["id"]: float(line["valid"]) for line in lines}
    sizes = {name: len(one) for name, one in values.items()}
    weights: Mapping[str, Mapping[str, float]] = (
        acebench.shares() if scores["benchmark"] == "acebench" else shares(sizes, scores["version"])
    )
    kind = f"{scores['benchmark']} {scores['version']}"
    return Run(folder.name, kind, values, weights, scores["entries"], scores["settings"])


def _passk(folder: Path, scores: Mapping[str, Any], name: str) -> Run:
    lines = _lines(folder / f"{name}.jsonl")
    ks = sorted({1, *map(int, next(iter(scores["models"][name].values()))["pass"])})
    values: Values = {}
    for kind in curves.KINDS:
        some = curves.of_kind(lines, kind)
        for k in ks if some else ():
            found = curves.pass_values(some, k)
            pairs = zip(some, found, strict=True)
            values[f"{kind} pass@{k}"] = {line["id"]: float(value) for line, value in pairs}
    several = len(scores["models"]) > 1
    label = f"{folder.name}/{name}" if several else folder.name
    return Run(label, "passk", values, {}, scores["entries"], scores["settings"])


def _evaluation(folder: Path) -> Run:
    values: Values = {}
    entries: dict[str, list[Any]] = {}
    for line in _lines(folder / scoring.ANSWERS):
        for name in (line["set"], f"{line['set']}, {line['wanted']} due"):
            for what in ("exact", "reward"):
                key = f"{name}: {what}"
                values.setdefault(key, {})[str(line["id"])] = float(line[what])
                entries.setdefault(key, []).append([line["id"], line["label"]])
    digests = {key: scoring.digest(items) for key, items in entries.items()}
    return Run(folder.name, "evaluation", values, {}, digests, {})


def compared(first: Run, other: Run) -> list[dict[str, Any]]:
    """A row for each average and each category. ValueError: they answered different entries."""
    check(first, other)
    names = labels(first, other)
    a = {name: list(found.values()) for name, found in first.values.items()}
    b = {name: [other.values[name][one] for one in found] for name, found in first.values.items()}
    rows = []
    for name, weights in first.averages.items():
        there = [one for one in weights if one in a]
        if there:
            shown = name + " *" * (len(there) < len(weights))
            one = stats.compare_strata(
                [a[c] for c in there],
                [b[c] for c in there],
                [weights[c] for c in there],
                names=names,
            )
            rows.append(curves.told(shown, "average", names, one))
    for name in a:
        one = stats.compare(a[name], b[name], names=names)
        rows.append(curves.told(name, "category", names, one))
    return rows


def labels(first: Run, other: Run) -> tuple[str, str]:
    """Names that tell them apart."""
    return ("A", "B") if first.name == other.name else (first.name, other.name)


def against_first(runs: Sequence[Run]) -> list[tuple[tuple[str, str], list[dict[str, Any]]]]:
    """The first run compared with each other one."""
    if len(runs) < 2:
        raise ValueError("one run alone can't be compared: give two or more")
    return [(labels(runs[0], other), compared(runs[0], other)) for other in runs[1:]]


def notes(runs: Sequence[Run]) -> list[str]:
    """What else than the model differs."""
    return [
        f"Not only the models differ: {name} is {', '.join(map(repr, values))}."
        for name, values in differing(runs).items()
    ]


def write(
    output: Path, runs: Sequence[Run], made: Sequence[tuple[tuple[str, str], list[dict[str, Any]]]]
) -> None:
    """OUTPUT/comparison.json and comparison.html."""
    output.mkdir(parents=True, exist_ok=True)
    title = "Comparison: " + ", ".join(run.name for run in runs)
    shown = [one for names, rows in made for one in tables(rows, names)]
    about = " ".join(notes(runs)) or "The same entries, asked in the same way."
    partfile.write(output / "comparison.html", [page(title, about, shown).encode()])
    found = {
        "runs": [{"name": run.name, "kind": run.kind, "settings": run.settings} for run in runs],
        "comparisons": [row for _, rows in made for row in rows],
    }
    text = json.dumps(found, indent=1)
    partfile.write(output / "comparison.json", [text.encode() + b"\n"])


def check(first: Run, other: Run) -> None:
    if first.kind != other.kind:
        raise ValueError(
            f"{first.name} is of {first.kind}, {other.name} of {other.kind}: compare runs of one "
            "benchmark and version"
        )
    for name in dict.fromkeys([*first.values, *other.values]):
        one, two = first.values.get(name), other.values.get(name)
        if one is None or two is None:
            lacking = first.name if one is None else other.name
            _refuse(first, other, f"{lacking} has none of {name}")
        elif one.keys() != two.keys():
            only = sorted(one.keys() ^ two.keys())[0]
            holder = first.name if only in one else other.name
            _refuse(first, other, f"only {holder} has {only} of {name}")
        elif first.digests.get(name) != other.digests.get(name):
            _refuse(first, other, f"those of {name} are worded or judged otherwise")
    if first.digests.get("rows") != other.digests.get("rows"):
        _refuse(first, other, "their rows are not the same")


def _refuse(first: Run, other: Run, why: str) -> None:
    raise ValueError(
        f"{first.name} and {other.name} answered different entries ({why}): run both over the "
        "same data, categories and limit"
    )


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs, by which more than the model differs."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    ignored = ("model", "name", "weights", "tokenizer", "limit")
    found = {
        name: [run.settings.get(name) for run in runs] for name in names if name not in ignored
    }
    return {name: values for name, values in found.items() if any(v != values[0] for v in values)}


def tables(rows: Sequence[Mapping[str, Any]], names: tuple[str, str]) -> list[Table]:
    """`rows` compare two runs: a table of every kind of them."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return [_table([row for row in rows if row["kind"] == kind], names, kind) for kind in kinds]


def _table(rows: Sequence[Mapping[str, Any]], names: tuple[str, str], kind: str) -> Table:
    made = tuple(
        (
            row["what"],
            _difference(row),
            row["wins"],
            row["losses"],
            row["ties"],
            f"{row['p']:.2g}",
            _ahead(row, names),
        )
        for row in rows
    )
    note = "* some of its categories were evaluated in neither run." * any(
        row["what"].endswith(" *") for row in rows
    )
    head = ("", "difference", f"{names[0]} higher", f"{names[1]} higher", "alike", "p", "ahead")
    return Table(f"{names[0]} against {names[1]}, {TITLES[kind]}", head, made, note)


def _difference(row: Mapping[str, Any]) -> Span:
    is_share = not any(word in row["what"] for word in ("entropy", "reward"))
    found, unit = row["difference"], "points" if is_share else "signed"
    if row["wins"] == row["losses"] == 0:
        return Span(found["value"], unit=unit)  # resampling sees no doubt where nothing differs
    return Span(found["value"], found["low"], found["high"], unit)


def _ahead(row: Mapping[str, Any], names: tuple[str, str]) -> str:
    if row["wins"] == row["losses"] == 0:
        return "the same"
    return {"better": names[0], "worse": names[1], "noise": "within noise"}[row["verdict"]]
