"""The scores of a benchmark as tables, and its wrong answers beside the right ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.evals import acebench
from star_jax.evals.running import bfcl, scoring
from star_jax.evals.running.page import Case
from star_jax.evals.running.scoring import Line
from star_jax.evals.running.tables import Table, span

EXAMPLES = 5  # of each category
Scores = Mapping[str, Any]


def tables(scores: Scores) -> list[Table]:
    return [
        Table("Averages", ("average", "%"), _averages(scores), _missing_note(scores)),
        Table("Categories", ("category", "%", "right", "of"), _categories(scores)),
        Table("Calls", ("turns where", "%", "calls", "of"), _calls(scores), _lost_note(scores)),
        Table("Errors", ("kind", "answers"), tuple(scores["error_types"].items())),
    ]


def _averages(scores: Scores) -> tuple[Any, ...]:
    return tuple(
        (name + " *" * bool(found["missing"]), span(found))
        for name, found in scores["averages"].items()
    )


def _missing_note(scores: Scores) -> str:
    missing = {name for found in scores["averages"].values() for name in found["missing"]}
    if not missing:
        return ""
    return (
        f"* counts {len(missing)} categories that were not evaluated as wrong, as published "
        "averages do."
    )


def _categories(scores: Scores) -> tuple[Any, ...]:
    return tuple(
        (name, span(found), found["right"], found["count"])
        for name, found in scores["categories"].items()
    )


def _calls(scores: Scores) -> tuple[Any, ...]:
    named = (("call_rate", "a call is due"), ("over_call_rate", "none is due"))
    found = [(words, scores[name]) for name, words in named if name in scores]
    return tuple((words, span(one), one["right"], one["count"]) for words, one in found)


def _lost_note(scores: Scores) -> str:
    if not scores["lost"]:
        return ""
    return (
        f"{scores['lost']} entries were lost: the model could not be asked, mostly as the prompt "
        "did not fit its context. They count as the official harness counts them."
    )


def title(scores: Scores) -> str:
    name = {"bfcl": "BFCL", "acebench": "ACEBench Normal"}[scores["benchmark"]]
    return f"{name} {scores['version']}: {scores['settings']['model']}"


def about(scores: Scores) -> str:
    settings = scores["settings"]
    shown = ("prompt", "think", "temperature", "max_new_tokens", "seed", "limit")
    parts = [f"{name} {settings[name]}" for name in shown if settings.get(name) is not None]
    return ", ".join([f"{scores['answers']} entries", *parts])


def bfcl_cases(exam: bfcl.Exam, lines: Sequence[Line]) -> list[tuple[str, list[Case]]]:
    items = {item.id: item for item in exam.items}
    return _by_category(
        lines,
        lambda line: (
            _conversation(items[line["id"]].raw["question"]),
            _json(items[line["id"]].accepted),
        ),
    )


def acebench_cases(
    entries: Sequence[acebench.Entry], lines: Sequence[Line]
) -> list[tuple[str, list[Case]]]:
    named = {entry.id: entry for entry in entries}
    return _by_category(
        lines,
        lambda line: (named[line["id"]].question, _json(named[line["id"]].possible_answer)),
    )


def _by_category(lines: Sequence[Line], of: Any) -> list[tuple[str, list[Case]]]:
    made = []
    for name, found in scoring.by_category(lines).items():
        cases = []
        for line in scoring.failures(found, EXAMPLES):
            question, expected = of(line)
            why = "; ".join(line["error"])
            kind = line["error_type"] or f"raises {line['raises']}"
            cases.append(Case(line["id"], kind, why, question, _said(line), expected))
        made.append((f"Wrong in {name}", cases))
    return made


def _conversation(turns: Any) -> str:
    return "\n\n".join(
        "\n".join(f"{message['role']}: {message['content']}" for message in turn) or "(no message)"
        for turn in turns
    )


def _said(line: Line) -> str:
    if line["lost"]:
        return f"(lost: {line['lost']})"
    turns = line["turns"]
    if len(turns) == 1 and len(turns[0]) == 1:
        return turns[0][0]
    return "\n\n".join(f"turn {number}\n" + "\n".join(turn) for number, turn in enumerate(turns, 1))


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
