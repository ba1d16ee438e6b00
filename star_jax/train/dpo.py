"""Preference training: the right answer of a teacher over its wrong one (or any two answers).

    pairs → log-probs of both answers, and the same of the model that training began with
          → preference.terms → Σ over pairs

The reference speaks once, before the first step, and of adapters the frozen parameters are it. A
run that goes on lets it speak again: from the same folder, so the same.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from star_jax import models
from star_jax.data import feed, pairs, template
from star_jax.data.encode import Tokenizer
from star_jax.data.feed import Plan, Shape
from star_jax.data.pairs import CHOSEN, REJECTED, Pairs
from star_jax.train import folder, place, preference, setup, teaching, vocab
from star_jax.train.config import Dpo, Training
from star_jax.train.fit import Task
from star_jax.train.loss import Fixed, Forward, Micro
from star_jax.train.setup import Rows, Run
from star_jax.train.step import Programs, StepBatch, Sums, at


class Halves(NamedTuple):
    """What a pair's tokens are, in rows [B, T]."""

    half_BT: Any  # int32: CHOSEN, REJECTED, or 0 where there is no token
    weight_BT: Any  # float32: 1 where an answer's token is predicted
    ref_BT: Any  # float32: at the first of these of a half, the reference's log-prob of the answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairRows(Rows):
    pairs: Pairs


def task(config: Dpo, *, load: bool = True) -> Task:
    """ValueError where configuration, model or rows will not do. With `load` false, or nothing left
    to learn, the reference is not asked."""
    run = setup.open(config, rows)
    loss = functools.partial(dpo, forward=run.forward, objective=config.preference.build())
    load = load and not folder.is_done(run)
    params = _reference(run) if load else None
    evaluation = None if run.eval is None else Beside(run, run.eval, params)
    return Task(
        loop="dpo",
        run=run,
        loss=loss,
        source=Beside(run, run.train, params),
        eval_loss=loss,
        eval_source=teaching.Nobody() if evaluation is None else evaluation,
    )


def _reference(run: Run) -> Any:
    """The parameters that training begins with, as a step computes with them."""
    dtype = run.config.compute.dtype if run.config.lora.rank else "float32"
    return models.load(run.config.model, dtype=dtype, mesh=run.mesh).params


def rows(config: Training, tokenizer: Tokenizer, mesh: Mesh) -> tuple[Rows, Rows | None]:
    """The pairs to learn from and to evaluate on; ValueError for one that has no room in a row."""
    render = template.load(config.model)

    def one(path: str, *, is_eval: bool) -> PairRows:
        if config.data.skip_bad:
            raise ValueError("data.skip_bad: dpo leaves no row out: mend the file, or give 0")
        found = pairs.read(path, tokenizer, render, keep_reasoning=config.data.keep_reasoning)
        longest = int(found.examples.lengths.argmax())
        if (most := int(found.examples.lengths[longest])) > config.data.max_tokens:
            raise ValueError(
                f"{path}:{found.examples.line[longest]}: both answers with their prompts have "
                f"{most} tokens, a row has room for {config.data.max_tokens}: raise "
                "data.max_tokens, or remove the row"
            )
        made = setup.feed_of(config, found.examples, mesh, is_eval=is_eval)
        made = dataclasses.replace(made, n_target=found.n_target)
        every = np.arange(len(found))
        return PairRows(
            uncut=found.examples, examples=found.examples, kept=every, feed=made, pairs=found
        )

    evaluation = None if config.data.eval is None else one(config.data.eval, is_eval=True)
    return one(config.data.train, is_eval=False), evaluation


def dpo(
    params: Any,
    micro: Micro,
    fixed: Fixed,
    targets: int,
    *,
    forward: Forward,
    objective: preference.Objective,
) -> Sums:
    """Σ over pairs of the objective, and how many there are."""
    halves = micro.teacher
    assert isinstance(halves, Halves)
    logp_BT = _log_probs(params, micro.tokens, halves, fixed, targets, forward)
    pair_BT, count = _pair_numbers(micro.tokens.segment_BT)

    def total(x_BT: jax.Array, half: int) -> jax.Array:
        mine_BT = jnp.where((halves.half_BT == half) & (halves.weight_BT > 0), x_BT, 0)
        return jax.ops.segment_sum(mine_BT.reshape(-1), pair_BT.reshape(-1), count)

    tokens_P = total(halves.weight_BT, CHOSEN)
    loss_P, metrics = preference.terms(
        total(logp_BT, CHOSEN),
        total(logp_BT, REJECTED),
        total(halves.ref_BT, CHOSEN),
        total(halves.ref_BT, REJECTED),
        objective,
        tokens_chosen_B=tokens_P,
        mask_B=tokens_P > 0,
    )
    sums = {name: value_P.sum() for name, value_P in metrics.items()}
    return loss_P.sum(), ((tokens_P > 0).sum().astype(jnp.float32), sums)


def _log_probs(
    params: Any, tokens: Any, halves: Halves, fixed: Fixed, targets: int, forward: Forward
) -> jax.Array:
    """Of every token of the answers; a half sees its own alone."""
    apart = tokens._replace(
        segment_BT=jnp.where(
            tokens.segment_BT > 0, 2 * tokens.segment_BT + (halves.half_BT == REJECTED), 0
        ),
        weight_BT=halves.weight_BT,
    )
    hidden_ND, head_VD, spots = forward.at_targets(params, fixed, apart, targets)
    label_N = vocab.gather(apart.target_BT, spots)
    logp_N, _ = vocab.per_token(
        _of_logits, hidden_ND, head_VD, label_N, spots.valid_N, chunk=forward.chunk
    )
    return vocab.scatter(logp_N, spots)


def _of_logits(logits_CV: jax.Array, target_C: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    return vocab.log_prob(logits_CV, target_C), {}


def _pair_numbers(segment_BT: jax.Array) -> tuple[jax.Array, int]:
    """A number for every pair of the rows; those without a token share 0 with their row."""
    B, T = segment_BT.shape
    return jnp.arange(B)[:, None] * (T + 1) + segment_BT, B * (T + 1)


class Beside(teaching.Silent):
    """A source of `Halves`."""

    def __init__(self, run: Run, found: Rows, reference: Any) -> None:
        assert isinstance(found, PairRows)
        self._run, self._rows, self._pairs = run, found, found.pairs
        self._ref_P2 = np.zeros((len(found.pairs), 2), np.float32)
        if reference is not None:
            self._ref_P2 = self._asked(reference)

    def _asked(self, params: Any) -> np.ndarray:
        """The reference's log-probs of both answers of every pair."""
        run, rows = self._run, self._rows
        forward = dataclasses.replace(run.forward, lora=None)
        programs = Programs("reference", functools.partial(score, forward=forward), donate=False)
        steps = dataclasses.replace(rows.feed, shuffle=False, epochs=1.0, max_steps=None, seed=0)
        found_P2 = np.zeros((len(self._pairs), 2), np.float32)
        with jax.set_mesh(run.mesh):
            for number in range(steps.steps):
                plan = steps.plan(number)
                batch = self._batch(plan)
                programs.compile(params, batch, Fixed(), plan.shape.targets)
                logp_MBT = programs(params, batch, Fixed(), plan.shape.targets)
                self._gather(plan, _whole(logp_MBT), found_P2)
        return found_P2

    def _batch(self, plan: Plan) -> StepBatch:
        def make(part: slice) -> Micro:
            return Micro(feed.lay_out(plan, self._rows.examples, part), self.words(plan, part))

        mesh = self._run.mesh
        host = place.on_host(mesh, plan.shape.rows, make)
        used = place.everywhere(mesh, np.int32(plan.used))
        return StepBatch(place.on_mesh(mesh, plan.shape.rows, host), used)

    def _gather(self, plan: Plan, logp_MBT: np.ndarray, found_P2: np.ndarray) -> None:
        rows_RT = logp_MBT.reshape(-1, logp_MBT.shape[2])
        for row, members in enumerate(feed.bins_of(plan, slice(None))):
            start = 0
            for index in members:
                half_T, predicts_T = self._pairs.halves(index)
                mine_T = rows_RT[row, start : start + len(half_T)]
                for column, half in enumerate((CHOSEN, REJECTED)):
                    found_P2[index, column] = mine_T[predicts_T & (half_T == half)].sum()
                start += len(half_T)

    def words(self, plan: Plan, part: slice) -> Halves:
        bins = feed.bins_of(plan, part)
        where = (len(bins), plan.shape.tokens)
        made = Halves(np.zeros(where, np.int32), *(np.zeros(where, np.float32) for _ in range(2)))
        for row, members in enumerate(bins):
            start = 0
            for index in members:
                half_T, predicts_T = self._pairs.halves(index)
                here = slice(start, start + len(half_T))
                made.half_BT[row, here] = half_T
                made.weight_BT[row, here] = predicts_T
                for column, half in enumerate((CHOSEN, REJECTED)):
                    first = start + int(np.flatnonzero(predicts_T & (half_T == half))[0])
                    made.ref_BT[row, first] = self._ref_P2[index, column]
                start += len(half_T)
        shape = (plan.shape.micro, -1, plan.shape.tokens)
        return Halves(*(field.reshape(shape) for field in made))

    def abstract(self, shape: Shape) -> Halves:
        at_ = place.micro_sharding(self._run.mesh)
        where = tuple(shape[:3])
        kinds = (jnp.int32, jnp.float32, jnp.float32)
        return Halves(*(jax.ShapeDtypeStruct(where, kind, sharding=at_) for kind in kinds))


def _whole(x: jax.Array) -> np.ndarray:
    """An array on this host, whichever processes hold it."""
    if not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(jax.device_get(x))


def score(
    params: Any, batch: StepBatch, fixed: Any, targets: int, *, forward: Forward
) -> jax.Array:
    """Log-probs of every answer's tokens of every micro-batch, [M, B, T]."""

    def advance(number: Any, made_MBT: jax.Array) -> jax.Array:
        micro = at(batch.micro, number)
        logp_BT = _log_probs(params, micro.tokens, micro.teacher, fixed, targets, forward)
        return made_MBT.at[number].set(logp_BT)

    shape = batch.micro.tokens.tokens_BT.shape
    return jax.lax.fori_loop(0, batch.used, advance, jnp.zeros(shape, jnp.float32))
