"""What every loop is told: data, batches, optimizer, devices, checkpoints, logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from star_jax.models import lora
from star_jax.models.attention import Backend
from star_jax.models.qwen3 import Remat
from star_jax.train.config.bounds import above, at_least, share
from star_jax.train.state import Schedule as Curve
from star_jax.train.step import Mean

Dtype = Literal["bfloat16", "float32"]
Joining = Literal["auto", "on", "off"]


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
