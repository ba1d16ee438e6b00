"""Distillation: a divergence from a teacher, which is live or speaks from its cache.

Evaluation measures the same loss where the teacher can speak of the evaluation's rows too (it is
live, or has a cache of them), and their cross-entropy where it can't.
"""

from __future__ import annotations

import functools

from star_jax.train import folder, loss, setup
from star_jax.train.config import Ckd
from star_jax.train.fit import Task
from star_jax.train.setup import Rows, Run
from star_jax.train.teaching import Cached, Live, Model, Nobody, Source


def task(config: Ckd, *, load: bool = True) -> Task:
    """ValueError where configuration, model, teacher or rows will not do. With `load` false, or
    nothing left to learn, a live teacher is known by its shapes alone."""
    run = setup.open(config)
    distil = functools.partial(
        loss.ckd,
        forward=run.forward,
        objective=config.objective.build(),
        part=config.objective.part,
        end_of_think=run.tokenizer.end_of_think,
    )
    cross_entropy = functools.partial(loss.sft, forward=run.forward)
    load = load and not folder.is_done(run)
    model = Model(run, config.teacher, load=load) if config.teacher.cache is None else None
    source = _source(run, run.train, config, config.teacher.cache, model)
    eval_source = _source(run, run.eval, config, config.teacher.eval_cache, model)
    if isinstance(source, Cached) and isinstance(eval_source, Cached):
        _check_same(config, source, eval_source)
    return Task(
        loop="ckd",
        run=run,
        loss=distil,
        source=source,
        eval_loss=cross_entropy if isinstance(eval_source, Nobody) else distil,
        eval_source=eval_source,
        teacher=None if model is None else model.config,
    )


def _check_same(config: Ckd, source: Cached, eval_source: Cached) -> None:
    if source.teacher != eval_source.teacher:
        raise ValueError(
            f"teacher.eval_cache: {config.teacher.eval_cache} was made with the teacher "
            f"{eval_source.teacher}, teacher.cache with {source.teacher}: build it with that one"
        )


def _source(
    run: Run, rows: Rows | None, config: Ckd, cache: str | None, model: Model | None
) -> Source:
    if rows is None:
        return Nobody()
    if model is not None:
        return Live(run, rows, model)
    if cache is None:
        return Nobody()
    top_k = min(config.objective.build().top_k, run.model.vocab_size)
    return Cached(run, rows, cache, top_k=top_k, teacher=config.teacher.model)
