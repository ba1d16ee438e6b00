"""Where a teacher's words come from: nobody, a cache, or a model that runs beside the student.

A `Source` adds to a step's batch what its teacher says of it:

    words(plan, rows)    on the host, in a background thread: arrays [M, rows, R, ...], or None
    ahead(plan)          there too: what `beside` wants of the host
    beside(batch, ...)   on the devices: the batch with a live teacher's hidden states in it
    head                 a live teacher's head, on the student's mesh
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from star_jax import models
from star_jax.data import cache, feed
from star_jax.data.encode import Tokenizer
from star_jax.data.feed import Plan, Shape
from star_jax.models import hf, layout, sharding
from star_jax.models.config import Qwen3Config
from star_jax.train import loss, place, processes, setup
from star_jax.train.config import Beside, Teacher
from star_jax.train.setup import Learner, Rows, Run
from star_jax.train.step import Programs, StepBatch

ROUNDING = 1e-2  # a log-prob of a token that is all but certain, rounded, may lie above 0


class Source(Protocol):
    @property
    def head(self) -> Any: ...
    def words(self, plan: Plan, part: slice) -> Any: ...
    def abstract(self, shape: Shape) -> Any: ...
    def compile(self, shape: Shape) -> int: ...
    def ahead(self, plan: Plan) -> Any: ...
    def beside(self, batch: StepBatch, plan: Plan, ahead: Any) -> StepBatch: ...


class Silent:
    """What most sources leave alone."""

    @property
    def head(self) -> Any:
        return None

    def words(self, plan: Plan, part: slice) -> Any:
        return None

    def abstract(self, shape: Shape) -> Any:
        """Shapes of what `words` or `beside` adds, for compiling ahead."""
        return None

    def compile(self, shape: Shape) -> int:
        """Compile ahead what `beside` runs for a shape; how many programs that makes."""
        return 0

    def ahead(self, plan: Plan) -> Any:
        return None

    def beside(self, batch: StepBatch, plan: Plan, ahead: Any) -> StepBatch:
        return batch


class Nobody(Silent):
    """Targets alone."""


class Cached(Silent):
    """A teacher's best tokens from a folder; every row of the data has to be in it."""

    def __init__(
        self, run: Run, rows: Rows, folder: str, *, top_k: int, teacher: str | None
    ) -> None:
        self._cache = cache.Cache(folder)
        if (held := self._cache.manifest.vocab_size) != run.model.vocab_size:
            raise ValueError(
                f"{folder}: its teacher has a vocabulary of {held}, the student one of "
                f"{run.model.vocab_size}: build a cache with a teacher of the student's"
            )
        self._cache.check(
            teacher=None if teacher is None else cache.teacher_hash(teacher),
            tokenizer=run.tokenizer.hash,
            template=run.template_hash,
            top_k=top_k,
        )
        # It knows whole examples. Where the doctor cut one, the first positions are what is left.
        self._place = self._cache.find(rows.uncut.take(rows.kept.tolist()))
        self._n_target = rows.examples.n_target
        self._row_ids = rows.examples.row_ids
        self._mesh = run.mesh

    @property
    def teacher(self) -> str:
        """The hash of whoever said it."""
        return self._cache.manifest.teacher_hash

    def words(self, plan: Plan, part: slice) -> loss.Stored:
        rows = len(range(plan.shape.rows)[part])
        made = self._zeros(plan.shape, rows)
        for m, row, first, count, index in feed.targets_of(plan, self._n_target, part):
            said = self._cache.read(int(self._place[index]), count)
            self._check(said, index)
            at = (m, row, slice(first, first + count))
            for array, values in zip(made, said, strict=True):
                array[at] = values
        return made

    def _check(self, said: cache.Read, index: int) -> None:
        """Flipped bits that make no ids and no log-probs; `cache verify` finds the others too."""
        V = self._cache.manifest.vocab_size
        logps = (said.logp_nC, said.label_logp_n)
        is_sound = said.ids_nC.min(initial=0) >= 0 and said.ids_nC.max(initial=0) < V
        if not is_sound or any(not (x.max(initial=-1.0) <= ROUNDING) for x in logps):
            raise ValueError(
                f"{self._cache.folder}: is damaged at row {self._row_ids[index]!r}: find the file "
                "with python -m star_jax.data cache verify, remove it and build it again"
            )

    def _zeros(self, shape: Shape, rows: int) -> loss.Stored:
        made = self._cache.manifest
        where = (shape.micro, rows, shape.targets)
        return loss.Stored(
            np.zeros((*where, made.top_k), np.int32),
            np.zeros((*where, made.top_k), hf.as_dtype(made.dtype)),
            np.zeros(where, np.float32),
            np.zeros(where, np.float32),
        )

    def abstract(self, shape: Shape) -> Any:
        placed = place.micro_sharding(self._mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
            self._zeros(shape, shape.rows),
        )


class Model:
    """A live teacher: parameters without gradients, on a mesh of its own over the same devices.

    With `load` false everything is there but the numbers, for a preview.
    """

    def __init__(self, run: Learner, teacher: Teacher | Beside, *, load: bool = True) -> None:
        assert teacher.model is not None
        self.mesh = setup.make_mesh(teacher.mesh, "teacher.mesh")
        self.config = hf.read_config(Path(teacher.model))
        self.dtype = hf.as_dtype(teacher.dtype)
        _check_pair(run, teacher.model, self.config)
        if load:
            self.params = models.load(teacher.model, dtype=self.dtype, mesh=self.mesh).params
        else:
            shapes = layout.abstract(self.config, self.dtype)
            at = sharding.param_shardings(self.config, self.mesh)
            self.params = setup.placed(shapes, at)
        processes.agree()  # one may have read for longer
        self.head = self._move_head(run.mesh, load)
        compute = run.config.compute
        forward = loss.Forward(
            config=self.config, dtype=self.dtype, backend=compute.attention, chunk=compute.chunk
        )
        self.programs = Programs(
            "teacher", functools.partial(loss.teacher_hidden, forward=forward), donate=False
        )

    def _move_head(self, mesh: Mesh, load: bool) -> Any:
        """The head lies as the student's would: it is used in the student's step."""
        row = layout.EMBED if self.config.tie_word_embeddings else layout.HEAD
        head_VD = layout.leaf(self.params, row)
        at = NamedSharding(mesh, sharding.spec(self.config, row, mesh))
        if not load:
            return jax.ShapeDtypeStruct(head_VD.shape, head_VD.dtype, sharding=at)
        return jax.device_put(head_VD, at)


class Live(Silent):
    """A live teacher's words on the rows of one file."""

    def __init__(self, run: Learner, rows: Rows, model: Model) -> None:
        self.model = model
        self._rows = rows
        self._student_mesh = run.mesh
        if rows.feed.rows % (ways := place.ways(model.mesh)):
            raise ValueError(
                f"teacher.mesh: splits rows {ways} ways, but a micro-batch has {rows.feed.rows}: "
                "raise batch.rows_per_device, or split the teacher over tensor instead"
            )

    @property
    def head(self) -> Any:
        return self.model.head

    def abstract(self, shape: Shape) -> Any:
        where = (*shape[:2], shape.targets, self.model.config.hidden_size)
        placed = place.micro_sharding(self._student_mesh)
        return loss.Live(jax.ShapeDtypeStruct(where, self.model.dtype, sharding=placed))

    def compile(self, shape: Shape) -> int:
        mesh = self.model.mesh
        with jax.set_mesh(mesh):
            rows = place.abstract_rows(mesh, shape.micro, shape.rows, shape.tokens)
            own = StepBatch(loss.Micro(rows), place.abstract_number(mesh))
            self.model.programs.compile(self.model.params, own, None, shape.targets)
        return 1

    def ahead(self, plan: Plan) -> place.Host:
        """The same rows once more, for the devices of the teacher's mesh."""

        def rows(part: slice) -> loss.Micro:
            return loss.Micro(feed.lay_out(plan, self._rows.examples, part))

        return place.on_host(self.model.mesh, plan.shape.rows, rows)

    def beside(self, batch: StepBatch, plan: Plan, ahead: Any) -> StepBatch:
        with jax.set_mesh(self.model.mesh):
            rows = place.on_mesh(self.model.mesh, plan.shape.rows, ahead)
            own = StepBatch(rows, place.everywhere(self.model.mesh, np.int32(plan.used)))
            hidden = self.model.programs(self.model.params, own, None, plan.shape.targets)
        hidden = jax.device_put(hidden, place.micro_sharding(self._student_mesh))
        return batch._replace(micro=batch.micro._replace(teacher=loss.Live(hidden)))


def _check_pair(run: Learner, folder: str, config: Qwen3Config) -> None:
    if config.vocab_size != run.model.vocab_size:
        raise ValueError(
            f"teacher.model: {folder} has a vocabulary of {config.vocab_size}, the student one of "
            f"{run.model.vocab_size}: give a teacher with the student's tokenizer"
        )
    if Tokenizer(folder).hash != run.tokenizer.hash:
        raise ValueError(
            f"teacher.model: {folder} has another tokenizer than {run.config.model}: give a "
            "teacher with the student's"
        )
