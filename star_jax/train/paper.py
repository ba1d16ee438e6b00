"""Every row of the paper's tables on the embedded world, beside the paper's own numbers.

    the embedded curriculum `paper`, over seeds → one row a method, with 95 % intervals
                                                → which of the paper's orderings hold here

The paper has one run a row and no intervals. Its numbers are of Qwen3-0.6B on BFCL v3 and ACEBench
Normal, ours of a model hundreds of times smaller on a world of its own: orders may be compared,
sizes may not.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.evals import stats
from star_jax.train import curriculum
from star_jax.train.manifest import Plan, Ready

# (BFCL v3 overall, ACEBench Normal) of Qwen3-0.6B: tables 1, 2 and 4 and the ablation of rewards;
# None where the paper has no such row.
PAPER: dict[str, tuple[float, float] | None] = {
    "base": (47.33, 27.20),
    "sft": (44.58, 2.10),
    "sft-think": (47.59, 28.70),
    "fkl": (49.51, 36.80),
    "rkl": (49.26, 35.30),
    "akl": (49.47, 44.20),
    "rskd": (49.03, 35.40),
    "gkd": (47.32, 40.10),
    "ckd": (49.84, 39.00),
    "dpo": None,
    "sim-rl": (49.35, 39.30),
    "toolrl": (47.35, 29.40),
    "luffy": (49.23, 44.40),
    "sft-think+sim-rl": (50.41, 38.90),
    "fkl+sim-rl": (51.46, 50.00),
    "rkl+sim-rl": (50.49, 41.30),
    "akl+sim-rl": (50.29, 49.00),
    "rskd+sim-rl": (50.65, 49.80),
    "ckd+sim-rl": (51.70, 53.00),
    "ckd+binary-rl": (51.05, 35.70),
    "ckd+toolrl-reward": (48.59, 40.50),
    "ckd+swirl-reward": (51.10, 40.30),
    "teacher-itself": (67.74, 72.70),
}
ORDERINGS = (  # what the paper says is better than what
    ("sft-think", "sft"),
    ("fkl", "sft-think"),
    ("ckd", "sft-think"),
    ("ckd", "fkl"),
    ("sim-rl", "base"),
    ("sim-rl", "toolrl"),
    ("ckd+sim-rl", "ckd"),
    ("ckd+sim-rl", "sim-rl"),
    ("ckd+sim-rl", "sft-think+sim-rl"),
    ("ckd+sim-rl", "fkl+sim-rl"),
    ("ckd+sim-rl", "rkl+sim-rl"),
    ("ckd+sim-rl", "akl+sim-rl"),
    ("ckd+sim-rl", "rskd+sim-rl"),
    ("ckd+sim-rl", "ckd+binary-rl"),
    ("ckd+sim-rl", "ckd+toolrl-reward"),
    ("ckd+sim-rl", "ckd+swirl-reward"),
)
COLUMNS = (
    ("call_exact", "call: exact", 100),
    ("call_call_share", "calls", 100),
    ("call_valid_share", "valid", 100),
    ("words_reward", "words: reward", 1),
    ("words_call_share", "calls", 100),
)


@dataclass(frozen=True)
class Row:
    """What one method's runs measured on one set, a value a seed."""

    marks: tuple[Mapping[str, float], ...]
    passk: tuple[Mapping[str, float], ...]  # of prompts that call for a tool
    entropy: tuple[float, ...]
    exact: Mapping[str, float]  # of each prompt that calls for a tool, the mean over seeds


def collect(made: Sequence[tuple[Plan, list[Ready]]], name: str) -> dict[str, Row]:
    """Of every method that was measured on the set of this name."""
    found: dict[str, list[dict[str, Any]]] = {}
    exact: dict[str, dict[str, list[bool]]] = {}
    for plan, ready in made:
        for stage, marks in curriculum.evaluations(plan, ready):
            if name in marks["sets"]:
                found.setdefault(stage, []).append(marks["sets"][name])
        for one in ready:
            if one.stage.run == "evaluate":
                _add_exact(one.output / "answers.jsonl", name, exact.setdefault(one.stage.name, {}))
    return {
        stage: Row(
            marks=tuple(one["marks"] for one in runs),
            passk=tuple(one["passk"].get("call", {}) for one in runs),
            entropy=tuple(one["entropy_nats"] for one in runs),
            exact={row: float(np.mean(values)) for row, values in exact[stage].items()},
        )
        for stage, runs in found.items()
    }


def _add_exact(path: Path, name: str, found: dict[str, list[bool]]) -> None:
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if row["set"] == name and row["wanted"] == "call":
                found.setdefault(row["id"], []).append(row["exact"])


def markdown(made: Sequence[tuple[Plan, list[Ready]]]) -> str:
    """The tables and the orderings, as docs/results.md has them."""
    seeds = sorted({plan.seed for plan, _ in made})
    lines = [f"{len(seeds)} seed{'s' * (len(seeds) > 1)}: {', '.join(map(str, seeds))}.", ""]
    for name in ("seen", "unseen_tools"):
        rows = collect(made, name)
        if rows:
            lines += [f"## {name}", "", *_table(rows), "", *orderings(rows), ""]
    return "\n".join(lines)


def _table(rows: Mapping[str, Row]) -> Iterator[str]:
    titles = [title for _, title, _ in COLUMNS]
    heads = ["method", *titles, "pass@8", "entropy, nats", "paper: BFCL", "paper: ACE"]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for stage in [*PAPER, *(stage for stage in rows if stage not in PAPER)]:
        if stage not in rows:
            continue
        row = rows[stage]
        cells = [
            spread([m[key] * scale for m in row.marks if key in m], 1 if scale == 100 else 2)
            for key, _, scale in COLUMNS
        ]
        most = [100 * curve["8"] for curve in row.passk if "8" in curve]
        cells += [spread(most, 1), spread(row.entropy, 3)]
        theirs = PAPER.get(stage)
        cells += ["-", "-"] if theirs is None else [f"{x:.2f}" for x in theirs]
        yield f"| {' | '.join([stage, *cells])} |"


def spread(values: Sequence[float], digits: int) -> str:
    """The mean over seeds, and half of its 95 % interval (Student's t)."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    interval = stats.over_seeds(values)
    return f"{mean} ± {(interval.high - interval.low) / 2:.{digits}f}"


def orderings(rows: Mapping[str, Row]) -> Iterator[str]:
    """Each of the paper's, with what it is here: exact matches on prompts that call for a tool,
    prompt by prompt."""
    yield "| the paper: better | than | here, points | verdict |"
    yield "|---|---|---|---|"
    for better, worse in ORDERINGS:
        if better not in rows or worse not in rows:
            continue
        mine, other = rows[better].exact, rows[worse].exact
        both = sorted(mine.keys() & other.keys())
        found = stats.compare([mine[x] for x in both], [other[x] for x in both])
        verdict = {"better": "holds", "worse": "the other way round", "noise": "within noise"}
        points = found.difference
        yield (
            f"| {better} | {worse} | {100 * points.value:+.1f} "
            f"({100 * points.low:+.1f} to {100 * points.high:+.1f}) | {verdict[found.verdict]} |"
        )
