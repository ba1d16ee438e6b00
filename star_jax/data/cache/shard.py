"""One shard: what the teacher said of a run of rows, as a safetensors file.

    start [R+1]                where each row's positions begin, and the end
    ids [P, C], logp [P, C]    the best C tokens of each target position, best first
    tail_logp [P]              log of the mass outside the list
    label_logp [P]             the log-prob of the token that was there
    hash [R, 16]               of each row's example

Dims: R rows of the shard, P their target positions, C the top-k. The header is a function of the
manifest, R, P and the content's checksum; a file whose header is another one is damaged or foreign.
The format is written here rather than by the library because it is small, the order of its bytes
then depends on nothing else, and a file's size is known before the teacher has run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from star_jax.data.cache import partfile
from star_jax.data.cache.manifest import Manifest

DTYPES = {
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "float32": ("F32", np.dtype(np.float32)),
}
HASH_BYTES = 16
PIECE = 8 << 20  # bytes read at once for a checksum


class Content(NamedTuple):
    """A shard's arrays, in the order in which they stand in the file: widest first, so that each
    is aligned."""

    start: np.ndarray
    ids: np.ndarray
    tail_logp: np.ndarray
    label_logp: np.ndarray
    logp: np.ndarray
    hash: np.ndarray


class Field(NamedTuple):
    spelling: str  # of the dtype, in safetensors
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def name_of(index: int) -> str:
    return f"shard-{index:05}.safetensors"


def layout(manifest: Manifest, rows: int, positions: int) -> dict[str, Field]:
    C = manifest.top_k
    wide, whole, byte = (np.dtype(kind) for kind in (np.int64, np.int32, np.uint8))
    single = DTYPES["float32"]
    return dict(  # in the order of Content
        start=Field("I64", wide, (rows + 1,)),
        ids=Field("I32", whole, (positions, C)),
        tail_logp=Field(*single, (positions,)),
        label_logp=Field(*single, (positions,)),
        logp=Field(*DTYPES[manifest.dtype], (positions, C)),
        hash=Field("U8", byte, (rows, HASH_BYTES)),
    )


def header(manifest: Manifest, rows: int, positions: int, checksum: str) -> bytes:
    """The file's bytes before the first array."""
    raw: dict[str, Any] = {"__metadata__": {"build": manifest.build, "checksum": checksum}}
    place = 0
    for name, one in layout(manifest, rows, positions).items():
        end = place + one.nbytes
        raw[name] = {"dtype": one.spelling, "shape": one.shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(raw, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def size(manifest: Manifest, rows: int, positions: int) -> int:
    """Bytes of the file."""
    arrays = sum(one.nbytes for one in layout(manifest, rows, positions).values())
    return len(header(manifest, rows, positions, _checksum([]))) + arrays


def _checksum(pieces: Any) -> str:
    made = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        made.update(piece)
    return made.hexdigest()


def write(path: Path, manifest: Manifest, content: Content) -> None:
    rows, positions = len(content.hash), len(content.ids)
    pieces: list[bytes | memoryview] = []
    for name, one in layout(manifest, rows, positions).items():
        array = np.ascontiguousarray(getattr(content, name))
        assert (array.dtype, array.shape) == (one.dtype, one.shape), name
        pieces.append(array.reshape(-1).view(np.uint8).data)
    partfile.write(path, [header(manifest, rows, positions, _checksum(pieces)), *pieces])


@dataclass(frozen=True)
class Shard:
    """A whole file on the disk, its small arrays read, its large ones not."""

    path: Path
    fields: dict[str, Field]
    base: int  # where the first array begins
    checksum: str
    start: np.ndarray
    hash: np.ndarray

    @property
    def positions(self) -> int:
        return int(self.start[-1])

    def map(self) -> Content:
        """The arrays, read from the disk as they are looked at."""
        whole = np.asarray(np.memmap(self.path, np.uint8, mode="r"))
        return Content(
            **{
                name: whole[place : place + one.nbytes].view(one.dtype).reshape(one.shape)
                for name, (place, one) in _places(self.fields, self.base).items()
            }
        )

    def is_intact(self) -> bool:
        """Whether every byte of the arrays is the one that was written."""
        return _checksum(_pieces(self.path, self.base)) == self.checksum


def _places(fields: dict[str, Field], base: int) -> dict[str, tuple[int, Field]]:
    found = {}
    for name, one in fields.items():
        found[name] = (base, one)
        base += one.nbytes
    return found


def _pieces(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(PIECE):
            yield piece


def look(folder: Path, manifest: Manifest, index: int) -> Shard:
    """A shard of a cache; ValueError unless it is whole and this cache's."""
    path = folder / name_of(index)
    rows = len(manifest.rows_of(index))
    with path.open("rb") as file:
        bytes_there = path.stat().st_size
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length < bytes_there else b""
        found = _claims(text)
        if found is None:
            raise _damaged(path, folder, manifest, "its header is not readable")
        build, checksum, positions = found
        if build != manifest.build:
            raise _damaged(path, folder, manifest, "it is of another cache")
        fields = layout(manifest, rows, positions)
        wanted = header(manifest, rows, positions, checksum)
        if text != wanted[8:]:
            raise _damaged(path, folder, manifest, "its header is not that of its rows")
        end = len(wanted) + sum(one.nbytes for one in fields.values())
        if bytes_there != end:
            raise _damaged(path, folder, manifest, f"{bytes_there} bytes where {end} belong")
        small = {}
        for name, (place, one) in _places(fields, len(wanted)).items():
            if name in ("start", "hash"):
                file.seek(place)
                small[name] = np.frombuffer(file.read(one.nbytes), one.dtype).reshape(one.shape)
    start = small["start"]
    if start[0] != 0 or start[-1] != positions or (np.diff(start) < 0).any():
        raise _damaged(path, folder, manifest, "its rows overlap")
    return Shard(path, fields, len(wanted), checksum, start, small["hash"])


def _claims(text: bytes) -> tuple[str, str, int] | None:
    """The build, the checksum and the positions that a header speaks of."""
    try:
        raw = json.loads(text)
        about, (positions, _) = raw["__metadata__"], raw["ids"]["shape"]
        found = (about["build"], about["checksum"], positions)
    except (ValueError, KeyError, TypeError):
        return None
    fits = isinstance(positions, int) and positions >= 0 and len(str(found[1])) == 32
    return found if fits else None


def _damaged(path: Path, folder: Path, manifest: Manifest, why: str) -> ValueError:
    remedy = f"remove it, then {manifest.command(folder)} makes it again"
    return ValueError(f"{path}: is damaged ({why}): {remedy}")
