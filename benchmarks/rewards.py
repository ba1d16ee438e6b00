"""How many samples a second the rewards score on one core, beside the reference if it is given.

    python benchmarks/rewards.py [--reference FOLDER] [--rounds N]

Two workloads of 1,024 samples in groups of eight, which share prompt, tools and label: replies of
a few dozen words, and one to three calls with texts, numbers and booleans as arguments. Cold means
empty caches, warm the same samples again. A training run lies between, since labels and most words
come again and generations do not: "new" scores generations never seen, no two alike, with labels
that were. Cold and warm groups may hold a generation twice, as groups do.

FOLDER holds the reference's simrl.py, and what that imports can be imported. The numbers of both
are compared first; then ours and the reference's alternate, and the fastest of the rounds counts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_jax import chat, rewards
from star_jax.rewards import reading, star, stem, text

STEP = 1024
GROUP = 8
STEP_BUDGET_S = 0.050
CACHES = (
    stem.stem,
    text.ascii_words,
    text.unicode_words,
    text.ascii_reference,
    text.unicode_reference,
    star.read_label,
    reading.read_label,
    reading.parse,
)
SYLLABLES = [consonant + vowel for consonant in "bdgklmnprst" for vowel in "aeio"]
ENDINGS = ("", "s", "ing", "ed", "ation", "ly", "ness", "er")


@dataclass(frozen=True)
class Case:
    """One sample, with the prompt that the reference reads the tools from."""

    prompt: str
    generation: str
    label: str
    tools: list[dict[str, Any]]


Scorer = Callable[[Sequence[Case]], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="the folder that holds simrl.py")
    parser.add_argument("--rounds", type=int, default=5, help="the fastest of these counts")
    arguments = parser.parse_args()
    reference = load_reference(arguments.reference) if arguments.reference else None
    workloads = {"replies": replies, "calls": calls}
    for name, make in workloads.items():
        report(name, make, reference, arguments.rounds)


def report(
    name: str, make: Callable[[random.Random], list[Case]], reference: Scorer | None, rounds: int
) -> None:
    cases = make(random.Random(0))
    scorers: dict[str, Scorer] = {"default": score_default, "star": score_star}
    if reference:
        check_equal(score_star(cases), reference(cases))
        scorers["reference"] = reference
    seconds: dict[tuple[str, str], float] = {}
    for number in range(rounds):
        fresh = generations_unseen(make, number)
        for scorer, function in scorers.items():
            for cache in CACHES:
                cache.cache_clear()
            for state, batch in (("cold", cases), ("warm", cases), ("new", fresh)):
                taken = timed(function, batch)
                seconds[scorer, state] = min(taken, seconds.get((scorer, state), taken))
    for (scorer, state), taken in seconds.items():
        line = f"{name:8} {scorer:10} {state:5} {taken * 1e3:8.2f} ms a step of {STEP}"
        line += f" {STEP / taken:10,.0f} samples/s"
        if reference and scorer != "reference":
            line += f" {seconds['reference', state] / taken:8.1f} times the reference"
        if scorer == "default" and state == "warm":
            line += "" if taken < STEP_BUDGET_S else f"  OVER {STEP_BUDGET_S * 1e3:g} ms"
        print(line)


def timed(function: Scorer, cases: Sequence[Case]) -> float:
    start = time.perf_counter()
    function(cases)
    return time.perf_counter() - start


def score_default(cases: Sequence[Case]) -> list[float]:
    return [rewards.simrl(c.generation, c.label, c.tools).total for c in cases]


def score_star(cases: Sequence[Case]) -> list[float]:
    return [rewards.simrl(c.generation, c.label, c.tools, "star").total for c in cases]


def load_reference(folder: Path) -> Scorer:
    spec = importlib.util.spec_from_file_location("reference_simrl", folder / "simrl.py")
    if spec is None or spec.loader is None:
        sys.exit(f"{folder}: no simrl.py that Python can load")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def scorer(cases: Sequence[Case]) -> list[float]:
        with contextlib.redirect_stdout(io.StringIO()):
            scored = module.reward_func(
                [case.prompt + case.generation for case in cases],
                [case.prompt for case in cases],
                [case.label for case in cases],
                print_info=False,
            )
        return [float(value) for value in scored["rewards"]]

    return scorer


def check_equal(ours: Sequence[float], theirs: Sequence[float]) -> None:
    worst = max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    if worst > 1e-6:
        sys.exit(f"compat=star differs from the reference by {worst}")


def generations_unseen(make: Callable[[random.Random], list[Case]], number: int) -> list[Case]:
    """The workload's prompts and labels, its generations cut and ended otherwise."""
    rng = random.Random(number + 1)
    return [
        Case(case.prompt, reworded(case.generation, rng), case.label, case.tools)
        for case in make(random.Random(0))
    ]


def reworded(generation: str, rng: random.Random) -> str:
    """A generation that was never seen, of the same shape."""
    words = generation.replace("ok", f"{word(rng)} {rng.random()}", 1).split(" ")
    return " ".join(word(rng) if item.isalpha() and rng.random() < 0.2 else item for item in words)


def replies(rng: random.Random) -> list[Case]:
    cases = []
    for _ in range(STEP // GROUP):
        gold = [word(rng) for _ in range(rng.randint(15, 45))]
        tools = [tool(rng) for _ in range(3)]
        prompt = chat.render(
            [{"role": "user", "content": "hello"}], tools, add_generation_prompt=True
        )
        for _ in range(GROUP):
            said = [item if rng.random() < 0.7 else word(rng) for item in gold]
            generation = f"<think>\nok\n</think>\n\n{' '.join(said)}.<|im_end|>"
            label = f"</think>{' '.join(gold)}.<|im_end|>\n"
            cases.append(Case(prompt, generation, label, tools))
    return cases


def calls(rng: random.Random) -> list[Case]:
    cases = []
    for _ in range(STEP // GROUP):
        tools = [tool(rng) for _ in range(rng.randint(1, 5))]
        prompt = chat.render(
            [{"role": "user", "content": "hello"}], tools, add_generation_prompt=True
        )
        gold = [call(rng.choice(tools), rng) for _ in range(rng.randint(1, 3))]
        for _ in range(GROUP):
            said = [changed(one, rng) for one in gold]
            generation = f"<think>\nok\n</think>\n\n{spelled(said)}<|im_end|>"
            cases.append(Case(prompt, generation, f"</think>{spelled(gold)}<|im_end|>\n", tools))
    return cases


def word(rng: random.Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) + rng.choice(ENDINGS)


def tool(rng: random.Random) -> dict[str, Any]:
    names = {word(rng) for _ in range(rng.randint(1, 5))}
    properties = {name: {"type": "string", "description": word(rng)} for name in sorted(names)}
    parameters = {"type": "object", "properties": properties, "required": []}
    return {"name": f"{word(rng)}_{word(rng)}", "description": word(rng), "parameters": parameters}


def call(of: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    values = {name: value(rng) for name in of["parameters"]["properties"]}
    return {"name": of["name"], "arguments": values}


def value(rng: random.Random) -> Any:
    phrase = " ".join(word(rng) for _ in range(rng.randint(1, 4)))
    return rng.choice([phrase, phrase, rng.randint(0, 99), rng.random() < 0.5])


def changed(gold: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    values = {
        name: value(rng) if rng.random() < 0.2 else right
        for name, right in gold["arguments"].items()
    }
    return {"name": gold["name"], "arguments": values}


def spelled(several: Sequence[dict[str, Any]]) -> str:
    return "\n".join(f"<tool_call>\n{json.dumps(one)}\n</tool_call>" for one in several)


if __name__ == "__main__":
    main()
