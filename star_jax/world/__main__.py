"""The embedded world: conversations to look at, files of them, and its tokenizer."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from star_jax import chat
from star_jax.world import CASES, SPLITS, files, generate, show, tokenizer
from star_jax.world.generate import Row


def main(argv: list[str] | None = None) -> int:
    """0: done. 2: the request cannot be met, and why not."""
    try:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        print(f"star_jax.world: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m star_jax.world", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sample = commands.add_parser("sample", help="print a few conversations")
    _add_choice(sample, count=3)
    sample.add_argument("--text", action="store_true", help="as a model reads them")
    sample.set_defaults(run=_sample)
    write = commands.add_parser("write", help="write conversations to a file")
    write.add_argument("output", metavar="OUT", help=".jsonl, .jsonl.gz or .parquet")
    _add_choice(write, count=1000)
    write.add_argument(
        "--format", default="messages", help=f"{', '.join(files.FORMATS)} (messages)"
    )
    write.add_argument("--force", action="store_true", help="replace OUT if it exists")
    write.set_defaults(run=_write)
    trained = commands.add_parser("pretrain", help="train one of the tiny models from nothing")
    trained.add_argument("name", choices=["student", "teacher"])
    trained.add_argument("output", metavar="OUT", help="a folder; the same command goes on in it")
    trained.add_argument("--tokens", type=int, metavar="N", help="of the corpus (the recipe's)")
    trained.add_argument("--seed", type=int, metavar="N", help="of rows and weights (the recipe's)")
    trained.set_defaults(run=_pretrain)
    made = commands.add_parser("tokenizer", help="make the tokenizer's folder anew from `train`")
    made.add_argument("output", metavar="OUT", help="a folder that does not exist yet")
    made.set_defaults(run=_tokenizer)
    return parser


def _add_choice(command: argparse.ArgumentParser, count: int) -> None:
    command.add_argument("--split", default="train", help=f"{', '.join(SPLITS)} (train)")
    command.add_argument("--case", metavar="CASE", help=f"only {', '.join(CASES)} (all)")
    command.add_argument("--count", type=int, default=count, metavar="N", help=f"rows ({count})")
    command.add_argument("--start", type=int, default=0, metavar="N", help="the first one (0)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="other rows (0)")
    command.add_argument(
        "--no-thinking", action="store_true", help="leave out what the assistant thinks"
    )


def _rows(arguments: argparse.Namespace) -> Iterator[Row]:
    if arguments.count < 1:
        raise ValueError(f"--count is {arguments.count}: give 1 or more")
    return generate.rows(
        arguments.split,
        arguments.seed,
        arguments.count,
        start=arguments.start,
        case=arguments.case,
        thinking=not arguments.no_thinking,
    )


def _sample(arguments: argparse.Namespace) -> None:
    for row in _rows(arguments):
        if arguments.text:
            print(chat.render(row["messages"], row["tools"]))
        else:
            print(show.show(row))


def _write(arguments: argparse.Namespace) -> None:
    rows = _rows(arguments)
    count = files.write(arguments.output, rows, arguments.format, overwrite=arguments.force)
    print(f"{arguments.output}: {count} rows of {arguments.split} written")


def _pretrain(arguments: argparse.Namespace) -> None:
    from star_jax.world import pretrain  # brings jax along

    recipe = pretrain.RECIPES[arguments.name]
    given = {"tokens": arguments.tokens, "seed": arguments.seed}
    recipe = dataclasses.replace(recipe, **{k: x for k, x in given.items() if x is not None})
    if recipe.tokens < 1 or recipe.seed < 0:
        raise ValueError("--tokens is at least 1 and --seed at least 0")

    def say(row: Mapping[str, Any]) -> None:
        if row["step"] % 10 == 0 or "seen/exact" in row:
            numbers = " ".join(f"{name} {value:.4g}" for name, value in row.items())
            print(numbers, flush=True)

    print(f"{pretrain.run(recipe, Path(arguments.output), say)}: trained")


def _tokenizer(arguments: argparse.Namespace) -> None:
    folder = tokenizer.make(arguments.output)
    print(f"{folder}: a tokenizer of {tokenizer.SIZE} ids")


if __name__ == "__main__":
    sys.exit(main())
