"""An answer against an entry, by the rules of ACEBench's checker for its Normal categories.

    check(text, entry) → Verdict

The steps, and the kind of error that each ends with:

    the text is a list of calls                             wrong_output_format
    as many calls as expected                               wrong functions number
    of the expected names, each as often                    function_mismatch
    for each expected call, one call of its name fits it    the kind that `_call` and `values` give

A call may fit two expected ones. An entry with several right answers is met by any; the error is
that of the first. The official checker raises on some entries, whose schemas lack something: such
an answer is wrong, and the verdict's `raises` names the exception.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from star_jax.evals.acebench.arithmetic import Unreadable
from star_jax.evals.acebench.data import Entry, from_row
from star_jax.evals.acebench.decode import Call, decode
from star_jax.evals.acebench.values import Wrong, compare
from star_jax.evals.verdict import Verdict

LONGEST = 300  # characters of a message for people


def check(text: str, entry: Entry | Mapping[str, Any]) -> Verdict:
    """Whether an answer's text meets an entry. No text raises, and nothing in it is run.

    `entry` is an Entry, or a mapping with `tools` and `possible_answer` (or, as ACEBench spells
    them, `function` and `ground_truth`).
    """
    if not isinstance(entry, Entry):
        entry = from_row(entry)
    try:
        calls = decode(text)
    except Unreadable as error:
        return _verdict(Wrong("wrong_output_format", f"no list of calls: {error}"))
    try:
        return _verdict(_any_answer(calls, entry))
    # What a schema without `required` (KeyError), an answer that is in no tool (TypeError), an
    # element that is no object (AttributeError) or an integer of thousands of digits (ValueError,
    # OverflowError) makes of the official checker.
    except (
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        RecursionError,
    ) as error:
        name = type(error).__name__
        return Verdict(False, None, (f"the official checker ends with {name}",), raises=name)


def _verdict(wrong: Wrong | None) -> Verdict:
    if wrong is None:
        return Verdict(True)
    why = wrong.why if len(wrong.why) <= LONGEST else wrong.why[:LONGEST] + "…"
    return Verdict(False, wrong.kind, (why,))


def _any_answer(calls: list[Call], entry: Entry) -> Wrong | None:
    answer = entry.possible_answer
    first: Wrong | None = None
    for alternative in answer if isinstance(answer, list) else [answer]:
        wrong = _answer(calls, alternative, entry.tools)
        if wrong is None:
            return None
        first = first or wrong
    return first


def _answer(calls: list[Call], answer: dict[str, Any], tools: list[dict[str, Any]]) -> Wrong | None:
    if len(calls) != len(answer):
        detail = f"{len(calls)} calls, expected {len(answer)}"
        return Wrong("wrong functions number", detail)
    # Repeated calls have numbered keys: api_1, api_2. A name that ends in a number loses it, too.
    expected = [(key, re.sub(r"_\d+$", "", key), values) for key, values in answer.items()]
    names = Counter(call.name for call in calls)
    if names != Counter(name for _, name, _ in expected):
        detail = f"calls of {dict(names)}, expected {[name for _, name, _ in expected]}"
        return Wrong("function_mismatch", detail)
    for key, name, values in expected:
        # The first tool whose name is a part of the key.
        tool = next((tool for tool in tools if tool["name"] in key), None)
        if wrong := _any_call(calls, name, values, tool):
            return wrong
    return None


def _any_call(
    calls: list[Call], name: str, values: Any, tool: dict[str, Any] | None
) -> Wrong | None:
    """None where some call fits; else what is wrong with the last call of all."""
    wrong: Wrong | None = None
    for call in calls:
        if call.name != name:
            wrong = Wrong("simple_function_checker:unclear", f"no call of {name} fits")
            continue
        wrong = _call(call, values, tool)
        if wrong is None:
            return None
    return wrong


def _call(call: Call, values: Any, tool: Any) -> Wrong | None:
    parameters = tool["parameters"]
    if call.arguments == {} and parameters == {}:
        return None
    if call.arguments == {} or parameters == {}:
        return Wrong("wrong_param", f"{call.name} is called without parameters, or has none")
    if values == parameters["properties"]:
        return None
    if values == {}:
        return Wrong("wrong_param", f"{call.name} is expected without arguments")
    if call.name != tool["name"]:
        return Wrong("wrong_function_name", f"{call.name}, expected {tool['name']}")
    return _arguments(call.arguments, values, parameters)


def _arguments(
    arguments: dict[str | None, Any], values: dict[str, Any], parameters: dict[str, Any]
) -> Wrong | None:
    properties = parameters["properties"]
    for name in parameters["required"]:
        if name not in arguments:
            return Wrong("lack_args", f"{name} is missing")
    for name, value in arguments.items():
        if name not in properties or name not in values:
            return Wrong("addition_args", f"{name} was not asked for")
        if wrong := compare(str(name), value, values[name], properties[name]):
            return wrong
    return None
