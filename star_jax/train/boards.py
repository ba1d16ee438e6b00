"""Where a person looks at a run's numbers: TensorBoard, wandb, a bar on a terminal, lines of a log.

Each is imported when it is asked for. None of them is the record: that is log.py's files.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

logger = logging.getLogger(__name__)

SPEAK_EVERY_S = 10.0  # between two lines of a log


def check(*, wandb: bool) -> None:
    """ValueError where a board is asked for that is not installed."""
    if wandb and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            "log.wandb_project: is given and wandb is not installed: pip install "
            "'star_jax[wandb]', or leave it out"
        )


class TensorBoard:
    def __init__(self, folder: Path, purge_step: int) -> None:
        # It warns of each NaN, without its name or step.
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)
        tensorboardx = importlib.import_module("tensorboardX")
        # Names of event files hold seconds: two runs of one second would share one.
        self._writer = tensorboardx.SummaryWriter(
            str(folder), purge_step=purge_step, filename_suffix=f".{os.getpid()}.{purge_step}"
        )

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    def __init__(self, folder: Path, arguments: dict[str, Any]) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise ValueError(
                "wandb is asked for and is not installed: pip install 'star_jax[wandb]', or switch "
                "it off"
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(dir=str(folder), **arguments)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def flush(self) -> None:
        """wandb sends when it likes."""

    def close(self) -> None:
        self._run.finish()


Board = TensorBoard | Wandb


class Bar:
    def __init__(self, total_steps: int, start_step: int) -> None:
        tqdm: Callable[..., Any] = importlib.import_module("tqdm").tqdm
        self._bar = tqdm(
            total=total_steps, initial=start_step, unit="step", file=sys.stderr, dynamic_ncols=True
        )

    def show(self, step: int, loss: float | None, speed: Mapping[str, float]) -> None:
        self._bar.set_postfix_str(", ".join(_words(loss, speed)), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class Lines:
    def __init__(self, total_steps: int, start_step: int) -> None:
        self._total_steps = total_steps
        self._spoke = -math.inf

    def show(self, step: int, loss: float | None, speed: Mapping[str, float]) -> None:
        now = monotonic()
        if step < self._total_steps and now - self._spoke < SPEAK_EVERY_S:
            return
        self._spoke = now
        words = [f"step {step}/{self._total_steps}", *_words(loss, speed)]
        if "time/eta_s" in speed:
            words.append(f"{_clock(speed['time/eta_s'])} left")
        logger.info(", ".join(words))

    def close(self) -> None:
        """Nothing is open."""


def _words(loss: float | None, speed: Mapping[str, float]) -> list[str]:
    words = []
    if loss is not None:
        words.append(f"loss {loss:.4g}")
    if "speed/tokens_per_s" in speed:
        words.append(f"{speed['speed/tokens_per_s']:,.0f} tokens/s")
    if "speed/mfu" in speed:
        words.append(f"MFU {speed['speed/mfu']:.1%}")
    return words


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"
