"""Several processes as one run: how they find each other, fail together, and end together.

join(...)             jax.distributed.initialize from flags or from the environment
with together(): ...  a mistake that one process finds is every process's mistake
agree(problem)        the same, of a sentence; agree() alone waits for all
leave(status)         end this process without waiting for the others
with Signals() as s:  s.ending() is the signal that all processes agreed to end for
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

COORDINATOR, PROCESSES, PROCESS = VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
LATE_MS = 3_600_000  # how long one process waits for another that reads or compiles
LEAVE_MS = 5_000  # how long one that fails waits for the others to fail too

_meetings = itertools.count()  # every process counts alike


class Agreed(ValueError):
    """A mistake that every process knows of; `is_told` where another process says it."""

    def __init__(self, problem: str, is_told: bool) -> None:
        super().__init__(problem)
        self.is_told = is_told


def join(
    mode: str = "auto",
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Make this process one of several, before anything asks JAX for devices; whether it is.

    Flags go over the environment. "auto" joins where the environment speaks of other processes;
    "on" leaves it to JAX to find them, as it does under Slurm, Open MPI, on Cloud TPU and GKE, and
    raises if it can't; "off" stays alone.
    """
    environment = os.environ if environment is None else environment
    if mode == "off" or (mode == "auto" and coordinator is None and not told(environment)):
        if jax.process_count() > 1:  # a TPU's runtime knows its slice without being told
            raise ValueError(
                f"distributed: the devices are those of {jax.process_count()} processes, which did "
                "not join: give --distributed.mode on to each"
            )
        return False
    if coordinator is None and any(name in environment for name in VARIABLES):
        coordinator, processes, process = _named(environment)
    # Where one of them never comes JAX waits five minutes, and aborts the others.
    log.info("joining the other processes at %s", coordinator or "the address that JAX finds")
    try:
        jax.distributed.initialize(coordinator, processes, process)
        count = jax.process_count()  # which is where they meet
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"distributed: the processes could not join ({str(error).splitlines()[0]}): give "
            "--distributed.coordinator HOST:PORT, .processes and .process to each, or "
            "--distributed.mode off"
        ) from error
    if jax.process_index() == 0:
        log.info("%d processes joined", count)
    return True


def told(environment: Mapping[str, str]) -> bool:
    """Whether the environment speaks of several processes.

    A Slurm job's script has its count of tasks too; only what srun starts is one of them. A Cloud
    TPU VM says nothing there: JAX, as it is imported, notes that it has found TPU chips, and asks
    the VM's metadata for the other hosts when they join.
    """
    if any(name in environment for name in VARIABLES):
        return True
    if "SLURM_STEP_NODELIST" in environment and _number(environment.get("SLURM_NTASKS")) > 1:
        return True
    if _number(environment.get("OMPI_COMM_WORLD_SIZE")) > 1:
        return True
    if _number(environment.get("MEGASCALE_NUM_SLICES")) > 1:
        return True
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        return "," in hosts
    return "TPU_ML_PLATFORM" in environment and "TPU_SKIP_MDS_QUERY" not in environment


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0


def _named(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """What our three variables say; JAX itself reads only the first of them."""
    for name in VARIABLES:
        if name not in environment:
            raise ValueError(f"distributed: {name} is not set: set {', '.join(VARIABLES)} or none")
    count, index = environment[PROCESSES], environment[PROCESS]
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(
            f"distributed: {PROCESS} is {index!r} and {PROCESSES} is {count!r}: number the "
            "processes from 0"
        )
    return environment[COORDINATOR], int(count), int(index)


def agree(problem: str | None = None) -> None:
    """Wait for all; Agreed on every one of them if one has a problem. Every process asks.

    The coordination service carries it, not the devices: their collectives may give up on a process
    that comes half a minute late (Gloo's, which join CPUs), and this is where to wait for it.
    """
    if jax.process_count() == 1:
        if problem is not None:
            raise Agreed(problem, is_told=False)
        return
    client = _client()
    me, place = jax.process_index(), f"star_jax/agree/{next(_meetings)}"
    if problem is not None:
        client.key_value_set(f"{place}/{me}", problem)
    client.wait_at_barrier(place, LATE_MS)
    said = {int(key.rpartition("/")[2]): text for key, text in client.key_value_dir_get(place)}
    if not said:
        return
    first = min(said)
    # One process speaks where they say the same: the first.
    if me == 0 and first > 0:
        raise Agreed(f"process {first}: {said[first]}", is_told=False)
    if me > 0 and said.get(me) in (None, said.get(0)):
        raise Agreed(said[first], is_told=True)
    raise Agreed(said[me], is_told=False)


@contextmanager
def together() -> Generator[None]:
    """A mistake that one process finds in here is Agreed on by all, who meet at the end of it, or
    where they agree before. Nothing else in here may wait for the others."""
    problem: str | None = None
    cause: Exception | None = None
    try:
        yield
    except Agreed:
        raise
    except (ValueError, OSError) as error:
        problem, cause = str(error), error
    try:
        agree(problem)
    except Agreed as agreed:
        raise agreed from cause


def leave(status: int, error: BaseException | None = None) -> None:
    """Where the others don't end too, end at once, by JAX's coordination service they will follow.

    At the usual exit of a process JAX waits minutes for all of them.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1 or _all_leave():
        return
    if error is not None:
        traceback.print_exception(error)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _all_leave() -> bool:
    try:
        _client().wait_at_barrier("star_jax/leave", LEAVE_MS)
    except (RuntimeError, ValueError):
        return False
    return True


def _client() -> Any:
    """JAX has no public name for its coordination service; Orbax reaches for the same one."""
    return importlib.import_module("jax._src.distributed").global_state.client


class Signals:
    """SIGTERM and the first Ctrl-C end a run after the step that it is in, not in its middle.

    Where processes are several, a signal to one ends all of them after the same step: JAX's
    coordination service hears SIGTERM itself and makes them agree.
    """

    def __init__(self) -> None:
        self._seen: int | None = None
        self._before: dict[int, Any] = {}
        self._asked = 0

    def __enter__(self) -> Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGTERM and jax.process_count() > 1:
                continue  # JAX's own handler has to stay
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._seen is not None and number == signal.SIGINT:  # a person asks twice: at once
            raise KeyboardInterrupt
        self._seen = self._seen or number  # what ends a job may send SIGTERM again and again
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def ending(self) -> int | None:
        """The signal to end for after this step; every process asks after every step."""
        if jax.process_count() == 1:
            return self._seen
        # They agree on one more than the most that any has asked by then. A run's own steps won't
        # do: one that goes on from step 100, told while it loads, would wait for a step 1.
        self._asked += 1
        if multihost_utils.reached_preemption_sync_point(self._asked):
            return signal.SIGTERM
        return None
