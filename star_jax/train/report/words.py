"""A run in plain words, out of its numbers alone.

A change is called clear where the 95 % intervals of before and after share nothing; any other may
be chance and is said to be so. What fell is named as readily as what rose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from star_jax.train.report import aggregate
from star_jax.train.report.aggregate import Mark
from star_jax.train.report.figures import CALL, WORDS, mark, sets
from star_jax.train.report.marks import GROUPS, Column, are_apart
from star_jax.train.report.markup import duration, in_unit, number, share
from star_jax.train.report.run import Marks, Run, Stage

# What is told of the first set; of the others only the first of them.
TOLD = {"exact": "exact answers", "call_share": "answers with a call"}
END = 3  # rollouts at either end that a reward is the mean of


def title(runs: Sequence[Run]) -> str:
    return label(runs[0]) if len(runs) == 1 else f"{len(runs)} runs compared"


def label(run: Run) -> str:
    return run.name if run.seed is None else f"{run.name}, seed {run.seed:.0f}"


def labels(runs: Sequence[Run]) -> list[str]:
    """Names that tell the runs apart: by seed, and where that is the same by folder or place."""
    plain = [label(run) for run in runs]
    longer = [
        f"{text} ({run.folder.name})" if plain.count(text) > 1 else text
        for run, text in zip(runs, plain, strict=True)
    ]
    return [f"{text} [{i}]" if longer.count(text) > 1 else text for i, text in enumerate(longer, 1)]


def story(run: Run) -> str:
    """One paragraph."""
    return " ".join([_done(run), *_measured(run), *_worse(run), *_training(run)])


def _done(run: Run) -> str:
    count = len(run.stages)
    if not count:
        return "The run has no stage yet."
    seconds = [stage.seconds for stage in run.stages if stage.seconds is not None]
    took = f" in {duration(sum(seconds))}" if seconds else ""
    what = "1 stage" if count == 1 else f"{count} stages"
    others = [stage for stage in run.stages if stage.state != "done"]
    if not others:
        return f"Done: {what}{took}."
    rest = "; ".join(
        _are([stage.name for stage in others if stage.state == state], state)
        for state in dict.fromkeys(stage.state for stage in others)
    )
    return f"Of {what}, {count - len(others)} done{took}; {rest}."


def _are(names: Sequence[str], state: str) -> str:
    if len(names) == 1:
        return f"{names[0]} is {state}"
    return f"{', '.join(names[:-1])} and {names[-1]} are {state}"


def _measured(run: Run) -> Iterator[str]:
    if not run.measured:
        yield "Nothing has been measured."
    for i, name in enumerate(sets([run])):
        there = [stage for stage in run.measured if name in stage.sets]
        first, last = there[0], there[-1]
        before, after = first.sets[name], last.sets[name]
        if first is last:
            yield f"On {name}, measured once ({first.name}): {_now(after)}."
        elif i == 0:
            counts = (
                f"{number(after.call_rows)} prompts call for a tool, "
                f"{number(after.words_rows)} for words"
            )
            went = _went(before, after, TOLD)
            yield f"On {name} ({counts}), from {first.name} to {last.name}: {went}."
        else:
            yield f"On {name}: {_went(before, after, {'exact': TOLD['exact']})}."


def _now(found: Marks) -> str:
    parts = []
    for kind, where in (("call", CALL), ("words", WORDS)):
        exact, calls = mark(found, f"{kind}_exact"), mark(found, f"{kind}_call_share")
        if exact is not None:
            told = "" if calls is None else f", with a call in {share(calls.value)}"
            parts.append(f"{share(exact.value)} exact {where}{told}")
    return "; ".join(parts) or "no marks"


def _went(before: Marks, after: Marks, names: Mapping[str, str]) -> str:
    parts = []
    for kind, where in (("call", CALL), ("words", WORDS)):
        told = [
            moved(what, mark(before, f"{kind}_{name}"), mark(after, f"{kind}_{name}"))
            for name, what in names.items()
        ]
        said = [text for text in told if text]
        if said:
            parts.append(f"{where}, {' and '.join(said)}")
    return "; ".join(parts) or "no marks"


def moved(what: str, before: Mark | None, after: Mark | None, unit: str = "share") -> str:
    """What a mark did; nothing where it is missing on a side."""
    if before is None or after is None:
        return ""
    start, end = in_unit(before.value, unit), in_unit(after.value, unit)
    if start == end:
        return f"{what} stayed at {end}"
    verb = "rose" if after.value > before.value else "fell"
    if before.low is None or after.low is None:
        return f"{what} {verb} from {start} to {end}"
    if are_apart(before, after):
        return f"{what} {verb} clearly from {start} to {end}"
    return f"{what} {verb} from {start} to {end} (may be chance)"


def _worse(run: Run) -> Iterator[str]:
    """Every mark that is clearly worse than before, whatever the others did."""
    found, compared = [], False
    for name in sets([run]):
        there = [stage.sets[name] for stage in run.measured if name in stage.sets]
        if len(there) < 2:
            continue
        compared = True
        for where, columns in list(GROUPS.items())[:2]:
            for column in columns:
                text = _fell(mark(there[0], column.name), mark(there[-1], column.name), column)
                found += [f"{name}, {where}: {text}"] if text else []
    if found:
        yield f"Clearly worse than before: {'; '.join(found)}."
    elif compared and _has_intervals(run):
        yield "No mark is clearly worse than before."
    for name in sets([run]):
        yield from _narrowed(run, name)


def _has_intervals(run: Run) -> bool:
    return any(
        found.low is not None
        for stage in run.measured
        for marks in stage.sets.values()
        for found in marks.marks.values()
    )


def _fell(before: Mark | None, after: Mark | None, column: Column) -> str:
    if before is None or after is None or not are_apart(before, after):
        return ""
    if (after.value - before.value) * column.better > 0:
        return ""
    ends = f"{in_unit(before.value, column.unit)} to {in_unit(after.value, column.unit)}"
    return f"{column.title} {ends}"


def _narrowed(run: Run, name: str) -> Iterator[str]:
    """One sample got better and the best of many worse: the answers have become alike."""
    there = [stage.sets[name] for stage in run.measured if name in stage.sets]
    if len(there) < 2:
        return
    before, after = (found.passk.get("call", {}) for found in (there[0], there[-1]))
    most = max(set(before) & set(after), default=1)
    if (
        most > 1
        and 1 in before
        and 1 in after
        and after[1] > before[1]
        and after[most] < before[most]
    ):
        yield (
            f"On {name}, {CALL}, one sample is exact more often than before and the best of "
            f"{most} less often ({share(before[most])} to {share(after[most])}): the answers have "
            "become more alike."
        )


def _training(run: Run) -> Iterator[str]:
    for stage in run.stages:
        if stage.teaching is not None:
            yield from _taught(stage)
        if stage.loop == "rl":
            yield from _rewarded(stage)


def _taught(stage: Stage) -> Iterator[str]:
    counts = stage.teaching.counts if stage.teaching else {}
    kept, asked = counts.get("kept"), counts.get("samples")
    if kept is not None and asked:
        yield (
            f"In {stage.name} {number(kept)} of the teacher's {number(asked)} answers "
            f"({share(kept / asked, 0)}) were kept."
        )


def _rewarded(stage: Stage) -> Iterator[str]:
    said = []
    for kind, where in (("call", CALL), ("words", WORDS)):
        values = [y for _, y in stage.series(f"rollout/{kind}_reward")]
        if len(values) > 1:
            count = min(END, len(values) // 2)
            start, end = fmean(values[:count]), fmean(values[-count:])
            said.append(f"{where} from {in_unit(start, '')} to {in_unit(end, '')}")
    if said:
        yield f"In {stage.name} the reward went {' and '.join(said)}."
    calls = [y for _, y in stage.series("rollout/call_call_share")]
    if len(calls) > 1 and calls[-1] < calls[0] / 2:
        yield (
            f"In {stage.name} the policy was giving up its calls: {CALL} it called in "
            f"{share(calls[0])} of its answers at first and in {share(calls[-1])} at last."
        )


def compared(runs: Sequence[Run]) -> Iterator[str]:
    """What several runs came to: a sentence a set."""
    for name in sets(runs):
        parts = []
        for run_name in dict.fromkeys(run.name for run in runs):
            own = [run for run in runs if run.name == run_name]
            text = _came_to(run_name, own, name)
            parts += [text] if text else []
        if parts:
            yield f"On {name}, exact answers {CALL} after the last evaluation: {'; '.join(parts)}."


def _came_to(title: str, runs: Sequence[Run], name: str) -> str:
    values = []
    for run in runs:
        there = [stage.sets[name] for stage in run.measured if name in stage.sets]
        found = mark(there[-1], "call_exact") if there else None
        values += [found.value] if found else []
    if not values:
        return ""
    made = aggregate.mean(values)
    if made.low is None:
        return f"{title} {share(made.value)} (one seed)"
    ends = f"{share(made.low)} to {share(made.high)}"
    return f"{title} {share(made.value)} on average of {len(values)} seeds (95 %: {ends})"
