"""Files that appear whole or not at all, and the sweeping of what a killed build left of one."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection, Iterable
from pathlib import Path

# .NAME.HOST-PID.part: hidden, and it tells whose it is.
PART = re.compile(r"\.(?P<name>\S+?\.(?:safetensors|json))\.(?P<host>.+)-(?P<pid>\d+)\.part")


def write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """The pieces as a file, which takes its name once every byte is on the disk."""
    part = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync(path.parent)


def sweep(folder: Path, mine: Collection[str]) -> None:
    """Remove what dead processes of this host left, and what other hosts left of `mine`.

    Files that another part of the same build is writing stay: its process is alive, or it is on
    another host and the file is not one of `mine`.
    """
    here = socket.gethostname()
    for path in folder.glob(".*.part"):
        found = PART.fullmatch(path.name)
        if found is None:
            continue
        if found["host"] == here:
            is_left = not _is_another(int(found["pid"]))
        else:
            is_left = found["name"] in mine
        if is_left:
            path.unlink(missing_ok=True)


def _is_another(pid: int) -> bool:
    """Whether a process of this number runs that is not this one."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _sync(folder: Path) -> None:
    """A name that was given is on the disk too."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
