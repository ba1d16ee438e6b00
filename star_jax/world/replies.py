"""Replies in words. Each follows from the prompt: the mood of the request chooses its form, and
what it says is copied from the request, the schemas or the result. No fixed sentence is worth much.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from star_jax.world import words
from star_jax.world.draw import Draw
from star_jax.world.requests import Request
from star_jax.world.tools import Tool, spaced

ERRORS = (
    "the service is busy",
    "nothing was found",
    "access was denied",
    "the time ran out",
    "the server is down",
    "the limit is reached",
)


def unable(mood: str, ask: str, tools: Sequence[Tool]) -> str:
    """No tool fits."""
    names = " or ".join(tool.name for tool in tools)
    match mood:
        case "question":
            return f"No, {names} can't {ask}."
        case "please":
            return f"Sorry, nothing here lets me {ask}."
        case "need":
            return f"You would need another tool to {ask}, as I only have {names}."
    return f"Not possible: {names} won't {ask}."


def asking(mood: str, ask: str, slot: str) -> str:
    """A required value is missing."""
    wanted = spaced(slot)
    match mood:
        case "question":
            return f"Yes, but what {wanted} do you mean?"
        case "please":
            return f"Gladly, once you tell me the {wanted}."
        case "need":
            return f"To {ask}, give me the {wanted}."
    return f"Which {wanted}?"


def answer(draw: Draw, request: Request) -> dict[str, Any]:
    """What the tool answers."""
    if draw.chance(0.12):
        return {"error": draw.pick(ERRORS)}
    return {name: kind.draw(draw).value for name, kind in request.tool.results}


def told(mood: str, results: Sequence[dict[str, Any]]) -> str:
    """The answers of tools, in words."""
    pairs = [(spaced(name), _text(value)) for result in results for name, value in result.items()]
    match mood:
        case "question":
            return f"Yes, {words.listed([f'the {name} is {value}' for name, value in pairs])}."
        case "please":
            return f"Here: {words.listed([f'{value} as {name}' for name, value in pairs])}."
        case "need":
            return f"You get {words.listed([f'{name} {value}' for name, value in pairs])}."
    return " ".join(f"{name.capitalize()}: {value}." for name, value in pairs)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
