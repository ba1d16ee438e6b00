"""Model folders: what one holds, and one made of a run's checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from star_jax.models.inspect import inspect


def main(argv: Sequence[str] | None = None) -> int:
    """→ the exit status: 0 done, 1 where an inspected folder is refused, 2 for a wrong call."""
    parser = argparse.ArgumentParser(prog="python -m star_jax.models", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_inspect(commands)
    _add_export(commands)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:  # among them CheckpointError
        print(f"error: {error}", file=sys.stderr)
        return 2


def _add_inspect(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "inspect",
        help="what a Hugging Face folder holds, and what star_jax would refuse in it and why",
    )
    command.add_argument("folder", metavar="DIR")
    command.add_argument("--json", action="store_true", help="print the report as JSON")
    command.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    report = inspect(args.folder)
    print(report.to_json() if args.json else report.to_text())
    return 1 if report.problems else 0


def _add_export(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "export", help="a run's checkpoint as a Hugging Face folder, adapters merged"
    )
    command.add_argument("output", metavar="RUN", help="the output folder of a training run")
    command.add_argument("folder", metavar="OUT", help="the model folder to write")
    command.add_argument("--step", default="last", help="last, best or a step (last)")
    command.add_argument(
        "--dtype", choices=["bfloat16", "float32", "float16"], help="of the tensors (the model's)"
    )
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    command.set_defaults(run=_export)


def _export(args: argparse.Namespace) -> int:
    from star_jax.train import export  # inspecting needs none of it

    if Path(args.folder).exists() and not args.overwrite:
        raise FileExistsError(
            f"{args.folder}: is already there: choose another name, or --overwrite"
        )
    options = {"overwrite": args.overwrite} | ({"dtype": args.dtype} if args.dtype else {})
    print(export.export(args.output, args.folder, args.step, **options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
