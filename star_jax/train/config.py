"""Every knob of a run, in frozen dataclasses: YAML file = flags = these fields.

    load(Ckd, ["--config", "run.yaml", "--optimizer.learning_rate", "1e-5"]) → Ckd(...)

A flag goes over the file, the file over the default. A key that is not known, a value of another
kind and a missing one are refused in one sentence with its place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from star_jax.models import lora
from star_jax.models.attention import Backend
from star_jax.models.qwen3 import Remat
from star_jax.train import distill, policy, preference
from star_jax.train.distill import check, divergence, objective
from star_jax.train.state import Schedule as Curve
from star_jax.train.step import Mean

Dtype = Literal["bfloat16", "float32"]
Joining = Literal["auto", "on", "off"]
PolicyPreset = Literal[
    "star", "star_code", "star_paper", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "luffy"
]
Preset = Literal["star", "verl", "nemo", "trl_server", "sdft", "gkd"]


@dataclass(frozen=True, kw_only=True)
class Mesh:
    data: int = -1  # ways to split a batch; -1: all devices that the other axes leave
    fsdp: int = 1  # ways to split batch and parameters
    tensor: int = 1  # ways to split heads, SwiGLU and vocabulary


@dataclass(frozen=True, kw_only=True)
class Data:
    train: str  # rows to learn from: .jsonl, .jsonl.gz or .parquet
    eval: str | None = None  # rows to evaluate on while training
    max_tokens: int = 2048  # tokens of a row: of one example, and of a packed row
    max_targets: int | None = None  # target tokens of an example; STAR cuts at 512
    keep_reasoning: bool = True  # learn the reasoning_content of conversations too
    skip_bad: int = 0  # bad rows that are left out instead of refused
    allow: tuple[str, ...] = ()  # findings of the doctor to accept: KIND, or KIND:ROW_ID

    def __post_init__(self) -> None:
        at_least("data.max_tokens", self.max_tokens, 2)
        at_least("data.max_targets", self.max_targets, 1)
        if self.max_targets is not None and self.max_targets > self.max_tokens:
            raise ValueError(
                f"data.max_targets: is {self.max_targets}, a row has {self.max_tokens} tokens: "
                "give less, or leave it out"
            )
        at_least("data.skip_bad", self.skip_bad, 0)


@dataclass(frozen=True, kw_only=True)
class Batch:
    examples: int = 128  # examples of one step, over all devices
    rows_per_device: int = 4  # rows of a micro-batch on each device of data × fsdp
    packing: bool = True  # several examples a row
    mean: Mean = "tokens"  # tokens: of the whole batch; micro: STAR's, of each micro-batch

    def __post_init__(self) -> None:
        at_least("batch.examples", self.examples, 1)
        at_least("batch.rows_per_device", self.rows_per_device, 1)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float = 3e-6  # AdamW's, at its peak
    beta1: float = 0.9  # decay of the mean of gradients, a step
    beta2: float = 0.95  # decay of the mean of their squares, a step
    eps: float = 1e-8  # added to the root of the squares
    weight_decay: float = 1e-4  # of matrices, times the learning rate, a step
    clip_norm: float | None = 1.0  # longest gradient; null: any

    def __post_init__(self) -> None:
        above("optimizer.learning_rate", self.learning_rate, 0)
        above("optimizer.eps", self.eps, 0)
        above("optimizer.clip_norm", self.clip_norm, 0)
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        share("optimizer.beta1", self.beta1)
        share("optimizer.beta2", self.beta2)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    epochs: float = 1.0  # passes over the data
    max_steps: int | None = None  # end here even if epochs are left
    curve: Curve = "cosine"  # of the learning rate after its rise: cosine, linear or constant
    warmup_share: float = 0.03  # part of the steps in which the rate rises from 0
    final_share: float = 0.1  # part of the rate that is left at the end

    def __post_init__(self) -> None:
        above("schedule.epochs", self.epochs, 0)
        at_least("schedule.max_steps", self.max_steps, 1)
        share("schedule.warmup_share", self.warmup_share)
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"schedule.final_share: is {self.final_share}: give 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Compute:
    dtype: Dtype = "bfloat16"  # of the forward and backward pass; weights and sums are float32
    mesh: Mesh = field(default_factory=Mesh)  # the devices of the student
    remat: Remat = "block"  # what the backward pass computes again: none, dots or block
    attention: Backend = "auto"  # auto, xla, cudnn or splash
    chunk: int = 256  # loss positions whose logits a device holds at once
    cpu_devices: int = 1  # without accelerators: devices that the CPU is split into
    peak_flops: float | None = None  # of one device, for MFU; null: by the device's name
    debug_nans: bool = False  # where a loss is not finite, name the operation; slow

    def __post_init__(self) -> None:
        at_least("compute.chunk", self.chunk, 1)
        at_least("compute.cpu_devices", self.cpu_devices, 1)
        above("compute.peak_flops", self.peak_flops, 0)


@dataclass(frozen=True, kw_only=True)
class Adapters:
    rank: int = 0  # 0: train all parameters; else LoRA of this rank, merged on export
    alpha: float = 32.0  # the product of the two factors is scaled by alpha / rank
    targets: tuple[str, ...] = lora.TARGETS  # matrices of a layer that are adapted

    def __post_init__(self) -> None:
        at_least("lora.rank", self.rank, 0)
        if self.rank:
            self.build()

    def build(self) -> lora.Lora | None:
        if self.rank == 0:
            return None
        return lora.Lora(rank=self.rank, alpha=self.alpha, targets=self.targets)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every_steps: int = 200  # steps from one to the next; one more at the end
    keep_last: int = 2  # newest ones that stay
    keep_best: int = 1  # of the lowest evaluation loss that stay too

    def __post_init__(self) -> None:
        at_least("checkpoint.every_steps", self.every_steps, 1)
        at_least("checkpoint.keep_last", self.keep_last, 1)
        at_least("checkpoint.keep_best", self.keep_best, 0)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    every_steps: int = 200  # steps from one to the next; one more at the end

    def __post_init__(self) -> None:
        at_least("evaluation.every_steps", self.every_steps, 1)


@dataclass(frozen=True, kw_only=True)
class Log:
    tensorboard: bool = True  # event files in OUTPUT/tensorboard
    wandb_project: str | None = None  # send the numbers to this project; needs wandb
    bar: bool | None = None  # a progress bar; null: on a terminal only


@dataclass(frozen=True, kw_only=True)
class Distributed:
    mode: Joining = "auto"  # join other processes; auto: if told of any
    coordinator: str | None = None  # HOST:PORT of process 0
    processes: int | None = None  # how many there are
    process: int | None = None  # which one this is, from 0

    def __post_init__(self) -> None:
        at_least("distributed.processes", self.processes, 1)
        at_least("distributed.process", self.process, 0)
        given = (self.coordinator, self.processes, self.process)
        if any(x is not None for x in given) and None in given:
            raise ValueError(
                "distributed: coordinator, processes and process go together: give all or none"
            )


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every loop has."""

    model: str  # folder of the model to train, in Hugging Face format
    output: str  # folder of the run: config, metrics, checkpoints, and the trained model
    seed: int = 0  # of the order of the data, of adapters and of draws
    data: Data
    batch: Batch = field(default_factory=Batch)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    lora: Adapters = field(default_factory=Adapters)
    compute: Compute = field(default_factory=Compute)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    evaluation: Evaluation = field(default_factory=Evaluation)
    log: Log = field(default_factory=Log)
    distributed: Distributed = field(default_factory=Distributed)

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise ValueError(f"seed: is {self.seed}: give 0 to {2**32 - 1}")


@dataclass(frozen=True, kw_only=True)
class Sft(Training):
    """Cross-entropy with the targets of the rows."""


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


@dataclass(frozen=True, kw_only=True)
class DpoOptimizer(Optimizer):
    learning_rate: float = 5e-7  # AdamW's, at its peak
    weight_decay: float = 0.0  # of matrices, times the learning rate, a step


@dataclass(frozen=True, kw_only=True)
class Preference:
    kind: preference.Kind = "sigmoid"  # sigmoid (DPO) or ipo
    beta: float = 0.1  # how closely the model that training began with is kept to
    label_smoothing: float = 0.0  # share of pairs that are held to be the wrong way round
    sft_weight: float = 0.0  # of the chosen answer's cross-entropy, nats a token

    def build(self) -> preference.Objective:
        return preference.Objective(**vars(self))


@dataclass(frozen=True, kw_only=True)
class Dpo(Training):
    """Preference: a right answer over a wrong one to the same prompt."""

    optimizer: DpoOptimizer = field(default_factory=DpoOptimizer)
    preference: Preference = field(default_factory=Preference)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self.preference.build()
        except ValueError as error:
            raise ValueError(f"preference: {error}") from error
        if self.batch.mean != "tokens":
            raise ValueError(f"batch.mean: is {self.batch.mean}: dpo has a mean of pairs: leave it")
        if self.data.max_targets is not None:
            raise ValueError("data.max_targets: a cut answer is another one: leave it out")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a teacher answers."""

    samples: int = 8  # answers to each prompt
    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    slots: int = 64  # samples that are decoded at once

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "slots"):
            at_least(f"sampling.{name}", getattr(self, name), 1)
        at_least("sampling.temperature", self.temperature, 0)


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which answers a student shall learn from. Broken and unfinished ones are never kept."""

    rule: Literal["format", "reward", "label"] = "format"  # format: STAR's; label: right ones
    least_reward: float = 1.0  # of rule reward


@dataclass(frozen=True, kw_only=True)
class CacheOf:
    top_k: int = 0  # the teacher's best tokens to keep at every target; 0: no cache
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"  # of their log-probs


@dataclass(frozen=True, kw_only=True)
class TeachData:
    train: str  # rows whose prompts are asked: .jsonl, .jsonl.gz or .parquet
    max_tokens: int = 8192  # of a prompt and its answer
    skip_bad: int = 0  # bad rows that are left out instead of refused


@dataclass(frozen=True, kw_only=True)
class Teach:
    """A teacher answers every prompt; what a student shall learn from is kept."""

    model: str  # folder of the teacher, in Hugging Face format
    output: str  # folder for samples, kept rows, pairs, a report and perhaps a cache
    seed: int = 0  # of the draws
    dtype: Dtype = "bfloat16"  # of the teacher's parameters and computation
    cpu_devices: int = 1  # without accelerators: devices that the CPU is split into
    data: TeachData
    sampling: Sampling = field(default_factory=Sampling)
    reward: Reward = field(default_factory=Reward)
    keep: Keep = field(default_factory=Keep)
    cache: CacheOf = field(default_factory=CacheOf)

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        at_least("cpu_devices", self.cpu_devices, 1)
        if self.sampling.max_new_tokens >= self.data.max_tokens:
            raise ValueError(
                f"sampling.max_new_tokens: is {self.sampling.max_new_tokens}, prompt and answer "
                f"have {self.data.max_tokens} tokens: raise data.max_tokens"
            )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a model can do on files of rows."""

    model: str  # folder in Hugging Face format
    output: str  # folder for marks.json and answers.jsonl
    data: tuple[str, ...]  # files of rows, each NAME=FILE or FILE
    seed: int = 0  # of the samples
    dtype: Dtype = "bfloat16"  # of parameters and computation
    cpu_devices: int = 1  # without accelerators: devices that the CPU is split into
    max_tokens: int = 8192  # of a prompt and its answer
    max_new_tokens: int = 512
    samples: int = 8  # answers to each prompt for pass@k, beside the greedy one
    temperature: float = 1.0  # of these
    slots: int = 64  # samples that are decoded at once
    skip_bad: int = 0  # bad rows that are left out instead of refused
    reward: Reward = field(default_factory=Reward)

    def __post_init__(self) -> None:
        for name in ("samples", "max_new_tokens", "slots", "cpu_devices"):
            at_least(name, getattr(self, name), 1)
        above("temperature", self.temperature, 0)
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError(
                f"max_new_tokens: is {self.max_new_tokens}, prompt and answer have "
                f"{self.max_tokens} tokens: raise max_tokens"
            )
        if not self.data:
            raise ValueError("data: is empty: give files of rows")


def at_least(name: str, value: float | None, least: float) -> None:
    if value is not None and not value >= least:
        raise ValueError(f"{name}: is {value}: give {least} or more")


def above(name: str, value: float | None, bound: float) -> None:
    if value is not None and not bound < value < float("inf"):
        raise ValueError(f"{name}: is {value}: give a number above {bound}")


def share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}: is {value}: give 0 or more, below 1")
