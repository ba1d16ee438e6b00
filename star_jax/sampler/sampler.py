"""Many prompts → samples of each: the sampler as a library has it.

sampler = Sampler(model, slots=64, max_len=2048)
rows = sampler.generate([[ids, …], …], n=8, max_new_tokens=512, stop_ids=(151645,))
rows[i][j].tokens, .logprobs, .stopped

On a CPU the slots are dealt out to lanes, each of which decodes in a thread of its own: a step of
few rows does not fill two cores, two steps do. The samples are the same.
"""

from __future__ import annotations

import collections
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import jax
import numpy as np

from star_jax import models
from star_jax.models import layout
from star_jax.models.attention import Backend
from star_jax.sampler import request
from star_jax.sampler.engine import Engine
from star_jax.sampler.request import Piece, Request, Sample, Settings
from star_jax.sampler.rollout import Rollout

LANE_ROWS = 16  # fewer rows than this are not worth reading the weights for once more


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
        lanes: int | None = None,
    ) -> None:
        """`slots` samples are decoded at once, none longer than `max_len` tokens with its prompt.
        `share_prompts` keeps the prompt of a group once for all its samples. `lanes` is how many
        threads decode; by default one for each core of a CPU that gets work enough."""

        for name, given in (("slots", slots), ("lanes", lanes)):
            if given is not None and given < 1:
                raise ValueError(f"{name} must be at least 1, got {given}")
        self.lanes = min(slots, _lanes(model, slots) if lanes is None else lanes)

        def engine(group: int, weights: Any = None) -> Engine:
            return Engine(
                model,
                slots=max(slots // self.lanes // group, 1),
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
        self._rollouts: dict[int, list[Rollout]] = {}

    def rollouts(self, group: int) -> list[Rollout]:
        """The lanes for groups of this size; all of them decode with the same weights."""
        if group not in self.engines:
            self.engines[group] = self._make_engine(group, self.engines[1].weights)
        if group not in self._rollouts:
            engine = self.engines[group]
            self._rollouts[group] = [self._make_rollout(engine) for _ in range(self.lanes)]
        return self._rollouts[group]

    def load_params(self, params: layout.Params) -> None:
        """The next version of the policy."""
        weights = self.engines[1].load_params(params)
        for engine in self.engines.values():
            engine.weights = weights

    def rest(self) -> None:
        """Give back the caches' room until the next call."""
        for rollouts in self._rollouts.values():
            for rollout in rollouts:
                rollout.forget()

    def generate(
        self,
        prompts: Sequence[Sequence[int] | np.ndarray],
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
        most = max(self.slots // self.lanes, 1)
        rollouts = self.rollouts(min(n, most) if self.share_prompts and n > 1 else 1)
        # Prompts of like length beside each other: less room for the shorter ones.
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt))
        tickets: list[dict[int, int]] = [{} for _ in rollouts]
        pieces: dict[tuple[int, int], list[Piece]] = collections.defaultdict(list)
        try:
            for number, i in enumerate(order):
                lane = number % len(rollouts)
                tickets[lane][rollouts[lane].submit(requests[i])] = i
            for lane, heard in enumerate(_drain(rollouts)):
                for piece in heard:
                    pieces[tickets[lane][piece.ticket], piece.sample].append(piece)
        finally:
            # Where something failed, or nobody wants to wait: no part of the next call.
            for rollout in rollouts:
                rollout.clear()
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


def _lanes(model: models.Model, slots: int) -> int:
    devices = {device for leaf in jax.tree.leaves(model.params) for device in leaf.devices()}
    if len(devices) > 1 or next(iter(devices)).platform != "cpu":
        return 1
    return max(1, min(os.cpu_count() or 1, slots // LANE_ROWS))


def _drain(rollouts: Sequence[Rollout]) -> list[list[Piece]]:
    """Step all of them until they are done, or one of them fails."""
    over = threading.Event()

    def drain(rollout: Rollout) -> list[Piece]:
        pieces = []
        while rollout.is_busy and not over.is_set():
            pieces += rollout.step()
        return pieces

    if sum(rollout.is_busy for rollout in rollouts) < 2:
        return [drain(rollout) for rollout in rollouts]
    with ThreadPoolExecutor(len(rollouts)) as pool:
        futures = [pool.submit(drain, rollout) for rollout in rollouts]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            over.set()
        return [future.result() for future in futures]
