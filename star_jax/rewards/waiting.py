"""Coroutines run to their end from plain code, whether or not an event loop is running."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, or its exception.

    Its loop lives in a thread of its own, because a caller may stand inside a loop already.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(coroutine))
        except BaseException as error:  # carried to the caller's thread, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="star_jax.rewards.finish")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
