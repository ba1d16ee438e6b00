"""A file of JSON lines that survives every kill: begun once, gone on with, never written over.

    Output(path, made_by)  → as many whole lines as there are; append, close

Beside it lies NAME.meta.json, which says what the lines are made by: another maker is refused. A
line that was torn is cut off. One process at a time holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from star_jax.data.cache import partfile

SYNC_S = 1.0  # lines that a failing machine, not a kill, may cost


def meta_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.meta.json")


def check(path: Path) -> None:
    """What is wrong with the path alone."""
    if path.suffix != ".jsonl":
        raise ValueError(f"{path}: is written as JSON lines: name it .jsonl")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent}: there is no such folder: make it first")
    if path.exists() and path.stat().st_size and not meta_path(path).is_file():
        raise ValueError(
            f"{path}: exists already, and no {meta_path(path).name} says how it was made: choose "
            "another name"
        )


class Output:
    """`done` lines are there; their ids are the first of `ids`."""

    def __init__(self, path: Path, made_by: Mapping[str, Any], ids: Sequence[str | int]) -> None:
        check(path)
        self._path = path
        self._file: BinaryIO = path.open("a+b")
        try:
            self._lock()
            self._agree(made_by)
            self.done = self._recover(ids)
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self._path}: another process is writing it: wait for it") from None

    def _agree(self, made_by: Mapping[str, Any]) -> None:
        """The file is of this maker, or is nobody's yet."""
        path = meta_path(self._path)
        if os.fstat(self._file.fileno()).st_size == 0:
            text = json.dumps(made_by, indent=1, ensure_ascii=False) + "\n"
            partfile.write(path, [text.encode()])
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: can't be read ({error}): choose another output") from error
        now = json.loads(json.dumps(made_by))
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                raise ValueError(
                    f"{self._path}: was begun with another {name} ({before.get(name)!r}, now "
                    f"{now.get(name)!r}): ask for the same again, or choose another output"
                )

    def _recover(self, ids: Sequence[str | int]) -> int:
        """Cut off what is torn → the number of whole lines, all of them as they were written."""
        self._file.seek(0)
        count = size = 0
        for line in self._file:
            found = _id(line)
            if found is _TORN:
                if self._file.read(1):  # more follows, so it was no kill
                    where = f"{self._path}:{count + 1}"
                    raise ValueError(f"{where}: is no line of this run: choose another output")
                break
            if count == len(ids) or found != ids[count]:
                where = f"{self._path}:{count + 1}"
                raise ValueError(
                    f"{where}: id is {found!r}, not the input's: choose another output"
                )
            count, size = count + 1, size + len(line)
        self._file.truncate(size)
        return count

    def append(self, row: Mapping[str, Any]) -> None:
        """The line is safe from a kill at once, and from the machine's failure within a second."""
        self._file.write(_line(row))
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_S:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._sync()
        finally:
            self._file.close()


_TORN = object()


def _id(line: bytes) -> object:
    """A line's id, or that there is none."""
    if not line.endswith(b"\n"):
        return _TORN
    try:
        row = json.loads(line)
    except ValueError:
        return _TORN
    return row["id"] if isinstance(row, dict) and "id" in row else _TORN


def _line(row: Mapping[str, Any]) -> bytes:
    try:  # a label that came in a Parquet column may hold dates
        return (json.dumps(row, ensure_ascii=False, allow_nan=False, default=str) + "\n").encode()
    except UnicodeEncodeError:  # half of a pair, which a generation may spell as an escape
        return (json.dumps(row, allow_nan=False, default=str) + "\n").encode()
