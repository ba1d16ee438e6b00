"""`rewards explain`, `replay` and `compare` on stored completions."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from star_jax.rewards.cli import main
from star_jax.rewards.explain import explain

PAGE = Path(__file__).parents[1] / "docs/rewards.md"
TOOL: dict[str, Any] = {
    "name": "f",
    "parameters": {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}},
}


def spelled(name: Any, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def row(number: str, answer: str, gold: str) -> dict[str, Any]:
    generation, label = f"<think></think>{answer}", f"</think>{gold}"
    return {"id": number, "generation": generation, "label": label, "tools": [TOOL], "length": 7}


ROWS = [
    row("calls", spelled("f", {"a": "5", "c": 1}) + spelled("f", {"a": 2}), spelled("f", {"a": 2})),
    row("other", spelled("f", {"a": 1}), spelled("f", {"a": 1, "b": True})),
    row("reply", "你好<|im_end|>", "您好<|im_end|>"),
    row("broken", "<tool_call>{", "hello"),
    row("number", spelled("f", {"a": "5"}), spelled("f", {"a": 5})),
]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    return str(path)


def test_explain_shows_the_matrix_and_every_argument(file: str, capsys: Any) -> None:
    assert main(["explain", file, "--row", "calls"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "total 0.000000   format 1   answer 0.000000",
        "2 calls, 1 in the label, 1 paired: similarity 0.0000 / 2",
        "",
        "similarity of predicted calls p and the label's g (* paired, – another name)",
        "             g1",
        "    p1  0.0000*   f",
        "    p2  1.0000    f",
        "    g1 is f",
        "",
        "p1 for g1 f: 0.0000",
        '  0.0000  a: "5" for 2',
        "  0.0000  c: 1, which the label lacks",
    ]
    assert main(["explain", file, "--row", "calls", "--matching", "optimal"]) == 0
    assert "    p2  1.0000*   f" in capsys.readouterr().out.splitlines()
    assert main(["explain", file, "--row", "other", "--compat", "star"]) == 0
    assert "  0.0000  b: missing, the label has true" in capsys.readouterr().out.splitlines()


def test_explain_compares_calls_of_one_name_only() -> None:
    tools = [TOOL, {**TOOL, "name": "g"}]
    generation = "<think></think>" + spelled("f", {"a": 1}) + spelled("g", {"a": 1})
    label = "</think>" + spelled("g", {"a": 1}) + spelled("f", {"a": 2})
    modes: tuple[Any, ...] = (None, "star")
    for compat in modes:
        taken = explain(generation, label, tools, compat)
        assert taken.matrix == ((None, 0.0), (1.0, None))
        assert [(pair.predicted, pair.gold) for pair, _ in taken.pairs] == [(0, 1), (1, 0)]


def test_explain_shows_the_words_of_a_reply(file: str, capsys: Any) -> None:
    assert main(["explain", file, "--row", "reply"]) == 0
    assert "words of the label (2): 您 好" in capsys.readouterr().out
    assert main(["explain", file, "--row", "reply", "--compat", "star"]) == 0
    assert "words of the label (2): im end" in capsys.readouterr().out


def test_explain_says_what_is_malformed(file: str, capsys: Any) -> None:
    assert main(["explain", file, "--row", "broken"]) == 0
    assert "never closed" in capsys.readouterr().out


@pytest.mark.parametrize("compat", [None, "star"])
def test_the_arguments_add_up_to_the_score(shared: Path, compat: Any) -> None:
    lines = (shared / "golden/rewards.jsonl").read_text().strip().split("\n")
    for line in lines[:300]:
        stored = json.loads(line)
        taken = explain(stored["generation"], stored["label"], stored["tools"], compat)
        if taken.reward.kind != "calls":
            continue
        total = 0.0
        for pair, arguments in taken.pairs:
            parts = sum(argument.score for argument in arguments)
            similarity = parts / len(arguments) if arguments else 1.0
            assert similarity == pytest.approx(pair.similarity)
            assert taken.matrix[pair.predicted][pair.gold] == pair.similarity
            total += similarity
        union = len(taken.predicted) + len(taken.gold) - len(taken.pairs)
        assert total / union == pytest.approx(taken.reward.total)


def test_replay_scores_a_file_and_writes_a_row_each(file: str, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "scores.jsonl"
    assert main(["replay", file, "--reward", "simrl", "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "star_jax.rewards.simrl: 5 scored, 0 skipped, 0 failed"
    assert "       1  unclosed_call" in said
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["id"] for record in written] == [row["id"] for row in ROWS]
    assert [record["total"] for record in written] == [0.0, 0.5, 0.5, -1.0, 0.0]
    assert all(record["why"] for record in written)
    before = out.read_bytes()
    assert main(["replay", file, "--reward", "valid", "--out", str(out)]) == 2
    assert "already there; choose another name" in capsys.readouterr().err
    assert out.read_bytes() == before
    star = tmp_path / "star.jsonl"
    options = ["--option", "compat=star", "--workers", "1", "--timeout", "20", "--out", str(star)]
    assert main(["replay", file, "--reward", "star_jax.rewards.simrl", *options]) == 0
    written = [json.loads(line) for line in star.read_text().splitlines()]
    assert [record["total"] for record in written] == [0.0, 0.5, 1.0, 0.0, 1.0]


def test_replay_takes_options_and_fields(file: str, capsys: Any) -> None:
    options = ["--option", "limit=8", "--option", "buffer=2", "--take", "length"]
    assert main(["replay", file, "--reward", "soft_overlong", *options]) == 0
    assert "mean -0.500000" in capsys.readouterr().out


def test_replay_counts_failures_with_their_reasons(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "rows.jsonl.gz"
    bad = {**ROWS[3], "label": "no end", "tools": None}
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in (*ROWS, bad))
    out = tmp_path / "out.jsonl"
    assert main(["replay", str(path), "--reward", "simrl", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "5 scored, 0 skipped, 1 failed" in said
    assert "1  failed: ValueError: label has 0 </think>" in said
    assert json.loads(out.read_text().splitlines()[-1])["total"] is None


def test_compare_says_how_many_and_why(file: str, capsys: Any) -> None:
    assert main(["compare", file]) == 0
    said = capsys.readouterr().out
    assert said.startswith("3 of 5 rows score differently.")
    assert "| number against text in an argument | 1 | 1 | 0 | -1.0000 |" in said
    assert "| end-of-turn tokens are no words; words beyond ASCII | 1 | 1 | 0 | -0.5000 |" in said
    assert "the reference says needless_call, the default unclosed_call" in said


def test_the_page_reports_what_compare_prints(shared: Path, capsys: Any) -> None:
    page = PAGE.read_text()
    assert main(["compare", str(shared / "golden/rewards.jsonl")]) == 0
    head, _, *table = capsys.readouterr().out.splitlines()
    count, rows = re.findall(r"\d+", head)
    assert f"Of {int(rows):,} generations" in page
    assert f"{count} score differently by default" in page
    assert "\n".join(table) in page


def test_every_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text())) - {"test_rewards_simrl.py"}
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_rewards_*.py"))
    assert len(named) > 20
    assert {name for name in named if f"def {name}(" not in sources} == set()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "rows.jsonl:1: not JSON"),
        ("[]", "rows.jsonl:1: a list; write one object a line"),
        ('{"id": "x", "label": ""}', "rows.jsonl:1: generation: is missing"),
        ('{"id": 5, "generation": "", "label": ""}', "rows.jsonl:1: id: is 5"),
        ('{"id": "x", "generation": "", "label": "", "tools": {}}', "rows.jsonl:1: tools: is {}"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, capsys: Any, line: str, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    for command in (["explain", str(path), "--row", "x"], ["compare", str(path)]):
        assert main(command) == 2
        assert said in capsys.readouterr().err


def test_what_cannot_be_done_is_said(file: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["explain", file, "--row", "nope"]) == 2
    assert "no row has id 'nope'" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "none.jsonl"), "--row", "x"]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    assert main(["replay", file, "--reward", "nothing"]) == 2
    assert "star_jax.rewards.nothing" in capsys.readouterr().err
    assert main(["replay", file, "--reward", "simrl", "--option", "compat"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
