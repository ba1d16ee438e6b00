"""The commands `rewards explain`, `rewards replay` and `rewards compare`.

They read stored completions (`rows`); `python -m star_jax.data rewards …` runs them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from star_jax.rewards import compare, explain, rows
from star_jax.rewards.combine import Sample, Scores, Term, score
from star_jax.rewards.pool import Pool
from star_jax.rewards.reward import Reward


def main(argv: Sequence[str]) -> int:
    """Run one command; 0, or 2 with a sentence on stderr where the input is at fault."""
    arguments = _parser().parse_args(list(argv))
    try:
        match arguments.command:
            case "explain":
                _explain(arguments)
            case "compare":
                _write(compare.lines(*compare.compare(rows.read(arguments.file))))
            case _:
                _replay(arguments)
    except BrokenPipeError:
        raise  # the reader of our output has seen enough; data's main knows what to do
    except (ValueError, OSError) as error:
        sys.stderr.write(f"rewards {arguments.command}: {error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m star_jax.data rewards", description="Scores of stored completions."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("explain", help="take the Sim-RL score of one row apart")
    two = commands.add_parser("compare", help="Sim-RL's default against the reference's numbers")
    many = commands.add_parser("replay", help="score a file's completions with any reward")
    for command in (one, two, many):
        command.add_argument("file", type=Path, help="JSON lines: id, generation, label, tools")
    one.add_argument("--row", required=True, help="the id of the row")
    one.add_argument("--matching", choices=("greedy", "optimal"), default="greedy")
    one.add_argument("--compat", choices=("star",), help="the reference's numbers")
    many.add_argument(
        "--reward", required=True, help="simrl, toolrl, binary, valid, or a dotted path"
    )
    many.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a keyword of the reward, its value JSON or a plain word; may be repeated",
    )
    many.add_argument(
        "--take",
        action="append",
        default=[],
        metavar="FIELD",
        help="a further field of the rows that the reward takes as a keyword; may be repeated",
    )
    many.add_argument("--out", type=Path, help="write id, total, format, answer, why per row here")
    many.add_argument("--workers", type=int, default=0, help="processes; 0 computes here")
    many.add_argument("--timeout", type=float, metavar="SECONDS", help="most a call may take")
    return parser


def _explain(arguments: argparse.Namespace) -> None:
    row = rows.find(arguments.file, arguments.row)
    explanation = explain.explain(
        row.generation, row.label, row.tools, arguments.compat, matching=arguments.matching
    )
    _write(explain.lines(explanation))


def _replay(arguments: argparse.Namespace) -> None:
    if arguments.out and not arguments.out.parent.is_dir():
        raise ValueError(f"--out {arguments.out}: there is no folder {arguments.out.parent}")
    if arguments.out and arguments.out.exists():
        raise ValueError(f"--out {arguments.out}: already there; choose another name")
    samples = list(rows.read(arguments.file))
    path = arguments.reward if "." in arguments.reward else f"star_jax.rewards.{arguments.reward}"
    options = dict(_option(text) for text in arguments.option)
    term = Term(reward=path, options=options, takes=tuple(arguments.take))
    if arguments.workers:
        with Pool(arguments.workers) as pool:
            scores = score(samples, [term], timeout_s=arguments.timeout, pool=pool)
    else:
        scores = score(samples, [term], timeout_s=arguments.timeout)
    if arguments.out:
        lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in records(samples, scores)]
        data = "".join(lines).encode(errors="replace")
        with arguments.out.open("xb") as out:
            out.write(data)
    _write(summary(path, scores))


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--option {text!r}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def records(samples: Sequence[Sample], scores: Scores) -> Iterable[Mapping[str, Any]]:
    """A row of results per sample of a combination of one term."""
    reasons = {failure.sample: failure.reason for failure in scores.failures}
    for number, (sample, value) in enumerate(zip(samples, scores.values[0], strict=True)):
        if isinstance(value, Reward):
            shown = {"total": value.total, "format": value.format, "answer": value.answer}
            yield {"id": sample.id, **shown, "why": value.why, "parts": value.parts}
        else:
            why = reasons.get(sample.id or str(number), "")
            yield {"id": sample.id, "total": value, "why": why}


def summary(name: str, scores: Scores) -> Iterable[str]:
    """Counts, mean and spread of the totals, what decided, and the failures."""
    totals = [total for total in scores.totals if total is not None]
    skipped = len(scores.totals) - len(totals) - len(scores.failures)
    yield f"{name}: {len(totals)} scored, {skipped} skipped, {len(scores.failures)} failed"
    if totals:
        spread = statistics.pstdev(totals)
        yield f"mean {statistics.fmean(totals):.6f}   standard deviation {spread:.6f}"
        yield f"least {min(totals):.6f}   most {max(totals):.6f}"
    kinds = [value.kind for value in scores.values[0] if isinstance(value, Reward)]
    for kind in sorted(set(kinds)):
        yield f"{kinds.count(kind):8d}  {kind}"
    for (_, reason), count in scores.failure_counts.most_common():
        yield f"{count:8d}  failed: {reason}"


def _write(text: Iterable[str]) -> None:
    sys.stdout.writelines(line + "\n" for line in text)
