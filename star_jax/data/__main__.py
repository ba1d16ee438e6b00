"""What is in a file of rows and what is wrong with it, a training set made of it, the scores of
completions, and what a teacher says of every target."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections import Counter

from star_jax import chat
from star_jax.data import doctor, encode, report, template, trainset
from star_jax.data.read import Bad, Conversation, scan, tolerate


def main(argv: list[str] | None = None) -> int:
    """0: done. 1: `read` or `doctor` found something. 2: the request cannot be met, and why not."""
    given = sys.argv[1:] if argv is None else argv
    try:
        if given[:1] == ["rewards"]:
            from star_jax.rewards import cli  # the other commands need none of it

            return cli.main(given[1:])
        if given[:1] == ["cache"]:
            from star_jax.data.cache import cli as cache_cli

            return cache_cli.main(given[1:])
        arguments = _parser().parse_args(given)
        return arguments.run(arguments)
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"star_jax.data: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m star_jax.data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_read(commands)
    _add_trainset(commands)
    _add_doctor(commands)
    commands.add_parser("rewards", help="explain, replay and compare scores of stored completions")
    commands.add_parser("cache", help="build, verify and describe a teacher's cache")
    return parser


def whole_number(text: str) -> int:
    count = int(text)
    if count < 0:
        raise ValueError
    return count


def _add_read(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("read", help="count a file's rows and name every problem")
    command.add_argument("file", help=".jsonl, .jsonl.gz or .parquet")
    command.add_argument(
        "--skip-bad",
        type=whole_number,
        default=0,
        metavar="N",
        help="bad rows that are no failure (0)",
    )
    command.set_defaults(run=_read)


def _read(arguments: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    for item in scan(arguments.file):
        match item:
            case Bad():
                counts["bad"] += 1
                print(item)
            case Conversation():
                counts["conversations"] += 1
                counts["with tools"] += bool(item.tools)
            case _:
                counts["pairs"] += 1
                counts["with tools"] += bool(item.tools)
    names = ("conversations", "pairs", "with tools", "bad")
    print(f"{arguments.file}: " + ", ".join(f"{counts[name]} {name}" for name in names))
    return int(counts["bad"] > arguments.skip_bad)


def _add_trainset(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("trainset", help="turn messages into inputs and targets")
    command.add_argument("input", metavar="IN", help=".jsonl, .jsonl.gz or .parquet of messages")
    command.add_argument("output", metavar="OUT", help=".jsonl or .jsonl.gz")
    command.add_argument(
        "--compat", choices=["star"], help="byte for byte what STAR's converter writes"
    )
    command.add_argument(
        "--reasoning",
        choices=["keep", "drop"],
        help="what becomes of the answer's reasoning_content (keep; with --compat star: drop)",
    )
    command.add_argument(
        "--model", metavar="FOLDER", help="use this model's own chat template (Qwen3's)"
    )
    command.add_argument(
        "--skip-bad", type=whole_number, default=0, metavar="N", help="bad rows to leave out (0)"
    )
    command.add_argument("--force", action="store_true", help="replace OUT if it exists")
    command.set_defaults(run=_trainset)


def _trainset(arguments: argparse.Namespace) -> int:
    render = template.load(arguments.model) if arguments.model else chat.render
    is_star = arguments.compat == "star"
    keep_reasoning = (arguments.reasoning or ("drop" if is_star else "keep")) == "keep"
    to_example = functools.partial(
        trainset.star if is_star else trainset.native, render=render, keep_reasoning=keep_reasoning
    )
    skipped: list[int] = []

    def report(bad: Bad) -> None:
        skipped.append(bad.line)
        print(bad, file=sys.stderr)

    items = trainset.convert(scan(arguments.input), arguments.input, to_example)
    examples = tolerate(items, arguments.skip_bad, report)
    count = trainset.write(arguments.output, examples, overwrite=arguments.force)
    print(f"{arguments.output}: {count} rows written, {len(skipped)} bad rows left out")
    return 0


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "doctor", help="name every row that would teach nothing, or something else"
    )
    command.add_argument("file", help="rows to train on: .jsonl, .jsonl.gz or .parquet")
    command.add_argument(
        "--model", required=True, metavar="FOLDER", help="whose tokenizer and template are used"
    )
    command.add_argument(
        "--max-tokens", required=True, type=int, metavar="N", help="prompt and target together"
    )
    command.add_argument("--max-targets", type=int, metavar="N", help="the target alone (no limit)")
    command.add_argument(
        "--eval", metavar="FILE", help="rows to evaluate on, whose prompts must not be trained on"
    )
    command.add_argument(
        "--allow",
        action="extend",
        nargs="+",
        default=[],
        metavar="KIND[:ID]",
        help=f"findings that are no failure, all of a kind or one row's: {', '.join(doctor.DONE)}",
    )
    command.add_argument(
        "--reasoning",
        choices=["keep", "drop"],
        default="keep",
        help="what becomes of the answers' reasoning_content (keep)",
    )
    command.add_argument(
        "--skip-bad", type=whole_number, default=0, metavar="N", help="bad rows to leave out (0)"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    limits = {"max_tokens": arguments.max_tokens, "max_targets": arguments.max_targets}
    doctor.check_limits(**limits)
    doctor.check_allow(arguments.allow)
    tokenizer = encode.Tokenizer(arguments.model)
    read = functools.partial(
        encode.examples,
        tokenizer=tokenizer,
        render=template.load(arguments.model),
        keep_reasoning=arguments.reasoning == "keep",
        skip_bad=arguments.skip_bad,
    )
    examples = read(arguments.file)
    evaluation = read(arguments.eval) if arguments.eval else None
    found = doctor.examine(examples, tokenizer, **limits, evaluation=evaluation)
    allowed, refused = doctor.divide(found, arguments.allow)
    described = report.describe(examples, tokenizer, allowed, refused, **limits)
    if arguments.json:
        passed = set(allowed)
        findings = [{**dataclasses.asdict(one), "allowed": one in passed} for one in found]
        print(json.dumps({**described, "findings": findings}, ensure_ascii=False))
        return int(bool(refused))
    for one in found:
        print(f"{arguments.file}:{one.line}: {one}")
    print("\n".join(report.lines(described)))
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
