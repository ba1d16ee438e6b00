"""Why a Sim-RL score is what it is: every pair of calls, every argument, every word."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from star_jax.rewards import calls as default
from star_jax.rewards import star, text
from star_jax.rewards.calls import Tool
from star_jax.rewards.matching import Callish, Matching, Pair, greedy, optimal
from star_jax.rewards.reading import Compat, read_generation, read_label
from star_jax.rewards.reward import Reward
from star_jax.rewards.simrl import simrl


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a paired call; `has` says which side has it."""

    name: str
    has: str  # "both", "predicted" or "gold"
    predicted: Any
    gold: Any
    score: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """A score and what it was made of. Calls are empty where the format or a reply decided."""

    reward: Reward
    predicted: tuple[Callish, ...]
    gold: tuple[Callish, ...]
    matrix: tuple[tuple[float | None, ...], ...]  # None: another name
    pairs: tuple[tuple[Pair, tuple[Argument, ...]], ...]
    words: tuple[text.Words, text.Words] | None  # of the reply and of the right one


def explain(
    generation: str,
    label: str,
    tools: Sequence[Tool] | None,
    compat: Compat = None,
    *,
    matching: Matching = "greedy",
) -> Explanation:
    """Take a Sim-RL score apart."""
    reward = simrl(generation, label, tools, compat, matching=matching)
    match compat, reward.kind:
        case None, "calls":
            said, gold = read_generation(generation, tools)[0].calls, read_label(label).calls
            pairs = (greedy if matching == "greedy" else optimal)(
                said, gold, default.arguments_similarity
            )
            similarity, value_score = default.arguments_similarity, default.value_similarity
        case _, "calls":
            said, gold = star.read_generation(generation).calls, star.read_label(label).calls
            pairs = greedy(said, gold, star.arguments_similarity)
            similarity, value_score = star.arguments_similarity, star.value_similarity
        case _:
            words = _words(generation, label, tools, compat) if reward.kind == "reply" else None
            return Explanation(reward, (), (), (), (), words)
    matrix = [
        [similarity(p.arguments, g.arguments) if p.name == g.name else None for g in gold]
        for p in said
    ]
    detail = tuple(
        (pair, tuple(_arguments(said[pair.predicted], gold[pair.gold], value_score)))
        for pair in pairs
    )
    return Explanation(reward, tuple(said), tuple(gold), tuple(map(tuple, matrix)), detail, None)


def _words(
    generation: str, label: str, tools: Sequence[Tool] | None, compat: Compat
) -> tuple[text.Words, text.Words]:
    if compat is None:
        said, _ = read_generation(generation, tools)
        return text.unicode_words(said.reply), text.unicode_words(read_label(label).reply)
    reply, gold = star.read_generation(generation).reply, star.read_label(label).reply
    return text.ascii_words(reply or ""), text.ascii_words(gold or "")


def _arguments(predicted: Callish, gold: Callish, value_score: Any) -> Iterator[Argument]:
    theirs, right = predicted.arguments, gold.arguments
    for name in theirs:
        if name in right:
            score = value_score(theirs[name], right[name])
            yield Argument(name, "both", theirs[name], right[name], score)
        else:
            value = theirs[name] if isinstance(theirs, dict) else None
            yield Argument(name, "predicted", value, None, 0.0)
    for name in right:
        if name not in theirs:
            yield Argument(name, "gold", None, right[name], 0.0)


def lines(explanation: Explanation) -> Iterator[str]:
    """The explanation, for a person to read."""
    reward = explanation.reward
    yield f"total {reward.total:.6f}   format {reward.format:g}   answer {reward.answer:.6f}"
    yield reward.why
    if explanation.words is not None:
        said, gold = explanation.words
        yield f"words of the reply ({len(said)}): {' '.join(said)}"
        yield f"words of the label ({len(gold)}): {' '.join(gold)}"
    if explanation.matrix:
        yield from _matrix_lines(explanation)
    for pair, arguments in explanation.pairs:
        yield ""
        name = explanation.gold[pair.gold].name
        yield f"p{pair.predicted + 1} for g{pair.gold + 1} {name}: {pair.similarity:.4f}"
        for argument in arguments:
            yield "  " + _argument_line(argument)


def _matrix_lines(explanation: Explanation) -> Iterator[str]:
    paired = {(pair.predicted, pair.gold) for pair, _ in explanation.pairs}
    yield ""
    yield "similarity of predicted calls p and the label's g (* paired, – another name)"
    yield "      " + "".join(f"{f'g{column + 1}':>9}" for column in range(len(explanation.gold)))
    for row, values in enumerate(explanation.matrix):
        cells = [_cell(value, (row, column) in paired) for column, value in enumerate(values)]
        yield f"{f'p{row + 1}':>6}" + "".join(cells) + f"   {explanation.predicted[row].name}"
    for column, call in enumerate(explanation.gold):
        yield f"{f'g{column + 1}':>6} is {call.name}"


def _cell(value: float | None, is_paired: bool) -> str:
    shown = "–" if value is None else f"{value:.4f}"
    return f"{shown:>8}{'*' if is_paired else ' '}"


def _argument_line(argument: Argument) -> str:
    match argument.has:
        case "both":
            values = f"{_json(argument.predicted)} for {_json(argument.gold)}"
        case "predicted":
            values = f"{_json(argument.predicted)}, which the label lacks"
        case _:
            values = f"missing, the label has {_json(argument.gold)}"
    return f"{argument.score:.4f}  {argument.name}: {values}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
