"""A teacher's answers to every prompt, and which of them a student shall learn from.

    prompts --sampler--> OUTPUT/samples.jsonl   a line a prompt, written as it comes
            --keep-----> OUTPUT/train.jsonl     kept answers, each a row to learn
                         OUTPUT/pairs.jsonl     a right answer and a wrong one, for dpo
                         OUTPUT/report.json     how many were kept and dropped, and why
            --teacher--> OUTPUT/cache           its best tokens at every target, if asked for

A run that is killed goes on behind the last line that is whole; the files after it are made anew
from the samples, which takes seconds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from star_jax import chat, models, rewards
from star_jax.data import template
from star_jax.data.cache import build, identity, partfile, source
from star_jax.data.encode import Tokenizer
from star_jax.models import hf
from star_jax.sampler import Sampler
from star_jax.sampler.output import Output
from star_jax.train import exam, flags, folder, judging, prompts
from star_jax.train.config import Teach
from star_jax.train.prompts import Prompt, Prompts, Reader

log = logging.getLogger(__name__)

SAMPLES, TRAIN, PAIRS, REPORT = "samples.jsonl", "train.jsonl", "pairs.jsonl", "report.json"
CACHE, COUNT = "cache", "prompts.json"
AT_ONCE = 4  # times the slots: samples that are asked for together
RIGHT = 1.0 - 1e-9  # a reward that says so
Progress = Callable[[int, int], None]  # prompts that have their line, prompts in all


@dataclass(frozen=True, kw_only=True)
class TeachRun:
    config: Teach
    prompts: Prompts
    score: Reader
    tokenizer: Tokenizer

    @property
    def output(self) -> Path:
        return Path(self.config.output)


@dataclass
class Report:
    """Where the samples went."""

    prompts: int = 0
    samples: int = 0
    kept: int = 0
    pairs: int = 0
    prompts_with_none: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # why → how many
    call_samples: int = 0  # samples where a call is due
    call_valid: int = 0
    call_exact: int = 0
    words_samples: int = 0
    words_valid: int = 0
    words_exact: int = 0

    def lines(self) -> Iterator[str]:
        yield f"{self.samples} samples of {self.prompts} prompts, {self.kept} kept"
        for why, count in Counter(self.dropped).most_common():
            yield f"  dropped {count}: {why}"
        for kind in ("call", "words"):
            total = getattr(self, f"{kind}_samples")
            if total:
                valid, exact = (getattr(self, f"{kind}_{x}") / total for x in ("valid", "exact"))
                yield f"  where {kind} is due: {valid:.1%} valid, {exact:.1%} exact"
        yield f"  {self.prompts_with_none} prompts have no answer that was kept; {self.pairs} pairs"


def open(config: Teach) -> TeachRun:
    """ValueError where model, rows or reward will not do."""
    model = hf.read_config(Path(config.model))
    tokenizer = Tokenizer(config.model)
    if config.data.max_tokens > model.max_position_embeddings:
        raise ValueError(
            f"data.max_tokens: is {config.data.max_tokens}, the model was made for "
            f"{model.max_position_embeddings} positions: give at most that"
        )
    score = judging.of(config.reward)
    found = prompts.load(
        config.data.train,
        tokenizer,
        template.load(config.model),
        exam.readable(score),
        longest=config.data.max_tokens - config.sampling.max_new_tokens,
        skip_bad=config.data.skip_bad,
    )
    return TeachRun(config=config, prompts=found, score=score, tokenizer=tokenizer)


def run(
    made: TeachRun,
    progress: Progress = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Report | None:
    """Everything that is not there yet; None where it was told to stop before all was sampled."""
    made.output.mkdir(parents=True, exist_ok=True)
    if not sample(made, progress, should_stop):
        return None
    report = sift(made)
    partfile.write(made.output / REPORT, [_json(dataclasses.asdict(report)).encode()])
    if made.config.cache.top_k:
        _cache(made)
    return report


def logged(done: int, total: int) -> None:
    log.info("%d of %d prompts are answered", done, total)


def _describe(made: TeachRun) -> None:
    """The configuration, for people, and how many prompts there are, for a view of the run."""
    path = made.output / folder.CONFIG
    partfile.write(path, [flags.to_yaml(made.config).encode()])
    count = {"prompts": len(made.prompts), "samples": made.config.sampling.samples}
    partfile.write(made.output / COUNT, [_json(count).encode()])


def sample(made: TeachRun, progress: Progress, should_stop: Callable[[], bool]) -> bool:
    """Whether every prompt has its line."""
    how = made.config.sampling
    rows = made.prompts.rows
    with Output(made.output / SAMPLES, _made_by(made), [row.row_id for row in rows]) as output:
        _describe(made)  # what was there before is of the same question
        done = output.done
        progress(done, len(rows))
        if done == len(rows):
            return True
        model = models.load(made.config.model, dtype=made.config.dtype)
        sampler = Sampler(model, slots=how.slots, max_len=made.config.data.max_tokens)
        count = max(AT_ONCE * how.slots // how.samples, 1)
        while done < len(rows):
            if should_stop():
                return False
            some = rows[done : done + count]
            said = sampler.generate(
                [row.ids for row in some],
                how.samples,
                names=[str(done + i).encode() for i in range(len(some))],
                max_new_tokens=how.max_new_tokens,
                temperature=how.temperature,
                top_p=how.top_p,
                top_k=how.top_k,
                min_p=how.min_p,
                stop_ids=(made.tokenizer.end_of_turn,),
                seed=made.config.seed,
            )
            for row, samples in zip(some, said, strict=True):
                texts = [made.tokenizer.decode(one.tokens) for one in samples]
                ends = [one.end for one in samples]
                output.append({"id": row.row_id, "samples": texts, "ends": ends})
            done += len(some)
            progress(done, len(rows))
    return True


def _made_by(made: TeachRun) -> dict[str, Any]:
    """All that decides what a line says."""
    config = made.config
    how = dataclasses.asdict(config.sampling)
    how.pop("slots")
    return {
        "format": 1,
        "model": f"{identity.teacher_hash(Path(config.model))}-{config.dtype}",
        "prompts": made.prompts.hash,
        "max_tokens": config.data.max_tokens,
        "seed": config.seed,
        **how,
    }


# What is kept


@dataclass(frozen=True)
class Judged:
    text: str  # what follows the prompt
    drop: str | None  # why it is not kept
    is_valid: bool
    is_exact: bool


def sift(made: TeachRun) -> Report:
    """Write train.jsonl and pairs.jsonl from the samples."""
    report = Report(prompts=len(made.prompts))
    rows, pairs = [], []
    for row, texts, ends in _sampled(made):
        judged = [_judge(made, row, *one) for one in zip(texts, ends, strict=True)]
        kept = _unique(judged)
        _count(report, row, judged, kept)
        for number, one in kept:
            rows.append(_row(row, f"{row.row_id}/{number}", one.text))
        if (pair := _pair(row, judged)) is not None:
            pairs.append(pair)
    report.kept, report.pairs = len(rows), len(pairs)
    if not rows:
        why = ", ".join(f"{count} {why}" for why, count in Counter(report.dropped).most_common(3))
        raise ValueError(
            f"{made.output / SAMPLES}: none of {report.samples} answers is kept ({why}): train the "
            "teacher further, or keep by another rule"
        )
    for name, lines in ((TRAIN, rows), (PAIRS, pairs)):
        partfile.write(made.output / name, [_json(line).encode() + b"\n" for line in lines])
    return report


def _sampled(made: TeachRun) -> Iterator[tuple[Prompt, list[str], list[str]]]:
    with (made.output / SAMPLES).open(encoding="utf-8") as file:
        for row, line in zip(made.prompts.rows, file, strict=True):
            found = json.loads(line)
            yield row, found["samples"], found["ends"]


def _judge(made: TeachRun, row: Prompt, text: str, end: str) -> Judged:
    whole = row.opening + text
    reward = made.score(whole, row.label, row.tools)
    exact = rewards.binary(whole, row.label, row.tools).total >= RIGHT
    is_valid = rewards.valid(whole, row.label, row.tools).total > 0
    drop = None
    if end == "length":
        drop = "did not end"
    elif not is_valid:
        drop = f"format: {reward.kind}"
    elif made.config.keep.rule == "reward" and reward.total < made.config.keep.least_reward:
        drop = f"reward below {made.config.keep.least_reward}"
    elif made.config.keep.rule == "label" and not exact:
        drop = "is not the label"
    return Judged(text, drop, is_valid, exact)


def _unique(judged: Sequence[Judged]) -> list[tuple[int, Judged]]:
    """The first of those that say the same: reply, thought, and calls in any order."""
    seen: set[bytes] = set()
    kept = []
    for number, one in enumerate(judged):
        if one.drop is None and (name := _meaning(one.text)) not in seen:
            seen.add(name)
            kept.append((number, one))
    return kept


def _meaning(text: str) -> bytes:
    said = chat.parse(text)
    calls = sorted(_json([call.name, call.arguments]) for call in said.calls)
    return hashlib.blake2b(_json([said.reply, calls, said.think]).encode(), digest_size=16).digest()


def _count(
    report: Report, row: Prompt, judged: Sequence[Judged], kept: Sequence[tuple[int, Judged]]
) -> None:
    report.samples += len(judged)
    report.prompts_with_none += not kept
    why = Counter(one.drop for one in judged if one.drop is not None)
    why["says what another one says"] = sum(one.drop is None for one in judged) - len(kept)
    for name, more in why.items():
        if more:
            report.dropped[name] = report.dropped.get(name, 0) + more
    for name, count in (
        ("samples", len(judged)),
        ("valid", sum(one.is_valid for one in judged)),
        ("exact", sum(one.is_exact for one in judged)),
    ):
        name = f"{row.wanted}_{name}"
        setattr(report, name, getattr(report, name) + count)


def _pair(row: Prompt, judged: Sequence[Judged]) -> dict[str, Any] | None:
    """The first right answer over the first wrong one."""
    right = next((one for one in judged if one.is_exact and one.drop is None), None)
    wrong = next((one for one in judged if not one.is_exact and one.text), None)
    if right is None or wrong is None:
        return None
    made = {"id": row.row_id, "prompt": row.text, "chosen": right.text, "rejected": wrong.text}
    return {**made, "tools": list(row.tools)}


def _row(row: Prompt, name: str, text: str) -> dict[str, Any]:
    return {"id": name, "inputs": row.text, "targets": text, "tools": list(row.tools)}


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:  # half of a pair, which a generation may spell
        return json.dumps(value)
    return text


def _cache(made: TeachRun) -> None:
    """The teacher's best tokens at every target of what was kept."""
    config = made.config
    origin = source.read(Path(config.model), made.output / TRAIN)
    top_k = min(config.cache.top_k, origin.config.vocab_size)
    plan = build.plan(
        made.output / CACHE,
        origin,
        top_k=top_k,
        dtype=config.cache.dtype,
        compute_dtype=config.dtype,
    )
    log.info("cache: %d bytes in %d shards", plan.bytes_in_all, plan.manifest.shards)
    build.run(plan)
