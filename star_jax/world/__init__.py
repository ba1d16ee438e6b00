"""The embedded world: tool-calling conversations without end, made rather than collected.

    rows("train", seed=0, count=1000) → {id, split, case, domain, messages, tools}, as data.read
    takes them; `row` gives any one of them alone; TOKENIZER is the folder of their tokenizer.

Small models can learn it within minutes: prompts are short, and everything that an answer needs
stands in its prompt. `docs/world.md` tells what is in it.
"""

from star_jax.world.generate import CASES, SPLITS, VERSION, Row, row, rows
from star_jax.world.tokenizer import ASSETS
from star_jax.world.tokenizer import FOLDER as TOKENIZER

MODELS = {name: ASSETS / name for name in ("student", "teacher")}

__all__ = ["CASES", "MODELS", "SPLITS", "TOKENIZER", "VERSION", "Row", "row", "rows"]
