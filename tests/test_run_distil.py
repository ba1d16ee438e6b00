"""Distillation from the command line: each objective learns, and a cache stands for its teacher."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from star_jax.train import __main__ as program
from tests import tiny, world

LIVE = {"teacher__model": "teacher", "compute__remat": "none", "optimizer__learning_rate": "3e-3"}
SHORT = {"schedule__max_steps": 8}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "fkl": {"objective__kind": "fkl", "objective__tail_weight": 0},
    "rkl": {"objective__kind": "rkl", "objective__tail": "bucket"},
    "akl": {"objective__kind": "akl"},
    "gkd": {"objective__preset": "gkd"},
    "rskd": {"objective__kind": "rskd"},
    "star": {"data__eval": "eval.jsonl"},
}
RUNS: dict[str, dict[str, Any]] = {
    **{name: LIVE | SHORT | changes for name, changes in OBJECTIVES.items()},
    "cached": {
        **(LIVE | SHORT | OBJECTIVES["star"]),
        **{"teacher__model": None, "teacher__cache": "cache", "teacher__eval_cache": "eval-cache"},
    },
    # The divergence over the whole vocabulary: no list of tokens, so it is 0 where the two are one.
    "whole": {
        **(LIVE | {"model": "wide", "data__train": "few.jsonl", "schedule__epochs": 150}),
        **{"objective__support": "vocabulary", "objective__tail": "drop"},
        **{"optimizer__learning_rate": "1e-2", "checkpoint__every_steps": 1000},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of every objective and one from a cache."""
    made = world.make(tmp_path_factory.mktemp("world"))
    tiny.write(made / "wide", seed=11, hidden_size=96, intermediate_size=128, **world.SIZES)
    tiny.tokenizer(made / "wide")
    world.write_rows(made / "few.jsonl", world.rows(6, "f"))
    built = ["--teacher", "teacher", "--compute", "float32", "--dtype", "float32"]
    done = world.run_all(
        made,
        world.environment(tmp_path_factory.mktemp("compiled")),
        *(
            (world.DATA, ["cache", "build", cache, "--rows", rows, *built, "--top-k", "100"])
            for cache, rows in (("cache", "train.jsonl"), ("eval-cache", "eval.jsonl"))
        ),
        *((world.TRAIN, world.words("ckd", name, **changes)) for name, changes in RUNS.items()),
    )
    assert [one.status for one in done] == [0] * len(done), done
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_learns(folder: Path, name: str) -> None:
    loss = [row["loss/total_nats"] for row in world.metrics(folder / name)]
    assert len(loss) == 8
    assert max(loss[-2:]) < 0.9 * min(loss[:2]), loss
    assert (folder / name / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_student_becomes_its_teacher(folder: Path) -> None:
    """Below 5 % of the first KL on the rows that it learns; it came to 1.5 % (seed 0)."""
    kl = [row["distill/divergence_nats"] for row in world.metrics(folder / "whole")]
    assert kl[0] > 0.5
    assert 0 < kl[-1] < 0.05 * kl[0]


@pytest.mark.slow
def test_a_cache_says_what_its_teacher_does(folder: Path) -> None:
    live, cached = world.metrics(folder / "star"), world.metrics(folder / "cached")
    assert len(live) == len(cached) == 8
    assert "eval/distill/divergence_nats" in live[-1]
    for ours, theirs in zip(cached, live, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)


@pytest.fixture
def changed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world in which something may be changed."""
    for name in ("student", "teacher", "cache"):
        shutil.copytree(folder / name, tmp_path / name)
    for name in ("train.jsonl", "eval.jsonl"):
        shutil.copy(folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change_teacher(home: Path) -> None:
    path = home / "teacher" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_tokenizer(home: Path) -> None:
    path = home / "student" / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(raw))


def change_template(home: Path) -> None:
    """It writes the same: what it would write for other rows is not known."""
    thought = "<think>\n{{ m.reasoning_content }}\n</think>\n\n"
    thought = "{% if m.reasoning_content %}" + thought + "{% endif %}"
    turn = "<|im_start|>{{ m.role }}\n" + thought + "{{ m.content }}<|im_end|>\n"
    cue = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    text = "{% for m in messages %}" + turn + "{% endfor %}" + cue
    (home / "student" / "chat_template.jinja").write_text(text)


def change_row(home: Path) -> None:
    lines = (home / "train.jsonl").read_text().splitlines()
    row = json.loads(lines[3])
    row["messages"][0]["content"] += "!"
    (home / "train.jsonl").write_text("\n".join([*lines[:3], json.dumps(row), *lines[4:]]))


CHANGED: list[tuple[Callable[[Path], None], str]] = [
    (change_teacher, "cache: was made with the teacher "),
    (change_tokenizer, "cache: was made with the tokenizer "),
    (change_template, "cache: was made with the chat template "),
    (change_row, "train.jsonl:4: row 't3': not in the cache cache"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "said"), CHANGED, ids=[said for _, said in CHANGED])
def test_a_cache_of_something_else_is_refused(
    changed: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    said: str,
) -> None:
    change(changed)
    given = world.words("ckd", "new", teacher__cache="cache", teacher__model="teacher")
    assert program.main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"star_jax.train: {said}")
    assert not (changed / "new").exists()


@pytest.mark.slow
def test_a_cache_that_holds_too_little_is_refused(
    changed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, said in (
        ({"objective__top_k": 200}, "holds the best 100 tokens of a position, this run asks for"),
        ({"model": "bigger"}, "its teacher has a vocabulary of 264, the student one of 300"),
        ({"teacher__eval_cache": "cache", "data__eval": "eval.jsonl"}, "row 'e0', and 9 more of"),
    ):
        if "model" in more:
            world.student(changed / "bigger", vocab_size=300)
        assert program.main(world.words("ckd", "new", teacher__cache="cache", **more)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (changed / "new").exists()
