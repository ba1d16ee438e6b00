"""Preferences, a teacher's answers, and measuring: `Dpo`, `Teach` and `Measure`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from star_jax.train import preference
from star_jax.train.config.bounds import above, at_least
from star_jax.train.config.policies import Reward
from star_jax.train.config.shared import Dtype, Optimizer, Training


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
