"""A finished cache, read by a training loop.

    place_n = cache.find(examples)                 where each example's positions are
    ids, logp, tail, label = cache.read(place, n)  its first n, from the mapped files

Opening reads each shard's header and its rows' hashes, never its lists. A `Cache` changes nothing
after that, and may be read from any thread.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from star_jax.data.cache import identity, shard
from star_jax.data.cache import manifest as manifest_module
from star_jax.data.cache.manifest import Manifest
from star_jax.data.encode import Examples

# Files that are mapped at once: each costs a file descriptor, of which a process may have few.
MAPPED = 128
SHOWN = 3  # names that a message lists before it counts


class Read(NamedTuple):
    """The first n target positions of a row."""

    ids_nC: np.ndarray  # int32, best first
    logp_nC: np.ndarray  # in the dtype of the store
    tail_logp_n: np.ndarray  # float32
    label_logp_n: np.ndarray  # float32


class Cache:
    """What a teacher said of a file's rows."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = manifest_module.read(self.folder)
        _check_complete(self.folder, self.manifest)
        self._shards = [
            shard.look(self.folder, self.manifest, index) for index in range(self.manifest.shards)
        ]
        self.hashes = np.concatenate([one.hash for one in self._shards])  # uint8 [rows, 16]
        if identity.rows_hash(self.hashes) != self.manifest.rows_hash:
            raise ValueError(
                f"{self.folder}: is damaged (the shards are not of the manifest's rows): remove "
                f"the shards, then {self.manifest.command(self.folder)} makes them again"
            )
        self._order = np.argsort(_keys(self.hashes), kind="stable")
        self._map = functools.lru_cache(MAPPED)(lambda index: self._shards[index].map())

    def __len__(self) -> int:
        return self.manifest.rows

    @property
    def shards(self) -> Sequence[shard.Shard]:
        return self._shards

    def check(
        self,
        *,
        tokenizer: str,
        top_k: int,
        teacher: str | None = None,
        template: str | None = None,
    ) -> None:
        """ValueError unless the cache is of these (None: whatever it is), and holds top_k."""
        made = self.manifest
        pairs = (
            ("teacher", made.teacher_hash, teacher, "distil from that teacher"),
            ("tokenizer", made.tokenizer_hash, tokenizer, "train a model with that tokenizer"),
            ("chat template", made.template_hash, template, "render the rows with that template"),
        )
        for what, held, given, remedy in pairs:
            if given is not None and given != held:
                raise ValueError(
                    f"{self.folder}: was made with the {what} {held}, this run has {given}: "
                    f"{remedy}, or build a cache with this one"
                )
        if top_k > made.top_k:
            raise ValueError(
                f"{self.folder}: holds the best {made.top_k} tokens of a position, this run asks "
                f"for {top_k}: lower top_k, or build a cache with --top-k {top_k}"
            )

    def find(self, examples: Examples) -> np.ndarray:
        """The place of every example, int64; ValueError for one that is not there.

        To be given examples that are not cut: a place is found by the whole example's hash.
        """
        wanted = _keys(identity.example_hashes(examples))
        held = _keys(self.hashes)[self._order]
        at = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
        absent = np.flatnonzero(held[at] != wanted)
        if absent.size:
            first = int(absent[0])
            more = f", and {absent.size - 1} more of {len(examples)}" if absent.size > 1 else ""
            raise ValueError(
                f"{examples.path}:{examples.line[first]}: row {examples.row_ids[first]!r}{more}: "
                f"not in the cache {self.folder}, so new, cut or changed since it was built: "
                "build a cache of this file, or train on the file that it was built of"
            )
        return self._order[at]

    def count(self, place: int) -> int:
        """Target positions of a row."""
        one, row = self._row(place)
        return int(self._shards[one].start[row + 1] - self._shards[one].start[row])

    def read(self, place: int, count: int) -> Read:
        """The first `count` target positions of the row at a place."""
        index, row = self._row(int(place))
        begin, end = (int(at) for at in self._shards[index].start[row : row + 2])
        if not 0 <= count <= end - begin:
            raise ValueError(
                f"{self.folder}: row {place} has {end - begin} target positions, {count} are asked "
                "for: find places by the examples that are trained on"
            )
        cut = slice(begin, begin + int(count))
        held = self._map(index)
        # Copied here: the disk is read by the thread that asks, and no file stays mapped for it.
        return Read(
            held.ids[cut].copy(),
            held.logp[cut].copy(),
            held.tail_logp[cut].copy(),
            held.label_logp[cut].copy(),
        )

    def _row(self, place: int) -> tuple[int, int]:
        if not 0 <= place < len(self):
            raise ValueError(f"{self.folder}: has places 0 to {len(self) - 1}, asked for {place}")
        return divmod(place, self.manifest.rows_per_shard)


def missing(folder: Path, manifest: Manifest) -> list[int]:
    """The shards that are not there yet."""
    there = {path.name for path in folder.glob(shard.name_of(0).replace("00000", "*"))}
    return [index for index in range(manifest.shards) if shard.name_of(index) not in there]


def _check_complete(folder: Path, manifest: Manifest) -> None:
    absent = missing(folder, manifest)
    if absent:
        names = ", ".join(shard.name_of(index) for index in absent[:SHOWN])
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        there = manifest.shards - len(absent)
        raise ValueError(
            f"{folder}: is not finished, {there} of {manifest.shards} shards are there ({names}"
            f"{more} missing): go on with {manifest.command(folder)}"
        )


def _keys(hashes: np.ndarray) -> np.ndarray:
    """Rows of 16 bytes as values that sort. Bytes' type drops zeros at the end when it compares,
    which makes no two of the same length equal that are not."""
    return np.ascontiguousarray(hashes).view(f"S{shard.HASH_BYTES}")[:, 0]
