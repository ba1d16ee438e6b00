"""BFCL, the Berkeley Function-Calling Leaderboard, v3 and v4: one turn.

    data.load → Entry     prompt.render → text     decode → calls     check → Verdict     aggregate

Nothing here needs more than the standard library, and nothing that a model wrote is run. Where the
official checker is odd, so is this; `docs/evals-bfcl.md` has the list.
"""

from star_jax.evals.bfcl.aggregate import Averages, aggregate, percent
from star_jax.evals.bfcl.categories import chosen
from star_jax.evals.bfcl.checking import check
from star_jax.evals.bfcl.decode import (
    Call,
    Failure,
    decode,
    decode_execute,
    decode_turn,
)
from star_jax.evals.bfcl.prompted import decode_prompted

__all__ = [
    "Averages",
    "Call",
    "Failure",
    "aggregate",
    "check",
    "chosen",
    "decode",
    "decode_execute",
    "decode_prompted",
    "decode_turn",
    "percent",
]
