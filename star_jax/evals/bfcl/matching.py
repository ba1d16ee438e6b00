"""Calls against the calls that an answer asks for.

    calls, tools, possible answer → Verdict

`simple` asks for one call of the first tool, `multiple` for one call of the tool that the answer
names, `parallel` for several calls in any order. In parallel every expected call takes the first
call left that passes, and keeps it: an assignment that needs another choice is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from star_jax.evals.bfcl.decode import Call
from star_jax.evals.bfcl.kinds import Language, check_type, read
from star_jax.evals.bfcl.values import check_value
from star_jax.evals.bfcl.wrong import RIGHT, show, wrong
from star_jax.evals.verdict import Verdict

T = TypeVar("T")
Tool = Mapping[str, Any]
Answer = Mapping[str, Mapping[str, Sequence[Any]]]  # {tool: {parameter: [accepted values]}}


def simple(
    calls: Sequence[Call], tools: Sequence[Tool], answers: Sequence[Answer], language: Language
) -> Verdict:
    if len(calls) != 1:
        return wrong_count("simple_function_checker", calls, 1)
    return check_call(calls[0], tools[0], answers[0], language)


def multiple(
    calls: Sequence[Call], tools: Sequence[Tool], answers: Sequence[Answer], language: Language
) -> Verdict:
    if len(calls) != len(answers):
        return wrong_count("multiple_function_checker", calls, len(answers))
    return check_call(calls[0], tool_of(answers[0], tools), answers[0], language)


def parallel(
    calls: Sequence[Call], tools: Sequence[Tool], answers: Sequence[Answer], language: Language
) -> Verdict:
    checker = "parallel_function_checker_no_order"
    if len(calls) != len(answers):
        return wrong_count(checker, calls, len(answers))
    left = list(calls)
    for answer in answers:
        tool = tool_of(answer, tools)
        tried: list[Verdict] = []
        for index, call in enumerate(left):
            verdict = check_call(call, tool, answer, language)
            if verdict.valid:
                del left[index]
                break
            tried.append(verdict)
        else:
            kinds = tuple(verdict.error_type or "" for verdict in tried)
            why = f"no call left for {show(answer)}"
            return wrong(f"{checker}:cannot_find_match", why, tried=kinds)
    return RIGHT


def wrong_count(checker: str, calls: Sequence[Call], expected: int) -> Verdict:
    return wrong(f"{checker}:wrong_count", f"expected {expected} calls, got {len(calls)}")


def tool_of(answer: Answer, tools: Sequence[Tool]) -> Tool:
    name = first(answer)
    found = next((tool for tool in tools if tool["name"] == name), None)
    if found is None:
        raise TypeError(f"the answer calls {name!r}, and no tool has this name")
    return found


def first(items: Iterable[T]) -> T:
    for item in items:
        return item
    raise IndexError("an answer names no tool")


def check_call(call: Call, tool: Tool, answer: Answer, language: Language) -> Verdict:
    """One call: its name, its required parameters, every argument in order, what is left out."""
    name, schema, arguments = tool["name"], tool["parameters"], call["arguments"]
    accepted = first(answer.values())
    if call["name"] != name:
        error = f"expected {show(name)}, got {show(call['name'])}"
        return wrong("simple_function_checker:wrong_func_name", error)
    for required in schema["required"]:
        if required not in arguments:
            return wrong("simple_function_checker:missing_required", f"missing {show(required)}")
    for parameter, value in arguments.items():
        if parameter not in schema["properties"] or parameter not in accepted:
            error = f"unexpected {show(parameter)}"
            return wrong("simple_function_checker:unexpected_param", error)
        verdict = check_argument(
            value, schema["properties"][parameter], accepted[parameter], language
        )
        if not verdict.valid:
            return verdict
    for parameter, options in accepted.items():
        if parameter not in arguments and "" not in options:
            return wrong("simple_function_checker:missing_optional", f"missing {show(parameter)}")
    return RIGHT


def check_argument(
    value: Any, schema: Mapping[str, Any], accepted: Sequence[Any], language: Language
) -> Verdict:
    found = read(schema, value, language)
    if isinstance(found, Verdict):
        return found
    kind, value = found
    verdict = check_type(value, kind, accepted)
    return check_value(value, kind, accepted) if verdict.valid else verdict
