"""What an objective refuses, each time with the way out; nothing here computes."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

from jaxtyping import Array

from star_jax.train.distill.teacher import Dense, Drawn, Teacher, TopK

if TYPE_CHECKING:
    from star_jax.train.distill.objective import Objective


def names(objective: Objective, choices: dict[str, typing.Any]) -> None:
    """Every field with a closed set of names holds one of them."""
    for field, literal in choices.items():
        value, known = getattr(objective, field), typing.get_args(literal)
        if value not in known:
            raise ValueError(f"{field} must be one of {', '.join(known)}; got {value!r}")


def numbers(objective: Objective) -> None:
    for field in ("top_k", "student_top_m"):
        if getattr(objective, field) < 1:
            raise ValueError(f"{field} must be >= 1, got {getattr(objective, field)}")
    for field in ("kd_ratio", "beta", "forward_weight"):
        if not 0 <= getattr(objective, field) <= 1:
            raise ValueError(f"{field} must lie in [0, 1], got {getattr(objective, field)}")
    if not 0 < objective.head_mass < 1:
        raise ValueError(f"head_mass must lie in (0, 1), got {objective.head_mass}")
    if not objective.tail_weight >= 0:
        raise ValueError(f"tail_weight must be >= 0, got {objective.tail_weight}")
    if not objective.temperature > 0:
        raise ValueError(f"temperature must be > 0, got {objective.temperature}")
    if objective.logp_floor is not None and not objective.logp_floor < 0:
        raise ValueError(f"logp_floor must be < 0 or None, got {objective.logp_floor}")


def combinations(objective: Objective) -> None:
    kind, support, tail = objective.kind, objective.support, objective.tail
    if kind in ("alter", "rskd") and support != "teacher":
        raise ValueError(
            f"kind {kind!r} is defined over the teacher's own tokens: support must be 'teacher', "
            f"got {support!r}"
        )
    if kind == "rskd" and tail not in ("penalise", "drop"):
        raise ValueError(
            "kind 'rskd' leaves no teacher mass outside its draws: tail must be 'penalise' or "
            f"'drop', got {tail!r}"
        )
    if support == "vocabulary" and tail not in ("penalise", "drop"):
        raise ValueError(
            "support 'vocabulary' has no tail to renormalise or to put in a bucket: tail must be "
            f"'drop', or 'penalise' for the mistakes, got {tail!r}"
        )
    if tail == "zero" and (support != "teacher" or kind not in ("fkl", "rkl", "mixed")):
        raise ValueError(
            "tail 'zero' is defined for kinds fkl, rkl and mixed over support 'teacher'; got kind "
            f"{kind!r} over {support!r}"
        )


def meeting(objective: Objective, student_logits_NV: Array, known: Teacher) -> None:
    """Whether this teacher can answer this objective; shapes and presence only, so it costs
    nothing in a compiled program."""
    if student_logits_NV.ndim != 2:
        raise ValueError(f"student logits must be [N, V], got shape {student_logits_NV.shape}")
    match known:
        case Dense():
            _dense(objective, student_logits_NV, known)
        case TopK():
            _stored(objective, student_logits_NV.shape[1], known)
        case Drawn():
            _drawn(objective)
        case _:
            raise ValueError(f"a teacher is Dense, TopK or Drawn, got {type(known).__name__}")
    if objective.kd_ratio < 1 and known.label_N is None:
        raise ValueError(
            f"kd_ratio {objective.kd_ratio} mixes in cross-entropy, which needs labels: pass "
            "them, or set kd_ratio to 1"
        )


def _dense(objective: Objective, student_logits_NV: Array, known: Dense) -> None:
    ours, theirs = student_logits_NV.shape, known.logits_NV.shape
    if ours[-1] != theirs[-1]:
        raise ValueError(
            f"the student scores {ours[-1]} tokens and the teacher {theirs[-1]}: if the surplus is "
            "padding, cut the larger one's logits; else the two do not share a tokenizer"
        )
    if ours != theirs:
        raise ValueError(f"student logits are {ours} and teacher logits {theirs}")
    if objective.kind == "rskd" and (known.seed_N is None) == (known.count_NV is None):
        raise ValueError(
            "kind 'rskd' over dense logits needs either seeds (or a key) to draw with, or the "
            "counts that were drawn, and not both"
        )


def _stored(objective: Objective, V: int, known: TopK) -> None:
    C = known.ids_NC.shape[1]
    stored(objective)
    if min(objective.top_k, V) > C:
        raise ValueError(
            f"top_k is {objective.top_k} and the store holds {C} tokens per position: lower top_k, "
            "or build the store again"
        )


def stored(objective: Objective) -> None:
    """Whether a teacher's best tokens are all that an objective asks of it."""
    if objective.kind == "rskd":
        raise ValueError(
            "kind 'rskd' samples the whole teacher, of which a stored top-k is only a part: store "
            "the draws and pass Drawn, or use a live teacher"
        )
    if objective.support != "teacher":
        raise ValueError(
            f"support {objective.support!r} asks for teacher log-probs that a stored top-k lacks: "
            "use support 'teacher', or a live teacher"
        )
    if objective.temperature != 1 and objective.tail != "renormalise":
        raise ValueError(
            f"temperature {objective.temperature} needs the teacher's whole softmax, which a "
            "stored top-k lacks: use temperature 1, tail 'renormalise', or a live teacher"
        )


def _drawn(objective: Objective) -> None:
    if objective.kind != "rskd":
        raise ValueError(
            f"kind {objective.kind!r} needs the teacher's log-probs and got draws: use kind 'rskd'"
        )
    if objective.tail == "penalise" and objective.tail_weight > 0:
        raise ValueError(
            "tail 'penalise' holds the student to the teacher's top-k, which draws do not tell: "
            "use tail 'drop', or a live teacher"
        )
