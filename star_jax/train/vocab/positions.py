"""Loss positions of a batch: found, gathered, and put back.

They are padded to a static N, group by group, so that those of a device's own rows lie together.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Num

from star_jax.train.vocab import placing


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["index_N", "rank_N", "weight_N", "missing"],
    meta_fields=["shape", "groups"],
)
@dataclass(frozen=True)
class Positions:
    """Where a batch has a loss: the positions of each group in order, then its padding."""

    index_N: Any  # int32, among the tokens of the group's rows laid end to end
    rank_N: Any  # int32, 0 for the first loss position of a row
    weight_N: Any  # float32, the mask there; 0 at padding; NaN everywhere if any are missing
    missing: Any  # int32, how many stand beyond `per_row` in their rows
    shape: tuple[int, int]  # B, T
    groups: int

    @property
    def valid_N(self) -> Any:
        return self.weight_N != 0


def locate(mask_BT: Num[Array, "B T"] | Bool[Array, "B T"], per_row: int) -> Positions:
    """The positions where the mask is not 0, at most `per_row` of a row; N = B · per_row.

    What a row has beyond that is `missing` even where its neighbours leave room, so that a batch
    fits on every mesh or on none. The host raises it with `check`; whoever forgets sees a loss of
    NaN, because every weight is then. Room that is not used costs memory for hidden states, N · D,
    but no time.
    """
    if per_row < 1:
        raise ValueError(f"a row has room for at least 1 loss position, got {per_row}")
    (B, T), per_row = mask_BT.shape, min(per_row, mask_BT.shape[1])
    groups = placing.groups(B)
    found_BT = mask_BT != 0
    rank_BT = jnp.cumsum(found_BT, axis=1, dtype=jnp.int32) - 1
    missing = jnp.maximum(rank_BT[:, -1] + 1 - per_row, 0).sum(dtype=jnp.int32)
    found_GM = placing.by_rows(found_BT.reshape(groups, -1))
    # Stable: loss positions first, in their order. Part of a permutation, no index comes twice.
    order_GM = jnp.argsort(~found_GM, axis=1, stable=True).astype(jnp.int32)
    index_N = order_GM[:, : B // groups * per_row].reshape(-1)
    weight_N = _take(mask_BT.astype(jnp.float32), index_N, groups)
    # The root of 0, or else NaN. Written out, a NaN would be what a hunt for the first one finds.
    weight_N += jnp.sqrt(-missing.astype(jnp.float32))
    rank_N = _take(rank_BT, index_N, groups)
    return Positions(index_N, rank_N, weight_N, missing, (B, T), groups)


def check(missing: Any, per_row: int) -> None:
    """ValueError if `locate` found more loss positions than there was room for; on the host."""
    if int(missing) > 0:
        raise ValueError(
            f"{int(missing)} loss positions stand beyond the {per_row} that a row has room for; "
            "allow more targets per row, or cut the rows' targets"
        )


def gather(x_BT: Num[Array, "B T ..."] | Bool[Array, "B T ..."], positions: Positions) -> Any:
    """What stands at the positions, [N, ...]; its gradient scatters back."""
    if x_BT.shape[:2] != positions.shape:
        raise ValueError(f"positions of a {positions.shape} batch, an array of {x_BT.shape}")
    return _take(x_BT, positions.index_N, positions.groups)


def gather_targets(
    x_BR: Num[Array, "B R ..."] | Bool[Array, "B R ..."], positions: Positions
) -> Any:
    """The same from arrays that hold a row's loss positions only, one after the other.

    A teacher's top-k of 512 targets is a tenth of one of 5,632 tokens.
    """
    (B, T), R = positions.shape, x_BR.shape[1]
    per_row = positions.index_N.shape[0] // B
    if x_BR.shape[0] != B or per_row > R:
        raise ValueError(
            f"targets of {x_BR.shape} for {B} rows of up to {per_row} loss positions: the first "
            f"two dimensions must be {B} and at least {per_row}"
        )
    index_N = positions.index_N // T * R + jnp.clip(positions.rank_N, 0, R - 1)
    # Padding may name a target twice.
    return _take(x_BR, index_N, positions.groups, unique=False)


def scatter(x_N: Num[Array, " N"], positions: Positions) -> Num[Array, "B T"]:
    """One value a position → its place in the rows, 0 where there is no position."""
    (B, T), groups = positions.shape, positions.groups
    x_GP = jnp.where(positions.valid_N, x_N, 0).reshape(groups, -1)

    def put(x_P: jax.Array, index_P: jax.Array) -> jax.Array:
        empty_M = jnp.zeros(B * T // groups, x_P.dtype)
        return empty_M.at[index_P].set(x_P, unique_indices=True, mode="promise_in_bounds")

    x_GM = jax.vmap(put)(x_GP, positions.index_N.reshape(groups, -1))
    return placing.by_rows(x_GM.reshape(B, T))


def _take(x_BT: jax.Array, index_N: jax.Array, groups: int, *, unique: bool = True) -> jax.Array:
    x_GM = placing.by_rows(x_BT.reshape(groups, -1, *x_BT.shape[2:]))

    def take(x_M: jax.Array, index_P: jax.Array) -> jax.Array:
        return x_M.at[index_P].get(unique_indices=unique, mode="promise_in_bounds")

    x_GP = jax.vmap(take)(x_GM, index_N.reshape(groups, -1))
    return placing.by_rows(x_GP.reshape(-1, *x_BT.shape[2:]))
