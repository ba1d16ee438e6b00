"""python -m star_jax.train LOOP [--preset NAME] [--config FILE] [--section.key value] [--dry-run]

    sft         cross-entropy with the targets of the rows
    ckd         distillation from a teacher, live or from its cache
    rl          the policy answers, a graded reward judges, groups are compared
    dpo         a right answer over a wrong one to the same prompt
    teacher     a teacher's answers to every prompt, and those of them that a student learns from

    curriculum  several stages from one file, or the embedded one: --help says more
    paper       every row of the paper's tables on the embedded world
    report      one page that shows what runs did, alone or side by side
                without a word: a tour of the program on a tiny random model, on this machine

LOOP --help lists every key; --dry-run says what would be done. Exit status: 0 done, 1 a fault of
the program or of the machine, 2 a mistake in what was asked for, 3 a loss that is not finite, 4 rl
had nothing to learn from or stopped calling tools, 75 stopped by SIGTERM and saved (the same
command goes on), 130 the same by Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from star_jax.train import devices

OK, FAULT, MISTAKE, NON_FINITE, NOTHING, STOPPED, INTERRUPTED = 0, 1, 2, 3, 4, 75, 130


def main(argv: Sequence[str] | None = None) -> int:
    """→ the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    match given:
        case ["sft" | "ckd" | "rl" | "dpo" as loop, *rest]:
            from star_jax.train import processes

            try:
                return _train(loop, rest)
            except BaseException as error:  # ours; the other processes are not to wait for this one
                processes.leave(1, error)
                raise
        case ["teacher", *rest]:
            return _teach(rest)
        case ["curriculum", *rest]:
            return _curriculum(rest, given, "demo")
        case ["paper", *rest]:
            return _curriculum(rest, given, "paper")
        case ["report", *rest]:
            from star_jax.train import report

            return report.command(rest)
        case [("-h" | "--help"), *_]:
            print(__doc__)
            return OK
        case [word, *_] if not word.startswith("-"):
            print(
                f"star_jax.train: {word}: is no command: use sft, ckd, rl, dpo, teacher, "
                "curriculum, paper or report",
                file=sys.stderr,
            )
            return MISTAKE
    return _tour(given)


def _tour(argv: Sequence[str]) -> int:
    from star_jax.train import tour

    parser = argparse.ArgumentParser(prog="python -m star_jax.train")
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
    return OK


def _log() -> None:
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("jax").setLevel(logging.WARNING)  # it tells of every backend that is absent


class _Left(BaseException):
    """SIGTERM where there is nothing to save."""


def _until_told(train: Callable[[str, list[str]], int]) -> Callable[[str, list[str]], int]:
    """A loop takes signals itself; before it has begun, and a second Ctrl-C, end it at once."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise _Left

    def run(loop: str, argv: list[str]) -> int:
        before = signal.signal(signal.SIGTERM, leave)
        try:
            return train(loop, argv)
        except (_Left, KeyboardInterrupt) as told:
            print(
                "star_jax.train: stopped: the same command goes on from what is saved",
                file=sys.stderr,
            )
            return STOPPED if isinstance(told, _Left) else INTERRUPTED
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


@_until_told
def _train(loop: str, argv: list[str]) -> int:
    from star_jax.train import config as configs
    from star_jax.train import flags, presets, processes

    kind: Any = getattr(configs, loop.capitalize())
    if "-h" in argv or "--help" in argv:
        print(f"python -m star_jax.train {loop}: {kind.__doc__}\n\n{flags.help_text(kind)}")
        print(f"  {'--preset NAME':<34} one of {', '.join(presets.PRESETS[loop])}")
        return OK
    is_dry = "--dry-run" in argv
    _log()
    try:
        name, words = flags.take([word for word in argv if word != "--dry-run"], "preset")
        config = flags.load(kind, words, None if name is None else presets.of(loop, name))
        session = _begin(loop, config, is_dry)
    except processes.Agreed as error:
        if not error.is_told:
            print(f"star_jax.train: {error}", file=sys.stderr)
        return MISTAKE
    except (ValueError, OSError) as error:
        logging.debug("raised here", exc_info=True)
        print(f"star_jax.train: {error}", file=sys.stderr)
        processes.leave(MISTAKE)
        return MISTAKE
    return OK if session is None else _go_on(session)


def _begin(loop: str, config: Any, is_dry: bool) -> Any:
    """The session that is to go on; None where a preview was all that was asked for."""
    import jax

    from star_jax.train import fit, preview, processes, rl, stages

    if config.compute.cpu_devices > 1:
        devices.split_cpu(config.compute.cpu_devices)
    others = config.distributed
    processes.join(others.mode, others.coordinator, others.processes, others.process)
    if jax.process_index() > 0:
        logging.getLogger().setLevel(logging.ERROR)  # the first one says the same
    if loop == "rl":
        run = rl.open(config)
        if is_dry:
            for line in rl.preview(run):
                print(line)
            return None
        return rl.begin(run)
    with processes.together():
        task = stages.task(loop, config, load=not is_dry)
    if is_dry:
        for line in preview.lines(task):
            if jax.process_index() == 0:
                print(line)
        return None
    return fit.begin(task)


def _curriculum(argv: list[str], given: list[str], default: str) -> int:
    """Several stages from one file."""
    _log()  # before what brings handlers of its own
    from star_jax.train import course, fit, rl

    try:
        ending = course.run(
            course.asked(argv, default), given, lambda line: print(line, flush=True)
        )
    except fit.NonFinite as error:
        print(f"star_jax.train: {error}", file=sys.stderr)
        return NON_FINITE
    except (rl.Starved, rl.Apart, rl.Collapsed) as error:
        print(f"star_jax.train: {error}", file=sys.stderr)
        return NOTHING
    except (ValueError, OSError) as error:
        logging.debug("raised here", exc_info=True)
        print(f"star_jax.train: {error}", file=sys.stderr)
        return MISTAKE
    if ending is None:
        return OK
    logging.info("stopped: the same command goes on")
    return INTERRUPTED if ending == signal.SIGINT else STOPPED


def _teach(argv: list[str]) -> int:
    """A teacher's answers; no training, so no session."""
    _log()
    from star_jax.train import config as configs
    from star_jax.train import flags, processes, teacher

    if "-h" in argv or "--help" in argv:
        print(f"python -m star_jax.train teacher: {configs.Teach.__doc__}\n")
        print(flags.help_text(configs.Teach, is_dry=False))
        return OK
    try:
        config = flags.load(configs.Teach, argv)
        if config.cpu_devices > 1:
            devices.split_cpu(config.cpu_devices)
        with processes.Signals() as signals:
            report = teacher.run(
                teacher.open(config), teacher.logged, should_stop=lambda: bool(signals.ending())
            )
            told = signals.ending()
    except (ValueError, OSError) as error:
        print(f"star_jax.train: {error}", file=sys.stderr)
        return MISTAKE
    if report is None:
        logging.info("stopped: the same command goes on")
        return INTERRUPTED if told == signal.SIGINT else STOPPED
    print("\n".join(report.lines()))
    return OK


def _go_on(session: Any) -> int:
    """From here on a mistake is ours, and keeps its traceback."""
    import jax

    from star_jax.train import fit, rl

    is_rl = isinstance(session, rl.Session)
    output = (session.run if is_rl else session.task.run).output
    try:
        ending = rl.go_on(session) if is_rl else fit.go_on(session)
    except fit.NonFinite as error:
        if jax.process_index() == 0:
            print(f"star_jax.train: {error}", file=sys.stderr)
        return NON_FINITE
    except (rl.Starved, rl.Apart, rl.Collapsed) as error:
        print(f"star_jax.train: {error}", file=sys.stderr)
        return NOTHING
    except OSError as error:  # a disk that is full is not ours
        if jax.process_count() > 1:
            raise  # so that the others hear of it
        print(f"star_jax.train: {output}: {error}", file=sys.stderr)
        return FAULT
    if ending is None:
        logging.info("done: %s", output / "model")
        return OK
    logging.info("stopped and saved in %s: the same command goes on", output)
    return INTERRUPTED if ending == signal.SIGINT else STOPPED


if __name__ == "__main__":
    sys.exit(main())
