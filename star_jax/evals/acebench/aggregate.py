"""The averages that ACEBench reports, rounded where it rounds and added up in its order.

category            right / answered, to 3 decimals
multi-turn category dialogues all of whose steps are right / dialogues (end accuracy)
normal              unweighted mean of the 12 categories; half of it are the six atom ones
overall             0.2676 special + 0.578 normal + 0.1545 agent
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from star_jax.evals.acebench.data import ATOM, MULTI_TURN, NORMAL, SINGLE_TURN, dialogue

SPECIAL = ("special_incomplete", "special_error_param", "special_irrelevant")
AGENT = ("agent_multi_turn", "agent_multi_step")


@dataclass(frozen=True)
class Scores:
    """All averages, as shares of 1. What was not answered counts as 0: see `missing`."""

    accuracy: dict[str, float]  # of each category; a multi-turn one's is its end accuracy
    process_accuracy: dict[str, float]  # multi-turn: the mean share of right steps in a dialogue
    right: dict[str, int]  # entries, in multi-turn categories steps
    answered: dict[str, int]
    atom: float
    single_turn: float
    multi_turn: float
    normal: float
    special: float
    agent: float
    overall: float
    missing: tuple[str, ...]  # categories that the averages count as 0


def aggregate(
    valid: Mapping[str, Mapping[str, bool]],
    special: Mapping[str, float] | None = None,
    agent: Mapping[str, float] | None = None,
) -> Scores:
    """Scores from the verdicts: category → id → whether the answer is valid, in the data's order.

    `special` and `agent` are accuracies of those categories, if they were measured elsewhere.
    """
    special, agent = special or {}, agent or {}
    for given, known in ((valid, NORMAL), (special, SPECIAL), (agent, AGENT)):
        _refuse_unknown(given, known)
    for category, verdicts in valid.items():
        if not verdicts:
            raise ValueError(f"{category}: no answer was judged: leave the category out")
    dialogues = {name: _dialogues(valid[name]) for name in MULTI_TURN if name in valid}
    accuracy = {
        name: _end_accuracy(dialogues[name]) if name in dialogues else _accuracy(verdicts.values())
        for name, verdicts in valid.items()
    }
    everything = {**accuracy, **special, **agent}
    normal = _mean(everything, NORMAL)
    special_mean, agent_mean = _mean(everything, SPECIAL), _mean(everything, AGENT)
    return Scores(
        accuracy=accuracy,
        process_accuracy={name: _process_accuracy(found) for name, found in dialogues.items()},
        right={name: sum(verdicts.values()) for name, verdicts in valid.items()},
        answered={name: len(verdicts) for name, verdicts in valid.items()},
        atom=_mean(everything, ATOM),
        single_turn=_mean(everything, SINGLE_TURN),
        multi_turn=_mean(everything, MULTI_TURN),
        normal=normal,
        special=special_mean,
        agent=agent_mean,
        overall=round(special_mean * 0.2676 + normal * 0.578 + agent_mean * 0.1545, 3),
        missing=tuple(name for name in (*NORMAL, *SPECIAL, *AGENT) if name not in everything),
    )


def _refuse_unknown(given: Mapping[str, object], known: Sequence[str]) -> None:
    for category in given:
        if category not in known:
            raise ValueError(
                f"category {category!r} is none of {', '.join(known)}: use one of these"
            )


def _accuracy(verdicts: Collection[bool]) -> float:
    return round(sum(verdicts) / len(verdicts), 3)


def _dialogues(verdicts: Mapping[str, bool]) -> list[list[bool]]:
    """Steps that stand together and name the same dialogue; officially no more is looked at."""
    return [
        [valid for _, valid in steps]
        for _, steps in groupby(verdicts.items(), key=lambda item: dialogue(item[0]))
    ]


def _end_accuracy(dialogues: list[list[bool]]) -> float:
    return _accuracy([all(steps) for steps in dialogues])


def _process_accuracy(dialogues: list[list[bool]]) -> float:
    shares = [round(sum(steps) / len(steps), 3) for steps in dialogues]
    return round(sum(shares) / len(shares), 3)


def _mean(accuracy: Mapping[str, float], categories: Sequence[str]) -> float:
    """Added up in the order of the categories: the third decimal can hang on it."""
    total = 0.0
    for category in categories:
        total += accuracy.get(category, 0)
    return round(total / len(categories), 3)
