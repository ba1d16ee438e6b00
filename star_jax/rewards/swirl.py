"""A judge's opinion of each step, without a right answer (SwiRL, arXiv 2504.04736).

    R = (F − 1) + F · mean_t J(s_t)      F ∈ {0, 1} the format, J ∈ [0, 1] the judge

A step is one call, or the reply. The judge sees the reasoning, the step, those before it and the
tools; it says how reasonable the step is, or None where it will not say. Where it says nothing of
any step there is no reward: None, which a combination skips.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from star_jax import chat
from star_jax.rewards.calls import Tool
from star_jax.rewards.path import load
from star_jax.rewards.reading import read_generation
from star_jax.rewards.reward import Reward
from star_jax.rewards.waiting import finish


@dataclass(frozen=True, slots=True)
class Step:
    """What a judge sees: `call` or `reply` is the step, `before` are the calls made before it."""

    think: str
    call: chat.Call | None
    reply: str | None
    before: tuple[chat.Call, ...]
    tools: tuple[Tool, ...]


Judgement = float | bool | None
Judge = Callable[[Step], Judgement | Awaitable[Judgement]]


def swirl(
    generation: str,
    label: str,
    tools: Sequence[Tool] | None,
    compat: None = None,
    *,
    judge: Judge | str,
) -> Reward | None:
    """Score one sample by what the judge says of its steps.

    `judge` is a function, a coroutine function, or the dotted path of either. `label` is unread:
    it stands here so that every reward is called alike.
    """
    steps = _steps(generation, tools, compat)
    if isinstance(steps, Reward):
        return steps
    opinions = _ask(judge, steps)
    if any(inspect.isawaitable(opinion) for opinion in opinions):
        return _mean(finish(_gather(opinions)))
    return _mean(opinions)


async def swirl_async(
    generation: str,
    label: str,
    tools: Sequence[Tool] | None,
    compat: None = None,
    *,
    judge: Judge | str,
) -> Reward | None:
    """`swirl` inside a running event loop: the judge's answers are awaited together."""
    steps = _steps(generation, tools, compat)
    if isinstance(steps, Reward):
        return steps
    return _mean(await _gather(_ask(judge, steps)))


def _ask(judge: Judge | str, steps: Sequence[Step]) -> list[Any]:
    function = load(judge) if isinstance(judge, str) else judge
    return [function(step) for step in steps]


def _steps(generation: str, tools: Sequence[Tool] | None, compat: None) -> list[Step] | Reward:
    """The steps of a well-formed generation, or the reward of a malformed one."""
    if compat is not None:
        raise ValueError(f"swirl: compat={compat!r}; only None is known")
    said, problem = read_generation(generation, tools)
    if problem:
        return problem.reward(-1.0)
    think, known = said.think or "", tuple(tools or ())
    if not said.calls:
        return [Step(think, None, said.reply, (), known)]
    return [
        Step(think, call, None, said.calls[:number], known)
        for number, call in enumerate(said.calls)
    ]


async def _gather(opinions: Sequence[Any]) -> list[Judgement]:
    return await asyncio.gather(*[_value(opinion) for opinion in opinions])


async def _value(opinion: Any) -> Judgement:
    return await opinion if inspect.isawaitable(opinion) else opinion


def _mean(opinions: Sequence[Any]) -> Reward | None:
    values = [float(_checked(opinion)) for opinion in opinions if opinion is not None]
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    return Reward(
        mean,
        1.0,
        mean,
        "judged",
        "the judge's mean over {0} of {1} steps is {2:.4f}",
        (len(values), len(opinions), mean),
        {"judged": len(values), "steps": len(opinions)},
    )


def _checked(opinion: Any) -> float:
    if isinstance(opinion, int | float) and 0 <= opinion <= 1:
        return opinion
    raise ValueError(f"the judge said {opinion!r}; it has to return a number in [0, 1], or None")
