"""pass@k and entropy of several models as tables, a page, and OUTPUT/scores.{json,html}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_jax.data.cache import partfile
from star_jax.evals.running import comparing, scoring
from star_jax.evals.running.page import page
from star_jax.evals.running.tables import Span, Table, span

Scores = Mapping[str, Any]
NAMES = {"all": "all prompts", "call": "a call is due", "words": "words are due"}


def tables(scores: Scores) -> list[Table]:
    made = []
    for kind, words in NAMES.items():
        found = {name: one[kind] for name, one in scores["models"].items() if kind in one}
        if found:
            made += [_passes(words, found), _entropies(words, found, scores)]
    return [*made, *_comparisons(scores)]


def _passes(words: str, found: Mapping[str, Any]) -> Table:
    count = next(iter(found.values()))["prompts"]
    ks = list(next(iter(found.values()))["pass"])
    rows = tuple((f"pass@{k}", *(span(one["pass"][k]) for one in found.values())) for k in ks)
    samples = next(iter(found.values()))["samples"]
    mean = (f"mean@{samples}", *(span(one["mean"]) for one in found.values()))
    return Table(f"pass@k, {words} ({count})", ("", *found), (*rows, mean))


def _entropies(words: str, found: Mapping[str, Any], scores: Scores) -> Table:
    kinds = [k for k in ("all", *_classes()) if any(k in one["entropy"] for one in found.values())]
    rows = tuple(
        (kind, *(_nats(one["entropy"].get(kind)) for one in found.values())) for kind in kinds
    )
    temperature = scores["settings"]["temperature"]
    note = ""
    if temperature != 1:
        note = (
            f"Sampled at temperature {temperature:g}: −log π of such tokens is no entropy of the "
            "model; sample at temperature 1 for that."
        )
    return Table(f"Entropy of a token in nats, {words}", ("class", *found), rows, note)


def _classes() -> tuple[str, ...]:
    return ("think", "name", "key", "value", "reply", "other")


def _nats(found: Mapping[str, Any] | None) -> Span:
    return Span(None, unit="plain") if found is None else span(found, "plain")


def _comparisons(scores: Scores) -> list[Table]:
    pairs: dict[tuple[str, str], list[Any]] = {}
    for row in scores["comparisons"]:
        pairs.setdefault((row["a"], row["b"]), []).append(row)
    return [table for names, rows in pairs.items() for table in comparing.tables(rows, names)]


def title(scores: Scores) -> str:
    return "pass@k and entropy: " + ", ".join(scores["models"])


def about(scores: Scores) -> str:
    return ", ".join(f"{name} {value}" for name, value in scores["settings"].items())


def write(output: Path, scores: Scores) -> None:
    claims = tuple((sentence,) for sentence in scores["claims"])
    shown = [Table("The paper's claim", ("",), claims), *tables(scores)]
    made = page(title(scores), about(scores), shown)
    partfile.write(output / scoring.PAGE, [made.encode()])
    partfile.write(output / scoring.SCORES, [json.dumps(scores, indent=1).encode() + b"\n"])
