"""Where the state of two objects differs.

    the model's object, the expected one → names of attributes, and lines for people

Which attributes differ is asked of the objects themselves, by their own `==`. The lines come from
a walk of bounded size: a model can build directories that hold themselves, or that can be reached
on more ways than there is time to print.
"""

from __future__ import annotations

from collections import deque
from typing import Any

MAX_NODES = 5_000  # pairs of values that a walk looks at
MAX_DEPTH = 60
MAX_LINES = 5  # differences told of one attribute
MAX_SHOWN = 120  # characters told of one value


def attributes(model: object, truth: object) -> list[str]:
    """The public attributes in which an object differs from the expected one of its class."""
    return [
        name
        for name, expected in vars(truth).items()
        if not name.startswith("_") and getattr(model, name) != expected
    ]


def lines(path: str, model: object, truth: object) -> list[str]:
    """A few places at which two values differ, nearest first."""
    found: list[str] = []
    waiting: deque[tuple[str, Any, Any, int]] = deque([(path, model, truth, 0)])
    seen = 0
    while waiting and len(found) < MAX_LINES and seen < MAX_NODES:
        path, ours, theirs, depth = waiting.popleft()
        seen += 1
        pairs = _inside(path, ours, theirs) if depth < MAX_DEPTH else None
        if pairs is not None:
            waiting.extend((where, one, other, depth + 1) for where, one, other in pairs)
        elif not _is_equal(ours, theirs):
            found.append(f"{path} is {_shown(ours)}, expected {_shown(theirs)}")
    return found


class _Missing:
    """Nothing where the other side has something."""


_MISSING = _Missing()


def _inside(path: str, ours: Any, theirs: Any) -> list[tuple[str, Any, Any]] | None:
    """The parts of two values that can be taken apart alike; None where they cannot."""
    if type(ours) is not type(theirs):
        return None
    if isinstance(ours, dict):
        keys = [*theirs, *(key for key in ours if key not in theirs)]
        return [
            (f"{path}[{_shown(key)}]", ours.get(key, _MISSING), theirs.get(key, _MISSING))
            for key in keys
        ]
    if isinstance(ours, (list, tuple)) and len(ours) == len(theirs):
        pairs = zip(ours, theirs, strict=True)
        return [(f"{path}[{index}]", one, other) for index, (one, other) in enumerate(pairs)]
    if hasattr(ours, "__dict__") and not isinstance(ours, (_Missing, type)):
        # A parent leads back up; what it holds is told on the way down.
        return [
            (f"{path}.{name}", vars(ours).get(name, _MISSING), expected)
            for name, expected in vars(theirs).items()
            if not name.startswith("_") and name != "parent"
        ]
    return None


def _is_equal(ours: Any, theirs: Any) -> bool:
    return ours is theirs or bool(ours == theirs)


def _shown(value: object) -> str:
    if value is _MISSING:
        return "missing"
    if isinstance(value, (str, bytes)):
        text = repr(value[: MAX_SHOWN + 1])
    elif value is None or isinstance(value, (bool, int, float)):
        text = repr(value)
    elif isinstance(value, (list, tuple, dict, set)):
        text = f"a {type(value).__name__} of {len(value)}"
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
