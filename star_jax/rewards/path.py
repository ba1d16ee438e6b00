"""Functions by their dotted paths."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def load(path: str) -> Callable[..., Any]:
    """The function at `package.module.function`; ValueError where there is none."""
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name) if module else None
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"reward {path!r}: {error}; write package.module.function") from error
    if not callable(function):
        raise ValueError(f"reward {path!r} is no function; write package.module.function")
    return function
