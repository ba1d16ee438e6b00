"""Which numbers make which chart.

Of one run a chart has all curves that belong together; of several runs each of these has a chart of
its own, with the runs in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from star_jax.train import units
from star_jax.train.report.aggregate import Mark
from star_jax.train.report.chart import Chart, Line, Points, Spread
from star_jax.train.report.run import Marks, Run, Stage
from star_jax.train.report.samples import Tally

CALL, WORDS = "where a call is due", "where words are due"
KINDS = {"call": CALL, "words": WORDS, "all": "all prompts"}
FEW_KINDS = 6  # of format failures that get a curve of their own


class Panel(NamedTuple):
    title: str
    curves: dict[str, str]  # label → metric
    is_whole: bool = False  # y goes from 0 to 1


def _split(title: str, name: str, is_whole: bool = False) -> Panel:
    area, _, tail = name.rpartition("/")
    curves = {CALL: f"{area}/call_{tail}", WORDS: f"{area}/words_{tail}"}
    return Panel(title, curves, is_whole)


PANELS = (
    Panel("Loss", {"training": "loss/total_nats", "held out": "eval/loss/total_nats"}),
    _split("Reward", "rollout/reward"),
    _split("The answer's part of the reward", "rollout/answer"),
    _split("Answers with a call", "rollout/call_share", True),
    _split("Valid format", "rollout/valid_share", True),
    _split("Held out: exact answers", "eval/exact", True),
    _split("Held out: reward", "eval/reward"),
    _split("Held out: answers with a call", "eval/call_share", True),
    Panel("Entropy", {"policy": "policy/entropy_nats"}),
    Panel(
        "KL of the policy",
        {
            "from the reference": "policy/reference_kl_nats",
            "from its rollout": "policy/old_kl_nats",
        },
    ),
    Panel("Tokens held by the clip", {"policy": "policy/clip_ratio"}),
    Panel("Length of an answer", {"mean": "rollout/tokens"}),
    Panel("Answers that ran into the limit", {"of all": "rollout/unfinished_share"}),
    Panel("Groups whose rewards differ", {"of those asked": "rollout/spread_share"}, True),
    Panel("Gap of sampler and trainer, mean", {"mean": "rollout/sampler_gap_nats"}),
    Panel("Gap of sampler and trainer, largest", {"largest": "rollout/sampler_gap_most_nats"}),
    Panel(
        "Divergence of teacher and student",
        {"training": "distill/divergence_nats", "held out": "eval/distill/divergence_nats"},
    ),
    Panel(
        "Mass on the support",
        {"teacher's": "distill/teacher_mass", "student's": "distill/student_mass"},
    ),
    Panel(
        "Confident mistakes: the student's mass off the teacher's list",
        {"training": "distill/mistake_mass", "held out": "eval/distill/mistake_mass"},
    ),
    Panel("The student's best tokens that the teacher lists", {"share": "distill/overlap"}),
    Panel(
        "Surprise at the targets",
        {"student": "distill/cross_entropy_nats", "teacher": "distill/teacher_nll_nats"},
    ),
    Panel(
        "Targets that are the likeliest token",
        {"training": "loss/token_accuracy", "held out": "eval/loss/token_accuracy"},
    ),
    Panel("Pairs in the right order", {"training": "preference/accuracy"}, True),
    Panel("Margin of the better answer", {"training": "preference/margin"}),
    Panel(
        "Implicit rewards",
        {"chosen": "preference/chosen_reward", "rejected": "preference/rejected_reward"},
    ),
)


def unit_of(name: str) -> str:
    """As the table of metrics has it, or as the end of the name says."""
    known = units.UNITS.get(name) or units.METRICS.get(name.removeprefix("eval/"))
    if known is not None:
        return known[0]
    tail = name.rpartition("_")[2]
    is_share = tail in ("share", "exact", "accuracy") or name.endswith(("/exact", "/accuracy"))
    return "share" if is_share else "nats" if tail == "nats" else ""


class Own(NamedTuple):
    """A run's stage of some name."""

    label: str  # the run's
    group: str  # what the runs of its colour are called
    colour: int
    stage: Stage


Owned = Sequence[Own]


def training(owned: Owned) -> Iterator[Chart]:
    """What a stage is judged by."""
    for panel in PANELS:
        yield from _drawn(panel, owned)


def others(owned: Owned) -> Iterator[Chart]:
    """The numbers that no panel has, a chart each."""
    shown = {name for panel in PANELS for name in panel.curves.values()}
    there = {name for own in owned for _, row in own.stage.metrics for name in row}
    for name in sorted(there - shown):
        yield from _drawn(Panel(name, {name: name}), owned)


def _drawn(panel: Panel, owned: Owned) -> Iterator[Chart]:
    curves = {
        label: [own.stage.series(name) for own in owned] for label, name in panel.curves.items()
    }
    there = {label: points for label, points in curves.items() if any(points)}
    if not there:
        return
    low, high = (0.0, 1.0) if panel.is_whole else (None, None)
    if len(owned) == 1:
        # A curve keeps its colour where the other one is absent.
        lines = [
            Line(label=label, points=there[label][0], colour=i)
            for i, label in enumerate(panel.curves)
            if label in there
        ]
        unit = unit_of(panel.curves[lines[0].label])
        # What a curve alone is of has to be said, but for the training itself.
        alone = len(lines) == 1 and len(panel.curves) > 1 and lines[0].label != "training"
        title = f"{panel.title}: {lines[0].label}" if alone else panel.title
        yield Chart(title=title, unit=unit, lines=tuple(lines), low=low, high=high)
        return
    for label, found in there.items():
        lines = [
            Line(label=own.label, points=points, colour=own.colour, group=own.group)
            for own, points in zip(owned, found, strict=True)
            if points
        ]
        title = panel.title if len(panel.curves) == 1 else f"{panel.title}: {label}"
        yield Chart(
            title=title, unit=unit_of(panel.curves[label]), lines=tuple(lines), low=low, high=high
        )


def rollouts(owned: Owned) -> Iterator[Chart]:
    """What the rollouts' files say: groups that are learnt from, and broken formats by kind."""
    with_some = [own for own in owned if own.stage.rollouts.tallies]
    if not with_some:
        return
    kept = [
        _of_run(own, [(t.rollout, t.kept, t.groups) for t in _tallies(own)]) for own in with_some
    ]
    yield _per_rollout("Groups that are learnt from", kept, high=1.0)
    if len(owned) == 1:
        yield _per_rollout("Broken formats, by kind", list(_failures(with_some[0].stage)))
        return
    bad = [
        _of_run(own, [(t.rollout, sum(t.bad.values()), t.samples) for t in _tallies(own)])
        for own in with_some
    ]
    yield _per_rollout("Broken formats", bad)


def _tallies(own: Own) -> tuple[Tally, ...]:
    return own.stage.rollouts.tallies


def _of_run(own: Own, counts: Sequence[tuple[int, int, int]]) -> Line:
    """From (rollout, how many, of how many)."""
    points = tuple((number, some / of) for number, some, of in counts if of)
    return Line(label=own.label, points=points, colour=own.colour, group=own.group)


def _per_rollout(title: str, lines: Sequence[Line], high: float | None = None) -> Chart:
    return Chart(title=title, unit="share", lines=tuple(lines), x="rollout", low=0.0, high=high)


def kinds(stage: Stage) -> dict[str, int]:
    """How many samples broke the format in which way, most frequent first."""
    counts: dict[str, int] = {}
    for tally in stage.rollouts.tallies:
        for kind, count in tally.bad.items():
            counts[kind] = counts.get(kind, 0) + count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _failures(stage: Stage) -> Iterator[Line]:
    found = list(kinds(stage))
    for i, kind in enumerate(found[:FEW_KINDS]):
        yield Line(label=kind, points=_bad(stage, {kind}), colour=i)
    if rest := set(found[FEW_KINDS:]):
        yield Line(label="others", points=_bad(stage, rest), colour=FEW_KINDS)


def _bad(stage: Stage, of: set[str]) -> Points:
    return tuple(
        (t.rollout, sum(n for kind, n in t.bad.items() if kind in of) / t.samples)
        for t in stage.rollouts.tallies
        if t.samples
    )


# Evaluations


class Shown(NamedTuple):
    """The runs of a page; of each what it is called, what its colour is called, and its colour."""

    runs: Sequence[Run]
    labels: Sequence[str]
    groups: Sequence[str]
    colours: Sequence[int]

    def owned(self, stage: str) -> Owned:
        """Each run's stage of that name."""
        return [
            Own(label, group, colour, found)
            for run, label, group, colour in zip(*self, strict=True)
            for found in run.stages
            if found.name == stage
        ]


def passk(shown: Shown) -> Iterator[Chart]:
    """At least one of k samples is exact, set by set; of several runs before and after alone."""
    for name in sets(shown.runs):
        for kind in ("call", "words"):
            lines = list(_passk_lines(shown, name, kind))
            if lines:
                yield Chart(
                    title=f"{name}: {KINDS[kind]}",
                    unit="share",
                    lines=tuple(lines),
                    x="samples a prompt, k",
                    low=0.0,
                    high=1.0,
                    doubling=True,
                )


def _passk_lines(shown: Shown, name: str, kind: str) -> Iterator[Line]:
    for run, label, group, colour in zip(*shown, strict=True):
        there = [s for s in run.measured if name in s.sets and s.sets[name].passk.get(kind)]
        if len(shown.runs) > 1 and len(there) > 2:
            there = [there[0], there[-1]]
        for stage in there:
            points = tuple((math.log2(k), x) for k, x in stage.sets[name].passk[kind].items())
            if len(shown.runs) == 1:
                yield Line(label=stage.name, points=points, colour=run.measured.index(stage))
            else:
                yield Line(
                    label=f"{label}, {stage.name}",
                    points=points,
                    colour=colour,
                    dashed=stage is there[0] and len(there) > 1,
                    group=f"{group}, {stage.name}",
                )


def sets(runs: Sequence[Run]) -> list[str]:
    """The names of what was measured on, in their first order."""
    return list(dict.fromkeys(name for run in runs for s in run.measured for name in s.sets))


def exact(shown: Shown) -> Iterator[tuple[str, list[Spread]]]:
    """Exact answers with their intervals: of one run at each stage, of several at the last."""
    for name in sets(shown.runs):
        for kind in ("call", "words"):
            rows = []
            for run, label, _, colour in zip(*shown, strict=True):
                there = [(i, s) for i, s in enumerate(run.measured) if name in s.sets]
                for i, stage in there if len(shown.runs) == 1 else there[-1:]:
                    found = mark(stage.sets[name], f"{kind}_exact")
                    text, shade = (stage.name, i) if len(shown.runs) == 1 else (label, colour)
                    rows.append(Spread(label=text, mark=found, colour=shade))
            if any(row.mark for row in rows):
                yield f"{name}: exact {KINDS[kind]}", rows


def mark(found: Marks | None, name: str) -> Mark | None:
    return None if found is None else found.marks.get(name)
