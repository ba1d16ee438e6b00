"""What README.md tells people to type, typed, in a folder that holds what it names."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

ROW = {
    "id": "0",
    "messages": [
        {"role": "user", "content": "How warm is Bern?"},
        {
            "role": "assistant",
            "tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}],
        },
    ],
    "tools": [
        {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        }
    ],
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
REPLY = {
    "id": "0",
    "generation": f"<think>\nI need the weather.\n</think>\n\n{CALL}<|im_end|>",
    "label": f"</think>\n\n{CALL}<|im_end|>",
    "tools": ROW["tools"],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


COMMANDS = [
    line.split("#")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("python -m")
]


# The example of docs/curriculum.md, cut to what the folder holds.
CURRICULUM = """
models: {student: Qwen3-0.6B, teacher: Qwen3-8B}
files: {prompts: rows.jsonl}
stages:
  - {name: answers, run: teacher, model: "{teacher}", data: {train: "{prompts}"}}
  - {name: sft, run: sft, model: "{student}", data: {train: "{answers}/train.jsonl"}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = {"vocab_size": 20000, "max_position_embeddings": 40960}
    tiny.write(tmp_path / "Qwen3-0.6B", torch_dtype="bfloat16", **sizes)
    tiny.tokenizer(tmp_path / "Qwen3-0.6B")
    shutil.copytree(tmp_path / "Qwen3-0.6B", tmp_path / "Qwen3-8B")
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "replies.jsonl").write_text(json.dumps(REPLY) + "\n")
    (tmp_path / "my.yaml").write_text(CURRICULUM)
    (tmp_path / "tools.json").write_text(json.dumps(ROW["tools"]))
    return tmp_path


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) >= 5
    assert all(line.startswith("python -m star_jax") for line in COMMANDS)


def serve(arguments: list[str], folder: Path) -> None:
    """Until it says where it answers; then it is told to stop."""
    process = subprocess.Popen(
        [*arguments, "--port", "0"], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert any("answers at" in line for line in iter(process.stderr.readline, ""))
    process.terminate()
    assert process.wait(300) == 0
    process.stderr.close()


@pytest.mark.slow
def test_the_commands_run_one_after_the_other(folder: Path) -> None:
    for command in COMMANDS:
        arguments = [sys.executable, *shlex.split(command)[1:]]
        if " serve " in command:
            serve(arguments, folder)
            continue
        done = subprocess.run(
            arguments,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout.strip() or done.stderr.strip(), command
        if command.endswith("star_jax.train"):
            # The model has learnt its sentence, and says the same after export and load.
            learnt = """it says: ' {"name": "weather", "arguments": {"city": "Oslo"}}'"""
            assert learnt in done.stdout
            assert "loaded again: the same words" in done.stdout
    assert (folder / "runs/ckd/model/model.safetensors").is_file()
    assert (folder / "tuned/model.safetensors").is_file()


@pytest.mark.parametrize("code", blocks("python"))
def test_code(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "my-model" / "model.safetensors").is_file()


def test_links_lead_somewhere() -> None:
    for path in re.findall(r"`((?:docs|benchmarks|tpu)/[\w./-]*|[A-Z]+\.md)`", README):
        assert (ROOT / path).exists(), path
