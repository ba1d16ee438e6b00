"""`python -m star_jax.train`: a tour of the program on a tiny random model, on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from star_jax.train import devices, tour


def main(argv: Sequence[str] | None = None) -> int:
    """→ the exit status."""
    parser = argparse.ArgumentParser(prog="python -m star_jax.train", description=__doc__)
    parser.add_argument(
        "--cpu-devices",
        type=int,
        default=8,
        metavar="N",
        help="on a machine without accelerators, split its CPU into N devices (default: 8)",
    )
    args = parser.parse_args(argv)
    if args.cpu_devices < 1:
        parser.error(f"--cpu-devices must be at least 1, got {args.cpu_devices}")
    devices.split_cpu(args.cpu_devices)
    for line in tour.tell():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
