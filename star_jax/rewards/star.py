"""Sim-RL as the reference computes it, to the last bit (simrl.py of Qwen-Applications/STAR).

Its quirks are kept on purpose; docs/rewards.md lists them beside what the default mode does. Where
the reference stops a whole batch with an exception, this module either raises a ValueError (the
label or the tools are to blame) or scores the sample −1 (the generation is to blame).

Line numbers below are the reference's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from star_jax.rewards.calls import NESTED, NUMBERS, Tool
from star_jax.rewards.matching import calls_reward, greedy
from star_jax.rewards.reward import Reward
from star_jax.rewards.text import star_similarity

ASSISTANT = "<|im_start|>assistant\n"


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the reference reads it: name and arguments may be any JSON value."""

    name: Any
    arguments: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What follows the reasoning: calls, or a reply (None where a `<tool_call>` is opened)."""

    calls: tuple[Call, ...]
    reply: str | None


def score(generation: str, label: str, tools: Sequence[Tool] | None) -> Reward:
    """The reference's reward for one sample."""
    gold = read_label(label)
    known = argument_names(tools)
    predicted = _accepted(generation, known)
    if isinstance(predicted, Reward):
        return predicted
    return _score_calls(predicted, gold) if gold.calls else _score_reply(predicted, gold)


def format_problem(generation: str, tools: Sequence[Tool] | None) -> Reward | None:
    """The reward of a generation that the reference finds malformed, whatever the label."""
    predicted = _accepted(generation, argument_names(tools))
    return predicted if isinstance(predicted, Reward) else None


def _accepted(generation: str, known: dict[Any, Any]) -> Answer | Reward:
    try:
        predicted = read_generation(generation)
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        # :227, any exception while parsing. What can arise is what json.loads and indexing raise.
        return _invalid("unreadable", "−1: {0}", _said(error))
    if _is_known(predicted.calls, known):
        return predicted
    return _invalid("unknown", "−1: a call names a tool or an argument that no schema has")


def between(text: str, start: str, end: str) -> list[str]:
    """What `re.findall(start(.*?)end, text, re.S)` finds, in linear time."""
    found = []
    at = text.find(start)
    while at >= 0:
        at += len(start)
        stop = text.find(end, at)
        if stop < 0:
            break
        found.append(text[at:stop])
        at = text.find(start, stop + len(end))
    return found


@lru_cache(maxsize=1 << 12)
def read_label(label: str) -> Answer:
    """The right answer (:12); ValueError where the reference would refuse the label."""
    halves = label.split("</think>")
    if len(halves) != 2:
        raise ValueError(
            f"label has {len(halves) - 1} </think>, it needs exactly one; "
            f"write </think> before the answer: {label[:80]!r}"
        )
    try:
        return _read_answer(halves[1])
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(
            f"label has a <tool_call> that is not JSON with name and arguments ({_said(error)}); "
            f"correct it: {label[:80]!r}"
        ) from error


def read_generation(generation: str) -> Answer:
    """What the model answered (:34); raises as the reference does."""
    content = generation.split(ASSISTANT)[-1]
    thoughts = between(content, "<think>", "</think>")
    if len(thoughts) != 1:
        raise ValueError(f"{len(thoughts)} blocks of <think>…</think> instead of one")
    return _read_answer(content.rpartition("</think>")[2])


def _read_answer(text: str) -> Answer:
    text = text.strip()
    if "<tool_call>" not in text:
        return Answer((), text)
    # An unclosed call is no call, and no reply either.
    objects = [json.loads(body) for body in between(text, "<tool_call>", "</tool_call>")]
    return Answer(tuple(Call(call["name"], call["arguments"]) for call in objects), None)


def argument_names(tools: Sequence[Tool] | None) -> dict[Any, Any]:
    """Tool name → what the reference looks argument names up in (:62).

    A schema's own keys count as argument names where it lacks `properties` or `type`.
    """
    known = {}
    for number, tool in enumerate(tools or ()):
        try:
            parameters = tool["parameters"]
            if (
                "properties" in parameters
                and isinstance(parameters["properties"], dict)
                and parameters.get("type") is not None
            ):
                parameters = parameters["properties"]
            known[tool["name"]] = parameters
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"tools[{number}]: the reference needs a bare name and parameters "
                f"({_said(error)}); unwrap it, or score with compat=None"
            ) from error
    return known


def _is_known(calls: Sequence[Call], known: dict[Any, Any]) -> bool:
    """:88 with its caller: an exception here is an invalid call too (:247)."""
    try:
        for call in calls:
            if call.name not in known:
                return False
            names = known[call.name]
            for key in call.arguments:
                if key not in names:
                    return False
        return True
    except TypeError:  # a name that cannot be a key, arguments that are null or a number
        return False


def _score_reply(predicted: Answer, gold: Answer) -> Reward:
    if predicted.reply is None:
        return Reward(0.0, 1.0, 0.0, "needless_call", "0: the label is a reply, not a call")
    if not predicted.reply:
        return Reward(0.0, 1.0, 0.0, "no_reply", "0: the label is a reply, and there is none")
    if gold.reply is None:
        raise ValueError("label opens a <tool_call> that it does not close; add </tool_call>")
    value = star_similarity(predicted.reply, gold.reply)
    return Reward(value, 1.0, value, "reply", "ROUGE-L F1 of the reply {0:.4f}", (value,))


def _score_calls(predicted: Answer, gold: Answer) -> Reward:
    if not predicted.calls:
        return Reward(0.0, 1.0, 0.0, "no_call", "0: the label has calls, and there is none")
    if any([isinstance(call.name, NESTED) for call in gold.calls]):
        raise ValueError("label has a call whose name is no text; write the tool's name")
    try:
        pairs = greedy(predicted.calls, gold.calls, arguments_similarity)
    except (TypeError, RecursionError) as error:
        # The reference raises here and loses the batch, e.g. for arguments ["a"] where a is known.
        return _invalid("crash", "−1: the reference stops at this call ({0})", _said(error))
    total = 0.0
    for pair in pairs:  # in the order of the predictions, as the reference adds
        total += pair.similarity
    return calls_reward(total, len(pairs), len(predicted.calls), len(gold.calls))


def arguments_similarity(predicted: Any, gold: Any) -> float:
    """:115: Σ over common keys / |all keys|, the sum in the order of the prediction's keys."""
    if not isinstance(gold, dict) and not (isinstance(gold, list) and not _shares(predicted, gold)):
        raise ValueError(f"label has arguments that are no object: {gold!r}; write {{...}}")
    common = 0
    total = 0.0
    for key in predicted:
        if key in gold:
            common += 1
            total += value_similarity(predicted[key], gold[key])
    union = len(predicted) + len(gold) - common
    return total / union if union else 1.0


def _shares(predicted: Collection[Any], gold: Collection[Any]) -> bool:
    return any(key in gold for key in predicted)


def value_similarity(predicted: Any, gold: Any) -> float:
    """:125: texts by ROUGE-L, numbers and booleans by ==, all else by equal str()."""
    if isinstance(predicted, str) and isinstance(gold, str):
        return star_similarity(predicted, gold)
    if isinstance(predicted, NUMBERS) and isinstance(gold, NUMBERS):
        return float(predicted == gold)
    return float(str(predicted) == str(gold))


def _invalid(kind: str, sentence: str, *facts: object) -> Reward:
    return Reward(-1.0, -1.0, 0.0, kind, sentence, facts)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
