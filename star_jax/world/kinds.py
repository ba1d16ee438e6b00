"""Kinds of values: the JSON schema of each, and how one is drawn and said.

Kind --draw--> Said(value, text)      value: what a call has to hold; text: what a person says
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from star_jax.world import words
from star_jax.world.draw import Draw


class Said(NamedTuple):
    """A value, and the words that ask for it."""

    value: Any
    text: str


@dataclass(frozen=True)
class Kind:
    """What a parameter or a result may hold."""

    noun: str  # what a person calls it
    schema: Mapping[str, Any]
    draw: Callable[[Draw], Said]
    vary: Callable[[Draw], Kind] | None = None  # the same kind as another tool may spell it

    @property
    def is_flag(self) -> bool:
        return self.schema["type"] == "boolean"


def text(noun: str, make: Callable[[Draw], str], invented: float = 0.12) -> Kind:
    """Strings that are copied; now and then a word that nobody has seen."""

    def draw(source: Draw) -> Said:
        made = words.invented(source).capitalize() if source.chance(invented) else make(source)
        return Said(made, made)

    return Kind(noun, {"type": "string"}, draw)


def _of(values: Sequence[str]) -> Callable[[Draw], str]:
    return lambda draw: draw.pick(values).replace("_", " ")


def _code(draw: Draw) -> str:
    letters = "".join(draw.pick("ABCDEFGHKLMNPRSTVXZ") for _ in range(2))
    return f"{letters}{draw.whole(10, 99)}" if draw.chance(0.5) else f"{letters}-{draw.whole(2, 9)}"


def _note(draw: Draw) -> str:
    noun = draw.pick(words.NOUN)
    match draw.whole(0, 3):
        case 0:
            return f"the {noun} is {draw.pick(words.ADJECTIVE)}"
        case 1:
            return f"bring the {noun}"
        case 2:
            return f"I lost my {noun}"
    return f"meet me at the {noun}"


PERSON = text("person", lambda draw: f"{draw.pick(words.FIRST)} {draw.pick(words.LAST)}")
FRIEND = text("friend", _of(words.FIRST))
CITY = text("city", _of(words.CITY))
STREET = text("street", lambda draw: f"{draw.pick(words.STREET)} Street", 0.0)
DISH = text("dish", _of(words.DISH))
FOOD = text("ingredient", _of(words.FOOD), 0.0)
PRODUCT = text("product", _of(words.PRODUCT))
TOPIC = text("topic", _of(words.TOPIC))
LANGUAGE = text("language", _of(words.LANGUAGE))
DAY = text("day", _of(words.DAY), 0.0)
CODE = text("code", _code, 0.0)
NOTE = text("text", _note, 0.0)
TITLE = text("title", lambda draw: f"{draw.pick(words.ADJECTIVE)} {draw.pick(words.NOUN)}".title())
COMPANY = text(
    "company", lambda draw: draw.pick(words.LAST) + draw.pick([" Labs", " Group", " Co"])
)
DATE = text("date", lambda d: f"2026-{d.whole(1, 12):02}-{d.whole(1, 28):02}", 0.0)
TIME = text("time", lambda d: f"{d.whole(7, 22):02}:{d.pick(['00', '15', '30', '45'])}", 0.0)
EMAIL = text("address", lambda d: f"{d.pick(words.FIRST).lower()}@{words.invented(d)}.com", 0.0)


def whole(low: int, high: int, noun: str = "number") -> Kind:
    """Whole numbers; small ones are said in words now and then."""

    def draw(source: Draw) -> Said:
        value = source.whole(low, high)
        in_words = 2 <= value < len(words.NUMBER) and source.chance(0.3)
        return Said(value, words.NUMBER[value] if in_words else str(value))

    return Kind(noun, {"type": "integer"}, draw)


def decimal(low: int, high: int, noun: str = "number") -> Kind:
    """Numbers with one digit after the point."""

    def draw(source: Draw) -> Said:
        value = f"{source.whole(low, high - 1)}.{source.whole(1, 9)}"
        return Said(float(value), value)

    return Kind(noun, {"type": "number"}, draw)


def one_of(*options: str, noun: str = "choice") -> Kind:
    """One of a few. Tools show other ones of them, in another order and another spelling."""
    spellings: tuple[Callable[[str], str], ...] = (
        lambda option: option.replace(" ", "_"),
        lambda option: option.replace(" ", "_"),
        lambda option: option,
        lambda option: option.replace(" ", "_").upper(),
        str.title,
    )

    def kind(shown: list[str], spell: Callable[[str], str]) -> Kind:
        def draw(source: Draw) -> Said:
            option = source.pick(shown)
            return Said(spell(option), option)

        schema = {"type": "string", "enum": [spell(option) for option in shown]}
        return Kind(noun, schema, draw, vary)

    def vary(source: Draw) -> Kind:
        count = source.whole(2, min(4, len(options)))
        return kind(source.some(options, count), source.pick(spellings))

    return kind(list(options), spellings[0])


def yes_no(yes: str, no: str) -> Kind:
    """A flag, which a request sets by one of two phrases."""

    def draw(source: Draw) -> Said:
        value = source.chance(0.6)
        return Said(value, yes if value else no)

    return Kind("flag", {"type": "boolean"}, draw)


def many(kind: Kind) -> Kind:
    """A list of two or three different ones."""

    def draw(source: Draw) -> Said:
        found: dict[str, Said] = {}
        count = source.whole(2, 3)
        while len(found) < count:
            said = kind.draw(source)
            found[said.text] = said
        values = [said.value for said in found.values()]
        return Said(values, words.listed(list(found)))

    return Kind(f"{kind.noun}s", {"type": "array", "items": kind.schema}, draw)


def record(noun: str, said_as: str, **parts: Kind) -> Kind:
    """An object with a field for each part; `said_as` holds a {} for each. Names vary: a name may
    list others after it, as in name_or_label."""

    def kind(names: list[str]) -> Kind:
        def draw(source: Draw) -> Said:
            said = [part.draw(source) for part in parts.values()]
            value = {name: one.value for name, one in zip(names, said, strict=True)}
            return Said(value, said_as.format(*(one.text for one in said)))

        properties = {name: part.schema for name, part in zip(names, parts.values(), strict=True)}
        schema = {"type": "object", "properties": properties, "required": names}
        return Kind(noun, schema, draw, vary)

    def vary(source: Draw) -> Kind:
        return kind([source.pick(name.split("_or_")) for name in parts])

    return kind([name.split("_or_")[0] for name in parts])
