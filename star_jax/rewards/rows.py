"""Stored completions: JSON lines of {id, generation, label, tools}, plain or .gz.

`generation` starts at its <think> and may keep its special tokens; `label` is the right
continuation with one </think>; `tools` are the row's JSON schemas, [] or absent where it has none.
Further fields stay with the row.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from star_jax.rewards.combine import Sample


def read(path: Path) -> Iterator[Sample]:
    """The rows of a file; ValueError with file, line, field and remedy where one is malformed."""
    opened = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _sample(line, f"{path}:{number}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}:{number + 1}: the gzip stream is damaged ({error}): fetch or write it again"
        ) from error


def find(path: Path, row_id: str) -> Sample:
    """The row with an id; ValueError where the file has none."""
    for sample in read(path):
        if sample.id == row_id:
            return sample
    raise ValueError(f"{path}: no row has id {row_id!r}; pass one of the file's ids to --row")


def _sample(line: bytes, where: str) -> Sample:
    try:
        row = json.loads(line.decode())
        json.dumps(row, ensure_ascii=False).encode()  # half of a surrogate pair can't be written
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}); write one object a line") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a {type(row).__name__}; write one object a line")
    known = {"id", "generation", "label", "tools"}
    return Sample(
        generation=_text(row, "generation", where),
        label=_text(row, "label", where),
        tools=_tools(row, where),
        id=_text(row, "id", where),
        fields={name: value for name, value in row.items() if name not in known},
    )


def _text(row: Mapping[str, Any], field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {field}: is {_shown(row, field)}; it has to be a string")
    return value


def _tools(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    tools = row.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(f"{where}: tools: is {_shown(row, 'tools')}; write a list of schemas")
    return tools


def _shown(row: Mapping[str, Any], field: str) -> str:
    return f"{row[field]!r:.60}" if field in row else "missing"
