"""docs/serving.md: its code runs, its commands are understood, and it names what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from star_jax.sampler import __main__ as command
from star_jax.sampler.server import fields
from tests import speaking
from tests.served import serving

TEXT = (Path(__file__).parents[1] / "docs/serving.md").read_text()
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks("python")
    loaded = speaking.loaded(tmp_path)
    with serving(loaded) as made:
        made.speaker.script = speaking.says(loaded.tokenizer, CALL)
        here = code.replace("http://127.0.0.1:8000/v1", made.url)
        assert here != code
        scope: dict[str, object] = {}
        exec(compile(here, "serving.md", "exec"), scope)
        scope["client"].close()
        (error,) = blocks("json")
        assert made.chat(temperature="hot").data.decode() == error.strip()
        metrics = made.request("GET", "/metrics").data.decode()
    shown = capsys.readouterr().out
    assert shown.startswith("tool_calls [ChatCompletionMessageFunctionToolCall(id=")
    assert shown.count("<tool_call>\\n") == 4, shown
    for name in re.findall(r"^# TYPE star_jax_(\w+)", metrics, re.MULTILINE):
        assert f"`{name}`" in TEXT, name


def test_commands() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) == 3
    for line in lines:
        word, flag, module, *arguments = shlex.split(line)
        assert (word, flag, module) == ("python", "-m", "star_jax.sampler")
        command._parser().parse_args(arguments)


def test_fields_and_flags_are_named() -> None:
    for name in [*fields.NEUTRAL, *fields.HARMLESS]:
        assert f"`{name}`" in TEXT, name
    help_text = command._parser()._subparsers._group_actions[0].choices["serve"].format_help()
    for flag in re.findall(r"--[a-z-]+", help_text):
        assert flag == "--help" or flag in TEXT, flag
