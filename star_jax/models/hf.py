"""A Hugging Face folder → (config, params), streamed.

load:  config.json → Qwen3Config; every tensor's name, shape and extent checked; then, row by row
       of the table, bytes from the files straight into each device's shard
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from star_jax.models import config as config_module
from star_jax.models import layout, sharding, tensorfile
from star_jax.models.config import Qwen3Config
from star_jax.models.tensorfile import CheckpointError, Entry, Reader

CONFIG = "config.json"
GENERATION = "generation_config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Files that make up a tokenizer; an export carries them over byte for byte.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)
DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
# Threads that read. More than a few add nothing: they wait for memory, not for each other.
READERS = min(4, os.cpu_count() or 1)


Bounds = tuple[tuple[int, int], ...]  # start and end of a shard along each axis


@dataclass(frozen=True)
class Model:
    """What a folder holds: an architecture and its parameters."""

    config: Qwen3Config
    params: layout.Params


def load(folder: str | Path, dtype: Any = "float32", mesh: Mesh | None = None) -> Model:
    """A Qwen3 folder, its tensors cast to `dtype`, on one device or shard by shard on a mesh.

    Nothing is read before everything is known to be right: CheckpointError says what is not.
    """
    folder = Path(folder)
    wanted = as_dtype(dtype)
    config = read_config(folder)
    for problem in tensor_problems(folder, config):  # the first is enough
        raise CheckpointError(problem)
    entries = read_entries(folder)
    if mesh is not None:
        placed = sharding.param_shardings(config, mesh)
    else:
        placed = layout.tree(config, lambda row: SingleDeviceSharding(jax.devices()[0]))
    with Reader() as reader, ThreadPoolExecutor(READERS) as pool:
        for entry in entries.values():
            reader.open(entry.path)

        def read(row: layout.Row) -> jax.Array:
            found = [entries[name] for name in row.hf_names(config)]
            place = layout.leaf(placed, row)
            return _read_row(row, config, found, wanted, place, reader, pool)

        return Model(config, layout.tree(config, read))


def as_dtype(dtype: Any) -> np.dtype:
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text, object_pairs_hook=tensorfile.unique)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file; is this a Hugging Face model folder?"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def read_config(folder: Path) -> Qwen3Config:
    """The folder's architecture, or the first thing in config.json that stands against it."""
    raw = read_json(folder / CONFIG)
    for problem in config_module.problems(raw):
        raise CheckpointError(f"{folder / CONFIG}: {problem}")
    try:
        return config_module.from_hf(raw)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None


def weight_files(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The folder's safetensors files, and the index's map from tensor to file if there is one."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f"{folder}: holds both {SINGLE} and {INDEX}, which may be two models; remove one"
        )
    if single.is_file():
        return [single], None
    if not index.is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        convert = f" ({others[0]} is a PyTorch file: convert it to safetensors)" if others else ""
        raise CheckpointError(f"{folder}: no {SINGLE} and no {INDEX} in it{convert}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in weight_map.values()
    ):
        raise CheckpointError(f"{index}: weight_map must map each tensor to a file of this folder")
    return [folder / name for name in sorted(set(weight_map.values()))], weight_map


def read_entries(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder's files; CheckpointError where files and index disagree."""
    files, weight_map = weight_files(folder)
    entries: dict[str, Entry] = {}
    for path in files:
        if not path.is_file():
            raise CheckpointError(f"{path}: missing, but {INDEX} names it; fetch it again")
        for name, entry in tensorfile.read_header(path).items():
            if name in entries:
                raise CheckpointError(f"{path}: {name}: also in {entries[name].path.name}")
            if weight_map is not None and weight_map.get(name) != path.name:
                said = (
                    f"puts it in {weight_map[name]}" if name in weight_map else "does not name it"
                )
                raise CheckpointError(f"{path}: {name}: {INDEX} {said}")
            entries[name] = entry
    for name, file in (weight_map or {}).items():
        if name not in entries:
            raise CheckpointError(f"{folder / file}: {name}: missing, but {INDEX} says it is there")
    return entries


def tensor_problems(folder: Path, config: Qwen3Config) -> Iterator[str]:
    """Where the folder's tensors are not the ones that its config.json asks for."""
    try:
        entries = read_entries(folder)
    except CheckpointError as error:
        yield str(error)
        return
    wanted = layout.hf_shapes(config)
    for name, shape in wanted.items():
        if name not in entries:
            yield f"{folder}: {name}: no file has this tensor, config.json asks for it"
        elif entries[name].shape != shape:
            entry = entries[name]
            asked = f"config.json asks for {list(shape)}"
            yield f"{entry.path}: {name}: is {list(entry.shape)}, {asked}"
    for name, entry in entries.items():
        is_copy = config.tie_word_embeddings and name == layout.HEAD.hf_name
        if name not in wanted and not is_copy:
            yield f"{entry.path}: {name}: a tensor that this architecture does not have"
        elif entry.dtype not in tensorfile.DTYPES:
            yield f"{entry.path}: {name}: dtype {entry.dtype}; star_jax reads F32, F16 and BF16"
    # Some tied checkpoints, Qwen3-0.6B among them, store the head as well: it must be the same.
    copy, table = entries.get(layout.HEAD.hf_name), entries.get(layout.EMBED.hf_name)
    if config.tie_word_embeddings and copy and table and not _is_tied_copy(copy, table):
        yield (
            f"{copy.path}: {copy.name}: differs from {table.name}, but config.json ties the two; "
            "set tie_word_embeddings to false if the head is its own"
        )


def _is_tied_copy(copy: Entry, table: Entry) -> bool:
    """Bit for bit the same, a piece at a time."""
    if (copy.dtype, copy.shape) != (table.dtype, table.shape):
        return False
    buffers = np.empty((2, tensorfile.CHUNK), np.uint8)
    with Reader() as reader:
        for start in range(0, table.nbytes, tensorfile.CHUNK):
            size = min(tensorfile.CHUNK, table.nbytes - start)
            for entry, buffer in zip((table, copy), buffers, strict=True):
                reader.open(entry.path)
                reader.fill(entry, start, buffer[:size])
            if not np.array_equal(buffers[0, :size], buffers[1, :size]):
                return False
    return True


def _read_row(
    row: layout.Row,
    config: Qwen3Config,
    entries: list[Entry],
    dtype: np.dtype,
    placed: Any,
    reader: Reader,
    pool: ThreadPoolExecutor,
) -> jax.Array:
    """One array of ours, each device's shard filled from the files and put where it belongs."""
    shape = row.shape(config)
    regions: dict[Bounds, list[Any]] = {}
    for device, index in placed.addressable_devices_indices_map(shape).items():
        # Devices that hold the same region share what was read.
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))
        regions.setdefault(bounds, []).append(device)
    shards = {
        bounds: tensorfile.aligned(tuple(end - start for start, end in bounds), dtype)
        for bounds in regions
    }
    read = functools.partial(_read_piece, row.layer_shape(config), shards, reader)
    for _ in pool.map(read, _pieces(row, config, entries)):
        pass
    arrays = [
        jax.device_put(shards[bounds], device)
        for bounds, devices in regions.items()
        for device in devices
    ]
    return jax.block_until_ready(jax.make_array_from_single_device_arrays(shape, placed, arrays))


@dataclass(frozen=True)
class _Piece:
    """Rows start:end of the first axis of one of the file's tensors."""

    entry: Entry
    layer: int | None
    start: int
    end: int


def _pieces(row: layout.Row, config: Qwen3Config, entries: list[Entry]) -> Iterator[_Piece]:
    rows = row.layer_shape(config)[0]
    for layer, entry in enumerate(entries):
        step = max(1, tensorfile.CHUNK // max(1, entry.nbytes // rows))
        for start in range(0, rows, step):
            end = min(start + step, rows)
            yield _Piece(entry, layer if row.is_stacked else None, start, end)


def _read_piece(
    shape: tuple[int, ...], shards: Mapping[Bounds, np.ndarray], reader: Reader, piece: _Piece
) -> None:
    """A piece goes to every shard that has a part of it: straight where it fits, else by a copy."""
    stored = tensorfile.DTYPES[piece.entry.dtype]
    row_bytes = piece.entry.nbytes // shape[0]
    scratch: np.ndarray | None = None
    for bounds, shard in shards.items():
        # Layers are never split over devices, so a shard has all of them.
        own, target = (bounds, shard) if piece.layer is None else (bounds[1:], shard[piece.layer])
        start, end = max(piece.start, own[0][0]), min(piece.end, own[0][1])
        if start >= end:
            continue
        part = target[start - own[0][0] : end - own[0][0]]
        if part.dtype == stored and part.shape[1:] == shape[1:]:
            reader.fill(piece.entry, start * row_bytes, part)
            continue
        if scratch is None:
            scratch = np.empty((piece.end - piece.start, *shape[1:]), stored)
            reader.fill(piece.entry, piece.start * row_bytes, scratch)
        rows = slice(start - piece.start, end - piece.start)
        cut = scratch[(rows, *(slice(*bound) for bound in own[1:]))]
        try:
            with np.errstate(over="raise"):
                part[...] = cut
        except FloatingPointError:
            raise CheckpointError(
                f"{piece.entry.path}: {piece.entry.name}: holds values beyond {part.dtype}; "
                "load it as bfloat16 or float32"
            ) from None
