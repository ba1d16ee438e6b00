"""What a category weighs in each published average, so that the average can have an interval.

    {category: entries} → {average: {category: weight}}

An average is Σ weight · accuracy, as `aggregate` adds it up. Categories that were not evaluated are
among the weights: they count as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

from star_jax.evals.bfcl.aggregate import LIVE_AST, MULTI_TURN
from star_jax.evals.bfcl.categories import MEMORY, SIZES, WEB_SEARCH, named
from star_jax.evals.bfcl.decode import Version

Share = dict[str, float]
ONE_TURN = ("multiple", "parallel", "parallel_multiple")


def shares(sizes: Mapping[str, int], version: Version) -> dict[str, Share]:
    """`sizes` are the entries that were evaluated of each category."""
    known = {**SIZES[version], **{named(name, version): size for name, size in sizes.items()}}
    made = _v3(known) if version == "v3" else _v4(known)
    return {
        name: {named(category, version): weight for category, weight in share.items()}
        for name, share in made.items()
    }


def _v3(sizes: Mapping[str, int]) -> dict[str, Share]:
    simple = _even("simple", "java", "javascript")
    non_live = _mixed(*_parts(simple), _even("irrelevance"))
    live = _by_size((*LIVE_AST, "live_irrelevance", "live_relevance"), sizes)
    multi_turn = _even(*MULTI_TURN)
    return {
        "overall": _mixed(non_live, live, multi_turn),
        "non_live": non_live,
        "live": live,
        "multi_turn": multi_turn,
        "simple": simple,
        "non_live_ast": _mixed(*_parts(simple)),
        "live_ast": _by_size(LIVE_AST, sizes),
        "irrelevance": _even("irrelevance", "live_irrelevance"),
    }


def _v4(sizes: Mapping[str, int]) -> dict[str, Share]:
    simple = _even("simple_python", "simple_java", "simple_javascript")
    non_live = _mixed(*_parts(simple))
    live = _by_size(LIVE_AST, sizes)
    irrelevance = _even("irrelevance", "live_irrelevance")
    multi_turn = _even(*MULTI_TURN)
    agentic = _mixed(_even(*WEB_SEARCH), _even(*MEMORY))
    parts = ((0.1, non_live), (0.1, live), (0.1, irrelevance), (0.3, multi_turn), (0.4, agentic))
    return {
        "overall": _sum(*parts),
        "non_live": non_live,
        "live": live,
        "irrelevance": irrelevance,
        "multi_turn": multi_turn,
        "agentic": agentic,
        "simple": simple,
    }


def _parts(simple: Share) -> list[Share]:
    return [simple, *(_even(name) for name in ONE_TURN)]


def _even(*categories: str) -> Share:
    return {name: 1 / len(categories) for name in categories}


def _by_size(categories: tuple[str, ...], sizes: Mapping[str, int]) -> Share:
    total = sum(sizes[name] for name in categories)
    return {name: sizes[name] / total for name in categories}


def _mixed(*parts: Share) -> Share:
    """The mean of parts."""
    return _sum(*((1 / len(parts), part) for part in parts))


def _sum(*parts: tuple[float, Share]) -> Share:
    made: Share = {}
    for weight, part in parts:
        for name, share in part.items():
            made[name] = made.get(name, 0.0) + weight * share
    return made
