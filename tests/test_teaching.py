"""A teacher's cache as a loop takes it: of the student's vocabulary, and one teacher throughout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from star_jax.data import cache
from star_jax.data.cache import build, identity, shard
from star_jax.data.cache import manifest as manifests
from star_jax.train import ckd
from star_jax.train.config import Batch, Ckd, Data, Objective, Teacher
from tests import cached, tiny


def untaught(folder: Path, teacher: Path, rows: Path, **changes: Any) -> Path:
    """A cache of these rows in which no teacher says anything: all lists are zeros."""
    made = build.plan(folder, cached.origin(teacher, rows), top_k=5, dtype="float32")
    manifest = dataclasses.replace(made.manifest, **changes)
    folder.mkdir()
    manifests.write(folder, manifest)
    examples = made.source.examples
    for index in range(manifest.shards):
        span = manifest.rows_of(index)
        counts = examples.n_target[span.start : span.stop]
        P = int(counts.sum())
        content = shard.Content(
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            ids=np.zeros((P, 5), np.int32),
            tail_logp=np.zeros(P, np.float32),
            label_logp=np.zeros(P, np.float32),
            logp=np.zeros((P, 5), np.float32),
            hash=identity.example_hashes(examples)[span.start : span.stop],
        )
        shard.write(folder / shard.name_of(index), manifest, content)
    return folder


@pytest.fixture
def world(tmp_path: Path) -> Path:
    tiny.write(tmp_path / "student", vocab_size=cached.V)
    tiny.tokenizer(tmp_path / "student")
    cached.teacher(tmp_path / "teacher")
    cached.rows(tmp_path / "train.jsonl")
    cached.rows(tmp_path / "eval.jsonl", count=4, seed=1)
    return tmp_path


def config(world: Path, teacher: Teacher) -> Ckd:
    return Ckd(
        model=str(world / "student"),
        output=str(world / "out"),
        data=Data(train=str(world / "train.jsonl"), eval=str(world / "eval.jsonl")),
        batch=Batch(examples=8, rows_per_device=1),
        teacher=teacher,
        objective=Objective(top_k=5),
    )


def test_a_cache_of_another_vocabulary_is_refused(world: Path) -> None:
    """Its ids would be read as the student's last one."""
    wide = untaught(world / "wide", world / "teacher", world / "train.jsonl", vocab_size=400)
    with pytest.raises(ValueError, match="a vocabulary of 400, the student one of 272"):
        ckd.task(config(world, Teacher(cache=str(wide))))


def test_training_and_evaluation_have_one_teacher(world: Path) -> None:
    train = untaught(world / "c", world / "teacher", world / "train.jsonl")
    held = untaught(world / "e", world / "teacher", world / "eval.jsonl")
    ckd.task(config(world, Teacher(cache=str(train), eval_cache=str(held))))
    other = untaught(world / "o", world / "teacher", world / "eval.jsonl", teacher_hash="0" * 32)
    with pytest.raises(ValueError, match=r"teacher\.eval_cache: .* was made with the teacher 0000"):
        ckd.task(config(world, Teacher(cache=str(train), eval_cache=str(other))))


def test_a_live_teacher_takes_no_cache_of_the_evaluation() -> None:
    with pytest.raises(ValueError, match=r"teacher\.eval_cache: a live teacher speaks"):
        Teacher(model="big", eval_cache="held")


@pytest.mark.parametrize("array", ["ids", "logp", "label_logp"])
def test_damage_that_makes_no_token_and_no_probability_is_not_learnt(
    world: Path, array: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = untaught(world / "c", world / "teacher", world / "train.jsonl")
    task = ckd.task(config(world, Teacher(cache=str(made))))
    plan = task.run.train.feed.plan(0)
    task.source.words(plan, slice(0, 1))
    read = cache.Cache.read

    def damaged(self: cache.Cache, place: int, count: int) -> cache.Read:
        said = read(self, place, count)
        held = getattr(said, f"{array}_n" if array == "label_logp" else f"{array}_nC")
        held[-1] = 2**30 if array == "ids" else np.nan
        return said

    monkeypatch.setattr(cache.Cache, "read", damaged)
    with pytest.raises(ValueError, match=r"is damaged at row '.*': find the file with python -m"):
        task.source.words(plan, slice(0, 1))


def test_what_is_allowed_in_one_file_is_not_called_idle_in_the_other(
    world: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = (world / "train.jsonl").read_text().splitlines()
    again = {**json.loads(rows[0]), "id": "again"}
    (world / "train.jsonl").write_text("\n".join([*rows, json.dumps(again)]) + "\n")
    made = untaught(world / "c", world / "teacher", world / "train.jsonl")
    base = config(world, Teacher(cache=str(made)))
    data = dataclasses.replace(base.data, allow=("duplicate", "end_missing"))
    ckd.task(dataclasses.replace(base, data=data))
    said = [record.getMessage() for record in caplog.records if "no such" in record.getMessage()]
    assert said == ["data.allow end_missing: there is no such finding: remove it"]


def test_rows_without_the_part_that_is_learnt_are_named(world: Path) -> None:
    """A file of answers alone, and a run that learns thinking."""
    made = untaught(world / "c", world / "teacher", world / "train.jsonl")
    base = config(world, Teacher(cache=str(made)))
    asked = "<|im_start|>user\nhow?<|im_end|>\n<|im_start|>assistant\n"
    row = {"id": "plain", "inputs": asked, "targets": "like this<|im_end|>"}
    (world / "train.jsonl").write_text(json.dumps(row) + "\n")
    thinking = dataclasses.replace(base.objective, part="think")
    with pytest.raises(ValueError, match="nothing_to_learn: has no thinking that is learnt"):
        ckd.task(dataclasses.replace(base, objective=thinking))
