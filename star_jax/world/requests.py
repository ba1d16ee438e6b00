"""Requests: what a person says, and the call that it asks for.

Tool --request--> Request(ask, said)      "check the weather in Rome", {"city": Said("Rome", …)}
frame(mood, ask)                          "Could you check the weather in Rome?"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from star_jax.world.api import Phrases, phrases
from star_jax.world.draw import Draw
from star_jax.world.kinds import Said
from star_jax.world.tools import Slot, Tool

# How a request is put decides how it is answered in words, see `replies`.
MOODS: dict[str, Phrases] = {
    "question": phrases(
        "Can you {}? / Could you {}? / Will you {} for me? "
        "// Would you be able to {}? / Is it possible that you {}?"
    ),
    "please": phrases(
        "Please {}. / {}, please. / Kindly {}. // Be so kind as to {}. / If you don't mind, {}."
    ),
    "need": phrases(
        "I need to {}. / I want to {}. / I'd like to {}. // My plan is to {}. / It's time to {}."
    ),
    "bare": phrases("{}. / {} now. / Go ahead and {}. // Quick: {}. / Next task: {}."),
}
BOTH = phrases(
    "{} and {} / {}, and also {} / {}, and {} too // {} plus {} / {} and on top of it {}"
)
THEN = phrases("{}, then {} / {} and after that {} // first {}, second {} / {}; once done, {}")
AGAIN = phrases("And {}? / Now {}. / Do the same {}. // What about {}? / Once more, but {}.")
ANSWER = phrases("{}. / It is {}. / Use {}. // Make it {}. / That would be {}.")

# Of these, "that city" names the one that a tool has just found.
CHAINED = ("city", "person", "code", "title", "company", "date", "time", "day", "dish", "address")


class Wording(NamedTuple):
    """The choices of a speaker: a stream of them, and which phrases are there."""

    draw: Draw
    is_new: bool

    def pick(self, ways: Phrases) -> str:
        return self.draw.pick(ways.of(self.is_new))


@dataclass(frozen=True)
class Request:
    """An order to one tool."""

    tool: Tool
    ask: str
    said: Mapping[str, Said]  # by the name of the slot, in the order of the schema

    @property
    def arguments(self) -> dict[str, Any]:
        return {name: said.value for name, said in self.said.items()}

    @property
    def call(self) -> dict[str, Any]:
        return {"name": self.tool.name, "arguments": self.arguments}


def request(
    wording: Wording,
    tool: Tool,
    *,
    without: str | None = None,
    chained: str | None = None,
    given: Mapping[str, Said] | None = None,
) -> Request:
    """An order with values for all that is required and some of the rest.

    `without`: the slot that it forgets; `chained`: the slot whose value it leaves to another tool
    ("that city"); `given`: values that are settled, all others are left out.
    """
    said: dict[str, Said] = {}
    for slot in tool.slots:
        if given is not None:
            if slot.name in given:
                said[slot.name] = given[slot.name]
        elif slot.is_required or slot.name == chained or wording.draw.chance(0.5):
            said[slot.name] = _other(wording.draw, slot, [one.text for one in said.values()])
    texts = {name: one.text for name, one in said.items() if name != without}
    order = {param.names: place for place, param in enumerate(tool.api.takes)}
    slots = sorted(
        (slot for slot in tool.slots if slot.name in texts),
        key=lambda slot: order[slot.param.names],
    )
    if wording.draw.chance(0.2):
        slots = wording.draw.shuffled(slots)
    parts = [
        mention(wording, slot, None if slot.name == chained else texts[slot.name]) for slot in slots
    ]
    return Request(tool, " ".join([wording.pick(tool.api.asks), *parts]), said)


def _other(draw: Draw, slot: Slot, taken: list[str]) -> Said:
    """A value that the request does not hold yet: nobody flies from Rome to Rome."""
    while (said := slot.kind.draw(draw)).text in taken:
        pass
    return said


def mention(wording: Wording, slot: Slot, text: str | None) -> str:
    """How a request mentions a value: "in Rome"; where there is none yet, "in that city"."""
    way = wording.pick(slot.param.says)
    if text is None:
        noun = slot.kind.noun
        return re.sub(rf"(the )?({noun} )?{{}}", f"that {noun}", way)
    return way.format(text)


def spread(wording: Wording, tool: Tool, count: int) -> tuple[str, list[Request]]:
    """Several calls of one tool in one breath: the weather in Rome, Oslo and Bern."""
    first = request(wording, tool)
    slot = _spreadable(wording.draw, tool)
    if slot is None:
        return separate(wording, [tool] * 2)  # of more calls some tools have not enough
    values: dict[str, Said] = {}
    while len(values) < count:
        said = slot.kind.draw(wording.draw)
        values[said.text] = said
    made = [
        replace(first, said=_changed(tool, first.said, slot.name, one)) for one in values.values()
    ]
    texts = list(values)
    ask = ", ".join(texts[:-1]) + " and " + texts[-1]
    whole = request(wording, tool, given={**first.said, slot.name: Said(None, ask)})
    return whole.ask, made


def _spreadable(draw: Draw, tool: Tool) -> Slot | None:
    slots = [
        slot
        for slot in tool.slots
        if slot.is_required
        and slot.schema["type"] == "string"
        and slot.kind.noun != "text"  # stands in quotation marks
        and len(slot.schema.get("enum", "any")) >= 3
    ]
    return draw.pick(slots) if slots else None


def _changed(tool: Tool, said: Mapping[str, Said], name: str, value: Said) -> dict[str, Said]:
    found = {**said, name: value}
    return {slot.name: found[slot.name] for slot in tool.slots if slot.name in found}


def separate(wording: Wording, tools: list[Tool]) -> tuple[str, list[Request]]:
    """Several orders, one after the other; no call stands twice among them."""
    made: list[Request] = []
    while len(made) < len(tools):
        one = request(wording, tools[len(made)])
        if one.call not in [other.call for other in made]:
            made.append(one)
    ask = made[0].ask
    for one in made[1:]:
        ask = wording.pick(BOTH).format(ask, one.ask)
    return ask, made


def changed(wording: Wording, before: Request) -> tuple[str, Request]:
    """The same order again with one other value, and the words that say which."""
    slots = [slot for slot in before.tool.slots if not slot.kind.is_flag]
    slot = wording.draw.pick(slots)
    said = slot.kind.draw(wording.draw)
    while slot.name in before.said and before.said[slot.name].value == said.value:
        said = slot.kind.draw(wording.draw)
    again = replace(before, said=_changed(before.tool, before.said, slot.name, said))
    return wording.pick(AGAIN).format(mention(wording, slot, said.text)), again


def frame(wording: Wording, mood: str, ask: str) -> str:
    """The order as a person of that mood gives it."""
    said = wording.pick(MOODS[mood]).format(ask)
    return said[0].upper() + said[1:]
