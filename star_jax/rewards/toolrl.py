"""ToolRL's reward: is the layout right, and how much of the right calls is there.

    R = R_format + R_correct (+ R_length)      R_format ∈ {0, 1}, R_correct ∈ [−c, c], c = 3
    R_correct = 2c · S / S_max − c
    S     = J(names) + Σ_g max_p [J(keys) + Σ_{k ∈ g} 1(p_k = g_k)]     over gold calls g in order,
    S_max = 1 + Σ_g (1 + |keys of g|)                                   p unused, of g's name

J is the Jaccard index of multisets. Calls equal to the label's, in order, give c; calls that
cannot be read give −c; a label without calls gives 0, so that needless calls cost the format alone
(arXiv 2504.13958; its rlla.py). `compat="toolrl"` reads texts and compares values as it does: one
`<tool_call>` block with a JSON object a line, exact newlines between blocks, True equal to 1. The
default also reads Qwen3's layout (a block per call, free spacing, `arguments` for `parameters`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from star_jax.rewards.calls import Tool, same
from star_jax.rewards.reading import spoken
from star_jax.rewards.reward import Reward
from star_jax.rewards.star import between

Compat = Literal["toolrl"] | None
Grain = Literal["parameter", "call", "answer"]

BAD_CALL = "call that is no JSON object with name and parameters"


@dataclass(frozen=True, slots=True)
class Rules:
    """Which of the paper's variants counts; the names of its switches stand beside."""

    grain: Grain  # "call" is INTERMEDIATEREWARD, "answer" COARSEREWARD
    refined: bool  # REFINEDREWARD: J is 1 for equal lists and else 0
    equal: Callable[[Any, Any], bool]


def toolrl(
    generation: str,
    label: str,
    tools: Sequence[Tool] | None,
    compat: Compat = None,
    *,
    grain: Grain = "parameter",
    refined: bool = False,
    correct_max: float = 3.0,
    length_words: int | None = None,
) -> Reward:
    """Score one sample. `tools` does not count: the formula knows no schemas.

    `grain` is how finely a call is compared: by "parameter"; a whole "call", right or wrong; or
    the whole "answer". `correct_max` = 1 is the paper's CORRECTMAX1. `length_words` = 512 is its
    WITHLENGTH: min(1, words of reasoning / 512), rounded to hundredths, is added.
    """
    if grain not in ("parameter", "call", "answer"):
        raise ValueError(f'toolrl: grain={grain!r}; known are "parameter", "call" and "answer"')
    match compat:
        case None:
            text, gold = spoken(generation).strip(), _answer(spoken(label))
            layout = _has_layout(text, gold)
            rules = Rules(grain, refined, same)
        case "toolrl":
            text = generation.split("<|im_start|>assistant")[-1].split("<|im_end|>")[0].strip()
            gold = label
            layout = _has_exact_layout(text, gold)
            rules = Rules(grain, refined, lambda left, right: left == right)
        case _:
            raise ValueError(f'toolrl: compat={compat!r}; known are None and "toolrl"')
    correct, kind = _correctness(text, gold, compat, rules, correct_max)
    length = _length(text, length_words)
    return Reward(
        layout + correct + length,
        float(layout),
        correct,
        kind,
        "layout {0:g} + calls {1:g} ({2}) + length {3:g}",
        (layout, correct, kind.replace("_", " "), length),
        {"format": layout, "correct": correct, "length": length},
    )


def _answer(text: str) -> str:
    return text.rpartition("</think>")[2]


def _has_exact_layout(text: str, gold: str) -> bool:
    """rlla.py:74: a pattern for the whole text, chosen by what the label contains."""
    tags = [tag for tag in ("tool_call", "response") if f"<{tag}>" in gold]
    if any(text.count(f"<{tag}>") != 1 or text.count(f"</{tag}>") != 1 for tag in tags):
        return False
    match tags:
        case ["response"]:
            pattern = "<think>.*?</think>\n<response>.*?</response>$"
        case ["tool_call"]:
            pattern = "<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>$"
        case ["tool_call", "response"]:
            pattern = (
                "<think>.*?</think>\n<tool_call>\n.*?\n</tool_call>\n<response>.*?</response>$"
            )
        case _:
            pattern = "<think>.*?</think>$"
    return re.match(pattern, text, re.S) is not None


def _has_layout(text: str, gold: str) -> bool:
    """One block of reasoning, then calls and nothing else, or a reply and no call."""
    if text.count("<think>") != 1 or text.count("</think>") != 1 or not text.startswith("<think>"):
        return False
    rest = _answer(text).strip()
    if "<response>" in gold:
        rest, found = _without_response(rest)
        if not found:
            return False
    if "<tool_call>" in gold:
        return _is_calls_only(rest)
    return "<tool_call>" not in rest and (bool(rest) or "<response>" in gold or not gold.strip())


def _without_response(text: str) -> tuple[str, bool]:
    """The text before its one closing <response> block, and whether it has one."""
    head, opening, tail = text.partition("<response>")
    is_one = bool(opening) and "<response>" not in tail and tail.count("</response>") == 1
    return head.rstrip(), is_one and tail.endswith("</response>")


def _is_calls_only(text: str) -> bool:
    pieces = text.split("<tool_call>")
    if pieces[0].strip() or len(pieces) == 1:
        return False
    return all(
        piece.count("</tool_call>") == 1 and piece.rstrip().endswith("</tool_call>")
        for piece in pieces[1:]
    )


def _correctness(
    text: str, gold: str, compat: Compat, rules: Rules, most: float
) -> tuple[float, str]:
    if "<tool_call>" not in gold:
        return 0.0, "no_calls_wanted"
    wanted = _read_label(gold, compat)
    try:
        calls = _read_calls(text, compat)
    except (ValueError, RecursionError, KeyError, TypeError):
        return -most, "unreadable_call"
    if not calls:
        return -most, "no_call"
    try:
        return _graded(wanted, calls, rules, most)
    except (KeyError, TypeError, AttributeError, RecursionError):
        return -most, "unreadable_call"  # parameters that are no object, a name that is a list


def _read_label(gold: str, compat: Compat) -> list[Any]:
    try:
        calls = _read_calls(gold, compat)
        well_formed = all([_is_call(call) for call in calls])
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"label has a {BAD_CALL} ({error}): {gold[:80]!r}") from error
    if not calls or not well_formed:
        raise ValueError(f"label has a {BAD_CALL}; correct it: {gold[:80]!r}")
    return calls


def _is_call(value: Any) -> bool:
    return isinstance(value["name"], str) and isinstance(value["parameters"], dict)


def _read_calls(text: str, compat: Compat) -> list[Any]:
    """The JSON values of a text's calls; raises what json.loads and indexing raise."""
    if compat == "toolrl":
        if "<tool_call>" not in text or "</tool_call>" not in text:
            return []
        body = text.split("<tool_call>")[1].split("</tool_call>")[0].strip()
        return [json.loads(line) for line in body.split("\n")]
    return [
        {"name": value["name"], "parameters": value[_parameters_key(value)]}
        for body in between(_answer(text), "<tool_call>", "</tool_call>")
        for value in _objects(body.strip())
    ]


def _parameters_key(value: Any) -> str:
    return "parameters" if "parameters" in value else "arguments"


def _objects(body: str) -> list[Any]:
    """One JSON value over several lines, or one on each line."""
    try:
        return [json.loads(body)]
    except ValueError:
        return [json.loads(line) for line in body.split("\n") if line.strip()]


def _graded(
    wanted: Sequence[Any], calls: Sequence[Any], rules: Rules, most: float
) -> tuple[float, str]:
    if rules.equal(calls, wanted):
        return most, "exact"
    if rules.grain == "answer":
        return -most, "not_exact"
    score = _jaccard([call["name"] for call in wanted], [call["name"] for call in calls], rules)
    best_possible = 1.0
    free = list(calls)
    for gold in wanted:
        best_possible += 1.0 + (len(gold["parameters"]) if rules.grain == "parameter" else 0.0)
        values = [
            _call_score(gold, call, rules) if call["name"] == gold["name"] else 0.0 for call in free
        ]
        best = max(values, default=0.0)
        if best > 0.0:
            score += best
            free.pop(values.index(best))
    return 2 * most * score / best_possible - most, "graded"


def _call_score(gold: Any, call: Any, rules: Rules) -> float:
    if rules.grain == "call":
        return float(rules.equal(call, gold))
    wanted, given = gold["parameters"], call["parameters"]
    keys = _jaccard(list(wanted), list(given.keys()), rules)
    right = [key in given and rules.equal(given[key], wanted[key]) for key in wanted]
    return keys + float(sum(right))


def _jaccard(left: Sequence[Hashable], right: Sequence[Hashable], rules: Rules) -> float:
    """|∩| / |∪| of multisets; 1 for equal lists, 0 if one is empty."""
    if left == right:
        return 1.0
    if rules.refined or not left or not right:
        return 0.0
    common = _size(Counter(left) & Counter(right))
    return common / (len(left) + len(right) - common)


def _size(counts: Counter[Hashable]) -> int:
    return sum(counts.values())


def _length(text: str, words: int | None) -> float:
    """Words of reasoning over `words`, at most 1, in hundredths (rlla.py:118)."""
    if words is None or "<think>" not in text or "</think>" not in text:
        return 0.0
    thought = text.split("<think>")[-1].split("</think>")[0]
    return min(1.0, round(len(thought.split()) / words, 2))
