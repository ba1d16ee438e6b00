"""Samples for every prompt of a file, as JSON lines in the order of its rows.

    rows --render--> prompts --scheduler--> samples --chat.parse--> {id, samples, label?, settings}

Lines are in the order of the rows, not in that of their ends: so a run that was killed and gone on
with leaves the bytes of one that was not, and how far it has come is how many lines there are. What
has ended early waits for its turn; at most a few slots' worth is decoded ahead of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from star_jax import chat
from star_jax.chat.completion import THINK, THINK_END
from star_jax.data import read
from star_jax.data.read import Bad, Conversation, Row
from star_jax.sampler.loading import Loaded
from star_jax.sampler.output import Output
from star_jax.sampler.request import Piece, Request, Sample, Scheduler, Settings, join, name_of

FORMAT = 1  # to be counted up with every change of what a line says
AHEAD = 4  # times the slots: samples that are asked for at once


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which prompts, how many samples of each, drawn how."""

    source: Path
    output: Path
    settings: Settings  # without stop ids: the model's are used
    n: int = 1
    thinking: bool | None = None  # the template's enable_thinking
    skip_bad: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"--n must be at least 1, got {self.n}")


@dataclass(frozen=True)
class Prompt:
    """A row as the model is asked."""

    id: str | int
    line: int
    text: str
    label: Any  # what the row says should follow; None where it says nothing
    occurrence: int  # the second of two equal prompts is another one


@dataclass(frozen=True)
class Outcome:
    """How far a run has come."""

    rows: int
    done: int  # lines in the file
    found: int  # of them, those that were there before


def prompts(plan: Plan, loaded: Loaded) -> Iterator[Prompt]:
    """Every good row. Equal prompts are counted, so that their samples differ."""
    seen: Counter[bytes] = Counter()
    good = read.tolerate(_prompted(plan, loaded), plan.skip_bad)
    for row, text, label in good:
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        yield Prompt(row.id, row.line, text, label, seen[digest])
        seen[digest] += 1


def _prompted(plan: Plan, loaded: Loaded) -> Iterator[tuple[Row, str, Any] | Bad]:
    for row in read.scan(plan.source, bare=True):
        if isinstance(row, Bad):
            yield row
        elif not isinstance(row, Conversation):
            yield row, row.inputs, row.targets or None
        else:
            try:
                yield row, *_conversation(row, plan, loaded)
            except ValueError as error:  # the template's own
                fault = chat.Fault("messages", f"can't be rendered ({error})", "mend the row")
                yield Bad(str(plan.source), row.line, (fault,))


def _conversation(row: Conversation, plan: Plan, loaded: Loaded) -> tuple[str, Any]:
    """The prompt, and the assistant's last turn, which is no part of it."""
    messages, label = row.messages, None
    if messages[-1]["role"] == "assistant":
        messages, label = messages[:-1], messages[-1]
    if not messages:
        raise ValueError("it is an answer to nothing")
    text = loaded.render(
        messages, row.tools or None, add_generation_prompt=True, enable_thinking=plan.thinking
    )
    return text, label


@dataclass(frozen=True)
class _Input:
    """What the first look at all rows finds."""

    ids: list[str | int]
    digest: str


def _look(plan: Plan, loaded: Loaded) -> _Input:
    """All rows are fit to be sampled from, before the first one is."""
    made = hashlib.blake2b(digest_size=16)
    ids: list[str | int] = []
    for prompt in prompts(plan, loaded):
        length = len(loaded.tokenizer.encode([prompt.text])[0])
        if not 0 < length <= loaded.max_prompt:
            raise ValueError(
                f"{plan.source}:{prompt.line}: the prompt has {length} tokens, there is room for "
                f"{loaded.max_prompt}: shorten or remove it, or raise --max-prompt"
            )
        ids.append(prompt.id)
        made.update(json.dumps([prompt.id, prompt.text, prompt.label], default=str).encode())
    if not ids:
        raise ValueError(f"{plan.source}: holds no row: check the path, or write the file again")
    return _Input(ids, made.hexdigest())


def run(plan: Plan, loaded: Loaded, *, should_stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Go on until every row has its line, or until it is told to stop."""
    if plan.settings.max_new_tokens > loaded.max_new:
        raise ValueError(
            f"--max-new-tokens is {plan.settings.max_new_tokens}, there is room for "
            f"{loaded.max_new}: ask for fewer"
        )
    found = _look(plan, loaded)
    settings = dataclasses.replace(plan.settings, stop_ids=loaded.stops)
    made_by = _made_by(plan, settings, loaded)
    digest = hashlib.blake2b(json.dumps(made_by).encode(), digest_size=8).hexdigest()
    with Output(plan.output, {**made_by, "rows": found.digest}, found.ids) as output:
        count = output.done
        asked = _requests(plan, loaded, settings, skip=count)
        ahead = max(1, AHEAD * int(loaded.about.get("slots", 64)) // plan.n)
        with _Bar(len(found.ids), count) as bar:
            for prompt, samples in answers(loaded.scheduler, asked, ahead, bar.tokens, should_stop):
                output.append(_row(prompt, samples, loaded, digest))
                count += 1
                bar.row()
        return Outcome(len(found.ids), count, output.done)


def _made_by(plan: Plan, settings: Settings, loaded: Loaded) -> dict[str, Any]:
    """All that decides what a line says, but the rows."""
    return {
        "format": FORMAT,
        "model": loaded.name,
        "weights": loaded.about.get("hash"),
        "tokenizer": loaded.tokenizer.hash,
        "n": plan.n,
        "thinking": plan.thinking,
        **dataclasses.asdict(settings),
    }


def _requests(
    plan: Plan, loaded: Loaded, settings: Settings, skip: int
) -> Iterator[tuple[Prompt, Request]]:
    for number, prompt in enumerate(prompts(plan, loaded)):
        if number >= skip:
            ids = np.array(loaded.tokenizer.encode([prompt.text])[0], np.int32)
            yield prompt, Request(ids, plan.n, settings, name_of(ids, prompt.occurrence))


@dataclass
class _Open:
    """A prompt whose samples are on their way."""

    prompt: Prompt
    pieces: list[list[Piece]]
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.pieces)


def answers(
    scheduler: Scheduler,
    asked: Iterator[tuple[Prompt, Request]],
    ahead: int,
    on_tokens: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Prompt, list[Sample]]]:
    """Each prompt with its samples, in the order of asking; `ahead` prompts are open at once."""
    order: deque[int] = deque()
    opens: dict[int, _Open] = {}
    try:
        while not should_stop():
            while len(order) < ahead and (following := next(asked, None)) is not None:
                prompt, request = following
                ticket = _submit(scheduler, prompt, request)
                order.append(ticket)
                opens[ticket] = _Open(prompt, [[] for _ in range(request.n)])
            if not order:
                return
            for piece in scheduler.step():
                on_tokens(len(piece.tokens))
                one = opens[piece.ticket]
                one.pieces[piece.sample].append(piece)
                one.left -= piece.end is not None
            while order and opens[order[0]].left == 0:
                one = opens.pop(order.popleft())
                yield one.prompt, [join(pieces) for pieces in one.pieces]
    finally:
        for ticket, one in opens.items():
            if one.left:
                scheduler.cancel(ticket)


def _submit(scheduler: Scheduler, prompt: Prompt, request: Request) -> int:
    try:
        return scheduler.submit(request)
    except ValueError as error:
        raise ValueError(f"row {prompt.id!r} on line {prompt.line}: {error}") from error


def _row(prompt: Prompt, samples: list[Sample], loaded: Loaded, digest: str) -> dict[str, Any]:
    # A prompt that ends in a closed block has no more of it in its completion.
    opened = f"{THINK}{THINK_END}" if prompt.text.rstrip().endswith(THINK_END) else ""
    row: dict[str, Any] = {"id": prompt.id}
    row["samples"] = [_sample(sample, loaded, opened) for sample in samples]
    if prompt.label is not None:
        row["label"] = prompt.label
    return {**row, "settings": digest}


def _sample(sample: Sample, loaded: Loaded, opened: str) -> dict[str, Any]:
    text = loaded.tokenizer.decode(sample.tokens)
    found = chat.parse(opened + text)
    total = float(sample.logprobs.sum(dtype=np.float64))
    calls = [{"name": call.name, "arguments": call.arguments} for call in found.calls]
    return {
        "text": text,
        "tokens": len(sample.tokens),
        "stopped": sample.stopped,
        "end": sample.end,
        # Neighbours in a batch move the last digits of a sum, and a kill changes the neighbours.
        "logprob_sum": round(total, 3) if math.isfinite(total) else None,
        "think": found.think,
        "calls": _finite(calls),
        "reply": found.reply,
        "error": None if found.error is None else dataclasses.asdict(found.error),
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity, but a generation may spell 1e999: it becomes the text "Infinity"."""
    return json.loads(json.dumps(value), parse_constant=str)


class _Bar:
    """Rows, the time that is left, tokens a second; a line every 30 seconds in a log."""

    def __init__(self, total: int, done: int) -> None:
        import tqdm

        is_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit="row",
            file=sys.stderr,
            dynamic_ncols=is_terminal,
            mininterval=0.5 if is_terminal else 30,
        )
        self._begin, self._tokens = time.monotonic(), 0

    def tokens(self, count: int) -> None:
        self._tokens += count
        seconds = max(time.monotonic() - self._begin, 1e-3)
        self._bar.set_postfix_str(f"{self._tokens / seconds:.0f} tok/s", refresh=False)
        self._bar.update(0)

    def row(self) -> None:
        self._bar.update(1)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
