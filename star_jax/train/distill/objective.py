"""A distillation objective: student logits and a teacher at N positions → a loss at each of them.

    loss = ratio · (divergence(p, q on a support, tail closed) + λ · mistakes) + (1-ratio) · CE

An `Objective` is a frozen bag of scalars: hashable, so that it can be a static argument of whatever
cuts the positions into chunks. Everything that can be refused is refused when it is built, or when
it meets a teacher that cannot answer it; both happen before anything is computed.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from star_jax.train.distill import check, divergence
from star_jax.train.distill.support import (
    Pair,
    as_draws,
    close,
    log_mass,
    mistake_mass,
    on_draws,
    on_ids,
    on_list,
    on_union,
    on_vocabulary,
    reverse_outside,
)
from star_jax.train.distill.teacher import (
    Dense,
    Drawn,
    Softmax,
    Teacher,
    TopK,
    best,
    contains,
    draw,
    logp_of,
    normalise,
    shorten,
    truncate,
)

Kind = Literal["fkl", "rkl", "mixed", "akl", "jsd", "rskd", "alter"]
Support = Literal["teacher", "student", "union", "vocabulary"]
Tail = Literal["penalise", "drop", "renormalise", "bucket", "zero"]
Losses = tuple[Float[Array, " N"], dict[str, Float[Array, " N"]]]


class DroppedTailWarning(UserWarning):
    """Reverse KL over a part of the vocabulary, with nothing to hold the rest down."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    kind: Kind = "fkl"
    support: Support = "teacher"
    tail: Tail = "penalise"
    top_k: int = 100  # the teacher's best tokens; of "rskd" the draws per position
    student_top_m: int = 100  # the student's best tokens: its support, its mistakes
    tail_weight: float = 10.0  # λ of tail "penalise": nats per unit of mistake mass
    kd_ratio: float = 1.0  # share of distillation; the rest is cross-entropy with the labels
    temperature: float = 1.0  # divides both sides' logits; the loss is not multiplied by its square
    beta: float = 0.5  # weight of the teacher in the mixture of "jsd"
    forward_weight: float = 0.5  # share of forward KL in "mixed"
    boundary: divergence.Boundary = "star"  # of "akl": who owns the token that crosses head_mass
    head_mass: float = 0.5  # of "akl": the teacher's mass that is its head
    weight_grad: bool = True  # of "akl": differentiate the two weights, as STAR's patch does
    clamp: bool = False  # no position's divergence below 0, as verl does
    logp_floor: float | None = None  # no log-prob of either side below it, as verl's option does
    approximate: bool = False  # top-k by jax.lax.approx_max_k: TPUs are faster at it

    def __post_init__(self) -> None:
        names = {"kind": Kind, "support": Support, "tail": Tail, "boundary": divergence.Boundary}
        check.names(self, names)
        check.numbers(self)
        check.combinations(self)
        if self._drops_tail_of_reverse():
            warnings.warn(
                f"{self.kind} over support {self.support!r} with the tail dropped can collapse: "
                "the gradient on the logit of a token j outside the support is -q_j·S, with "
                "S = Σ q_i (log(q_i/p_i) + 1) over the support, so wherever S > 0 descent raises "
                "the whole tail. Give the tail something to answer to: tail='bucket', "
                "tail='renormalise', tail='penalise' with tail_weight > 0, or "
                "support='vocabulary'.",
                DroppedTailWarning,
                stacklevel=3,
            )

    def __call__(self, student_logits_NV: Float[Array, "N V"], known: Teacher) -> Losses:
        check.meeting(self, student_logits_NV, known)
        known = jax.tree.map(lambda x: jax.lax.stop_gradient(jnp.asarray(x)), known)
        student = normalise(student_logits_NV, self.temperature)
        own_NM = None
        if self._penalises or self.support in ("student", "union"):
            own_NM = best(student, self.student_top_m, self.approximate)
        listed = self._list(known)
        pair = self._pair(student, known, listed, own_NM)
        kd_N = self._diverge(student, pair)
        metrics = {
            "distill/divergence_nats": kd_N,
            "distill/student_mass": jnp.exp(log_mass(pair.logq_NE)),
        }
        # A stored list says how much of the teacher it holds at temperature 1 alone.
        if self.temperature == 1 or not isinstance(known, TopK):
            metrics["distill/teacher_mass"] = jnp.exp(log_mass(pair.logp_NE))
        if self.clamp:
            kd_N = jnp.where(kd_N < 0, 0, kd_N)
        if listed is not None and own_NM is not None:
            trusted_NC = jnp.where(jnp.isfinite(listed.logp_NC), listed.ids_NC, -1)
            shared_NM = contains(trusted_NC, own_NM)
            metrics["distill/overlap"] = jnp.mean(shared_NM, axis=1, dtype=kd_N.dtype)
            if self._penalises:
                mistake_N = mistake_mass(student, trusted_NC, own_NM)
                metrics["distill/mistake_mass"] = mistake_N
                kd_N = kd_N + self.tail_weight * mistake_N
        if (label_logp_N := _teacher_label_logp(known)) is not None:
            metrics["distill/teacher_nll_nats"] = -label_logp_N
        if known.label_N is not None:
            # The labels are text, not a teacher: their cross-entropy knows no temperature.
            at_one = student if self.temperature == 1 else normalise(student_logits_NV)
            kd_N = self._mix(kd_N, at_one, known.label_N, metrics)
        return kd_N, jax.lax.stop_gradient(metrics)

    @property
    def _penalises(self) -> bool:
        return self.tail == "penalise" and self.tail_weight > 0

    @property
    def _lists(self) -> bool:
        return self.kind != "rskd" and self.support in ("teacher", "union")

    def _drops_tail_of_reverse(self) -> bool:
        reverse = (
            self.kind == "rkl"
            or (self.kind == "jsd" and self.beta == 1.0)
            or (self.kind == "mixed" and self.forward_weight == 0.0)
        )
        open_ = self.tail == "drop" or (self.tail == "penalise" and not self._penalises)
        return reverse and open_ and self.support != "vocabulary"

    def _list(self, known: Teacher) -> TopK | None:
        """The teacher's best tokens, where anything asks for them."""
        match known:
            case TopK():
                wide_NC = known.logp_NC.astype(jnp.promote_types(known.logp_NC.dtype, jnp.float32))
                cut = shorten(known._replace(logp_NC=wide_NC), self.top_k)
                # Exact because only tail "renormalise" comes here with another temperature.
                return cut._replace(logp_NC=cut.logp_NC / self.temperature)
            case Dense() if self._penalises or self._lists:
                cut = truncate(known, self.top_k, self.temperature, self.approximate)
                # The bucket takes what this list leaves of 1, by the rule that the student's does.
                return cut._replace(tail_logp_N=None)
            case _:
                return None

    def _pair(
        self, student: Softmax, known: Teacher, listed: TopK | None, own_NM: Array | None
    ) -> Pair:
        match known:
            case Drawn():
                return on_draws(known, student)
            case Dense(seed_N=seed_N, count_NV=None) if self.kind == "rskd":
                drawn = draw(seed_N, known.logits_NV, self.top_k, self.temperature)
                return on_draws(drawn, student)
            case Dense() if self.kind == "rskd":
                return on_draws(as_draws(known), student)
            case Dense() if self.support != "teacher":
                whole = normalise(known.logits_NV, self.temperature)
                return self._beyond_list(student, whole, listed, own_NM)
        assert listed is not None
        return on_list(listed, student)

    def _beyond_list(
        self, student: Softmax, whole: Softmax, listed: TopK | None, own_NM: Array | None
    ) -> Pair:
        if self.support == "vocabulary":
            return on_vocabulary(whole, student)
        assert own_NM is not None
        if self.support == "student":
            return on_ids(whole, student, own_NM)
        assert listed is not None
        return on_union(whole, student, listed.ids_NC, own_NM)

    def _diverge(self, student: Softmax, pair: Pair) -> Float[Array, " N"]:
        closing = "drop" if self.tail == "penalise" else self.tail
        logp_NF, logq_NF = close(pair, closing)
        if self.logp_floor is not None:
            logp_NF = jnp.maximum(logp_NF, self.logp_floor)
            logq_NF = jnp.maximum(logq_NF, self.logp_floor)
        match self.kind:
            # STAR's `alter` scatters the list into zeros and calls kl_div: forward KL by a detour.
            case "fkl" | "alter" | "rskd":
                return divergence.forward(logp_NF, logq_NF)
            case "rkl":
                return self._reverse(student, pair, logp_NF, logq_NF)
            case "mixed":
                forward_N = divergence.forward(logp_NF, logq_NF)
                reverse_N = self._reverse(student, pair, logp_NF, logq_NF)
                return self.forward_weight * forward_N + (1 - self.forward_weight) * reverse_N
            case "akl":
                return divergence.adaptive(
                    logp_NF, logq_NF, self.boundary, self.head_mass, self.weight_grad
                )
            case "jsd":
                return divergence.jensen_shannon(logp_NF, logq_NF, self.beta)

    def _reverse(
        self, student: Softmax, pair: Pair, logp_NF: Array, logq_NF: Array
    ) -> Float[Array, " N"]:
        reverse_N = divergence.reverse(logp_NF, logq_NF)
        if self.tail == "zero":
            assert pair.ids_NE is not None
            reverse_N = reverse_N + reverse_outside(student, pair.ids_NE)
        return reverse_N

    def _mix(
        self,
        kd_N: Float[Array, " N"],
        student: Softmax,
        label_N: Int[Array, " N"],
        metrics: dict[str, Float[Array, " N"]],
    ) -> Float[Array, " N"]:
        ce_N = -logp_of(student, label_N[:, None])[:, 0]
        metrics["distill/cross_entropy_nats"] = ce_N
        if self.kd_ratio == 1.0:
            return kd_N
        return self.kd_ratio * kd_N + (1 - self.kd_ratio) * ce_N


def _teacher_label_logp(known: Teacher) -> Float[Array, " N"] | None:
    """The teacher's own log-prob of the token that was there, at temperature 1."""
    match known:
        case TopK(label_logp_N=label_logp_N):
            return label_logp_N
        case Dense(label_N=label_N) if label_N is not None:
            return logp_of(normalise(known.logits_NV), label_N[:, None])[:, 0]
        case _:
            return None
