"""Rows of the world as files, in every form that `data.read` takes.

messages  {id, messages, tools}               text    {id, prompt, completion, tools}, rendered
prompt    {id, prompt, completion, tools},    pairs   {id, inputs, targets, tools}, rendered
          both of them messages               star    {id, inputs, targets}, as STAR renders them

Every row says its split, case and domain as well. The name decides about the container: .jsonl,
.jsonl.gz or .parquet.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from star_jax import chat
from star_jax.data import trainset
from star_jax.data.read import Conversation
from star_jax.world.generate import Row

FORMATS = ("messages", "prompt", "text", "pairs", "star")
LABELS = ("split", "case", "domain")
AT_ONCE = 1024  # rows of a Parquet group


def write(
    path: str | Path, rows: Iterable[Row], form: str = "messages", *, overwrite: bool = False
) -> int:
    """Write rows and count them. The file appears when it is whole, or never."""
    path = Path(path)
    if form not in FORMATS:
        raise ValueError(f"format is {form!r}: choose among {', '.join(FORMATS)}")
    records = (record(row, form) for row in rows)
    if path.suffix == ".parquet":
        return _write_parquet(path, records, overwrite)
    if path.suffixes[-1:] != [".jsonl"] and path.suffixes[-2:] != [".jsonl", ".gz"]:
        raise ValueError(f"{path}: is of no known kind: name it .jsonl, .jsonl.gz or .parquet")
    return trainset.write(path, records, overwrite=overwrite)


def record(row: Row, form: str) -> dict[str, Any]:
    """A row in one of the forms."""
    labels = {name: row[name] for name in LABELS}
    match form:
        case "prompt":
            *prompt, answer = row["messages"]
            halves = {"prompt": prompt, "completion": [answer]}
            return {"id": row["id"], **halves, "tools": row["tools"], **labels}
        case "text":
            made = trainset.native(conversation(row), chat.render)
            halves = {"prompt": made["inputs"], "completion": made["targets"]}
            return {"id": row["id"], **halves, "tools": row["tools"], **labels}
        case "pairs":
            return {**trainset.native(conversation(row), chat.render), **labels}
        case "star":
            return {**trainset.star(conversation(row), chat.render, keep_reasoning=True), **labels}
    return {"id": row["id"], "messages": row["messages"], "tools": row["tools"], **labels}


def conversation(row: Row, line: int = 1) -> Conversation:
    """A row as `data.read` would give it."""
    return Conversation(row["id"], tuple(row["messages"]), tuple(row["tools"]), line)


def _write_parquet(path: Path, records: Iterator[dict[str, Any]], overwrite: bool) -> int:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already: choose another name, or pass --force")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: there is no such folder: make it first")
    call = pa.struct([("name", pa.string()), ("arguments", pa.string())])
    texts = [(name, pa.string()) for name in ("role", "reasoning_content", "content")]
    messages = pa.list_(pa.struct([*texts, ("tool_calls", pa.list_(call))]))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with open(part, "xb") as file:
            first = next(records, None)
            if first is None:
                raise ValueError(f"{path}: there is no row to write: ask for one or more")
            schema = pa.schema(
                (name, messages if name != "tools" and isinstance(value, list) else pa.string())
                for name, value in first.items()
            )
            with parquet.ParquetWriter(file, schema) as writer:
                for group in _groups(itertools.chain([first], records)):
                    columns = [_column(each) for each in group]
                    writer.write_table(pa.Table.from_pylist(columns, schema))
                    count += len(group)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _column(record: dict[str, Any]) -> dict[str, Any]:
    """Schemas and arguments as JSON text: a typed column would give each the fields of all."""
    made = dict(record)
    for name, value in record.items():
        if name == "tools":
            made[name] = json.dumps(value, ensure_ascii=False)
        elif isinstance(value, list):
            made[name] = [_flat(message) for message in value]
    return made


def _flat(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = [
        {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _groups(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(itertools.islice(records, AT_ONCE)):
        yield group
