"""The interface that an engine is written against, and results that carry log-probs.

tokens, valid, lengths, log-probs of a step  →  one int32 array  →  one copy to the host
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from star_jax.sampler.jetstream import upstream

if TYPE_CHECKING or not upstream.is_installed:
    from star_jax.sampler.jetstream.own import Engine, ResultTokens, SlotData
else:
    _api = upstream.engine_api()
    Engine, ResultTokens, SlotData = _api.Engine, _api.ResultTokens, _api.SlotData

__all__ = ["Box", "Engine", "ResultTokens", "RolloutTokens", "SlotData", "pack", "unbox"]


@struct.dataclass
class RolloutTokens(ResultTokens):
    """JetStream's results with the log-probs of the tokens as further columns."""

    logp_idx: tuple[int, int] = struct.field(pytree_node=False)  # float32 bits, one per token

    def convert_to_numpy(self) -> RolloutTokens:
        return RolloutTokens(
            np.array(self.data),
            self.tokens_idx,
            self.valid_idx,
            self.length_idx,
            self.samples_per_slot,
            self.logp_idx,
        )

    def logprobs_at_slot(self, slot: int) -> np.ndarray:
        """float32 [samples, tokens]; `convert_to_numpy` comes first."""
        rows = slice(slot * self.samples_per_slot, (slot + 1) * self.samples_per_slot)
        columns = np.asarray(self.data)[rows, slice(*self.logp_idx)]
        return np.ascontiguousarray(columns).view(np.float32)


def pack(
    tokens_BT: jax.Array,
    valid_BT: jax.Array,
    lengths_B: jax.Array,
    logp_BT: jax.Array,
    samples_per_slot: int = 1,
) -> RolloutTokens:
    """The results of one step; B is slots × samples, T the tokens that a step makes."""
    T = tokens_BT.shape[1]
    bits_BT = jax.lax.bitcast_convert_type(logp_BT.astype(jnp.float32), jnp.int32)
    columns = [tokens_BT, valid_BT, bits_BT, lengths_B[:, None]]
    data = jnp.concatenate([column.astype(jnp.int32) for column in columns], axis=1)
    return RolloutTokens(
        data,
        tokens_idx=(0, T),
        valid_idx=(T, 2 * T),
        length_idx=(3 * T, 3 * T + 1),
        samples_per_slot=samples_per_slot,
        logp_idx=(2 * T, 3 * T),
    )


class Box:
    """Weights that can be exchanged while a driver runs: its threads keep what they were given at
    their start, so they are given this, and the engine opens it at every call."""

    def __init__(self, params: Any) -> None:
        self.params = params


def unbox(params: Any) -> Any:
    return params.params if isinstance(params, Box) else params
