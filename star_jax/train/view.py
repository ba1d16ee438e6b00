"""A terminal's view of a curriculum: its stages, how far each is, and the numbers that matter.

It reads what the stages write, twice a second, and touches nothing: a run is the same without it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from star_jax.train.manifest import Manifest, Plan, Ready

TAIL = 65536  # bytes of a file's end that are looked at
PERIOD_S = 0.5
MARK = {"done": "✓", "running": "▸", "waiting": "·", "failed": "✗", "stopped": "‖"}
COLOUR = {"done": "green", "running": "cyan", "failed": "red", "stopped": "yellow"}
# metric → (what a person calls it, its form)
NUMBERS = {
    "loss/total_nats": ("loss", "{:.3f}"),
    "distill/mistake_mass": ("mistakes", "{:.2%}"),
    "rollout/call_reward": ("reward of calls", "{:.2f}"),
    "rollout/call_call_share": ("calls where due", "{:.0%}"),
    "rollout/call_valid_share": ("valid", "{:.0%}"),
    "rollout/words_reward": ("of words", "{:.2f}"),
    "rollout/words_call_share": ("calls where not", "{:.0%}"),
    "rollout/spread_share": ("spread", "{:.0%}"),
    "policy/entropy_nats": ("entropy", "{:.3f}"),
    "policy/reference_kl_nats": ("KL", "{:.1e}"),
    "speed/tokens_per_s": ("tok/s", "{:,.0f}"),
}


class View:
    def __init__(
        self, plan: Plan, ready: list[Ready], manifest: Manifest, console: Console | None = None
    ) -> None:
        self._plan, self._ready, self._manifest = plan, ready, manifest
        self.console = console or Console(stderr=True)
        self._over = threading.Event()
        self._live = Live(console=self.console, auto_refresh=False, transient=False)
        self._thread = threading.Thread(target=self._go, name="view", daemon=True)
        self._handlers: list[logging.Handler] = []
        self._since: dict[str, float] = {}

    def __enter__(self) -> View:
        # Lines of the log go above the view, not through it.
        root = logging.getLogger()
        self._handlers = root.handlers[:]
        root.handlers = [RichHandler(console=self.console, show_path=False, show_level=False)]
        self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._live.update(self.shown(), refresh=True)
        self._live.stop()
        logging.getLogger().handlers = self._handlers

    def _go(self) -> None:
        while not self._over.wait(PERIOD_S):
            self._live.update(self.shown(), refresh=True)

    def shown(self) -> Group:
        table = Table.grid(padding=(0, 2))
        running: list[Text] = []
        for one in self._ready:
            entry = self._manifest.entry(one.stage.name)
            state = entry["state"]
            style = COLOUR.get(state, "dim")
            is_running = state == "running"
            table.add_row(
                Text(MARK.get(state, "?"), style=style),
                Text(one.stage.name, style="bold" if is_running else ""),
                Text(one.stage.preset or one.stage.run, style="dim"),
                self._bar(one) if is_running else Text(""),
                Text(self._time(one, entry), style="dim"),
            )
            if is_running:
                running.append(Text("  ".join(told(last(one.output))), style="cyan"))
        title = Text(f"{self._plan.name}, seed {self._plan.seed}, in {self._plan.output}")
        return Group(title, table, *running)

    def _bar(self, one: Ready) -> ProgressBar:
        share = progress(one)
        total = 1.0 if share is not None else None
        return ProgressBar(total=total, completed=share or 0.0, width=24, pulse=share is None)

    def _time(self, one: Ready, entry: Mapping[str, Any]) -> str:
        name = one.stage.name
        if entry["state"] != "running":
            self._since.pop(name, None)
            return "" if entry["seconds"] is None else f"{entry['seconds']:.0f} s"
        began = self._since.setdefault(name, time.monotonic())
        eta = last(one.output).get("time/eta_s")
        rest = f", {eta:.0f} s left" if isinstance(eta, int | float) else ""
        return f"{(entry['seconds'] or 0) + time.monotonic() - began:.0f} s{rest}"


def last(folder: Path) -> dict[str, Any]:
    """The newest value of every number that a stage has written."""
    found: dict[str, Any] = {}
    for name in ("metrics.jsonl", "pace.jsonl"):
        for row in tail(folder / name):
            found.update(row)
    return found


def tail(path: Path) -> Iterator[dict[str, Any]]:
    """The rows at the end of a file; a torn one is passed over."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return
    for line in lines[1 if size > TAIL else 0 :]:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def told(numbers: Mapping[str, Any]) -> Iterator[str]:
    if "step" in numbers:
        yield f"step {numbers['step']}"
    for name, (title, form) in NUMBERS.items():
        if isinstance(value := numbers.get(name), int | float):
            yield f"{title} {form.format(value)}"


def progress(one: Ready) -> float | None:
    """The share that is done; None where that can't be told."""
    if one.stage.run == "teacher":
        return _answered(one.output)
    numbers = last(one.output)
    done, rest = numbers.get("time/elapsed_s"), numbers.get("time/eta_s")
    if isinstance(done, int | float) and isinstance(rest, int | float) and done + rest > 0:
        return done / (done + rest)
    return None


def _answered(folder: Path) -> float | None:
    """Lines of a teacher's samples over the prompts that its progress file names."""
    path = folder / "samples.jsonl"
    try:
        total = json.loads((folder / "prompts.json").read_text())["prompts"]
        with path.open("rb") as file:
            return sum(1 for _ in file) / max(total, 1)
    except (OSError, ValueError, KeyError, TypeError):
        return None
