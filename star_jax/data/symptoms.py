"""What can be seen of examples as arrays: a mask, a count or an index for every row.

`doctor` makes sentences of these. Ids are judged all at once where that is possible; only what
stands twice is looked for row by row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from star_jax.data.encode import Examples, Tokenizer

CUE = "<|im_start|>assistant\n"
# What may follow the cue in a prompt: the start of a thought (STAR's sets), or an empty one.
OPENINGS = (
    "",
    "<think>",
    "<think>\n",
    "<think></think>",
    "<think>\n</think>\n",
    "<think>\n\n</think>",
    "<think>\n\n</think>\n",
    "<think>\n\n</think>\n\n",
)


def fits(examples: Examples, max_tokens: int, max_targets: int | None = None) -> np.ndarray:
    """Which examples are short enough to be learnt whole."""
    is_short = examples.lengths <= max_tokens
    return is_short if max_targets is None else is_short & (examples.n_target <= max_targets)


def has_words(examples: Examples, tokenizer: Tokenizer) -> np.ndarray:
    """Which targets hold something other than special tokens, tags and white space."""
    rows = np.flatnonzero(examples.n_target)
    found = np.zeros(len(examples), bool)
    if rows.size:
        is_word = ~tokenizer.wordless()[examples.ids]
        # From each target's begin to its end, and from there to the next one's begin. The array's
        # own end is no place in it, and reduceat goes there by itself.
        bounds = np.stack([_prompt_end(examples)[rows], examples.start[1:][rows]], axis=1).ravel()
        bounds = bounds[bounds < len(is_word)]
        found[rows] = np.logical_or.reduceat(is_word, bounds)[::2]
    return found


def turn_ends(examples: Examples, tokenizer: Tokenizer) -> np.ndarray:
    """How often a target holds the end of the turn."""
    place = np.flatnonzero(examples.ids == tokenizer.end_of_turn)
    row = np.searchsorted(examples.start, place, side="right") - 1
    in_target = place >= _prompt_end(examples)[row]
    return np.bincount(row[in_target], minlength=len(examples))


def closes_turn(examples: Examples, tokenizer: Tokenizer) -> np.ndarray:
    """Which targets have the end of the turn as their last token."""
    return _ends_in(examples, examples.start[1:], examples.n_target, [tokenizer.end_of_turn])


def closes_line(examples: Examples, tokenizer: Tokenizer) -> np.ndarray:
    """Which end in the end of the turn and a newline, as the template writes between turns.

    STAR's converter leaves it there. What is learnt is the same: a model stops before the newline.
    """
    ids = [tokenizer.end_of_turn, *tokenizer.encode(["\n"])[0]]
    return _ends_in(examples, examples.start[1:], examples.n_target, ids)


def openings(examples: Examples, tokenizer: Tokenizer) -> np.ndarray:
    """How many of a prompt's last ids open the answer after the cue; -1 where there is no cue."""
    found = np.full(len(examples), -1)
    (cue,) = tokenizer.encode([CUE])
    for ids in tokenizer.encode([CUE + opening for opening in OPENINGS]):
        is_here = _ends_in(examples, _prompt_end(examples), examples.n_prompt, ids)
        found[is_here] = len(ids) - len(cue)
    return found


def _prompt_end(examples: Examples) -> np.ndarray:
    return examples.start[:-1] + examples.n_prompt


def _ends_in(
    examples: Examples, stop: np.ndarray, room: np.ndarray, wanted: Sequence[int]
) -> np.ndarray:
    """Where the ids before `stop` are the wanted ones; `room` is how many belong to that part."""
    rows = np.flatnonzero(room >= len(wanted))
    for back, token in enumerate(reversed(wanted), start=1):  # every token leaves fewer rows
        rows = rows[examples.ids[stop[rows] - back] == token]
    found = np.zeros(len(examples), bool)
    found[rows] = True
    return found


def originals(examples: Examples) -> np.ndarray:
    """For every example, the first that is the same to a model."""
    first: dict[bytes, int] = {}
    found = np.arange(len(examples))
    for i in range(len(examples)):
        found[i] = first.setdefault(examples.hash(i), i)
    return found


def same_questions(
    examples: Examples, others: Examples, opening: np.ndarray, others_opening: np.ndarray
) -> np.ndarray:
    """For every example, the first of the others that has its prompt; -1 where none has.

    What opens the answer is left out of it: the same question is put with and without <think>.
    """
    asked: dict[bytes, int] = {}
    others_length = others.n_prompt - np.maximum(others_opening, 0)
    for i, digest in _digests(others, others_length, np.arange(len(others))):
        asked.setdefault(digest, i)
    length = examples.n_prompt - np.maximum(opening, 0)
    found = np.full(len(examples), -1)
    # Only prompts as long as one of the others' need to be read.
    for i, digest in _digests(examples, length, np.flatnonzero(np.isin(length, others_length))):
        found[i] = asked.get(digest, -1)
    return found


def _digests(
    examples: Examples, length: np.ndarray, rows: np.ndarray
) -> Iterable[tuple[int, bytes]]:
    for i in rows.tolist():
        ids = examples.ids[examples.start[i] : examples.start[i] + length[i]]
        yield i, hashlib.blake2b(ids.astype(np.int32).tobytes(), digest_size=16).digest()
