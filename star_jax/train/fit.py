"""The loop under every loop: take a batch, take a step, write numbers, save, end well.

    begin(task) → Session     folder, checkpoints, state: restored where there is one
    go_on(session) → Ending   from the state's step to the last one, or to a signal

A run goes on from its last checkpoint as if it had not ended: batches are functions of the step,
and everything else that decides is in the state. It ends in one of three ways: done, told to stop
(saved first), or at a loss that is not finite (the state before it is saved).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from star_jax import models
from star_jax.data.feed import Plan
from star_jax.models.config import Qwen3Config
from star_jax.train import config as configs
from star_jax.train import evaluation, flags, folder, loss, place, processes, setup
from star_jax.train import state as states
from star_jax.train import step as steps
from star_jax.train.checkpoint import Checkpoints
from star_jax.train.feeding import Fed, Feeder
from star_jax.train.log import Log, Row
from star_jax.train.pace import Clock, Seen
from star_jax.train.processes import Signals
from star_jax.train.setup import Learner, Run
from star_jax.train.state import State
from star_jax.train.step import Loss, Programs
from star_jax.train.teaching import Source

log = logging.getLogger(__name__)

Ending = int | None  # the signal that a run was stopped by; None where it is done


class NonFinite(RuntimeError):
    """A loss or a gradient that is no number."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a loop is: a run, its loss, and who teaches."""

    loop: str
    run: Run
    loss: Loss
    source: Source
    eval_loss: Loss
    eval_source: Source
    teacher: Qwen3Config | None = None  # a live one, whose work counts in MFU


@dataclass(frozen=True, kw_only=True)
class Session:
    task: Task
    checkpoints: Checkpoints
    state: State | None  # None where all is done
    base: Any  # the frozen parameters under adapters, else None


def programs(task: Task) -> Programs:
    run = task.run
    optimizer, batch = run.config.optimizer, run.config.batch
    made = steps.make_step(
        task.loss, run.optimizer, run.rate, clip_norm=optimizer.clip_norm, mean=batch.mean
    )
    return Programs("step", made, donate=True)


def begin(task: Task) -> Session:
    """ValueError where the folder holds something else."""
    run = task.run
    folder.claim(run, task.loop)
    keep = run.config.checkpoint
    checkpoints = Checkpoints(
        run.output / folder.CHECKPOINTS, keep_last=keep.keep_last, keep_best=keep.keep_best
    )
    latest = checkpoints.latest()
    if folder.is_done(run):
        log.info("%s: is trained already", run.output)
        return Session(task=task, checkpoints=checkpoints, state=None, base=None)
    with jax.set_mesh(run.mesh):
        if latest is None:
            state = setup.fresh(run)
        else:
            log.info("going on from step %d of %s", latest, run.output)
            state = restored(run, checkpoints, latest)
        return Session(task=task, checkpoints=checkpoints, state=state, base=setup.base(run))


def restored(run: Learner, checkpoints: Checkpoints, step: int) -> State:
    try:
        return checkpoints.restore(step, states.abstract(setup.trained(run), run.optimizer))
    except ValueError as error:
        what = str(error).removesuffix("restore another step")
        if what == str(error):
            raise
        path = checkpoints.folder / str(step)
        raise ValueError(f"{what}move {path} away, and the run goes on from before it") from error


def go_on(session: Session) -> Ending:
    """Train to the end, or until a signal; NonFinite where numbers end."""
    run = session.task.run
    if session.state is None:
        return None
    with ExitStack() as stack:
        stack.enter_context(jax.set_mesh(run.mesh))
        looper = _Loop(session, session.state, stack)
        ending = looper.run()
        if ending is None:
            session.checkpoints.wait()  # a model stands beside the checkpoint that it is made of
            export(run, looper.state.params)
    return ending


def export(run: Learner, params: Any) -> None:
    """The trained model in the dtype of the folder that it came from."""
    out = run.output / folder.MODEL
    if not out.exists():  # a run that had ended before is not written again
        merged = setup.whole(run, params)
        like = run.config.model
        models.save(out, run.model, merged, like=like, dtype=setup.stored_dtype(like))


class _Loop:
    """The moving parts of one run, and the order in which they move."""

    def __init__(self, session: Session, state: State, stack: ExitStack) -> None:
        self.session = session
        self.task = task = session.task
        run = task.run
        self.state = state
        self.first = int(state.step)
        self.total = run.train.feed.steps
        self.pushed: tuple[Plan, float] | None = None  # of the step whose numbers are to come
        self.programs = programs(task)
        self.feeder = stack.enter_context(Feeder(run.train, run.mesh, task.source))
        self.signals = stack.enter_context(Signals())
        stack.enter_context(session.checkpoints)
        self.eval_feeder: Feeder | None = None
        if run.eval is not None:
            self.eval_feeder = stack.enter_context(Feeder(run.eval, run.mesh, task.eval_source))
        self.eval_programs = Programs(
            "evaluation", steps.make_evaluation(task.eval_loss), donate=False
        )
        numbers = run.config.log
        self.log = stack.enter_context(
            Log(
                run.output,
                total_steps=self.total,
                start_step=self.first,
                tensorboard=numbers.tensorboard,
                wandb=wandb(numbers, run),
                bar=numbers.bar,
            )
        )
        self.seen = Seen(run, self.first)
        self.clock = Clock(run, task.teacher, self.first, self.total)
        self.score: float | None = None

    def run(self) -> Ending:
        if self.first >= self.total:
            return None
        self.clock.compiled(self._compile_ahead())
        if signal := self.signals.ending():
            return signal  # nothing is learnt yet that is not saved
        for number in range(self.first, self.total):
            self._step(self.feeder.take(number))
            done = number + 1
            signal = self.signals.ending()
            if signal or self._is_save_due(done):
                self._save(done)
            if signal and done < self.total:
                return signal
        return None

    @property
    def _config(self) -> configs.Training:
        return self.task.run.config

    def _step(self, fed: Fed) -> None:
        done = fed.plan.step + 1
        self.score = None
        fixed = self._fixed(self.task.source.head, fed.plan.step)
        self.state, metrics = self.programs(self.state, fed.batch, fixed, fed.plan.shape.targets)
        metrics = metrics | self.seen.take(fed.plan)
        if self.eval_feeder is not None and self._is_evaluation_due(done):
            metrics |= self._evaluate()
        self._landed(self.log.push(done, metrics))
        self.pushed = fed.plan, fed.waited

    def _fixed(self, head: Any, number: int) -> loss.Fixed:
        seed = np.uint32((self._config.seed * 0x9E3779B1 + number) % 2**32)
        return loss.Fixed(self.session.base, head, place.everywhere(self.task.run.mesh, seed))

    def _is_evaluation_due(self, done: int) -> bool:
        return done == self.total or done % self._config.evaluation.every_steps == 0

    def _evaluate(self) -> dict[str, float]:
        assert self.eval_feeder is not None
        # The same draws each time, so that evaluations differ by the model alone.
        fixed = self._fixed(self.task.eval_source.head, 0)
        found = evaluation.evaluate(self.eval_programs, self.eval_feeder, self.state.params, fixed)
        self.score = found[evaluation.LOSS]
        return found

    def _save(self, done: int) -> None:
        """Only what is known to be sound is saved: the numbers of the last step are looked at."""
        self._landed(self.log.sync())
        meta = {"loop": self.task.loop, "step": done, "config": flags.values(self._config)}
        self.session.checkpoints.save(done, self.state, meta, score=self.score)

    def _is_save_due(self, done: int) -> bool:
        if done == self.total or done % self._config.checkpoint.every_steps == 0:
            return True
        return self.score is not None and self.session.checkpoints.is_among_best(self.score)

    def _landed(self, row: Row | None) -> None:
        """A step's numbers have come, so it has ended."""
        if row is None:
            return
        assert self.pushed is not None
        if not is_finite(row.metrics):
            self.log.discard()  # the step after it has learnt nothing
            raise NonFinite(self._stop(row))
        unplanned = self.programs.unplanned + self.eval_programs.unplanned
        self.log.pace(row.step, self.clock.tick(*self.pushed, unplanned))

    def _stop(self, row: Row) -> str:
        """Name a step's rows, save the state before it, which is_sound has kept, and say so."""
        run, before = self.task.run, row.step - 1
        path = run.output / f"nonfinite-step-{row.step}.json"
        if jax.process_index() == 0:
            self.seen.describe(path, row)
        meta = {"loop": self.task.loop, "step": before, "config": flags.values(self._config)}
        saved = ""
        if before > 0:
            sound = State(self.state.step, self.state.params, self.state.opt_state, true(run))
            self.session.checkpoints.save(before, sound, meta, wait=True)
            saved = "the state before it is saved, and "
        return (
            f"step {row.step}: the loss is {row.metrics['loss/total_nats']}, the gradient's norm "
            f"{row.metrics['optim/gradient_norm']}{self._blame(before)}: {path} names the rows; "
            f"{saved}the same command replays it"
        )

    def _blame(self, number: int) -> str:
        """The operation of a step that makes the first NaN, if that is asked for."""
        if not self._config.compute.debug_nans:
            return " (--compute.debug_nans true names the operation)"
        if self.task.run.mesh.size > 1:
            return " (--compute.debug_nans names the operation on one device: replay it there)"
        fed = self.feeder.take(number)
        fixed = self._fixed(self.task.source.head, number)
        found = self.programs.blame(self.state, fed.batch, fixed, fed.plan.shape.targets)
        return f", {found or 'but no operation makes a NaN: it is an infinity'}"

    def _compile_ahead(self) -> int:
        """Compile every shape that will come; how many programs that made."""
        task, count = self.task, 0
        state = jax.tree.map(_abstract, self.state)
        shapes = self.feeder.shapes()
        log.info("compiling a step of %d shape%s", len(shapes), "s" * (len(shapes) > 1))
        for shape in shapes:
            fixed = jax.tree.map(_abstract, self._fixed(task.source.head, 0))
            batch = self.feeder.abstract(shape)
            self.programs.compile(state, batch, fixed, shape.targets)
            count += 1 + task.source.compile(shape)
        if self.eval_feeder is not None:
            for shape in self.eval_feeder.shapes():
                fixed = jax.tree.map(_abstract, self._fixed(task.eval_source.head, 0))
                batch = self.eval_feeder.abstract(shape)
                self.eval_programs.compile(state.params, batch, fixed, shape.targets)
                count += 1 + task.eval_source.compile(shape)
        processes.agree()  # one may have compiled for longer
        return count


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def true(run: Learner) -> jax.Array:
    return place.everywhere(run.mesh, np.ones((), bool))


def is_finite(metrics: Mapping[str, float]) -> bool:
    return all(math.isfinite(metrics[x]) for x in ("loss/total_nats", "optim/gradient_norm"))


def wandb(numbers: configs.Log, run: Learner) -> dict[str, Any] | None:
    if numbers.wandb_project is None:
        return None
    return {"project": numbers.wandb_project, "name": run.output.name}
