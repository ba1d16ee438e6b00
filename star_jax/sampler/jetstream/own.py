"""JetStream's engine interface in our own words, for where the package is absent.

Names, fields and argument lists are those of google-jetstream 0.2.2, so that an engine is written
once and stands on either.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import numpy as np
from flax import struct

Array = jax.Array | np.ndarray


@struct.dataclass
class SlotData:
    """What one slot got in one step."""

    tokens: Array  # [samples, tokens]
    valid: Array  # [samples, tokens]
    lengths: Array  # [samples]


@struct.dataclass
class ResultTokens(abc.ABC):
    """One step of every slot: int32 columns of a single array, which reaches the host in one copy.

    A pair (begin, end) says which columns hold what. Rows are slots × samples.
    """

    data: Array
    tokens_idx: tuple[int, int] = struct.field(pytree_node=False)
    valid_idx: tuple[int, int] = struct.field(pytree_node=False)  # 0: the sample has ended
    length_idx: tuple[int, int] = struct.field(pytree_node=False)  # tokens so far, with these
    samples_per_slot: int = struct.field(pytree_node=False)

    def copy_to_host_async(self) -> None:
        if isinstance(self.data, jax.Array):
            self.data.copy_to_host_async()

    def convert_to_numpy(self) -> ResultTokens:
        return ResultTokens(
            np.array(self.data),
            self.tokens_idx,
            self.valid_idx,
            self.length_idx,
            self.samples_per_slot,
        )

    def get_result_at_slot(self, slot: int) -> SlotData:
        rows = self.data[slot * self.samples_per_slot : (slot + 1) * self.samples_per_slot]
        return SlotData(
            tokens=rows[:, slice(*self.tokens_idx)],
            valid=rows[:, slice(*self.valid_idx)],
            lengths=rows[:, self.length_idx[0]],
        )


class Engine(abc.ABC):
    """What a driver asks of a model: prefill a prompt, insert it into a slot, decode all slots."""

    @abc.abstractmethod
    def prefill(
        self,
        *,
        params: Any,
        existing_prefix: Any | None = None,
        padded_tokens: Array,
        true_length: int,
    ) -> Any:
        """The cache of one prompt (1-D tokens, padded on the right), after an existing prefix."""

    @abc.abstractmethod
    def generate(self, params: Any, decode_state: Any) -> tuple[Any, ResultTokens]:
        """The next token of every slot."""

    @abc.abstractmethod
    def insert(self, prefix: Any, decode_state: Any, slot: int) -> Any:
        """The decode state with a prompt's cache in a slot."""

    @abc.abstractmethod
    def load_params(self, *args: Any, **kwargs: Any) -> Any:
        """The weights."""

    @abc.abstractmethod
    def get_prefix_destination_sharding(self) -> Any:
        """Where a prefix has to lie to be inserted."""

    @abc.abstractmethod
    def get_tokenizer(self) -> Any:
        """What `build_tokenizer` makes a tokenizer of."""

    def build_tokenizer(self, metadata: Any) -> Any:
        """A tokenizer for a driver, with ids of its ends and its padding."""
        raise NotImplementedError(f"{type(self).__name__} builds no tokenizer")

    @abc.abstractmethod
    def init_decode_state(self, *args: Any, **kwargs: Any) -> Any:
        """Slots that are all free."""

    @property
    @abc.abstractmethod
    def max_concurrent_decodes(self) -> int:
        """Slots."""

    @property
    @abc.abstractmethod
    def samples_per_slot(self) -> int:
        """Samples that a slot decodes."""

    @property
    @abc.abstractmethod
    def max_prefill_length(self) -> int:
        """The longest prompt."""

    @property
    @abc.abstractmethod
    def mesh(self) -> jax.sharding.Mesh:
        """Where the engine runs."""

    @property
    @abc.abstractmethod
    def colocated_cpus(self) -> list[Any] | None:
        """CPU devices beside the accelerators."""
