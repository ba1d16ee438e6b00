"""Distillation: the teacher, the objective, and `Ckd`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from star_jax.train import distill
from star_jax.train.config.shared import Dtype, Mesh, Training
from star_jax.train.distill import check, divergence, objective

Preset = Literal["star", "verl", "nemo", "trl_server", "sdft", "gkd"]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    model: str | None = None  # folder of a live teacher
    cache: str | None = None  # folder that `python -m star_jax.data cache build` made
    eval_cache: str | None = None  # the same for the evaluation's rows
    dtype: Dtype = "bfloat16"  # of a live teacher's parameters and computation
    mesh: Mesh = field(default_factory=Mesh)  # a live teacher's, over the same devices

    def __post_init__(self) -> None:
        if self.model is None and self.cache is None:
            raise ValueError("teacher: is missing: give teacher.model or teacher.cache a folder")
        if self.cache is None and self.eval_cache is not None:
            raise ValueError(
                "teacher.eval_cache: a live teacher speaks of the evaluation's rows itself: leave "
                "it out, or give teacher.cache too"
            )


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A preset, and what is to be different from it: null leaves it as the preset has it."""

    preset: Preset = "star"  # whose loss: star, verl, nemo, trl_server, sdft or gkd
    kind: objective.Kind | None = None  # fkl, rkl, mixed, akl, jsd, rskd or alter
    support: objective.Support | None = None  # teacher, student, union or vocabulary
    tail: objective.Tail | None = None  # penalise, drop, renormalise, bucket or zero
    top_k: int | None = None  # the teacher's best tokens; of rskd the draws a position
    student_top_m: int | None = None  # the student's best tokens: its support, its mistakes
    tail_weight: float | None = None  # λ: nats per unit of mistake mass
    kd_ratio: float | None = None  # share of distillation; the rest is cross-entropy
    temperature: float | None = None  # divides both sides' logits
    beta: float | None = None  # the teacher's weight in the mixture of jsd
    forward_weight: float | None = None  # share of forward KL in mixed
    boundary: divergence.Boundary | None = None  # of akl: who owns the token at the boundary
    head_mass: float | None = None  # of akl: the teacher's mass that is its head
    weight_grad: bool | None = None  # of akl: differentiate the weights of its two parts
    clamp: bool | None = None  # no position's divergence below 0
    logp_floor: float | None = None  # no log-prob below it
    approximate: bool | None = None  # top-k by a cheaper reduction, on TPU
    part: distill.Part = "all"  # targets to learn: all, think, answer or alternating

    def build(self) -> distill.Objective:
        """The objective of arrays; a ValueError says what does not go together."""
        given: dict[str, Any] = {
            name: value
            for name, value in vars(self).items()
            if name not in ("preset", "part") and value is not None
        }
        return distill.Objective(**{**_preset(self.preset, self.kind), **given})


def _preset(name: Preset, kind: Any) -> dict[str, Any]:
    match name:
        case "star":
            return dict(distill.presets.star(kind or "fkl"))
        case "verl":
            return dict(distill.presets.verl())
        case "nemo":
            return dict(distill.presets.nemo(kind or "fkl"))
        case "trl_server":
            return dict(distill.presets.trl_server())
        case "sdft":
            return dict(distill.presets.sdft())
        case "gkd":
            return dict(distill.presets.gkd())


@dataclass(frozen=True, kw_only=True)
class Ckd(Training):
    """Distillation from a teacher that is live, or from its cache."""

    teacher: Teacher
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            built = self.objective.build()
        except ValueError as error:
            raise ValueError(f"objective: {error}") from error
        if self.teacher.eval_cache is not None and self.data.eval is None:
            raise ValueError("teacher.eval_cache: there is no data.eval: give one, or leave it out")
        if self.teacher.cache is not None:
            try:
                check.stored(built)
            except ValueError as error:
                raise ValueError(f"teacher.cache: {error}: give teacher.model instead") from error
