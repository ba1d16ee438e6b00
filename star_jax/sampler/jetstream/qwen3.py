"""Qwen3 as a JetStream engine: the sampler's own engine behind the interface that Drivers know.

    engine = Qwen3Engine(model, slots=64, max_prompt=1024, max_new=512, settings=Settings(...))
    params = engine.load_params()                       a Box: put new weights into it any time
    state = engine.init_decode_state()
    prefix = engine.prefill(params=params, padded_tokens=tokens_T, true_length=n)
    state = engine.insert(prefix, state, slot=0)
    state, result = engine.generate(params, state)         result: tokens, ends, lengths, log-probs

A prefix holds the prompt without its last token: the first `generate` after `insert` reads that
one and draws the first new token. Drivers of this interface know no settings of single requests, so
the engine has them; keys come from a prompt's tokens: what is drawn does not depend on the slot.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from star_jax import models
from star_jax.sampler import engine, request, rows, sizes
from star_jax.sampler.jetstream.interface import Box, Engine, RolloutTokens, pack, unbox
from star_jax.sampler.programs import Drawn, Prefix
from star_jax.sampler.request import Request, Settings


class Read(NamedTuple):
    """A prompt that was read. Its arrays belong to nobody else: a Driver deletes them."""

    prefix: Prefix
    row_GW: Any  # int32: how the slot's rows begin, but for the step


class Decoding(NamedTuple):
    state: engine.State
    rows_BW: Any


class Qwen3Engine(Engine):
    def __init__(
        self,
        model: models.Model,
        *,
        slots: int = 64,
        samples: int = 1,
        max_prompt: int,
        max_new: int,
        settings: Settings | None = None,
        text_of: Callable[[Sequence[int]], str] | None = None,
        ids_of: Callable[[str], Sequence[int]] | None = None,
        pad_id: int = 0,
        **options: Any,
    ) -> None:
        """`samples` of each prompt share a slot; `options` are those of `engine.Engine`."""
        self.core = engine.Engine(
            model, slots=slots, group=samples, max_len=max_prompt + max_new, **options
        )
        self.settings = settings or Settings(max_new_tokens=max_new)
        if len(self.settings.stop_ids) > sizes.STOPS:
            raise ValueError(f"at most {sizes.STOPS} stop ids, got {self.settings.stop_ids}")
        self.rooms = sizes.ladder(None, sizes.PROMPT_ROOM, max_prompt, "rooms")
        self.max_prompt, self.max_new = max_prompt, max_new
        self.text_of, self.ids_of, self.pad_id = text_of, ids_of, pad_id

    def load_params(self, params: Any = None) -> Box:
        """The decoding weights, of new parameters if they are given, in a box."""
        weights = self.core.weights if params is None else self.core.load_params(params)
        return Box(weights)

    def init_decode_state(self, *_: Any, **__: Any) -> Decoding:
        state = self.core.state(self.rooms[-1], self.max_new)
        return Decoding(state, self.core.put(rows.empty(self.core.rows, sizes.STOPS)))

    def prefill(
        self,
        *,
        params: Any,
        existing_prefix: Any | None = None,
        padded_tokens: Any,
        true_length: int,
        **_: Any,
    ) -> Read:
        if existing_prefix is not None:
            raise ValueError("this engine reads a prompt as a whole: existing_prefix must be None")
        if not 1 <= true_length <= self.max_prompt:
            raise ValueError(f"a prompt has 1 to {self.max_prompt} tokens, got {true_length}")
        prompt = np.asarray(padded_tokens)[:true_length].astype(np.int32)
        self.core.weights = unbox(params)
        T = sizes.fit(self.rooms, true_length)
        ((prefix, _places),) = self.core.read([prompt[:-1]], T)
        return Read(prefix, self.core.put_whole(self._rows(prompt)))

    def prefill_multisampling(self, *, params: Any, **given: Any) -> Read:
        """`prefill`: a prompt is read alike for one sample and for several."""
        return self.prefill(params=params, **given)

    def _rows(self, prompt: np.ndarray) -> np.ndarray:
        how = self.settings
        asked = Request(prompt, self.samples_per_slot, how, request.name_of(prompt))
        made = rows.empty(self.samples_per_slot, sizes.STOPS)
        for sample in range(self.samples_per_slot):
            begun = rows.Row(
                token=int(prompt[-1]),
                position=len(prompt) - 1,
                started=0,
                limit=min(how.max_new_tokens, self.max_new),
                key=request.key_of(asked, sample),
                temperature=how.temperature,
                top_k=how.top_k,
                top_p=how.top_p,
                min_p=how.min_p,
                stop_ids=how.stop_ids,
            )
            rows.write(made, sample, begun)
        return made

    def insert(self, prefix: Read, decode_state: Decoding, slot: int, **_: Any) -> Decoding:
        return self.bulk_insert(prefix, decode_state, [slot])

    def bulk_insert(
        self, prefix: Read, decode_state: Decoding, slots: Sequence[int], **_: Any
    ) -> Decoding:
        """The same prompt into several slots. (Their samples are the same, too: what is drawn
        depends on the prompt and on the number of the sample within its slot.)"""
        state, rows_BW = decode_state
        length = int(np.asarray(prefix.row_GW)[0, 1])  # its last token is not in the prefix
        jobs = [(slot, engine.Job(0, 0, length)) for slot in slots]
        state = self.core.place(state, prefix.prefix, jobs)
        for slot in slots:
            first = np.int32(slot * self.samples_per_slot)
            rows_BW = _begin(rows_BW, prefix.row_GW, first, state.replies.now)
        return Decoding(state, rows_BW)

    def generate(
        self, params: Any, decode_state: Decoding, **_: Any
    ) -> tuple[Decoding, RolloutTokens]:
        self.core.weights = unbox(params)
        before_BW = decode_state.rows_BW
        replies, rows_BW, drawn = self.core.launch(decode_state.state, before_BW, steps=1)
        state = decode_state.state._replace(replies=replies)
        result = _result(drawn, rows_BW, samples=self.samples_per_slot)
        return Decoding(state, rows_BW), result

    def get_tokenizer(self) -> Any:
        return None

    def build_tokenizer(self, metadata: Any) -> Any:
        from star_jax.sampler import jetstream

        def text(ids: Sequence[int]) -> str:
            return "" if self.text_of is None else self.text_of(ids)

        return jetstream.Tokenizer(
            eos_ids=list(self.settings.stop_ids),
            pad_id=self.pad_id,
            decode=text,
            encode=self.ids_of,
        )

    def get_prefix_destination_sharding(self) -> Any:
        if self.core.mesh is None:
            return SingleDeviceSharding(self.mesh.devices.flat[0])
        return NamedSharding(self.core.mesh, PartitionSpec())

    @property
    def max_concurrent_decodes(self) -> int:
        return self.core.slots

    @property
    def samples_per_slot(self) -> int:
        return self.core.group

    @property
    def max_prefill_length(self) -> int:
        return self.max_prompt

    @property
    def mesh(self) -> Mesh:
        if self.core.mesh is not None:
            return self.core.mesh
        (device,) = self.core.weights.norm_D.devices()
        return models.make_mesh(1, devices=[device])

    @property
    def colocated_cpus(self) -> None:
        return None


@jax.jit
def _begin(rows_BW: Any, row_GW: Any, first: Any, now: Any) -> jax.Array:
    """A slot's rows as they begin at this step."""
    row_GW = row_GW.at[:, 2].set(now)
    return jax.lax.dynamic_update_slice(rows_BW, row_GW, (first, jnp.zeros((), first.dtype)))


@functools.partial(jax.jit, static_argnames=("samples",))
def _result(drawn: Drawn, rows_BW: Any, *, samples: int) -> RolloutTokens:
    """One step's tokens; a row that was not alive has none. Where none was, no step was made."""
    token_B1 = drawn.packed[0, :, :1]
    valid_B1 = (token_B1 >= 0) & (drawn.steps > 0)
    raw_B1 = jax.lax.bitcast_convert_type(drawn.packed[0, :, 1:2], jnp.float32)
    token_B1 = jnp.maximum(token_B1, 0)
    return pack(token_B1, valid_B1, rows_BW[:, 3], raw_B1, samples_per_slot=samples)
