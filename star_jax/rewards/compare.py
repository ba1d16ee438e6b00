"""Where Sim-RL's default and the reference disagree on stored completions, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from star_jax.rewards.combine import Sample
from star_jax.rewards.explain import Argument, Explanation, explain
from star_jax.rewards.reading import ENDS
from star_jax.rewards.text import ascii_words, unicode_words


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that scores differently, and the reasons that were found."""

    id: str
    star: float
    default: float
    reasons: tuple[str, ...]


def compare(samples: Iterable[Sample]) -> tuple[int, list[Difference]]:
    """How many rows there are, and those that score differently by default."""
    count = 0
    found = []
    for sample in samples:
        count += 1
        star = explain(sample.generation, sample.label, sample.tools, "star")
        ours = explain(sample.generation, sample.label, sample.tools)
        if star.reward.total != ours.reward.total:
            reasons = tuple(sorted(set(_reasons(sample, star, ours))))
            found.append(Difference(sample.id, star.reward.total, ours.reward.total, reasons))
    return count, found


def lines(count: int, differences: list[Difference]) -> Iterator[str]:
    """The comparison as a table in Markdown."""
    yield f"{len(differences)} of {count} rows score differently."
    yield ""
    yield "| reason | rows | lower | higher | mean change |"
    yield "|---|---|---|---|---|"
    groups: dict[tuple[str, ...], list[float]] = {}
    for difference in differences:
        changes = groups.setdefault(difference.reasons, [])
        changes.append(difference.default - difference.star)
    sizes = Counter({reasons: len(changes) for reasons, changes in groups.items()})
    for reasons, size in sizes.most_common():
        changes = groups[reasons]
        lower = sum(change < 0 for change in changes)
        mean = sum(changes) / size
        yield f"| {'; '.join(reasons)} | {size} | {lower} | {size - lower} | {mean:+.4f} |"


def _reasons(sample: Sample, star: Explanation, ours: Explanation) -> Iterator[str]:
    match star.reward.kind, ours.reward.kind:
        case "reply", "reply":
            yield from _reply_reasons(sample)
        case "calls", "calls":
            yield from _call_reasons(star, ours)
        case before, after:
            yield f"the reference says {before}, the default {after}"


def _reply_reasons(sample: Sample) -> Iterator[str]:
    texts = (sample.generation, sample.label)
    if any(end in text for end in ENDS for text in texts):
        yield "end-of-turn tokens are no words"
    if any(ascii_words(text) != unicode_words(text) for text in texts):
        yield "words beyond ASCII"


def _call_reasons(star: Explanation, ours: Explanation) -> Iterator[str]:
    if [(p.predicted, p.gold) for p, _ in star.pairs] != [
        (p.predicted, p.gold) for p, _ in ours.pairs
    ]:
        yield "other calls are paired"
    for (_, before), (_, after) in zip(star.pairs, ours.pairs, strict=True):
        scores = {argument.name: argument.score for argument in before}
        for argument in after:
            if scores.get(argument.name) != argument.score:
                yield _argument_reason(argument)


def _argument_reason(argument: Argument) -> str:
    kinds = sorted({_kind(argument.predicted), _kind(argument.gold)})
    if kinds == ["text"]:
        numeric = ascii_words(argument.predicted) == unicode_words(argument.predicted)
        return "texts that are numbers" if numeric else "words beyond ASCII in an argument"
    return f"{' against '.join(kinds)} in an argument"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "text"
        case int() | float():
            return "number"
        case list():
            return "list"
    return "object"
