"""The commands on files: conversations become inputs and targets, or say why they cannot."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from star_jax import chat
from star_jax.data import template, trainset
from star_jax.data.__main__ import main
from star_jax.data.read import Bad, Pair, read, scan

TOOL = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}
QUESTION = {"role": "user", "content": "Zürich?"}
CALLS = {
    "role": "assistant",
    "reasoning_content": "\nLook it up.\n",
    "tool_calls": [{"function": {"name": "weather", "arguments": '{"city":"Zürich"}'}}],
}
ROW = {"id": 1, "messages": [QUESTION, CALLS], "tools": [TOOL]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*rows: Any, name: str = "in.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def convert(write: Write, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def convert(*rows: Any, options: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        output = tmp_path / "out.jsonl"
        assert main(["trainset", str(write(*rows)), str(output), "--force", *options]) == 0
        return [json.loads(line) for line in output.read_text().splitlines()]

    return convert


Convert = Callable[..., list[dict[str, Any]]]


# --- Native spacing -------------------------------------------------------------------------------


def test_native_targets_are_what_the_model_should_write(convert: Convert) -> None:
    (example,) = convert(ROW)
    assert list(example) == ["id", "inputs", "targets", "tools"]
    assert example["id"] == 1
    assert example["tools"] == [TOOL]
    assert example["inputs"] == chat.render([QUESTION], [TOOL], add_generation_prompt=True)
    assert example["targets"] == f"<think>\nLook it up.\n</think>\n\n{CALL}<|im_end|>"


def test_native_targets_without_reasoning(convert: Convert) -> None:
    empty = "<think>\n\n</think>\n\n"
    drop = ("--reasoning", "drop")
    (example,) = convert(ROW, options=drop)
    assert example["targets"] == f"{empty}{CALL}<|im_end|>"
    reply = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\n12 °C"}
    (kept,), (dropped,) = (
        convert(ROW | {"messages": [QUESTION, reply]}, options=options) for options in ((), drop)
    )
    assert kept["targets"] == "<think>\nHm.\n</think>\n\n12 °C<|im_end|>"
    assert dropped["targets"] == f"{empty}12 °C<|im_end|>"


def test_a_trainset_is_read_back_with_its_tools(convert: Convert, tmp_path: Path) -> None:
    (example,) = convert(ROW)
    (pair,) = read(tmp_path / "out.jsonl")
    assert pair == Pair(1, example["inputs"], example["targets"], (TOOL,), 1)


def test_recorded_rows_have_one_end_and_read_back(shared: Path) -> None:
    path = shared / "golden/xlam_messages.jsonl"
    count = 0
    for row in read(path):
        example = trainset.native(row, chat.render)
        assert example["targets"].count("<|im_end|>") == 1
        assert example["targets"].endswith("<|im_end|>")
        said = chat.parse(example["targets"])
        assert said.error is None
        assert said.calls == tuple(map(chat.called, row.messages[-1]["tool_calls"]))
        text = chat.render(row.messages, row.tools)
        assert example["inputs"] + example["targets"] + "\n" == text
        count += 1
    assert count == 512


# --- STAR's spacing -------------------------------------------------------------------------------


def test_star_equals_the_recorded_conversion(shared: Path, tmp_path: Path) -> None:
    golden, output = shared / "golden", tmp_path / "out.jsonl"
    source = str(golden / "xlam_messages.jsonl")
    assert main(["trainset", source, str(output), "--compat", "star"]) == 0
    assert output.read_bytes() == (golden / "xlam_trainset.jsonl").read_bytes()


def test_star_targets(convert: Convert) -> None:
    star = ("--compat", "star")
    (example,) = convert(ROW, options=star)
    prompt = chat.render([QUESTION], [TOOL], add_generation_prompt=True)
    # String arguments stand as they are: the reference does not read them.
    call = CALL.replace('": "Z', '":"Z')
    assert example == {
        "id": 1,
        "inputs": prompt + "<think>",
        "targets": f"</think>{call}<|im_end|>\n",
    }
    (example,) = convert(ROW, options=(*star, "--reasoning", "keep"))
    assert example["targets"] == f"\nLook it up.\n</think>{call}<|im_end|>\n"
    reply = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\n12 °C"}
    (example,) = convert(ROW | {"messages": [QUESTION, reply]}, options=star)
    assert example["targets"] == "</think>12 °C<|im_end|>\n"
    reply["reasoning_content"] = "Ha."  # the template leaves the content alone then
    (example,) = convert(ROW | {"messages": [QUESTION, reply]}, options=star)
    assert example["targets"] == "\nHm.\n</think>\n\n12 °C<|im_end|>\n"
    cut = {"role": "assistant", "content": "<think>Hm"}
    (example,) = convert(ROW | {"messages": [QUESTION, cut]}, options=star)
    assert example["targets"] == "</think>Hm<|im_end|>\n"


# --- Rows that cannot be converted ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        (
            [QUESTION],
            "messages[0].role: is user, so there is nothing to learn: end with the ass",
        ),
        ([CALLS], "messages: are an answer to nothing: put the question before it"),
        (
            [QUESTION, {"role": "assistant", "content": ""}],
            "messages[1]: says nothing: give it",
        ),
        (
            [QUESTION, {"role": "assistant", "content": "One."}, CALLS],
            "messages[2]: changes how the messages before it are rendered: join assistant messages",
        ),
        (
            [{"role": "system", "content": "Hi"}, CALLS],
            "messages[1]: would not be read back as it is meant (There is no <think>...</think>",
        ),
        (
            [QUESTION, {"role": "assistant", "content": "Bye<|im_end|>"}],
            "messages[1]: does not end in its one <|im_end|>: leave <|im_end|> out of it",
        ),
        (
            [QUESTION, {"role": "assistant", "content": "See <tool_call>."}],
            "messages[1]: would not be read back as it is meant (The <tool_call> at line 5",
        ),
    ],
)
def test_rows_without_a_target_are_named(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], messages: Any, fault: str
) -> None:
    path, output = write(ROW, {"messages": messages}), tmp_path / "out.jsonl"
    assert main(["trainset", str(path), str(output)]) == 2
    assert not output.exists()
    shown = capsys.readouterr()
    assert shown.err.startswith(f"star_jax.data: {path}:2: {fault}")
    assert "1 bad row, 0 allowed" in shown.err
    assert main(["trainset", str(path), str(output), "--skip-bad", "1"]) == 0
    shown = capsys.readouterr()
    assert shown.err.startswith(f"{path}:2: {fault}")
    assert shown.out == f"{output}: 1 rows written, 1 bad rows left out\n"
    assert len(output.read_text().splitlines()) == 1


def test_rendered_rows_are_not_converted_again(write: Write) -> None:
    path = write({"inputs": "in", "targets": "out"}, 3)
    items = trainset.convert(scan(path), path, lambda row: {"id": row.id})
    assert [str(item) for item in items if isinstance(item, Bad)] == [
        f"{path}:1: inputs: is rendered already: give rows of messages and tools",
        f"{path}:2: row: is no object: give one JSON object per line",
    ]


# --- Files ----------------------------------------------------------------------------------------


def test_a_file_is_replaced_only_when_told(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, output = write(ROW), write("kept", name="out.jsonl")
    assert main(["trainset", str(path), str(output)]) == 2
    message = f"star_jax.data: {output}: exists already: choose another name, or pass --force\n"
    assert capsys.readouterr().err == message
    assert output.read_text() == '"kept"\n'
    assert main(["trainset", str(path), str(output), "--force"]) == 0
    assert "Zürich" in output.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_run_that_fails_leaves_the_old_file(write: Write, tmp_path: Path) -> None:
    path, output = write(ROW, 3), write("kept", name="out.jsonl")
    assert main(["trainset", str(path), str(output), "--force"]) == 2
    assert output.read_text() == '"kept"\n'
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_gzip_is_written_the_same_every_time(write: Write, tmp_path: Path) -> None:
    path = write(ROW)
    for name in ("a.jsonl.gz", "b.jsonl.gz", "plain.jsonl"):
        assert main(["trainset", str(path), str(tmp_path / name)]) == 0
    packed = (tmp_path / "a.jsonl.gz").read_bytes()
    assert packed == (tmp_path / "b.jsonl.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # no time
    assert gzip.decompress(packed) == (tmp_path / "plain.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("no.jsonl", "out.jsonl", "no.jsonl: there is no such file: check the path"),
        ("in.jsonl", "out.parquet", "rows are written as JSON lines: name it .jsonl or .jsonl.gz"),
        ("in.jsonl", "no/out.jsonl", "no: there is no such folder: make it first"),
        ("empty.jsonl", "out.jsonl", "there is no row to write: check the input"),
    ],
)
def test_requests_that_cannot_be_met(
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    target: str,
    error: str,
) -> None:
    write(ROW)
    write(name="empty.jsonl")
    assert main(["trainset", str(tmp_path / source), str(tmp_path / target)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("star_jax.data: ")
    assert error in shown
    assert shown.count("\n") == 1


# --- What is in a file ----------------------------------------------------------------------------


def test_read_counts_and_names_problems(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(ROW, ROW, {"inputs": "in", "targets": "out"}, 3)
    assert main(["read", str(path)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{path}:2: id: is 1 again, as on line 1: give every row its own, or remove one",
        f"{path}:4: row: is no object: give one JSON object per line",
        f"{path}: 1 conversations, 1 pairs, 1 with tools, 2 bad",
    ]
    assert main(["read", str(path), "--skip-bad", "2"]) == 0
    assert main(["read", str(path), "--skip-bad", "1"]) == 1


def test_the_command_line(write: Write) -> None:
    command = [sys.executable, "-m", "star_jax.data"]
    done = subprocess.run(
        [*command, "read", str(write(ROW))], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 conversations, 0 pairs, 1 with tools, 0 bad\n")
    path = str(write(ROW))
    for wrong in ([], ["reed", path], ["read", path, "--skip-bad", "-1"]):
        done = subprocess.run([*command, *wrong], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_output_that_nobody_reads_is_no_error(write: Write) -> None:
    path = write(*[ROW] * 3_000)
    command = f"{sys.executable} -m star_jax.data read {path} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_rewards_are_commands_of_data(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    label = f"</think>{CALL}"
    path = write({"id": "r", "generation": f"<think>{label}", "label": label, "tools": [TOOL]})
    assert main(["rewards", "explain", str(path), "--row", "r"]) == 0
    assert "weather" in capsys.readouterr().out
    assert main(["rewards", "explain", str(path), "--row", "s"]) == 2


# --- The template of a model folder ---------------------------------------------------------------


def test_a_folder_without_template_renders_as_qwen3_does(tmp_path: Path) -> None:
    assert template.load(tmp_path) is chat.render
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": null}')
    assert template.load(tmp_path) is chat.render


def test_a_folder_renders_with_its_own_template(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "chat_template": "{{ bos_token }}config"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert template.load(tmp_path)([QUESTION]) == "<s>config"
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}file")
    assert template.load(tmp_path)([QUESTION]) == "<s>file"


def test_the_published_folder_agrees_with_ours(shared: Path) -> None:
    render = template.load(shared / "qwen3-tokenizer")
    assert render is not chat.render
    for row in read(shared / "golden/xlam_messages.jsonl"):
        assert trainset.native(row, render) == trainset.native(row, chat.render)
        assert trainset.star(row, render) == trainset.star(row, chat.render)


def test_trainset_uses_the_model_folder(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    command = ["trainset", str(write(ROW)), str(tmp_path / "out.jsonl"), "--model", str(tmp_path)]
    assert main(command) == 2
    assert "use Qwen3's template" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ("{", "tokenizer_config.json: is not JSON"),
        ("[]", "tokenizer_config.json: is no object"),
        ('{"chat_template": [{"name": "default"}]}', "chat_template: is a list, not one template"),
    ],
)
def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path, config: str, error: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ValueError, match=error):
        template.load(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        template.load(tmp_path / "none")


# --- The page that users read ---------------------------------------------------------------------


def test_the_page_shows_what_the_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[1] / "docs/data.md").read_text()
    monkeypatch.chdir(tmp_path)
    (rows,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    Path("weather.jsonl").write_text(rows)
    # The doctor's own test shows the doctor's.
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    shown = "".join(block for block in blocks if "star_jax.data doctor" not in block)
    commands = re.split(r"^\$ python -m star_jax.data (.*\n)", shown, flags=re.MULTILINE)[1:]
    assert len(commands) == 8
    for command, output in zip(commands[::2], commands[1::2], strict=True):
        main(command.split())
        printed = capsys.readouterr()
        assert printed.err + printed.out == output
