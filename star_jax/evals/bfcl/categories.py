"""The categories of BFCL: names in v3 and v4, sizes, groups.

"live,java" → ("live_simple", ..., "java")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from star_jax.evals.bfcl.decode import Version

# Entries of v3 and of v4: what an unevaluated category weighs in an average over entries.
SIZES: Mapping[Version, Mapping[str, int]] = {
    "v3": {
        "simple": 400,
        "java": 100,
        "javascript": 50,
        "multiple": 200,
        "parallel": 200,
        "parallel_multiple": 200,
        "irrelevance": 240,
        "live_simple": 258,
        "live_multiple": 1053,
        "live_parallel": 16,
        "live_parallel_multiple": 24,
        "live_irrelevance": 882,
        "live_relevance": 18,
        "multi_turn_base": 200,
        "multi_turn_miss_func": 200,
        "multi_turn_miss_param": 200,
        "multi_turn_long_context": 200,
    },
    "v4": {
        "simple_python": 400,
        "simple_java": 100,
        "simple_javascript": 50,
        "multiple": 200,
        "parallel": 200,
        "parallel_multiple": 200,
        "irrelevance": 240,
        "live_simple": 258,
        "live_multiple": 1053,
        "live_parallel": 16,
        "live_parallel_multiple": 24,
        "live_irrelevance": 884,
        "live_relevance": 16,
        "multi_turn_base": 200,
        "multi_turn_miss_func": 200,
        "multi_turn_miss_param": 200,
        "multi_turn_long_context": 200,
        "web_search_base": 100,
        "web_search_no_snippet": 100,
        "memory_kv": 155,
        "memory_vector": 155,
        "memory_rec_sum": 155,
    },
}
V4_NAMES = {"simple": "simple_python", "java": "simple_java", "javascript": "simple_javascript"}
V3_NAMES = {new: old for old, new in V4_NAMES.items()}
# Scored by a network or a judge, and not here.
WEB_SEARCH = ("web_search_base", "web_search_no_snippet")
MEMORY = ("memory_kv", "memory_vector", "memory_rec_sum")
AGENTIC = (*WEB_SEARCH, *MEMORY)


def check_version(version: str) -> None:
    if version not in get_args(Version):
        raise ValueError(f"version is {version!r}: give one of {', '.join(get_args(Version))}")


def named(category: str, version: Version) -> str:
    """The category's name in this version, from its name in either."""
    name = (V4_NAMES if version == "v4" else V3_NAMES).get(category, category)
    if name not in SIZES[version]:
        known = ", ".join(SIZES[version])
        raise ValueError(f"category {category!r} is none of BFCL {version}: give one of {known}")
    return name


def is_multi_turn(category: str) -> bool:
    return category.startswith("multi_turn")


def groups(version: Version) -> dict[str, tuple[str, ...]]:
    """Names for several categories at once."""
    names = [name for name in SIZES[version] if name not in AGENTIC]
    live = tuple(name for name in names if name.startswith("live_"))
    multi_turn = tuple(name for name in names if is_multi_turn(name))
    non_live = tuple(name for name in names if name not in (*live, *multi_turn))
    return {
        "all": tuple(names),
        "single_turn": non_live + live,
        "non_live": non_live,
        "live": live,
        "multi_turn": multi_turn,
    }


def chosen(text: str, version: Version = "v3") -> tuple[str, ...]:
    """The categories that a list such as `non_live,live_simple` names, each once."""
    check_version(version)
    known = groups(version)
    wanted: set[str] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        wanted |= set(known[word]) if word in known else {_evaluated(word, version, known)}
    if not wanted:
        raise ValueError(f"categories is {text!r}: name one at least, or one of {', '.join(known)}")
    return tuple(name for name in SIZES[version] if name in wanted)


def _evaluated(word: str, version: Version, known: Mapping[str, object]) -> str:
    try:
        name = named(word, version)
    except ValueError as error:
        raise ValueError(f"{error}, or of the groups {', '.join(known)}") from error
    if name in AGENTIC:
        raise ValueError(f"category {word!r} needs a network or a judge: leave it out")
    return name
