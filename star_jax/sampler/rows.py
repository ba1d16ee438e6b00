"""The rows of a decoding batch as one array of int32, [B, 12 + E]: one transfer brings them all.

What is a float is kept as its bits; keys and the E stop ids as they are. The host fills a row when
a sample begins (`Row`, `write`), the device moves it on (`unpack`, `pack`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.sampler.draw import Knobs

NO_STOP = -1  # fills the stop ids that a row does not have
FIXED = 12  # columns before the stop ids


class Rows(NamedTuple):
    """On the device."""

    token_B: Any  # the next to be read
    position_B: Any  # where it stands in its text
    started_B: Any  # the step at which the row read its first token here
    count_B: Any  # tokens drawn so far
    limit_B: Any  # tokens to draw at most
    is_live_B: Any
    key_B2: Any
    knobs: Knobs
    stop_BE: Any


class Row(NamedTuple):
    """On the host: how a sample begins."""

    token: int
    position: int
    started: int
    limit: int
    key: np.ndarray
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    stop_ids: tuple[int, ...]


def empty(B: int, stops: int) -> np.ndarray:
    """Rows that are all dead."""
    rows = np.zeros((B, FIXED + stops), np.int32)
    rows[:, FIXED:] = NO_STOP
    return rows


def write(rows: np.ndarray, index: int, row: Row) -> None:
    floats = np.array([row.temperature, row.top_p, row.min_p], np.float32).view(np.int32)
    stops = rows.shape[1] - FIXED
    rows[index, :6] = row.token, row.position, row.started, 0, row.limit, 1
    rows[index, 6:8] = row.key.view(np.int32)
    rows[index, 8:12] = floats[0], min(row.top_k, 2**31 - 1), floats[1], floats[2]
    rows[index, FIXED:] = row.stop_ids + (NO_STOP,) * (stops - len(row.stop_ids))


def kill(rows: np.ndarray, index: int) -> None:
    rows[index, 5] = 0


def is_live(rows: np.ndarray) -> np.ndarray:
    return rows[:, 5] == 1


def unpack(rows_BW: jax.Array) -> Rows:
    column = [rows_BW[:, i] for i in range(FIXED)]
    knobs = Knobs(_float(column[8]), column[9], _float(column[10]), _float(column[11]))
    key_B2 = jax.lax.bitcast_convert_type(rows_BW[:, 6:8], jnp.uint32)
    return Rows(*column[:5], column[5] == 1, key_B2, knobs, rows_BW[:, FIXED:])


def pack(rows_BW: jax.Array, rows: Rows) -> jax.Array:
    """The array with what a step moves on."""
    moved = (rows.token_B, rows.position_B, rows.started_B, rows.count_B, rows.limit_B)
    columns = [*moved, rows.is_live_B.astype(jnp.int32)]
    return jnp.concatenate([jnp.stack(columns, axis=1), rows_BW[:, len(columns) :]], axis=1)


def _float(column_B: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(column_B, jnp.float32)
