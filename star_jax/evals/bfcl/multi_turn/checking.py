"""The verdict over a dialogue's calls.

    calls by turn and step, an entry, a sandbox → Verdict

Model and answer act on objects of their own that start alike. In this order, after each turn:
a call is due where the answer has one; all public attributes agree; every result of the answer's
calls has been seen by the model. Turns without an answer are performed, and not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.evals.bfcl.multi_turn.dispatch import Call
from star_jax.evals.bfcl.multi_turn.sandbox import Sandbox
from star_jax.evals.verdict import Verdict

Decoded = Sequence[Sequence[Sequence[Call]]]  # turns of steps of calls


def check(decoded: object, entry: Mapping[str, Any], apis: Sandbox) -> Verdict:
    """Whether the calls that were decoded do what the entry's `ground_truth` does."""
    truth = entry.get("ground_truth")
    if not _is_nested(truth, 1):
        raise ValueError(f"entry {entry.get('id')}: ground_truth is no list of turns of calls")
    if not _is_nested(decoded, 2):
        return Verdict(
            valid=False,
            error_type="multi_turn:inference_error",
            error=("the answer is no list of turns, of steps, of calls",),
        )
    assert isinstance(truth, Sequence)
    assert isinstance(decoded, Sequence)
    if len(decoded) != len(truth):
        return Verdict(
            valid=False,
            error_type="multi_turn:force_terminated",
            error=(f"{len(decoded)} turns, expected {len(truth)}",),
        )
    answer = apis.judge(entry, list(zip(decoded, truth, strict=True)))
    return Verdict(
        valid=answer["valid"],
        error_type=answer["error_type"],
        error=tuple(answer["error"]),
        raises=answer.get("raises"),
    )


def _is_nested(value: object, depth: int) -> bool:
    """Whether a value is a list, and its items are, `depth` times further down."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return False
    return depth == 0 or all(_is_nested(item, depth - 1) for item in value)
