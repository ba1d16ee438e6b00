"""Many calls of a reward function on worker processes, each failure costing one call.

A worker is handed a few calls and answers them one by one. One that dies, or that answers nothing
for longer than a call may take, costs the call it was at; a fresh worker goes on with the rest.
Workers import the function and what it needs, never the program that started them: they are up at
once, and no `if __name__ == "__main__"` is asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from star_jax.rewards.outcome import Job, Outcome, overrun

START_S = 60.0  # what a worker may need to start
GRACE_S = 1.0  # and beyond a call's time, before it is thought stuck
SHARE = 32  # most calls handed out at once


class _Worker:
    """A process, and the calls that it has not answered yet."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "star_jax.rewards.worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path},
        )
        theirs.close()
        self.open: deque[tuple[int, Job]] = deque()
        self.deadline = float("inf")
        if not self.connection.poll(START_S) or not self._is_up():
            self.stop()
            raise RuntimeError("a reward worker did not start; its own message stands above")

    def _is_up(self) -> bool:
        try:
            return self.connection.recv() == "up"
        except EOFError:
            return False

    def hand(self, path: str, share: Sequence[tuple[int, Job]], timeout_s: float | None) -> None:
        self.connection.send((path, [job for _, job in share], timeout_s))
        self.open.extend(share)
        self.wind(timeout_s)

    def wind(self, timeout_s: float | None) -> None:
        """Start the clock of the next call."""
        now = time.monotonic()
        self.deadline = float("inf") if timeout_s is None else now + timeout_s + GRACE_S

    def has_died_idle(self) -> bool:
        """Whether the process ended while it had nothing to do."""
        return not self.open and self.process.poll() is not None

    def is_overdue(self) -> bool:
        """Whether its time is up and no answer lies in the pipe."""
        return time.monotonic() > self.deadline and not self.connection.poll()

    def stop(self) -> int:
        """End the process; return its exit code."""
        self.process.kill()
        self.connection.close()
        return self.process.wait()


class Pool:
    """Worker processes, kept between batches; a context manager."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"a pool needs at least one worker, got {workers}")
        self.size = workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def map(self, path: str, jobs: Sequence[Job], timeout_s: float | None) -> list[Outcome]:
        """The outcome of calling the function at a dotted path with each job, in their order."""
        batch = _Batch(path, jobs, timeout_s, self._share(len(jobs)))
        try:
            while not batch.is_done():
                self._hand_out(batch)
                self._collect(batch)
        except BaseException:
            self.close()  # what they answer next would belong to no batch
            raise
        return [batch.outcomes[number] for number in range(len(jobs))]

    def _share(self, jobs: int) -> int:
        return max(1, min(SHARE, jobs // (4 * self.size)))

    def _hand_out(self, batch: _Batch) -> None:
        # One that died while it was idle costs no call: a fresh one takes its place.
        for worker in [worker for worker in self._workers if worker.has_died_idle()]:
            worker.stop()
            self._workers.remove(worker)
        while len(self._workers) < min(self.size, len(batch.waiting)):
            self._workers.append(_Worker())
        for worker in self._workers:
            if batch.waiting and not worker.open:
                worker.hand(batch.path, batch.take(), batch.timeout_s)

    def _collect(self, batch: _Batch) -> None:
        busy: dict[Any, _Worker] = {
            worker.connection: worker for worker in self._workers if worker.open
        }
        earliest = min(worker.deadline for worker in busy.values())
        patience = max(0.0, earliest - time.monotonic()) if batch.timeout_s is not None else None
        for connection in wait(list(busy), patience):
            self._receive(busy[connection], batch)
        for worker in busy.values():
            if worker in self._workers and worker.open and worker.is_overdue():
                self._replace(worker, batch, overrun(batch.timeout_s))

    def _receive(self, worker: _Worker, batch: _Batch) -> None:
        assert isinstance(worker.connection, Connection)
        try:
            outcome = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._replace(worker, batch, None)
            return
        batch.outcomes[worker.open.popleft()[0]] = outcome
        worker.wind(batch.timeout_s)

    def _replace(self, worker: _Worker, batch: _Batch, reason: str | None) -> None:
        """Blame the call that the worker was at, and put the others back."""
        code = worker.process.wait() if reason is None else worker.stop()
        if reason is None:
            worker.connection.close()
        self._workers.remove(worker)
        number, _ = worker.open.popleft()
        batch.outcomes[number] = Outcome(failure=reason or f"its process ended with code {code}")
        batch.waiting.extendleft(reversed(worker.open))


class _Batch:
    """The calls still waiting, and the outcomes so far."""

    def __init__(self, path: str, jobs: Sequence[Job], timeout_s: float | None, share: int) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self.share = share
        self.count = len(jobs)
        self.waiting = deque(enumerate(jobs))
        self.outcomes: dict[int, Outcome] = {}

    def is_done(self) -> bool:
        return len(self.outcomes) == self.count

    def take(self) -> list[tuple[int, Job]]:
        return [self.waiting.popleft() for _ in range(min(self.share, len(self.waiting)))]
