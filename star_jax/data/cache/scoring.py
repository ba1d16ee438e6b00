"""A teacher over examples: its best tokens at every target position, never [B, T, V].

    examples --batches--> packed rows --score--> lists at loss positions --> lists by example

Examples are sorted into rows of a few lengths, so that few programs are compiled, and long rows
hold no short examples, which would pay for attention that they do not use. What comes out does not
depend on it: a segment of a packed row sees itself alone.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from star_jax import batch
from star_jax.batch import Example, TokenBatch
from star_jax.models import Qwen3Config, attention, hf, layout, qwen3, sharding
from star_jax.train import vocab
from star_jax.train.distill import TopK

# The shortest row. What is shorter shares rows: one program for most of a file of short rows, and
# a length that every attention backend takes.
SMALLEST = 512
BATCH_TOKENS = 16384  # tokens that each device of data × fsdp computes at once
CHUNK = 256  # positions that each projects onto the vocabulary at once


class Scores(NamedTuple):
    """Of the target positions of examples, laid end to end."""

    ids_PC: np.ndarray  # int32
    logp_PC: np.ndarray  # float32
    tail_logp_P: np.ndarray  # float32
    label_logp_P: np.ndarray  # float32


@functools.partial(jax.jit, static_argnames=("config", "top_k", "approximate", "chunk"))
def score(
    params: layout.Params,
    tokens_BT: Int[Array, "B T"],
    segment_BT: Int[Array, "B T"],
    target_BT: Int[Array, "B T"],
    weight_BT: Float[Array, "B T"],
    *,
    config: Qwen3Config,
    top_k: int,
    approximate: bool = False,
    chunk: int = CHUNK,
) -> tuple[TopK, jax.Array]:
    """The teacher's lists, and which of the N = B · T are loss positions: those in their order.

    The log of the tail is float32 whatever the teacher computes in: it is summed over logits that
    are.
    """
    hidden_BTD, _ = qwen3.hidden(params, config, tokens_BT, attention.packed(segment_BT))
    # Room for a loss at every place costs hidden states, no time: the core stops at the last one.
    positions = vocab.locate(weight_BT, weight_BT.shape[1])
    hidden_ND, label_N = (vocab.gather(x, positions) for x in (hidden_BTD, target_BT))
    found = vocab.statistics(
        hidden_ND,
        params["embed"] if config.tie_word_embeddings else params["head"],
        positions.valid_N,
        target_N=label_N,
        top_k=top_k,
        approximate=approximate,
        chunk=chunk,
    )
    ids_NC = found.top_ids.astype(jnp.int32)
    listed = TopK(ids_NC, found.top_logps, jnp.log(found.tail), label_N, found.logp)
    return listed, positions.valid_N


def batches(
    examples: Sequence[Example], groups: int, tokens: int, smallest: int = SMALLEST
) -> Iterator[TokenBatch]:
    """Packed rows, of one of `batch.bucket`'s lengths each; all batches of a length are as large.

    A batch has a multiple of `groups` rows, and about `tokens` for each group.
    """
    lengths = [len(example.ids) for example in examples]
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        by_length[batch.bucket(length, smallest)].append(index)
    for T, members in sorted(by_length.items()):
        rows = groups * max(1, tokens // T)
        bins = [
            [members[i] for i in row] for row in batch.first_fit([lengths[i] for i in members], T)
        ]
        for start in range(0, len(bins), rows):
            yield batch.lay_out(examples, bins[start : start + rows], T, rows)


def score_examples(
    model: hf.Model,
    examples: Sequence[Example],
    *,
    top_k: int,
    approximate: bool = False,
    tokens: int = BATCH_TOKENS,
    smallest: int = SMALLEST,
    chunk: int = CHUNK,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> Scores:
    """All examples' target positions, in the examples' order; `on_batch` hears of their tokens.

    The model's parameters may lie on a mesh.
    """
    n_target = np.array([len(example.ids) - example.n_prompt for example in examples])
    start = np.concatenate([[0], np.cumsum(n_target)])
    count = int(start[-1])
    made = Scores(
        np.zeros((count, top_k), np.int32),
        np.zeros((count, top_k), np.float32),
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
    )
    mesh = sharding.mesh_of(model.params)
    groups = 1 if mesh is None else int(np.prod([mesh.shape[name] for name in sharding.BATCH]))
    options = {"config": model.config, "top_k": top_k, "approximate": approximate, "chunk": chunk}
    for one in batches(examples, groups, tokens, smallest):
        arrays: Any = (one.tokens_BT, one.segment_BT, one.target_BT, one.weight_BT)
        if mesh is not None:
            arrays = jax.device_put(arrays, sharding.batch_sharding(mesh))
        with sharding.mesh_context(model.params):
            listed, valid_N = score(model.params, *arrays, **options)
        valid = np.asarray(valid_N)
        place = _places(one, start)
        known = (listed.ids_NC, listed.logp_NC, listed.tail_logp_N, listed.label_logp_N)
        for mine, theirs in zip(made, known, strict=True):
            mine[place] = np.asarray(theirs)[valid]
        on_batch(int(np.count_nonzero(one.segment_BT)))
    return made


def _places(one: TokenBatch, start: np.ndarray) -> np.ndarray:
    """Where each loss position of a batch, in the order of its rows, belongs."""
    example = one.example_BT[one.weight_BT != 0]  # an example's positions follow each other
    index = np.arange(len(example))
    is_first = np.diff(example, prepend=-1) != 0
    rank = index - np.maximum.accumulate(np.where(is_first, index, 0))
    return start[example] + rank
