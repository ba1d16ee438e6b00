"""Files of rows, one at a time: JSON lines (plain or gzip) and Parquet.

Three kinds of row are understood, and told apart by their fields:

    {id, messages, tools}         a Conversation
    {id, inputs, targets, tools}  a Pair: STAR's training set, whose text is rendered
    {id, prompt, completion}      a Pair if they are texts, a Conversation if they are messages
    {id, prompt, chosen, rejected}, the same with the one or the other answer (`answer`)

`scan` gives a Row or a Bad for every row of a file; `read` gives the rows and tolerates as many bad
ones as it is told to. A file is never held in memory: of the rows that went by, only the ids are.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from star_jax import chat
from star_jax.chat import Fault, Message, Tool
from star_jax.data import parquet

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Conversation:
    """Messages and the tools that were on offer, both as data."""

    id: str | int
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    line: int = field(compare=False)  # where the row stands in its file, from 1


@dataclass(frozen=True)
class Pair:
    """A rendered prompt and the text that should follow. `tools` is None where the row has none."""

    id: str | int
    inputs: str
    targets: str
    tools: tuple[Tool, ...] | None
    line: int = field(compare=False)


Row = Conversation | Pair


@dataclass(frozen=True)
class Bad:
    """A row that cannot be used, and every reason why."""

    path: str
    line: int
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return "\n".join(f"{self.path}:{self.line}: {fault}" for fault in self.faults)


def read(path: str | Path, *, skip_bad: int = 0) -> Iterator[Row]:
    """The rows of a file. Up to `skip_bad` bad ones are logged and left out; one more raises."""
    return tolerate(scan(path), skip_bad)


def scan(path: str | Path, *, bare: bool = False, answer: str | None = None) -> Iterator[Row | Bad]:
    """Every row of a file, good or bad, in order. With `bare`, a row may be a prompt alone: a Pair
    whose target is empty, or a Conversation. With `answer`, rows are prompts with several answers,
    and this field is the one that is meant."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: check the path")
    match path.suffixes[-2:]:
        case [*_, ".parquet"]:
            return _rows(path, parquet.records(path), parquet.fault, bare, answer)
        case [".jsonl" | ".ndjson", ".gz"] | [*_, ".jsonl" | ".ndjson"]:
            return _rows(path, _records(path), lambda record: None, bare, answer)
    raise ValueError(f"{path}: is of no known kind: name it .jsonl, .jsonl.gz or .parquet")


def tolerate(
    items: Iterable[T | Bad], skip_bad: int, on_bad: Callable[[Bad], None] | None = None
) -> Iterator[T]:
    """The good items. Each bad one is handed to `on_bad` (the log, unless told otherwise)."""
    report = on_bad or (lambda bad: logger.warning("left out %s", bad))
    good = count = 0
    for item in items:
        if not isinstance(item, Bad):
            good += 1
            yield item
            continue
        count += 1
        if count > skip_bad:
            allowance = f"{count} bad row{'s' * (count > 1)}, {skip_bad} allowed"
            raise ValueError(
                f"{item}\n{allowance}: mend the file, or allow more (--skip-bad N, in a run "
                "--data.skip_bad N)"
            )
        report(item)
    if count and on_bad is None:
        logger.warning("%d of %d rows were bad and left out", count, good + count)


Record = tuple[int, Any | Fault]


def _rows(
    path: Path,
    records: Iterable[Record],
    check_types: Callable[[dict[str, Any]], Fault | None],
    bare: bool,
    answer: str | None,
) -> Iterator[Row | Bad]:
    seen: dict[str, int] = {}  # an id and the line that it was first seen on
    for line, record in records:
        if answer is not None and isinstance(record, dict):
            record = _with_answer(record, answer)
        found = record if isinstance(record, Fault) else _row(record, line, check_types, bare)
        if isinstance(found, Fault):
            found = (found,)
        if isinstance(found, Conversation | Pair):
            first = seen.setdefault(str(found.id), line)
            if first != line:
                what = f"is {found.id!r} again, as on line {first}"
                found = (Fault("id", what, "give every row its own, or remove one"),)
        yield Bad(str(path), line, found) if isinstance(found, tuple) else found


def _with_answer(record: dict[str, Any], answer: str) -> dict[str, Any] | Fault:
    """The prompt and that one of its answers."""
    for name in ("prompt", answer):
        if record.get(name) is None:
            return Fault(name, "is missing", "give a prompt and its chosen and rejected answers")
    kept = {name: record[name] for name in ("id", "prompt", "tools") if name in record}
    return {**kept, "completion": record[answer]}


def _records(path: Path) -> Iterator[Record]:
    """The JSON values of a file's lines; empty lines are passed over."""
    open_file = gzip.open if path.suffix == ".gz" else open
    line = 0
    try:
        with open_file(path, "rb") as file:
            for line, data in enumerate(file, 1):
                if text := data.strip():
                    yield line, _decode(text.removeprefix(b"\xef\xbb\xbf") if line == 1 else text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        message = f"the gzip stream is damaged ({error}): fetch or write the file again"
        raise ValueError(f"{path}:{line + 1}: {message}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is too large a number")
    return number


def _decode(data: bytes) -> Any | Fault:
    try:
        value = json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        if b"\\ud" in data or b"\\uD" in data:  # half of a pair cannot be written as UTF-8
            json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        return Fault("row", f"is not valid Unicode ({error.reason})", "write it as UTF-8")
    except (ValueError, RecursionError) as error:
        return Fault("row", f"is not JSON ({error})", "give one JSON object per line")
    if chat.nesting(value) > chat.MAX_DEPTH:
        return Fault("row", f"nests deeper than {chat.MAX_DEPTH} levels", "flatten it")
    return value


def _row(
    record: Any, line: int, check_types: Callable[[dict[str, Any]], Fault | None], bare: bool
) -> Row | Fault | tuple[Fault, ...]:
    """The row that a JSON value holds, or all that is wrong with it."""
    if not isinstance(record, dict):
        return Fault("row", "is no object", "give one JSON object per line")
    given = {name: value for name, value in record.items() if value is not None}
    fault = check_types(given) or _id_fault(given) or _unpack(given)
    if fault is not None:
        return fault
    match given:
        case {"messages": messages}:
            return _conversation(given, messages, line)
        case {"inputs": inputs, "targets": targets}:
            return _pair(given, ("inputs", inputs), ("targets", targets), line)
        case {"prompt": list(prompt), "completion": list(completion)}:
            return _conversation(given, prompt + completion, line)
        case {"prompt": prompt, "completion": completion}:
            return _pair(given, ("prompt", prompt), ("completion", completion), line)
        case {"prompt": list(prompt)} if bare:
            return _conversation(given, prompt, line)
        case {"prompt": prompt} if bare:
            return _prompt(given, prompt, line)
    return _unknown(given)


def _unknown(given: Mapping[str, Any]) -> Fault:
    for name, partner in (("inputs", "targets"), ("prompt", "completion")):
        if name in given:
            renamed = " (outputs has to be renamed)" if "outputs" in given else ""
            return Fault(partner, "is missing", f"give the text that follows {name}{renamed}")
    remedy = "give messages, or inputs and targets, or prompt and completion"
    return Fault("row", f"has only {sorted(given)}", remedy)


def _unpack(given: dict[str, Any]) -> Fault | None:
    """Replace lists that are stored as JSON text, as columns of a fixed type want them to be."""
    for name in ("messages", "tools"):
        if isinstance(text := given.get(name), str):
            given[name] = _decode(text.encode(errors="surrogatepass"))
            if isinstance(given[name], Fault):
                return Fault(name, "is a string that is not JSON", "give a list, or its JSON text")
    return None


def _id_fault(given: Mapping[str, Any]) -> Fault | None:
    value = given.get("id", "missing")
    if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
        return None
    return Fault("id", f"is {value!r}", "give a string or a whole number, or leave it out")


def _conversation(
    given: Mapping[str, Any], messages: Any, line: int
) -> Conversation | tuple[Fault, ...]:
    if isinstance(messages, list):
        messages = [_without_nulls(message) for message in messages]
    tools = given.get("tools", [])
    if faults := tuple(chat.check(messages, tools)):
        return faults
    row_id = given["id"] if "id" in given else _content_id(messages, tools)
    return Conversation(row_id, tuple(messages), tuple(tools), line)


def _prompt(given: Mapping[str, Any], prompt: Any, line: int) -> Pair | tuple[Fault, ...]:
    """A Pair that has only its first half."""
    found = _pair(given, ("prompt", prompt), ("completion", "-"), line)
    return replace(found, targets="") if isinstance(found, Pair) else found


def _without_nulls(message: Any) -> Any:
    """A field that is null is absent; Parquet cannot say it otherwise."""
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value is not None}


def _pair(
    given: Mapping[str, Any], prompt: tuple[str, Any], target: tuple[str, Any], line: int
) -> Pair | tuple[Fault, ...]:
    faults = [
        Fault(name, "is no text" if text else "is empty", "give the rendered text")
        for name, text in (prompt, target)
        if not isinstance(text, str) or not text
    ]
    tools = given.get("tools")
    faults += chat.check_tools(tools)
    if faults:
        return tuple(faults)
    row_id = given["id"] if "id" in given else _content_id(prompt[1], target[1], tools)
    return Pair(row_id, prompt[1], target[1], None if tools is None else tuple(tools), line)


def _content_id(*content: object) -> str:
    """The id of a row that brings none: the same wherever the row stands, in whatever file."""
    text = json.dumps(content, sort_keys=True, default=str)  # a column may hold dates
    return f"row-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
