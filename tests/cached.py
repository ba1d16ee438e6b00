"""A tiny teacher, a file of rows, and caches of the two; caches that no teacher made, too."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.data import encode, template
from star_jax.data.cache import build, identity, manifest, shard, source
from tests import tiny

V = 272  # the tokenizer's 263 ids and some that it lacks
TOP_K = 20


def teacher(folder: Path, seed: int = 0, **changes: Any) -> Path:
    tiny.write(folder, seed=seed, vocab_size=V, tie_word_embeddings=False, **changes)
    return tiny.tokenizer(folder)


def rows(path: Path, count: int = 12, longest: int = 90, seed: int = 0) -> Path:
    rng = random.Random(seed)

    def text() -> str:
        return "".join(rng.choice("abcdefgh ") for _ in range(rng.randint(1, longest))) + "."

    def row(index: int) -> dict[str, Any]:
        said = [("user", text()), ("assistant", text())]
        return {"id": index, "messages": [{"role": r, "content": c} for r, c in said]}

    path.write_text("".join(json.dumps(row(index)) + "\n" for index in range(count)))
    return path


def origin(folder: Path, path: Path, **options: Any) -> source.Source:
    return source.read(folder, path, **options)


def plan(folder: Path, made: source.Source, **options: Any) -> build.Plan:
    form = {"top_k": TOP_K, "compute_dtype": "float32", "rows_per_shard": 5, **options}
    return build.plan(folder, made, **form)


def make(folder: Path, made: source.Source, **options: Any) -> Path:
    """A cache, built on one device."""
    build.run(plan(folder, made, **options), tokens=1024)
    return folder


def begin(world: Path, folder: Path) -> Path:
    """A copy of a teacher and its rows, and half of the cache of them that lies beside."""
    shutil.copytree(world / "big", folder / "big")
    shutil.copy(world / "rows.jsonl", folder)
    shutil.copytree(world / "float16", folder / "c")
    (folder / "c" / shard.name_of(1)).unlink()
    return folder


def examples(folder: Path, path: Path) -> encode.Examples:
    return encode.examples(path, encode.Tokenizer(folder), template.load(folder))


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


def invent(
    folder: Path, n_target: list[int], rows_per_shard: int, **changes: Any
) -> manifest.Manifest:
    """A cache of random numbers, and of rows whose hash is their index."""
    rng = np.random.default_rng(0)
    hashes = np.array([[i % 256, i // 256, *[0] * 14] for i in range(len(n_target))], np.uint8)
    made = manifest.Manifest(
        teacher_hash="t" * 32,
        tokenizer_hash="k" * 32,
        template_hash="r" * 32,
        reasoning="keep",
        rows=len(n_target),
        positions=sum(n_target),
        rows_hash=identity.rows_hash(hashes),
        vocab_size=500,
        top_k=3,
        dtype="float16",
        approximate=False,
        compute_dtype="float32",
        rows_per_shard=rows_per_shard,
        teacher="big",
        rows_file="my rows.jsonl",
        model=None,
        skip_bad=0,
    )
    made = dataclasses.replace(made, **changes)
    folder.mkdir()
    manifest.write(folder, made)
    for index in range(made.shards):
        span = made.rows_of(index)
        counts = n_target[span.start : span.stop]
        P = sum(counts)
        content = shard.Content(
            start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            ids=rng.integers(0, 500, (P, 3), np.int32),
            tail_logp=rng.normal(size=P).astype(np.float32),
            label_logp=rng.normal(size=P).astype(np.float32),
            logp=rng.normal(size=(P, 3)).astype(shard.DTYPES[made.dtype][1]),
            hash=hashes[span.start : span.stop],
        )
        shard.write(folder / shard.name_of(index), made, content)
    return made
