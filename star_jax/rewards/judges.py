"""Judges of single steps, for `swirl`, that need no language model and no right answer.

by_schema   how much of a call its tool's schema allows: a stand-in for the model that SwiRL asks
"""

from __future__ import annotations

from typing import Any

from star_jax.rewards.calls import argument_names, signatures
from star_jax.rewards.swirl import Step

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def by_schema(step: Step) -> float:
    """The share of required and given parameters that are there and of the right type; a call that
    was made before is worth nothing. A reply is as good as any."""
    call = step.call
    if call is None:
        return 1.0
    if any(call == other for other in step.before):
        return 0.0
    parameters = signatures(step.tools).get(call.name)
    if parameters is None:
        return 0.0
    properties = {name: _schema(parameters, name) for name in argument_names(parameters)}
    required = [x for x in _list(parameters.get("required")) if isinstance(x, str)]
    asked = set(required) | set(call.arguments)
    fine = [
        name
        for name in asked
        if name in call.arguments and _fits(call.arguments[name], properties.get(name))
    ]
    return len(fine) / len(asked) if asked else 1.0


def _schema(parameters: dict[str, Any], name: str) -> Any:
    inner = parameters.get("properties", parameters)
    return inner.get(name) if isinstance(inner, dict) else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _fits(value: Any, schema: Any) -> bool:
    """Of the schema's type, and one of its choices; what a schema leaves open, anything fits."""
    if schema is None:
        return False
    if not isinstance(schema, dict):
        return True
    kind, choices = schema.get("type"), schema.get("enum")
    known = _TYPES.get(kind) if isinstance(kind, str) else None
    if known is not None and not isinstance(value, known):
        return False
    if isinstance(value, bool) and known is not None and bool not in known:
        return False  # in Python True is an int
    return not isinstance(choices, list) or value in choices
