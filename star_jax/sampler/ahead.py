"""Compiling ahead: every program that requests can ask for, run once with nothing in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from star_jax.sampler import rows
from star_jax.sampler.sizes import READ_ROWS, STOPS

if TYPE_CHECKING:
    from star_jax.sampler.rollout import Engine


def compile_all(
    engine: Engine, rooms: Sequence[int], reply_rooms: Sequence[int], *, masked: bool
) -> None:
    """For prompts and replies of every size; with `masked`, for rows that follow a grammar too."""
    kinds = list(_kinds(engine, masked))
    reads = {T: _reads(engine, T) for T in rooms}
    dead = rows.empty(engine.slots * engine.group, STOPS)
    for index, S in enumerate(rooms):
        for at, C in enumerate(reply_rooms):
            state = engine.state(S, C)
            for T in rooms[: index + 1]:
                for prefix, where in reads[T]:
                    state = engine.place(state, prefix, [(0, where)])
            for steps, allowed_BW, top in kinds:
                state, _, _ = engine.decode(
                    state, dead, steps=steps, ends=1, allowed_BW=allowed_BW, top=top
                )
            state = engine.restart(state)
            for longer in rooms[index + 1 :]:
                engine.resize(state, longer, C)
            for wider in reply_rooms[at + 1 : at + 2]:
                engine.resize(state, S, wider)
    engine.is_warm = True


def _kinds(engine: Engine, masked: bool) -> Iterator[tuple[int, np.ndarray | None, int]]:
    """(steps, mask, likeliest tokens) of the ways to decode."""
    for top in sorted({0, engine.max_top}):
        yield 2, None, top
        if masked:
            words = -(-engine.vocab_size // 32)
            yield 1, np.zeros((engine.slots * engine.group, words), np.uint32), top


def _reads(engine: Engine, T: int) -> list[tuple[Any, Any]]:
    """What each shape of reading prompts of T tokens makes, and where one lies in it."""
    made = {}
    for count in READ_ROWS:
        if count <= engine.slots:
            for prefix, places in engine.read([np.zeros(T, np.int32)] * count, T):
                made[len(places)] = (prefix, next(iter(places.values())))
    return list(made.values())
