"""The rows of `train` and rows about invented tools, without end, as packed batches of tokens.

    Cursor(next) → (TokenBatch, Cursor)      a pure function of the seed and where it stands

Every row is seen once. What a row's prompt says is learnt a little, too: schemas repeat their own
parameters' names and requests say values, which is where a young model finds out how to copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from star_jax import batch, chat
from star_jax.batch import Example, TokenBatch
from star_jax.data import trainset
from star_jax.data.encode import Tokenizer
from star_jax.world import files, foundry, generate
from star_jax.world.generate import Row

SLACK = 0.92  # how much of a batch is filled before its bins are looked at
AT_ONCE = 8  # rows that are made together


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Batches of `rows` rows of `tokens` places from the rows of one seed."""

    tokenizer: Tokenizer
    seed: int
    rows: int
    tokens: int
    prompt_weight: float  # of a prompt's token, where a target's has 1
    invented: float = 0.0  # the share of rows that are about invented tools

    def take(self, start: int) -> tuple[TokenBatch, int]:
        """The batch that begins with row `start`, and the row that the next one begins with."""
        found: list[tuple[int, Example]] = []
        used, at = 0, start
        while used < SLACK * self.rows * self.tokens:
            rows = [self._row(index) for index in range(at, at + AT_ONCE)]
            # One row in a hundred is too long for a place of its own, and is passed over.
            more = [x for x in enumerate(encode(self.tokenizer, rows), at) if self._fits(x[1])]
            found += more
            used += sum(len(example.ids) for _, example in more)
            at += AT_ONCE
        while len(batch.first_fit([len(x.ids) for _, x in found], self.tokens)) > self.rows:
            at, _ = found.pop()
        made = batch.pack([example for _, example in found], self.tokens, self.rows)
        return weighted(made, self.prompt_weight), at

    def _row(self, index: int) -> Row:
        """Rows of both kinds in turns, so that any share comes out."""
        before, now = (int(i * self.invented) for i in (index, index + 1))
        if now > before:
            return foundry.row(self.seed, index)
        return generate.row("train", self.seed, index)

    def _fits(self, example: Example) -> bool:
        return len(example.ids) <= self.tokens


def encode(tokenizer: Tokenizer, rows: Iterable[Row]) -> list[Example]:
    """Prompt and target are cut apart, as they are when the model is used."""
    rows = list(rows)
    texts = [trainset.native(files.conversation(row), chat.render) for row in rows]
    prompts = tokenizer.encode([text["inputs"] for text in texts])
    targets = tokenizer.encode([text["targets"] for text in texts])
    return [
        Example(np.array(prompt + target, np.int32), len(prompt), row["id"])
        for row, prompt, target in zip(rows, prompts, targets, strict=True)
    ]


def weighted(made: TokenBatch, prompt_weight: float) -> TokenBatch:
    """The same batch, a prompt's tokens weighing as much as is said."""
    follows_BT = np.zeros(made.segment_BT.shape, bool)
    follows_BT[:, :-1] = (made.segment_BT[:, :-1] == made.segment_BT[:, 1:]) & (
        made.segment_BT[:, :-1] > 0
    )
    is_prompt_BT = follows_BT & (made.weight_BT == 0)
    return made._replace(
        weight_BT=np.where(is_prompt_BT, np.float32(prompt_weight), made.weight_BT)
    )
