"""What a run would do, before it does it: nothing is read but what is small, nothing is written.

    lines(task) → the resolved configuration, parameters, data, steps, programs, peak memory by term

The peak of a device is what the compiled program says of itself: its arguments, by term, and the
room that it asks for beside them. A live teacher's program runs between steps, so its own room does
not add to the step's; its parameters do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from star_jax.data.feed import Shape
from star_jax.models import layout
from star_jax.train import config as configs
from star_jax.train import fit, flags, loss, place, setup
from star_jax.train import state as states
from star_jax.train.feeding import Feeder
from star_jax.train.fit import Task
from star_jax.train.teaching import Live

GIB = 2**30


def lines(task: Task) -> Iterator[str]:
    run = task.run
    yield f"# python -m star_jax.train {task.loop}, resolved"
    yield flags.to_yaml(run.config).rstrip()
    yield ""
    yield f"devices      {run.mesh.size} × {jax.devices()[0].device_kind}, mesh {_mesh(run.mesh)}"
    yield f"parameters   {layout.count(run.model):,}{_trained(task)}"
    yield from _objective(run.config)
    yield from _data(task)
    yield from _programs(task)


def _mesh(mesh: Any) -> str:
    return " × ".join(f"{name} {size}" for name, size in mesh.shape.items())


def _trained(task: Task) -> str:
    count = _size(setup.trained(task.run))
    return (
        ""
        if task.run.config.lora.rank == 0
        else f" frozen, and {count:,} of adapters, which are trained"
    )


def _objective(config: configs.Training) -> Iterator[str]:
    """A preset with what was changed of it."""
    if isinstance(config, configs.Ckd):
        parts = vars(config.objective.build()) | {"part": config.objective.part}
        yield f"objective    {', '.join(f'{name} {value}' for name, value in parts.items())}"


def _size(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def _data(task: Task) -> Iterator[str]:
    rows = task.run.train
    tokens, targets = int(rows.examples.lengths.sum()), int(rows.examples.n_target.sum())
    yield f"data         {len(rows.examples):,} examples, {tokens:,} tokens, {targets:,} to learn"
    if task.run.eval is not None:
        held = task.run.eval.examples
        yield f"evaluation   {len(held):,} examples, {int(held.n_target.sum()):,} tokens to predict"
    yield f"steps        {rows.feed.steps:,} of {rows.feed.batch} examples"


def _programs(task: Task) -> Iterator[str]:
    """The compile plan, and the memory of the program that needs most."""
    run = task.run
    with jax.set_mesh(run.mesh), Feeder(run.train, run.mesh, task.source) as feeder:
        state = states.abstract(setup.trained(run), run.optimizer)
        seed = place.abstract_number(run.mesh, np.uint32)
        fixed = loss.Fixed(setup.frozen(run), task.source.head, seed)
        programs, peaks = fit.programs(task), []
        teacher = task.source.model.params if isinstance(task.source, Live) else None
        yield "programs     a step's shapes: micro-batches × rows × tokens, loss positions a row"
        for shape, count in feeder.shapes().items():
            batch = feeder.abstract(shape)
            compiled = programs.compile(state, batch, fixed, shape.targets)
            peaks.append((_terms(compiled, state, fixed, teacher), shape))
            yield f"             {_named(shape)}: {count:,} steps"
        terms, shape = max(peaks, key=lambda peak: sum(peak[0].values()))
        yield f"memory       of one device, in the program {_named(shape)}"
        for name, size in terms.items():
            yield f"             {name:<28} {size:>16,} bytes  {size / GIB:8.3f} GiB"
        total = sum(terms.values())
        yield f"             {'peak':<28} {total:>16,} bytes  {total / GIB:8.3f} GiB"


def _named(shape: Shape) -> str:
    return f"{shape.micro} × {shape.rows} × {shape.tokens}, {shape.targets}"


def _terms(compiled: Any, state: Any, fixed: loss.Fixed, teacher: Any) -> dict[str, int]:
    """Arguments by what they are, then what the program makes beside them."""
    room = compiled.memory_analysis()
    arguments = {
        "trained parameters": _bytes(state.params),
        "optimizer": _bytes(state.opt_state),
        "frozen parameters": _bytes(fixed.base),
        "teacher's head, for the step": _bytes(fixed.teacher_head_VD),
    }
    terms = {
        **arguments,
        "batch": int(room.argument_size_in_bytes) - sum(arguments.values()),
        "teacher's parameters": _bytes(teacher),  # no argument: another program's, and still there
        "gradients and activations": int(room.temp_size_in_bytes),
        "results not in place": int(room.output_size_in_bytes - room.alias_size_in_bytes),
        "the program itself": int(room.generated_code_size_in_bytes),
    }
    return {name: size for name, size in terms.items() if size > 0}


def _bytes(tree: Any) -> int:
    """Of what one device holds."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )
