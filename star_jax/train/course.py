"""python -m star_jax.train curriculum FILE [--output DIR] [--seed S] [--seeds N] [--dry-run]

Runs the stages of a file, and says at the end what they changed. Without a FILE: the embedded one,
STAR on the embedded world. The same command goes on where it was ended; what changed since is run
again, and what was made before is kept in OUTPUT/aside.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_jax.data.cache import partfile
from star_jax.evals import stats
from star_jax.train import curriculum, paper, report
from star_jax.train.manifest import Manifest, Plan, Ready
from star_jax.train.view import View

log = logging.getLogger(__name__)

EMBEDDED = Path(__file__).parent / "curricula"
SHOWN = (  # of marks.json, for the table at the end
    ("call_exact", "call: exact"),
    ("call_call_share", "calls"),
    ("call_valid_share", "valid"),
    ("call_reward", "reward"),
    ("words_exact", "words: exact"),
    ("words_call_share", "calls"),
    ("words_reward", "reward"),
)


@dataclass(frozen=True)
class Asked:
    file: Path
    output: Path | None
    seed: int
    seeds: int
    is_dry: bool
    is_paper: bool = False


def asked(argv: Sequence[str], default: str = "demo") -> Asked:
    """What a command asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m star_jax.train curriculum", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "file", nargs="?", type=Path, help="a curriculum in YAML (the embedded one)"
    )
    parser.add_argument("--output", type=Path, help="folder of the run (runs/NAME)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="N runs, and their means")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run")
    given = parser.parse_args(argv)
    if given.seeds < 1 or given.seed < 0:
        parser.error("--seeds is at least 1 and --seed at least 0")
    file = given.file or EMBEDDED / f"{default}.yaml"
    is_paper = default == "paper"
    return Asked(file, given.output, given.seed, given.seeds, given.dry_run, is_paper)


def plans(what: Asked) -> list[Plan]:
    """One for each seed."""
    first = curriculum.load(what.file, what.output, what.seed)
    if what.seeds == 1:
        return [first]
    return [
        curriculum.load(what.file, first.output / f"seed-{seed}", seed)
        for seed in range(what.seed, what.seed + what.seeds)
    ]


def run(what: Asked, argv: Sequence[str], say: Callable[[str], None]) -> int | None:
    """→ the signal that it was stopped by; None where all is done."""
    made = [(plan, curriculum.check(plan)) for plan in plans(what)]
    if what.is_dry:
        for plan, ready in made:
            for line in preview(plan, ready):
                say(line)
        return None
    command = shlex.join(["python", "-m", "star_jax.train", *argv])
    for plan, ready in made:
        manifest = Manifest(plan, ready, command)
        with contextlib.ExitStack() as stack:
            if sys.stderr.isatty():
                stack.enter_context(View(plan, ready, manifest))
            ending = curriculum.run(plan, ready, manifest, log)
        if ending is not None:
            return ending
    for line in table(made):
        say(line)
    for name in finished(what, made):
        say(name)
    return None


def finished(what: Asked, made: Sequence[tuple[Plan, list[Ready]]]) -> Iterator[str]:
    """Write what is looked at afterwards, and say where it is."""
    folders = [plan.output for plan, _ in made]
    whole = folders[0] if len(folders) == 1 else folders[0].parent
    page = report.write(folders, whole / "report.html")
    yield f"what happened, as a page: {page}"
    if what.is_paper:
        path = whole / "paper.md"
        partfile.write(path, [paper.markdown(made).encode()])
        yield f"beside the paper's own numbers: {path}"
    for plan, ready in made:
        exported = [one.output for one in ready if one.stage.run == "export"]
        for folder in exported:
            yield (
                f"{plan.name}, seed {plan.seed}: {folder}: talk to it with python -m "
                f"star_jax.sampler chat {folder}"
            )


def preview(plan: Plan, ready: Sequence[Ready]) -> Iterator[str]:
    yield f"{plan.name}, seed {plan.seed}, in {plan.output}"
    for number, one in enumerate(ready, 1):
        preset = f" --preset {one.stage.preset}" if one.stage.preset else ""
        yield f"  {number:2} {one.stage.name:16} {one.stage.run}{preset}  {one.key}"


def table(made: Sequence[tuple[Plan, list[Ready]]]) -> Iterator[str]:
    """Every evaluation, its sets, and what is due apart; over seeds with intervals."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for plan, ready in made:
        for stage, marks in curriculum.evaluations(plan, ready):
            for name, numbers in marks["sets"].items():
                found.setdefault((name, stage), []).append(numbers["marks"])
    sets = dict.fromkeys(name for name, _ in found)
    for name in sets:
        yield ""
        yield f"{name:<14}" + "".join(f"{title:>16}" for _, title in SHOWN)
        for (other, stage), marks in found.items():
            if other == name:
                cells = "".join(f"{_cell(key, marks):>16}" for key, _ in SHOWN)
                yield f"  {stage:<12}{cells}"


def _cell(key: str, marks: Sequence[dict[str, Any]]) -> str:
    values = [one[key] for one in marks if key in one]
    if not values:
        return "-"
    is_share = not key.endswith("reward")
    scale, form = (100, "{:.0f}") if is_share else (1, "{:.2f}")
    mean = form.format(scale * statistics.fmean(values))
    if len(values) == 1:
        return mean
    interval = stats.over_seeds(values)
    return f"{mean} ± {form.format(scale * (interval.high - interval.low) / 2)}"
