"""An API as one prompt shows it: names, descriptions, order and options are drawn anew.

Nothing but the prompt tells what a tool is called, what its parameters are called, which of them
are required, and how their choices are spelt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from star_jax.world import words
from star_jax.world.api import Api, Param
from star_jax.world.draw import Draw
from star_jax.world.kinds import Kind


@dataclass(frozen=True)
class Slot:
    """A parameter under the name that the prompt gives it."""

    param: Param
    name: str
    kind: Kind
    is_required: bool
    schema: dict[str, Any]


@dataclass(frozen=True)
class Tool:
    """An API under the names that the prompt gives it."""

    api: Api
    name: str
    slots: tuple[Slot, ...]
    results: tuple[tuple[str, Kind], ...]
    schema: dict[str, Any]


def spaced(name: str) -> str:
    """The words of a name: departure_city and departureCity are a departure city."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).replace(
        "_", " "
    )


def show(draw: Draw, api: Api) -> Tool:
    """The API in new clothes."""
    style = draw.weighted({"invented": 15, "camel": 10, "dotted": 8, "noun_first": 7, "plain": 60})
    name = _function_name(draw, api, style)
    slots = _slots(draw, api, is_camel=style == "camel")
    schema: dict[str, Any] = {"name": name}
    # An invented name says nothing, so the description has to.
    if style == "invented" or draw.chance(0.7):
        schema["description"] = draw.pick(api.about)
    schema["parameters"] = {
        "type": "object",
        "properties": {slot.name: slot.schema for slot in slots},
        "required": [slot.name for slot in slots if slot.is_required],
    }
    results = tuple((_name(draw, each.names, 0.1), each.kind) for each in api.gives)
    return Tool(api, name, slots, results, schema)


def _function_name(draw: Draw, api: Api, style: str) -> str:
    is_usual = draw.chance(0.4)
    verb, noun = (api.verbs[0], api.nouns[0]) if is_usual else (_any(draw, api.verbs, api.nouns))
    match style:
        case "invented":
            first = words.invented(draw)
            return first if draw.chance(0.5) else f"{first}_{words.invented(draw)}"
        case "camel":
            return _camel(f"{verb}_{noun}")
        case "dotted":
            return f"{noun}.{verb}"
        case "noun_first":
            return f"{noun}_{verb}"
    return f"{verb}_{noun}"


def _any(draw: Draw, verbs: Sequence[str], nouns: Sequence[str]) -> tuple[str, str]:
    return draw.pick(verbs), draw.pick(nouns)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(map(str.capitalize, others))


def _name(draw: Draw, names: Sequence[str], invented: float) -> str:
    """The usual name half of the time."""
    if draw.chance(invented):
        return words.invented(draw)
    return names[0] if draw.chance(0.5) else draw.pick(names)


def _slots(draw: Draw, api: Api, *, is_camel: bool) -> tuple[Slot, ...]:
    slots: list[Slot] = []
    for param in api.takes:
        if not param.is_required and draw.chance(0.4):
            continue  # this tool has no such option
        slot = _slot(draw, param, is_camel)
        while slot.name in {other.name for other in slots}:
            slot = _slot(draw, param, is_camel)
        slots.append(slot)
    if not any(slot.is_required for slot in slots):
        return _slots(draw, api, is_camel=is_camel)
    return tuple(draw.shuffled(slots))


def _slot(draw: Draw, param: Param, is_camel: bool) -> Slot:
    name = _name(draw, param.names, 0.12)
    is_known = name in param.names
    kind = param.kind.vary(draw) if param.kind.vary else param.kind
    schema = dict(kind.schema)
    if not is_known or draw.chance(0.35):
        schema["description"] = draw.pick(param.about)
    is_required = param.is_required
    # Which parameters are required is the tool's own business.
    if not kind.is_flag and draw.chance(0.1):
        is_required = not is_required
    is_simple = schema["type"] not in ("array", "object")
    if not is_required and (kind.is_flag or (is_simple and draw.chance(0.5))):
        schema["default"] = False if kind.is_flag else kind.draw(draw).value
    return Slot(param, _camel(name) if is_camel else name, kind, is_required, schema)
