"""A row as a person reads it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from star_jax.world.generate import Row

WIDTH = 100
MARGIN = 11


def show(row: Row) -> str:
    """The tools on offer, what was said, and the right answer after an arrow."""
    lines = [f"{row['id']}  ({row['case']}, {row['domain']})"]
    for number, tool in enumerate(row["tools"]):
        lines += _block("" if number else "tools", signature(tool))
    *before, answer = row["messages"]
    for message in before:
        lines += _message(message, message["role"])
    lines += _message(answer, "→ answer")
    return "\n".join(lines) + "\n"


def signature(tool: dict[str, Any]) -> str:
    """get_weather(city: string, unit: celsius|kelvin = celsius): tells the weather"""
    parameters = tool["parameters"]
    texts = []
    for name, schema in parameters["properties"].items():
        text = f"{name}{'' if name in parameters['required'] else '?'}: {_type(schema)}"
        texts.append(text + (f" = {json.dumps(schema['default'])}" if "default" in schema else ""))
    about = f": {tool['description']}" if "description" in tool else ""
    return f"{tool['name']}({', '.join(texts)}){about}"


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return "|".join(schema["enum"])
    match schema["type"]:
        case "array":
            return f"[{_type(schema['items'])}]"
        case "object":
            parts = (f"{name}: {_type(part)}" for name, part in schema["properties"].items())
            return "{" + ", ".join(parts) + "}"
    return schema["type"]


def _message(message: dict[str, Any], label: str) -> Iterator[str]:
    if thought := message.get("reasoning_content"):
        yield from _block(label, f"({thought})")
        label = ""
    if message["content"]:
        yield from _block(label, message["content"])
        label = ""
    for call in message.get("tool_calls", ()):
        given = (
            f"{name}={json.dumps(value, ensure_ascii=False)}"
            for name, value in call["arguments"].items()
        )
        yield from _block(label, f"{call['name']}({', '.join(given)})")
        label = ""


def _block(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"  {label:<{MARGIN}}",
        subsequent_indent=" " * (MARGIN + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
