"""What a configuration names, made ready: devices, tokenizer, examples, batches, model.

open(config, loop) → Run     nothing on a device yet; a user's mistakes are found here
start(run) → State, Fixed    parameters read or restored, each shard where it lies
"""

from __future__ import annotations

import abc
import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from star_jax import models
from star_jax.data import doctor, encode, template
from star_jax.data.encode import Examples, Tokenizer
from star_jax.data.feed import Feed, Shape
from star_jax.models import attention, hf, layout, lora, sharding, tensorfile
from star_jax.models.config import Qwen3Config
from star_jax.train import boards, loss, place, state
from star_jax.train import config as configs
from star_jax.train.config import Ckd, Training

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A file's examples as the doctor let them through, and the order they come in."""

    uncut: Examples  # as the file has them: a teacher's cache knows them by these
    examples: Examples
    kept: np.ndarray  # examples[i] is uncut[kept[i]], perhaps cut short
    feed: Feed

    @property
    def hash(self) -> str:
        made = hashlib.blake2b(digest_size=16)
        for array in (self.examples.ids, self.examples.start, self.examples.n_prompt):
            made.update(np.ascontiguousarray(array).tobytes())
        return made.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Student:
    """The model that is trained, and where it lies."""

    config: Training
    mesh: Mesh
    model: Qwen3Config


@dataclass(frozen=True, kw_only=True)
class Learner(Student, abc.ABC):
    """A student, what it reads with, and how it is optimized."""

    tokenizer: Tokenizer
    template_hash: str
    rate: Callable[[Any], Any]
    optimizer: optax.GradientTransformationExtraArgs

    @property
    def forward(self) -> loss.Forward:
        compute = self.config.compute
        return loss.Forward(
            config=self.model,
            dtype=hf.as_dtype(compute.dtype),
            backend=compute.attention,
            remat=compute.remat,
            chunk=compute.chunk,
            lora=self.config.lora.build(),
        )

    @property
    def output(self) -> Path:
        return Path(self.config.output)

    @property
    @abc.abstractmethod
    def hashes(self) -> dict[str, str | None]:
        """Of the rows that a run is about, by name: train_hash, eval_hash."""

    @property
    def last_step(self) -> int | None:
        """The step of the last checkpoint; None where only the run itself finds out."""
        return None


@dataclass(frozen=True, kw_only=True)
class Run(Learner):
    """One over rows that are known from the start."""

    train: Rows
    eval: Rows | None

    @property
    def hashes(self) -> dict[str, str | None]:
        return {
            "train_hash": self.train.hash,
            "eval_hash": None if self.eval is None else self.eval.hash,
        }

    @property
    def last_step(self) -> int | None:
        return self.train.feed.steps


def student(config: Training) -> tuple[Student, Tokenizer]:
    """The model's sizes and its tokenizer; ValueError where they or the mesh will not do."""
    mesh = make_mesh(config.compute.mesh, "compute.mesh")
    model = hf.read_config(Path(config.model))
    tokenizer = Tokenizer(config.model)
    if tokenizer.size > model.vocab_size:
        raise ValueError(
            f"{tokenizer.path}: has ids up to {tokenizer.size - 1}, the model beside it a "
            f"vocabulary of {model.vocab_size}: copy the model's own tokenizer"
        )
    if config.data.max_tokens > model.max_position_embeddings:
        raise ValueError(
            f"data.max_tokens: is {config.data.max_tokens}, the model was made for "
            f"{model.max_position_embeddings} positions: give at most that"
        )
    sharding.param_shardings(model, mesh)  # refuses what does not divide
    boards.check(wandb=config.log.wandb_project is not None)
    return Student(config=config, mesh=mesh, model=model), tokenizer


def optimized(config: Training, steps: int) -> dict[str, Any]:
    """`rate` and `optimizer` of a Learner that takes so many steps."""
    optimizer, schedule = config.optimizer, config.schedule
    rate = state.learning_rate(
        optimizer.learning_rate,
        steps,
        schedule=schedule.curve,
        warmup_share=schedule.warmup_share,
        final_share=schedule.final_share,
    )
    adamw = state.adamw(
        rate,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
    )
    return {"rate": rate, "optimizer": adamw}


Reading = Callable[[Training, Tokenizer, Mesh], tuple[Rows, Rows | None]]


def open(config: Training, reading: Reading | None = None) -> Run:
    """Read everything that is small, look at every row; ValueError where something is amiss."""
    made, tokenizer = student(config)
    train, evaluation = (reading or rows)(config, tokenizer, made.mesh)
    files = [train] if evaluation is None else [train, evaluation]
    check_attention(config, made.model, {shape for one in files for shape in one.feed.shapes()})
    return Run(
        config=config,
        mesh=made.mesh,
        model=made.model,
        tokenizer=tokenizer,
        template_hash=template.fingerprint(config.model),
        train=train,
        eval=evaluation,
        **optimized(config, train.feed.steps),
    )


def check_attention(config: Training, model: Qwen3Config, shapes: Iterable[Shape]) -> None:
    """ValueError where the backend that was asked for cannot take the rows as they will come."""
    backend, dtype = config.compute.attention, hf.as_dtype(config.compute.dtype)
    for shape in shapes:
        q_BTNH = (shape.rows, shape.tokens, model.num_heads, model.head_dim)
        try:
            attention.choose(backend, jax.ShapeDtypeStruct(q_BTNH, dtype))
        except ValueError as error:
            raise ValueError(f"compute.attention: {error}") from error


def make_mesh(sizes: configs.Mesh, name: str) -> Mesh:
    try:
        return models.make_mesh(sizes.data, sizes.fsdp, sizes.tensor)
    except ValueError as error:
        raise ValueError(f"{name}: {error}: choose other sizes") from error


def rows(config: Training, tokenizer: Tokenizer, mesh: Mesh) -> tuple[Rows, Rows | None]:
    """The examples to train and to evaluate on, after the doctor has seen them."""
    data, render = config.data, template.load(config.model)

    def read(path: str) -> Examples:
        return encode.examples(
            path, tokenizer, render, keep_reasoning=data.keep_reasoning, skip_bad=data.skip_bad
        )

    limits: dict[str, Any] = {"max_tokens": data.max_tokens, "max_targets": data.max_targets}
    part = config.objective.part if isinstance(config, Ckd) else "all"

    def look(uncut: Examples, evaluation: Examples | None) -> list[doctor.Finding]:
        found = doctor.examine(uncut, tokenizer, **limits, evaluation=evaluation)
        told = {(each.kind, each.line) for each in found}
        more = doctor.partless(uncut, tokenizer, part, **limits)
        return found + [each for each in more if (each.kind, each.line) not in told]

    def treat(uncut: Examples, found: list[doctor.Finding], is_eval: bool) -> Rows:
        # What allows something in the other file is not to be called idle in this one.
        idle = doctor.unused(found, data.allow)
        allow = [entry for entry in data.allow if entry not in idle]
        seen = doctor.treat(uncut, found, allow, **limits)
        made = feed_of(config, seen.examples, mesh, is_eval=is_eval)
        return Rows(uncut=uncut, examples=seen.examples, kept=seen.kept, feed=made)

    uncut_eval = read(data.eval) if data.eval is not None else None
    uncut = read(data.train)
    found = look(uncut, uncut_eval)
    found_eval = [] if uncut_eval is None else look(uncut_eval, None)
    for entry in doctor.unused([*found, *found_eval], data.allow):
        log.warning("data.allow %s: there is no such finding: remove it", entry)
    train = treat(uncut, found, is_eval=False)
    return train, None if uncut_eval is None else treat(uncut_eval, found_eval, is_eval=True)


def feed_of(config: Training, examples: Examples, mesh: Mesh, *, is_eval: bool) -> Feed:
    if len(examples) == 0:
        raise ValueError(f"{examples.path}: no row of it is left to use")
    epochs = 1.0 if is_eval else config.schedule.epochs
    if round(epochs * len(examples)) == 0:
        raise ValueError(
            f"schedule.epochs: {epochs} of {len(examples)} examples is less than one: give more"
        )
    batch, ways = config.batch, place.ways(mesh)
    examples_a_step = min(batch.examples, len(examples)) if is_eval else batch.examples
    # More rows than a step has examples would be computed for nothing.
    per_device = min(batch.rows_per_device, -(-examples_a_step // ways))
    return Feed(
        length=examples.lengths,
        n_target=examples.n_target,
        batch=examples_a_step,
        rows=per_device * ways,
        tokens=config.data.max_tokens,
        seed=config.seed,
        epochs=epochs,
        max_steps=None if is_eval else config.schedule.max_steps,
        packing=batch.packing,
        shuffle=not is_eval,
    )


def trained(run: Student) -> Any:
    """Shapes, dtypes and shardings of what is trained: float32 master weights, or adapters."""
    if (adapters := run.config.lora.build()) is not None:
        shapes = lora.abstract(run.model, adapters)
        at = lora.shardings(run.model, adapters, run.mesh)
    else:
        shapes = layout.abstract(run.model, jnp.float32)
        at = sharding.param_shardings(run.model, run.mesh)
    return placed(shapes, at)


def frozen(run: Student) -> Any:
    """The same of the parameters under adapters, which are kept as they compute; else None."""
    if run.config.lora.rank == 0:
        return None
    shapes = layout.abstract(run.model, hf.as_dtype(run.config.compute.dtype))
    return placed(shapes, sharding.param_shardings(run.model, run.mesh))


def placed(shapes: Any, at: Any) -> Any:
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, at
    )


def fresh(run: Learner) -> state.State:
    """The state before the first step."""
    if (adapters := run.config.lora.build()) is not None:
        key = jax.random.key(run.config.seed)
        params = lora.init(run.model, adapters, key, mesh=run.mesh)
    else:
        params = models.load(run.config.model, dtype="float32", mesh=run.mesh).params
    return state.init(params, run.optimizer)


def base(run: Student) -> Any:
    """The frozen parameters under adapters, read from the model's folder; else None."""
    if run.config.lora.rank == 0:
        return None
    return models.load(run.config.model, dtype=run.config.compute.dtype, mesh=run.mesh).params


def whole(run: Student, params: Any) -> Any:
    """The model that training has made: the parameters themselves, or adapters merged into the
    folder's, which are read anew, because what computes may have been rounded."""
    adapters = run.config.lora.build()
    if adapters is None:
        return params
    under = models.load(run.config.model, dtype="float32", mesh=run.mesh).params
    return lora.merge(run.model, under, params, adapters)


def stored_dtype(folder: str) -> Any:
    """The dtype that a model's folder stores its tensors in; float32 where it mixes them."""
    found = {entry.dtype for entry in hf.read_entries(Path(folder)).values()}
    return tensorfile.DTYPES[found.pop()] if len(found) == 1 else np.dtype(np.float32)
