"""The real classes and entries: recorded verdicts, and every answer against itself.

STAR_JAX_BFCL3 and STAR_JAX_BFCL4 name folders made by `pip install --no-deps --target FOLDER
bfcl-eval==2025.8.6.2` and `==2026.3.23`; without them these tests skip.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from star_jax.evals.bfcl import multi_turn
from star_jax.evals.bfcl.multi_turn import Sandbox, check, classes

NEEDS = {
    "multi_turn_base": 200,
    "multi_turn_miss_func": 200,
    "multi_turn_miss_param": 200,
    "multi_turn_long_context": 200,
}


def folder(version: str) -> str:
    variable = f"STAR_JAX_BFCL{version}"
    if variable not in os.environ:
        pytest.skip(f"{variable} names no folder with bfcl_eval (docs/evals-multi-turn.md)")
    return os.environ[variable]


@pytest.fixture
def mpmath() -> None:
    if importlib.util.find_spec("mpmath") is None:
        pytest.skip("mpmath is not installed, which MathAPI needs")


@pytest.mark.slow
@pytest.mark.usefixtures("mpmath")
def test_verdicts_are_the_official_ones(shared: Path) -> None:
    seen: Counter[str | None] = Counter()
    lines = (shared / "golden/eval/bfcl_multi_turn_dev_v3.jsonl").read_text().splitlines()
    with Sandbox(folder("3")) as apis:
        for row in map(json.loads, lines):
            detail = row["detail"] or {}
            # The calls as objects, and as the official code writes them.
            for spelling in ("prediction", "calls"):
                verdict = check(row[spelling], row, apis)
                assert verdict.valid == row["valid"], row["case_id"]
                assert verdict.error_type == row["error_type"], row["case_id"]
                told = "\n".join(verdict.error)
                for item in [*detail.get("missing_items", []), *detail.get("diff_attrs", [])]:
                    assert item in told, row["case_id"]
            seen[verdict.error_type] += 1
    assert sum(seen.values()) == 148
    assert len(seen) == 5  # right, and wrong in each of the four ways


@pytest.mark.slow
@pytest.mark.usefixtures("mpmath")
def test_every_answer_is_right_and_both_versions_live_together() -> None:
    with Sandbox(folder("3")) as older, Sandbox(folder("4")) as newer:
        assert (older.source.version, newer.source.version) == ("v3", "v4")
        for category, count in NEEDS.items():
            sides = [multi_turn.entries(apis.source, category) for apis in (older, newer)]
            assert [len(side) for side in sides] == [count, count]
            for rows in zip(*sides, strict=True):
                for row, apis in zip(rows, (older, newer), strict=True):
                    answer = [[turn] for turn in row["ground_truth"]]
                    assert check(answer, row, apis).valid, (apis.source.version, row["id"])
                    # Its documents, and the functions that it withholds, are there.
                    assert multi_turn.start(row, apis).ended is None


@pytest.mark.slow
@pytest.mark.usefixtures("mpmath")
def test_an_entry_that_cannot_be_won() -> None:
    source = classes.find(folder("3"))
    rows = [row for name in NEEDS for row in multi_turn.entries(source, name)]
    uneven = [row["id"] for row in rows if len(row["question"]) != len(row["ground_truth"])]
    assert uneven == ["multi_turn_base_154"]


@pytest.mark.slow
def test_only_mathematics_needs_mpmath(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = classes.find(folder("3"))
    (tmp_path / "mpmath.py").write_text("raise ModuleNotFoundError(name='mpmath')")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = multi_turn.entries(source, "multi_turn_base")
    needs = [row for row in rows if "MathAPI" in row["involved_classes"]]
    others = [row for row in rows if "MathAPI" not in row["involved_classes"]]
    with Sandbox(source.root) as apis:
        with pytest.raises(ValueError, match="needs mpmath, which is not installed: pip install m"):
            apis.run(needs[0], [])
        assert apis.run(others[0], []).results == []
