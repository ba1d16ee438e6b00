"""Counts of every category as the averages that BFCL publishes.

    {category: (correct, total)} → Averages

An average over categories weighs each alike, 50 entries of JavaScript as 400 of Python; the average
of a live set weighs each entry alike. In the averages that count, a category that was not evaluated
is wrong in all its entries; in the summaries beside them it makes the summary None ("N/A").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from star_jax.evals.bfcl.categories import MEMORY, SIZES, WEB_SEARCH, check_version, named
from star_jax.evals.bfcl.decode import Version

Counts = Mapping[str, tuple[int, int]]
Table = dict[str, float | None]

LIVE_AST = ("live_simple", "live_multiple", "live_parallel", "live_parallel_multiple")
MULTI_TURN = (
    "multi_turn_base",
    "multi_turn_miss_func",
    "multi_turn_miss_param",
    "multi_turn_long_context",
)


@dataclass(frozen=True)
class Averages:
    """Fractions of one. `tables` are the leaderboard's, column by column; None is not evaluated."""

    version: Version
    overall: float
    non_live: float
    live: float
    multi_turn: float
    irrelevance: float | None  # a part of v4's overall; in v3 inside of live and non_live
    agentic: float | None  # v4 alone
    tables: Mapping[str, Table]


def aggregate(counts: Counts, version: Version = "v3") -> Averages:
    """Every published average of these counts, under the names of either version."""
    check_version(version)
    scores = Scores(_checked(counts, version), version)
    return _v3(scores) if version == "v3" else _v4(scores)


def percent(value: float | None) -> str:
    """As the leaderboard writes it, `51.70%`."""
    return "N/A" if value is None else f"{value * 100:.2f}%"


def _checked(counts: Counts, version: Version) -> dict[str, tuple[int, int]]:
    checked: dict[str, tuple[int, int]] = {}
    for category, (correct, total) in counts.items():
        name = named(category, version)
        if name in checked:
            raise ValueError(f"counts: {category!r} and {name!r} are the same category: give one")
        if not 0 <= correct <= total:
            raise ValueError(
                f"counts[{category!r}] is {(correct, total)}: give correct out of all, 0 ≤ c ≤ n"
            )
        if total:
            checked[name] = (correct, total)
    return checked


@dataclass(frozen=True)
class Scores:
    """Accuracies by category, each under its name of v4."""

    counts: Mapping[str, tuple[int, int]]
    version: Version

    def of(self, category: str) -> float | None:
        counts = self.counts.get(named(category, self.version))
        return counts and counts[0] / counts[1]

    def size(self, category: str) -> int:
        name = named(category, self.version)
        return self.counts[name][1] if name in self.counts else SIZES[self.version][name]

    def weighted(self, categories: Sequence[str]) -> float:
        """Over entries; what was not evaluated is wrong."""
        parts = [(self.of(name) or 0.0) * self.size(name) for name in categories]
        return sum(parts) / sum(self.size(name) for name in categories)

    def are_all_known(self, categories: Sequence[str]) -> bool:
        return all(self.of(name) is not None for name in categories)


def mean(values: Sequence[float | None]) -> float:
    """Over parts; what was not evaluated is wrong."""
    return sum(value or 0.0 for value in values) / len(values)


def shown(values: Sequence[float | None]) -> float | None:
    """The mean, or None where a part is missing."""
    return None if any(value is None for value in values) else mean(values)


def _simple(scores: Scores) -> tuple[float | None, ...]:
    return tuple(scores.of(f"simple_{language}") for language in ("python", "java", "javascript"))


def _v3(scores: Scores) -> Averages:
    one_turn = [scores.of(name) for name in ("multiple", "parallel", "parallel_multiple")]
    non_live = mean([mean(_simple(scores)), *one_turn, scores.of("irrelevance")])
    live = scores.weighted((*LIVE_AST, "live_irrelevance", "live_relevance"))
    multi_turn = mean([scores.of(name) for name in MULTI_TURN])
    overall = mean([live, non_live, multi_turn])
    tables = {
        "data_overall": _overall_table(scores, overall, live, multi_turn),
        "data_non_live": {"Non_Live Overall Acc": non_live, **_non_live_columns(scores)},
        "data_live": {"Live Overall Acc": live, **_live_columns(scores)},
        "data_multi_turn": _multi_turn_table(scores, multi_turn),
    }
    irrelevance = tables["data_overall"]["Irrelevance Detection"]
    return Averages("v3", overall, non_live, live, multi_turn, irrelevance, None, tables)


def _v4(scores: Scores) -> Averages:
    one_turn = [scores.of(name) for name in ("multiple", "parallel", "parallel_multiple")]
    non_live = mean([mean(_simple(scores)), *one_turn])
    live = scores.weighted(LIVE_AST)
    multi_turn = mean([scores.of(name) for name in MULTI_TURN])
    irrelevance = mean([scores.of("irrelevance"), scores.of("live_irrelevance")])
    web, memory = ([scores.of(name) for name in names] for names in (WEB_SEARCH, MEMORY))
    agentic = mean([mean(web), mean(memory)])
    overall = 0.1 * non_live + 0.1 * live + 0.1 * irrelevance + 0.3 * multi_turn + 0.4 * agentic
    tables = {
        "data_overall": _overall_table(scores, overall, live, multi_turn)
        | _agentic_columns(scores, "Acc"),
        "data_non_live": {"Non-Live Overall Acc": non_live, **_non_live_columns(scores)},
        "data_live": {"Live Overall Acc": live, **_live_columns(scores)},
        "data_multi_turn": _multi_turn_table(scores, multi_turn),
        "data_agentic": {"Agentic Overall Acc": agentic, **_agentic_columns(scores, "Summary")},
    }
    return Averages("v4", overall, non_live, live, multi_turn, irrelevance, agentic, tables)


def _overall_table(scores: Scores, overall: float, live: float, multi_turn: float) -> Table:
    columns = _non_live_columns(scores)
    irrelevance = [scores.of("irrelevance"), scores.of("live_irrelevance")]
    return {
        "Overall Acc": overall,
        # Without irrelevance, which v3's own average of the non-live set counts.
        "Non-Live AST Acc": columns["AST Summary"],
        "Non-Live Simple AST": columns["Simple AST"],
        "Non-Live Multiple AST": columns["Multiple AST"],
        "Non-Live Parallel AST": columns["Parallel AST"],
        "Non-Live Parallel Multiple AST": columns["Parallel Multiple AST"],
        "Live Acc": live,
        "Live Simple AST": scores.of("live_simple"),
        "Live Multiple AST": scores.of("live_multiple"),
        "Live Parallel AST": scores.of("live_parallel"),
        "Live Parallel Multiple AST": scores.of("live_parallel_multiple"),
        "Multi Turn Acc": multi_turn,
        "Multi Turn Base": scores.of("multi_turn_base"),
        "Multi Turn Miss Func": scores.of("multi_turn_miss_func"),
        "Multi Turn Miss Param": scores.of("multi_turn_miss_param"),
        "Multi Turn Long Context": scores.of("multi_turn_long_context"),
        "Relevance Detection": scores.of("live_relevance"),
        "Irrelevance Detection": shown(irrelevance),
    }


def _non_live_columns(scores: Scores) -> Table:
    python, java, javascript = _simple(scores)
    simple = shown([python, java, javascript])
    one_turn = [scores.of(name) for name in ("multiple", "parallel", "parallel_multiple")]
    return {
        "AST Summary": shown([simple, *one_turn]),
        "Simple AST": simple,
        "Python Simple AST": python,
        "Java Simple AST": java,
        "JavaScript Simple AST": javascript,
        "Multiple AST": one_turn[0],
        "Parallel AST": one_turn[1],
        "Parallel Multiple AST": one_turn[2],
        "Irrelevance Detection": scores.of("irrelevance"),
    }


def _live_columns(scores: Scores) -> Table:
    return {
        "AST Summary": scores.weighted(LIVE_AST) if scores.are_all_known(LIVE_AST) else None,
        "Python Simple AST": scores.of("live_simple"),
        "Python Multiple AST": scores.of("live_multiple"),
        "Python Parallel AST": scores.of("live_parallel"),
        "Python Parallel Multiple AST": scores.of("live_parallel_multiple"),
        "Irrelevance Detection": scores.of("live_irrelevance"),
        "Relevance Detection": scores.of("live_relevance"),
    }


def _multi_turn_table(scores: Scores, multi_turn: float) -> Table:
    return {
        "Multi Turn Overall Acc": multi_turn,
        "Base": scores.of("multi_turn_base"),
        "Miss Func": scores.of("multi_turn_miss_func"),
        "Miss Param": scores.of("multi_turn_miss_param"),
        "Long Context": scores.of("multi_turn_long_context"),
    }


def _agentic_columns(scores: Scores, word: str) -> Table:
    web, memory = ([scores.of(name) for name in names] for names in (WEB_SEARCH, MEMORY))
    return {
        f"Web Search {word}": shown(web),
        "Web Search Base": web[0],
        "Web Search No Snippet": web[1],
        f"Memory {word}": shown(memory),
        "Memory KV": memory[0],
        "Memory Vector": memory[1],
        "Memory Recursive Summarization": memory[2],
    }
