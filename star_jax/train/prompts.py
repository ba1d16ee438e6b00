"""What RL asks the policy: prompts, and what is known of each to score an answer by.

read(path, tokenizer, render) → Prompts      every row rendered, its label looked at by the reward

A row's last message is its label. A generation is scored from its <think> on: where a prompt ends
with that tag already, as STAR's do, it is put before what the policy says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from star_jax import chat
from star_jax.data import encode, read
from star_jax.data.encode import Tokenizer
from star_jax.data.template import Render
from star_jax.rewards import Reward

THINK = "<think>"
Wanted = Literal["call", "words"]
Reader = Callable[[str, str, Sequence[Any]], Reward]  # (generation, label, tools)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    ids: np.ndarray  # int32
    text: str
    label: str  # from its <think> on
    target_ids: np.ndarray  # int32, what of the label follows the prompt
    opening: str  # what of a generation stands in the prompt already: <think>, or nothing
    tools: tuple[Any, ...]
    wanted: Wanted  # what the label is
    row_id: str
    line: int


@dataclass(frozen=True)
class Prompts:
    path: str
    rows: tuple[Prompt, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hash(self) -> str:
        made = hashlib.blake2b(digest_size=16)
        for row in self.rows:
            made.update(np.asarray(row.ids, "<i4").tobytes())
            made.update(repr((row.label, row.tools)).encode(errors="surrogatepass"))
        return made.hexdigest()


def load(
    path: str,
    tokenizer: Tokenizer,
    render: Render,
    score: Reader,
    *,
    longest: int,
    longest_target: int | None = None,
    keep_reasoning: bool = True,
    skip_bad: int = 0,
) -> Prompts:
    """The prompts of a file, none longer than `longest` tokens, and where targets are to be learnt
    none of these longer than `longest_target`; ValueError names the row that is, or whose label
    the reward can't read."""
    good = list(read.tolerate(encode.texts(path, render, keep_reasoning), skip_bad))
    if not good:
        raise ValueError(f"{path}: holds no row: check the path, or write the file again")
    ids = tokenizer.encode([prompt for _, prompt, _ in good])
    targets = tokenizer.encode([target for _, _, target in good])
    made = [
        _prompt(path, row, prompt, target, np.array(each, np.int32), np.array(ours, np.int32))
        for (row, prompt, target), each, ours in zip(good, ids, targets, strict=True)
    ]
    for one in made:
        where = f"{path}:{one.line}"
        if len(one.ids) > longest:
            raise ValueError(
                f"{where}: the prompt has {len(one.ids)} tokens, there is room for {longest} "
                "beside the new ones: raise data.max_tokens, or leave the row out"
            )
        if longest_target is not None and len(one.target_ids) > longest_target:
            raise ValueError(
                f"{where}: the target has {len(one.target_ids)} tokens and is to be learnt, "
                f"answers have {longest_target}: raise rollout.max_new_tokens, or leave it out"
            )
        try:
            score(one.label, one.label, one.tools)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return Prompts(str(Path(path)), tuple(made))


def _prompt(
    path: str, row: Any, text: str, target: str, ids: np.ndarray, target_ids: np.ndarray
) -> Prompt:
    tools = row.tools
    if tools is None:
        raise ValueError(
            f"{path}:{row.line}: tools: is missing: give the row's schemas, [] where it has none"
        )
    opening = THINK if text.rstrip().endswith(THINK) else ""
    label = opening + target
    return Prompt(
        ids=ids,
        text=text,
        label=label,
        target_ids=target_ids,
        opening=opening,
        tools=tuple(tools),
        wanted="call" if chat.parse(label).calls else "words",
        row_id=str(row.id),
        line=row.line,
    )
