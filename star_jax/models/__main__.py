"""`python -m star_jax.models inspect DIR`: what a model folder holds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from star_jax.models.inspect import inspect
from star_jax.models.tensorfile import CheckpointError


def main(argv: Sequence[str] | None = None) -> int:
    """→ the exit status: 0 where the folder loads, 1 where it is refused, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m star_jax.models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "inspect",
        help="what a Hugging Face folder holds, and what star_jax would refuse in it and why",
    )
    command.add_argument("folder", metavar="DIR")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    args = parser.parse_args(argv)
    try:
        report = inspect(args.folder)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.to_json() if args.json else report.to_text())
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
