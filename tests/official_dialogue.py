"""The official dialogue loop with a scripted model, in a process of its own.

    python tests/official_dialogue.py FOLDER      cases on stdin, transcripts on stdout, as JSON

FOLDER holds `bfcl_eval`. What its handlers import beyond that is replaced by empty stand-ins: the
loop, the handler of local Qwen models and the checker are all that runs.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.abc
import importlib.machinery
import json
import os
import sys
import tempfile
import types
from types import SimpleNamespace
from typing import Any

STAND_INS = {
    "openai",
    "overrides",
    "tenacity",
    "requests",
    "tqdm",
    "dotenv",
    "filelock",
    "pandas",
    "tree_sitter",
    "tree_sitter_java",
    "tree_sitter_javascript",
    "bfcl_eval.constants.model_config",
}


class Anything:
    """Answers every call and attribute with itself; what it decorates stays as it was."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args and callable(args[0]) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: object) -> None:
        return None


class StandIn(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object if name in ("EnforceOverrides",) else Anything()


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name in STAND_INS or name.partition(".")[0] in STAND_INS:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return None


def load_entries(category: str) -> dict[str, dict[str, Any]]:
    """The entries as the official generation makes them, with their documents."""
    from bfcl_eval import utils

    if hasattr(utils, "load_dataset_entry"):  # v4
        return {entry["id"]: entry for entry in utils.load_dataset_entry(category)}
    from bfcl_eval import _llm_response_generation as generation
    from bfcl_eval.constants.eval_config import PROMPT_PATH

    rows = utils.load_file(PROMPT_PATH / f"BFCL_v3_{category}.json")
    return {entry["id"]: entry for entry in generation.process_multi_turn_test_case(rows)}


def run(case: dict[str, Any], entry: dict[str, Any], name: str) -> dict[str, Any]:
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import is_empty_execute_response
    from bfcl_eval.model_handler.local_inference.qwen_fc import QwenFCHandler

    handler = object.__new__(QwenFCHandler)
    handler.model_name = handler.model_name_underline_replaced = name
    handler.is_fc_model = True
    texts = iter(case["texts"])
    asked: list[dict[str, Any]] = []

    def query(data: dict[str, Any]) -> tuple[Any, float]:
        handler._format_prompt(data["message"], data["function"])
        asked.append(copy.deepcopy({"messages": data["message"], "tools": data["function"]}))
        text = next(texts, "I am done.")
        usage = SimpleNamespace(prompt_tokens=0, completion_tokens=0)
        return SimpleNamespace(choices=[SimpleNamespace(text=text)], usage=usage), 0.0

    handler._query_prompting = query
    try:
        result, _ = handler.inference_multi_turn_prompting(copy.deepcopy(entry), False, True)
    except Exception as error:
        return {"asked": asked, "raised": repr(error)}
    options = {} if case["version"] == "v3" else {"has_tool_call_tag": False}
    turns = []
    for turn in result:
        turns.append([])
        for text in turn:
            with contextlib.suppress(Exception):
                calls = handler.decode_execute(text, **options)
                if not is_empty_execute_response(calls):
                    turns[-1].append(calls)
    truth = case["ground_truth"]
    if len(turns) != len(truth):
        return {"asked": asked, "turns": len(turns), "error_type": "multi_turn:force_terminated"}
    category = case["id"].rpartition("_")[0]
    verdict = multi_turn_checker(turns, truth, entry, category, name)
    return {"asked": asked, "turns": len(turns), "error_type": verdict.get("error_type")}


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    sys.dont_write_bytecode = True
    sys.meta_path.insert(0, Finder())
    cases = json.load(sys.stdin)
    # Importing it makes folders where this says.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        os.environ["BFCL_PROJECT_ROOT"] = folder
        entries: dict[str, dict[str, Any]] = {}
        for category in sorted({case["id"].rpartition("_")[0] for case in cases}):
            entries |= load_entries(category)
        answers = [
            run(case, entries[case["id"]], f"scripted{number}") for number, case in enumerate(cases)
        ]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
