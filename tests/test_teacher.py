"""A teacher's answers: written as they come, kept by a rule, counted, and the same after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from star_jax.data import read
from star_jax.sampler import Sampler
from star_jax.train import config, flags, teacher
from tests import world

CALL = (
    '<think>\nx\n</think>\n\n<tool_call>\n{"name": "look", "arguments": {"a": "b"}}\n</tool_call>'
)
TOOLS = [
    {"name": "look", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
]
END = "<|im_end|>"


def row(number: int, target: str) -> dict[str, Any]:
    return {"id": f"r{number}", "inputs": f"say {number}: ", "targets": target, "tools": TOOLS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("teacher")
    world.student(made / "teacher")
    world.write_rows(
        made / "rows.jsonl", [row(0, CALL + END), row(1, f"<think>\n\n</think>\n\nNo.{END}")]
    )
    return made


def opened(folder: Path, output: Path, **changes: Any) -> teacher.TeachRun:
    given = {
        "model": folder / "teacher",
        "output": output,
        "dtype": "float32",
        "data.train": folder / "rows.jsonl",
        "data.max_tokens": 400,
        "sampling.max_new_tokens": 8,
        "sampling.samples": 2,
    }
    given |= {name.replace("__", "."): value for name, value in changes.items()}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return teacher.open(flags.load(config.Teach, words))


def answered(made: teacher.TeachRun, *lines: list[str], ends: str = "stop") -> None:
    """What a teacher would have said."""
    made.output.mkdir(parents=True)
    rows = [
        {"id": row.row_id, "samples": texts, "ends": [ends] * len(texts)}
        for row, texts in zip(made.prompts.rows, lines, strict=True)
    ]
    world.write_rows(made.output / teacher.SAMPLES, rows)


def kept(made: teacher.TeachRun) -> list[tuple[str, str]]:
    found = read.read(made.output / teacher.TRAIN)
    return [(str(one.id), one.targets) for one in found if isinstance(one, read.Pair)]


OTHER = CALL.replace('"b"', '"c"') + END
BROKEN = CALL.replace("look", "hook") + END
THOUGHT = CALL.replace("\nx\n", "\ny\n") + END


def test_broken_answers_go_and_equal_ones_are_kept_once(folder: Path, tmp_path: Path) -> None:
    made = opened(folder, tmp_path / "out")
    spaced = CALL.replace('{"a": "b"}', '{"a":  "b"}') + END
    answered(made, [CALL + END, spaced, OTHER, BROKEN, THOUGHT], ["no think", f"<think>{END}"])
    report = teacher.sift(made)
    assert kept(made) == [("r0/0", CALL + END), ("r0/2", OTHER), ("r0/4", THOUGHT)]
    assert report.samples == 7
    assert report.kept == 3
    assert report.prompts_with_none == 1
    assert report.dropped["format: unknown_tool"] == 1
    assert report.dropped["says what another one says"] == 1
    assert sum(report.dropped.values()) + report.kept == report.samples
    assert (report.call_samples, report.call_valid, report.call_exact) == (5, 4, 3)
    assert any("where call is due: 80.0% valid, 60.0% exact" in line for line in report.lines())


@pytest.mark.parametrize(
    ("rule", "names"), [("format", ["r0/0", "r0/1"]), ("label", ["r0/0"]), ("reward", ["r0/0"])]
)
def test_rules(folder: Path, tmp_path: Path, rule: str, names: list[str]) -> None:
    made = opened(folder, tmp_path / "out", keep__rule=rule)
    answered(made, [CALL + END, OTHER], ["x", "y"])
    teacher.sift(made)
    assert [name for name, _ in kept(made)] == names


def test_unfinished_answers_are_never_kept(folder: Path, tmp_path: Path) -> None:
    made = opened(folder, tmp_path / "out")
    answered(made, [CALL], ["x"], ends="length")
    with pytest.raises(ValueError, match=r"none of 2 answers is kept \(2 did not end\)"):
        teacher.sift(made)


def test_a_right_answer_and_a_wrong_one_make_a_pair(folder: Path, tmp_path: Path) -> None:
    made = opened(folder, tmp_path / "out")
    answered(made, [OTHER, CALL + END, BROKEN], ["x", "y"])
    assert teacher.sift(made).pairs == 1
    (pair,) = map(json.loads, (made.output / teacher.PAIRS).read_text().splitlines())
    assert (pair["chosen"], pair["rejected"]) == (CALL + END, OTHER)
    assert pair["prompt"] == "say 0: "


def test_killed_between_any_two_lines_it_writes_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every answer kept; a torn line is written again, no row is lost and none doubled."""
    world.write_rows(tmp_path / "rows.jsonl", [row(i, CALL + END) for i in range(9)])
    monkeypatch.setattr(teacher, "AT_ONCE", 1)
    small: dict[str, Any] = {"data__train": tmp_path / "rows.jsonl", "sampling__slots": 4}

    def sampled(made: teacher.TeachRun) -> bytes:
        made.output.mkdir(exist_ok=True)
        assert teacher.sample(made, lambda done, total: None, lambda: False)
        return (made.output / teacher.SAMPLES).read_bytes()

    whole = sampled(opened(folder, tmp_path / "whole", **small))
    assert whole.count(b"\n") == 9
    for cut in (0, 7, whole.index(b"\n") + 1, len(whole) // 2, len(whole) - 1):
        made = opened(folder, tmp_path / "cut", **small)
        (made.output / teacher.SAMPLES).write_bytes(whole[:cut]) if made.output.exists() else None
        assert sampled(made) == whole, cut
    stopped = opened(folder, tmp_path / "stopped", **small)
    stopped.output.mkdir()
    calls = iter([False, True])
    assert not teacher.sample(stopped, lambda done, total: None, lambda: next(calls))
    assert sampled(stopped) == whole


def test_another_question_is_refused(folder: Path, tmp_path: Path) -> None:
    made = opened(folder, tmp_path / "out")
    made.output.mkdir()
    teacher.sample(made, lambda done, total: None, lambda: False)
    before = {path.name: path.read_bytes() for path in made.output.iterdir()}
    other = opened(folder, tmp_path / "out", seed=5)
    with pytest.raises(ValueError, match="was begun with another seed"):
        teacher.run(other)
    assert {path.name: path.read_bytes() for path in made.output.iterdir()} == before


def test_a_sampler_is_not_made_where_all_is_said(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = opened(folder, tmp_path / "out")
    made.output.mkdir()
    teacher.sample(made, lambda done, total: None, lambda: False)

    def never(*_: Any, **__: Any) -> Sampler:
        raise AssertionError("asked again")

    monkeypatch.setattr(teacher, "Sampler", never)
    assert teacher.sample(made, lambda done, total: None, lambda: False)


@pytest.mark.slow
def test_the_cache_is_of_what_was_kept(folder: Path, tmp_path: Path) -> None:
    """From the command's files to a distillation that reads them."""
    from star_jax.train import ckd, fit

    made = opened(folder, tmp_path / "out", cache__top_k=8, cache__dtype="float32")
    answered(made, [CALL + END, OTHER], ["x", "y"])
    teacher.sift(made)
    teacher._cache(made)
    words = {
        "model": folder / "teacher",
        "output": tmp_path / "ckd",
        "data.train": made.output / teacher.TRAIN,
        "data.max_tokens": 256,
        "data.allow": "[cue_missing]",
        "teacher.cache": made.output / teacher.CACHE,
        "objective.top_k": 8,
        "objective.student_top_m": 8,
        "batch.examples": 2,
        "batch.rows_per_device": 1,
        "log.tensorboard": "false",
        "log.bar": "false",
    }
    argv = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    assert fit.go_on(fit.begin(ckd.task(flags.load(config.Ckd, argv)))) is None


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "room": ({"sampling__max_new_tokens": 400}, r"sampling\.max_new_tokens: is 400, prompt and"),
    "positions": ({"data__max_tokens": 5000}, r"data\.max_tokens: is 5000, the model was made for"),
    "prompt": ({"data__max_tokens": 12}, r"rows\.jsonl:1: the prompt has \d+ tokens"),
    "reward": ({"reward__function": "nothing"}, r"reward\.function: "),
    "samples": ({"sampling__samples": 0}, r"sampling\.samples: is 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    changes, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        opened(folder, tmp_path / "out", **changes)
