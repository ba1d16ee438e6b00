"""Files of the world and its commands: read back without a complaint, whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from star_jax import chat, world
from star_jax.data import encode, read, template
from star_jax.data.__main__ import main as data_main
from star_jax.world import files
from star_jax.world.__main__ import main

NAMES = ("rows.jsonl", "rows.jsonl.gz", "rows.parquet")


def say(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[int, str, str]:
    status = main(list(given))
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", files.FORMATS)
def test_every_form_is_read_back(tmp_path: Path, form: str, name: str) -> None:
    path = tmp_path / name
    rows = list(world.rows("train", 0, 60))
    assert files.write(path, rows, form) == 60
    found = list(read.read(path))
    assert [one.id for one in found] == [row["id"] for row in rows]
    is_text = form in ("text", "pairs", "star")
    assert all(isinstance(one, read.Pair) == is_text for one in found)
    for row, one in zip(rows, found, strict=True):
        text = chat.render(row["messages"], row["tools"])
        if isinstance(one, read.Conversation):
            assert chat.render(one.messages, one.tools) == text
        elif form != "star":
            assert one.inputs + one.targets + "\n" == text
        if form != "star":
            assert list(one.tools or ()) == row["tools"]


def test_a_row_says_what_it_is(tmp_path: Path) -> None:
    for form in files.FORMATS:
        path = tmp_path / f"{form}.jsonl"
        files.write(path, world.rows("seen", 0, 20), form)
        for line, row in zip(path.read_text().splitlines(), world.rows("seen", 0, 20), strict=True):
            assert {name: json.loads(line)[name] for name in files.LABELS} == {
                name: row[name] for name in ("split", "case", "domain")
            }


@pytest.mark.parametrize("form", ["messages", "prompt", "pairs", "star"])
def test_the_doctor_finds_nothing(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "seen"):
        files.write(tmp_path / f"{split}.jsonl", world.rows(split, 0, 150), form)
    assert data_main(["read", str(tmp_path / "train.jsonl")]) == 0
    limits = ["--model", str(world.TOKENIZER), "--max-tokens", "512", "--max-targets", "192"]
    both = [str(tmp_path / "train.jsonl"), "--eval", str(tmp_path / "seen.jsonl")]
    assert data_main(["doctor", *both, *limits]) == 0, capsys.readouterr().out
    assert "150 of 150 examples fit whole" in capsys.readouterr().out


def test_a_run_reads_the_same_ids_from_any_form(tmp_path: Path) -> None:
    tokenizer = encode.Tokenizer(world.TOKENIZER)
    render = template.load(world.TOKENIZER)
    hashes = []
    for form in ("messages", "prompt", "text", "pairs"):
        for name in NAMES:
            path = tmp_path / f"{form}-{name}"
            files.write(path, world.rows("unseen_tools", 0, 40), form)
            made = encode.examples(path, tokenizer, render)
            hashes.append([made.hash(index) for index in range(40)])
    assert all(one == hashes[0] for one in hashes)


@pytest.mark.parametrize("name", NAMES)
def test_equal_requests_give_equal_bytes(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--split", "seen", "--count", "30", "--seed", "4"]
    made = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert main(["write", str(folder / name), *given]) == 0
        made.append((folder / name).read_bytes())
        assert [path.name for path in folder.iterdir()] == [name]
    assert made[0] == made[1]
    assert "30 rows of seen written" in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_fails_half_way_is_none(tmp_path: Path, name: str) -> None:
    def broken():
        yield from world.rows("train", 0, 3)
        raise KeyboardInterrupt

    path = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        files.write(path, broken())
    assert list(tmp_path.iterdir()) == []
    files.write(path, world.rows("train", 0, 2))
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        files.write(path, broken(), overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_there_stays(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text("mine")
    status, _, err = say(capsys, "write", str(path), "--count", "2")
    assert (status, path.read_text()) == (2, "mine")
    assert "exists already: choose another name, or pass --force" in err
    assert say(capsys, "write", str(path), "--count", "2", "--force")[0] == 0
    assert len(list(read.read(path))) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["sample", "--split", "test"], "split is 'test': choose among train, seen"),
        (["sample", "--case", "two"], "case is 'two': choose among single, multiple"),
        (["sample", "--count", "0"], "--count is 0: give 1 or more"),
        (["sample", "--seed", "-1"], "seed is -1 and start 0: give numbers of 0 or more"),
        (["write", "rows.csv"], "rows.csv: is of no known kind: name it .jsonl"),
        (["write", "rows.jsonl", "--format", "xml"], "format is 'xml': choose among messages"),
        (["write", "no/rows.jsonl"], "no: there is no such folder: make it first"),
        (["write", "no/rows.parquet"], "no: there is no such folder: make it first"),
        (["tokenizer", "."], "exists already: choose another name"),
    ],
)
def test_mistakes_are_one_sentence(
    given: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = say(capsys, *given)
    assert (status, out) == (2, "")
    assert said in err
    assert err.startswith("star_jax.world: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_samples_show_all_that_counts(capsys: pytest.CaptureFixture[str]) -> None:
    for case in world.CASES:
        status, out, _ = say(capsys, "sample", "--case", case, "--count", "2", "--split", "seen")
        assert status == 0
        words = out.split()
        for row in world.rows("seen", 0, 2, case=case):
            assert row["id"] in words
            for tool in row["tools"]:
                assert any(word.startswith(f"{tool['name']}(") for word in words)
            for message in row["messages"]:
                text = message["content"] if message["role"] != "assistant" else ""
                assert " ".join(text.split()) in " ".join(words)
        assert out.count("→ answer") == 2
        assert max(map(len, out.splitlines())) < 120


def test_text_is_what_a_model_reads(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = world.rows("train", 6, 1, start=3, thinking=False)
    given = ("sample", "--text", "--count", "1", "--seed", "6", "--start", "3", "--no-thinking")
    status, out, _ = say(capsys, *given)
    assert (status, out) == (0, chat.render(row["messages"], row["tools"]) + "\n")
