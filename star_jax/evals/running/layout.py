"""Results and scores as BFCL's own scripts lay them out, so that its leaderboard can be made.

    OUTPUT/result/MODEL/BFCL_v3_CATEGORY_result.json     {"id", "result", …} a line
    OUTPUT/score/MODEL/BFCL_v3_CATEGORY_score.json       accuracy and counts, then the wrong ones

v4 has a folder of each group between MODEL and the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from star_jax.data.cache import partfile
from star_jax.evals.bfcl.categories import groups, is_multi_turn
from star_jax.evals.bfcl.decode import Version, clean
from star_jax.evals.running import bfcl, scoring
from star_jax.evals.running.scoring import Line


def write(output: Path, model: str, exam: bfcl.Exam, lines: Sequence[Line]) -> None:
    """Every file of both folders, whole."""
    raw = {item.id: item for item in exam.items}
    name = model.replace("/", "_")
    for category, found in scoring.by_category(lines).items():
        stem = f"BFCL_{exam.version}_{category}"
        group = _group(category, exam.version)
        _write(output / "result" / name / group / f"{stem}_result.json", map(_result, found))
        wrong = [_wrong(line, raw[line["id"]], name) for line in found if not line["valid"]]
        right = len(found) - len(wrong)
        counts = {
            "accuracy": right / len(found),
            "correct_count": right,
            "total_count": len(found),
        }
        _write(output / "score" / name / group / f"{stem}_score.json", [counts, *wrong])


def _group(category: str, version: Version) -> str:
    if version == "v3":
        return "."
    known = groups(version)
    return next(name for name in ("non_live", "live", "multi_turn") if category in known[name])


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partfile.write(path, [json.dumps(row).encode() + b"\n" for row in rows])


def _result(line: Line) -> dict[str, Any]:
    made = {"id": line["id"], "result": bfcl.result(line)}
    if line["lost"]:
        return made
    several = is_multi_turn(line["category"])
    thoughts = [[clean(text)[0] for text in turn] for turn in line["turns"]]
    made["input_token_count"] = _one(line["prompt_tokens"], several)
    made["output_token_count"] = _one(line["tokens"], several)
    if any(thought for turn in thoughts for thought in turn):
        made["reasoning_content"] = _one(thoughts, several)
    return made


def _one(turns: Any, several: bool) -> Any:
    return turns if several else turns[0][0]


def _wrong(line: Line, item: bfcl.Item, model: str) -> dict[str, Any]:
    kind = line["error_type"] or f"raises:{line['raises']}"
    several = is_multi_turn(line["category"])
    error = {"error_message": line["error"], "error_type": kind} if several else line["error"]
    made = {
        "id": line["id"],
        "model_name": model,
        "test_category": line["category"],
        "valid": False,
        "error": error,
    }
    made |= {} if several else {"error_type": kind}
    return made | {
        "prompt": {name: value for name, value in item.raw.items() if name != "ground_truth"},
        "model_result_raw": bfcl.result(line),
        "possible_answer": item.accepted,
    }
