"""The policy, asked: samples from the parameters of the moment.

Speaker(run, base).ask(params, rows, n, …) → samples      .examine(params) → marks, greedily
"""

from __future__ import annotations

from typing import Any

from star_jax import models
from star_jax.models import hf, lora
from star_jax.sampler import Sampler
from star_jax.train import exam
from star_jax.train.rl_run import RlRun


class Speaker:
    """One sampler for a whole run, which gets each version of the parameters."""

    def __init__(self, run: RlRun, base: Any) -> None:
        self._run, self._base = run, base
        self._sampler: Sampler | None = None

    def ask(self, params: Any, rows: Any, n: int, **how: Any) -> Any:
        run, config = self._run, self._run.config
        if (adapters := config.lora.build()) is not None:
            params = lora.attach(run.model, self._base, params, adapters)
        if self._sampler is None:
            self._sampler = Sampler(
                models.Model(run.model, params),
                slots=config.rollout.slots,
                max_len=config.data.max_tokens,
                dtype=hf.as_dtype(config.compute.dtype),
                backend=config.compute.attention,
            )
        else:
            self._sampler.load_params(params)
        said = self._sampler.generate(
            [row.ids for row in rows],
            n,
            max_new_tokens=config.rollout.max_new_tokens,
            stop_ids=(run.tokenizer.end_of_turn,),
            seed=config.seed,
            **how,
        )
        self._sampler.rest()
        return said

    def examine(self, params: Any) -> dict[str, float]:
        """What the policy can do now, asked greedily on the rows of data.eval."""
        run = self._run
        assert run.eval is not None
        said = self.ask(params, run.eval.rows, 1, temperature=0.0)
        texts = [
            row.opening + run.tokenizer.decode(samples[0].tokens)
            for row, samples in zip(run.eval.rows, said, strict=True)
        ]
        return exam.marks(run.eval.rows, texts, run.score)
