"""BFCL's own scoring and leaderboard over result files of ours, in a process of its own.

    python tests/official_scores.py FOLDER OUTPUT MODEL       tables on stdout, as JSON

FOLDER holds `bfcl_eval`, OUTPUT the folder `result/MODEL`; its scores go to OUTPUT/official.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from official_dialogue import Finder


def main() -> None:
    package, output, model = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    os.environ["BFCL_PROJECT_ROOT"] = tempfile.mkdtemp()
    sys.path.insert(0, package)
    sys.meta_path.insert(0, Finder())
    import bfcl_eval.constants.model_config as models

    known: dict[str, Any] = {}
    models.MODEL_CONFIG_MAPPING = known
    from bfcl_eval.eval_checker import eval_runner, eval_runner_helper
    from bfcl_eval.model_handler.local_inference.qwen_fc import QwenFCHandler

    class Handler(QwenFCHandler):
        def __init__(self, *names: str, **settings: float) -> None:
            """Nothing to ask: what was said is there."""

    known[model] = SimpleNamespace(
        model_handler=Handler,
        is_fc_model=True,
        underscore_to_dot=False,
        display_name=model,
        url="",
        org="",
        license="",
        input_price=None,
        output_price=None,
    )
    official = output / "official"
    official.mkdir()
    with contextlib.redirect_stdout(sys.stderr):
        eval_runner.tqdm = lambda items, **about: items
        categories = [
            path.name.removeprefix("BFCL_v3_").removesuffix("_result.json")
            for path in (output / "result" / model).iterdir()
        ]
        eval_runner.runner([model], categories, output / "result", official)
        ours = output / "ours"  # the leaderboard from our score files, without scoring
        ours.mkdir()
        table: dict[str, Any] = {}
        eval_runner_helper.update_leaderboard_table_with_local_score_file(table, output / "score")
        eval_runner_helper.generate_leaderboard_csv(table, ours)
    json.dump([tables(official), tables(ours)], sys.stdout)


def tables(folder: Path) -> dict[str, dict[str, str]]:
    found = {}
    for path in folder.glob("data_*.csv"):
        with path.open() as file:
            head, row = list(csv.reader(file))
        found[path.stem] = dict(zip(head, row, strict=True))
    return found


if __name__ == "__main__":
    main()
