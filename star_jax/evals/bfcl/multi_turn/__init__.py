"""BFCL's multi-turn categories: dialogues in which a model's calls change what later calls see.

    with Sandbox(path) as apis:
        for entry in entries(apis.source, "multi_turn_base"):
            dialogue = start(entry, apis)
            while dialogue.ended is None:
                dialogue = advance(dialogue, answer(dialogue.messages, dialogue.tools))
            verdict(dialogue)

`check` judges calls that are already decoded. `MINI` is a small source that comes along.
"""

from pathlib import Path

from star_jax.evals.bfcl.multi_turn.checking import check
from star_jax.evals.bfcl.multi_turn.classes import Source, documents, find
from star_jax.evals.bfcl.multi_turn.entries import CATEGORIES, entries
from star_jax.evals.bfcl.multi_turn.loop import (
    Dialogue,
    advance,
    give_up,
    resume,
    start,
    verdict,
)
from star_jax.evals.bfcl.multi_turn.sandbox import Sandbox

MINI = Path(__file__).parent / "mini"

__all__ = [
    "CATEGORIES",
    "MINI",
    "Dialogue",
    "Sandbox",
    "Source",
    "advance",
    "check",
    "documents",
    "entries",
    "find",
    "give_up",
    "resume",
    "start",
    "verdict",
]
