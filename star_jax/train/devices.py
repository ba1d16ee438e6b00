"""The devices of a run on one machine: accelerators as they are, a CPU split into several."""

from __future__ import annotations

import os

import jax

# Threads for each virtual device. XLA's CPU backend runs all devices on one pool as large as the
# machine, and a device that waits for the others in a collective keeps its thread: with too few of
# them the last device never gets one, and after 40 seconds the process is ended. On two cores and
# eight devices 60 steps hung in four of five mesh shapes; with a pool of 64 in none.
THREADS_PER_DEVICE = 8


def split_cpu(count: int) -> None:
    """Make the host's CPU `count` devices. To be called before JAX looks for devices.

    Does nothing to a machine's accelerators, and leaves alone what the environment says.
    """
    if count < 1:
        raise ValueError(f"a CPU is split into at least 1 device, got {count}")
    if count > 1:  # one device waits for nobody, and more threads than cores cost it a quarter
        # NPROC is where XLA reads the size of its pool.
        os.environ.setdefault("NPROC", str(max(os.cpu_count() or 1, THREADS_PER_DEVICE * count)))
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)
