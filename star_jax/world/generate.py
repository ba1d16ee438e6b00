"""Rows: a pure function of split, seed and index, so that any row can be had without the others.

    row("train", 0, 41) → {id, split, case, domain, messages, tools}     rows("train", 0, 1000)

Four splits that share no prompt: `train`; `seen`, the same APIs asked for in phrases that `train`
never uses; `unseen_tools`, APIs that `train` never shows, of domains that it does; and
`unseen_domains`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from star_jax.world import cases, domains
from star_jax.world.cases import Made, Message, Pool
from star_jax.world.draw import Draw

SPLITS = ("train", "seen", "unseen_tools", "unseen_domains")
CASES = tuple(cases.WEIGHTS)
VERSION = 1  # of the world: another one has other rows

Row = dict[str, Any]


def rows(
    split: str,
    seed: int,
    count: int,
    *,
    start: int = 0,
    case: str | None = None,
    thinking: bool = True,
) -> Iterator[Row]:
    """So many rows from the one numbered `start` on."""
    check(split, seed, start, case)
    if count < 0:
        raise ValueError(f"count is {count}: give 0 or more")
    return (
        row(split, seed, index, case=case, thinking=thinking)
        for index in range(start, start + count)
    )


def row(
    split: str, seed: int, index: int, *, case: str | None = None, thinking: bool = True
) -> Row:
    """One row. `case` asks for that case (the row of the same index is another one without);
    without `thinking` the assistant's messages have no reasoning."""
    check(split, seed, index, case)
    draw = Draw("star_jax.world", VERSION, split, seed, index, case or "")
    chosen = case or draw.weighted(cases.WEIGHTS)
    made = cases.make(chosen, draw, pool(split))
    name = f"{split}-{seed}-{index}" + (f"-{case}" if case else "")
    return dressed(name, split, chosen, made, thinking=thinking)


def dressed(name: str, split: str, case: str, made: Made, *, thinking: bool = True) -> Row:
    """A conversation as a row."""
    return {
        "id": name,
        "split": split,
        "case": case,
        "domain": made.domain,
        "messages": [_message(message, thinking) for message in made.messages],
        # A copy, because kinds share their schemas; through JSON it costs a fourth of deepcopy.
        "tools": [json.loads(json.dumps(tool.schema)) for tool in made.tools],
    }


def _message(message: Message, thinking: bool) -> Message:
    if thinking:
        return message
    return {name: value for name, value in message.items() if name != "reasoning_content"}


@functools.cache
def pool(split: str) -> Pool:
    """What the rows of a split are about."""
    known = tuple(api for api in domains.apis() if not api.is_held)
    held = tuple(api for api in domains.apis() if api.is_held)
    match split:
        case "unseen_tools":
            return Pool(held, held + known, is_new=False)
        case "unseen_domains":
            far = domains.apis(held_domains=True)
            return Pool(far, far, is_new=False)
    return Pool(known, known, is_new=split == "seen")


def check(split: str, seed: int, index: int, case: str | None) -> None:
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: choose among {', '.join(SPLITS)}")
    if case is not None and case not in CASES:
        raise ValueError(f"case is {case!r}: choose among {', '.join(CASES)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed is {seed} and start {index}: give numbers of 0 or more")
