"""The objectives of other projects, as keywords of `Objective` or of `distill.loss`.

Each gives the numbers that the project's own function gave on the same logits. Where a project has
a switch that changes the formula, so has its preset; what it does not set is left at our defaults.
"""

from __future__ import annotations

from typing import Any, Literal

Keywords = dict[str, Any]


def star(
    kind: Literal["fkl", "rkl", "akl", "alter", "rskd"] = "fkl",
    top_k: int = 100,
    student_top_m: int = 100,
    tail_weight: float = 10.0,
    kd_ratio: float = 1.0,
) -> Keywords:
    """Constrained distillation, with the settings of its training script.

    Its log-probs are those of the full softmax, never renormalised: a position's loss can be
    negative. Its sampled teacher only runs on the branch that knows no penalty.
    """
    return {
        "kind": kind,
        "support": "teacher",
        "tail": "drop" if kind == "rskd" else "penalise",
        "top_k": top_k,
        "student_top_m": student_top_m,
        "tail_weight": tail_weight,
        "kd_ratio": kd_ratio,
        "boundary": "star",
        "head_mass": 0.5,
        "weight_grad": True,
    }


def verl(top_k: int = 32, logp_floor: float | None = None) -> Keywords:
    """`forward_kl_topk`: STAR's sum, but no position below zero, and no gradient from there."""
    return {
        "kind": "fkl",
        "support": "teacher",
        "tail": "drop",
        "top_k": top_k,
        "clamp": True,
        "logp_floor": logp_floor,
    }


def nemo(
    kind: Literal["fkl", "rkl", "mixed"] = "fkl",
    top_k: int = 64,
    zero_outside: bool = False,
    forward_weight: float = 0.5,
) -> Keywords:
    """Both sides renormalised, or with `zero_outside_topk` the teacher's list held to be all."""
    return {
        "kind": kind,
        "support": "teacher",
        "tail": "zero" if zero_outside else "renormalise",
        "top_k": top_k,
        "forward_weight": forward_weight,
    }


def trl_server(beta: float = 0.0, top_k: int = 1, add_tail: bool = True) -> Keywords:
    """A teacher behind a server. Without the tail and with one token the loss is 0 everywhere."""
    return {
        "kind": "jsd",
        "beta": beta,
        "support": "teacher",
        "tail": "bucket" if add_tail else "renormalise",
        "top_k": top_k,
    }


def sdft(alpha: float = 0.0, top_k: int = 100, add_tail: bool = True) -> Keywords:
    """Self-distillation: the student's list, so the teacher has to be live."""
    return {
        "kind": "jsd",
        "beta": alpha,
        "support": "student",
        "tail": "bucket" if add_tail else "renormalise",
        "student_top_m": top_k,
    }


def gkd(beta: float = 0.5, temperature: float = 1.0) -> Keywords:
    """Generalised Jensen-Shannon over the whole vocabulary. TRL's GKD trainer leaves the
    temperature at 1; its stable distillation trainer sets it. Neither multiplies by its square."""
    return {
        "kind": "jsd",
        "beta": beta,
        "support": "vocabulary",
        "tail": "drop",
        "temperature": temperature,
    }
