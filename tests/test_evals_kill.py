"""The commands on a tiny model, killed and gone on with: the files of a run that was not."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from star_jax import world as rows_of
from star_jax.world import files
from tests import world

EVALS = "star_jax.evals"
BFCL = [
    *("bfcl", "--model", "student", "--categories", "simple,irrelevance,multi_turn_base"),
    *("--max-new-tokens", "12", "--slots", "2", "--dtype", "float32", "--temperature", "1"),
]
PASSK = [
    *("passk", "--model", "ckd=student", "sft=other", "--data", "rows.jsonl", "--samples", "4"),
    *("--max-new-tokens", "12", "--slots", "2", "--dtype", "float32", "--k", "1,4"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    world.student(tmp_path / "student", max_position_embeddings=8192)
    world.student(tmp_path / "other", max_position_embeddings=8192, hidden_size=48)
    files.write(tmp_path / "rows.jsonl", rows_of.rows("seen", 0, 8), "messages")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_at(folder: Path, env: dict[str, str], given: list[str], lines: Path, least: int) -> None:
    started = world.start(folder, [*given, "--output", "part"], env, EVALS)
    started.kill_while(lambda: count(lines) >= least)


@pytest.mark.slow
def test_bfcl_killed_and_gone_on_with(folder: Path) -> None:
    env = world.environment(folder / "compiled")
    whole = world.start(folder, [*BFCL, "--output", "whole"], env, EVALS)
    assert whole.wait() == 0, whole.said()
    assert "12/12" in whole.said(), "a bar"
    lines = folder / "part" / "answers.jsonl"
    kill_at(folder, env, BFCL, lines, 1)
    assert not (folder / "part" / "scores.json").exists()
    kill_at(folder, env, BFCL, lines, 5)
    with lines.open("r+b") as file:  # as a machine's failure may leave it
        file.truncate(lines.stat().st_size - 7)
    started = world.start(folder, [*BFCL, "--output", "part"], env, EVALS)
    started.until(lambda: count(lines) >= 7)
    assert started.stop(signal.SIGTERM) == 75, started.said()
    assert "the same command goes on" in started.said()
    (last,) = world.run_all(folder, env, (EVALS, [*BFCL, "--output", "part"]))
    assert last.status == 0, last.stderr
    assert contents(folder / "part") == contents(folder / "whole")
    for word in ("BFCL v3: student", "multi_turn_base", "overall *", "95 % interval"):
        assert word in last.stdout


@pytest.mark.slow
def test_passk_killed_and_gone_on_with(folder: Path) -> None:
    env = world.environment(folder / "compiled")
    (whole,) = world.run_all(folder, env, (EVALS, [*PASSK, "--output", "whole"]))
    assert whole.status == 0, whole.stderr
    assert "The paper's claim that CKD explores more than SFT, with ckd for CKD" in whole.stdout
    kill_at(folder, env, PASSK, folder / "part" / "ckd.jsonl", 3)
    kill_at(folder, env, PASSK, folder / "part" / "sft.jsonl", 2)
    again, compared = world.run_all(
        folder, env, (EVALS, [*PASSK, "--output", "part"]), (EVALS, ["compare", "part", "whole"])
    )
    assert again.status == 0, again.stderr
    assert again.stdout.replace("part:", "whole:") == whole.stdout
    assert contents(folder / "part") == contents(folder / "whole")
    assert compared.status == 0, compared.stderr
    scores = json.loads((folder / "part" / "scores.json").read_text())
    for found in scores["models"].values():
        assert 4 < found["all"]["entropy"]["all"]["value"] < 6, "of 264 tokens, nearly at random"
    lines = [json.loads(line) for line in (folder / "part" / "ckd.jsonl").read_text().splitlines()]
    assert all(len(set(line["texts"])) > 1 for line in lines)
    assert {line["wanted"] for line in lines} == {"call", "words"}
