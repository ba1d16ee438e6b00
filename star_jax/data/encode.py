"""Rows as token ids: a tokenizer's file, a file of rows, and the examples that come of the two.

    rows --render--> (prompt, target) --tokenizer--> Examples --[i]--> Example(ids, n_prompt, id)

Prompt and target are tokenized apart and joined, because that is what a model meets when it is
used: the prompt is tokenized alone, and what follows is its own. Nothing is cut here and nothing is
added; the doctor judges lengths and endings.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import tokenizers

from star_jax.batch import Example
from star_jax.data import read, trainset
from star_jax.data.read import Bad, Conversation, Row
from star_jax.data.template import Render

FILE = "tokenizer.json"
TURN_END = "<|im_end|>"
THINK_END = "</think>"
AT_ONCE = 1024  # texts that are tokenized together, on as many cores as there are


class Tokenizer:
    """A model folder's tokenizer.json: text ⇄ ids, and the two ids that training asks for."""

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / FILE
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file: copy the model's tokenizer to it")
        content = path.read_bytes()
        try:
            raw = json.loads(content)
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception for what it can't read
            raise ValueError(f"{path}: is no tokenizer ({error}): copy it again") from error
        self.path = path
        self.hash = _digest(_meaning(raw))
        self.end_of_turn = self._id(TURN_END)
        self.end_of_think = self._id(THINK_END)

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"{self.path}: has no token {token}: use a Qwen3 model's tokenizer")
        return found

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab().values()) + 1

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        made = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in made]

    def decode(self, ids: Iterable[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def wordless(self) -> np.ndarray:
        """For every id, whether it is a special token, a tag, or writes nothing but white space."""
        alone = [[i] for i in range(self.size)]
        texts = self._tokenizer.decode_batch(alone, skip_special_tokens=False)
        found = np.array([not text.strip() for text in texts])
        found[list(self._tokenizer.get_added_tokens_decoder())] = True
        return found


def _meaning(raw: Any) -> Any:
    """What of a tokenizer.json decides about ids: not how it pads or cuts batches."""
    return {name: value for name, value in raw.items() if name not in ("truncation", "padding")}


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Examples(Sequence[Example]):
    """The examples of a file, their ids end to end: a million rows are four arrays."""

    path: str
    ids: np.ndarray  # int32, all examples'
    start: np.ndarray  # int64, n + 1: where each begins, and the end
    n_prompt: np.ndarray  # int32, how many of an example's ids are prompt
    line: np.ndarray  # int64, where its row stands in the file
    row_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.row_ids)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        ids = self.ids[self.start[index] : self.start[index + 1]]
        return Example(ids, int(self.n_prompt[index]), self.row_ids[index])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.diff(self.start)

    @property
    def n_target(self) -> np.ndarray:
        """Tokens of each that are to be learnt."""
        return self.lengths - self.n_prompt

    def hash(self, index: int) -> bytes:
        """What an example is to a model: its ids, and where the prompt ends."""
        example = self[index]
        made = hashlib.blake2b(np.int64(example.n_prompt).tobytes(), digest_size=16)
        made.update(np.asarray(example.ids, np.int32).tobytes())
        return made.digest()

    def take(self, indices: Sequence[int], limit: np.ndarray | None = None) -> Examples:
        """Some of the examples, in this order; with `limit`, of each only so many ids."""
        if len(indices) == 0:
            empty = np.zeros(0, np.int32)
            return dataclasses.replace(
                self, ids=empty, start=np.zeros(1, np.int64), n_prompt=empty, line=empty, row_ids=()
            )
        at = np.asarray(indices, np.int64)
        length = self.lengths[at] if limit is None else np.minimum(self.lengths[at], limit)
        parts = [self.ids[s : s + n] for s, n in zip(self.start[at], length, strict=True)]
        return dataclasses.replace(
            self,
            ids=np.concatenate(parts),
            start=np.concatenate([[0], np.cumsum(length)]),
            n_prompt=self.n_prompt[at],
            line=self.line[at],
            row_ids=tuple(self.row_ids[i] for i in at),
        )


def examples(
    path: str | Path,
    tokenizer: Tokenizer,
    render: Render,
    *,
    keep_reasoning: bool = True,
    skip_bad: int = 0,
    answer: str | None = None,
) -> Examples:
    """All examples of a file: conversations are rendered, pairs are text already.

    The last message of a conversation is the target, as in `trainset.native`. Bad rows, and those
    that have no target, are named by a ValueError unless `skip_bad` allows so many.
    """
    good = read.tolerate(texts(path, render, keep_reasoning, answer), skip_bad)
    ids: list[np.ndarray] = []
    n_prompt: list[int] = []
    lines: list[int] = []
    names: list[str] = []
    for group in _groups(good):
        prompts = tokenizer.encode([prompt for _, prompt, _ in group])
        targets = tokenizer.encode([target for _, _, target in group])
        for (row, _, _), prompt, target in zip(group, prompts, targets, strict=True):
            ids.append(np.array(prompt + target, np.int32))
            n_prompt.append(len(prompt))
            lines.append(row.line)
            names.append(str(row.id))
    if not names:
        raise ValueError(f"{path}: holds no row: check the path, or write the file again")
    return Examples(
        str(path),
        np.concatenate(ids),
        np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(np.int64),
        np.array(n_prompt, np.int32),
        np.array(lines, np.int64),
        tuple(names),
    )


Text = tuple[Row, str, str]


def texts(
    path: str | Path, render: Render, keep_reasoning: bool, answer: str | None = None
) -> Iterator[Text | Bad]:
    """Each row of a file with its prompt and its target; bad ones as they are."""
    for row in read.scan(path, answer=answer):
        match row:
            case Bad():
                yield row
            case Conversation():
                for made in trainset.convert(
                    [row],
                    path,
                    lambda found: trainset.native(found, render, keep_reasoning=keep_reasoning),
                ):
                    yield made if isinstance(made, Bad) else (row, made["inputs"], made["targets"])
            case _:
                yield row, row.inputs, row.targets


def _groups(texts: Iterator[Text]) -> Iterator[list[Text]]:
    group: list[Text] = []
    for text in texts:
        group.append(text)
        if len(group) == AT_ONCE:
            yield group
            group = []
    if group:
        yield group
