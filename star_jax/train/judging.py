"""Which function judges an answer, from a configuration.

of(config.reward) → (generation, label, tools) → Reward
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from star_jax import chat, rewards
from star_jax.rewards import Reward
from star_jax.rewards import path as paths
from star_jax.train import config as configs
from star_jax.train.prompts import Reader

INVALID = -1.0  # what Sim-RL gives a generation whose format is broken


def of(config: configs.Reward) -> Reader:
    """ValueError where there is no such function."""
    known = {
        "simrl": rewards.simrl,
        "binary": rewards.binary,
        "toolrl": rewards.toolrl,
        "swirl": rewards.swirl,
    }
    name = config.function
    try:
        function: Any = known[name] if name in known else paths.load(name)
        judge = None if config.judge is None else paths.load(config.judge)
    except (ValueError, ImportError, AttributeError) as error:
        which = "reward.judge" if name == "swirl" else "reward.function"
        raise ValueError(
            f"{which}: {error}: give simrl, binary, toolrl, swirl or a dotted path"
        ) from error
    made: Reader = functools.partial(function, compat=config.compat)
    if judge is not None:
        made = functools.partial(_judged, functools.partial(made, judge=judge))
    return (
        functools.partial(no_reply_for_call, made) if config.reply_for_call == "invalid" else made
    )


def _judged(swirl: Any, generation: str, label: str, tools: Sequence[Any]) -> Reward:
    """A judge that says nothing of any step leaves no reward: a group needs one, so 0."""
    made = swirl(generation, label, tools)
    return made or Reward(0.0, 1.0, 0.0, "unjudged", "0: the judge says nothing of any step")


def no_reply_for_call(
    function: Reader, generation: str, label: str, tools: Sequence[Any]
) -> Reward:
    """Words where a call is due are worth what a broken call is. As published they are worth more,
    so that a policy whose calls mostly fail is taught to stop calling."""
    made = function(generation, label, tools)
    is_silent = made.format > 0 and chat.parse(label).calls and not chat.parse(generation).calls
    if not is_silent or made.total <= INVALID:
        return made
    return dataclasses.replace(
        made,
        total=INVALID,
        answer=0.0,
        kind="no_call",
        sentence="-1: words where a call is due",
        facts=(),
    )
