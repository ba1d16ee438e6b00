"""Our result and score files, read and scored again by BFCL's own scripts: the same leaderboard.

STAR_JAX_BFCL3 names a folder made by `pip install --no-deps --target FOLDER
bfcl-eval==2025.8.6.2`; without it this skips.
"""

from __future__ import annotations

import ast
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
from star_jax.evals.bfcl import data, multi_turn
from star_jax.evals.running import benchmark, bfcl
from star_jax.evals.running.asking import name_of
from star_jax.evals.running.prompting import Prompting
from tests.asked import Scripted

CATEGORIES = (
    "java,javascript,irrelevance,parallel,live_parallel,live_parallel_multiple,live_relevance,"
    "multi_turn_base"
)


def call(name: str, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def right(entry: data.Entry) -> str:
    """The first accepted value of every parameter; what may be absent is."""
    calls = []
    for answer in entry.possible_answer or ():
        ((name, parameters),) = answer.items()
        given = first(parameters)
        calls.append(call(name, given))
    return "\n".join(calls) or "No."


def first(parameters: dict[str, list[Any]]) -> dict[str, Any]:
    return {key: value(values[0]) for key, values in parameters.items() if "" not in values}


def value(accepted: Any) -> Any:
    """Objects have lists of accepted values again."""
    if isinstance(accepted, list):
        return [value(item) for item in accepted]
    return first(accepted) if isinstance(accepted, dict) else accepted


def performed(turn: list[str], names: dict[str, list[str]]) -> str:
    """A turn's calls as a model writes them. `names`: of every function's parameters, in order."""
    calls = []
    for text in turn:
        node = ast.parse(text, mode="eval").body
        assert isinstance(node, ast.Call)
        name = ast.unparse(node.func)
        given = dict(zip(names[name], map(ast.literal_eval, node.args), strict=False))
        given |= {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
        calls.append(call(name, given))
    return "\n".join(calls)


def parameters(exam: bfcl.Exam, item: bfcl.Item) -> dict[str, list[str]]:
    assert exam.apis is not None
    return {
        document["name"]: list(document["parameters"]["properties"])
        for name in item.raw["involved_classes"]
        for document in multi_turn.documents(exam.apis.source, name)
    }


def script(exam: bfcl.Exam, rng: random.Random) -> dict[bytes, str]:
    """By the name of the question: right and wrong answers, thoughts, and calls that are none."""
    said = {}
    for item in exam.items:
        odd = rng.random()
        if item.entry is not None:
            text = right(item.entry) if odd < 0.7 else call("f", {"x": 1}) if odd < 0.9 else "No."
            thought = "<think>\nHm.\n</think>\n\n" if rng.random() < 0.5 else ""
            said[name_of("bfcl", item.id, 0)] = thought + text
            continue
        step, names = 0, parameters(exam, item)
        for turn in item.raw["ground_truth"]:
            text = performed(turn, names)
            if text and not (odd > 0.6 and rng.random() < 0.4):
                said[name_of("bfcl", item.id, step)] = text
                step += 1
            said[name_of("bfcl", item.id, step)] = "Done."
            step += 1
    return said


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
