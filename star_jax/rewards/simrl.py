"""Sim-RL: how similar a sample's calls, or its reply, are to the right ones.

    R = (F − 1) + F · (R_calls + R_reply)        F ∈ {0, 1}, R ∈ {−1} ∪ [0, 1]     (STAR, eq. 10)

F is whether the five format rules hold; R_calls is eq. 7 of `matching` where the label has calls,
R_reply is ROUGE-L F1 where it is a reply (eq. 9). `format` is −1 or 1, `answer` is R without the
format's share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from star_jax import chat
from star_jax.rewards import star
from star_jax.rewards.calls import Tool, arguments_similarity
from star_jax.rewards.matching import Matching, calls_reward, greedy, optimal
from star_jax.rewards.reading import Compat, read_generation, read_label
from star_jax.rewards.reward import Reward
from star_jax.rewards.text import text_similarity


def simrl(
    generation: str,
    label: str,
    tools: Sequence[Tool] | None,
    compat: Compat = None,
    *,
    matching: Matching = "greedy",
) -> Reward:
    """Score one sample; `compat="star"` gives the reference's number to the last bit."""
    match compat:
        case None if matching in ("greedy", "optimal"):
            return _score(generation, label, tools, matching)
        case "star" if matching == "greedy":
            return star.score(generation, label, tools)
        case "star":
            raise ValueError('compat="star" pairs calls greedily; leave matching="greedy"')
        case _:
            raise ValueError(
                f"simrl: compat={compat!r}, matching={matching!r}; "
                'known are None or "star", and "greedy" or "optimal"'
            )


def _score(generation: str, label: str, tools: Sequence[Tool] | None, matching: Matching) -> Reward:
    gold = read_label(label)
    said, problem = read_generation(generation, tools)
    if problem:
        return problem.reward(-1.0)
    return _score_calls(said, gold, matching) if gold.calls else _score_reply(said, gold)


def _score_calls(said: chat.Completion, gold: chat.Completion, matching: Matching) -> Reward:
    if not said.calls:
        return Reward(0.0, 1.0, 0.0, "no_call", "0: the label has calls, and there is none")
    pair_up = greedy if matching == "greedy" else optimal
    pairs = pair_up(said.calls, gold.calls, arguments_similarity)
    total = math.fsum([pair.similarity for pair in pairs])
    return calls_reward(total, len(pairs), len(said.calls), len(gold.calls))


def _score_reply(said: chat.Completion, gold: chat.Completion) -> Reward:
    if said.calls:
        sentence = "0: the label is a reply, and {0} calls were made"
        return Reward(0.0, 1.0, 0.0, "needless_call", sentence, (len(said.calls),))
    reply = said.reply.strip()
    if not reply:
        return Reward(0.0, 1.0, 0.0, "no_reply", "0: the label is a reply, and there is none")
    value = text_similarity(reply, gold.reply.strip())
    return Reward(value, 1.0, value, "reply", "ROUGE-L F1 of the reply {0:.4f}", (value,))
