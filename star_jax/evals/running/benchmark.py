"""A benchmark from its entries to its files.

OUTPUT/answers.jsonl          a line as each entry ends, by which a killed run goes on
OUTPUT/scores.json, .html     once all are there
OUTPUT/result/, score/        BFCL alone: as its own scripts lay them out
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from star_jax.data.cache import partfile
from star_jax.evals.running import acebench, bfcl, layout, page, scoring, showing, work
from star_jax.evals.running.asking import Asker
from star_jax.evals.running.prompting import Prompting

FORMAT = 1  # to be counted up with every change of what a line says

Exam = bfcl.Exam | acebench.Exam


def run(
    exam: Exam,
    asker: Asker,
    prompting: Prompting,
    output: Path,
    *,
    name: str,
    keep_thoughts: bool = False,
    limit: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """→ what scores.json holds; None where it was stopped before the end."""
    is_bfcl = isinstance(exam, bfcl.Exam)
    settings = {**asker.about, **prompting.about}
    settings |= {} if is_bfcl else {"keep_thoughts": keep_thoughts}
    made_by = {
        "format": FORMAT,
        "benchmark": "bfcl" if is_bfcl else "acebench",
        "version": exam.version if is_bfcl else exam.language,
        "entries": exam.digests,
        **settings,
    }
    output.mkdir(parents=True, exist_ok=True)
    ids = [one.id for one in (exam.items if is_bfcl else exam.entries)]
    make = bfcl.make(exam, prompting) if is_bfcl else acebench.make(exam, prompting, keep_thoughts)
    answers = output / scoring.ANSWERS
    if not work.write(answers, ids, make, asker, made_by, should_stop):
        return None
    lines = scoring.read_lines(answers)
    scores = bfcl.score(exam, lines) if is_bfcl else acebench.score(exam, lines)
    scores = {
        **scores,
        "answers": len(lines),
        "settings": {**settings, "name": name, "limit": limit},
    }
    if is_bfcl:
        layout.write(output, name, exam, lines)
        cases = showing.bfcl_cases(exam, lines)
    else:
        cases = showing.acebench_cases(exam.entries, lines)
    made = page.page(showing.title(scores), showing.about(scores), showing.tables(scores), cases)
    partfile.write(output / scoring.PAGE, [made.encode()])
    partfile.write(output / scoring.SCORES, [json.dumps(scores, indent=1).encode() + b"\n"])
    return scores
