"""BFCL against recorded verdicts, decodings, prompts and averages of the official code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from star_jax.evals import bfcl
from star_jax.evals.bfcl import prompt
from star_jax.evals.bfcl.categories import SIZES
from star_jax.evals.bfcl.decode import Call, Version, clean


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_verdict_is_the_official_one(shared: Path) -> None:
    rows = lines(shared / "golden/eval/bfcl_ast_dev.jsonl")
    assert len(rows) > 500
    for row in rows:
        verdict = bfcl.check(
            row["prediction"], row["tools"], row["possible_answer"], row["category"]
        )
        found = verdict.valid, verdict.error_type, list(verdict.sub_error_types), verdict.raises
        expected = (
            row["valid"],
            row["error_type"],
            row.get("sub_error_types", []),
            row.get("raises"),
        )
        assert found == expected, row["case_id"]


def official(calls: list[Call] | bfcl.Failure) -> Any:
    """Calls in the file's form: {name: arguments}, every name a key of JSON."""
    if isinstance(calls, bfcl.Failure):
        return None
    return json.loads(json.dumps([{call["name"]: call["arguments"]} for call in calls]))


TOOL = {
    "name": "f",
    "description": "d",
    "parameters": {
        "type": "dict",
        "properties": {"x": {"type": "integer", "description": "d"}},
        "required": ["x"],
    },
}


def test_every_text_is_decoded_as_officially(shared: Path) -> None:
    rows = lines(shared / "golden/eval/bfcl_decode_cases_v3.jsonl")
    assert len(rows) > 50
    for row in rows:
        text = row["generation"]
        calls, executed = bfcl.decode(text), bfcl.decode_execute(text)
        assert clean(text) == (row["reasoning_content"], row["cleaned"]), row["id"]
        assert official(calls) == row["decode_ast"], row["id"]
        assert getattr(calls, "error", None) == row["decode_ast_error"], row["id"]
        found = None if isinstance(executed, bfcl.Failure) else executed
        assert found == row["decode_execute"], row["id"]
        assert getattr(executed, "error", None) == row["decode_execute_error"], row["id"]
        for category in ("irrelevance", "relevance"):
            verdict = bfcl.check(calls, [], None, f"live_{category}")
            assert verdict.valid == row[f"{category}_valid"], row["id"]
        verdict = bfcl.check(calls, [TOOL], [{"f": {"x": [1]}}], "simple")
        expected = row["simple_valid"], row["simple_error_type"]
        assert (verdict.valid, verdict.error_type) == expected, row["id"]


def test_every_prompt_is_the_official_one(shared: Path) -> None:
    rows = lines(shared / "golden/eval/bfcl_prompt_cases.jsonl")
    assert len(rows) > 20
    for row in rows:
        assert prompt.render(row["messages"], row["tools"]) == row["prompt"], row["id"]


UNCOUNTED = {
    *("Rank", "Model", "Model Link", "Total Cost ($)", "Organization", "License"),
    *("Latency Mean (s)", "Latency Standard Deviation (s)", "Latency 95th Percentile (s)"),
}


def test_every_average_is_the_official_one(shared: Path) -> None:
    cases = json.loads((shared / "golden/eval/bfcl_aggregate_v3.json").read_text())["cases"]
    for case in cases:
        totals = case["counts_total"]
        averages = bfcl.aggregate(
            {name: (correct, totals[name]) for name, correct in case["counts_correct"].items()}
        )
        for table, columns in case["csv"].items():
            expected = {name: text for name, text in columns.items() if name not in UNCOUNTED}
            found = {name: bfcl.percent(value) for name, value in averages.tables[table].items()}
            assert found == expected, table


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_full_marks_are_full_marks(version: Version) -> None:
    averages = bfcl.aggregate({name: (n, n) for name, n in SIZES[version].items()}, version)
    assert averages.overall == pytest.approx(1.0, abs=1e-12)
    assert {bfcl.percent(v) for table in averages.tables.values() for v in table.values()} == {
        "100.00%"
    }
    assert bfcl.aggregate({}, version).overall == 0.0
