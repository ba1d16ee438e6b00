"""One call of anybody's reward function: a value, a skip, or the reason why there is neither."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, SupportsFloat

from star_jax.rewards.reward import Reward

Job = tuple[tuple[Any, ...], dict[str, Any]]  # arguments and keywords of a call


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to: a value, None for a skip, or the reason of its failure."""

    value: Reward | float | None = None
    failure: str | None = None


class Overrun(BaseException):
    """Raised inside a call whose time is up; no `except Exception` of the call swallows it."""


def judged(value: object) -> Outcome:
    """A returned value as an outcome: a finite number, a Reward and None are in order."""
    if value is None:
        return Outcome()
    number: Any = value.total if isinstance(value, Reward) else value
    # Numbers of other libraries, NumPy's among them, are numbers too; texts are not.
    if isinstance(number, SupportsFloat) and _is_finite(number):
        return Outcome(value if isinstance(value, Reward) else float(number))
    shown = repr(number) if isinstance(number, float) else f"a {type(value).__name__}"
    return Outcome(failure=f"returned {shown}, not a finite number, a Reward or None")


def _is_finite(number: SupportsFloat) -> bool:
    try:
        return math.isfinite(float(number))
    except (OverflowError, TypeError, ValueError):
        return False


def said(error: BaseException) -> str:
    """An exception as a reason, in characters that every file can hold."""
    try:
        text = str(error)
    except Exception as broken:  # somebody's own exception, whose text is broken itself
        text = f"(its text raises {type(broken).__name__})"
    return f"{type(error).__name__}: {text}".encode(errors="replace").decode()


def overrun(timeout_s: float | None) -> str:
    """The reason of a call that took too long."""
    return f"took longer than {timeout_s} s"


def run_in_time(function: Callable[..., Any], job: Job, timeout_s: float | None) -> Outcome:
    """Make one call; with a time limit, on the main thread: only it receives the signal."""
    arguments, keywords = job
    try:
        with _alarm(timeout_s):
            value = function(*arguments, **keywords)
    except Overrun:
        return Outcome(failure=overrun(timeout_s))
    except (Exception, SystemExit) as error:  # anybody's function may raise anything
        return Outcome(failure=said(error))
    return judged(value)


@contextmanager
def _alarm(seconds: float | None) -> Generator[None]:
    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, _stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # the alarm may ring just here, too
            signal.signal(signal.SIGALRM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Overrun
