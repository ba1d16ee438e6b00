"""Calls against schemas, and calls against calls, in the default mode.

A schema's keys decide which calls are well-formed; values are compared by their JSON type: texts
by ROUGE-L, texts that are numbers and numbers by their value, everything else by equality. True
is not 1, None is not "None", the order of an object's keys does not count, a list's does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

from star_jax.rewards.matching import Callish
from star_jax.rewards.text import text_similarity

# As tuples: a union made anew on each call of isinstance costs more than the test.
NESTED = (dict, list)
NUMBERS = (int, float)

Tool = Mapping[str, Any]
Signatures = dict[str, dict[str, Any]]

# A number as JSON writes it: "007" and "+5" are texts. Exponents are short so that Decimal is sure.
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")


def signatures(tools: Sequence[Tool] | None) -> Signatures:
    """Tool name → its `parameters`; ValueError where a tool is malformed."""
    known: Signatures = {}
    for number, tool in enumerate(tools or ()):
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        name = inner.get("name") if isinstance(inner, dict) else None
        parameters = inner.get("parameters") or {} if isinstance(inner, dict) else None
        if not isinstance(name, str) or not isinstance(parameters, dict):
            raise ValueError(
                f"tools[{number}] is {str(tool)[:80]}; a tool is an object with a name and an "
                'object of parameters (a JSON schema, or argument names), bare or under "function"'
            )
        known[name] = parameters
    return known


def argument_names(parameters: dict[str, Any]) -> Collection[str]:
    """The names in a JSON schema's `properties`, or in xLAM's flat form {name: {...}}.

    A schema without properties takes no arguments: its own keywords are not names.
    """
    properties = parameters.get("properties")
    if isinstance(properties, dict) and ("type" in parameters or _are_schemas(properties)):
        return properties.keys()
    return parameters.keys() if _are_schemas(parameters) else ()


def _are_schemas(values: dict[str, Any]) -> bool:
    return all([isinstance(value, dict) for value in values.values()])


def fault(calls: Sequence[Callish], known: Signatures) -> tuple[str, tuple[object, ...]] | None:
    """The first call that no tool can take: (`unknown_tool` | `unknown_argument`, facts)."""
    for number, call in enumerate(calls, 1):
        parameters = known.get(call.name)
        if parameters is None:
            return "unknown_tool", (number, call.name, sorted(known))
        names = argument_names(parameters)
        for argument in call.arguments:
            if argument not in names:
                return "unknown_argument", (number, call.name, argument, sorted(names))
    return None


def arguments_similarity(predicted: Mapping[str, Any], gold: Mapping[str, Any]) -> float:
    """Σ over common keys of the values' similarity / |all keys|; 1 where both are empty (eq. 8)."""
    scores = [value_similarity(value, gold[key]) for key, value in predicted.items() if key in gold]
    union = len(predicted) + len(gold) - len(scores)
    # fsum: the sum does not depend on the order of the keys.
    return math.fsum(scores) / union if union else 1.0


def value_similarity(predicted: Any, gold: Any) -> float:
    """How alike two JSON values are, in [0, 1]."""
    if not (isinstance(predicted, str) and isinstance(gold, str)):
        return 1.0 if same(predicted, gold) else 0.0
    if predicted == gold:
        return 1.0
    if NUMBER.fullmatch(predicted) and NUMBER.fullmatch(gold):
        return float(Decimal(predicted) == Decimal(gold))
    return text_similarity(predicted, gold)


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 is 1.0, True is not 1, key order is irrelevant. No recursion."""
    if not isinstance(left, NESTED):
        return _same_scalar(left, right)
    todo = [(left, right)]
    while todo:
        one, other = todo.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            todo += [(value, other[key]) for key, value in one.items()]
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            todo += zip(one, other, strict=True)
        elif not _same_scalar(one, other):
            return False
    return True


def _same_scalar(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, NUMBERS) and isinstance(other, NUMBERS):
        return one == other or (one != one and other != other)  # NaN, which json.loads lets in
    return type(one) is type(other) and one == other
