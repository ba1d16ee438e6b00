"""--dry-run: what a run would do and need, and nothing done."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from star_jax.train import __main__ as program
from star_jax.train import config, flags
from star_jax.train.step import Programs
from tests import world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without weights: who reads one fails."""
    made = world.make(tmp_path_factory.mktemp("world"))
    for name in ("student", "teacher"):
        (made / name / "model.safetensors").unlink()
    return made


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The programs that are compiled."""
    found: list[Any] = []
    compile_one = Programs.compile

    def compile_and_keep(self: Programs, *given: Any) -> Any:
        found.append(compile_one(self, *given))
        return found[-1]

    monkeypatch.setattr(Programs, "compile", compile_and_keep)
    return found


@pytest.mark.slow
def test_a_preview(
    folder: Path,
    compiled: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    given = world.words("ckd", "new", teacher__model="teacher", data__eval="eval.jsonl")
    assert program.main([*given, "--dry-run"]) == 0
    assert sorted(folder.rglob("*")) == before
    said = capsys.readouterr().out
    first, resolved, *rest = re.split(r"\n(?=model: )|\n\n", said, maxsplit=2)
    assert first == "# python -m star_jax.train ckd, resolved"
    assert flags.decode(config.Ckd, yaml.safe_load(resolved)) == flags.load(config.Ckd, given[1:])
    (text,) = rest
    for line in (
        "devices      8 × cpu, mesh data 8 × fsdp 1 × tensor 1",
        "parameters   24,000",
        "objective    kind fkl, support teacher, tail penalise, top_k 100,",
        "data         60 examples, 4,",
        "evaluation   10 examples, ",
        "steps        8 of 8 examples",
        "1 × 8 × 256, 128: 8 steps",
    ):
        assert line in text, text
    (step,) = compiled
    room = step.memory_analysis()
    unaliased = room.output_size_in_bytes - room.alias_size_in_bytes
    needed = room.argument_size_in_bytes + room.temp_size_in_bytes + unaliased
    terms = {
        name.strip(): int(size.replace(",", ""))
        for name, size in re.findall(r"^ {13}(\D+?)  +([\d,]+) bytes", text, re.MULTILINE)
    }
    # The teacher's parameters are no argument of the step, and lie beside it.
    assert terms["peak"] == needed + terms["teacher's parameters"]
    assert terms["peak"] == sum(size for name, size in terms.items() if name != "peak")
    assert terms["trained parameters"] == 4 * 24_000
    assert terms["optimizer"] >= 8 * 24_000
    assert terms["batch"] > 0
