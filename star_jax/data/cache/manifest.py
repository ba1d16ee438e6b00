"""What a cache is of and how it is stored: manifest.json, which every shard answers to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_jax.data.cache import partfile
from star_jax.version import __version__

FILE = "manifest.json"
FORMAT = 1
# Fields that tell how it was asked for; the same content may lie elsewhere by now.
NOTES = ("teacher", "rows_file", "model", "skip_bad", "star_jax")
MAY_BE_0 = ("positions", "skip_bad")
NAMES = {
    "format": "the format",
    "teacher_hash": "the teacher's hash",
    "tokenizer_hash": "the tokenizer's hash",
    "template_hash": "the chat template's hash",
    "reasoning": "--reasoning",
    "rows": "the number of rows",
    "positions": "the number of target positions",
    "rows_hash": "the rows' hash",
    "vocab_size": "the teacher's vocabulary",
    "top_k": "--top-k",
    "dtype": "--dtype",
    "approximate": "--approximate",
    "compute_dtype": "--compute",
    "rows_per_shard": "--rows-per-shard",
}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    teacher_hash: str  # of its config.json and its weights
    tokenizer_hash: str
    template_hash: str
    reasoning: str  # "keep" or "drop": what became of the answers' reasoning
    rows: int
    positions: int  # target positions of all rows
    rows_hash: str  # of all examples' hashes, in their order
    vocab_size: int
    top_k: int
    dtype: str  # of the stored log-probs
    approximate: bool  # whether the lists were found by approx_max_k
    compute_dtype: str  # of the teacher
    rows_per_shard: int
    teacher: str  # the folders and the file as they were given
    rows_file: str
    model: str | None
    skip_bad: int
    star_jax: str = __version__
    format: int = field(default=FORMAT)

    @property
    def shards(self) -> int:
        return -(-self.rows // self.rows_per_shard)

    def rows_of(self, shard: int) -> range:
        start = shard * self.rows_per_shard
        return range(start, min(start + self.rows_per_shard, self.rows))

    @property
    def build(self) -> str:
        """A name for this content in this form; each shard bears it."""
        made = {name: value for name, value in self._raw().items() if name not in NOTES}
        content = json.dumps(made, sort_keys=True).encode()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def command(self, folder: str | Path) -> str:
        """What makes, or goes on making, this cache."""
        words = ["python", "-m", "star_jax.data", "cache", "build", str(folder)]
        words += ["--teacher", self.teacher, "--rows", self.rows_file]
        words += ["--model", self.model] if self.model is not None else []
        words += ["--top-k", str(self.top_k), "--dtype", self.dtype, "--compute"]
        words += [self.compute_dtype, *["--approximate"] * self.approximate]
        words += ["--reasoning", "drop"] if self.reasoning == "drop" else []
        words += ["--skip-bad", str(self.skip_bad)] if self.skip_bad else []
        return shlex.join(words)

    def to_json(self) -> bytes:
        return (json.dumps(self._raw(), indent=2, ensure_ascii=False) + "\n").encode()

    def _raw(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def differences(held: Manifest, asked: Manifest) -> list[str]:
    """Which content or form is another, old value and new."""
    found = []
    for name, words in NAMES.items():
        old, new = getattr(held, name), getattr(asked, name)
        if old != new:
            found.append(f"{words} was {old} and is now {new}")
    return found


def path_of(folder: Path) -> Path:
    return folder / FILE


def write(folder: Path, manifest: Manifest) -> None:
    partfile.write(path_of(folder), [manifest.to_json()])


def read(folder: Path) -> Manifest:
    """The manifest of a cache; ValueError for what is none."""
    path = path_of(folder)
    if not path.is_file():
        what = "there is no such folder" if not folder.is_dir() else f"holds no {FILE}"
        raise ValueError(
            f"{folder}: {what}, so it is no cache: build one (python -m star_jax.data cache build)"
        )
    try:
        raw = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}): build the cache anew") from None
    fault = _fault(raw)
    if fault is not None:
        raise ValueError(f"{path}: {fault}: build the cache anew with this star_jax")
    return Manifest(**raw)


def _fault(raw: Any) -> str | None:
    if not isinstance(raw, dict):
        return "is no object"
    if raw.get("format") != FORMAT:
        return f"format is {raw.get('format')!r}, this star_jax reads {FORMAT}"
    fields = {each.name: each.type for each in dataclasses.fields(Manifest)}
    if fields.keys() != raw.keys():
        odd = sorted(fields.keys() ^ raw.keys())
        return f"{odd[0]} is {'missing' if odd[0] in fields else 'unknown'}"
    kinds: dict[Any, Any] = {"int": int, "bool": bool, "str": str, "str | None": (str, type(None))}
    for name, kind in fields.items():
        value = raw[name]
        fits = isinstance(value, kinds[kind]) and (kind == "bool" or not isinstance(value, bool))
        if not fits or (kind == "int" and value < (0 if name in MAY_BE_0 else 1)):
            return f"{name} is {value!r}"
    return None
