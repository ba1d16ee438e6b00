"""A finished cache against its teacher and its rows: hashes, checksums, and a sample scored again.

Everything that differs is a line; no line means that the cache is what its manifest says, as far as
the sample goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import numpy as np

from star_jax import models
from star_jax.data.cache import build, compare, identity, scoring
from star_jax.data.cache.reader import Cache, Read
from star_jax.data.cache.source import Source

# What two runs of a teacher may differ by, in nats: other shapes, meshes and devices sum in another
# order. A random model of 16 layers and logits of standard deviation 1 gave up to 1e-5 and 0.1 over
# three packings and meshes; a trained one's logits are a few times as large.
NOISE = {"float32": 1e-3, "bfloat16": 0.5}


@dataclass(frozen=True)
class Report:
    lines: list[str]  # what differs
    rows: int  # scored again
    positions: int
    largest: float  # difference of a log-prob, in nats


def identities(cache: Cache, origin: Source) -> Iterator[str]:
    """Where teacher, tokenizer, template or rows are not those that the cache is of."""
    made = cache.manifest
    pairs = (
        (f"the teacher {origin.teacher}", made.teacher_hash, origin.teacher_hash),
        ("the tokenizer", made.tokenizer_hash, origin.tokenizer_hash),
        ("the chat template", made.template_hash, origin.template_hash),
    )
    for what, held, given in pairs:
        if held != given:
            yield f"{what} has hash {given}, the cache is of {held}"
    hashes, examples = origin.hashes, origin.examples
    if identity.rows_hash(hashes) == made.rows_hash:
        return
    shared = min(len(hashes), made.rows)
    others = np.flatnonzero((hashes[:shared] != cache.hashes[:shared]).any(axis=1))
    if others.size:
        row = int(others[0])
        more = f", nor do {others.size - 1} rows after it" if others.size > 1 else ""
        where = f"{examples.path}:{examples.line[row]}: row {examples.row_ids[row]!r}"
        yield f"{where} is not what the cache has there{more}"
    if len(hashes) != made.rows:
        yield f"{examples.path} holds {len(hashes)} rows, the cache {made.rows}"


def damages(cache: Cache) -> Iterator[str]:
    """Shards whose bytes are not those that were written."""
    for one in cache.shards:
        if not one.is_intact():
            remedy = f"remove it, then {cache.manifest.command(cache.folder)} makes it again"
            yield f"{one.path}: its bytes are not those that were written: {remedy}"


def sample(rows: int, count: int, seed: int) -> np.ndarray:
    """Places of so many rows, or of all; the same for the same seed."""
    chosen = np.random.default_rng(seed).choice(rows, min(count, rows), replace=False)
    return np.sort(chosen)


def rescore(
    cache: Cache,
    origin: Source,
    *,
    places: np.ndarray,
    mesh: jax.sharding.Mesh | None = None,
    noise: float | None = None,
    tokens: int = scoring.BATCH_TOKENS,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> Report:
    """The rows at these places, scored again; a line for each kind of difference of a row."""
    made = cache.manifest
    examples = origin.examples.take(list(places))
    teacher = models.load(origin.teacher, dtype=made.compute_dtype, mesh=mesh)
    fresh = scoring.score_examples(
        teacher,
        examples,
        top_k=min(made.top_k + 1, made.vocab_size),
        tokens=tokens,
        on_batch=on_batch,
    )
    build.refuse_nan(fresh, examples)
    allowed = NOISE[made.compute_dtype] if noise is None else noise
    lines: list[str] = []
    largest, begin = 0.0, 0
    for index, (place, n) in enumerate(zip(places, examples.n_target, strict=True)):
        part = scoring.Scores(*(x[begin : begin + n] for x in fresh))
        begin += int(n)
        stored: Read = cache.read(int(place), int(n))
        outcome = compare.compare(
            stored, part, dtype=made.dtype, noise=allowed, approximate=made.approximate
        )
        largest = max(largest, outcome.largest)
        where = f"{examples.path}:{examples.line[index]}: row {examples.row_ids[index]!r}"
        lines += [
            f"{where}: target {one.position}: {one.what} is {one.stored:.6g}, the teacher says "
            f"{one.fresh:.6g} ({outcome.count} of {n} targets differ)"
            for one in outcome.differences
        ]
    return Report(lines, len(places), begin, largest)
