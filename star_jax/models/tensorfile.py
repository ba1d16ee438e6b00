"""safetensors files, read straight into the memory where a tensor will stay.

The library's reader returns each tensor as a fresh array, which a stack of layers or a shard would
then copy once more. The format is small (a length, a JSON header, the bytes), so this reads the
header, checks it whole before a byte of data is touched, and fills arrays that the caller owns.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
CHUNK = 8 << 20  # bytes read at a time where a tensor is cast or cut: small enough to stay in cache


class CheckpointError(ValueError):
    """A model folder that can't be read, with the file, the tensor and the remedy."""


@dataclass(frozen=True)
class Entry:
    """One tensor of one file."""

    path: Path
    name: str
    dtype: str  # as the file spells it
    shape: tuple[int, ...]
    start: int  # byte offset in the file
    nbytes: int


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different: of two, nobody knows which one was meant."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return made


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a file; CheckpointError unless the file is whole and well formed."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            raise CheckpointError(
                _not_safetensors(path, f"its header claims {length} bytes of {size}")
            )
        text = file.read(length)
    try:
        raw = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
        raw.pop("__metadata__", None)
        entries = {name: _entry(path, name, item, 8 + length) for name, item in raw.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            _not_safetensors(path, f"its header is not readable: {error}")
        ) from None
    _check_extent(path, entries, 8 + length, size)
    return entries


def _not_safetensors(path: Path, why: str) -> str:
    return f"{path}: not a safetensors file ({why}); fetch or convert it again"


def _entry(path: Path, name: str, item: dict[str, Any], base: int) -> Entry:
    start, end = item["data_offsets"]
    shape = tuple(item["shape"])
    whole = all(type(n) is int and n >= 0 for n in (start, end, *shape))
    if not whole or start > end or not isinstance(item["dtype"], str):
        raise CheckpointError(f"{path}: {name}: its offsets or shape make no sense: {item}")
    dtype = item["dtype"]
    if dtype in DTYPES and math.prod(shape) * DTYPES[dtype].itemsize != end - start:
        raise CheckpointError(
            f"{path}: {name}: {end - start} bytes do not hold {list(shape)} of {dtype}"
        )
    return Entry(path, name, dtype, shape, base + start, end - start)


def _check_extent(path: Path, entries: dict[str, Entry], base: int, size: int) -> None:
    place = base
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.nbytes)):
        if entry.start != place:
            raise CheckpointError(f"{path}: {entry.name}: overlaps its neighbour or leaves a gap")
        place += entry.nbytes
        if place > size:
            raise CheckpointError(
                f"{path}: truncated: {entry.name} ends at byte {place}, the file has {size}; "
                "fetch it again"
            )
    if place != size:
        raise CheckpointError(f"{path}: {size - place} bytes after the last tensor; fetch it again")


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array on a cache line: XLA's CPU backend takes such memory as it is."""
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.empty(nbytes + 128, np.uint8)
    start = -raw.ctypes.data % 128
    return raw[start : start + nbytes].view(dtype).reshape(shape)


class Reader:
    """Open files, each once, read at any place from any thread."""

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def open(self, path: Path) -> None:
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY)

    def fill(self, entry: Entry, start: int, out: np.ndarray) -> None:
        """Bytes of a tensor, from its byte `start` on, into a contiguous array."""
        view: Any = out.reshape(-1).view(np.uint8).data
        place = entry.start + start
        while len(view):
            count = os.preadv(self._files[entry.path], [view[: 1 << 30]], place)
            if count == 0:
                raise CheckpointError(
                    f"{entry.path}: {entry.name}: the file ended while it was read"
                )
            view, place = view[count:], place + count
