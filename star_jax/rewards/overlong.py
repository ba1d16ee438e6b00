"""DAPO's soft punishment of generations that come near the limit (arXiv 2503.14476, eq. 13).

    R = −f · min(length − (L − b), b) / b    where length > L − b, else 0          R ∈ [−f, 0]

L is the limit in tokens and b the buffer before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from star_jax.rewards.calls import Tool
from star_jax.rewards.reward import Reward


def soft_overlong(
    generation: str,
    label: str,
    tools: Sequence[Tool] | None,
    compat: None = None,
    *,
    length: int,
    limit: int,
    buffer: int,
    factor: float = 1.0,
) -> Reward:
    """Score one sample by its `length` in tokens alone; the texts are unread."""
    if compat is not None:
        raise ValueError(f"soft_overlong: compat={compat!r}; only None is known")
    if not 0 < buffer <= limit:
        raise ValueError(f"soft_overlong: buffer={buffer} must lie in 1..limit ({limit})")
    if length < 0 or factor < 0:
        raise ValueError(f"soft_overlong: length={length} and factor={factor} must be at least 0")
    over = min(max(length - (limit - buffer), 0), buffer)
    total = -factor * over / buffer if over else 0.0
    return Reward(
        total,
        1.0,
        total,
        "overlong" if over else "within",
        "{0} tokens are {1} into the buffer of {2} before {3}",
        (length, over, buffer, limit),
        {"length": length, "over": over},
    )
