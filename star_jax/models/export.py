"""(config, params) → a Hugging Face folder that every other tool of the ecosystem loads.

Shards of a chosen size with their index, config.json in both spellings, generation_config.json, the
tokenizer's files and a model card. All of it is written into a hidden folder beside the final one,
which takes the final name when it is complete: a killed export leaves nothing under that name.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from jax.experimental import multihost_utils

from star_jax.models import card, hf, layout
from star_jax.models import config as config_module
from star_jax.models.config import Qwen3Config

log = logging.getLogger(__name__)

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def save(
    folder: str | Path,
    config: Qwen3Config,
    params: layout.Params,
    like: str | Path | None = None,
    *,
    dtype: Any = None,
    max_shard_size: int | str = "5GB",
    generation: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model folder; its path is returned once every byte is on the disk.

    `like` is the folder that the model came from: its config.json, generation_config.json and
    tokenizer files are carried over. Without it, `generation` gives generation_config.json (the
    token ids that begin, end and pad). Tensors keep the dtype of `params` unless `dtype` is given.
    Every process of a multi-host run calls this; the first one writes.
    """
    folder = Path(os.path.abspath(folder))
    like = None if like is None else Path(like)
    layout.check(config, params)
    stored = hf.as_dtype(dtype) if dtype is not None else _only_dtype(params)
    shard_bytes = as_bytes(max_shard_size)
    if jax.process_index() == 0:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
    _check_name(folder, like, overwrite)
    documents = _documents(config, params, like, stored, generation)
    tensors = _host_tensors(config, params, stored)
    if jax.process_index() == 0:
        _write(folder, documents, like, _shards(config, stored, shard_bytes), tensors)
    else:
        for _ in tensors:  # every process takes part in gathering each tensor
            pass
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"export {folder}")
    return folder


def _only_dtype(params: layout.Params) -> np.dtype:
    found = sorted({np.dtype(x.dtype).name for x in jax.tree.leaves(params)})
    if len(found) > 1:
        raise ValueError(f"params mix {' and '.join(found)}; say which to store with dtype=")
    return hf.as_dtype(found[0])


def _check_name(folder: Path, like: Path | None, overwrite: bool) -> None:
    """Refuse a name that is taken: the first process looks, all get its answer."""
    taken, odd = False, False
    if jax.process_index() == 0:
        odd = folder.is_symlink() or (folder.exists() and not folder.is_dir())
        taken = odd or (folder.is_dir() and any(folder.iterdir()))
    taken, odd = (bool(x) for x in multihost_utils.broadcast_one_to_all(np.array([taken, odd])))
    if odd:
        raise FileExistsError(f"{folder}: is a file or a link, not a folder; choose another name")
    if taken and not overwrite:
        raise FileExistsError(
            f"{folder}: already there; choose another name or pass overwrite=True"
        )
    if like is not None and folder.resolve() in like.resolve().parents:
        raise ValueError(f"{folder}: holds {like}, which would be lost; choose another name")


def as_bytes(size: int | str) -> int:
    """5_000_000_000, "5GB" and "4.5 GiB" are sizes."""
    found = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", str(size))
    unit = UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None or found[1].count(".") > 1 or found[1] == ".":
        raise ValueError(f"max_shard_size must be bytes or a size like '5GB', got {size!r}")
    if (total := int(float(found[1]) * unit)) < 1:
        raise ValueError(f"max_shard_size must be above 0, got {size!r}")
    return total


def _shards(config: Qwen3Config, dtype: np.dtype, shard_bytes: int) -> list[list[str]]:
    """Names of the tensors, cut into runs of at most so many bytes (a larger tensor: alone)."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in layout.hf_shapes(config).items():
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def _host_tensors(
    config: Qwen3Config, params: layout.Params, dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """One tensor at a time on this host, whole and in C order: safetensors needs it so."""
    for name, tensor in layout.hf_tensors(config, params):
        if isinstance(tensor, jax.Array) and not tensor.is_fully_addressable:
            tensor = multihost_utils.process_allgather(tensor, tiled=True)
        try:
            with np.errstate(over="raise"):
                whole = np.asarray(tensor).astype(dtype, copy=False)
        except FloatingPointError:
            raise ValueError(f"{name}: holds values beyond {dtype}; choose another dtype") from None
        yield name, np.ascontiguousarray(whole)


def _documents(
    config: Qwen3Config,
    params: layout.Params,
    like: Path | None,
    dtype: np.dtype,
    generation: Mapping[str, Any] | None,
) -> dict[str, str]:
    """The folder's text files that are written rather than copied."""
    raw = hf.read_json(like / hf.CONFIG) if like is not None else None
    for problem in config_module.problems(raw) if raw is not None else ():
        # What it asks for is not what these parameters were computed with.
        raise hf.CheckpointError(f"{like}/{hf.CONFIG}: {problem}")
    out = config_module.to_hf(config, dtype.name, like=raw)
    if generation is not None:
        ids = {key: value for key, value in generation.items() if key.endswith("_token_id")}
        out = {**out, **ids}
    documents = {hf.CONFIG: _json(out)}
    if generation is not None:
        documents[hf.GENERATION] = _json(dict(generation))
    elif like is None or not (like / hf.GENERATION).is_file():
        ids = {
            key: out[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in out
        }
        documents[hf.GENERATION] = _json({"do_sample": False, **ids})
    documents["README.md"] = card.text(config, layout.count(config), dtype.name, like)
    return documents


def _json(raw: Mapping[str, Any]) -> str:
    return json.dumps(raw, indent=2, ensure_ascii=False) + "\n"


def _write(
    folder: Path,
    documents: Mapping[str, str],
    like: Path | None,
    shards: list[list[str]],
    tensors: Iterator[tuple[str, np.ndarray]],
) -> None:
    partial = _beside(folder, "partial")
    partial.mkdir()
    try:
        _write_tensors(partial, shards, tensors)
        for name, text in documents.items():
            (partial / name).write_text(text, encoding="utf-8")
        if like is not None:
            _copy(like, partial, skip=documents)
        for path in partial.iterdir():
            _sync(path)
        _sync(partial)
        _take_name(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    log.info("wrote %s", folder)


def _write_tensors(
    partial: Path, shards: list[list[str]], tensors: Iterator[tuple[str, np.ndarray]]
) -> None:
    weight_map, total_bytes, total_count = {}, 0, 0
    for number, names in enumerate(shards, start=1):
        held = {name: tensor for name, (_, tensor) in zip(names, tensors, strict=False)}
        file = (
            f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else hf.SINGLE
        )
        safetensors.numpy.save_file(held, partial / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
        total_bytes += sum(tensor.nbytes for tensor in held.values())
        total_count += sum(tensor.size for tensor in held.values())
    if len(shards) > 1:
        metadata = {"total_parameters": total_count, "total_size": total_bytes}
        index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        (partial / hf.INDEX).write_text(_json(index), encoding="utf-8")


def _copy(like: Path, partial: Path, skip: Mapping[str, str]) -> None:
    for name in (*hf.TOKENIZER_FILES, hf.GENERATION):
        if name not in skip and (like / name).is_file():
            shutil.copyfile(like / name, partial / name)


def _take_name(partial: Path, folder: Path) -> None:
    """The complete folder takes the final name; one that stood there is kept until it has."""
    old = None
    if folder.exists():
        old = _beside(folder, "replaced")
        folder.rename(old)
    try:
        partial.rename(folder)
    except BaseException:
        if old is not None:
            old.rename(folder)
        raise
    _sync(folder.parent)
    if old is not None:
        shutil.rmtree(old)


def _beside(folder: Path, kind: str) -> Path:
    """A hidden name next to the folder's, which tells whose it is: host and process."""
    owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    return folder.parent / f".{folder.name}.{owner}.{kind}"


def _sweep(folder: Path) -> None:
    """Clear what exports of this folder left behind when they were killed, on this host.

    One that was killed between its two renames left the old folder under its hidden name alone:
    that one gets its name back.
    """
    name = glob.escape(f".{folder.name}.{socket.gethostname()}-")
    for path in folder.parent.glob(f"{name}*-*"):
        found = re.fullmatch(r".*-(\d+)-[0-9a-f]{8}\.(partial|replaced)", path.name)
        if found is None or _is_alive(int(found[1])):
            continue
        if found[2] == "replaced" and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
