"""RL with a graded reward: the policy answers, answers are judged, groups are compared.

    rollout r    prompts → samples → rewards → groups kept → advantages, log-probs → its file
    updates      every sample of it once (rollout.epochs times), `batch.examples` a step

Step s belongs to rollout s // U, U being the updates of a full rollout. A rollout's file is written
before its first update and holds all that its updates need, so that a run goes on from any step:
the state is the parameters and the optimizer's, everything else is in files or follows from the
seed and the step.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from star_jax import models
from star_jax.train import (
    acting,
    fit,
    flags,
    folder,
    loss,
    place,
    policy,
    rollouts,
    setup,
    telling,
)
from star_jax.train import step as steps
from star_jax.train.checkpoint import Checkpoints
from star_jax.train.config import Rl
from star_jax.train.fit import Ending, NonFinite
from star_jax.train.learning import Lesson, Scorer
from star_jax.train.log import Log, Row
from star_jax.train.processes import Signals
from star_jax.train.rl_run import RlRun, check_files, open, preview
from star_jax.train.rollouts import Asker, Rollout, Starved
from star_jax.train.speaking import Speaker
from star_jax.train.state import State
from star_jax.train.step import Programs
from star_jax.train.teaching import Model

log = logging.getLogger(__name__)

__all__ = ["Apart", "Collapsed", "RlRun", "Session", "Starved", "begin", "go_on", "open", "preview"]


class Apart(RuntimeError):
    """The sampler and the trainer do not agree on what a token's probability is."""


class Collapsed(RuntimeError):
    """The policy has stopped calling tools where calls are due."""


@dataclass(frozen=True, kw_only=True)
class Session:
    run: RlRun
    checkpoints: Checkpoints
    state: State | None  # None where all is done
    base: Any  # the frozen parameters under adapters, else None
    reference: Any  # the parameters that training began with, else None
    teacher: Model | None = None  # one that is asked beside the reward


def begin(run: RlRun) -> Session:
    """ValueError where the folder holds something else."""
    folder.claim(run, "rl")
    keep = run.config.checkpoint
    checkpoints = Checkpoints(
        run.output / folder.CHECKPOINTS, keep_last=keep.keep_last, keep_best=keep.keep_best
    )
    if folder.is_done(run):
        log.info("%s: is trained already", run.output)
        return Session(run=run, checkpoints=checkpoints, state=None, base=None, reference=None)
    latest = checkpoints.latest()
    if latest is not None:
        check_files(run, latest)
    with jax.set_mesh(run.mesh):
        if latest is None:
            state = setup.fresh(run)
        else:
            log.info("going on from step %d of %s", latest, run.output)
            state = fit.restored(run, checkpoints, latest)
        base, reference = setup.base(run), None
        teacher = None
        if run.config.teacher.model is not None:
            teacher = Model(run, run.config.teacher)
        if run.joint.shows_reference:
            # Under adapters the frozen parameters are the reference.
            reference = base if base is not None else _beginning(run)
        return Session(
            run=run,
            checkpoints=checkpoints,
            state=state,
            base=base,
            reference=reference,
            teacher=teacher,
        )


def _beginning(run: RlRun) -> Any:
    config = run.config
    return models.load(config.model, dtype=config.compute.dtype, mesh=run.mesh).params


def go_on(session: Session) -> Ending:
    """Train until the prompts are used up, or until a signal."""
    if session.state is None:
        return None
    run = session.run
    with ExitStack() as stack:
        stack.enter_context(jax.set_mesh(run.mesh))
        looper = _Loop(session, session.state, stack)
        ending = looper.run()
        if ending is None:
            session.checkpoints.wait()
            fit.export(run, looper.state.params)
    return ending


class _Loop:
    def __init__(self, session: Session, state: State, stack: ExitStack) -> None:
        self.session, self.state = session, state
        self.run_ = run = session.run
        config = run.config
        self.first = int(state.step)
        function = functools.partial(acting.rl, forward=run.forward, joint=run.joint)
        made = steps.make_step(
            function, run.optimizer, run.rate, clip_norm=config.optimizer.clip_norm
        )
        self.programs = Programs("step", made, donate=True)
        self.own = Scorer(run.forward)
        plain = dataclasses.replace(run.forward, lora=None)
        self.theirs = Scorer(plain)
        self.speaker = Speaker(run, session.base)
        self.signals = stack.enter_context(Signals())
        stack.enter_context(session.checkpoints)
        numbers = config.log
        self.log = stack.enter_context(
            Log(
                run.output,
                total_steps=run.steps,
                start_step=self.first,
                tensorboard=numbers.tensorboard,
                wandb=fit.wandb(numbers, run),
                bar=numbers.bar,
            )
        )
        self.asker = Asker(
            prompts=run.prompts,
            seed=config.seed,
            places=run.places,
            ask=self._ask,
            decode=run.tokenizer.decode,
            score=run.score,
            keep=functools.partial(kept, config),
            most_batches=config.rollout.most_batches,
            samples=config.rollout.samples,
            own_share=config.rollout.own_share,
            guide=config.rollout.guide,
            parts=config.rollout.parts,
        )
        self.saved = self.examined = self.first
        self.watch = telling.Watch(run.prompts, config.rollout.stalled)
        self.best: float | None = None  # the score of what was last examined

    def run(self) -> Ending:
        run = self.run_
        number, done = divmod(self.first, run.updates)
        while int(self.state.step) < run.steps:
            rollout = self._rollout(number)
            if rollout is None:
                break
            signal = self._learn(rollout, done)
            if signal:
                return signal
            number, done = number + 1, 0
        self._save()
        return None

    # A rollout

    def _rollout(self, number: int) -> Rollout | None:
        """The rollout of that number, from its file where it has one; None where no prompt is left
        that has something to teach."""
        run, path = self.run_, self.run_.path(number)
        if path.is_file():
            return rollouts.read(path, run.prompts)
        start, carried = 0, ()
        if number > 0:
            before = rollouts.read(run.path(number - 1), run.prompts)
            start, carried = before.next_place, before.carried
        want = self.config.rollout.prompts
        made = rollouts.fill(self.asker, number, start, carried, want, least=-(-want // 4))
        if not made.chosen:
            return None
        made = self._judged(made)
        rollouts.write(path, made, run.prompts)
        return made

    @property
    def config(self) -> Rl:
        return self.run_.config

    def _ask(self, rows: Any, names: Any, number: int) -> Any:
        how = self.config.rollout
        return self.speaker.ask(
            self.state.params,
            rows,
            n=how.samples - how.guide,
            names=names,
            temperature=how.temperature,
            top_p=how.top_p,
            top_k=how.top_k,
            min_p=how.min_p,
            step=number,
        )

    def _examine(self) -> dict[str, float]:
        found = self.speaker.examine(self.state.params)
        self.best = -found["reward"]
        self.examined = int(self.state.step)
        return {f"eval/{name}": value for name, value in found.items()}

    def _judged(self, rollout: Rollout) -> Rollout:
        """With advantages and log-probs of what is trained on now."""
        lesson = Lesson(self.run_, self.run_.prompts, rollout)
        advantages = policy.advantages(
            np.stack([group.rewards for group in rollout.chosen]),
            kind=self.config.policy.advantages,
        )
        fixed = self._fixed(0)
        old = self.own.log_probs(lesson, self.state.params, fixed)
        gap = telling.gap(rollout, old)
        if gap.mean > (limit := self.config.rollout.gap_limit):
            raise Apart(
                f"rollout {rollout.number}: the sampler's log-probs are {gap.mean:.3g} nats from "
                f"the trainer's on average, {gap.most:.3g} at most; rollout.gap_limit is {limit}: "
                "compute in float32, or raise it if the difference is that of the precision"
            )
        ref = None
        if self.session.reference is not None:
            ref = self.theirs.log_probs(lesson, self.session.reference, fixed)
        return lesson.judged(np.asarray(advantages), old, ref)

    # Its updates

    def _learn(self, rollout: Rollout, done: int) -> Ending:
        run = self.run_
        lesson = Lesson(run, run.prompts, rollout)
        told = telling.numbers(rollout, run.prompts)
        self._look_for_collapse(rollout, told)
        log.info("%s", telling.line(rollout, told))
        for said in self.watch.look(rollout, told):
            log.warning("%s", said)
        for number in range(done, lesson.feed.steps):
            if int(self.state.step) >= run.steps:
                break
            plan, batch = lesson.batch(number, is_first=number == 0, teacher=self.session.teacher)
            targets = plan.shape.targets
            fixed = self._fixed(int(self.state.step))
            self.programs.compile(self.state, batch, fixed, targets)
            self.state, metrics = self.programs(self.state, batch, fixed, targets)
            beside = lesson.numbers(plan) | (told if number == 0 else {})
            if number + 1 == lesson.feed.steps and self._is_exam_due(number + 1):
                beside |= self._examine()
            step = rollout.number * run.updates + number + 1
            self._landed(self.log.push(step, metrics | beside))
            if signal := self.signals.ending():
                self._save()
                return signal if int(self.state.step) < run.steps else None
        is_best = self.best is not None and self.session.checkpoints.is_among_best(self.best)
        step = int(self.state.step)
        if step - self.saved >= self.config.checkpoint.every_steps or (
            is_best and self.examined == step
        ):
            self._save()
        return None

    def _is_exam_due(self, updates: int) -> bool:
        """At the ends of rollouts that took the step number past a multiple, and of the last."""
        if self.run_.eval is None:
            return False
        step, every = int(self.state.step), self.config.evaluation.every_steps
        return step >= self.run_.steps or step // every > (step - updates) // every

    def _look_for_collapse(self, rollout: Rollout, told: dict[str, float]) -> None:
        """A policy whose calls mostly fail is paid for words; said and stopped, not left unseen."""
        if rollout.number == 0 or self.config.rollout.allow_collapse:
            return
        first = rollouts.read(self.run_.path(0), self.run_.prompts)
        said = telling.collapse(telling.numbers(first, self.run_.prompts), told)
        if said is None:
            return
        self._save()
        raise Collapsed(f"rollout {rollout.number}: {said}{self._last_good()}")

    def _last_good(self) -> str:
        checkpoints = self.session.checkpoints
        best = checkpoints.best()
        step = checkpoints.latest() if best is None else best
        if step is None:
            return ""
        which = "the latest" if best is None else "the best"
        return f"; {which} checkpoint is {checkpoints.folder / str(step)}"

    def _fixed(self, number: int) -> loss.Fixed:
        seed = np.uint32((self.config.seed * 0x9E3779B1 + number) % 2**32)
        teacher = self.session.teacher
        head = None if teacher is None else teacher.head
        return loss.Fixed(self.session.base, head, place.everywhere(self.run_.mesh, seed))

    def _save(self) -> None:
        """Only what is known to be sound is saved: the numbers of the last step are looked at."""
        self._landed(self.log.sync())
        step = int(self.state.step)
        if step > self.saved:
            meta = {"loop": "rl", "step": step, "config": flags.values(self.config)}
            score = self.best if self.examined == step else None
            self.session.checkpoints.save(step, self.state, meta, score=score)
            self.saved = step

    def _landed(self, row: Row | None) -> None:
        if row is None or fit.is_finite(row.metrics):
            return
        self.log.discard()
        before = row.step - 1
        if before > self.saved:
            run = self.run_
            sound = State(self.state.step, self.state.params, self.state.opt_state, fit.true(run))
            meta = {"loop": "rl", "step": before, "config": flags.values(self.config)}
            self.session.checkpoints.save(before, sound, meta, wait=True)
        rollout = self.run_.path((row.step - 1) // self.run_.updates)
        raise NonFinite(
            f"step {row.step}: the loss is {row.metrics['loss/total_nats']}, the gradient's norm "
            f"{row.metrics['optim/gradient_norm']}: its samples are among those of {rollout}; the "
            "state before it is saved, and the same command replays it"
        )


def kept(config: Rl, rewards_PG: np.ndarray, scores_PG: np.ndarray) -> np.ndarray:
    """Which groups are learnt from. STAR's code asks the answers' scores, its paper the rewards."""
    rule = config.filter.rule
    if rule == "all":
        return np.ones(len(rewards_PG), bool)
    asked = scores_PG if rule == "code" else rewards_PG
    options = {"low": config.filter.low, "high": config.filter.high} if rule == "code" else {}
    spread = {} if rule == "paper" else {"min_spread": config.filter.min_spread}
    return np.asarray(policy.keep(asked, rule, **options, **spread))
