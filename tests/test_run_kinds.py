"""Every objective from the command line, and a student that becomes its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny, world

# Forward KL over the whole vocabulary is the one of them that ends at 0 and nowhere else.
KINDS: dict[str, dict[str, Any]] = {
    "ckd": {},
    "fkl": {"objective__preset": "gkd", "objective__beta": 0},
    "fkl of a list": {"objective__tail_weight": 0},
    "rkl": {"objective__kind": "rkl", "objective__tail": "bucket"},
    "akl": {"objective__kind": "akl"},
    "js": {"objective__preset": "gkd"},
    "rskd": {"objective__kind": "rskd"},
    "union": {"objective__support": "union", "objective__part": "answer"},
    "mixed with cross-entropy": {"objective__kd_ratio": 0.5, "batch__mean": "micro"},
}
STEPS = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four rows, a random teacher, a random student that has room enough for what it says."""
    made = tmp_path_factory.mktemp("kinds")
    world.student(made / "student", hidden_size=64, intermediate_size=128)
    tiny.write(made / "teacher", seed=2, hidden_size=48, intermediate_size=64, **world.SIZES)
    tiny.tokenizer(made / "teacher")
    world.write_rows(made / "train.jsonl", world.rows(4, "t"))
    cache = ["cache", "build", "cache", "--teacher", "teacher", "--rows", "train.jsonl"]
    cache += ["--compute", "float32", "--dtype", "float32", "--top-k", "100"]
    commands = [(world.TRAIN, command(name)) for name in KINDS]
    commands += [(world.DATA, cache), (world.TRAIN, command("ckd", cache="cache"))]
    done = world.run_all(made, world.environment(made / "compiled"), *commands)
    assert [one.status for one in done] == [0] * len(commands), done
    return made


def command(name: str, cache: str | None = None) -> list[str]:
    settings = {
        "teacher__model": None if cache else "teacher",
        "teacher__cache": cache,
        "data__max_tokens": 128,
        "batch__examples": 4,
        "optimizer__learning_rate": "1e-2",
        "schedule__epochs": STEPS if name == "fkl" else 12,
        "compute__remat": "none",
    }
    output = f"{name}-cached" if cache else name
    return world.words("ckd", output.replace(" ", "-"), **settings, **KINDS[name])


@pytest.mark.slow
def test_a_student_becomes_its_teacher(folder: Path) -> None:
    """KL(teacher ‖ student) over the vocabulary, on the rows that were learnt."""
    found = [row["distill/divergence_nats"] for row in world.metrics(folder / "fkl")]
    assert len(found) == STEPS
    assert 0 <= found[-1] < 0.05 * found[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_objective_learns(folder: Path, name: str) -> None:
    losses = [row["loss/total_nats"] for row in world.metrics(folder / name.replace(" ", "-"))]
    assert losses[-1] < 0.8 * losses[0]
    assert (folder / name.replace(" ", "-") / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_cache_teaches_what_a_live_teacher_does(folder: Path) -> None:
    live, cached = (world.metrics(folder / name) for name in ("ckd", "ckd-cached"))
    assert len(live) == len(cached) == 12
    for ours, theirs in zip(cached, live, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5), ours["step"]
        assert ours["loss/total_nats"] == pytest.approx(theirs["loss/total_nats"], abs=1e-5)
