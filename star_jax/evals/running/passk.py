"""Many samples of every prompt of a file, by one model or several: pass@k, mean@k, entropy.

    plan, NAME, folder → OUTPUT/NAME.jsonl, a line a prompt: which samples are right, and how sure
    the model was of its tokens, by their class; a killed run goes on
    lines of all models → numbers(…), with intervals, and paired comparisons with the first model

A sample is right where `rewards.binary` gives 1: the label's calls in any order, or its reply to
the letter. Entropy is the mean of −log π over sampled tokens, which is unbiased at temperature 1.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from star_jax import chat, rewards
from star_jax.evals import classes, passk, stats
from star_jax.evals.classes import CLASSES
from star_jax.evals.running import scoring
from star_jax.evals.running.work import Bar
from star_jax.sampler.output import Output
from star_jax.sampler.request import Sample
from star_jax.train import prompts
from star_jax.train.prompts import Prompt

FORMAT = 1
KINDS = ("all", "call", "words")
AHEAD = 4  # times the slots: samples that are asked for at once
FloatP = np.ndarray  # a value for every prompt
Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    data: Path
    output: Path
    samples: int = 64
    ks: tuple[int, ...] = passk.KS
    temperature: float = 1.0
    max_new_tokens: int = 512
    context: int | None = None
    slots: int = 64
    dtype: str = "bfloat16"
    seed: int = 0
    limit: int | None = None
    skip_bad: int = 0

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ValueError("--k: give whole numbers from 1 on, like 1,2,4")
        if max(self.ks) > self.samples:
            raise ValueError(
                f"--k: {max(self.ks)} needs as many samples, --samples is {self.samples}: draw "
                "more, or ask for smaller k"
            )


def named(models: Sequence[str]) -> dict[str, Path]:
    """NAME=DIR, or a folder that is called after itself."""
    found: dict[str, Path] = {}
    for text in models:
        name, sign, folder = text.partition("=")
        path = Path(folder if sign else text)
        name = name if sign else path.resolve().name
        if name in found:
            raise ValueError(f"--model: {name} is there twice: write NAME=DIR with other names")
        if not name or "/" in name:
            raise ValueError(f"--model: {text!r}: write NAME=DIR, with no / in the name")
        found[name] = path
    return found


def read(plan: Plan, folder: Path) -> tuple[Prompt, ...]:
    """The prompts as this model reads them; ValueError where model or rows will not do."""
    from star_jax.data import template
    from star_jax.data.encode import Tokenizer

    context = _context(plan, folder)
    if plan.max_new_tokens >= context:
        raise ValueError(
            f"--max-new-tokens is {plan.max_new_tokens}, the context of {folder} is {context}: "
            "ask for fewer"
        )
    found = prompts.load(
        str(plan.data),
        Tokenizer(folder),
        template.load(folder),
        rewards.binary,
        longest=sys.maxsize,
        skip_bad=plan.skip_bad,
    )
    rows = found.rows[: plan.limit]
    for row in rows:
        if len(row.ids) + plan.max_new_tokens > context:
            raise ValueError(
                f"{plan.data}:{row.line}: the prompt has {len(row.ids)} tokens, there is room for "
                f"{context - plan.max_new_tokens} beside {plan.max_new_tokens} new ones: lower "
                "--max-new-tokens, or leave the row out"
            )
    return rows


def _context(plan: Plan, folder: Path) -> int:
    from star_jax.models import hf

    positions = hf.read_config(folder).max_position_embeddings
    return min(positions, plan.context or positions)


def entry(row: Prompt) -> str:
    """A digest of what is asked and what is right, whatever the model's template."""
    label = chat.parse(row.label)
    calls = [[call.name, call.arguments] for call in label.calls]
    return scoring.digest([[row.row_id, row.tools, calls, label.reply]])


def sample(
    plan: Plan, name: str, folder: Path, should_stop: Callable[[], bool] = lambda: False
) -> bool:
    """A line for every prompt of this model; whether all are there."""
    from star_jax import models
    from star_jax.data.cache import identity
    from star_jax.data.encode import Tokenizer
    from star_jax.sampler import Sampler

    rows, tokenizer = read(plan, folder), Tokenizer(folder)
    made_by = {
        "format": FORMAT,
        "weights": f"{identity.teacher_hash(folder)}-{plan.dtype}",
        "tokenizer": tokenizer.hash,
        "prompts": scoring.digest([row.text, row.label] for row in rows),
        "samples": plan.samples,
        "temperature": plan.temperature,
        "max_new_tokens": plan.max_new_tokens,
        "seed": plan.seed,
    }
    plan.output.mkdir(parents=True, exist_ok=True)
    ids = [row.row_id for row in rows]
    with Output(plan.output / f"{name}.jsonl", made_by, ids) as output:
        done = output.done
        if done == len(rows):
            return True
        model = models.load(folder, dtype=plan.dtype)
        sampler = Sampler(model, slots=plan.slots, max_len=_context(plan, folder))
        piece = functools.cache(lambda token: tokenizer.decode([token]))
        at_once = max(AHEAD * plan.slots // plan.samples, 1)
        with Bar(len(rows), done, "prompt") as bar:
            while done < len(rows) and not should_stop():
                some = rows[done : done + at_once]
                for row, said in zip(some, _ask(plan, sampler, tokenizer, some), strict=True):
                    output.append(_line(row, said, tokenizer, piece))
                    bar.tokens(sum(len(one.tokens) for one in said))
                    bar.entry()
                done += len(some)
        return done >= len(rows)


def _ask(plan: Plan, sampler: Any, tokenizer: Any, rows: Sequence[Prompt]) -> Any:
    return sampler.generate(
        [row.ids for row in rows],
        plan.samples,
        names=[row.row_id.encode() for row in rows],
        max_new_tokens=plan.max_new_tokens,
        temperature=plan.temperature,
        stop_ids=(tokenizer.end_of_turn,),
        seed=plan.seed,
    )


def _line(
    row: Prompt, said: Sequence[Sample], tokenizer: Any, piece: Callable[[int], str]
) -> dict[str, Any]:
    texts = [row.opening + tokenizer.decode(one.tokens) for one in said]
    sums = dict.fromkeys(CLASSES, (0.0, 0))
    for one in said:
        pieces = [piece(int(token)) for token in one.tokens]
        kinds = classes.of_pieces(pieces, in_think=bool(row.opening))
        for kind, (total, count) in classes.totals(-one.logprobs, kinds).items():
            sums[kind] = (sums[kind][0] + total, sums[kind][1] + count)
    return {
        "id": row.row_id,
        "entry": entry(row),
        "wanted": row.wanted,
        "right": [rewards.binary(text, row.label, row.tools).total == 1 for text in texts],
        # Neighbours in a batch move the last digits, and a kill changes the neighbours.
        "nats": {kind: [round(total, 3), count] for kind, (total, count) in sums.items()},
        "stopped": [one.stopped for one in said],
        "texts": texts,
    }


def of_kind(lines: Lines, kind: str) -> Lines:
    return [line for line in lines if kind == "all" or line["wanted"] == kind]


def pass_values(lines: Lines, k: int) -> FloatP:
    right = [sum(line["right"]) for line in lines]
    return passk.pass_at_k(right, [len(line["right"]) for line in lines], k)


def entropy_values(lines: Lines, token_class: str) -> FloatP | None:
    """A value for every prompt whose mean is the entropy of a token; None: no such token.

    The entropy is a ratio, nats over tokens. Each prompt's pull on it, to first order, stands for
    the prompt, so that prompts can be resampled and paired.
    """
    wanted = CLASSES if token_class == "all" else (token_class,)
    nats = np.array([sum(line["nats"][one][0] for one in wanted) for line in lines])
    count = np.array([sum(line["nats"][one][1] for one in wanted) for line in lines], np.float64)
    if not count.sum():
        return None
    ratio = nats.sum() / count.sum()
    return ratio + (nats - ratio * count) / count.mean()


def numbers(lines: Lines, ks: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Of one model, by kind of prompt."""
    made = {}
    for kind in KINDS:
        some = of_kind(lines, kind)
        if not some:
            continue
        entropy = {}
        for one in ("all", *CLASSES):
            values = entropy_values(some, one)
            if values is not None:
                entropy[one] = scoring.number(scoring.interval(values))
        made[kind] = {
            "prompts": len(some),
            "samples": len(some[0]["right"]),
            "mean": scoring.number(scoring.interval(pass_values(some, 1))),
            "pass": {str(k): scoring.number(scoring.interval(pass_values(some, k))) for k in ks},
            "entropy": entropy,
            "tokens": {one: sum(line["nats"][one][1] for line in some) for one in CLASSES},
            "stopped": float(np.mean([one for line in some for one in line["stopped"]])),
        }
    return made


def compared(first: Lines, other: Lines, names: tuple[str, str], ks: Sequence[int]) -> list[Any]:
    """The first model against another, prompt by prompt."""
    found = []
    for kind in KINDS:
        a, b = of_kind(first, kind), of_kind(other, kind)
        if not a:
            continue
        for k in ks:
            one = stats.compare(pass_values(a, k), pass_values(b, k), names=names)
            found.append(told(f"pass@{k}", kind, names, one))
        for token_class in ("all", *CLASSES):
            one_P, other_P = entropy_values(a, token_class), entropy_values(b, token_class)
            if one_P is not None and other_P is not None:
                one = stats.compare(one_P, other_P, names=names)
                found.append(told(f"entropy of {token_class}", kind, names, one))
    return found


def told(what: str, kind: str, names: tuple[str, str], one: stats.Comparison) -> dict[str, Any]:
    return {
        "what": what,
        "kind": kind,
        "a": names[0],
        "b": names[1],
        "difference": scoring.number(one.difference),
        "wins": one.wins,
        "losses": one.losses,
        "ties": one.ties,
        "p": one.p,
        "verdict": one.verdict,
        "sentence": one.sentence,
    }


def roles(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which model is said to explore more than which: those that are called CKD, than SFT; where
    none is, the first than each other one."""
    ckd = [name for name in names if "ckd" in name.lower()]
    sft = [name for name in names if "sft" in name.lower() and name not in ckd]
    if ckd and sft:
        return [(one, other) for one in ckd for other in sft]
    return [(names[0], other) for other in names[1:]]


def claim(one: str, other: str, found: Sequence[Mapping[str, Any]], k: int) -> str:
    """The paper's claim on exploration, as it stands for these two."""
    said = []
    for what, words in ((f"pass@{k}", f"pass@{k}"), ("entropy of all", "entropy")):
        for row in found:
            if (row["what"], row["kind"]) == (what, "all"):
                said.append(_holds(words, row))
    return (
        f"The paper's claim that CKD explores more than SFT, with {one} for CKD and {other} for "
        f"SFT: " + "; ".join(said) + "."
    )


def _holds(words: str, row: Mapping[str, Any]) -> str:
    """`row` compares the claimed better one with the other, in this order."""
    difference = row["difference"]["value"]
    match row["verdict"]:
        case "better":
            return f"higher {words} holds, by {difference:.4f}"
        case "worse":
            return f"higher {words} does not hold, it is lower by {-difference:.4f}"
    if difference == 0:
        return f"higher {words} does not show, they come out level"
    side = "higher" if difference > 0 else "lower"
    return f"{words} is {side} by {abs(difference):.4f}, which is within noise"


def read_lines(plan: Plan, name: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (plan.output / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def score(plan: Plan, models: Mapping[str, Path]) -> dict[str, Any]:
    """What scores.json says, once every model has its lines."""
    lines = {name: read_lines(plan, name) for name in models}
    names = list(models)
    pairs = list(dict.fromkeys([(names[0], other) for other in names[1:]] + roles(names)))
    found = {pair: compared(lines[pair[0]], lines[pair[1]], pair, plan.ks) for pair in pairs}
    return {
        "benchmark": "passk",
        "entries": {"rows": scoring.digest(line["entry"] for line in lines[names[0]])},
        "settings": {
            "data": plan.data.name,
            "samples": plan.samples,
            "temperature": plan.temperature,
            "max_new_tokens": plan.max_new_tokens,
            "seed": plan.seed,
        },
        "models": {name: numbers(lines[name], plan.ks) for name in names},
        "comparisons": [row for rows in found.values() for row in rows],
        "claims": [claim(*pair, found[pair], max(plan.ks)) for pair in roles(names)],
    }
