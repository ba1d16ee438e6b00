"""A cache, made shard by shard: a build that was killed goes on where it was.

    plan     what is to be made, what is there, what it costs; nothing is written
    run      the shards that this part has to make

A shard's rows are scored by themselves, so a shard is the same whichever were made before it, and
N processes may share a build: part I makes the shards whose index leaves I when divided by N.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from star_jax import models
from star_jax.data.cache import manifest as manifest_module
from star_jax.data.cache import partfile, reader, scoring, shard, source
from star_jax.data.cache.manifest import Manifest
from star_jax.data.cache.source import Source
from star_jax.data.encode import Examples


@dataclass(frozen=True)
class Plan:
    folder: Path
    source: Source
    manifest: Manifest
    mine: tuple[int, ...]  # shards of this part
    missing: tuple[int, ...]  # those of all parts that are not there yet
    is_begun: bool  # whether the manifest is there

    @property
    def to_make(self) -> tuple[int, ...]:
        missing = set(self.missing)
        return tuple(index for index in self.mine if index in missing)

    def bytes_of(self, index: int) -> int:
        rows = self.manifest.rows_of(index)
        positions = int(self.source.examples.n_target[rows.start : rows.stop].sum())
        return shard.size(self.manifest, len(rows), positions)

    @property
    def bytes_in_all(self) -> int:
        """Of all files of the finished cache."""
        shards = sum(self.bytes_of(index) for index in range(self.manifest.shards))
        return shards + len(self.manifest.to_json())

    @property
    def bytes_to_make(self) -> int:
        return sum(self.bytes_of(index) for index in self.to_make)

    @property
    def tokens_to_make(self) -> int:
        lengths = self.source.examples.lengths
        spans = [self.manifest.rows_of(index) for index in self.to_make]
        return int(sum(lengths[span.start : span.stop].sum() for span in spans))


def plan(
    folder: Path,
    origin: Source,
    *,
    top_k: int = 100,
    dtype: str = "float16",
    compute_dtype: str = "bfloat16",
    approximate: bool = False,
    rows_per_shard: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> Plan:
    """What a build would do; ValueError where the folder holds something else."""
    index, parts = part
    if parts < 1 or not 0 <= index < parts:
        raise ValueError(f"--part {index}/{parts}: give I/N with I from 0 to N - 1")
    held = _held(folder)
    if held is not None and rows_per_shard is None:
        rows_per_shard = held.rows_per_shard  # as it was begun
    wanted = source.describe(
        origin,
        top_k=top_k,
        dtype=dtype,
        compute_dtype=compute_dtype,
        approximate=approximate,
        rows_per_shard=rows_per_shard,
    )
    if held is not None and (others := manifest_module.differences(held, wanted)):
        raise ValueError(
            f"{folder}: holds another cache, {', '.join(others)}: ask for what it is of, or build "
            "into another folder"
        )
    made = held or wanted
    absent = tuple(reader.missing(folder, made))
    for there in sorted(set(range(made.shards)) - set(absent)):
        shard.look(folder, made, there)
    mine = tuple(range(index, made.shards, parts))
    return Plan(folder, origin, made, mine, absent, held is not None)


def _held(folder: Path) -> Manifest | None:
    """The manifest of a build that was begun; None for a folder that is new or empty."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is no folder: choose another name")
    if manifest_module.path_of(folder).exists():
        return manifest_module.read(folder)
    others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    foreign = sorted(name for name in others if partfile.PART.fullmatch(name) is None)
    if foreign:
        raise ValueError(
            f"{folder}: holds {foreign[0]} but no {manifest_module.FILE}, so it is no cache: "
            "choose another folder"
        )
    return None


def check_space(plan: Plan) -> None:
    there = next(path for path in [plan.folder, *plan.folder.absolute().parents] if path.is_dir())
    free = shutil.disk_usage(there).free
    if (needed := plan.bytes_to_make) > free:
        raise ValueError(
            f"{plan.folder}: {needed:,} bytes are to be written, the disk has {free:,} free: make "
            "room, choose another disk, or lower --top-k"
        )


def run(
    plan: Plan,
    mesh: jax.sharding.Mesh | None = None,
    *,
    tokens: int = scoring.BATCH_TOKENS,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> None:
    """Make the shards of this part that are not there."""
    check_space(plan)
    if not plan.to_make:
        return
    plan.folder.mkdir(parents=True, exist_ok=True)
    if not plan.is_begun:
        manifest_module.write(plan.folder, plan.manifest)
    partfile.sweep(plan.folder, {shard.name_of(index) for index in plan.mine})
    teacher = models.load(plan.source.teacher, dtype=plan.manifest.compute_dtype, mesh=mesh)
    for index in plan.to_make:
        made = _score(plan, index, teacher, tokens, on_batch)
        if manifest_module.read(plan.folder).build != plan.manifest.build:
            raise ValueError(
                f"{plan.folder}: another build has begun here meanwhile: give each its own folder"
            )
        shard.write(plan.folder / shard.name_of(index), plan.manifest, made)


def _score(
    plan: Plan,
    index: int,
    teacher: models.Model,
    tokens: int,
    on_batch: Callable[[int], None],
) -> shard.Content:
    asked, rows = plan.manifest, plan.manifest.rows_of(index)
    examples = plan.source.examples.take(rows)
    made = scoring.score_examples(
        teacher,
        examples,
        top_k=asked.top_k,
        approximate=asked.approximate,
        tokens=tokens,
        on_batch=on_batch,
    )
    refuse_nan(made, examples)
    stored = shard.DTYPES[asked.dtype][1]
    with np.errstate(over="ignore"):  # beyond float16 a token has probability 0: its slot is empty
        logp_PC = made.logp_PC.astype(stored)
    return shard.Content(
        start=np.concatenate([[0], np.cumsum(examples.n_target)]).astype(np.int64),
        ids=made.ids_PC,
        tail_logp=made.tail_logp_P,
        label_logp=made.label_logp_P,
        logp=logp_PC,
        hash=plan.source.hashes[rows.start : rows.stop],
    )


def refuse_nan(made: scoring.Scores, examples: Examples) -> None:
    numbers = (made.logp_PC.max(axis=1), made.tail_logp_P, made.label_logp_P)
    broken = np.flatnonzero(np.isnan(np.stack(numbers)).any(axis=0))
    if broken.size:
        ends = np.cumsum(examples.n_target)
        row = int(np.searchsorted(ends, broken[0], side="right"))
        raise ValueError(
            f"{examples.path}:{examples.line[row]}: row {examples.row_ids[row]!r}: the teacher's "
            "log-probs are NaN there: its weights are damaged, or need --compute float32"
        )


def remaining(plan: Plan) -> Plan:
    """The same plan, as things stand now."""
    return dataclasses.replace(plan, missing=tuple(reader.missing(plan.folder, plan.manifest)))
