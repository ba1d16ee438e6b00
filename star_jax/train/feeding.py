"""Batches on the devices: made on the host a step ahead, in another thread.

take(step) → Fed(plan, batch, waited)    pure in the step: nothing to save, nothing to rewind
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from star_jax.data import feed
from star_jax.data.feed import Plan, Shape
from star_jax.train import loss, place
from star_jax.train.setup import Rows
from star_jax.train.step import StepBatch
from star_jax.train.teaching import Source


class Fed(NamedTuple):
    plan: Plan
    batch: StepBatch
    waited: float  # seconds until the host had it


class Feeder:
    def __init__(self, rows: Rows, mesh: Mesh, source: Source) -> None:
        self._rows = rows
        self._mesh = mesh
        self._source = source
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feeder")
        self._ahead: tuple[int, Future[Any]] | None = None

    def __enter__(self) -> Feeder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, step: int) -> Fed:
        """The batch of a step, and the next one begun."""
        before = time.perf_counter()
        if self._ahead is not None and self._ahead[0] == step:
            plan, host, more = self._ahead[1].result()
        else:
            plan, host, more = self._make(step)
        waited = time.perf_counter() - before
        if step + 1 < self._rows.feed.steps:
            self._ahead = (step + 1, self._pool.submit(self._make, step + 1))
        used = place.everywhere(self._mesh, np.int32(plan.used))
        batch = StepBatch(place.on_mesh(self._mesh, plan.shape.rows, host), used)
        return Fed(plan, self._source.beside(batch, plan, more), waited)

    def _make(self, step: int) -> tuple[Plan, place.Host, Any]:
        plan = self._rows.feed.plan(step)

        def rows(part: slice) -> loss.Micro:
            tokens = feed.lay_out(plan, self._rows.examples, part)
            return loss.Micro(tokens, self._source.words(plan, part))

        host = place.on_host(self._mesh, plan.shape.rows, rows)
        return plan, host, self._source.ahead(plan)

    @property
    def steps(self) -> int:
        return self._rows.feed.steps

    def shapes(self) -> dict[Shape, int]:
        return self._rows.feed.shapes()

    def abstract(self, shape: Shape) -> StepBatch:
        """What `take` gives for a shape, without its values."""
        rows = place.abstract_rows(self._mesh, shape.micro, shape.rows, shape.tokens)
        micro = loss.Micro(rows, self._source.abstract(shape))
        return StepBatch(micro, place.abstract_number(self._mesh))
