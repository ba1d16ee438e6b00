"""A tool's parameters as the JSON schema that a grammar is made of.

Data sets write types in Python's names, leave out `type`, or list bare arguments; a grammar needs
one meaning for each. Nothing here invents a constraint but one: an object that lists its
`properties` takes no others, because the rewards call an argument that no schema has a fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from star_jax import chat
from star_jax.chat import Tool

TYPES = {
    "dict": "object",
    "list": "array",
    "tuple": "array",
    "str": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "any": ["object", "array", "string", "number", "boolean", "null"],
}
JOINS = ("anyOf", "oneOf", "allOf", "$ref")
# With one of these an object says itself what else it takes, or other schemas do.
OPEN = ("additionalProperties", "patternProperties", "unevaluatedProperties", *JOINS)
MAPS = ("properties", "patternProperties", "$defs", "definitions")  # name → schema
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLES = ("items", "additionalProperties")


def signature(tool: Tool) -> tuple[str, dict[str, Any]]:
    """A checked tool's name and the schema of its arguments; ValueError where it has none."""
    function = tool.get("function") or tool
    name, given = function["name"], function.get("parameters")
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise ValueError(f"tool {name!r}: parameters: is {given!r:.60}: give a JSON schema")
    if chat.nesting(given) > chat.MAX_DEPTH:
        raise ValueError(f"tool {name!r}: parameters: nests deeper than {chat.MAX_DEPTH} levels")
    made = _closed(_flat(given))
    kinds = made.get("type", "object")
    if "object" not in ([kinds] if isinstance(kinds, str) else kinds or ()):
        raise ValueError(f"tool {name!r}: parameters: type is {kinds!r}: arguments are an object")
    made["type"] = "object"
    if not any(key in made for key in ("properties", *OPEN)):  # it takes no arguments
        made |= {"properties": {}, "additionalProperties": False}
    return name, made


def _flat(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """{argument: schema}, as some data sets write it, as a schema."""
    is_flat = bool(parameters) and _holds_schemas(parameters)
    if is_flat and not _holds_schemas(parameters.get("properties")):
        return {"properties": dict(parameters)}
    return parameters


def _holds_schemas(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values())


def _closed(schema: Any, may_close: bool = True) -> Any:
    """A schema with JSON's types, in which objects that list their properties take no others.

    A part of an `allOf` stays open: another part may list the other properties.
    """
    if not isinstance(schema, Mapping):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type":
            made[key] = _types(value)
        elif key in MAPS and isinstance(value, Mapping):
            made[key] = {name: _closed(part) for name, part in value.items()}
        elif key in LISTS and isinstance(value, list | tuple):
            closes = key != "allOf" and "properties" not in schema
            made[key] = [_closed(part, may_close and closes) for part in value]
        elif key in SINGLES:
            made[key] = _closed(value)
        else:
            made[key] = value
    if may_close and "properties" in made and not any(key in made for key in OPEN):
        made["additionalProperties"] = False
    return made


def _types(given: Any) -> Any:
    if isinstance(given, str):
        return TYPES.get(given, given)
    if not isinstance(given, list | tuple):
        return given
    found: list[Any] = []
    for one in given:
        kinds = TYPES.get(one, one) if isinstance(one, str) else one
        found += kinds if isinstance(kinds, list) else [kinds]
    return list(dict.fromkeys(found)) if all(isinstance(one, str) for one in found) else found
