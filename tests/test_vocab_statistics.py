"""Loss positions found, gathered and put back; what statistics say of a distribution."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import models
from star_jax.train import vocab
from tests.test_vocab import PER_ROW, B, D, T, arrays, jit, place, relative, sent_by_chunks


def test_located_positions_are_those_of_the_mask() -> None:
    _, _, target_BT, mask_BT = (np.asarray(x) for x in arrays())
    positions = vocab.locate(jnp.asarray(mask_BT), PER_ROW)
    valid_N = np.asarray(positions.valid_N)
    np.testing.assert_array_equal(
        np.asarray(vocab.gather(jnp.asarray(target_BT), positions))[valid_N], target_BT[mask_BT]
    )
    assert valid_N.sum() == mask_BT.sum() == positions.weight_N.sum()
    # What a row keeps of its targets alone is found by its rank.
    kept_BR = np.zeros((B, PER_ROW + 2), np.int32)
    for row, kept in enumerate(kept_BR):
        own = target_BT[row][mask_BT[row]]
        kept[: len(own)] = own
    np.testing.assert_array_equal(
        np.asarray(vocab.gather_targets(jnp.asarray(kept_BR), positions))[valid_N],
        target_BT[mask_BT],
    )
    back_BT = vocab.scatter(vocab.gather(jnp.asarray(target_BT), positions), positions)
    np.testing.assert_array_equal(back_BT, np.where(mask_BT, target_BT, 0))
    vocab.check(positions.missing, PER_ROW)


def test_a_mask_may_be_a_weight() -> None:
    mask_BT = np.asarray(arrays()[3])
    weight_BT = np.where(mask_BT, np.arange(B * T, dtype=np.float32).reshape(B, T) + 1, 0)
    positions = vocab.locate(jnp.asarray(weight_BT), PER_ROW)
    valid_N = np.asarray(positions.valid_N)
    np.testing.assert_array_equal(np.asarray(positions.weight_N)[valid_N], weight_BT[mask_BT])


def test_positions_without_room_are_an_error_that_cannot_pass_unseen() -> None:
    """Even where a neighbour leaves room: else it would depend on the mesh whether a batch fits."""
    mask_BT = np.zeros((2, 8), bool)
    mask_BT[0, :5] = True
    positions = vocab.locate(jnp.asarray(mask_BT), 3)
    with pytest.raises(ValueError, match="2 loss positions stand beyond the 3 that a row has room"):
        vocab.check(positions.missing, 3)
    hidden_BTD, head_VD, target_BT, _ = arrays()
    hidden_ND, target_N = (vocab.gather(x[:2, :8], positions) for x in (hidden_BTD, target_BT))
    loss, _ = vocab.reduce(vocab.cross_entropy, hidden_ND, head_VD, target_N, positions.weight_N)
    assert np.isnan(loss)
    assert vocab.locate(jnp.asarray(mask_BT), 5).missing == 0


def test_errors_of_shapes() -> None:
    hidden_BTD, head_VD, target_BT, mask_BT = arrays()
    positions = vocab.locate(mask_BT, PER_ROW)
    hidden_ND, target_N = (vocab.gather(x, positions) for x in (hidden_BTD, target_BT))
    args = (hidden_ND, head_VD, target_N, positions.weight_N)
    with pytest.raises(ValueError, match=r"positions of a \(8, 48\) batch, an array of \(4, 48\)"):
        vocab.gather(target_BT[:4], positions)
    with pytest.raises(ValueError, match="must be 8 and at least 20"):
        vocab.gather_targets(target_BT[:, :19], positions)
    with pytest.raises(ValueError, match="room for at least 1 loss position, got 0"):
        vocab.locate(mask_BT, 0)
    with pytest.raises(ValueError, match="at least 1 position, got 0"):
        vocab.reduce(vocab.cross_entropy, *args, chunk=0)
    with pytest.raises(ValueError, match=r"for a chunk of 160 it returned \(\)"):
        vocab.reduce(lambda logits_CV, _: (logits_CV.sum(), {}), *args)
    with pytest.raises(ValueError, match="one number a position"):
        vocab.reduce(lambda logits_CV, _: (logits_CV, {}), *args)
    with pytest.raises(ValueError, match="has 1 to 64 of them, got 65"):
        vocab.statistics(*args[:2], positions.valid_N, top_k=65)
    with pytest.raises(ValueError, match="needs a top_k above 0"):
        vocab.statistics(*args[:2], positions.valid_N, given_NK=target_N[:, None])


# Statistics.


def expected(logits_NV: np.ndarray, target_N: Any, given_NK: Any, k: int) -> vocab.Statistics:
    logits_NV = logits_NV.astype(np.float64)
    log_z_N = np.log(np.exp(logits_NV).sum(axis=1))
    logp_NV = logits_NV - log_z_N[:, None]
    order_NV = np.argsort(-logits_NV, axis=1, kind="stable")
    ids_NK = order_NV[:, :k]
    outside_NV = np.take_along_axis(np.exp(logp_NV), order_NV[:, k:], axis=1)
    return vocab.Statistics(
        log_z=log_z_N,
        entropy=-(np.exp(logp_NV) * logp_NV).sum(axis=1),
        logp=logp_NV[np.arange(len(logits_NV)), target_N],
        top_ids=ids_NK,
        top_logps=np.take_along_axis(logp_NV, ids_NK, axis=1),
        tail=outside_NV.sum(axis=1),
        overlap=np.array(
            [np.isin(own, top).mean() for own, top in zip(given_NK, ids_NK, strict=True)]
        ),
    )


@pytest.mark.parametrize("mesh_shape", [None, (1, 2, 4)], ids=str)
@pytest.mark.parametrize("approximate", [False, True])
def test_statistics(mesh_shape: tuple[int, int, int] | None, approximate: bool) -> None:
    # Small whole numbers: logits tie all over the vocabulary, and their sums are exact.
    rng = np.random.default_rng(8)
    hidden_ND = rng.integers(-1, 2, (40, D)).astype(np.float32)
    head_VD = rng.integers(-1, 2, (128, D)).astype(np.float32)
    target_N, valid_N = rng.integers(0, 128, 40, np.int32), np.arange(40) < 33
    given_NK = np.stack([rng.choice(128, 6, replace=False) for _ in range(40)]).astype(np.int32)

    def run(*args: Any) -> vocab.Statistics:
        hidden_ND, head_VD, valid_N, target_N, given_NK = args
        return vocab.statistics(
            hidden_ND,
            head_VD,
            valid_N,
            target_N=target_N,
            given_NK=given_NK,
            top_k=20,
            approximate=approximate,
            chunk=7,
        )

    args: Any = (hidden_ND, head_VD, valid_N, target_N, given_NK)
    if mesh_shape is None:
        found = jit(run)(*args)
    else:
        mesh = models.make_mesh(*mesh_shape)
        with jax.set_mesh(mesh):
            args = [place(x, mesh, ("data", "fsdp")) for x in args]
            args[1] = place(head_VD, mesh, "tensor", "fsdp")
            program = jit(run).lower(*args).compile()
            found = jax.block_until_ready(program(*args))
        # Each device searches the quarters of its own rows: of a chunk's [7, 128] logits, 4 times
        # 20 travel.
        assert max(sent_by_chunks(program)) == 7 * 4 * 20
    wanted = expected(hidden_ND @ head_VD.T, target_N, given_NK, 20)
    for name, ours, theirs in zip(found._fields, found, wanted, strict=True):
        ours = np.asarray(ours)
        assert not np.any(ours[33:]), name
        np.testing.assert_allclose(ours[:33], theirs[:33], rtol=1e-4, atol=2e-6, err_msg=name)


def test_a_small_tail_keeps_its_digits() -> None:
    """1 - Σ top would be 0 or 6e-8 here."""
    logits_CV = jnp.zeros((1, 10)).at[0, :2].set(jnp.array([25.0, 24.0]))
    found = vocab.measure(logits_CV, top_k=2)
    assert relative(found.tail, 8 / (8 + np.exp(25) + np.exp(24))) <= 1e-5
    assert vocab.measure(logits_CV, top_k=10).tail == 0


def test_impossible_tokens_have_no_entropy() -> None:
    logits_CV = jnp.array([[0.0, 0.0, -jnp.inf, -jnp.inf]])
    found = vocab.measure(logits_CV, jnp.array([1]), top_k=2)
    assert relative(found.entropy, np.log(2)) <= 1e-6
    assert relative(found.logp, -np.log(2)) <= 1e-6
    assert found.tail == 0
