"""What a model can do: marks, their split, pass@k, and whether RL can work from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from star_jax.train import config, flags, measure
from tests import world

TOOLS = [
    {"name": "look", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
]
CALL = (
    '<think>\nx\n</think>\n\n<tool_call>\n{"name": "look", "arguments": {"a": "b"}}\n</tool_call>'
)
WORDS = "<think>\nx\n</think>\n\nNo."
END = "<|im_end|>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("measure")
    world.student(made / "student")
    rows = [
        {"id": "c", "inputs": "say: ", "targets": CALL + END, "tools": TOOLS, "case": "single"},
        {"id": "w", "inputs": "tell: ", "targets": WORDS + END, "tools": TOOLS},
    ]
    world.write_rows(made / "rows.jsonl", rows)
    return made


def opened(folder: Path, output: Path, **changes: Any) -> measure.MeasureRun:
    given = {
        "model": folder / "student",
        "output": output,
        "data": f"[a={folder / 'rows.jsonl'}]",
        "dtype": "float32",
        "max_tokens": 300,
        "max_new_tokens": 6,
        "samples": 4,
    }
    given |= changes
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    return measure.open(flags.load(config.Measure, words))


def test_a_random_model_is_measured(folder: Path, tmp_path: Path) -> None:
    """It knows nothing, the file says so, and the same seed says the same."""
    found = measure.run(opened(folder, tmp_path / "one"))
    numbers = found["sets"]["a"]
    assert (numbers["rows"], numbers["call_rows"], numbers["words_rows"]) == (2, 1, 1)
    assert numbers["marks"]["call_exact"] == 0
    assert numbers["marks"]["call_reward"] == -1
    assert numbers["passk"]["call"] == {"1": 0, "2": 0, "4": 0}
    assert 0 < numbers["entropy_nats"] < 6
    low, high = numbers["intervals"]["exact"]
    assert low == 0 < high < 1
    lines = (tmp_path / "one" / measure.ANSWERS).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["set"], row["id"], row["case"], row["wanted"]) for row in rows] == [
        ("a", "c", "single", "call"),
        ("a", "w", None, "words"),
    ]
    assert json.loads((tmp_path / "one" / measure.MARKS).read_text()) == found
    measure.run(opened(folder, tmp_path / "two"))
    for name in (measure.MARKS, measure.ANSWERS):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_told_to_stop_it_writes_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(measure.Stopped):
        measure.run(opened(folder, tmp_path / "out"), should_stop=lambda: True)
    assert list((tmp_path / "out").iterdir()) == []


def numbers(reward: float, spread: float) -> dict[str, Any]:
    drawn = {
        "call_reward": reward,
        "call_spread_share": spread,
        "call_valid_share": 0.5,
        "call_call_share": 0.9,
    }
    return {"sampled": drawn, "temperature": 1.0, "passk": {"call": {"1": 0.1, "8": 0.4}}}


def test_readiness() -> None:
    is_ready, said = measure.readiness(numbers(0.2, 0.5))
    assert is_ready
    assert "ready for RL: where a call is due, at temperature 1: 50% of answers are valid" in said
    assert "pass@8 40%" in said
    is_ready, said = measure.readiness(numbers(-0.1, 0.5))
    assert not is_ready
    assert "taught to stop calling" in said
    is_ready, said = measure.readiness(numbers(0.2, 0.05))
    assert not is_ready
    assert "hardly differ in reward" in said


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "room": ({"max_new_tokens": 300}, r"max_new_tokens: is 300, prompt and answer have 300"),
    "twice": ({"data": "[a=x.jsonl, a=y.jsonl]"}, r"data: a is there twice"),
    "file": ({"data": "[nowhere.jsonl]"}, r"nowhere\.jsonl: there is no such file"),
    "none": ({"data": "[]"}, r"data: is empty"),
    "positions": ({"max_tokens": 9999}, r"max_tokens: is 9999, the model was made for 1024"),
    "temperature": ({"temperature": 0}, r"temperature: is 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    changes, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        opened(folder, tmp_path / "out", **changes)
