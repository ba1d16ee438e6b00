"""Talk to a model, sample for every row of a file, or serve it as OpenAI's API does."""

from __future__ import annotations

import argparse
import dataclasses
import io
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from star_jax.sampler import loading
from star_jax.sampler.request import SEED_LIMIT, Settings

OK, FAULT, MISTAKE, STOPPED, INTERRUPTED = 0, 1, 2, 75, 130


def main(argv: Sequence[str] | None = None) -> int:
    """0: done. 1: the sampler failed. 2: the request cannot be met, and why not. 75 and 130:
    stopped by SIGTERM or Ctrl-C, and what is done is kept."""
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
        print(f"star_jax.sampler: {error}", file=sys.stderr)
        return MISTAKE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m star_jax.sampler", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_chat(commands)
    _add_generate(commands)
    _add_serve(commands)
    return parser


Kind = Callable[[str], Any]


def number(least: float, most: float = float("inf"), kind: type[int] | type[float] = int) -> Kind:
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


def _flag(command: argparse._ActionsContainer, name: str, default: Any, about: str, kind: Kind):
    shown = "" if default is None else f" ({default})"
    command.add_argument(name, type=kind, default=default, metavar="N", help=about + shown)


def _add_model(command: argparse.ArgumentParser, *, slots: int) -> None:
    group = command.add_argument_group("the model")
    group.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="what weights and cache are computed in (bfloat16)",
    )
    group.add_argument(
        "--cache",
        choices=["same", "int8"],
        default="same",
        help="keys and values in the same dtype, or as int8: less memory, other log-probs (same)",
    )
    group.add_argument(
        "--warm-up", action="store_true", help="compile for every size before the first request"
    )
    _flag(group, "--tensor", 1, "devices that the weights are split over", number(1))
    _flag(group, "--slots", slots, "samples that are decoded at once", number(1))
    _flag(group, "--max-prompt", 4096, "room for a prompt, in tokens", number(1))
    _flag(group, "--max-new", 1024, "room for what follows it, in tokens", number(1))


def _load(folder: Path, arguments: argparse.Namespace, **options: Any) -> loading.Loaded:
    return loading.load(
        folder,
        dtype=arguments.dtype,
        slots=arguments.slots,
        max_prompt=arguments.max_prompt,
        max_new=arguments.max_new,
        tensor=arguments.tensor,
        small_cache=arguments.cache == "int8",
        warm_up=arguments.warm_up,
        **options,
    )


def _add_drawing(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("how tokens are drawn")
    _flag(group, "--max-new-tokens", None, "most tokens of a sample (all of --max-new)", number(1))
    _flag(group, "--temperature", 1.0, "0 takes the likeliest token", number(0, 100, kind=float))
    _flag(group, "--top-k", 0, "so many likeliest tokens; 0: all", number(0, 2**31 - 1))
    _flag(group, "--top-p", 1.0, "the fewest tokens of this mass; 1: all", number(0, 1, kind=float))
    _flag(
        group,
        "--min-p",
        0.0,
        "tokens at least this likely, as a share of the likeliest; 0: all",
        number(0, 1, kind=float),
    )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="a text that ends a sample; repeat for more",
    )
    group.add_argument(
        "--think",
        choices=["on", "off"],
        help="the template's enable_thinking (what the template does without it)",
    )


def _settings(arguments: argparse.Namespace, seed: int) -> Settings:
    return Settings(
        max_new_tokens=arguments.max_new_tokens or arguments.max_new,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        stop=tuple(arguments.stop),
        seed=seed,
    )


def _thinking(arguments: argparse.Namespace) -> bool | None:
    return None if arguments.think is None else arguments.think == "on"


def _fit(settings: Settings, loaded: loading.Loaded) -> Settings:
    """No more new tokens than the model was found to have room for."""
    most = min(settings.max_new_tokens, loaded.max_new)
    return dataclasses.replace(settings, max_new_tokens=most)


def _add_chat(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("chat", help="talk to a model in the terminal")
    command.add_argument("model", type=Path, metavar="DIR", help="a Hugging Face folder")
    command.add_argument(
        "--tools", type=Path, metavar="FILE", help="JSON: a list of tools that it may call"
    )
    _flag(command, "--seed", None, "for the same replies again (any)", number(0, SEED_LIMIT - 1))
    _add_drawing(command)
    _add_model(command, slots=1)
    command.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace) -> int:
    from star_jax.sampler import talk

    tools = talk.read_tools(arguments.tools) if arguments.tools else []
    seed = secrets.randbelow(SEED_LIMIT) if arguments.seed is None else arguments.seed
    settings = _settings(arguments, seed)
    loaded = _load(arguments.model, arguments)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if is_terminal:
        import readline  # noqa: F401 (input() edits lines with it)
    for stream in (sys.stdin, sys.stdout):  # letters that a terminal lacks are no reason to end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    talk.Talk(
        loaded,
        _fit(settings, loaded),
        tools=tools,
        thinking=_thinking(arguments),
        read_line=input,
        out=sys.stdout,
        is_styled=is_terminal,
    ).run()
    return OK


def _add_generate(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "generate", help="sample for every row of a file; the same command goes on after a kill"
    )
    command.add_argument(
        "input",
        type=Path,
        metavar="IN",
        help="rows of messages and tools, or of a prompt: .jsonl, .jsonl.gz or .parquet",
    )
    command.add_argument("output", type=Path, metavar="OUT", help=".jsonl; never written over")
    command.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="a Hugging Face folder"
    )
    _flag(command, "--n", 1, "samples of each prompt", number(1))
    _flag(command, "--seed", 0, "another one gives other samples", number(0, SEED_LIMIT - 1))
    _flag(command, "--skip-bad", 0, "bad rows to leave out", number(0))
    _add_drawing(command)
    _add_model(command, slots=64)
    command.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    from star_jax.data import read
    from star_jax.sampler import generate, output

    plan = generate.Plan(
        source=arguments.input,
        output=arguments.output,
        settings=_settings(arguments, arguments.seed),
        n=arguments.n,
        thinking=_thinking(arguments),
        skip_bad=arguments.skip_bad,
    )
    output.check(plan.output)  # before a model is loaded for nothing
    read.scan(plan.source)
    with _told() as told:
        loaded = _load(arguments.model, arguments)
        done = generate.run(plan, loaded, should_stop=lambda: bool(told))
    if done.done < done.rows:
        print(
            f"star_jax.sampler: stopped: {done.done} of {done.rows} rows are in {plan.output}, the "
            "same command goes on",
            file=sys.stderr,
        )
        return INTERRUPTED if told == [signal.SIGINT] else STOPPED
    before = f", {done.found} of them were there already" if done.found else ""
    print(f"{plan.output}: {done.done} rows{before}")
    return OK


@contextmanager
def _told() -> Generator[list[int]]:
    """The signals that came: a first one is heeded when a step is over, a second one at once."""
    told: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield told
        return

    def note(received: int, frame: FrameType | None) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(received)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "serve", help="answer /v1/chat/completions and /v1/completions as OpenAI does"
    )
    command.add_argument("model", type=Path, metavar="DIR", help="a Hugging Face folder")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen (127.0.0.1: this machine alone)",
    )
    _flag(command, "--port", 8000, "0: any that is free", number(0, 65535))
    command.add_argument("--api-key", metavar="KEY", help="what clients have to send (nothing)")
    command.add_argument(
        "--name", metavar="NAME", help="what the model is called (the folder's name)"
    )
    command.add_argument(
        "--driver",
        choices=["own", "jetstream"],
        default="own",
        help="who schedules: the continuous batching of this package, or JetStream's orchestrator",
    )
    _flag(
        command,
        "--grace",
        30,
        "seconds that running requests have after SIGTERM or Ctrl-C",
        number(0, kind=float),
    )
    _add_limits(command)
    _add_model(command, slots=64)
    command.set_defaults(run=_serve)


def _add_limits(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("limits of a request")
    _flag(group, "--max-body", 4 << 20, "bytes of a body", number(1))
    _flag(
        group,
        "--body-timeout",
        30,
        "seconds for the headers to arrive, and again for the body",
        number(0.01, kind=float),
    )
    _flag(group, "--max-waiting", 512, "prompts that wait for a first token", number(1))
    _flag(group, "--max-n", 64, "samples of a prompt", number(1))
    _flag(group, "--max-prompts", 256, "prompts of a text completion", number(1))
    _flag(group, "--max-stop", 16, "stop strings", number(1))
    _flag(group, "--max-tools", 128, "tools", number(1))


def _serve(arguments: argparse.Namespace) -> int:
    from star_jax.sampler.server import body, run

    options = run.Options(
        host=arguments.host,
        port=arguments.port,
        grace_s=arguments.grace,
        api_key=arguments.api_key,
        limits=body.Limits(
            body_bytes=arguments.max_body,
            body_s=arguments.body_timeout,
            waiting=arguments.max_waiting,
            n=arguments.max_n,
            prompts=arguments.max_prompts,
            stop=arguments.max_stop,
            tools=arguments.max_tools,
        ),
    )
    if options.warning:
        print(f"star_jax.sampler: warning: {options.warning}", file=sys.stderr)
    with run.bind(options) as bound:  # before a model is loaded for nothing
        loaded = _load(arguments.model, arguments, driver=arguments.driver)
        if arguments.name:
            about = {**loaded.about, "model": arguments.name}
            loaded = dataclasses.replace(loaded, about=about)
        server = run.Running(loaded, options, bound)

        def ready() -> None:
            print(f"{loaded.name} answers at {run.url(bound)}", file=sys.stderr, flush=True)

        server.run(ready)
        return FAULT if server.service.worker.failure else OK


if __name__ == "__main__":
    sys.exit(main())
