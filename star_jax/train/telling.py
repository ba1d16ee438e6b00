"""What a rollout says of itself: numbers, a line, and how far sampler and trainer are apart.

Everything is split by what the label asks for, a call or words: a mean over both hid in trials that
a policy had given up calling tools.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from star_jax import chat
from star_jax.train.prompts import Prompts, Wanted
from star_jax.train.rollouts import Answer, Rollout

KINDS: tuple[Wanted, ...] = ("call", "words")
STILL = 1e-9  # a reward that moves by less does not move
LEAST_CALLS = 0.05  # a policy that calls less often than this has nothing to lose


class Gap(NamedTuple):
    mean: float
    most: float


def gap(rollout: Rollout, old: Sequence[np.ndarray]) -> Gap:
    """Between the trainer's log-probs and the sampler's, where the same policy said both."""
    answers = [(group, answer) for group in rollout.chosen for answer in group.answers]
    apart = [
        np.abs(ours - answer.logps)
        for (group, answer), ours in zip(answers, old, strict=True)
        if group.drawn_at == rollout.number and not answer.guided
    ]
    if not apart:
        return Gap(0.0, 0.0)
    whole = np.concatenate(apart)
    return Gap(float(whole.mean()), float(whole.max()))


def numbers(rollout: Rollout, prompts: Prompts) -> dict[str, float]:
    """Of what this rollout's policy said, whether it is trained on or not."""
    fresh = rollout.fresh
    answers = [answer for group in fresh for answer in group.own]
    told = {
        "rollout/groups": float(len(rollout.chosen)),
        "rollout/prompts_asked": float(len(fresh)),
        "rollout/groups_carried": float(len(rollout.carried)),
    }
    old = [a.old_logps for g in rollout.chosen for a in g.answers]
    if all(x is not None for x in old):
        apart = gap(rollout, [x for x in old if x is not None])
        told |= {
            "rollout/sampler_gap_nats": apart.mean,
            "rollout/sampler_gap_most_nats": apart.most,
        }
    if not answers:
        return told
    flat = [group.rewards.min() == group.rewards.max() for group in fresh]
    lengths = np.array([len(answer.tokens) for answer in answers])
    told |= {
        "rollout/spread_share": 1 - float(np.mean(flat)),
        "rollout/tokens": float(lengths.mean()),
        "rollout/unfinished_share": _share(answers, lambda a: a.end == "length"),
        **_parts("rollout/", answers),
    }
    for wanted in KINDS:
        some = [
            answer
            for group in fresh
            if prompts.rows[group.prompt].wanted == wanted
            for answer in group.own
        ]
        if some:
            told |= _parts(f"rollout/{wanted}_", some)
    return told


def _parts(name: str, answers: Sequence[Answer]) -> dict[str, float]:
    return {
        f"{name}reward": float(np.mean([answer.reward for answer in answers])),
        f"{name}answer": float(np.mean([answer.answer for answer in answers])),
        f"{name}valid_share": _share(answers, lambda a: a.format > 0),
        f"{name}call_share": _share(answers, lambda a: bool(chat.parse(a.text).calls)),
    }


def _share(answers: Sequence[Answer], holds: Callable[[Answer], bool]) -> float:
    return float(np.mean([holds(answer) for answer in answers]))


def collapse(before: dict[str, float], now: dict[str, float]) -> str | None:
    """A sentence where calls that are due have become half as frequent as they were, or rarer."""
    name = "rollout/call_call_share"
    if name not in before or name not in now or before[name] < LEAST_CALLS:
        return None
    if now[name] >= before[name] / 2:
        return None
    return (
        f"where a call is due the policy calls in {now[name]:.0%} of its answers, at the beginning "
        f"in {before[name]:.0%}: a broken call is worth -1 and words 0, so a policy whose calls "
        "mostly fail is paid for giving them up; train it further before rl, set "
        "reward.reply_for_call to invalid, or go on with rollout.allow_collapse true"
    )


def line(rollout: Rollout, told: dict[str, float]) -> str:
    """For a person at a terminal."""
    parts = [
        f"rollout {rollout.number}: {len(rollout.chosen)} groups of {len(rollout.fresh)} asked"
    ]
    for wanted in KINDS:
        if f"rollout/{wanted}_reward" in told:
            reward, calls = (told[f"rollout/{wanted}_{x}"] for x in ("reward", "call_share"))
            parts.append(f"where {wanted} is due: reward {reward:.3f}, calls in {calls:.0%}")
    bad = Counter(
        answer.kind for group in rollout.fresh for answer in group.own if answer.format <= 0
    )
    if bad:
        parts.append("bad format: " + ", ".join(f"{k} {n}" for k, n in bad.most_common(3)))
    return "; ".join(parts)


class Watch:
    """Says it when a reward has not moved for some rollouts, with answers to look at."""

    def __init__(self, prompts: Prompts, rollouts: int) -> None:
        self._prompts, self._rollouts = prompts, rollouts
        self._seen: dict[str, list[float]] = {}

    def look(self, rollout: Rollout, told: dict[str, float]) -> Iterator[str]:
        for wanted in KINDS:
            value = told.get(f"rollout/{wanted}_reward")
            if value is None:
                continue
            seen = self._seen.setdefault(wanted, [])
            seen.append(value)
            last = seen[-self._rollouts :]
            if len(last) == self._rollouts and max(last) - min(last) < STILL:
                seen.clear()  # said once, and again after as many more
                yield (
                    f"the reward where {wanted} is due has been {value:.4f} for {self._rollouts} "
                    f"rollouts; some of what was said:{self._examples(rollout, wanted)}"
                )

    def _examples(self, rollout: Rollout, wanted: Wanted) -> str:
        rows = self._prompts.rows
        groups = [group for group in rollout.fresh if rows[group.prompt].wanted == wanted]
        lines = [
            f"\n  row {rows[group.prompt].row_id}: {answer.text[:200]!r}: {answer.why}"
            for group in groups[:3]
            for answer in group.own[:1]
        ]
        return "".join(lines)
