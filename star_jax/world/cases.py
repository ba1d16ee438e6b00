"""The nine cases: which tools are on offer, what has been said, and the right next message.

single             one tool, one call
multiple           several tools, one call
parallel           one tool, several calls
parallel_multiple  several tools, several calls
irrelevant         no tool fits: say so
missing            a required value is missing: ask for it
after_result       a tool has answered: tell it
multi_step         what one tool answers is what another one needs
multi_turn         a request that builds on what was said before
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from star_jax.world import replies, requests, words
from star_jax.world.api import Api
from star_jax.world.draw import Draw
from star_jax.world.kinds import Kind, Said
from star_jax.world.requests import CHAINED, Request, Wording
from star_jax.world.tools import Slot, Tool, show

# How often each occurs, in percent.
WEIGHTS = {
    "single": 14,
    "multiple": 16,
    "parallel": 11,
    "parallel_multiple": 12,
    "irrelevant": 10,
    "missing": 9,
    "after_result": 8,
    "multi_step": 10,
    "multi_turn": 10,
}
Message = dict[str, Any]


@dataclass(frozen=True)
class Pool:
    """Which APIs a split is about, which may stand beside them, and whose phrases it uses."""

    targets: tuple[Api, ...]
    others: tuple[Api, ...]
    is_new: bool


@dataclass(frozen=True)
class Made:
    """A conversation; its last message is the right one."""

    tools: tuple[Tool, ...]
    messages: tuple[Message, ...]
    domain: str  # of what is asked for first


@dataclass(frozen=True)
class Scene:
    """What the cases draw from."""

    wording: Wording
    pool: Pool
    mood: str

    @property
    def draw(self) -> Draw:
        return self.wording.draw

    def user(self, ask: str) -> Message:
        return user(requests.frame(self.wording, self.mood, ask))


def make(case: str, draw: Draw, pool: Pool) -> Made:
    scene = Scene(Wording(draw, pool.is_new), pool, draw.pick(tuple(requests.MOODS)))
    match case:
        case "single":
            return single(scene, 0)
        case "multiple":
            return single(scene, draw.whole(1, 3))
        case "parallel":
            return parallel(scene)
        case "parallel_multiple":
            return parallel_multiple(scene)
        case "irrelevant":
            return irrelevant(scene)
        case "missing":
            return missing(scene)
        case "after_result":
            return after_result(scene)
        case "multi_step":
            return multi_step(scene)
        case "multi_turn":
            return multi_turn(scene)
    raise AssertionError(f"no case {case}")


# Messages


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def says(text: str, think: str) -> Message:
    return {"role": "assistant", "reasoning_content": think, "content": text}


def calls(made: Sequence[Request]) -> Message:
    count = Counter(one.tool.name for one in made)
    named = [name if n == 1 else f"{name} {n} times" for name, n in count.items()]
    called = [one.call for one in made]
    return {
        "role": "assistant",
        "reasoning_content": f"Use {words.listed(named)}.",
        "content": "",
        "tool_calls": called,
    }


def answered(result: dict[str, Any]) -> Message:
    return {"role": "tool", "content": json.dumps(result, ensure_ascii=False)}


# Tools


def offer(scene: Scene, wanted: Sequence[Api], beside: int, never: Api | None = None) -> list[Tool]:
    """The wanted ones first, then some that are not; half of these from the first one's domain."""
    draw = scene.draw
    near = wanted[0] if wanted else never
    apis = list(wanted)
    while len(apis) < len(wanted) + beside:
        is_near = near is not None and draw.chance(0.5)
        api = draw.pick(scene.pool.others)
        if api in apis or api == never or (is_near and near and api.domain != near.domain):
            continue
        apis.append(api)
    shown: list[Tool] = []
    for api in apis:
        tool = show(draw, api)
        while tool.name in {other.name for other in shown}:
            tool = show(draw, api)
        shown.append(tool)
    return shown


def made(scene: Scene, tools: Sequence[Tool], messages: Sequence[Message]) -> Made:
    """A case whose first tool is the one that is asked for, in an order that does not tell so."""
    return Made(tuple(scene.draw.shuffled(tools)), tuple(messages), tools[0].api.domain)


def target(scene: Scene) -> Api:
    return scene.draw.pick(scene.pool.targets)


# Cases


def single(scene: Scene, beside: int) -> Made:
    tools = offer(scene, [target(scene)], beside)
    one = requests.request(scene.wording, tools[0])
    return made(scene, tools, [scene.user(one.ask), calls([one])])


def parallel(scene: Scene) -> Made:
    tools = offer(scene, [target(scene)], 0)
    count = scene.draw.weighted({2: 7, 3: 3})
    if scene.draw.chance(0.6):
        ask, found = requests.spread(scene.wording, tools[0], count)
    else:
        ask, found = requests.separate(scene.wording, [tools[0]] * 2)
    return made(scene, tools, [scene.user(ask), calls(found)])


def parallel_multiple(scene: Scene) -> Made:
    first, second = scene.draw.some(scene.pool.targets, 2)
    tools = offer(scene, [first, second], scene.draw.weighted({0: 5, 1: 4, 2: 1}))
    wanted = [tools[0], tools[1]]
    if scene.draw.chance(0.15):
        wanted.append(scene.draw.pick(wanted))
    ask, found = requests.separate(scene.wording, wanted)
    return made(scene, tools, [scene.user(ask), calls(found)])


def irrelevant(scene: Scene) -> Made:
    api = target(scene)
    unseen = requests.request(scene.wording, show(scene.draw, api))
    tools = scene.draw.shuffled(offer(scene, [], scene.draw.weighted({1: 4, 2: 4, 3: 2}), api))
    reply = replies.unable(scene.mood, unseen.ask, tools)
    messages = (scene.user(unseen.ask), says(reply, "No tool fits."))
    return Made(tuple(tools), messages, api.domain)


def missing(scene: Scene) -> Made:
    tools = offer(scene, [target(scene)], scene.draw.weighted({0: 4, 1: 4, 2: 2}))
    one, slot = forgetful(scene, tools[0])
    reply = replies.asking(scene.mood, one.ask, slot.name)
    return made(scene, tools, [scene.user(one.ask), says(reply, f"No {slot.name} given.")])


def forgetful(scene: Scene, tool: Tool) -> tuple[Request, Slot]:
    slot = scene.draw.pick([slot for slot in tool.slots if slot.is_required])
    return requests.request(scene.wording, tool, without=slot.name), slot


def after_result(scene: Scene) -> Made:
    tools = offer(scene, [target(scene)], scene.draw.weighted({0: 6, 1: 4}))
    one = requests.request(scene.wording, tools[0])
    result = replies.answer(scene.draw, one)
    reply = says(replies.told(scene.mood, [result]), "Tell the result.")
    return made(scene, tools, [scene.user(one.ask), calls([one]), answered(result), reply])


def multi_step(scene: Scene) -> Made:
    """The first step, with the second still to come; or the second, with the first one's answer."""
    while (found := _chain(scene)) is None:
        pass
    tools, slot, field = found
    first = requests.request(scene.wording, tools[0])
    second = requests.request(scene.wording, tools[1], chained=slot.name)
    ask = scene.wording.pick(requests.THEN).format(first.ask, second.ask)
    messages = [scene.user(ask), calls([first])]
    # The right call is always one of an API that the split is about.
    may_stop, may_go_on = (tool.api in scene.pool.targets for tool in tools[:2])
    if may_go_on and not (may_stop and scene.draw.chance(0.4)):
        result = {name: kind.draw(scene.draw).value for name, kind in tools[0].results}
        said = {**second.said, slot.name: Said(result[field], str(result[field]))}
        messages += [answered(result), calls([Request(tools[1], ask, said)])]
    return made(scene, tools, messages)


def _chain(scene: Scene) -> tuple[list[Tool], Slot, str] | None:
    """Two tools, the slot of the second that the first can fill, and the field that fills it."""
    giver, taker_pool = target(scene), scene.pool.others
    if scene.draw.chance(0.5):  # the other one may be the one that the split is about
        giver, taker_pool = scene.draw.pick(scene.pool.others), scene.pool.targets
    # "That city" has to mean one thing: it is in the answer once, and not in the first order.
    nouns = [
        noun
        for noun in CHAINED
        if sum(_is(each.kind, noun) for each in giver.gives) == 1
        and not any(_is(each.kind, noun) for each in giver.takes)
    ]
    if not nouns:
        return None
    noun = scene.draw.pick(nouns)
    takers = [
        api
        for api in taker_pool
        if api != giver and sum(_is(param.kind, noun) for param in api.takes) == 1
    ]
    if not takers:
        return None
    tools = offer(scene, [giver, scene.draw.pick(takers)], scene.draw.weighted({0: 7, 1: 3}))
    slots = [slot for slot in tools[1].slots if _is(slot.kind, noun)]
    fields = [name for name, kind in tools[0].results if _is(kind, noun)]
    return (tools, slots[0], fields[0]) if slots else None


def _is(kind: Kind, noun: str) -> bool:
    return kind.noun == noun and kind.schema["type"] == "string" and "enum" not in kind.schema


def multi_turn(scene: Scene) -> Made:
    match scene.draw.whole(0, 2):
        case 0:
            return once_more(scene)
        case 1:
            return filled_in(scene)
    return something_else(scene)


def done(scene: Scene, one: Request) -> list[Message]:
    """An exchange that is over: request, call, answer, reply."""
    result = replies.answer(scene.draw, one)
    reply = says(replies.told(scene.mood, [result]), "Tell the result.")
    return [scene.user(one.ask), calls([one]), answered(result), reply]


def once_more(scene: Scene) -> Made:
    tools = offer(scene, [target(scene)], scene.draw.whole(0, 1))
    one = requests.request(scene.wording, tools[0])
    ask, again = requests.changed(scene.wording, one)
    return made(scene, tools, [*done(scene, one), user(ask), calls([again])])


def filled_in(scene: Scene) -> Made:
    tools = offer(scene, [target(scene)], scene.draw.whole(0, 2))
    one, slot = forgetful(scene, tools[0])
    reply = says(replies.asking(scene.mood, one.ask, slot.name), f"No {slot.name} given.")
    text = scene.wording.pick(requests.ANSWER).format(one.said[slot.name].text)
    follow = user(text[0].upper() + text[1:])
    return made(scene, tools, [scene.user(one.ask), reply, follow, calls([one])])


def something_else(scene: Scene) -> Made:
    tools = offer(scene, scene.draw.some(scene.pool.targets, 2), 0)
    one, other = (requests.request(scene.wording, tool) for tool in tools)
    return made(scene, tools, [*done(scene, one), scene.user(other.ask), calls([other])])
