"""Published objectives, as keywords of `Objective` or of `policy.loss`.

Where a paper and its code disagree, each has a preset or a switch, and the docstring says so. The
advantages that belong to one stand in its docstring, too.
"""

from __future__ import annotations

from typing import Any

Keywords = dict[str, Any]


def star() -> Keywords:
    """Sim-RL as STAR's code trains it: k2, the token mean of each micro-batch.
    Advantages group_norm."""
    return {"clip": (0.2, 0.2), "per": "micro", "kl_weight": 1e-3, "kl_estimator": "k2"}


def star_paper(kl_weight: float = 1e-3) -> Keywords:
    """Sim-RL as STAR's paper writes it: 1/|o| per sequence. It does not name the KL's estimator:
    k2, as in its code. Advantages group_norm."""
    return {
        "clip": (0.2, 0.2),
        "per": "sequence",
        "kl_weight": kl_weight,
        "kl_estimator": "k2",
    }


def grpo(kl_weight: float = 0.04) -> Keywords:
    """GRPO's paper: mean of sequences' means, k3 in the loss. Advantages group_norm."""
    return {
        "clip": (0.2, 0.2),
        "per": "sequence",
        "kl_weight": kl_weight,
        "kl_estimator": "k3",
        "kl_clamp": None,
    }


def dr_grpo(length: float) -> Keywords:
    """Dr. GRPO's paper: a constant in place of every length. Advantages dr_grpo.

    OpenRLHF only takes the advantages and leaves the loss a token mean; TRL only the loss."""
    return {"clip": (0.2, 0.2), "per": "fixed", "length": length}


def dapo() -> Keywords:
    """DAPO: clip-higher and the token mean of the whole batch, no KL. Advantages group_norm."""
    return {"clip": (0.2, 0.28), "per": "token"}


def gspo() -> Keywords:
    """GSPO: one ratio per sequence, and a range that fits it. Advantages group_norm."""
    return {"kind": "gspo", "clip": (3e-4, 4e-4), "per": "sequence"}


def cispo(above: float = 4.0, below: float = 1.0) -> Keywords:
    """CISPO: the ratio as a weight, bounded from above alone. `below` 1 is no bound, as in TRL;
    verl and NeMo bound both sides (.28, .2). Advantages group_norm."""
    return {"kind": "cispo", "clip": (below, above), "per": "token"}


def luffy(length: float) -> Keywords:
    """LUFFY as its script trains it: no clip, a guide's tokens shaped, Σ over all of a micro-batch
    divided by a constant: pass `sequences=1` with it. Advantages dr_grpo."""
    return {
        "clip": None,
        "per": "fixed",
        "length": length,
        "guide_gamma": 0.1,
        "entropy_weight": 1e-3,
    }
