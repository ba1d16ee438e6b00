"""What a cache depends on, as hashes: the teacher's folder and the rows' examples."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from star_jax.data.cache.shard import HASH_BYTES
from star_jax.data.encode import Examples

CHUNK = 8 << 20  # bytes of a file that are in memory at once


def teacher_hash(folder: str | Path) -> str:
    """Of what config.json says, however it is laid out, and every byte of the weights."""
    from star_jax.models import hf  # brings jax along, which reading a cache does not need

    folder = Path(folder)
    raw = hf.read_json(folder / hf.CONFIG)
    hf.read_entries(folder)  # names what is missing or damaged
    files, _ = hf.weight_files(folder)
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_file_hash, files))
    made = hashlib.blake2b(json.dumps(raw, sort_keys=True).encode(), digest_size=16)
    for path, digest in zip(files, digests, strict=True):
        made.update(json.dumps([path.name, digest]).encode())
    return made.hexdigest()


def _file_hash(path: Path) -> str:
    made = hashlib.blake2b()
    buffer = bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            made.update(memoryview(buffer)[:count])  # lets go of the interpreter's lock
    return made.hexdigest()


def example_hashes(examples: Examples) -> np.ndarray:
    """uint8 [rows, 16]."""
    found = b"".join(examples.hash(index) for index in range(len(examples)))
    return np.frombuffer(found, np.uint8).reshape(len(examples), HASH_BYTES)


def rows_hash(hashes: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(hashes).data, digest_size=16).hexdigest()
