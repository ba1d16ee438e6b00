"""Rows of a Parquet file, and what its types do to them.

A column of a fixed type gives every row the same fields: where a row had none, it reads null. In
messages that does no harm. In tool schemas and in arguments it invents fields, so a null there is
refused; lists of schemas belong into a column of JSON text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from star_jax.chat import Fault

_FIELDS = ("id", "messages", "tools", "inputs", "targets", "prompt", "completion", "outputs")
_NO_NUMBERS = (float("inf"), float("-inf"))
_REMEDY = "store it as JSON text (json.dumps), for a typed column cannot hold it"


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, numbered from 1, a few at a time."""
    import pyarrow as pa  # takes a tenth of a second, and few rows are Parquet
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in _FIELDS]
            if not columns:
                raise ValueError(f"{path}: has no column that rows need: see {', '.join(_FIELDS)}")
            rows = (
                row
                for batch in file.iter_batches(batch_size=64, columns=columns)
                for row in batch.to_pylist()
            )
            yield from enumerate(rows, 1)
    except pa.ArrowException as error:
        message = f"cannot be read as Parquet ({error}): fetch or write the file again"
        raise ValueError(f"{path}: {message}") from error


def fault(row: dict[str, Any]) -> Fault | None:
    """The first value in tools or arguments that the column's type has made, or may have made."""
    places = [("tools", row.get("tools", []))]
    for name in ("messages", "prompt", "completion"):
        messages = row.get(name)
        for index, message in enumerate(messages if isinstance(messages, list) else ()):
            places += _arguments(f"{name}[{index}]", message)
    for field, value in places:
        for path, leaf in _leaves(field, value):
            if leaf is None:
                return Fault(path, "is null, perhaps because other rows have the field", _REMEDY)
            if not isinstance(leaf, str | int | float) or leaf in _NO_NUMBERS or leaf != leaf:
                return Fault(path, f"is {leaf!r}, which JSON has not", _REMEDY)
    return None


def _arguments(field: str, message: Any) -> Iterator[tuple[str, Any]]:
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    for index, call in enumerate(calls if isinstance(calls, list) else ()):
        if isinstance(call, dict):
            function = call.get("function") or call
            if isinstance(function, dict) and function.get("arguments") is not None:
                yield f"{field}.tool_calls[{index}].arguments", function["arguments"]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    children: Iterable[tuple[str, Any]]
    match value:
        case dict():
            children = ((f"{path}.{name}", child) for name, child in value.items())
        case list():
            children = ((f"{path}[{index}]", child) for index, child in enumerate(value))
        case _:
            yield path, value
            return
    for name, child in children:
        yield from _leaves(name, child)
