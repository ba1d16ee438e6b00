"""What a person gets wrong: exit 2, a sentence that says what and what to do, and nothing made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from star_jax.train import __main__ as program
from star_jax.train import flags, folder, setup
from star_jax.train.config import Sft
from tests import tiny, world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = world.make(tmp_path_factory.mktemp("world"))
    good = world.rows(9, "t")
    long = {"id": "long", "messages": [{"role": "user", "content": "x" * 300}]}
    long["messages"].append({"role": "assistant", "content": "yes"})
    world.write_rows(home / "long.jsonl", [*good, long])
    world.write_rows(home / "leak.jsonl", [*good, world.rows(1, "e")[0]])
    world.write_rows(home / "again.jsonl", [*good, good[0]])
    (home / "bad.jsonl").write_text(json.dumps(good[0]) + "\n{no\n")
    (home / "empty.jsonl").write_text("")
    (home / "file").write_text("")
    (home / "full").mkdir()
    (home / "full" / "notes").write_text("mine")
    (home / "run.yaml").write_text("model: student\noutput: x\ndata:\n  train: t\n  evel: e\n")
    world.student(home / "larger", vocab_size=300)
    world.student(home / "short", max_position_embeddings=128)
    shutil.copytree(home / "teacher", home / "other")
    raw = json.loads((home / "other" / "tokenizer.json").read_text())
    raw["added_tokens"][5]["content"] = "<other>"
    (home / "other" / "tokenizer.json").write_text(json.dumps(raw))
    shutil.copytree(home / "student", home / "wordless")
    (home / "wordless" / "tokenizer.json").unlink()
    return home


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


Main = Callable[[list[str]], tuple[int, list[str]]]


@pytest.fixture
def main(here: Path, capsys: pytest.CaptureFixture[str]) -> Main:
    def run(given: list[str]) -> tuple[int, list[str]]:
        status = program.main(given)
        said = capsys.readouterr()
        assert said.out == ""
        return status, said.err.splitlines()

    return run


SFT: list[tuple[dict[str, Any], str]] = [
    ({"compute__dtyp": "float32"}, "--compute.dtyp: is unknown: did you mean compute.dtype?"),
    ({"config": "run.yaml"}, "run.yaml:5: data.evel: is unknown: did you mean data.eval?"),
    ({"model": None}, "model: is missing: give --model, or put it in a --config"),
    ({"model": "nowhere"}, "nowhere/config.json: no such file"),
    ({"model": "wordless"}, "wordless/tokenizer.json: there is no such file: copy the model's"),
    ({"data__train": "nowhere.jsonl"}, "nowhere.jsonl: there is no such file: check the path"),
    ({"data__eval": "nowhere.jsonl"}, "nowhere.jsonl: there is no such file: check the path"),
    ({"data__train": "empty.jsonl"}, "empty.jsonl: holds no row"),
    ({"data__max_tokens": 4096}, "data.max_tokens: is 4096, the model was made for 1024"),
    ({"model": "short"}, "data.max_tokens: is 256, the model was made for 128 positions"),
    ({"output": "file"}, "output: file is a file: choose a folder"),
    ({"output": "full"}, "output: full holds other things than a run: choose another folder"),
    ({"output": "file/deeper"}, "file/deeper"),
    ({"schedule__epochs": 0.001}, "schedule.epochs: 0.001 of 60 examples is less than one"),
    ({"compute__mesh__data": 3}, "compute.mesh: a mesh of (3, 1, 1) needs 3 devices, there are 8"),
    ({"compute__mesh__tensor": 8}, "choose a 'tensor' size that divides 4"),
    ({"compute__attention": "cudnn"}, "compute.attention: attention 'cudnn' can't run here"),
    ({"log__wandb_project": "mine"}, "pip install 'star_jax[wandb]', or leave it out"),
    ({"lora__rank": 4, "lora__targets": "[q, z]"}, "lora.targets: there is no matrix 'z': they"),
    ({"data__allow": "duplicat"}, "there is no kind 'duplicat' of finding: did you mean duplicate"),
]


@pytest.mark.parametrize(("changes", "said"), SFT, ids=[said for _, said in SFT])
def test_sft(main: Main, here: Path, changes: dict[str, Any], said: str) -> None:
    before = sorted(here.rglob("*"))
    status, lines = main(world.words("sft", "new", **changes))
    assert (status, len(lines)) == (2, 1), lines
    assert lines[0].startswith("star_jax.train: ")
    assert said in lines[0]
    assert sorted(here.rglob("*")) == before


CKD: list[tuple[dict[str, Any], str]] = [
    ({"teacher__model": None}, "teacher: is missing: give teacher.model or teacher.cache a folder"),
    ({"teacher__model": "nowhere"}, "nowhere/config.json: no such file"),
    ({"teacher__model": "larger"}, "teacher.model: larger has a vocabulary of 300, the student"),
    ({"teacher__model": "other"}, "teacher.model: other has another tokenizer than student"),
    (
        {"batch__rows_per_device": 1, "compute__mesh__tensor": 2, "compute__mesh__data": 4},
        "teacher.mesh: splits rows 8 ways, but a micro-batch has 4: raise batch.rows_per_device",
    ),
    ({"teacher__cache": "nowhere"}, "nowhere: there is no such folder, so it is no cache"),
    (
        {"teacher__eval_cache": "full"},
        "teacher.eval_cache: a live teacher speaks of the evaluation's rows itself",
    ),
    ({"objective__top_k": 0}, "objective: top_k must be >= 1, got 0"),
    ({"objective__tail": "none"}, "--objective.tail: is 'none': give penalise, drop,"),
    (
        {"teacher__cache": "full", "objective__preset": "gkd"},
        "teacher.cache: support 'vocabulary' asks for teacher log-probs that a stored top-k lacks",
    ),
    (
        {"teacher__cache": "full", "objective__temperature": 2},
        "teacher.cache: temperature 2.0 needs the teacher's whole softmax",
    ),
]


@pytest.mark.parametrize(("changes", "said"), CKD, ids=[said for _, said in CKD])
def test_ckd(main: Main, here: Path, changes: dict[str, Any], said: str) -> None:
    before = sorted(here.rglob("*"))
    status, lines = main(world.words("ckd", "new", **{"teacher__model": "teacher", **changes}))
    assert (status, len(lines)) == (2, 1), lines
    assert said in lines[0]
    assert sorted(here.rglob("*")) == before


ROWS: list[tuple[dict[str, Any], str, str]] = [
    ({"data__train": "bad.jsonl"}, "bad.jsonl:2: row: is not JSON", "--data.skip_bad N)"),
    ({"data__train": "again.jsonl"}, "again.jsonl:10: id: is 't0' again", "--data.skip_bad N)"),
    (
        {"data__train": "long.jsonl"},
        "long.jsonl:10: prompt_cut: row long has a prompt of 319 tokens",
        "1 prompt_cut: mend the file, or allow prompt_cut (one row alone: prompt_cut:long) by "
        "--allow, in a run by --data.allow",
    ),
    (
        {"data__train": "leak.jsonl", "data__eval": "eval.jsonl"},
        "leak.jsonl:10: evaluation_row: row e0 has the prompt of eval.jsonl:1",
        "--data.allow",
    ),
    (
        {"data__eval": "long.jsonl", "data__train": "eval.jsonl"},
        "long.jsonl:10: prompt_cut: row long",
        "--data.allow",
    ),
]


@pytest.mark.parametrize(("changes", "first", "last"), ROWS, ids=[first for _, first, _ in ROWS])
def test_rows(main: Main, changes: dict[str, Any], first: str, last: str) -> None:
    """A line for each row, and one for what to do."""
    status, lines = main(world.words("sft", "new", **changes))
    assert (status, len(lines)) == (2, 2), lines
    assert lines[0].startswith(f"star_jax.train: {first}")
    assert lines[1].endswith(last)


def opened(**changes: Any) -> setup.Run:
    return setup.open(flags.load(Sft, world.words("sft", "new", **changes)[1:]))


@pytest.mark.parametrize("allowed", ["prompt_cut", "prompt_cut:long", "[duplicate, prompt_cut]"])
def test_what_is_allowed_is_left_out(here: Path, allowed: str) -> None:
    run = opened(data__train="long.jsonl", data__allow=allowed)
    assert len(run.train.examples) == 9
    assert len(run.train.uncut) == 10


def test_bad_rows_that_are_allowed_are_left_out(here: Path) -> None:
    assert len(opened(data__train="bad.jsonl", data__skip_bad=1).train.examples) == 1


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("sft", {"optimizer__learning_rate": 2e-3}, "optimizer.learning_rate: is 0.002, the run in"),
    ("sft", {"schedule__epochs": 2}, "began with 1.0: give that, or choose another output"),
    ("sft", {"data__train": "long.jsonl", "data__allow": "prompt_cut"}, "data.train: the run in"),
    ("sft", {"data__eval": "eval.jsonl"}, "data.eval: the run in held began with other rows"),
    ("sft", {"model": "larger"}, "model: is larger, the run in held began with student"),
    ("ckd", {"teacher__model": "teacher"}, "holds a run of sft: choose another folder for ckd"),
]


@pytest.mark.parametrize(("loop", "changes", "said"), OTHERS, ids=[said for *_, said in OTHERS])
def test_a_folder_of_another_run(
    main: Main, here: Path, loop: str, changes: dict[str, Any], said: str
) -> None:
    if not (here / "held").exists():
        folder.claim(opened(output="held"), "sft")
    before = {path: path.read_bytes() for path in (here / "held").iterdir()}
    status, lines = main(world.words(loop, "held", **changes))
    assert (status, len(lines)) == (2, 1), lines
    assert said in lines[0]
    assert {path: path.read_bytes() for path in (here / "held").iterdir()} == before


def test_what_may_change_when_a_run_goes_on(here: Path) -> None:
    folder.claim(opened(output="held-too"), "sft")
    shutil.copy(here / "train.jsonl", here / "moved.jsonl")
    again = opened(
        **{"output": "held-too", "data__train": "moved.jsonl", "checkpoint__every_steps": 7},
        **{"compute__remat": "none", "batch__rows_per_device": 2, "log__bar": "false"},
    )
    folder.claim(again, "sft")


def test_a_tokenizer_that_the_model_has_no_room_for(main: Main, here: Path) -> None:
    if not (here / "tight").exists():
        tiny.write(here / "tight", **{**world.SIZES, "vocab_size": 262})
        tiny.tokenizer(here / "tight")
    status, lines = main(world.words("sft", "new", model="tight"))
    assert (status, len(lines)) == (2, 1)
    assert "has ids up to 262, the model beside it a vocabulary of 262" in lines[0]
