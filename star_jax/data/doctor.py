"""What is wrong with a file of examples, before a training spends a night on it.

    Examples --examine--> [Finding]        every row that would teach nothing, or something else
    Examples, [Finding], allow --treat--> the examples to train on, or a ValueError

A finding is a sentence about one row. None is passed over: it is mended in the file, or allowed by
its kind or row, and then the log says what was done (`DONE`). A million rows take seconds.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from star_jax.data import symptoms
from star_jax.data.encode import TURN_END, Examples, Tokenizer

logger = logging.getLogger(__name__)

# The kinds of finding, and what is done with a row whose finding is allowed.
DONE = {
    "nothing_to_learn": "left out",
    "prompt_cut": "left out",
    "target_cut": "cut to fit",
    "end_missing": "kept as they are",
    "end_double": "kept as they are",
    "cue_missing": "kept as they are",
    "duplicate": "kept as they are",
    "evaluation_row": "kept as they are",
}
NAMED = 10  # findings that an error names


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row, as a sentence."""

    kind: str
    row_id: str
    line: int
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}: {self.remedy}"


class Treated(NamedTuple):
    """The examples to train on, and where each stood before."""

    examples: Examples
    kept: np.ndarray  # int64; the index in the examples that were given


def examine(
    examples: Examples,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    max_targets: int | None = None,
    evaluation: Examples | None = None,
) -> list[Finding]:
    """All findings, in the order of the rows. `tokenizer` is the one that made the ids.

    Where nothing could be learnt anyway, a target's length and end are not judged.
    """
    check_limits(max_tokens, max_targets)
    _check_ids(examples, tokenizer)
    if len(examples) == 0:
        return []
    opening = symptoms.openings(examples, tokenizer)
    is_idle = ~symptoms.has_words(examples, tokenizer)
    found = [
        *_idle(examples, tokenizer, is_idle),
        *_too_long(examples, is_idle, max_tokens, max_targets),
        *_ends(examples, tokenizer, ~is_idle),
        *_cueless(examples, opening),
        *_duplicates(examples),
    ]
    if evaluation is not None:
        _check_ids(evaluation, tokenizer)
        its_opening = symptoms.openings(evaluation, tokenizer)
        same = symptoms.same_questions(examples, evaluation, opening, its_opening)
        found += _leaks(examples, evaluation, same)
    rank = {kind: number for number, kind in enumerate(DONE)}
    return sorted(found, key=lambda finding: (finding.line, rank[finding.kind]))


def partless(
    examples: Examples,
    tokenizer: Tokenizer,
    part: str,
    *,
    max_tokens: int,
    max_targets: int | None = None,
) -> list[Finding]:
    """The rows of which a run that learns their thinking, or their answers, alone learns nothing.

    A target without an end of thinking is all answer; one whose end is cut off is all thinking.
    """
    if part not in ("think", "answer"):
        return []
    first = examples.start[:-1] + examples.n_prompt
    most = max_tokens - examples.n_prompt.astype(np.int64)
    most = most if max_targets is None else np.minimum(most, max_targets)
    cut = first + np.minimum(examples.n_target, np.maximum(most, 0))
    ends = np.concatenate([[0], np.cumsum(examples.ids == tokenizer.end_of_think)])
    seen, whole = ends[cut] - ends[first], ends[examples.start[1:]] - ends[first]
    if part == "think":
        is_empty, what = seen == 0, "has no thinking that is learnt"
    else:
        # Empty where the end of thinking is the last that is left, or is cut off.
        last = np.maximum(cut - 1, 0)
        is_last = (cut > first) & (examples.ids[last] == tokenizer.end_of_think)
        is_empty, what = is_last | ((whole > 0) & (seen == 0)), "has no answer that is learnt"
    remedy = "learn all parts (objective.part all), or leave it out"
    return [
        Finding("nothing_to_learn", examples.row_ids[i], int(examples.line[i]), what, remedy)
        for i in np.flatnonzero(is_empty)
    ]


def check_limits(max_tokens: int, max_targets: int | None) -> None:
    if max_tokens < 2:
        raise ValueError(
            f"max_tokens is {max_tokens}: give at least 2, for a prompt and what follows it"
        )
    if max_targets is not None and max_targets < 1:
        raise ValueError(f"max_targets is {max_targets}: give at least 1, or none for no limit")


def _check_ids(examples: Examples, tokenizer: Tokenizer) -> None:
    low, high = examples.ids.min(initial=0), examples.ids.max(initial=0)
    if low < 0 or high >= tokenizer.size:
        what = f"holds id {low if low < 0 else high}, the tokenizer has 0 to {tokenizer.size - 1}"
        raise ValueError(f"{examples.path}: {what}: encode it with {tokenizer.path}")


def _find(
    examples: Examples, kind: str, rows: np.ndarray, remedy: str, what: Callable[[int], str]
) -> list[Finding]:
    """A finding for every row that a mask is true for."""
    lines = examples.line.tolist()
    names = examples.row_ids
    return [
        Finding(kind, names[i], lines[i], f"row {names[i]} {what(i)}", remedy)
        for i in np.flatnonzero(rows).tolist()
    ]


# What is learnt


def _idle(examples: Examples, tokenizer: Tokenizer, is_idle: np.ndarray) -> list[Finding]:
    n_target, n_prompt = examples.n_target, examples.n_prompt

    def what(i: int) -> str:
        if n_target[i] == 0:
            return "has no target"
        text = tokenizer.decode(examples[i].ids[n_prompt[i] :][:20])
        return f"has a target of special tokens and white space alone, {text!r}"

    remedy = "give it an answer, or allow nothing_to_learn to leave it out"
    return _find(examples, "nothing_to_learn", is_idle, remedy, what)


def _too_long(
    examples: Examples, is_idle: np.ndarray, max_tokens: int, max_targets: int | None
) -> list[Finding]:
    lengths, n_target, n_prompt = examples.lengths, examples.n_target, examples.n_prompt
    is_full = n_prompt >= max_tokens
    is_long = ~symptoms.fits(examples, max_tokens, max_targets) & ~is_full & ~is_idle

    def full(i: int) -> str:
        return f"has a prompt of {n_prompt[i]} tokens, max_tokens is {max_tokens}"

    def long(i: int) -> str:
        if max_targets is not None and n_target[i] > max_targets:
            return f"has a target of {n_target[i]} tokens, max_targets is {max_targets}"
        parts = f"{n_prompt[i]} of prompt and {n_target[i]} of target"
        return f"has {lengths[i]} tokens, {parts}, max_tokens is {max_tokens}"

    leave = "raise it, shorten the prompt, or allow prompt_cut to leave the row out"
    cut = "raise it, shorten the target, or allow target_cut to learn only its beginning"
    return [
        *_find(examples, "prompt_cut", is_full, leave, full),
        *_find(examples, "target_cut", is_long, cut, long),
    ]


# Where a target ends and a prompt ends


def _ends(examples: Examples, tokenizer: Tokenizer, is_judged: np.ndarray) -> list[Finding]:
    count = symptoms.turn_ends(examples, tokenizer)
    is_closed = symptoms.closes_turn(examples, tokenizer)
    is_closed |= symptoms.closes_line(examples, tokenizer)

    def missing(i: int) -> str:
        text = tokenizer.decode(examples[i].ids[examples.n_prompt[i] :][-8:])
        return f"has a target that does not end in {TURN_END} but in {text!r}"

    def double(i: int) -> str:
        return f"has {TURN_END} {count[i]} times in its target"

    append = "append it, or allow end_missing to keep the row as it is"
    keep = "keep the last one, or allow end_double to keep the row as it is"
    return [
        *_find(examples, "end_missing", is_judged & ~is_closed, append, missing),
        *_find(examples, "end_double", is_judged & (count > 1), keep, double),
    ]


def _cueless(examples: Examples, opening: np.ndarray) -> list[Finding]:
    remedy = "render it with the generation prompt, or allow cue_missing to keep the row as it is"
    what = f"has a prompt that does not end in the assistant's cue {symptoms.CUE!r}"
    return _find(examples, "cue_missing", opening < 0, remedy, lambda i: what)


# What stands twice


def _duplicates(examples: Examples) -> list[Finding]:
    original = symptoms.originals(examples)
    is_again = original != np.arange(len(examples))

    def what(i: int) -> str:
        return f"is the example of line {examples.line[original[i]]} again"

    remedy = "remove one, or allow duplicate to keep both"
    return _find(examples, "duplicate", is_again, remedy, what)


def _leaks(examples: Examples, evaluation: Examples, same: np.ndarray) -> list[Finding]:
    def what(i: int) -> str:
        return f"has the prompt of {evaluation.path}:{evaluation.line[same[i]]}"

    remedy = "take it out of one of the two, or allow evaluation_row to keep it in both"
    return _find(examples, "evaluation_row", same >= 0, remedy, what)


# What is done about it


def divide(
    findings: Iterable[Finding], allow: Sequence[str]
) -> tuple[list[Finding], list[Finding]]:
    """(allowed, refused) by entries "KIND", for all its rows, and "KIND:ROW_ID", for one."""
    findings = list(findings)
    for text in unused(findings, allow):
        logger.warning("allow %s: there is no such finding: remove it", text)
    return _divide(findings, allow)


def unused(findings: Iterable[Finding], allow: Sequence[str]) -> list[str]:
    """The entries that allow nothing of what was found."""
    found = {entry for each in findings for entry in ((each.kind, None), (each.kind, each.row_id))}
    return [text for text in allow if _entry(text) not in found]


def _divide(
    findings: Iterable[Finding], allow: Sequence[str]
) -> tuple[list[Finding], list[Finding]]:
    wanted = {_entry(text) for text in allow}
    parts: tuple[list[Finding], list[Finding]] = ([], [])
    for finding in findings:
        hits = wanted & {(finding.kind, None), (finding.kind, finding.row_id)}
        parts[0 if hits else 1].append(finding)
    return parts


def check_allow(allow: Sequence[str]) -> None:
    """ValueError for an entry that no finding could have."""
    for text in allow:
        _entry(text)


def _entry(text: str) -> tuple[str, str | None]:
    kind, colon, row_id = text.partition(":")
    if kind not in DONE:
        near = difflib.get_close_matches(kind, DONE, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(DONE)}"
        raise ValueError(f"allow {text!r}: there is no kind {kind!r} of finding: {hint}")
    if colon and not row_id:
        raise ValueError(f"allow {text!r}: names no row: write {kind}:ROW_ID, or {kind} for all")
    return kind, row_id if colon else None


def treat(
    examples: Examples,
    findings: Sequence[Finding],
    allow: Sequence[str] = (),
    *,
    max_tokens: int,
    max_targets: int | None = None,
) -> Treated:
    """The examples as they are to be learnt; a ValueError names what was found and not allowed."""
    check_limits(max_tokens, max_targets)
    allowed, refused = divide(findings, allow)
    if refused:
        raise ValueError(_refusal(examples.path, refused))
    counts = Counter(finding.kind for finding in allowed)
    for kind in counts:
        logger.warning("%s: %d %s: %s", examples.path, counts[kind], kind, DONE[kind])
    goes = _rows_of(examples, allowed, "left out")
    kept = np.flatnonzero(~goes)
    if len(examples) and not kept.size:
        raise ValueError(f"{examples.path}: every row is left out: mend the file")
    is_cut = _rows_of(examples, allowed, "cut to fit")[kept]
    if kept.size == len(examples) and not is_cut.any():
        return Treated(examples, kept)
    most = examples.n_prompt.astype(np.int64) + (max_tokens if max_targets is None else max_targets)
    limit = np.where(is_cut, np.minimum(most, max_tokens)[kept], examples.lengths[kept])
    return Treated(examples.take(kept.tolist(), limit), kept)


def _rows_of(examples: Examples, findings: Iterable[Finding], done: str) -> np.ndarray:
    meant = {(found.line, found.row_id) for found in findings if DONE[found.kind] == done}
    rows = zip(examples.line.tolist(), examples.row_ids, strict=True)
    return np.array([row in meant for row in rows], bool)


def _refusal(path: str, refused: Sequence[Finding]) -> str:
    counts = Counter(finding.kind for finding in refused)
    named = [f"{path}:{finding.line}: {finding}" for finding in refused[:NAMED]]
    if len(refused) > NAMED:
        named.append(f"and {len(refused) - NAMED} more")
    total = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    one = f"{refused[0].kind}:{refused[0].row_id}"
    ways = f"mend the file, or allow {', '.join(counts)} (one row alone: {one})"
    ways += " by --allow, in a run by --data.allow"
    return "\n".join(named) + f"\n{total}: {ways}"
