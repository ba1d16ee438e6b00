"""A rollout's samples as batches, and their log-probs.

Lesson(run, rollout).batch(n, …)  → the n-th update's rows, each token with what is known of it
Scorer.log_probs(lesson, params)  → of every sample, the log-probs of its tokens
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax.data import feed
from star_jax.data.encode import Examples
from star_jax.data.feed import Feed, Plan
from star_jax.train import acting, loss, place, policy, setup
from star_jax.train.acting import Acted, Micro
from star_jax.train.config import Rl
from star_jax.train.prompts import Prompts
from star_jax.train.rollouts import Answer, Group, Rollout
from star_jax.train.setup import Rows
from star_jax.train.step import Programs, StepBatch
from star_jax.train.teaching import Live, Model


class Lesson:
    """The samples of a rollout that are trained on, in the order of groups and samples."""

    def __init__(self, run: setup.Learner, prompts: Prompts, rollout: Rollout) -> None:
        self.run, self.rollout = run, rollout
        self.answers = [answer for group in rollout.chosen for answer in group.answers]
        self.examples = _examples(prompts, rollout.chosen)
        config = run.config
        assert isinstance(config, Rl)
        self._learn_unfinished = config.policy.learn_unfinished
        self._kl_in_reward = config.policy.kl_in == "reward"
        self._policy = config.policy.build(config.rollout.max_new_tokens)
        make = functools.partial(
            Feed,
            length=self.examples.lengths,
            n_target=self.examples.n_target,
            batch=config.batch.examples,
            rows=rows_of(config, run.mesh),
            tokens=config.data.max_tokens,
            packing=config.batch.packing,
        )
        self.feed = make(
            seed=(config.seed << 32) + rollout.number, epochs=float(config.rollout.epochs)
        )
        self.in_order = make(shuffle=False)

    def batch(
        self, number: int, *, is_first: bool, teacher: Model | None = None
    ) -> tuple[Plan, StepBatch]:
        """An update's samples. The first is taken by the policy that the rollout began with."""
        plan = self.feed.plan(number)
        old = None if is_first else [answer.old_logps for answer in self.answers]
        ref = [answer.ref_logps for answer in self.answers]
        sampled = [answer.logps for answer in self.answers]
        gain = [self._gain(answer) for answer in self.answers]
        guided = [np.full(len(answer.tokens), answer.guided) for answer in self.answers]

        def make(part: slice) -> Micro:
            tokens = feed.lay_out(plan, self.examples, part)
            spread = functools.partial(self._spread, plan, part, tokens.weight_BT > 0)
            nothing_BT = np.zeros_like(tokens.weight_BT)
            acted = Acted(
                old_BT=np.full_like(nothing_BT, np.nan) if old is None else spread(old),
                ref_BT=nothing_BT if ref[0] is None else spread(ref),
                sampled_BT=spread(sampled),
                advantage_BT=spread(gain),
                guided_BT=spread(guided),
            )
            if not self._learn_unfinished:
                is_whole = [np.full(len(a.tokens), a.end != "length") for a in self.answers]
                weight_BT = np.where(spread(is_whole) > 0, tokens.weight_BT, 0)
                tokens = tokens._replace(weight_BT=weight_BT.astype(np.float32))
            return Micro(tokens, acted)

        batch = self._placed(plan, make)
        return plan, batch if teacher is None else self._taught(teacher, plan, batch, make)

    def _gain(self, answer: Answer) -> np.ndarray:
        """A token's advantage; less what the KL from it on costs, where that is in the reward."""
        gain_T = np.full(len(answer.tokens), answer.advantage, np.float32)
        if not self._kl_in_reward or answer.guided:
            return gain_T
        assert answer.old_logps is not None
        assert answer.ref_logps is not None
        here = self._policy
        kl_BT = policy.kl_terms(
            answer.old_logps[None],
            answer.ref_logps[None],
            np.ones((1, len(gain_T)), bool),
            here.kl_estimator,
            clamp=here.kl_clamp,
        )
        ones_BT = np.ones((1, len(gain_T)), bool)
        charged_BT = policy.kl_in_reward(gain_T[:1], kl_BT, ones_BT, here.kl_weight)
        return np.asarray(charged_BT[0], np.float32)

    def _taught(self, teacher: Model, plan: Plan, batch: StepBatch, make: Any) -> StepBatch:
        """With a live teacher's hidden states at what is learnt."""
        every = np.arange(len(self.examples))
        rows = Rows(uncut=self.examples, examples=self.examples, kept=every, feed=self.feed)
        live = Live(self.run, rows, teacher)
        live.compile(plan.shape)
        ahead = place.on_host(
            teacher.mesh, plan.shape.rows, lambda part: loss.Micro(make(part).tokens)
        )
        return live.beside(batch, plan, ahead)

    def _placed(self, plan: Plan, make: Any) -> StepBatch:
        mesh = self.run.mesh
        host = place.on_host(mesh, plan.shape.rows, make)
        used = place.everywhere(mesh, np.int32(plan.used))
        return StepBatch(place.on_mesh(mesh, plan.shape.rows, host), used)

    @staticmethod
    def _spread(plan: Plan, part: slice, here_MBT: np.ndarray, values: Any) -> np.ndarray:
        """Samples' values at the places where their tokens are predicted."""
        made_MBT = np.zeros(here_MBT.shape, np.float32)
        rows_RT, here_RT = made_MBT.reshape(-1, made_MBT.shape[2]), here_MBT
        here_RT = here_MBT.reshape(rows_RT.shape)
        for row, members in enumerate(feed.bins_of(plan, part)):
            if members:
                rows_RT[row, here_RT[row]] = np.concatenate([values[i] for i in members])
        return made_MBT

    def numbers(self, plan: Plan) -> dict[str, float]:
        """What an update is made of."""
        length = self.examples.lengths[plan.indices]
        answers = [self.answers[index] for index in plan.indices]
        learnt = [a for a in answers if self._learn_unfinished or a.end != "length"]
        places = plan.used * plan.shape.rows * plan.shape.tokens
        return {
            "data/examples": len(plan.indices),
            "data/tokens": int(length.sum()),
            # The step divides by sequences or micro-batches where the objective does.
            "data/loss_tokens": sum(len(answer.tokens) for answer in learnt),
            "data/rows": sum(1 for members in plan.bins if members),
            "data/packing_share": float(length.sum()) / places,
        }

    def whole(self, number: int) -> tuple[Plan, StepBatch]:
        """Tokens alone, in order: to be scored."""
        plan = self.in_order.plan(number)
        return plan, self._placed(plan, lambda part: feed.lay_out(plan, self.examples, part))

    def taken_apart(self, plan: Plan, values_MBT: np.ndarray) -> dict[int, np.ndarray]:
        """The other way of `_spread`: sample → its values."""
        found = {}
        rows_RT = values_MBT.reshape(-1, values_MBT.shape[2])
        for row, members in enumerate(feed.bins_of(plan, slice(None))):
            start = 0
            for index in members:
                length, count = self.examples.lengths[index], self.examples.n_target[index]
                # The last of the prompt predicts the first of the answer.
                end = start + length - 1
                found[index] = rows_RT[row, end - count : end]
                start += length
        return found

    def judged(
        self, advantages_PG: np.ndarray, old: list[np.ndarray], ref: list[np.ndarray] | None
    ) -> Rollout:
        """The rollout with what is now known of the samples that are trained on."""
        gains = advantages_PG.reshape(-1)
        answers = iter(
            dataclasses.replace(
                answer,
                advantage=float(gains[i]),
                old_logps=old[i],
                ref_logps=None if ref is None else ref[i],
            )
            for i, answer in enumerate(self.answers)
        )

        def known(group: Group) -> Group:
            if group.use != "now":
                return group
            return dataclasses.replace(group, answers=tuple(next(answers) for _ in group.answers))

        groups = tuple(known(group) for group in self.rollout.groups)
        return dataclasses.replace(self.rollout, groups=groups)


def rows_of(config: Rl, mesh: Mesh) -> int:
    """Rows of a micro-batch over all devices."""
    ways = place.ways(mesh)
    return min(config.batch.rows_per_device, -(-config.batch.examples // ways)) * ways


def _examples(prompts: Prompts, groups: tuple[Group, ...]) -> Examples:
    pairs: list[tuple[Group, Answer]] = [(g, answer) for g in groups for answer in g.answers]
    ids = [np.concatenate([prompts.rows[g.prompt].ids, answer.tokens]) for g, answer in pairs]
    rows = [prompts.rows[g.prompt] for g, _ in pairs]
    return Examples(
        prompts.path,
        np.concatenate(ids).astype(np.int32),
        np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(np.int64),
        np.array([len(row.ids) for row in rows], np.int32),
        np.array([row.line for row in rows], np.int64),
        tuple(row.row_id for row in rows),
    )


class Scorer:
    """Log-probs of samples, as the trainer computes them."""

    def __init__(self, forward: loss.Forward) -> None:
        function = functools.partial(acting.score, forward=forward)
        self._programs = Programs("score", function, donate=False)

    def log_probs(self, lesson: Lesson, params: Any, fixed: loss.Fixed) -> list[np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for number in range(lesson.in_order.steps):
            plan, batch = lesson.whole(number)
            targets = plan.shape.targets
            self._programs.compile(params, batch, fixed, targets)
            logp_MBT = jax.device_get(self._programs(params, batch, fixed, targets))
            found |= lesson.taken_apart(plan, logp_MBT)
        return [np.asarray(found[i], np.float32) for i in range(len(lesson.answers))]
