"""`python -m star_jax.evals bfcl|acebench` from its words to its files, with a fake sampler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from star_jax.data.encode import Tokenizer
from star_jax.evals import __main__ as command
from star_jax.sampler import loading
from star_jax.sampler.loading import Loaded
from tests import speaking, world

SAID = "<think>\nHm.\n</think>\n\nNo."


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of `loading.load`. The fake in its place fails while `fails` is there."""
    given: list[dict[str, Any]] = []
    world.student(tmp_path / "student", max_position_embeddings=16384)

    def load(folder: Path, **options: Any) -> Loaded:
        given.append(options)
        made = speaking.loaded(folder, slots=options["slots"])
        speaker: Any = made.scheduler
        speaker.max_prompt = options["max_prompt"]
        speaker.script = speaking.says(made.tokenizer, SAID)
        if Path("fails").exists():
            speaker.fails = RuntimeError(Path("fails").read_text())
        return made

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.chdir(tmp_path)
    return given


BFCL = "bfcl --model student --categories irrelevance,simple --limit 2 --max-new-tokens 50"


def test_from_words_to_files(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(f"{BFCL} --slots 3 --context 8000 --dtype float32 --name a/b".split()) == 0
    assert asked == [
        {"dtype": "float32", "slots": 3, "max_prompt": 7999, "max_new": 50, "tensor": 1}
    ]
    found = capsys.readouterr()
    assert "4/4" in found.err, "a bar"
    for words in ("BFCL v3: tiny", "4 entries, prompt official", "irrelevance 100.0 34.2 to 100.0"):
        assert words in " ".join(found.out.split())
    scores = json.loads((tmp_path / "bfcl-a_b" / "scores.json").read_text())
    assert scores["settings"]["context"] == 8000
    results = tmp_path / "bfcl-a_b" / "result" / "a_b" / "BFCL_v3_simple_result.json"
    row = json.loads(results.read_text().splitlines()[0])
    assert (row["result"], row["reasoning_content"]) == ("No.", "Hm.")
    assert row["input_token_count"] > 100
    ids = Tokenizer(tmp_path / "student").encode([SAID])[0]
    assert row["output_token_count"] == len(ids) + 1, "the end of the turn is one"


def test_acebench_thinks_unless_told_otherwise(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = "acebench --model student --categories atom_bool --limit 1"
    for flags, output in (("", "plain"), ("--think off", "off")):
        assert command.main([*given.split(), *flags.split(), "--output", output]) == 0
    assert asked[0]["max_new"] == 1024
    settings = [
        json.loads((tmp_path / name / "scores.json").read_text())["settings"]
        for name in ("plain", "off")
    ]
    assert [one["think"] for one in settings] == [None, False]
    assert [one["keep_thoughts"] for one in settings] == [False, False]
    assert "ACEBench Normal en: tiny" in capsys.readouterr().out


def test_too_little_memory_is_a_sentence_and_fewer_slots_go_on(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = tmp_path / "fails"
    fails.write_text("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 330 GB.")
    assert command.main(BFCL.split()) == 1
    assert "fewer --slots" in capsys.readouterr().err.splitlines()[-1]
    fails.write_text("a mistake of ours")
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        command.main(BFCL.split())
    fails.unlink()
    assert command.main(f"{BFCL} --slots 1".split()) == 0, "slots decide nothing about answers"
    assert len(asked) == 3


def test_the_miniature_can_be_asked_of_a_system_prompt_of_one_s_own(
    asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "system.txt").write_text("Think first.\n")
    given = f"{BFCL} --prompt star --system system.txt --output out"
    assert command.main(given.split()) == 0
    meta = json.loads((tmp_path / "out" / "answers.jsonl.meta.json").read_text())
    assert (meta["prompt"], meta["system"]) == ("star", "Think first.")
    assert meta["entries"].keys() == {"simple", "irrelevance"}
