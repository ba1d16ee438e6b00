"""Two answers to one prompt, the better one first: rows of {id, prompt, chosen, rejected, tools}.

    read(path, tokenizer, render) → Pairs      prompt, chosen and rejected as messages or as text

A pair is one example, so that it is never torn apart: the two halves stand one after the other,
each with the prompt before it, as [prompt chosen prompt rejected]. `halves` tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from star_jax.data import encode
from star_jax.data.encode import Examples, Tokenizer
from star_jax.data.template import Render

CHOSEN, REJECTED = 1, 2


@dataclass(frozen=True)
class Pairs:
    """`examples` are the pairs' ids end to end; both halves are known apart, too."""

    examples: Examples
    chosen: Examples
    rejected: Examples

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def n_target(self) -> np.ndarray:
        """Tokens of both answers."""
        return self.chosen.n_target + self.rejected.n_target

    def halves(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Of every token of a pair its half, and whether it predicts one of an answer."""
        half, predicts = [], []
        for which, side in ((CHOSEN, self.chosen), (REJECTED, self.rejected)):
            count, n_prompt = int(side.lengths[index]), int(side.n_prompt[index])
            half.append(np.full(count, which, np.int32))
            at = np.arange(count)
            predicts.append((at >= n_prompt - 1) & (at < count - 1))
        return np.concatenate(half), np.concatenate(predicts)


def read(
    path: str | Path, tokenizer: Tokenizer, render: Render, *, keep_reasoning: bool = True
) -> Pairs:
    """All pairs of a file; a bad row, or one whose answers are the same, is a ValueError."""
    chosen, rejected = (
        encode.examples(path, tokenizer, render, keep_reasoning=keep_reasoning, answer=name)
        for name in ("chosen", "rejected")
    )
    for index, line in enumerate(chosen.line):
        if np.array_equal(chosen[index].ids, rejected[index].ids):
            raise ValueError(
                f"{path}:{line}: rejected: is what is chosen: give another, or remove the row"
            )
    return join(chosen, rejected)


def join(chosen: Examples, rejected: Examples) -> Pairs:
    ids = [
        np.concatenate([chosen[i].ids, rejected[i].ids]).astype(np.int32)
        for i in range(len(chosen))
    ]
    examples = Examples(
        chosen.path,
        np.concatenate(ids),
        np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(np.int64),
        chosen.n_prompt,
        chosen.line,
        chosen.row_ids,
    )
    return Pairs(examples, chosen, rejected)
