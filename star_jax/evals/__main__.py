"""What a model can do with tools: BFCL, ACEBench, pass@k, and honest comparisons."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from star_jax.evals.running import whom

OK, FAULT, MISTAKE, STOPPED, INTERRUPTED = 0, 1, 2, 75, 130
SEED_LIMIT = 2**63
KEY = "OPENAI_API_KEY"


def main(argv: Sequence[str] | None = None) -> int:
    """0: done. 1: the device has no memory for it. 2: the request cannot be met, and why not. 75
    and 130: stopped by SIGTERM or Ctrl-C. What is done is kept, and the same command goes on."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    try:
        return arguments.run(arguments)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        _tell(str(error))
        return MISTAKE
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _tell(
            "the device has no memory for so many answers at once: run the same command with "
            "fewer --slots (or a smaller --context, which begins anew); it goes on"
        )
        return FAULT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m star_jax.evals", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_bfcl(commands)
    _add_acebench(commands)
    _add_passk(commands)
    _add_compare(commands)
    return parser


def number(least: float, most: float = float("inf"), kind: type[int] | type[float] = int):
    """A flag's value within limits."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            what = "a whole number" if kind is int else "a number"
            limit = f"from {least} to {most}" if most < float("inf") else f"from {least} on"
            raise argparse.ArgumentTypeError(f"{text!r}: give {what} {limit}")
        return value

    return read


def _flag(command: Any, name: str, default: Any, about: str, kind: Callable[[str], Any]) -> None:
    shown = "" if default is None else f" ({default})"
    command.add_argument(name, type=kind, default=default, metavar="N", help=about + shown)


def _add_who(command: argparse.ArgumentParser, *, max_new: int) -> None:
    """Who is asked, and how answers are drawn."""
    group = command.add_argument_group("who answers")
    one = group.add_mutually_exclusive_group(required=True)
    one.add_argument("--model", type=Path, metavar="DIR", help="a Hugging Face folder")
    one.add_argument(
        "--endpoint",
        metavar="URL",
        help=f"a server of OpenAI's API instead, like http://127.0.0.1:8000; its key is ${KEY}",
    )
    group.add_argument(
        "--served", metavar="NAME", help="what the server calls the model (the first it lists)"
    )
    _flag(group, "--slots", 64, "answers at once; to a server, requests at once", number(1))
    _flag(group, "--timeout", 600.0, "seconds that a request may take", number(0.1, kind=float))
    _flag(group, "--context", None, "tokens of prompt and answer (the model's own)", number(8))
    group.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="what weights and cache are computed in (bfloat16)",
    )
    _flag(group, "--tensor", 1, "devices that the weights are split over", number(1))
    group = command.add_argument_group("how it answers")
    group.add_argument(
        "--think", choices=["on", "off"], help="whether to reason (what the prompt does without)"
    )
    group.add_argument(
        "--system", type=Path, metavar="FILE", help="a system prompt to put before the entry's own"
    )
    _flag(group, "--temperature", 0.0, "0 takes the likeliest token", number(0, 100, kind=float))
    _flag(group, "--max-new-tokens", max_new, "most tokens of an answer", number(1))
    _flag(group, "--seed", 0, "for the same answers again", number(0, SEED_LIMIT - 1))


def _add_what(command: argparse.ArgumentParser, data: str, categories: str) -> None:
    command.add_argument("--data", type=Path, metavar="PATH", help=data)
    command.add_argument("--categories", default="all", metavar="NAMES", help=categories)
    _flag(command, "--limit", None, "entries of each category (all)", number(1))
    command.add_argument(
        "--output", type=Path, metavar="DIR", help="where results go (./BENCHMARK-NAME)"
    )
    command.add_argument(
        "--name", metavar="NAME", help="what the model is called in the results (its folder's name)"
    )


def _add_bfcl(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "bfcl", help="the Berkeley Function-Calling Leaderboard, v3 or v4"
    )
    _add_what(
        command,
        "BFCL's files: a wheel, a checkout or their folder (the miniature that comes along)",
        "by name, or all, single_turn, non_live, live, multi_turn; split by commas (all)",
    )
    command.add_argument("--version", choices=["v3", "v4"], help="(what --data holds)")
    command.add_argument(
        "--prompt",
        choices=["official", "template", "star"],
        default="official",
        help="as BFCL asks Qwen3, as the model's own template does, as STAR's authors (official)",
    )
    _add_who(command, max_new=4096)
    command.set_defaults(run=_bfcl)


def _bfcl(arguments: argparse.Namespace) -> int:
    from star_jax.evals.running import bfcl

    if arguments.prompt == "star" and arguments.system is None:
        _tell(
            "--prompt star without --system: their system prompt does not come along, so none is "
            "put before the tools, as in their training set"
        )
    exam = bfcl.open(arguments.data, arguments.version, arguments.categories, arguments.limit)
    try:
        return _benchmark(arguments, "bfcl", exam, arguments.prompt)
    finally:
        exam.close()


def _add_acebench(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("acebench", help="ACEBench's Normal categories")
    _add_what(
        command,
        "a checkout of ACEBench (the miniature that comes along)",
        "by name, or all, atom, single_turn, multi_turn; split by commas (all)",
    )
    command.add_argument("--language", choices=["en", "zh"], default="en", help="(en)")
    command.add_argument(
        "--keep-thoughts",
        action="store_true",
        help="judge what stands before </think> as well, as the official run does",
    )
    _add_who(command, max_new=1024)
    command.set_defaults(run=_acebench)


def _acebench(arguments: argparse.Namespace) -> int:
    from star_jax.evals.running import acebench

    exam = acebench.open(arguments.data, arguments.language, arguments.categories, arguments.limit)
    return _benchmark(arguments, "acebench", exam, "template")


def _benchmark(arguments: argparse.Namespace, kind: str, exam: Any, mode: Any) -> int:
    from star_jax.evals.running import benchmark, showing, tables

    prompting, asker = whom.asked(_who(arguments), mode)
    name = arguments.name or asker.about["model"]
    output = arguments.output or Path(f"{kind}-{name.replace('/', '_')}")
    try:
        with whom.told() as told:
            scores = benchmark.run(
                exam,
                asker,
                prompting,
                output,
                name=name,
                keep_thoughts=getattr(arguments, "keep_thoughts", False),
                limit=arguments.limit,
                should_stop=lambda: bool(told),
            )
    finally:
        asker.close()
    if scores is None:
        return _stopped(output, told)
    print(f"{showing.title(scores)}\n{showing.about(scores)}\n")
    for table in showing.tables(scores):
        print(tables.text(table))
    print(f"{output}: scores.json, scores.html, answers.jsonl")
    return OK


def _who(arguments: argparse.Namespace) -> whom.Who:
    return whom.Who(
        model=arguments.model,
        endpoint=arguments.endpoint,
        served=arguments.served,
        key=os.environ.get(KEY),
        slots=arguments.slots,
        timeout_s=arguments.timeout,
        context=arguments.context,
        dtype=arguments.dtype,
        tensor=arguments.tensor,
        think=None if arguments.think is None else arguments.think == "on",
        system=arguments.system,
        temperature=arguments.temperature,
        max_new_tokens=arguments.max_new_tokens,
        seed=arguments.seed,
    )


def _stopped(output: Path, told: list[int]) -> int:
    _tell(f"stopped: what is done is in {output}, the same command goes on")
    return INTERRUPTED if told == [signal.SIGINT] else STOPPED


def _tell(sentence: str) -> None:
    print(f"star_jax.evals: {sentence}", file=sys.stderr)


def _add_passk(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("passk", help="many samples of every row: pass@k and entropy")
    command.add_argument(
        "--model",
        nargs="+",
        action="extend",
        required=True,
        metavar="[NAME=]DIR",
        help="Hugging Face folders; several are compared with the first",
    )
    command.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="rows with their answers"
    )
    command.add_argument("--output", type=Path, metavar="DIR", help="where results go (./passk)")
    _flag(command, "--samples", 64, "samples of each prompt", number(1))
    command.add_argument(
        "--k", type=_ks, metavar="K,K,…", help="for pass@k (1,2,4,… up to the samples)"
    )
    _flag(command, "--temperature", 1.0, "entropy needs 1", number(0, 100, kind=float))
    _flag(command, "--max-new-tokens", 512, "most tokens of a sample", number(1))
    _flag(command, "--context", None, "tokens of prompt and answer (the model's own)", number(8))
    _flag(command, "--slots", 64, "samples at once", number(1))
    _flag(command, "--limit", None, "rows, from the first on (all)", number(1))
    _flag(command, "--skip-bad", 0, "bad rows to leave out", number(0))
    _flag(command, "--seed", 0, "another one gives other samples", number(0, SEED_LIMIT - 1))
    command.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    command.set_defaults(run=_passk)


def _ks(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers from 1 on, like 1,2,4")
    return tuple(sorted({int(word) for word in words}))


def _passk(arguments: argparse.Namespace) -> int:
    from star_jax.evals.running import curves, exploring, passk, tables

    models = passk.named(arguments.model)
    plan = passk.Plan(
        data=arguments.data,
        output=arguments.output or Path("passk"),
        samples=arguments.samples,
        ks=arguments.k or (),
        temperature=arguments.temperature,
        max_new_tokens=arguments.max_new_tokens,
        context=arguments.context,
        slots=arguments.slots,
        dtype=arguments.dtype,
        seed=arguments.seed,
        limit=arguments.limit,
        skip_bad=arguments.skip_bad,
    )
    for folder in models.values():  # before any is sampled from for nothing
        passk.read(plan, folder)
    with whom.told() as told:
        for name, folder in models.items():
            if not passk.sample(plan, name, folder, should_stop=lambda: bool(told)):
                return _stopped(plan.output, told)
    scores = curves.score(passk.lines(plan, models), plan.ks, plan.settings)
    exploring.write(plan.output, scores)
    print(f"{exploring.title(scores)}\n{exploring.about(scores)}\n")
    for table in exploring.tables(scores):
        print(tables.text(table))
    for sentence in scores["claims"]:
        print(sentence)
    print(f"{plan.output}: scores.json, scores.html")
    return OK


def _add_compare(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "compare", help="runs over the same entries: who is better, and is it more than luck"
    )
    command.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="outputs of bfcl, acebench, passk or of a training's evaluate stage; the first is "
        "compared with each other one",
    )
    command.add_argument("--output", type=Path, metavar="DIR", help="for comparison.{json,html}")
    command.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    from star_jax.evals.running import comparing, tables

    runs = [run for folder in arguments.runs for run in comparing.read(folder)]
    made = comparing.against_first(runs)
    for sentence in comparing.notes(runs):
        print(sentence)
    for names, rows in made:
        for table in comparing.tables(rows, names):
            print(tables.text(table))
        for row in rows:
            if row["kind"] == "average":
                print(f"{row['what']}: {row['sentence']}")
    if arguments.output is not None:
        comparing.write(arguments.output, runs, made)
        print(f"{arguments.output}: comparison.json, comparison.html")
    return OK


if __name__ == "__main__":
    sys.exit(main())
