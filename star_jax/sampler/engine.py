"""Qwen3 as something that reads prompts and decodes rows: the device's side of the sampler.

    engine = Engine(model, slots=64, group=8)
    state = engine.state(prompt_room, reply_room)          zeros, on the mesh
    prefix, jobs = engine.read(prompts)                     every prompt once, packed
    state = engine.place(state, prefix, jobs, slots)
    state, rows, burst = engine.decode(state, rows, steps)  many steps, one copy to the host

A slot is the place of one prompt and of `group` rows that answer it. Functions are compiled for the
shapes they meet, ahead of their first use, and counted; after `warm_up` none should be missing.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from star_jax import batch, models
from star_jax.models import fused, grouped, layout, lora, qwen3, sharding
from star_jax.models.attention import Backend
from star_jax.models.grouped import Prompts, Replies
from star_jax.sampler import programs
from star_jax.sampler.programs import Prefix
from star_jax.sampler.sizes import MOST_STEPS, READ_ROWS, READ_TOKENS

log = logging.getLogger(__name__)


# Compiled functions by what makes their programs alike, and by their shapes: engines share them.
_COMPILED: dict[Any, dict[Any, Any]] = {}
_LOCK = threading.Lock()  # lanes meet the same shapes at the same time


class State(NamedTuple):
    prompts: Prompts
    replies: Replies


class Job(NamedTuple):
    """Where a prompt lies in a prefix."""

    row: int
    offset: int
    length: int


class Burst(NamedTuple):
    """What some steps drew, on the host; tokens are -1 where a row was not alive."""

    token_TB: np.ndarray
    raw_TB: np.ndarray
    drawn_TB: np.ndarray
    top_id_TBA: np.ndarray
    top_raw_TBA: np.ndarray


class Engine:
    def __init__(
        self,
        model: models.Model,
        *,
        slots: int,
        group: int = 1,
        max_len: int,
        dtype: Any = None,
        backend: Backend = "auto",
        small_cache: bool = False,
        top: int = 0,
        weights: fused.Weights | None = None,
    ) -> None:
        """`slots` prompts with `group` rows each; no text is longer than `max_len` tokens."""
        for name, given in (("slots", slots), ("group", group), ("max_len", max_len)):
            if given < 1:
                raise ValueError(f"{name} must be at least 1, got {given}")
        if max_len > model.config.max_position_embeddings:
            raise ValueError(
                f"max_len {max_len} is more than the {model.config.max_position_embeddings} "
                "positions that the model knows"
            )
        self.config = model.config
        self.slots, self.group, self.max_len, self.max_top = slots, group, max_len, top
        self.vocab_size = model.config.vocab_size
        self.dtype = jnp.dtype(dtype or qwen3.compute_dtype(model.params))
        self.backend: Backend = backend
        self.small_cache = small_cache
        self.mesh = sharding.mesh_of(model.params)
        alike = (self.config, slots, group, self.dtype, backend, small_cache, self.mesh)
        self.compiled = _COMPILED.setdefault(alike, {})
        self.is_warm = False
        self.unplanned = 0
        self.tokens_read = 0  # of prompts, padding not counted
        if weights is None:
            self.load_params(model.params)
        else:
            self.weights = weights

    @property
    def rows(self) -> int:
        return self.slots * self.group

    def load_params(self, params: layout.Params) -> fused.Weights:
        """Take new parameters of the same architecture; what is being decoded goes on with them."""
        layout.check(self.config, lora.detach(params))
        self.weights = fused.fuse(params, self.config, self.dtype)
        return self.weights

    def state(self, S: int, C: int) -> State:
        """Empty slots with room for prompts of S tokens and replies of C."""
        make = self._zeros(S, C)
        placed = self._state_shardings(jax.eval_shape(make))
        return State(*self._call(("state", S, C), make, (), out=placed))

    def read(self, prompts: Sequence[np.ndarray], T: int) -> list[tuple[Prefix, dict[int, Job]]]:
        """Read prompts of at most T tokens, several in a row of T. For each call of the device:
        what came of it, and where in it the prompts lie by their number here."""
        lengths = [len(prompt) for prompt in prompts]
        some = [index for index, length in enumerate(lengths) if length]
        packed = [[some[i] for i in row] for row in batch.first_fit([lengths[i] for i in some], T)]
        nothing = {index: Job(0, 0, 0) for index, length in enumerate(lengths) if not length}
        calls = []
        for part in self._parts(packed or [[]], T):
            tokens_BT = np.zeros((len(part), T), np.int32)
            segment_BT = np.zeros((len(part), T), np.int32)
            jobs, nothing = nothing, {}
            for row, members in enumerate(part):
                offset = 0
                for number, index in enumerate(members):
                    prompt = prompts[index]
                    tokens_BT[row, offset : offset + len(prompt)] = prompt
                    segment_BT[row, offset : offset + len(prompt)] = number + 1
                    jobs[index] = Job(row, offset, len(prompt))
                    offset += len(prompt)
            function = functools.partial(programs.read, config=self.config, backend=self.backend)
            inputs = (self.weights, *self._put((tokens_BT, segment_BT), len(part)))
            calls.append((self._call(("read", *tokens_BT.shape), function, inputs), jobs))
            with _LOCK:
                self.tokens_read += int(np.sum(segment_BT > 0))
        return calls

    def _parts(self, packed: list[list[int]], T: int) -> list[list[list[int]]]:
        """The packed rows in calls of READ_ROWS rows: no row is made up to fill a call."""
        parts = []
        while packed:
            size = next(
                n
                for n in reversed(READ_ROWS)
                if n == 1 or (n <= len(packed) and n * T <= READ_TOKENS)
            )
            parts.append(packed[:size])
            packed = packed[size:]
        return parts

    def place(self, state: State, prefix: Prefix, jobs: Sequence[tuple[int, Job]]) -> State:
        """Put prompts that were read into slots: (slot, where it was read), each."""
        prompts = state.prompts
        S, T = grouped.width(prompts.key_PKHS[0]), prefix.key_BKHT[0].shape[3]
        packed = np.zeros((self.slots, 4), np.int32)
        for index, (slot, job) in enumerate(jobs):
            packed[index] = slot, *job
        function = functools.partial(programs.place, length=min(S, T))
        inputs = (prompts, prefix, *self._whole((packed, np.int32(len(jobs)))))
        key = ("place", S, prefix.key_BKHT[0].shape)
        placed = self._state_shardings(prompts)
        return state._replace(prompts=self._call(key, function, inputs, donate=(0,), out=placed))

    def decode(
        self,
        state: State,
        rows_BW: Any,
        *,
        steps: int,
        ends: int | None = None,
        allowed_BW: np.ndarray | None = None,
        top: int = 0,
    ) -> tuple[State, np.ndarray, Burst]:
        """Up to `steps` steps, fewer where `ends` samples have ended before."""
        replies, rows_BW, drawn = self.launch(
            state, rows_BW, steps=steps, ends=ends, allowed_BW=allowed_BW, top=top
        )
        rows_BW, packed, count = jax.device_get((rows_BW, *drawn))
        return state._replace(replies=replies), np.array(rows_BW), burst(packed[: int(count)])

    def launch(
        self,
        state: State,
        rows_BW: Any,
        *,
        steps: int,
        ends: int | None = None,
        allowed_BW: np.ndarray | None = None,
        top: int = 0,
    ) -> tuple[Replies, Any, programs.Drawn]:
        """`decode` without waiting for it: everything stays on the device."""
        most = 1 if steps == 1 or allowed_BW is not None else MOST_STEPS
        function = functools.partial(programs.decode, config=self.config, most=most, top=top)
        limits = np.array([min(steps, most), self.rows if ends is None else ends], np.int32)
        limits = self._whole((limits,))[0]
        (rows_BW,) = self._put((rows_BW,), self.slots)
        if allowed_BW is not None:
            (allowed_BW,) = self._put((allowed_BW,), self.slots)
        inputs = (self.weights, state.replies, state.prompts, rows_BW, limits, allowed_BW)
        S = grouped.width(state.prompts.key_PKHS[0])
        C = grouped.width(state.replies.key_BKHC[0])
        key = ("decode", S, C, most, top, allowed_BW is not None)
        placed = None
        if self.mesh is not None:
            whole = NamedSharding(self.mesh, PartitionSpec())
            row = NamedSharding(self.mesh, self._rows_spec(self.slots))
            placed = (self._state_shardings(state.replies), row, programs.Drawn(whole, whole))
        return self._call(key, function, inputs, donate=(1,), out=placed)

    def restart(self, state: State) -> State:
        """The same slots, none of whose rows is alive, at step 0."""
        return state._replace(replies=state.replies._replace(now=self._whole((np.int32(0),))[0]))

    def resize(self, state: State, S: int, C: int) -> State:
        """The same state with room for S and C tokens."""
        old = (grouped.width(state.prompts.key_PKHS[0]), grouped.width(state.replies.key_BKHC[0]))
        if old == (S, C):
            return state
        function = functools.partial(programs.resize, S=S, C=C)
        placed = self._state_shardings(tuple(state))
        return State(*self._call(("resize", *old, S, C), function, tuple(state), out=placed))

    def cache_bytes(self, S: int, C: int) -> int:
        """What `state(S, C)` takes up."""
        shapes = jax.eval_shape(self._zeros(S, C))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))

    def _zeros(self, S: int, C: int) -> Any:
        sizes = (self.config, self.slots, self.group, S, C, self.dtype)
        return functools.partial(grouped.zeros, *sizes, small=self.small_cache)

    def _call(
        self, key: Any, function: Any, inputs: Any, *, donate: tuple[int, ...] = (), out: Any = None
    ) -> Any:
        with _LOCK:
            compiled = self.compiled.get(key)
            if compiled is None:
                if self.is_warm:
                    self.unplanned += 1
                    log.warning("sampler: %s was not compiled ahead", key)
                options = {} if out is None else {"out_shardings": out}
                jitted = jax.jit(function, donate_argnums=donate, **options)
                with sharding.context_of(self.mesh):
                    compiled = jitted.lower(*inputs).compile()
                self.compiled[key] = compiled
        return compiled(*inputs)

    def _rows_spec(self, size: int) -> PartitionSpec:
        """Prompts and rows over data and fsdp, where their number divides."""
        assert self.mesh is not None
        axes = tuple(name for name in sharding.BATCH if self.mesh.shape.get(name, 1) > 1)
        ways = int(np.prod([self.mesh.shape[name] for name in axes], dtype=int))
        return PartitionSpec(axes) if axes and size % ways == 0 else PartitionSpec()

    def _state_shardings(self, shapes: Any) -> Any:
        if self.mesh is None:
            return None
        rows_axis = self._rows_spec(self.slots)
        tensor = self.mesh.shape.get("tensor", 1)
        split = tensor > 1 and self.config.num_kv_heads % tensor == 0
        first = rows_axis[0] if len(rows_axis) else None

        def one(leaf: Any) -> NamedSharding:
            assert self.mesh is not None
            axes = {4: (first, "tensor" if split else None), 1: (first,)}.get(leaf.ndim, ())
            return NamedSharding(self.mesh, PartitionSpec(*axes))

        return jax.tree.map(one, shapes)

    def put(self, rows_BW: np.ndarray) -> Any:
        """Rows on the device, each beside its slot."""
        return self._put((rows_BW,), self.slots)[0]

    def put_whole(self, array: np.ndarray) -> Any:
        return self._whole((array,))[0]

    def _put(self, arrays: Sequence[Any], size: int) -> tuple[Any, ...]:
        """Host arrays whose first axis goes with the slots (or with `size` rows)."""
        if self.mesh is None:
            return tuple(jax.device_put(array) for array in arrays)
        where = NamedSharding(self.mesh, self._rows_spec(size))
        return tuple(jax.device_put(array, where) for array in arrays)

    def _whole(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        if self.mesh is None:
            return tuple(jax.device_put(array) for array in arrays)
        where = NamedSharding(self.mesh, PartitionSpec())
        return tuple(jax.device_put(array, where) for array in arrays)


def burst(packed: np.ndarray) -> Burst:
    top = (packed.shape[2] - 3) // 2
    floats = packed.view(np.float32)
    return Burst(
        packed[:, :, 0],
        floats[:, :, 1],
        floats[:, :, 2],
        packed[:, :, 3 : 3 + top],
        floats[:, :, 3 + top :],
    )
