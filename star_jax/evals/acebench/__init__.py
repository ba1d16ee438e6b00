"""ACEBench's Normal categories: the entries, the prompts, the verdicts and the averages.

    from star_jax.evals import acebench
    entries = acebench.read(root)                         # or acebench.MINI, the bundled miniature
    system_and_user = acebench.messages(entries[0])       # what the official harness asks
    verdict = acebench.check(text, entries[0])            # .valid .error_type .error .raises
    scores = acebench.aggregate({category: {id: valid}})  # .normal .atom .accuracy …

Verdicts are the official ones, also where those are odd; docs/evals-acebench.md lists how. The
standard library is enough for all of it, and nothing that a model wrote is ever run.
"""

from star_jax.evals.acebench.aggregate import Scores, aggregate
from star_jax.evals.acebench.check import check
from star_jax.evals.acebench.data import MINI, NORMAL, Entry, read
from star_jax.evals.acebench.prompt import Templates, messages, read_templates

__all__ = [
    "MINI",
    "NORMAL",
    "Entry",
    "Scores",
    "Templates",
    "aggregate",
    "check",
    "messages",
    "read",
    "read_templates",
]
