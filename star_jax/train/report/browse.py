"""What the page's browsers hold: answers of rollouts, and conversations before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from star_jax.train.report.run import Run, Stage
from star_jax.train.report.samples import Said, spread

ANSWERS, PER_CASE = 200, 3  # of a page: answers of rollouts a run, conversations a case
LEAST = 40  # answers that a run has, however many runs there are


def most_answers(runs: int) -> int:
    """Of the rollouts of a stage."""
    return max(LEAST, ANSWERS // runs)


def rollouts(runs: Sequence[Run], labels: Sequence[str]) -> list[dict[str, Any]]:
    """A source a stage: its name, how many answers there are, and those that are here."""
    return [
        {
            "label": stage.name if len(runs) == 1 else f"{label}: {stage.name}",
            "total": stage.rollouts.total,
            "answers": list(stage.rollouts.answers),
        }
        for run, label in zip(runs, labels, strict=True)
        for stage in run.stages
        if stage.rollouts.answers
    ]


def conversations(runs: Sequence[Run], labels: Sequence[str]) -> list[dict[str, Any]]:
    """A source a run: the same conversation after each evaluation, some of every set and case."""
    found = []
    for run, label in zip(runs, labels, strict=True):
        stages = [stage for stage in run.stages if stage.said]
        if stages:
            cases = list(_cases(stages, PER_CASE if len(runs) == 1 else 1))
            found.append({"label": label, "stages": [s.name for s in stages], "cases": cases})
    return found


def _cases(stages: Sequence[Stage], most: int) -> Iterator[dict[str, Any]]:
    known = [{(said.set, said.id): said for said in stage.said} for stage in stages]
    by_case: dict[tuple[str, str], dict[tuple[str, str], Said]] = {}
    for answers in known:
        for key, said in answers.items():
            by_case.setdefault((said.set, said.case), {}).setdefault(key, said)
    for (name, case), members in by_case.items():
        # Those that every evaluation has asked, where there are such.
        common = [key for key in members if all(key in answers for answers in known)]
        keys = common or list(members)
        for place in spread(len(keys), most):
            first = members[keys[place]]
            yield {
                "set": name,
                "case": case,
                "of": len(members),
                "id": first.id,
                "wanted": first.wanted,
                "prompt": first.prompt,
                "label": first.label,
                "answers": [_answer(answers.get(keys[place])) for answers in known],
            }


def _answer(said: Said | None) -> dict[str, Any] | None:
    if said is None:
        return None
    return {"text": said.text, "exact": said.exact, "reward": said.reward, "why": said.why}
