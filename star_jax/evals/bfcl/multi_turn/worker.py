"""What a sandbox's process runs: requests in, what the API objects answered out.

    {"op": "run", classes, config, long_context, "steps": [[call, ...], ...]}
        → [[result, ...], ...]
    {"op": "judge", ..., "turns": [{"model": [[call, ...], ...], "truth": [call, ...]}, ...]}
        → {valid, error_type, error}

Before each call its number goes up the pipe: if the process dies, the sandbox knows at which. Every
call has a budget of processor time that the kernel watches, for a power of two large numbers stays
inside one instruction of the interpreter for hours.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from star_jax.evals.bfcl.multi_turn import differences
from star_jax.evals.bfcl.multi_turn.classes import Library, World, find
from star_jax.evals.bfcl.multi_turn.dispatch import FAILED, Method, methods, perform

MEMORY = 2 << 30  # bytes that the process may address
MAX_RESULTS = 100_000_000  # characters of a request's results


class Runner:
    """Runs the calls of one request, and tells which one is running."""

    def __init__(self, tell: Callable[[Any], None], call_s: float) -> None:
        self._tell = tell
        self._call_s = call_s
        self._number = 0
        self._room = MAX_RESULTS

    def results(self, table: dict[str, Method], calls: Sequence[dict[str, Any]]) -> list[str]:
        return [self._result(table, call) for call in calls]

    def _result(self, table: dict[str, Method], call: dict[str, Any]) -> str:
        self._tell(self._number)
        self._number += 1
        if "refused" in call:
            return f"{FAILED}{call['refused']}"
        with budget(self._call_s):
            result = perform(table, call.get("source", call))
        self._room -= len(result)
        return result if self._room >= 0 else f"{FAILED}the results are too long"


@contextmanager
def budget(seconds: float) -> Generator[None]:
    """The kernel ends this process if what runs inside takes more processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def run(request: dict[str, Any], library: Library, runner: Runner) -> list[list[str]]:
    """The results of a dialogue's calls so far, on fresh objects."""
    table = methods(_objects(request, World(library)))
    return [runner.results(table, step) for step in request["steps"]]


def judge(request: dict[str, Any], library: Library, runner: Runner) -> dict[str, Any]:
    """The verdict over a dialogue: its turns in order, until one is wrong."""
    world = World(library)
    ours, theirs = _objects(request, world), _objects(request, world)
    our_table, their_table = methods(ours), methods(theirs)
    pool: list[str] = []
    for index, turn in enumerate(request["turns"]):
        for step in turn["model"]:
            pool.extend(runner.results(our_table, step))
        expected = runner.results(their_table, turn["truth"])
        if not turn["truth"]:
            continue  # what a turn without an answer did is seen in the states of later turns
        wrong = _is_wrong(index, turn["model"], (ours, theirs), (pool, expected))
        if wrong is not None:
            return wrong
    return {"valid": True, "error_type": None, "error": []}


def _is_wrong(
    index: int,
    steps: list[list[dict[str, Any]]],
    objects: tuple[dict[str, object], dict[str, object]],
    results: tuple[list[str], list[str]],
) -> dict[str, Any] | None:
    """What is wrong with a turn that has an answer, in the official order."""
    # One empty step is no call; two are a response, as the official code counts.
    if not steps or (len(steps) == 1 and not steps[0]):
        return _wrong("empty_turn_model_response", [f"turn {index}: no call, though one is due"])
    ours, theirs = objects
    for name, truth in theirs.items():
        try:
            changed = differences.attributes(ours[name], truth)
        except RecursionError:
            # Directories that hold themselves; the official checker ends with the same.
            return {"valid": False, "error_type": None, "error": [], "raises": "RecursionError"}
        if changed:
            told = [f"turn {index}: {name} differs in {', '.join(changed)}"]
            for attribute in changed:
                pair = getattr(ours[name], attribute), getattr(truth, attribute)
                told += differences.lines(f"{name}.{attribute}", *pair)
            return _wrong("instance_state_mismatch", told)
    missing = _missing(*results)
    if missing:
        told = [f"turn {index}: no call so far returned {text}" for text in missing]
        return _wrong("execution_response_mismatch", told)
    return None


def _missing(pool: list[str], expected: list[str]) -> list[str]:
    """The expected results that the pool does not hold, each as often as it is expected."""
    left, missing = list(pool), []
    for text in expected:
        if text in left:
            left.remove(text)
        else:
            missing.append(text)
    return missing


def _wrong(error_type: str, told: list[str]) -> dict[str, Any]:
    return {"valid": False, "error_type": f"multi_turn:{error_type}", "error": told}


def _objects(request: dict[str, Any], world: World) -> dict[str, object]:
    return world.objects(request["classes"], request["config"], request["long_context"])


def serve(connection: Connection, folder: str, call_s: float) -> None:
    """Answer requests until the other end is closed."""
    library = Library(find(folder))

    def tell(message: Any) -> None:
        connection.send_bytes(json.dumps(message).encode())

    tell("up")
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        work = run if request["op"] == "run" else judge
        try:
            answer = {"answer": work(request, library, Runner(tell, call_s))}
        except ValueError as error:
            answer = {"fault": str(error)}
        tell(answer)


def confine() -> None:
    """Bound what this process can take and write, whatever it is asked to run."""
    for kind, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # The terminal's interrupt is for the program; this process ends when the pipe does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    confine()
    serve(Connection(int(sys.argv[1])), sys.argv[2], float(sys.argv[3]))
