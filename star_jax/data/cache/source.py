"""What a cache is made from: a teacher's folder and a file of rows that it can score."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from star_jax.data import encode, template
from star_jax.data.cache import identity, shard
from star_jax.data.cache.manifest import Manifest
from star_jax.data.encode import Examples
from star_jax.models import Qwen3Config, hf

logger = logging.getLogger(__name__)
SHARD_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    teacher: Path
    config: Qwen3Config
    rows: Path
    model: Path | None  # whose tokenizer and template make the rows; None: the teacher's
    reasoning: str
    skip_bad: int
    examples: Examples
    tokenizer_hash: str
    template_hash: str

    @functools.cached_property
    def teacher_hash(self) -> str:
        return identity.teacher_hash(self.teacher)

    @functools.cached_property
    def hashes(self) -> np.ndarray:
        """Of the examples, uint8 [rows, 16]."""
        return identity.example_hashes(self.examples)


def read(
    teacher: Path,
    rows: Path,
    *,
    model: Path | None = None,
    reasoning: str = "keep",
    skip_bad: int = 0,
) -> Source:
    """Both, and ValueError where the one cannot score the other."""
    config = hf.read_config(teacher)
    maker = teacher if model is None else model
    tokenizer = encode.Tokenizer(maker)
    if model is not None and (own := encode.Tokenizer(teacher)).hash != tokenizer.hash:
        raise ValueError(
            f"{teacher}: its tokenizer {own.hash} is not the rows', {tokenizer.hash} of {model}: "
            "its ids would mean other text; take a teacher of the same family"
        )
    examples = encode.examples(
        rows,
        tokenizer,
        template.load(maker),
        keep_reasoning=reasoning == "keep",
        skip_bad=skip_bad,
    )
    _check_fit(teacher, config, examples)
    return Source(
        teacher=teacher,
        config=config,
        rows=rows,
        model=model,
        reasoning=reasoning,
        skip_bad=skip_bad,
        examples=examples,
        tokenizer_hash=tokenizer.hash,
        template_hash=template.fingerprint(maker),
    )


def _check_fit(teacher: Path, config: Qwen3Config, examples: Examples) -> None:
    wide = np.flatnonzero(examples.ids >= config.vocab_size)
    if wide.size:
        row = int(np.searchsorted(examples.start, wide[0], side="right")) - 1
        raise ValueError(
            f"{examples.path}:{examples.line[row]}: row {examples.row_ids[row]!r} has token "
            f"{examples.ids[wide[0]]}, the teacher {teacher} knows {config.vocab_size} tokens: "
            "take a teacher whose vocabulary holds its tokenizer's"
        )
    limit = config.max_position_embeddings
    long = np.flatnonzero(examples.lengths > limit)
    if long.size:
        logger.warning(
            "%s:%d: row %r has %d tokens, more than the %d that the teacher was trained for, as "
            "have %d rows in all",
            examples.path,
            examples.line[long[0]],
            examples.row_ids[long[0]],
            examples.lengths[long[0]],
            limit,
            long.size,
        )


def describe(
    source: Source,
    *,
    top_k: int,
    dtype: str,
    compute_dtype: str,
    approximate: bool,
    rows_per_shard: int | None,
) -> Manifest:
    """The manifest of a cache of this source; ValueError where there can be none."""
    V = source.config.vocab_size
    if not 1 <= top_k <= V:
        raise ValueError(f"--top-k {top_k}: the teacher knows {V} tokens: give 1 to {V}")
    if rows_per_shard is not None and rows_per_shard < 1:
        raise ValueError(f"--rows-per-shard {rows_per_shard}: give at least 1")
    positions = int(source.examples.n_target.sum())
    return Manifest(
        teacher_hash=source.teacher_hash,
        tokenizer_hash=source.tokenizer_hash,
        template_hash=source.template_hash,
        reasoning=source.reasoning,
        rows=len(source.examples),
        positions=positions,
        rows_hash=identity.rows_hash(source.hashes),
        vocab_size=V,
        top_k=top_k,
        dtype=dtype,
        approximate=approximate,
        compute_dtype=compute_dtype,
        rows_per_shard=rows_per_shard or default_rows(source.examples, top_k, dtype),
        teacher=str(source.teacher),
        rows_file=str(source.rows),
        model=None if source.model is None else str(source.model),
        skip_bad=source.skip_bad,
    )


def default_rows(examples: Examples, top_k: int, dtype: str) -> int:
    """Rows of a shard of about 64 MB: an id and a log-prob for each token of a list, and those of
    the tail and the label."""
    each = top_k * (4 + shard.DTYPES[dtype][1].itemsize) + 8
    per_row = each * max(1.0, float(examples.n_target.mean()))
    return max(1, round(SHARD_BYTES / per_row))
