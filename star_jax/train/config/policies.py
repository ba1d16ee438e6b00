"""Reinforcement learning: rollouts, rewards, filters, the policy's loss, and `Rl`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from star_jax.train import policy
from star_jax.train.config.bounds import above, at_least
from star_jax.train.config.distilling import Objective
from star_jax.train.config.shared import Data, Dtype, Mesh, Optimizer, Schedule, Training

PolicyPreset = Literal[
    "star", "star_code", "star_paper", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "luffy"
]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What the policy is asked between updates, and how it answers."""

    prompts: int = 128  # groups that one rollout trains on
    samples: int = 8  # answers to each prompt
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    slots: int = 64  # samples that are decoded at once
    epochs: int = 1  # times that a rollout's samples are learnt from
    most_batches: int = 20  # batches of prompts that one rollout may ask before it gives up
    stalled: int = 5  # rollouts in which a reward has not moved, until that is said
    gap_limit: float = 0.3  # mean distance of the sampler's log-probs to the trainer's, in nats
    own_share: float = 1.0  # of the prompts, those that the policy answers; GKD's λ
    parts: int = 1  # in which prompts are asked: rewards of one overlap with the next one's answers
    guide: bool = False  # a group's last answer is the row's own target, as LUFFY has it
    allow_collapse: bool = False  # go on where the policy has stopped calling tools

    def __post_init__(self) -> None:
        for name in (
            "prompts",
            "samples",
            "max_new_tokens",
            "slots",
            "epochs",
            "most_batches",
            "parts",
            "stalled",
        ):
            at_least(f"rollout.{name}", getattr(self, name), 1)
        above("rollout.temperature", self.temperature, 0)
        above("rollout.gap_limit", self.gap_limit, 0)
        if not 0 <= self.own_share <= 1:
            raise ValueError(f"rollout.own_share: is {self.own_share}: give 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Reward:
    """What an answer is worth."""

    function: str = "simrl"  # simrl, binary, toolrl, swirl, or the dotted path of your own
    compat: Literal["star"] | None = None  # star: the published code's numbers, bit for bit
    judge: str | None = None  # of swirl: the dotted path of what judges a step
    reply_for_call: Literal["zero", "invalid"] = "zero"  # zero: the paper's; invalid: -1

    def __post_init__(self) -> None:
        if (self.function == "swirl") != (self.judge is not None):
            raise ValueError(
                f"reward.judge: is {self.judge}, reward.function is {self.function}: swirl needs "
                "a judge, and nothing else takes one"
            )


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which groups are learnt from."""

    rule: Literal["all", "spread", "code", "paper"] = "code"  # code: STAR's; all: none is dropped
    low: float = 0.01  # of code: the least mean of a group's answer scores
    high: float = 0.99
    min_spread: float = 0.0  # between a group's best and worst; more than this


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A preset, and what is to be different from it: null leaves it as the preset has it."""

    preset: PolicyPreset = "star"  # star, star_code, star_paper, grpo, dr_grpo, dapo, …
    weight: float = 1.0  # of the policy's loss; 0: distillation alone
    advantage: policy.AdvantageKind | None = None  # null: dr_grpo of dr_grpo and luffy
    kind: policy.Kind | None = None  # ppo, gspo, cispo or sapo
    clip_low: float | None = None  # the ratio is held above 1 - this
    clip_high: float | None = None  # and below 1 + this
    dual_clip: float | None = None  # where the advantage is negative, the most loss per its size
    per: policy.Per | None = None  # token, sequence, fixed or micro: how tokens count
    length: float | None = None  # of fixed: the tokens that a sequence is divided by
    kl_weight: float | None = None  # of the KL to the model that training began with
    kl_in: Literal["loss", "reward"] = "loss"  # where that KL counts
    kl_estimator: policy.Estimator | None = None  # k1, k2, k3, abs or k3+
    kl_clamp: float | None = None  # nats that no token's KL exceeds
    entropy_weight: float | None = None  # nats of entropy are worth this much loss
    importance: policy.Mode | None = None  # sampler → trainer
    guide_gamma: float | None = None  # γ of π / (π + γ) at a guide's tokens
    learn_unfinished: bool = True  # answers that ran into max_new_tokens too, as STAR does

    @property
    def advantages(self) -> policy.AdvantageKind:
        is_plain = self.preset in ("dr_grpo", "luffy")
        return self.advantage or ("dr_grpo" if is_plain else "group_norm")

    def build(self, max_new_tokens: int) -> policy.Objective:
        """The objective of arrays; a ValueError says what does not go together."""
        apart = (
            *("preset", "weight", "advantage", "clip_low", "clip_high"),
            *("kl_in", "learn_unfinished"),
        )
        given: dict[str, Any] = {
            name: value
            for name, value in vars(self).items()
            if name not in apart and value is not None
        }
        made: dict[str, Any] = {**_policy_preset(self.preset, max_new_tokens), **given}
        bounds = made.get("clip", (0.2, 0.2))
        if bounds is not None or self.clip_low is not None or self.clip_high is not None:
            low, high = bounds or (1.0, float("inf"))  # no bounds at all
            low = low if self.clip_low is None else self.clip_low
            high = high if self.clip_high is None else self.clip_high
            made["clip"] = (low, high)
        return policy.Objective(**made)

    def __post_init__(self) -> None:
        at_least("policy.weight", self.weight, 0)


def _policy_preset(name: PolicyPreset, max_new_tokens: int) -> dict[str, Any]:
    presets = policy.presets
    match name:
        case "star":
            return {**presets.star(), "per": "token"}  # however a batch is cut
        case "star_code":
            return presets.star()
        case "star_paper":
            return presets.star_paper()
        case "grpo":
            return presets.grpo()
        case "dr_grpo":
            return presets.dr_grpo(max_new_tokens)
        case "dapo":
            return presets.dapo()
        case "gspo":
            return presets.gspo()
        case "cispo":
            return presets.cispo()
        case "luffy":
            return presets.luffy(max_new_tokens)


@dataclass(frozen=True, kw_only=True)
class RlData(Data):
    max_tokens: int = 5632  # tokens of a prompt and its answer, and of a packed row


@dataclass(frozen=True, kw_only=True)
class RlOptimizer(Optimizer):
    learning_rate: float = 3e-7  # AdamW's, at its peak
    weight_decay: float = 0.0  # of matrices, times the learning rate, a step


@dataclass(frozen=True, kw_only=True)
class RlSchedule(Schedule):
    epochs: float = 3.0  # passes over the prompts


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A teacher beside the policy's loss; without a model, none."""

    model: str | None = None  # folder of a live teacher
    weight: float = 1.0  # of the objective at the policy's own tokens: on-policy distillation
    label_weight: float | None = None  # at tokens of rows' targets; null: as weight
    dtype: Dtype = "bfloat16"  # of the teacher's parameters and computation
    mesh: Mesh = field(default_factory=Mesh)  # the teacher's, over the same devices

    def __post_init__(self) -> None:
        at_least("teacher.weight", self.weight, 0)
        at_least("teacher.label_weight", self.label_weight, 0)

    @property
    def weights(self) -> tuple[float, float]:
        """At own tokens, at targets'."""
        return self.weight, self.weight if self.label_weight is None else self.label_weight


@dataclass(frozen=True, kw_only=True)
class Rl(Training):
    """Sim-RL: the policy answers, a graded reward judges, groups are compared."""

    data: RlData
    optimizer: RlOptimizer = field(default_factory=RlOptimizer)
    schedule: RlSchedule = field(default_factory=RlSchedule)
    rollout: Rollout = field(default_factory=Rollout)
    reward: Reward = field(default_factory=Reward)
    filter: Filter = field(default_factory=Filter)
    policy: Policy = field(default_factory=Policy)
    teacher: Beside = field(default_factory=Beside)
    objective: Objective = field(default_factory=Objective)

    @property
    def reference_weight(self) -> float:
        """Of the KL to the model that training began with."""
        return self.policy.build(self.rollout.max_new_tokens).kl_weight

    @property
    def has_labels(self) -> bool:
        """Whether rows' own targets are among the answers."""
        return self.rollout.guide or self.rollout.own_share < 1

    def __post_init__(self) -> None:
        super().__post_init__()
        room = self.data.max_tokens - self.rollout.max_new_tokens
        if room < 1:
            raise ValueError(
                f"rollout.max_new_tokens: is {self.rollout.max_new_tokens}, a row has "
                f"{self.data.max_tokens} tokens: raise data.max_tokens"
            )
        if self.data.max_targets is not None:
            raise ValueError(
                "data.max_targets: answers end at rollout.max_new_tokens: leave it out"
            )
        try:
            self.policy.build(self.rollout.max_new_tokens)
        except ValueError as error:
            raise ValueError(f"policy: {error}") from error
        try:
            self.objective.build()
        except ValueError as error:
            raise ValueError(f"objective: {error}") from error
        if self.policy.weight == 0 and self.teacher.model is None:
            raise ValueError(
                "policy.weight: is 0 and there is no teacher.model: nothing would be learnt"
            )
        if self.rollout.guide and self.rollout.samples < 2:
            raise ValueError(
                f"rollout.samples: is {self.rollout.samples}: a guide needs one of the policy's "
                "own beside it: give 2 or more"
            )
        if self.objective.part != "all":
            raise ValueError(
                f"objective.part: is {self.objective.part}: rl learns whole answers: leave it out"
            )
        if self.batch.mean != "tokens":
            raise ValueError(
                f"batch.mean: is {self.batch.mean}: RL goes by policy.per: leave it out"
            )
