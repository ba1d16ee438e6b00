"""A run of RL, made ready: what the configuration names, and nothing computed yet.

open(config) → RlRun     devices, tokenizer, prompts, reward, loss; mistakes are found here
preview(run) → lines     what it would do
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from star_jax.data import template
from star_jax.models import hf, layout
from star_jax.models.config import Qwen3Config
from star_jax.train import acting, exam, flags, judging, learning, place, prompts, setup
from star_jax.train.config import Rl
from star_jax.train.prompts import Prompts

ROLLOUTS = "rollouts"


@dataclass(frozen=True, kw_only=True)
class RlRun(setup.Learner):
    config: Rl
    prompts: Prompts
    eval: Prompts | None
    score: prompts.Reader
    joint: acting.Joint
    teacher: Qwen3Config | None

    @property
    def hashes(self) -> dict[str, str | None]:
        return {
            "train_hash": self.prompts.hash,
            "eval_hash": None if self.eval is None else self.eval.hash,
        }

    @property
    def places(self) -> int:
        return round(self.config.schedule.epochs * len(self.prompts))

    @property
    def updates(self) -> int:
        """Steps of a full rollout."""
        return _updates(self.config, self.config.rollout.prompts)

    def path(self, number: int) -> Path:
        """A rollout's file."""
        return self.output / ROLLOUTS / f"{number:06d}.parquet"

    @property
    def steps(self) -> int:
        """Of a run whose groups are all kept; fewer where some are not."""
        return _steps(self.config, len(self.prompts))


def open(config: Rl) -> RlRun:
    """ValueError where configuration, model, reward or rows will not do."""
    if jax.process_count() > 1:
        raise ValueError("rl: runs in one process for now: start one, with all devices to itself")
    student, tokenizer = setup.student(config)
    score = judging.of(config.reward)
    room = config.rollout.max_new_tokens
    load = functools.partial(
        prompts.load,
        tokenizer=tokenizer,
        render=template.load(config.model),
        score=score,
        longest=config.data.max_tokens - room,
        keep_reasoning=config.data.keep_reasoning,
        skip_bad=config.data.skip_bad,
    )
    found = load(config.data.train, longest_target=room if config.has_labels else None)
    if round(config.schedule.epochs * len(found)) == 0:
        raise ValueError(
            f"schedule.epochs: {config.schedule.epochs} of {len(found)} prompts is less than one"
        )
    teacher = None
    if config.teacher.model is not None:
        teacher = hf.read_config(Path(config.teacher.model))
        ways = place.ways(setup.make_mesh(config.teacher.mesh, "teacher.mesh"))
        if (rows := learning.rows_of(config, student.mesh)) % ways:
            raise ValueError(
                f"teacher.mesh: splits rows {ways} ways, but a micro-batch has {rows}: raise "
                "batch.rows_per_device, or split the teacher over tensor instead"
            )
    return RlRun(
        config=config,
        mesh=student.mesh,
        model=student.model,
        tokenizer=tokenizer,
        template_hash=template.fingerprint(config.model),
        prompts=found,
        eval=None
        if config.data.eval is None
        else load(config.data.eval, score=exam.readable(score)),
        score=score,
        joint=_joint(config),
        teacher=teacher,
        **setup.optimized(config, _steps(config, len(found))),
    )


def _joint(config: Rl) -> acting.Joint:
    """What a step adds up."""
    asked = config.policy.build(config.rollout.max_new_tokens)
    in_loss = asked
    if config.policy.kl_in == "reward":
        in_loss = dataclasses.replace(asked, kl_weight=0.0)
    own, label = config.teacher.weights
    return acting.Joint(
        policy=in_loss,
        policy_weight=config.policy.weight,
        taught=None if config.teacher.model is None else config.objective.build(),
        own_weight=own,
        label_weight=label,
        has_labels=config.has_labels,
        shows_reference=asked.kl_weight > 0,
    )


def _steps(config: Rl, prompts: int) -> int:
    """Rollout by rollout: a batch does not reach over their ends."""
    whole, rest = divmod(round(config.schedule.epochs * prompts), config.rollout.prompts)
    steps = whole * _updates(config, config.rollout.prompts) + _updates(config, rest)
    return steps if config.schedule.max_steps is None else min(steps, config.schedule.max_steps)


def _updates(config: Rl, groups: int) -> int:
    samples = groups * config.rollout.samples * config.rollout.epochs
    return -(-samples // config.batch.examples)


def check_files(run: RlRun, step: int) -> None:
    """ValueError where a rollout is missing that a run at this step reads."""
    number, done = divmod(step, run.updates)
    needed = run.path(number)
    if done == 0 and number > 0 and not needed.is_file():
        needed = run.path(number - 1)
    if not needed.is_file() and step > 0 and (done > 0 or number > 0):
        raise ValueError(
            f"{needed}: is missing, and the run goes on from step {step}: restore it, or move "
            f"{run.output} away and begin again"
        )


def preview(run: RlRun) -> Iterator[str]:
    """What the run would do: nothing is computed, nothing is written."""
    config, how = run.config, run.config.rollout
    wanted = Counter(row.wanted for row in run.prompts.rows)
    lengths = [len(row.ids) for row in run.prompts.rows]
    yield "# python -m star_jax.train rl, resolved"
    yield flags.to_yaml(config).rstrip()
    yield ""
    yield f"devices      {run.mesh.size} × {jax.devices()[0].device_kind}"
    yield f"parameters   {layout.count(run.model):,}"
    yield f"objective    {run.joint.policy}"
    if run.joint.taught is not None:
        yield f"teacher      {config.teacher.model}: {run.joint.taught}"
    yield (
        f"prompts      {len(run.prompts):,} of {min(lengths)} to {max(lengths)} tokens; "
        f"{wanted['call']:,} labels are calls, {wanted['words']:,} words"
    )
    yield (
        f"rollouts     at most {-(-run.places // how.prompts):,}, of {how.prompts} groups of "
        f"{how.samples} answers; {run.updates} updates each, {run.steps:,} steps in all"
    )
    others = ["reference"] * (run.joint.shows_reference and config.lora.rank == 0)
    others += ["teacher"] * (run.teacher is not None)
    yield f"models       on the devices: {', '.join(['trained', 'sampling', *others])}"
