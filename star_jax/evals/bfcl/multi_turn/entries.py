"""Multi-turn entries with their answers, from the files of a source.

Source, category → [{id, question, initial_config, involved_classes, ground_truth, ...}]
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from star_jax.evals.bfcl.multi_turn.classes import Source, read

Entry = dict[str, Any]

CATEGORIES = (
    "multi_turn_base",
    "multi_turn_miss_func",
    "multi_turn_miss_param",
    "multi_turn_long_context",
)


def entries(source: Source, category: str) -> list[Entry]:
    """The entries of a category in the order of their file; ValueError names what is wrong."""
    if category not in CATEGORIES:
        known = ", ".join(CATEGORIES)
        raise ValueError(f"category {category!r} is no multi-turn category; give one of {known}")
    name = f"BFCL_{source.version}_{category}.json"
    answers_file = source.data / "possible_answer" / name
    answers = {row["id"]: row for _, row in _rows(answers_file)}
    found = []
    for _, row in _rows(source.data / name):
        answer = answers.get(row["id"], {}).get("ground_truth")
        if not isinstance(answer, list):
            raise ValueError(f"{answers_file}: has no ground_truth for {row['id']}; fetch it again")
        found.append({**row, "ground_truth": answer})
    return found


def _rows(file: Path) -> list[tuple[str, Entry]]:
    """The objects of a JSONL file with the places they stand at."""
    rows = []
    for number, line in enumerate(read(file).splitlines(), 1):
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: is no JSON ({error}); fetch the file again") from None
        if not isinstance(row, dict) or not isinstance(row.get("id"), str):
            raise ValueError(f"{where}: is no object with an id; fetch the file again")
        rows.append((where, row))
    return rows
