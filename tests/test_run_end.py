"""How a run ends and what it leaves: the best and the last checkpoint, a model, a fault's rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from star_jax import models
from star_jax.models import __main__ as model_program
from star_jax.models import lora
from star_jax.train import export, setup, state
from star_jax.train.checkpoint import Checkpoints
from tests import world

# The rate rises until numbers end: some steps learn, then one breaks.
BREAKS = {
    **{"optimizer__learning_rate": "1e12", "optimizer__clip_norm": "null"},
    **{"schedule__epochs": 2, "schedule__warmup_share": 0.9, "checkpoint__every_steps": 100},
}
RUNS: dict[str, dict[str, Any]] = {
    "best": {
        **{"data__train": "few.jsonl", "data__eval": "eval.jsonl", "batch__examples": 2},
        **{"evaluation__every_steps": 2, "checkpoint__every_steps": 1000},
        **{"schedule__epochs": 30, "optimizer__learning_rate": "3e-2"},
    },
    "broken": BREAKS,
    "broken again": BREAKS,
    "broken, in words": BREAKS | {"compute__debug_nans": "true"},
    "adapted": {"lora__rank": 4, "schedule__max_steps": 4, "optimizer__learning_rate": "1e-2"},
}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return world.environment(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = world.make(tmp_path_factory.mktemp("world"))
    world.write_rows(made / "few.jsonl", world.rows(2, "f"))
    return made


@pytest.fixture(scope="module")
def done(folder: Path, env: dict[str, str]) -> dict[str, world.Done]:
    commands = [
        (world.TRAIN, world.words("sft", name.split()[0].strip(","), **changes))
        for name, changes in RUNS.items()
    ]
    return dict(zip(RUNS, world.run_all(folder, env, *commands), strict=True))


@pytest.mark.slow
def test_the_best_checkpoint_stays(folder: Path, done: dict[str, world.Done]) -> None:
    assert done["best"].status == 0
    rows = world.metrics(folder / "best")
    scores = {
        int(row["step"]): row["eval/loss/total_nats"]
        for row in rows
        if "eval/loss/total_nats" in row
    }
    assert sorted(scores) == list(range(2, 31, 2))
    best = min(scores, key=lambda step: scores[step])
    assert 2 < best < 28, "it learns, and then too much"
    # keep_last 2: the end, and the best before it; nothing was due but them.
    assert world.steps(folder / "best") == [best, 30]


@pytest.mark.slow
def test_a_loss_that_is_not_finite(folder: Path, done: dict[str, world.Done]) -> None:
    first, again, named = (done[name] for name in RUNS if name.startswith("broken"))
    rows = world.metrics(folder / "broken")
    step = len(rows)
    assert step >= 3, "there were good steps before it"
    bad = [row for row in rows if "nan" in (row["loss/total_nats"], row["optim/gradient_norm"])]
    assert [row["step"] for row in bad] == [step]
    assert world.steps(folder / "broken") == [step - 1]
    for one in (first, again, named):
        (line,) = one.stderr.splitlines()
        assert one.status == 3
        assert line.startswith(f"star_jax.train: step {step}: the loss is ")
        assert f"broken/nonfinite-step-{step}.json names the rows" in line
        assert "the state before it is saved, and the same command replays it" in line
    assert first.stderr == again.stderr
    assert "--compute.debug_nans true names the operation" in first.stderr
    assert "invalid value (nan) encountered in " in named.stderr
    assert "star_jax/models/qwen3.py:" in named.stderr
    found = json.loads((folder / "broken" / f"nonfinite-step-{step}.json").read_text())
    assert found["step"] == step
    assert "nan" in found["metrics"].values()
    learnt = (folder / "train.jsonl").read_text().splitlines()
    assert len(found["rows"]) == 8
    for row in found["rows"]:
        assert json.loads(learnt[row["line"] - 1])["id"] == row["id"]


@pytest.mark.slow
def test_a_run_that_is_done_is_not_run_again(
    folder: Path, env: dict[str, str], done: dict[str, world.Done]
) -> None:
    run = folder / "best"

    def held() -> dict[str, tuple[bytes, int]]:
        files = [path for path in run.rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = held()
    given = world.words("sft", "best", **RUNS["best"])
    (again,) = world.run_all(folder, env, (world.TRAIN, given))
    assert (again.status, again.stderr) == (0, "")
    assert held() == before

    weights = (run / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "model")
    (again,) = world.run_all(folder, env, (world.TRAIN, given))
    assert again.status == 0
    assert (run / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_and_passed_over(
    folder: Path, env: dict[str, str], done: dict[str, world.Done]
) -> None:
    run = folder / "damaged"
    shutil.copytree(folder / "best", run)
    shutil.rmtree(run / "model")
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text().replace("output: best", "output: damaged")
    )
    for path in (run / "checkpoints" / "30" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 0xFF
            path.write_bytes(content)
    given = world.words("sft", "damaged", **RUNS["best"])
    (refused,) = world.run_all(folder, env, (world.TRAIN, given))
    assert refused.status == 2
    (line,) = refused.stderr.splitlines()
    assert "checkpoints/30: the checkpoint is damaged" in line
    assert line.endswith("checkpoints/30 away, and the run goes on from before it")
    shutil.move(run / "checkpoints" / "30", folder / "aside")
    (gone_on,) = world.run_all(folder, env, (world.TRAIN, given))
    assert gone_on.status == 0
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (run / name).read_bytes() == (folder / "best" / name).read_bytes()


def logits(folder: Path) -> np.ndarray:
    model = models.load(folder, dtype="float32")
    return logits_of(model.params, model.config)


def logits_of(params: Any, config: models.Qwen3Config) -> np.ndarray:
    tokens_BT = np.arange(24, dtype=np.int32).reshape(2, 12) * 7 % 250
    lengths_B = np.array([12, 9])
    made_BTV = np.asarray(models.logits(params, config, tokens_BT, lengths_B))
    return np.concatenate([row[:n] for row, n in zip(made_BTV, lengths_B, strict=True)])


@pytest.mark.slow
def test_export(
    folder: Path,
    done: dict[str, world.Done],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)

    def run(*given: str) -> tuple[int, str]:
        status = model_program.main(["export", *given])
        return status, capsys.readouterr().err

    assert run("best", str(tmp_path / "last")) == (0, "")
    trained = (folder / "best" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == trained
    assert (tmp_path / "last" / "tokenizer.json").is_file()

    best = str(world.steps(folder / "best")[0])
    assert run("best", str(tmp_path / "best"), "--step", "best") == (0, "")
    assert run("best", str(tmp_path / "step"), "--step", best) == (0, "")
    early = (tmp_path / "best" / "model.safetensors").read_bytes()
    assert early == (tmp_path / "step" / "model.safetensors").read_bytes() != trained

    status, said = run("best", str(tmp_path / "best"))
    assert status == 2
    assert said.endswith("best: is already there: choose another name, or --overwrite\n")
    assert run("best", str(tmp_path / "best"), "--overwrite") == (0, "")
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == trained

    for given, said in (
        (
            ("best", "x", "--step", "3"),
            f"has no checkpoint 3: give last, best or one of {best}, 30",
        ),
        (("student", "x"), "student: is no run (it lacks run.json): give a run's output folder"),
        (("broken", "x", "--step", "best"), "no checkpoint has an evaluation: give --step last"),
    ):
        status, lines = run(*given)
        assert status == 2
        assert said in lines
        assert len(lines.splitlines()) == 1


@pytest.mark.slow
def test_adapters_are_merged_on_export(
    folder: Path, done: dict[str, world.Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert done["adapted"].status == 0
    monkeypatch.chdir(folder)
    assert model_program.main(["export", "adapted", str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(logits(folder / "adapted" / "model"), logits(tmp_path / "out"))

    config = export.read(folder / "adapted")
    base = models.load(folder / "student", dtype="float32")
    student = setup.Student(config=config, mesh=models.make_mesh(), model=base.config)
    abstract = state.abstract(setup.trained(student), state.adamw(lambda _: 0.0))
    with Checkpoints(folder / "adapted" / "checkpoints") as checkpoints:
        adapters = checkpoints.restore(4, abstract).params
    adapted = config.lora.build()
    assert adapted is not None
    beside = lora.attach(base.config, base.params, jax.device_get(adapters), adapted)
    merged = logits(tmp_path / "out")
    np.testing.assert_allclose(merged, logits_of(beside, base.config), rtol=1e-4, atol=1e-5)
    assert np.abs(merged - logits(folder / "student")).max() > 1e-2, "it has learnt something"
