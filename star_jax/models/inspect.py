"""What a model folder holds, and what stops star_jax from loading it: a report for people.

Nothing is loaded: config.json, the index, the headers of the safetensors files and the tokenizer's
files are read, and every problem is listed, where `load` stops at the first.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from star_jax.models import card, hf, layout
from star_jax.models import config as config_module
from star_jax.models.config import Qwen3Config
from star_jax.models.tensorfile import CheckpointError


@dataclass(frozen=True)
class Report:
    folder: str
    architecture: str
    parameters: int | None  # of the architecture, a tied head counted once; None if unknown
    embedding_parameters: int | None
    files: tuple[str, ...]
    tensors: int
    nbytes: int
    dtypes: tuple[tuple[str, int], ...]  # the files' dtypes, and how many tensors have each
    tokenizer: str
    problems: tuple[str, ...]  # why `load` would refuse; empty where it would not
    warnings: tuple[str, ...]  # what loads, but will hurt later: a tokenizer that does not fit

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def to_text(self) -> str:
        dtypes = ", ".join(f"{dtype} × {count}" for dtype, count in self.dtypes) or "none"
        parameters = "unknown"
        if self.parameters is not None and self.embedding_parameters is not None:
            words = card.in_words(self.parameters)
            share = self.embedding_parameters / self.parameters
            parameters = f"{self.parameters:,} ({words}; {share:.0%} of them the embedding table)"
        lines = [
            self.folder,
            f"  architecture  {self.architecture}",
            f"  parameters    {parameters}",
            f"  tensors       {self.tensors}: {dtypes}; files: {len(self.files)}",
            f"  bytes         {self.nbytes:,}",
            f"  tokenizer     {self.tokenizer}",
        ]
        lines += [f"  warning       {warning}" for warning in self.warnings]
        lines += [f"  refused       {problem}" for problem in self.problems]
        if not self.problems:
            lines.append("  loads         yes")
        return "\n".join(lines)


def inspect(folder: str | Path) -> Report:
    """Read what a folder says of itself; CheckpointError only where there is no folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    config, problems = _config(folder)
    try:
        entries = hf.read_entries(folder)
    except CheckpointError as error:
        entries = {}
        problems.append(str(error))
    else:
        problems.extend(hf.tensor_problems(folder, config) if config is not None else ())
    files = sorted({entry.path.name for entry in entries.values()})
    kinds = collections.Counter(entry.dtype for entry in entries.values())
    tokenizer, tokenizer_problems = _tokenizer(folder, config)
    return Report(
        folder=str(folder),
        architecture=_architecture(config) if config else "not a Qwen3 that star_jax can compute",
        parameters=layout.count(config) if config else None,
        embedding_parameters=config.vocab_size * config.hidden_size if config else None,
        files=tuple(files),
        tensors=len(entries),
        nbytes=sum(entry.nbytes for entry in entries.values()),
        dtypes=tuple(sorted(kinds.items())),
        tokenizer=tokenizer,
        problems=tuple(problems),
        warnings=tuple(tokenizer_problems),
    )


def _config(folder: Path) -> tuple[Qwen3Config | None, list[str]]:
    try:
        raw = hf.read_json(folder / hf.CONFIG)
    except CheckpointError as error:
        return None, [str(error)]
    found = [f"{folder / hf.CONFIG}: {problem}" for problem in config_module.problems(raw)]
    if found:
        return None, found
    try:
        return hf.read_config(folder), []
    except CheckpointError as error:
        return None, [str(error)]


def _architecture(config: Qwen3Config) -> str:
    tied = "tied head" if config.tie_word_embeddings else "untied head"
    return (
        f"Qwen3: {config.num_layers} layers, width {config.hidden_size}, "
        f"{config.num_heads} heads of {config.head_dim} ({config.num_kv_heads} for keys), "
        f"SwiGLU {config.intermediate_size}, vocabulary {config.vocab_size}, {tied}, "
        f"rope theta {config.rope_theta:g}"
    )


def _tokenizer(folder: Path, config: Qwen3Config | None) -> tuple[str, list[str]]:
    """A sentence on the tokenizer, and what would make its ids meaningless to the model."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return "none (no tokenizer.json)", []
    try:
        ids = [int(token_id) for token_id in _ids(hf.read_json(path))]
        settings = _settings(folder)
    except (CheckpointError, ValueError, KeyError, TypeError, AttributeError) as error:
        return "unreadable", [f"{path}: not a tokenizer that can be read: {error}"]
    has_template = (folder / "chat_template.jinja").is_file() or "chat_template" in settings
    template = "with a chat template" if has_template else "without a chat template"
    sentence = f"{len(ids):,} entries, {template}"
    if config is not None and ids and max(ids) >= config.vocab_size:
        return sentence, [f"{path}: id {max(ids)} is beyond the vocabulary of {config.vocab_size}"]
    return sentence, []


def _ids(raw: dict[str, Any]) -> Iterator[int]:
    vocab = raw["model"]["vocab"]
    known = set(vocab.values())
    yield from known
    yield from (token["id"] for token in raw.get("added_tokens", ()) if token["id"] not in known)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return hf.read_json(path) if path.is_file() else {}
