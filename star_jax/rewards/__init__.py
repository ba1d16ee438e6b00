"""What a generation is worth: rewards that say why.

    from star_jax import rewards
    reward = rewards.simrl(generation, label, tools)      # .total .format .answer .why .parts

`generation` starts at its <think>, `label` is what should follow it, `tools` are the row's JSON
schemas. A malformed generation is a low reward with a reason; a malformed label is a ValueError.
The formulas, and where the default differs from the references, are in docs/rewards.md.
"""

from star_jax.rewards.binary import binary, valid
from star_jax.rewards.combine import Failure, Sample, Scores, Term, score
from star_jax.rewards.overlong import soft_overlong
from star_jax.rewards.pool import Pool
from star_jax.rewards.reward import Reward
from star_jax.rewards.simrl import simrl
from star_jax.rewards.swirl import Step, swirl, swirl_async
from star_jax.rewards.toolrl import toolrl

__all__ = [
    "Failure",
    "Pool",
    "Reward",
    "Sample",
    "Scores",
    "Step",
    "Term",
    "binary",
    "score",
    "simrl",
    "soft_overlong",
    "swirl",
    "swirl_async",
    "toolrl",
    "valid",
]
