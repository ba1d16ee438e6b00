"""Dialogues beside the official loop: the same scripted texts, the same messages and verdicts.

STAR_JAX_BFCL3 and STAR_JAX_BFCL4 name folders made by `pip install --no-deps --target FOLDER
bfcl-eval==2025.8.6.2` and `==2026.3.23`; without them these tests skip.
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

from star_jax.evals.bfcl import multi_turn
from star_jax.evals.bfcl.multi_turn import classes

HERE = Path(__file__).parent


@pytest.fixture(params=["3", "4"])
def source(request: pytest.FixtureRequest) -> classes.Source:
    variable = f"STAR_JAX_BFCL{request.param}"
    if variable not in os.environ:
        pytest.skip(f"{variable} names no folder with bfcl_eval (docs/evals-multi-turn.md)")
    if importlib.util.find_spec("mpmath") is None:
        pytest.skip("mpmath is not installed, which one of the classes needs")
    found = classes.find(os.environ[variable])
    assert found.version == f"v{request.param}"
    return found


def written(call: str, documents: dict[str, list[str]], as_text: bool = False) -> str:
    """A call of an answer as a model writes it."""
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    name = ast.unparse(node.func)
    arguments: dict[str, Any] = dict(
        zip(documents[name], (ast.literal_eval(one) for one in node.args), strict=False)
    )
    arguments |= {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
    inside: Any = json.dumps(arguments) if as_text else arguments
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': inside})}\n</tool_call>"


THOUGHT = (
    '<think>\nPerhaps <tool_call>\n{"name": "ls", "arguments": {}}\n</tool_call>?\n</think>\n\n'
)
ODD = (
    '<tool_call>\n{"name": "cd", "arguments": {"folder": \n</tool_call>',
    '<tool_call>\n{"name": "cd"}\n</tool_call>',
    '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": null, "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": ["ls"], "arguments": {}}\n</tool_call>',
    '<tool_call>\n{"name": "ls", "arguments": null}\n</tool_call>',
    '<tool_call>\n{"name": "ls", "arguments": "{"}\n</tool_call>',
    '<tool_call>\n{"name": "ls", "arguments": "null"}\n</tool_call>',
    '<tool_call>\n{"name": "ls", "arguments": []}\n</tool_call>',
    "<tool_call>\n[]\n</tool_call>",
    '<tool_call>\n"ls()"\n</tool_call>',
    "<tool_call>\nnull\n</tool_call>",
    "<tool_call>\n7\n</tool_call>",
    '<tool_call>\n{"function": {"name": "ls", "arguments": {}}}\n</tool_call>',
    '<tool_call>\n{"function": 1, "name": "ls", "arguments": {}}\n</tool_call>',
    "<tool_call>\n</tool_call>",
    "<tool_call>\n\n</tool_call>",
    '<tool_call>{"name": "ls", "arguments": {}}</tool_call>',
    '<tool_call>\n<tool_call>\n{"name": "ls", "arguments": {}}\n</tool_call>\n</tool_call>',
    '<tool_call>\n{"name": "ls", "arguments": {}, "id": 1}\n</tool_call>',
    "I cannot do that.",
    "",
    "a</think>b</think>\n\nc",
    "<think>\nnever closed",
)
# Performed, and answered by an error or a result; the words of the error are compared as well.
CALLS = (
    ("no_such_function", {}),
    ("GorillaFileSystem.ls", {}),
    (" ls ", {}),
    ("remove", {}),
    ("os.remove", {"path": "a"}),
    ("run", {}),
    ("_load_scenario", {"scenario": {}}),
    ("ls", {"b": True}),
    ("ls", {"self": 1}),
    ("cat", {"file_name": 5}),
    ("cat", {"file_name": "ünï'\"\\\n.txt"}),
    ("cat", {"file_name": ["a", {"b": None}]}),
    ("mean", {"numbers": [float("nan"), 1]}),
    ("mean", {"numbers": [1, float("-inf")]}),
    ("echo", {"content": "x" * 1000}),
    ("logarithm", {"value": 10, "base": 2, "precision": 5}),
    ("power", {"base": 10, "exponent": 5000}),
    ("get_stock_info", {"symbol": "AAPL"}),
)


def script(
    kind: str, entry: dict[str, Any], documents: dict[str, list[str]], draw: random.Random
) -> list[str]:
    """What a model writes in a dialogue."""
    texts = []
    for turn in entry["ground_truth"]:
        calls = [written(call, documents, as_text=kind == "text arguments") for call in turn]
        match kind:
            case "answer" | "text arguments":
                texts += ["\n".join(calls)] * bool(calls) + ["Done."]
            case "step by step":
                texts += [THOUGHT * draw.randint(0, 1) + f"So:\n{call}" for call in calls] + ["Ok"]
            case "odd":
                texts += [draw.choice([*calls, *ODD]) for _ in range(draw.randint(0, 3))] + ["Ok"]
            case "errors":
                name, arguments = draw.choice(CALLS)
                odd = json.dumps({"name": name, "arguments": arguments})
                texts += ["\n".join([f"<tool_call>\n{odd}\n</tool_call>", *calls]), "Done."]
            case "endless":
                at_end = draw.randint(0, 1) and turn is not entry["ground_truth"][-1]
                texts += ["\n".join(calls), "Ok"] if at_end else (calls[:1] or ["Ok"]) * 25
    return texts


KINDS = ("answer", "text arguments", "step by step", "odd", "odd", "odd", "errors", "endless")


@pytest.mark.slow
def test_dialogues_are_the_official_ones(source: classes.Source) -> None:
    cases = []
    for category in multi_turn.CATEGORIES:
        for index, entry in enumerate(multi_turn.entries(source, category)):
            if index % 10 == 0:
                documents = {
                    document["name"]: list(document["parameters"]["properties"])
                    for involved in entry["involved_classes"]
                    for document in multi_turn.documents(source, involved)
                }
                kind = KINDS[(index // 10) % len(KINDS)]
                texts = script(kind, entry, documents, random.Random(f"{category}{index}"))
                cases.append({**entry, "texts": texts, "version": source.version})
    done = subprocess.run(
        [sys.executable, str(HERE / "official_dialogue.py"), str(source.root.parent)],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    endings = set()
    with multi_turn.Sandbox(source.root) as apis:
        for case, theirs in zip(cases, json.loads(done.stdout), strict=True):
            ending = compared(case, theirs, apis)
            endings.add(ending)
    # Else the scripts would not reach what is compared.
    assert {
        ("finished", None),
        ("finished", "multi_turn:instance_state_mismatch"),
        ("finished", "multi_turn:empty_turn_model_response"),
        ("forced", "multi_turn:force_terminated"),
        ("inference_error", "multi_turn:inference_error"),
    } <= endings


def compared(
    case: dict[str, Any], theirs: dict[str, Any], apis: multi_turn.Sandbox
) -> tuple[str | None, str | None]:
    dialogue = multi_turn.start(case, apis)
    texts = iter(case["texts"])
    asked = []
    while dialogue.ended is None:
        asked.append({"messages": list(dialogue.messages), "tools": list(dialogue.tools)})
        dialogue = multi_turn.advance(dialogue, next(texts, "I am done."))
    # Through JSON, as theirs came.
    assert json.loads(json.dumps(asked)) == theirs["asked"], case["id"]
    verdict = multi_turn.verdict(dialogue)
    if "raised" in theirs:
        assert dialogue.ended == "inference_error", (case["id"], theirs["raised"])
        assert not verdict.valid
    else:
        assert dialogue.ended in ("finished", "forced"), case["id"]
        assert len(dialogue.decoded) == theirs["turns"]
        assert verdict.error_type == theirs["error_type"], (case["id"], verdict)
        assert verdict.valid == (theirs["error_type"] is None)
    return dialogue.ended, verdict.error_type
