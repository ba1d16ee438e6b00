"""A teacher's cache as a loop takes it: of the student's vocabulary, and one teacher throughout."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
    with pytest.raises(ValueError, match="a vocabulary of 400, the student has one of 272"):
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
