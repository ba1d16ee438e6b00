"""ACEBench Normal, run: entries → the official prompts → text answers → verdicts, a line for each.

The steps of its dialogues are asked with the right history in the prompt, each on its own. The
official run hands a text to the checker as it is: `keep_thoughts`. A thinking model has no right
answer then, so by default what stands before the last </think> is cut off, and the scores say so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from star_jax.chat.completion import THINK_END
from star_jax.evals import acebench
from star_jax.evals.acebench.arithmetic import Unreadable
from star_jax.evals.acebench.data import ATOM, MULTI_TURN, NORMAL, SINGLE_TURN, Language, dialogue
from star_jax.evals.acebench.decode import decode
from star_jax.evals.running import scoring
from star_jax.evals.running.asking import Answer, Question
from star_jax.evals.running.bfcl import asked
from star_jax.evals.running.prompting import Prompting
from star_jax.evals.running.scoring import Line

GROUPS = {"all": NORMAL, "atom": ATOM, "single_turn": SINGLE_TURN, "multi_turn": MULTI_TURN}


@dataclass(frozen=True)
class Exam:
    language: Language
    entries: tuple[acebench.Entry, ...]
    templates: acebench.Templates | None

    @property
    def digests(self) -> dict[str, str]:
        return scoring.digests(
            self.entries, lambda one: (one.category, {**dataclasses.asdict(one), "line": 0})
        )


def open(path: Path | None, language: Language, categories: str, limit: int | None) -> Exam:
    """Without a path the miniature that comes along, which is in English."""
    if path is None and language != "en":
        raise ValueError(
            f"the bundled miniature is in English: give --data with a checkout of ACEBench, which "
            f"has the entries and the prompts in {language!r}"
        )
    names = chosen(categories)
    templates = None
    if language != "en":
        assert path is not None
        templates = acebench.read_templates(path, language)
    entries: list[acebench.Entry] = []
    for name in names:
        found = acebench.read(path or acebench.MINI, language, [name])
        entries += found if limit is None else _first(found, limit)
    return Exam(language, tuple(entries), templates)


def _first(entries: list[acebench.Entry], limit: int) -> list[acebench.Entry]:
    """So many entries; of dialogues, so many whole ones."""
    if not entries or entries[0].category not in MULTI_TURN:
        return entries[:limit]
    dialogues = [list(steps) for _, steps in groupby(entries, lambda one: dialogue(one.id))]
    return [entry for steps in dialogues[:limit] for entry in steps]


def chosen(text: str) -> tuple[str, ...]:
    """Categories by name, with or without `normal_`, or by group."""
    wanted: set[str] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        name = word if word in NORMAL else f"normal_{word}"
        if word not in GROUPS and name not in NORMAL:
            known = ", ".join([*GROUPS, *NORMAL])
            raise ValueError(f"--categories: {word!r} is none of ACEBench's: give one of {known}")
        wanted |= set(GROUPS.get(word, (name,)))
    if not wanted:
        raise ValueError(
            f"--categories is {text!r}: name one at least, or one of {', '.join(GROUPS)}"
        )
    return tuple(name for name in NORMAL if name in wanted)


def make(exam: Exam, prompting: Prompting, keep_thoughts: bool) -> Callable[[int], Task]:
    return lambda number: Task(exam.entries[number], exam.templates, prompting, keep_thoughts)


@dataclass(frozen=True)
class Task:
    entry: acebench.Entry
    templates: acebench.Templates | None
    prompting: Prompting
    keep_thoughts: bool
    answer: Answer | None = None

    @property
    def is_over(self) -> bool:
        return self.answer is not None

    def ask(self) -> Question:
        messages = acebench.messages(self.entry, self.templates)
        return asked(self.prompting, messages, [], "acebench", self.entry.id, 0)

    def told(self, answer: Answer) -> Task:
        return dataclasses.replace(self, answer=answer)

    def line(self) -> dict[str, Any]:
        assert self.answer is not None
        text = self.answer.text
        judged = text if self.keep_thoughts else text.split(THINK_END)[-1].lstrip("\n")
        verdict = acebench.check(judged, self.entry)
        return {
            "id": self.entry.id,
            "category": self.entry.category,
            "valid": verdict.valid,
            "error_type": verdict.error_type,
            "error": list(verdict.error),
            "raises": verdict.raises,
            "calls": [[True, _calls(judged)]],
            "turns": [[text]],
            "prompt_tokens": [[self.answer.prompt_tokens]],
            "tokens": [[self.answer.tokens]],
            "ends": [[self.answer.end]],
            "lost": self.answer.lost,
        }


def _calls(text: str) -> bool:
    try:
        return bool(decode(text))
    except Unreadable:
        return False


def units(lines: Sequence[Line]) -> scoring.Units:
    """Entries, and in the multi-turn categories dialogues: right if all of their steps are."""
    return {
        name: [value for _, value in named_units(found)]
        for name, found in scoring.by_category(lines).items()
    }


def named_units(lines: Sequence[Line]) -> list[tuple[str, float]]:
    """Of one category."""
    if lines[0]["category"] not in MULTI_TURN:
        return [(line["id"], float(line["valid"])) for line in lines]
    return [
        (name, float(all(line["valid"] for line in steps)))
        for name, steps in groupby(lines, lambda line: dialogue(line["id"]))
    ]


def shares() -> dict[str, Mapping[str, float]]:
    """What a category weighs in each average."""
    groups = {"normal": NORMAL, "atom": ATOM, "single_turn": SINGLE_TURN, "multi_turn": MULTI_TURN}
    return {name: {one: 1 / len(found) for one in found} for name, found in groups.items()}


def score(exam: Exam, lines: Sequence[Line]) -> dict[str, Any]:
    """`published` is rounded where the official code rounds."""
    found = scoring.by_category(lines)
    valid = {name: {line["id"]: line["valid"] for line in some} for name, some in found.items()}
    official = acebench.aggregate(valid)
    values = units(lines)
    categories = {}
    for name, some in found.items():
        marks = scoring.category(some)
        if name in MULTI_TURN:  # the right and the wrong are dialogues
            marks |= scoring.number(scoring.interval(values[name])) | {
                "right": int(sum(values[name]))
            }
        categories[name] = {**marks, "published": official.accuracy[name]}
    published = {name: getattr(official, name) for name in shares()}
    averages = scoring.averages(values, shares())
    return {
        "benchmark": "acebench",
        "version": exam.language,
        "entries": exam.digests,
        "categories": categories,
        "averages": {
            name: {**marks, "published": published[name]} for name, marks in averages.items()
        },
        "process_accuracy": official.process_accuracy,
        "error_types": scoring.errors(lines),
        **scoring.calls(lines),
        "lost": sum(bool(line["lost"]) for line in lines),
    }
