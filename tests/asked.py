"""A model that has its answers by heart, and answers to BFCL's questions: right, wrong and odd."""

from __future__ import annotations

import ast
import json
import random
from collections.abc import Callable
from typing import Any

from star_jax.evals.bfcl import data, multi_turn
from star_jax.evals.running import bfcl
from star_jax.evals.running.asking import Answer, Question, name_of


class Scripted:
    """Answers the question that was asked last first, one a step, so that order has to be kept."""

    def __init__(self, says: Callable[[Question], str | Answer], ahead: int = 7) -> None:
        self.says, self._ahead = says, ahead
        self.questions: list[Question] = []
        self._open: list[tuple[int, Question]] = []

    @property
    def ahead(self) -> int:
        return self._ahead

    @property
    def about(self) -> dict[str, Any]:
        return {"model": "scripted", "seed": 0}

    def ask(self, question: Question) -> int:
        self.questions.append(question)
        self._open.append((len(self.questions), question))
        return len(self.questions)

    def step(self) -> list[tuple[int, Answer]]:
        if not self._open:
            return []
        ticket, question = self._open.pop()
        said = self.says(question)
        if isinstance(said, str):
            said = Answer(said, 10, len(said), "stop")
        return [(ticket, said)]

    def take_tokens(self) -> int:
        return 1

    def close(self) -> None:
        self._open.clear()


def call(name: str, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def right(entry: data.Entry) -> str:
    """The first accepted value of every parameter; what may be absent is."""
    calls = []
    for answer in entry.possible_answer or ():
        ((name, parameters),) = answer.items()
        given = first(parameters)
        calls.append(call(name, given))
    return "\n".join(calls) or "No."


def first(parameters: dict[str, list[Any]]) -> dict[str, Any]:
    return {key: value(values[0]) for key, values in parameters.items() if "" not in values}


def value(accepted: Any) -> Any:
    """Objects have lists of accepted values again."""
    if isinstance(accepted, list):
        return [value(item) for item in accepted]
    return first(accepted) if isinstance(accepted, dict) else accepted


def performed(turn: list[str], names: dict[str, list[str]]) -> str:
    """A turn's calls as a model writes them. `names`: of every function's parameters, in order."""
    calls = []
    for text in turn:
        node = ast.parse(text, mode="eval").body
        assert isinstance(node, ast.Call)
        name = ast.unparse(node.func)
        given = dict(zip(names[name], map(ast.literal_eval, node.args), strict=False))
        given |= {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
        calls.append(call(name, given))
    return "\n".join(calls)


def parameters(exam: bfcl.Exam, item: bfcl.Item) -> dict[str, list[str]]:
    assert exam.apis is not None
    return {
        document["name"]: list(document["parameters"]["properties"])
        for name in item.raw["involved_classes"]
        for document in multi_turn.documents(exam.apis.source, name)
    }


def script(exam: bfcl.Exam, rng: random.Random) -> dict[bytes, str]:
    """By the name of the question: right and wrong answers, thoughts, and calls that are none."""
    said = {}
    for item in exam.items:
        odd = rng.random()
        if item.entry is not None:
            text = right(item.entry) if odd < 0.7 else call("f", {"x": 1}) if odd < 0.9 else "No."
            thought = "<think>\nHm.\n</think>\n\n" if rng.random() < 0.5 else ""
            said[name_of("bfcl", item.id, 0)] = thought + text
            continue
        step, names = 0, parameters(exam, item)
        for turn in item.raw["ground_truth"]:
            text = performed(turn, names)
            if text and not (odd > 0.6 and rng.random() < 0.4):
                said[name_of("bfcl", item.id, step)] = text
                step += 1
            said[name_of("bfcl", item.id, step)] = "Done."
            step += 1
    return said
