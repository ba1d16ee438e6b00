"""Several processes as one run: how they find each other, and how they end together.

join(...)             jax.distributed.initialize from flags or from the environment
with Signals() as s:  s.ending(step) is the signal that all processes agreed to end for
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any

import jax
from jax.experimental import multihost_utils

log = logging.getLogger(__name__)

# Which JAX reads too. One of them is enough to say that there are others.
JAX_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join(
    mode: str = "auto",
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Make this process one of several, before anything asks JAX for devices; whether it is.

    Flags go over the environment. "auto" joins where the environment speaks of more than one
    process; "on" leaves it to JAX to find them, as it does under Slurm, Open MPI, on Cloud TPU and
    GKE, and raises if it can't; "off" stays alone.
    """
    environment = os.environ if environment is None else environment
    if mode == "off" or (mode == "auto" and coordinator is None and not told(environment)):
        return False
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"distributed: the processes could not join ({str(error).splitlines()[0]}): give "
            "--distributed.coordinator HOST:PORT, .processes and .process to each, or "
            "--distributed.mode off"
        ) from error
    log.info("process %d of %d joined", jax.process_index(), jax.process_count())
    return True


def told(environment: Mapping[str, str]) -> bool:
    """Whether the environment speaks of several processes."""
    if any(name in environment for name in JAX_VARIABLES):
        return True
    several = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(_number(environment.get(name)) > 1 for name in several):
        return True
    hosts = environment.get("TPU_WORKER_HOSTNAMES", environment.get("TPU_PROCESS_ADDRESSES", ""))
    return "," in hosts or _number(environment.get("MEGASCALE_NUM_SLICES")) > 1


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0


class Signals:
    """SIGTERM and the first Ctrl-C end a run after the step that it is in, not in its middle.

    Where processes are several, a signal to one ends all of them after the same step: JAX's
    coordination service hears SIGTERM itself and makes them agree.
    """

    def __init__(self) -> None:
        self._seen: int | None = None
        self._before: dict[int, Any] = {}

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

    def ending(self, step: int) -> int | None:
        """The signal to end for after this step; every process asks after every step."""
        if jax.process_count() == 1:
            return self._seen
        if multihost_utils.reached_preemption_sync_point(step):
            return signal.SIGTERM
        return None
