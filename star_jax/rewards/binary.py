"""Right or wrong: 1 for exactly the label's calls, or exactly its reply, and 0 otherwise.

The order of calls and of keys does not count. `valid` rewards the format alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from star_jax.rewards import star
from star_jax.rewards.calls import Tool, same
from star_jax.rewards.matching import Callish, greedy
from star_jax.rewards.reading import Compat, read_generation, read_label
from star_jax.rewards.reward import Reward


def binary(
    generation: str, label: str, tools: Sequence[Tool] | None, compat: Compat = None
) -> Reward:
    """1 where the answer is the label's, else 0; `compat="star"`: what Sim-RL's reference accepts,
    values compared as it compares them, and 1 where its reward is exactly 1."""
    match compat:
        case "star":
            return _perfect(star.score(generation, label, tools))
        case None:
            return _score(generation, label, tools)
        case _:
            raise ValueError(f'binary: compat={compat!r}; known are None and "star"')


def valid(
    generation: str, label: str, tools: Sequence[Tool] | None, compat: Compat = None
) -> Reward:
    """1 where the format holds, whatever the answer; 0 where it does not. The label is unread."""
    match compat:
        case "star":
            broken = star.format_problem(generation, tools)
        case None:
            problem = read_generation(generation, tools)[1]
            broken = problem and problem.reward(0.0)
        case _:
            raise ValueError(f'valid: compat={compat!r}; known are None and "star"')
    if broken:
        return Reward(0.0, -1.0, 0.0, broken.kind, broken.sentence, broken.facts)
    return Reward(1.0, 1.0, 0.0, "valid", "1: the format holds")


def _score(generation: str, label: str, tools: Sequence[Tool] | None) -> Reward:
    gold = read_label(label)
    said, problem = read_generation(generation, tools)
    if problem:
        return problem.reward(0.0)
    if gold.calls or said.calls:
        return _verdict(_same_calls(said.calls, gold.calls), "calls")
    reply = said.reply.strip()
    return _verdict(bool(reply) and reply == gold.reply.strip(), "reply")


def _same_calls(predicted: Sequence[Callish], gold: Sequence[Callish]) -> bool:
    if len(predicted) != len(gold):
        return False
    pairs = greedy(predicted, gold, _equality)
    return len(pairs) == len(gold) and all(pair.similarity == 1.0 for pair in pairs)


def _equality(predicted: Any, gold: Any) -> float:
    return float(same(predicted, gold))


def _perfect(reward: Reward) -> Reward:
    if reward.format < 0:
        return Reward(0.0, -1.0, 0.0, reward.kind, reward.sentence, reward.facts)
    return _verdict(reward.answer == 1.0, reward.kind)


def _verdict(right: bool, kind: str) -> Reward:
    sentence = "1: exactly the label's {0}" if right else "0: not the label's {0}"
    return Reward(float(right), 1.0, float(right), kind, sentence, (kind,))
