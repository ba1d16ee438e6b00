"""Many samples of every prompt of a file, by one model or several: pass@k, mean@k, entropy.

    plan, NAME, folder → OUTPUT/NAME.jsonl, a line a prompt: which samples are right, and how sure
    the model was of its tokens, by their class; a killed run goes on
    lines of all models → curves.score

A sample is right where `rewards.binary` gives 1: the label's calls in any order, or its reply to
the letter.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from star_jax import chat, rewards
from star_jax.evals import classes
from star_jax.evals.classes import CLASSES
from star_jax.evals.passk import KS
from star_jax.evals.running import scoring
from star_jax.evals.running.work import Bar
from star_jax.sampler.output import Output
from star_jax.sampler.request import Sample
from star_jax.train import prompts
from star_jax.train.prompts import Prompt

FORMAT = 1
AHEAD = 4  # times the slots: samples that are asked for at once


@dataclass(frozen=True, kw_only=True)
class Plan:
    data: Path
    output: Path
    samples: int = 64
    ks: tuple[int, ...] = ()  # none given: the powers of 2 up to the samples, 64 at most
    temperature: float = 1.0
    max_new_tokens: int = 512
    context: int | None = None
    slots: int = 64
    dtype: str = "bfloat16"
    seed: int = 0
    limit: int | None = None
    skip_bad: int = 0

    def __post_init__(self) -> None:
        if not self.ks:
            object.__setattr__(self, "ks", tuple(k for k in KS if k <= self.samples))
        if max(self.ks) > self.samples:
            raise ValueError(
                f"--k: {max(self.ks)} needs as many samples, --samples is {self.samples}: draw "
                "more, or ask for smaller k"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What people and comparisons want to know of it."""
        names = ("samples", "temperature", "max_new_tokens", "seed", "dtype")
        return {"data": self.data.name} | {name: getattr(self, name) for name in names}


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


def lines(plan: Plan, models: Mapping[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Every model's."""
    return {name: scoring.read_lines(plan.output / f"{name}.jsonl") for name in models}
