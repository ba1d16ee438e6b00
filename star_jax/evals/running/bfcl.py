"""BFCL, run: entries of the chosen categories → questions → verdicts, a line for each.

    exam = open(path, version, categories, limit)   entries and, for dialogues, their API classes
    make(exam, prompting)(i)                        the i-th entry as a task
    score(exam, lines)                              what scores.json says

A dialogue whose next prompt does not fit the model's context, or cannot be written, is given up and
lost, as the official harness loses it; so is a single question, which then counts as one without a
call (and right where none was due: the official rule).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_jax.evals import bfcl
from star_jax.evals.bfcl import data, multi_turn
from star_jax.evals.bfcl.categories import chosen, is_multi_turn
from star_jax.evals.bfcl.decode import Version, clean
from star_jax.evals.bfcl.multi_turn import Dialogue, Sandbox
from star_jax.evals.bfcl.prompt import hinted
from star_jax.evals.bfcl.shares import shares
from star_jax.evals.running import scoring
from star_jax.evals.running.asking import Answer, Question, name_of
from star_jax.evals.running.prompting import Prompting
from star_jax.evals.running.scoring import Line
from star_jax.evals.running.work import Unaskable
from star_jax.evals.verdict import Verdict


@dataclass(frozen=True)
class Item:
    """An entry of either kind. `raw` is as its file has it; a dialogue's has its answer as well."""

    id: str
    category: str
    raw: Mapping[str, Any]
    entry: data.Entry | None  # of a single turn

    @property
    def accepted(self) -> Any:
        """What a right answer is."""
        if self.entry is None:
            return self.raw["ground_truth"]
        if self.entry.possible_answer is not None:
            return list(self.entry.possible_answer)
        return "no call" if "irrelevance" in self.category else "a call"


@dataclass(frozen=True)
class Exam:
    version: Version
    items: tuple[Item, ...]
    apis: Sandbox | None  # None: no dialogue is among the items

    @property
    def digests(self) -> dict[str, str]:
        """Of what is asked and accepted, by category."""
        return scoring.digests(self.items, lambda one: (one.category, [one.raw, one.accepted]))

    def close(self) -> None:
        if self.apis is not None:
            self.apis.close()


def open(path: Path | None, version: Version | None, categories: str, limit: int | None) -> Exam:
    """Everything is read, and API classes are tried, before a model is asked. Without a path the
    miniature that comes along."""
    if path is None and version == "v4":
        raise ValueError("the bundled miniature is of v3: give --data with v4's files")
    single = path or data.MINI
    found = version or data.find(single).version
    names = chosen(categories, found)
    items: list[Item] = []
    apis = Sandbox(path or multi_turn.MINI) if any(map(is_multi_turn, names)) else None
    if apis is not None and apis.source.version != found:
        raise ValueError(f"{path}: its multi-turn files are of {apis.source.version}, not {found}")
    with contextlib.ExitStack() as stack:
        if apis is not None:
            stack.callback(apis.close)
        for name in names:
            items += _items(single, found, name, apis)[:limit]
        if apis is not None:
            _try_classes(items, apis)
        stack.pop_all()
    return Exam(found, tuple(items), apis)


def _items(path: Path, version: Version, name: str, apis: Sandbox | None) -> list[Item]:
    if is_multi_turn(name):
        assert apis is not None
        rows = multi_turn.entries(apis.source, name)
        return [Item(row["id"], name, row, None) for row in rows]
    entries = data.load(path, name, version)
    return [Item(entry.id, name, entry.raw, entry) for entry in entries]


def _try_classes(items: Sequence[Item], apis: Sandbox) -> None:
    """What a class lacks (a package, a file) is told before hours of questions, not after."""
    seen: set[str] = set()
    for item in items:
        if item.entry is None:
            multi_turn.start(item.raw, apis)
            if not seen.issuperset(item.raw["involved_classes"]):
                seen |= set(item.raw["involved_classes"])
                apis.run(item.raw, [])


def make(exam: Exam, prompting: Prompting) -> Callable[[int], Single | Several]:
    def task(number: int) -> Single | Several:
        item = exam.items[number]
        if item.entry is not None:
            return Single(item, item.entry, prompting, exam.version)
        assert exam.apis is not None
        return Several(item, multi_turn.start(item.raw, exam.apis), prompting)

    return task


@dataclass(frozen=True)
class Single:
    """An entry of one turn: one question."""

    item: Item
    entry: data.Entry
    prompting: Prompting
    version: Version
    answer: Answer | None = None

    @property
    def is_over(self) -> bool:
        return self.answer is not None

    def ask(self) -> Question:
        tools = hinted(self.entry.tools, self.entry.category)
        return asked(self.prompting, self.entry.turns[0], tools, "bfcl", self.item.id, 0)

    def told(self, answer: Answer) -> Single:
        return dataclasses.replace(self, answer=answer)

    def line(self) -> dict[str, Any]:
        assert self.answer is not None
        text = self.answer.text if self.answer.lost else self.prompting.read(self.answer.text)
        calls = bfcl.decode(text, self.version)
        entry = self.entry
        verdict = bfcl.check(calls, entry.tools, entry.possible_answer, entry.category)
        called = not isinstance(calls, bfcl.Failure) and bool(calls)
        due = "irrelevance" not in entry.category
        return {
            **_head(self.item, verdict),
            "calls": [[due, called]],
            "turns": [[text]],
            "prompt_tokens": [[self.answer.prompt_tokens]],
            "tokens": [[self.answer.tokens]],
            "ends": [[self.answer.end]],
            "lost": self.answer.lost,
        }


@dataclass(frozen=True)
class Several:
    """An entry of several turns: a dialogue."""

    item: Item
    dialogue: Dialogue
    prompting: Prompting
    answers: tuple[tuple[int, Answer], ...] = ()  # each with the turn that it was given in
    lost: str = ""

    @property
    def is_over(self) -> bool:
        return self.dialogue.ended is not None

    def ask(self) -> Question:
        dialogue, step = self.dialogue, len(self.answers)
        messages, tools = dialogue.messages, dialogue.tools
        try:
            return asked(self.prompting, messages, tools, "bfcl", self.item.id, step)
        except ValueError as error:
            if step == 0:
                raise
            raise Unaskable(str(error)) from error

    def told(self, answer: Answer) -> Several:
        if answer.lost:
            dialogue = multi_turn.give_up(self.dialogue, answer.lost)
            return dataclasses.replace(self, dialogue=dialogue, lost=answer.lost)
        text = self.prompting.read(answer.text)
        answer = dataclasses.replace(answer, text=text)
        answers = (*self.answers, (self.dialogue.turn, answer))
        dialogue = multi_turn.advance(self.dialogue, text)
        return dataclasses.replace(self, dialogue=dialogue, answers=answers)

    def line(self) -> dict[str, Any]:
        dialogue = self.dialogue
        turns = [
            [answer for at, answer in self.answers if at == turn]
            for turn in range(len(dialogue.decoded))
        ]
        due = [bool(truth) for truth in self.item.raw["ground_truth"]]
        called = [any(steps) for steps in dialogue.decoded]
        why = self.lost or (dialogue.why or "") * (dialogue.ended == "inference_error")
        return {
            **_head(self.item, multi_turn.verdict(dialogue)),
            "calls": [list(pair) for pair in zip(due, called, strict=False)],
            "turns": [[answer.text for answer in turn] for turn in turns],
            "prompt_tokens": [[answer.prompt_tokens for answer in turn] for turn in turns],
            "tokens": [[answer.tokens for answer in turn] for turn in turns],
            "ends": [[answer.end for answer in turn] for turn in turns],
            "lost": why,
        }


def asked(
    prompting: Prompting,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *name: object,
) -> Question:
    """The question of this name, as a text or as messages for a server."""
    text = prompting.text(messages, tools)
    if text is not None:
        return Question(name_of(*name), text)
    return Question(name_of(*name), None, *prompting.sent(messages, tools))


def _head(item: Item, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": item.id,
        "category": item.category,
        "valid": verdict.valid,
        "error_type": verdict.error_type,
        "error": list(verdict.error),
        "raises": verdict.raises,
    }


def result(line: Line) -> Any:
    """What the official harness keeps of a model's texts: without the reasoning."""
    if is_multi_turn(line["category"]):
        if line["lost"]:
            return f"Error during inference: {line['lost']}"
        return [[clean(text)[1] for text in turn] for turn in line["turns"]]
    return clean(line["turns"][0][0])[1]


def units(lines: Sequence[Line]) -> scoring.Units:
    return {
        name: [float(line["valid"]) for line in found]
        for name, found in scoring.by_category(lines).items()
    }


def score(exam: Exam, lines: Sequence[Line]) -> dict[str, Any]:
    """Counts, averages and rates. `averages` are the published ones: what is missing is wrong."""
    found = scoring.by_category(lines)
    sizes = {name: len(some) for name, some in found.items()}
    counts = {
        name: (sum(line["valid"] for line in some), len(some)) for name, some in found.items()
    }
    official = bfcl.aggregate(counts, exam.version)
    return {
        "benchmark": "bfcl",
        "version": exam.version,
        "entries": exam.digests,
        "categories": {name: scoring.category(some) for name, some in found.items()},
        "averages": scoring.averages(units(lines), shares(sizes, exam.version)),
        "leaderboard": {name: dict(table) for name, table in official.tables.items()},
        "error_types": scoring.errors(lines),
        **scoring.calls(lines),
        "lost": sum(bool(line["lost"]) for line in lines),
    }
