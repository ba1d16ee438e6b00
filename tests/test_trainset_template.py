"""A model's own template that fails costs the row it fails on, and names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from star_jax import chat
from star_jax.data.__main__ import main

GOOD = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "<think>\n\n</think>\n\na"},
]


@pytest.mark.parametrize("template", ["{{ messages[0].content + 1 }}", "{{ 1 // 0 }}"])
def test_a_template_that_fails(
    tmp_path: Path, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "a", "messages": GOOD}) + "\n")
    out = tmp_path / "out.jsonl"
    assert main(["trainset", str(rows), str(out), "--model", str(tmp_path / "model")]) == 2
    assert "rows.jsonl:1: messages: cannot be written (the chat template refuses" in (
        capsys.readouterr().err
    )
    assert not out.exists()


def test_half_a_pair_in_text_arguments_costs_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"name": "f", "arguments": '{"a": "\\ud800"}'}
    bad = [GOOD[0], {"role": "assistant", "tool_calls": [call]}]
    rows = tmp_path / "rows.jsonl"
    lines = [{"id": "a", "messages": bad}, {"id": "b", "messages": GOOD}]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out.jsonl"
    assert main(["trainset", str(rows), str(out), "--skip-bad", "1"]) == 0
    assert "rows.jsonl:1: messages: cannot be written" in capsys.readouterr().err
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["b"]


def test_a_row_without_tools_has_none() -> None:
    template = "{% if tools is not none %}TOOLS{% endif %}"
    assert chat.render_with(template, GOOD, ()) == ""
    assert chat.render_with(template, GOOD, [{"name": "f"}]) == "TOOLS"
