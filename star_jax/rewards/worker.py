"""What a pool's process runs: receive calls, answer each with its outcome, until the pipe ends."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from star_jax.rewards.outcome import run_in_time
from star_jax.rewards.path import load


def serve(connection: Connection) -> None:
    """Answer until the other end is closed."""
    connection.send("up")
    while True:
        try:
            path, jobs, timeout_s = connection.recv()
        except EOFError:
            return
        function = load(path)
        for job in jobs:
            connection.send(run_in_time(function, job, timeout_s))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
