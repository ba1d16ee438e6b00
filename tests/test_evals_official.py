"""Our result and score files, read and scored again by BFCL's own scripts: the same leaderboard.

STAR_JAX_BFCL3 names a folder made by `pip install --no-deps --target FOLDER
bfcl-eval==2025.8.6.2`; without it this skips.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from star_jax.evals import bfcl as checkers
from star_jax.evals.running import benchmark, bfcl
from star_jax.evals.running.prompting import Prompting
from tests.asked import Scripted, script

CATEGORIES = (
    "java,javascript,irrelevance,parallel,live_parallel,live_parallel_multiple,live_relevance,"
    "multi_turn_base"
)


@pytest.mark.slow
def test_the_official_scripts_read_our_files(tmp_path: Path) -> None:
    package = os.environ.get("STAR_JAX_BFCL3")
    if package is None:
        pytest.skip("STAR_JAX_BFCL3 names no folder with bfcl_eval (docs/evals.md)")
    if importlib.util.find_spec("mpmath") is None:
        pytest.skip("mpmath is not installed, which one of the classes needs")
    exam = bfcl.open(Path(package), "v3", CATEGORIES, None)
    said = script(exam, random.Random(3))
    asker = Scripted(lambda question: said.get(question.name, "No."), ahead=50)
    scores = benchmark.run(exam, asker, Prompting("official"), tmp_path, name="star")
    exam.close()
    assert scores is not None
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "official_scores.py"), package, ".", "star"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    scored, read = json.loads(ran.stdout)
    for found in (scored, read):
        for table, columns in scores["leaderboard"].items():
            shown = {name: checkers.percent(value) for name, value in columns.items()}
            assert {name: found[table][name] for name in shown} == shown
    for category, marks in scores["categories"].items():
        assert 0.05 < marks["value"] < 0.98, "both right and wrong answers are compared"
        name = f"BFCL_v3_{category}_score.json"
        theirs = (tmp_path / "official" / "star" / name).read_text().splitlines()
        ours = (tmp_path / "score" / "star" / name).read_text().splitlines()
        assert json.loads(ours[0]) == json.loads(theirs[0])
        ids = [json.loads(line)["id"] for line in ours[1:]]
        assert sorted(ids) == sorted(json.loads(line)["id"] for line in theirs[1:])
        kinds = {row["id"]: kind(row) for row in map(json.loads, theirs[1:])}
        assert {row["id"]: kind(row) for row in map(json.loads, ours[1:])} == kinds


def kind(row: dict[str, Any]) -> str:
    return row["error_type"] if "error_type" in row else row["error"]["error_type"]
