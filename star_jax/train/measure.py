"""What a model can do on files of rows: asked greedily once, and several times at a temperature.

    rows → greedy answers → marks, with intervals              OUTPUT/answers.jsonl, a line a row
         → n samples      → pass@k, entropy, spread of rewards OUTPUT/marks.json

Everything is split into prompts whose answer is a call and prompts whose answer is words.
`readiness` says from these numbers whether RL has something to work with.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from star_jax import chat, models, rewards
from star_jax.data import template
from star_jax.data.cache import partfile
from star_jax.data.encode import Tokenizer
from star_jax.evals import passk, stats
from star_jax.models import hf
from star_jax.sampler import Sampler
from star_jax.sampler.request import Sample
from star_jax.train import exam, judging, prompts
from star_jax.train.config import Measure
from star_jax.train.prompts import Prompt, Prompts, Reader

log = logging.getLogger(__name__)

MARKS, ANSWERS = "marks.json", "answers.jsonl"
KINDS = ("", "call", "words")
FEW = 0.1  # a share of groups with spread under which RL learns from hardly any prompt
Progress = Callable[[int, int], None]


class Stopped(Exception):
    """It was told to stop; nothing is written."""


@dataclass(frozen=True, kw_only=True)
class MeasureRun:
    config: Measure
    sets: dict[str, Prompts]
    score: Reader
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Verdict:
    """One answer."""

    text: str
    exact: bool
    reward: float
    is_valid: bool
    has_call: bool
    why: str


def open(config: Measure) -> MeasureRun:
    """ValueError where model, rows or reward will not do."""
    model = hf.read_config(Path(config.model))
    tokenizer = Tokenizer(config.model)
    if config.max_tokens > model.max_position_embeddings:
        raise ValueError(
            f"max_tokens: is {config.max_tokens}, the model was made for "
            f"{model.max_position_embeddings} positions: give at most that"
        )
    score = judging.of(config.reward)
    sets = {}
    for name, path in list(files(config.data)):  # all names first
        sets[name] = prompts.load(
            path,
            tokenizer,
            template.load(config.model),
            exam.readable(score),
            longest=config.max_tokens - config.max_new_tokens,
            skip_bad=config.skip_bad,
        )
    return MeasureRun(config=config, sets=sets, score=score, tokenizer=tokenizer)


def files(data: Sequence[str]) -> Iterator[tuple[str, str]]:
    """NAME=FILE, or a file that is called after itself."""
    seen = set()
    for entry in data:
        name, sign, path = entry.partition("=")
        if not sign:
            name, path = Path(entry).name.partition(".")[0], entry
        if name in seen:
            raise ValueError(f"data: {name} is there twice: write NAME=FILE with other names")
        seen.add(name)
        yield name, path


def run(
    made: MeasureRun,
    progress: Progress = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """→ what marks.json holds."""
    config = made.config
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    model = models.load(config.model, dtype=config.dtype)
    sampler = Sampler(model, slots=config.slots, max_len=config.max_tokens)
    total = sum(len(found) for found in made.sets.values())
    done, lines, sets = 0, [], {}
    for name, found in made.sets.items():
        greedy = _ask(made, sampler, found.rows, 1, 0.0, should_stop)
        verdicts = [
            _judge(made, row, said[0]) for row, said in zip(found.rows, greedy, strict=True)
        ]
        sampled = _ask(made, sampler, found.rows, config.samples, config.temperature, should_stop)
        many = [
            [_judge(made, row, one) for one in said]
            for row, said in zip(found.rows, sampled, strict=True)
        ]
        sets[name] = _numbers(made, found.rows, verdicts, many, sampled)
        cases = _cases(found)
        lines += [
            _line(name, row, cases.get(row.line), one)
            for row, one in zip(found.rows, verdicts, strict=True)
        ]
        done += len(found)
        progress(done, total)
    whole = {"model": config.model, "sets": sets}
    partfile.write(output / ANSWERS, [_json(line).encode() + b"\n" for line in lines])
    partfile.write(output / MARKS, [json.dumps(whole, indent=1).encode()])
    return whole


def _ask(
    made: MeasureRun,
    sampler: Sampler,
    rows: Sequence[Prompt],
    n: int,
    temperature: float,
    should_stop: Callable[[], bool],
) -> list[list[Sample]]:
    config = made.config
    at_once = max(4 * config.slots // n, 1)
    said: list[list[Sample]] = []
    while len(said) < len(rows):
        if should_stop():
            raise Stopped
        some = rows[len(said) : len(said) + at_once]
        said += sampler.generate(
            [row.ids for row in some],
            n,
            names=[str(len(said) + i).encode() for i in range(len(some))],
            max_new_tokens=config.max_new_tokens,
            temperature=temperature,
            stop_ids=(made.tokenizer.end_of_turn,),
            seed=config.seed,
        )
    return said


def _judge(made: MeasureRun, row: Prompt, sample: Sample) -> Verdict:
    text = row.opening + made.tokenizer.decode(sample.tokens)
    reward = made.score(text, row.label, row.tools)
    return Verdict(
        text=text,
        exact=rewards.binary(text, row.label, row.tools).total == 1,
        reward=float(reward.total),
        is_valid=rewards.valid(text, row.label, row.tools).total > 0,
        has_call=bool(chat.parse(text).calls),
        why=reward.why,
    )


def _numbers(
    made: MeasureRun,
    rows: Sequence[Prompt],
    greedy: Sequence[Verdict],
    many: Sequence[Sequence[Verdict]],
    sampled: Sequence[Sequence[Sample]],
) -> dict[str, Any]:
    """Of one set."""
    marks, intervals, drawn, curves = {}, {}, {}, {}
    for kind in KINDS:
        at = [i for i, row in enumerate(rows) if not kind or row.wanted == kind]
        if not at:
            continue
        for name, values in _parts([greedy[i] for i in at]).items():
            key = f"{kind}_{name}" if kind else name
            marks[key], intervals[key] = _mean(name, values)
        flat = [one for i in at for one in many[i]]
        for name, values in _parts(flat).items():
            drawn[f"{kind}_{name}" if kind else name] = float(np.mean(values))
        right = [sum(one.exact for one in many[i]) for i in at]
        curve = passk.curve(right, made.config.samples)
        curves[kind or "all"] = {str(k): value for k, value in curve.items()}
        spread = [len({one.reward for one in many[i]}) > 1 for i in at]
        drawn[f"{kind}_spread_share" if kind else "spread_share"] = float(np.mean(spread))
    wanted = [row.wanted for row in rows]
    logps = np.concatenate([one.logprobs for said in sampled for one in said])
    return {
        "rows": len(rows),
        "call_rows": wanted.count("call"),
        "words_rows": wanted.count("words"),
        "marks": marks,
        "intervals": intervals,
        "sampled": drawn,
        "call_spread_share": drawn.get("call_spread_share"),
        "passk": curves,
        # -log π of what π said: its mean is the entropy of a token, without bias.
        "entropy_nats": float(-logps.mean()),
        "samples": made.config.samples,
        "temperature": made.config.temperature,
    }


def _parts(found: Sequence[Verdict]) -> dict[str, list[float]]:
    return {
        "exact": [float(one.exact) for one in found],
        "reward": [one.reward for one in found],
        "valid_share": [float(one.is_valid) for one in found],
        "call_share": [float(one.has_call) for one in found],
    }


def _mean(name: str, values: list[float]) -> tuple[float, list[float]]:
    """A mean and its 95 % interval: Wilson's of a share, by bootstrap of a reward."""
    if name == "reward":
        found = stats.bootstrap(values, resamples=2000)
    else:
        found = stats.wilson(round(sum(values)), len(values))
    return float(np.mean(values)), [found.low, found.high]


def readiness(numbers: dict[str, Any]) -> tuple[bool, str]:
    """Whether RL can work from here, from one set's numbers, and why (not)."""
    drawn = numbers["sampled"]
    reward, spread = drawn.get("call_reward", 0.0), drawn.get("call_spread_share", 0.0)
    valid, call_share = drawn.get("call_valid_share", 0.0), drawn.get("call_call_share", 0.0)
    best = numbers["passk"].get("call", {})
    k = max(best, key=int, default="1")
    told = (
        f"where a call is due, at temperature {numbers['temperature']:g}: {valid:.0%} of answers "
        f"are valid, {call_share:.0%} call, mean reward {reward:.2f}, {spread:.0%} of groups have "
        f"spread, pass@{k} {best.get(k, 0.0):.0%}"
    )
    if reward <= 0:
        return False, (
            f"not ready for RL ({told}): words are worth 0 there, more than what calls get, so the "
            "policy would be taught to stop calling: distil further, or set "
            "reward.reply_for_call to invalid"
        )
    if spread < FEW:
        return False, (
            f"not ready for RL ({told}): answers to a prompt hardly differ in reward, so there is "
            "little to compare: ask for more samples, a higher temperature, or harder prompts"
        )
    return True, f"ready for RL: {told}"


def _cases(found: Prompts) -> dict[int, str]:
    """The case of each row by its line, where a file of JSON lines says one."""
    path = Path(found.path)
    if path.suffix != ".jsonl":
        return {}
    cases = {}
    with path.open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            try:
                row = json.loads(text)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("case"), str):
                cases[line] = row["case"]
    return cases


def _line(name: str, row: Prompt, case: str | None, one: Verdict) -> dict[str, Any]:
    return {
        "set": name,
        "id": row.row_id,
        "case": case,
        "wanted": row.wanted,
        "prompt": row.text,
        "label": row.label,
        **dataclasses.asdict(one),
    }


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()
