"""The sizes that things are padded to: few, so that few programs are compiled."""

from __future__ import annotations

from collections.abc import Sequence

from star_jax import batch

# The least room for a prompt, and for a reply: a short one is not attended to as if it were long.
PROMPT_ROOM = 64
REPLY_ROOM = 64
STOPS = 8  # stop ids a request may have
READ_ROWS = (1, 4, 16)  # packed rows of prompts that one call may read
READ_TOKENS = 8192  # which are about so many tokens, unless it is one row
MOST_STEPS = 64  # of one call of decode


def ladder(given: Sequence[int] | None, smallest: int, longest: int, name: str) -> tuple[int, ...]:
    """Sizes in rising order, the last of which has room for the longest."""
    if given is None:
        sizes = []
        while not sizes or sizes[-1] < longest:
            sizes.append(batch.bucket(sizes[-1] + 1 if sizes else 1, smallest))
        return tuple(sizes)
    sizes = sorted(set(given))
    if not sizes or sizes[0] < 1:
        raise ValueError(f"{name} must be sizes of at least 1, got {list(given)}")
    return tuple(sizes) if sizes[-1] >= longest else (*sizes, longest)


def fit(sizes: Sequence[int], length: int) -> int:
    return next(size for size in sizes if size >= length)
