"""What the doctor found, as a page for a person and as data for a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from star_jax.data import doctor, symptoms
from star_jax.data.doctor import Finding
from star_jax.data.encode import TURN_END, Examples, Tokenizer


def describe(
    examples: Examples,
    tokenizer: Tokenizer,
    allowed: Sequence[Finding],
    refused: Sequence[Finding],
    *,
    max_tokens: int,
    max_targets: int | None = None,
) -> dict[str, Any]:
    """Counts of findings and lengths of examples; every value is JSON's."""
    lengths = {
        "prompt": examples.n_prompt,
        "target": examples.n_target,
        "together": examples.lengths,
    }
    passed, stopped = (Counter(found.kind for found in part) for part in (allowed, refused))
    return {
        "file": examples.path,
        "examples": len(examples),
        "max_tokens": max_tokens,
        "max_targets": max_targets,
        "fit": int(symptoms.fits(examples, max_tokens, max_targets).sum()),
        "newline_after_end": int(symptoms.closes_line(examples, tokenizer).sum()),
        "tokens": {name: _spread(counts) for name, counts in lengths.items()},
        "kinds": {
            kind: {"found": passed[kind] + stopped[kind], "allowed": passed[kind]}
            for kind in doctor.DONE
        },
    }


def _spread(counts: np.ndarray) -> dict[str, int]:
    """Of what is there: no length is reported that no example has."""
    if len(counts) == 0:
        return dict.fromkeys(("median", "p95", "max"), 0)
    median, p95, most = np.percentile(counts, [50, 95, 100], method="higher").tolist()
    return {"median": int(median), "p95": int(p95), "max": int(most)}


def lines(described: dict[str, Any]) -> list[str]:
    """Two tables and a sentence or two."""
    page = []
    found = {kind: row for kind, row in described["kinds"].items() if row["found"]}
    if found:
        page.append(f"{'':16} {'found':>8} {'allowed':>8}")
        page += [f"{kind:16} {row['found']:8} {row['allowed']:8}" for kind, row in found.items()]
    page.append(f"{'tokens':16} {'median':>8} {'p95':>8} {'max':>8}")
    for name, row in described["tokens"].items():
        page.append(f"{name:16} {row['median']:8} {row['p95']:8} {row['max']:8}")
    limits = f"max_tokens {described['max_tokens']}"
    if described["max_targets"] is not None:
        limits += f", max_targets {described['max_targets']}"
    page.append(f"{described['fit']} of {described['examples']} examples fit whole ({limits})")
    if count := described["newline_after_end"]:
        end = f"{TURN_END} and a newline, as STAR's converter writes them"
        page.append(f"targets that end in {end}: {count}")
    return page
