"""Many prompts → samples of each: the sampler as a library has it.

sampler = Sampler(model, slots=64, max_len=2048)
rows = sampler.generate([[ids, …], …], n=8, max_new_tokens=512, stop_ids=(151645,))
rows[i][j].tokens, .logprobs, .stopped
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from star_jax import models
from star_jax.models import layout
from star_jax.models.attention import Backend
from star_jax.sampler import request
from star_jax.sampler.engine import Engine
from star_jax.sampler.request import Piece, Request, Sample, Settings
from star_jax.sampler.rollout import Rollout


class Sampler:
    def __init__(
        self,
        model: models.Model,
        *,
        slots: int = 64,
        max_len: int = 2048,
        dtype: Any = None,
        backend: Backend = "auto",
        small_cache: bool = False,
        rooms: Sequence[int] | None = None,
        reply_rooms: Sequence[int] | None = None,
        share_prompts: bool = True,
        text_of: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        """`slots` samples are decoded at once, none longer than `max_len` tokens with its prompt.
        `share_prompts` keeps the prompt of a group once for all its samples."""

        if slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")

        def engine(group: int, weights: Any = None) -> Engine:
            return Engine(
                model,
                slots=max(slots // group, 1),
                group=group,
                max_len=min(max_len, model.config.max_position_embeddings),
                dtype=dtype,
                backend=backend,
                small_cache=small_cache,
                weights=weights,
            )

        def rollout(engine: Engine) -> Rollout:
            return Rollout(engine, rooms=rooms, reply_rooms=reply_rooms, text_of=text_of)

        self._make_engine, self._make_rollout = engine, rollout
        self.slots, self.share_prompts = slots, share_prompts
        self.engines = {1: engine(1)}  # by rows that share a slot
        self._rollouts: dict[int, Rollout] = {}

    def rollout(self, group: int) -> Rollout:
        """The one for groups of this size; all of them decode with the same weights."""
        if group not in self.engines:
            self.engines[group] = self._make_engine(group, self.engines[1].weights)
        if group not in self._rollouts:
            self._rollouts[group] = self._make_rollout(self.engines[group])
        return self._rollouts[group]

    def load_params(self, params: layout.Params) -> None:
        """The next version of the policy."""
        weights = self.engines[1].load_params(params)
        for engine in self.engines.values():
            engine.weights = weights

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int = 1,
        *,
        names: Sequence[bytes] | None = None,
        **settings: Any,
    ) -> list[list[Sample]]:
        """n samples of each prompt, as `Settings` says. A sample depends on its prompt, its number,
        seed and step, wherever in the batch it is; `names` tell prompts apart by something else
        than what they say."""
        how = Settings(**settings)
        requests = self._requests(prompts, n, how, names)
        rollout = self.rollout(min(n, self.slots) if self.share_prompts and n > 1 else 1)
        # Prompts of like length beside each other: less room for the shorter ones.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt))
        tickets = {rollout.submit(requests[i]): i for i in order}
        pieces: dict[tuple[int, int], list[Piece]] = collections.defaultdict(list)
        while rollout.is_busy:
            for piece in rollout.step():
                pieces[tickets[piece.ticket], piece.sample].append(piece)
        return [[request.join(pieces[i, j]) for j in range(n)] for i in range(len(requests))]

    def _requests(
        self, prompts: Any, n: int, how: Settings, names: Sequence[bytes] | None
    ) -> list[Request]:
        if names is not None and len(names) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many names, got {len(names)}")
        seen: collections.Counter[bytes] = collections.Counter()
        made = []
        for index, prompt in enumerate(prompts):
            ids = np.asarray(prompt, np.int32)
            name = request.name_of(ids) if names is None else names[index]
            if names is None:
                seen[name] += 1
                name = request.name_of(ids, seen[name] - 1)
            made.append(Request(ids, n, how, name))
        return made
