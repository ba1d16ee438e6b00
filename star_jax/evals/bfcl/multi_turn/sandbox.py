"""A process of its own for the API classes: it can be stopped, and nothing else feels it.

    with Sandbox(path) as apis:
        apis.run(entry, steps)        # the results of a dialogue's calls
        apis.judge(entry, turns)      # the verdict over them

Each request is complete: the process keeps nothing between two. A call over its budget ends the
process; a fresh one gets the request again, with that call answered by an error. So a sandbox never
hangs, and its answers do not depend on what it was asked before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from star_jax.evals.bfcl.multi_turn import classes
from star_jax.evals.bfcl.multi_turn.dispatch import MAX_SOURCE

CALL_S = 2.0  # processor time that a call may take
SILENCE_S = 120.0  # without a word from the process, before it is thought stuck
MAX_STOPPED = 3  # calls of a dialogue that may overrun; later ones are not run

_OVERRUN = "the call took more time or memory than a call may"
_SPENT = "too many calls of this dialogue took more time or memory than a call may"

Steps = Sequence[Sequence[object]]


@dataclass(frozen=True)
class Run:
    """The results of a dialogue's calls, and the numbers of those that overran."""

    results: list[list[str]]
    stopped: frozenset[int]


class _Died(Exception):
    """The process ended, or was ended, at a call's number (None: at no call)."""

    def __init__(self, at: int | None) -> None:
        super().__init__(at)
        self.at = at


class Sandbox:
    """The API classes below a path, in a process of their own; a context manager."""

    def __init__(self, path: str | Path, *, call_s: float = CALL_S) -> None:
        if not call_s > 0:
            raise ValueError(f"call_s is the processor time of a call, above 0; got {call_s}")
        self.source = classes.find(path)
        self._call_s = call_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._finalizer: weakref.finalize | None = None

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process. The next request starts another."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._connection = self._finalizer = None

    def run(
        self, entry: Mapping[str, Any], steps: Steps, stopped: frozenset[int] = frozenset()
    ) -> Run:
        """Perform a dialogue's calls on fresh objects; `stopped` are known to overrun."""
        calls: list[Any] = []
        request = {
            **_setting(entry),
            "op": "run",
            "steps": [_sent(step, calls) for step in steps],
        }
        return Run(*self._ask(request, calls, set(range(len(calls))), stopped))

    def judge(
        self, entry: Mapping[str, Any], turns: Sequence[tuple[Steps, Sequence[object]]]
    ) -> dict[str, Any]:
        """Compare what each turn's steps do with what its expected calls do."""
        calls: list[Any] = []
        ours: set[int] = set()
        sent = []
        for steps, truth in turns:
            first = len(calls)
            model = [_sent(step, calls) for step in steps]
            ours.update(range(first, len(calls)))
            sent.append({"model": model, "truth": _sent(truth, calls)})
        request = {**_setting(entry), "op": "judge", "turns": sent}
        return self._ask(request, calls, ours, frozenset())[0]

    def _ask(
        self,
        request: dict[str, Any],
        calls: list[Any],  # those inside the request, in the order in which they run
        ours: set[int],  # the numbers of those that a model wrote
        stopped: frozenset[int],
    ) -> tuple[Any, frozenset[int]]:
        with self._lock:
            while True:
                _refuse(calls, ours, stopped)
                try:
                    answer = self._answer(json.dumps(request).encode())
                except _Died as death:
                    if death.at in ours and death.at not in stopped:
                        stopped |= {death.at}
                    elif not self._refuse_all(calls, ours):
                        where = "no call" if death.at is None else f"call {calls[death.at]}"
                        raise RuntimeError(
                            f"the sandbox of {self.source.root} ended at {where}, which no model"
                            " wrote; see its message above, and that the entry's own calls run"
                        ) from None
                    continue
                if "fault" in answer:
                    raise ValueError(f"entry {request['id']}: {answer['fault']}")
                return answer["answer"], stopped

    @staticmethod
    def _refuse_all(calls: list[Any], ours: set[int]) -> bool:
        """Refuse all that a model wrote; whether anything was left to refuse.

        What it did may be what another call, or the comparison, died of.
        """
        open_calls = [calls[number] for number in ours if "refused" not in calls[number]]
        for call in open_calls:
            call["refused"] = _SPENT
        return bool(open_calls)

    def _answer(self, request: bytes) -> dict[str, Any]:
        connection = self._connected()
        at = None
        try:
            connection.send_bytes(request)
            while connection.poll(SILENCE_S):
                message = json.loads(connection.recv_bytes())
                if isinstance(message, dict):
                    return message
                at = message
        except (EOFError, ConnectionError):
            pass
        except BaseException:
            self.close()  # what it answers next would belong to no request
            raise
        self.close()
        raise _Died(at)

    def _connected(self) -> Connection:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it died while it was idle: nobody's fault here
        if self._connection is None:
            self._start()
        assert self._connection is not None
        return self._connection

    def _start(self) -> None:
        ours, theirs = Pipe()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        module = "star_jax.evals.bfcl.multi_turn.worker"
        arguments = [str(theirs.fileno()), str(self.source.root), str(self._call_s)]
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", module, *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self._process, self._connection = process, ours
        self._finalizer = weakref.finalize(self, _end, process, ours)
        try:
            is_up = ours.poll(SILENCE_S) and json.loads(ours.recv_bytes()) == "up"
        except (EOFError, ConnectionError):
            is_up = False
        if not is_up:
            self.close()
            raise RuntimeError("the sandbox did not start; its own message stands above")


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    process.kill()
    process.wait()


def _setting(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an entry's objects are made from; ValueError where the entry does not say."""
    name = entry.get("id")
    if not isinstance(name, str):
        raise ValueError(f"entry: id is {name!r}; give the entries as their file has them")
    involved, config = entry.get("involved_classes"), entry.get("initial_config")
    if not isinstance(involved, list) or not all(isinstance(one, str) for one in involved):
        raise ValueError(
            f"entry {name}: involved_classes is {involved!r}; give a list of class names"
        )
    if not isinstance(config, dict):
        raise ValueError(f"entry {name}: initial_config is {config!r}; give an object by class")
    category = name.rpartition("_")[0]
    is_long = "long_context" in category or "composite" in category
    return {"id": name, "classes": involved, "config": config, "long_context": is_long}


def _sent(step: Sequence[object], calls: list[Any]) -> list[Any]:
    """A step's calls as they go to the process, noted in `calls` as well."""
    sent = [_checked(call) for call in step]
    calls.extend(sent)
    return sent


def _checked(call: object) -> dict[str, Any]:
    """A call as JSON can carry it; one that it cannot carry is refused here."""
    if isinstance(call, str):
        fields: dict[str, Any] = {"source": call}
    elif isinstance(call, Mapping):
        fields = {"name": call.get("name"), "arguments": call.get("arguments")}
    else:
        return {"refused": "a call is an object with name and arguments"}
    try:
        size = len(json.dumps(fields))
    except (TypeError, ValueError, RecursionError) as error:
        return {"refused": f"the arguments are no JSON: {error}"}
    return fields if size <= MAX_SOURCE else {"refused": "the call is too long"}


def _refuse(calls: list[Any], ours: set[int], stopped: frozenset[int]) -> None:
    """Mark the calls that are not to be run again."""
    for number in stopped:
        calls[number]["refused"] = _OVERRUN
    if len(stopped) >= MAX_STOPPED:
        for number in ours:
            if number > max(stopped):
                calls[number].setdefault("refused", _SPENT)
