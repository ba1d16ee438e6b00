"""What a step is made of and how long it takes: the host's numbers beside the device's.

Seen.take(plan)     examples, tokens, epochs: pure in the step
Clock.tick(plan)    seconds, tokens a second, the share of the devices' peak
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import jax

from star_jax.data.feed import Plan
from star_jax.models.config import Qwen3Config
from star_jax.train import flops
from star_jax.train.log import Row
from star_jax.train.setup import Run


class Seen:
    """What the data say of a step: pure in the step, so a run that goes on says the same."""

    def __init__(self, run: Run, first: int) -> None:
        self._rows = run.train
        feed = self._rows.feed
        before = min(first * feed.batch, feed.places)
        self._examples = before
        n_target = self._rows.examples.n_target
        self._targets = sum(int(n_target[feed.indices(step)].sum()) for step in range(first))

    def take(self, plan: Plan) -> dict[str, float]:
        rows = self._rows
        length = rows.examples.lengths[plan.indices]
        filled = sum(1 for members in plan.bins if members)
        self._examples += len(plan.indices)
        self._targets += int(rows.examples.n_target[plan.indices].sum())
        places = plan.used * plan.shape.rows * plan.shape.tokens
        return {
            "data/examples": len(plan.indices),
            "data/tokens": int(length.sum()),
            "data/rows": filled,
            "data/packing_share": float(length.sum()) / places,
            "data/epoch": rows.feed.epoch(plan.step + 1),
            "data/examples_seen": self._examples,
            "data/loss_tokens_seen": self._targets,
        }

    def describe(self, path: Path, row: Row) -> None:
        """Which rows a step learnt from, and its numbers."""
        indices = self._rows.feed.indices(row.step - 1)
        examples = self._rows.examples
        found = {
            "step": row.step,
            "metrics": {name: str(value) for name, value in row.metrics.items()},
            "file": examples.path,
            "rows": [
                {"line": int(examples.line[index]), "id": examples.row_ids[index]}
                for index in indices
            ],
        }
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class Clock:
    """Seconds, tokens a second, and the share of the devices' peak."""

    def __init__(self, run: Run, teacher: Qwen3Config | None, first: int, total: int) -> None:
        self._run, self._teacher = run, teacher
        self._first, self._total = first, total
        self._began = self._last = time.perf_counter()
        self._compile_s, self._count = 0.0, 0
        device = jax.devices()[0]
        self._peak = run.config.compute.peak_flops or flops.peak(device.device_kind)

    def compiled(self, count: int) -> None:
        now = time.perf_counter()
        self._compile_s, self._count = now - self._last, count
        self._last = now

    def tick(self, plan: Plan, waited: float, unplanned: int) -> dict[str, float]:
        """To be called when a step has ended."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        run = self._run
        length = run.train.examples.lengths[plan.indices]
        targets = int(run.train.examples.n_target[plan.indices].sum())
        tokens = int(length.sum())
        work = (tokens, targets, flops.pairs(length))
        needed = flops.training_flops(run.model, *work)
        if self._teacher is not None:
            needed += flops.forward_flops(self._teacher, *work)
        done = plan.step + 1
        pace = (now - self._began - self._compile_s) / (done - self._first)
        share = flops.mfu(needed, seconds, run.mesh.size, self._peak)
        return {
            "time/step_s": seconds,
            "time/elapsed_s": now - self._began,
            "time/eta_s": pace * (self._total - done),
            "time/compile_s": self._compile_s,
            "time/data_wait_s": waited,
            "speed/tokens_per_s": tokens / seconds,
            "speed/loss_tokens_per_s": targets / seconds,
            "speed/flops": needed / seconds,
            "compile/count": self._count + unplanned,
            **({} if share is None else {"speed/mfu": share}),
            **_memory(),
        }


def _memory() -> dict[str, float]:
    """CPUs do not say."""
    stats = jax.local_devices()[0].memory_stats()
    return {"memory/peak_bytes": stats["peak_bytes_in_use"]} if stats else {}
