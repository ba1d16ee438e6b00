"""The vocabulary core: equal to a dense head however it is cut, split or packed, never as big."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from star_jax import models
from star_jax.models import attention, layout, qwen3, sharding
from star_jax.train import vocab

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]
B, T, PER_ROW = 8, 48, 20


def config_of(tied: bool) -> models.Qwen3Config:
    return models.Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_layers=1,
        num_heads=4,
        num_kv_heads=4,
        head_dim=8,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        max_position_embeddings=64,
        initializer_range=0.2,
    )


def relative(ours: Any, wanted: Any) -> float:
    ours, wanted = np.asarray(ours, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def place(x: Any, mesh: Any, *axes: Any) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


# LLVM's passes are half of the time of these tests, and change nothing of what they test.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# The real model, through hidden states and this core.


@functools.cache
def batch(packed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, segments and a mask with a loss at up to PER_ROW positions of each row."""
    rng = np.random.default_rng(packed)
    tokens_BT = rng.integers(0, 512, (B, T), np.int32)
    segment_BT = np.zeros((B, T), np.int32)
    for row, end in zip(segment_BT, [48, 30, 17, 40, 9, 25, 48, 2], strict=True):
        row[:end] = 1
        if packed:
            row[end // 3 : end] = 2
            row[end // 2 : end] = 3
    # The last token of a segment has no next one to learn.
    continues_BT = np.pad(segment_BT[:, 1:] == segment_BT[:, :-1], ((0, 0), (0, 1)))
    mask_BT = continues_BT & (segment_BT > 0) & (rng.random((B, T)) < 0.4)
    assert 0 < mask_BT.sum(axis=1).max() <= PER_ROW
    return tokens_BT, segment_BT, mask_BT


@functools.cache
def params_of(tied: bool) -> Any:
    return models.init(config_of(tied), jax.random.key(3))


def step(tied: bool, chunk: int | None) -> Any:
    """Mean cross-entropy of the next tokens and its gradient; dense where there is no chunk."""
    config = config_of(tied)

    def loss(params: Any, tokens_BT: Any, segment_BT: Any, mask_BT: Any) -> jax.Array:
        hidden_BTD, _ = qwen3.hidden(params, config, tokens_BT, attention.packed(segment_BT))
        next_BT = jnp.roll(tokens_BT, -1, axis=1)
        if chunk is None:
            logp_BTV = jax.nn.log_softmax(qwen3.project(params, config, hidden_BTD))
            nll_BT = -jnp.take_along_axis(logp_BTV, next_BT[:, :, None], axis=2)[:, :, 0]
            return jnp.where(mask_BT, nll_BT, 0).sum() / mask_BT.sum()
        positions = vocab.locate(mask_BT, PER_ROW)
        hidden_ND, next_N = (vocab.gather(x, positions) for x in (hidden_BTD, next_BT))
        head_VD = params["embed"] if tied else params["head"]
        total, _ = vocab.reduce(
            vocab.cross_entropy, hidden_ND, head_VD, next_N, positions.weight_N, chunk=chunk
        )
        return total / positions.weight_N.sum()

    return jax.value_and_grad(loss)


@functools.cache
def compiled(tied: bool, chunk: int | None, mesh_shape: tuple[int, int, int] | None) -> Any:
    """The program, and the parameters it runs on."""
    params, arrays = params_of(tied), batch(False)
    if mesh_shape is None:
        return jit(step(tied, chunk)).lower(params, *arrays).compile(), params
    mesh = models.make_mesh(*mesh_shape)
    at, rows = sharding.param_shardings(config_of(tied), mesh), sharding.batch_sharding(mesh)
    params = jax.device_put(params, at)
    with jax.set_mesh(mesh):
        run = jit(step(tied, chunk), in_shardings=(at, rows, rows, rows))
        return run.lower(params, *arrays).compile(), params


CASES: list[tuple[bool, int, tuple[int, int, int] | None]] = [
    (True, 7, None),
    (False, 1, None),
    (False, 7, (8, 1, 1)),
    (True, 1, (1, 8, 1)),
    (False, 256, (2, 2, 2)),
    (True, 7, (1, 2, 4)),
]


@pytest.mark.parametrize(("tied", "chunk", "mesh_shape"), CASES, ids=str)
def test_the_model_learns_the_same_as_with_a_dense_head(
    tied: bool, chunk: int, mesh_shape: tuple[int, int, int] | None
) -> None:
    dense, whole = compiled(tied, None, None)
    ours, params = compiled(tied, chunk, mesh_shape)
    for packed in (False, True):
        wanted_loss, wanted = dense(whole, *batch(packed))
        loss, gradient = jax.block_until_ready(ours(params, *placed(packed, mesh_shape)))
        assert relative(loss, wanted_loss) <= 1e-5
        for row in layout.rows(config_of(tied)):
            assert relative(layout.leaf(gradient, row), layout.leaf(wanted, row)) <= 1e-5, row.path


def placed(packed: bool, mesh_shape: tuple[int, int, int] | None) -> Any:
    if mesh_shape is None:
        return batch(packed)
    return jax.device_put(batch(packed), sharding.batch_sharding(models.make_mesh(*mesh_shape)))


def largest_array(program: Any) -> int:
    """Elements of the largest array that a compiled program names, fused or not."""
    shapes = re.findall(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]+)\]", program.as_text())
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


# 256 positions are a chunk here, and their logits an array.
SMALL = [case for case in CASES if case[1] < 256]


@pytest.mark.parametrize(("tied", "chunk", "mesh_shape"), SMALL, ids=str)
def test_no_array_of_logits_is_in_the_compiled_step(
    tied: bool, chunk: int, mesh_shape: tuple[int, int, int] | None
) -> None:
    """On a mesh not even a device's share of one."""
    program, _ = compiled(tied, chunk, mesh_shape)
    assert largest_array(program) < B * T * 512 // (1 if mesh_shape is None else 8)


def test_logits_are_found_where_the_head_is_dense() -> None:
    assert largest_array(compiled(True, None, None)[0]) >= B * T * 512


# The core by itself.

V, D = 64, 32


@functools.cache
def arrays(rows: int = B) -> tuple[Any, Any, Any, Any]:
    """Hidden states, a head, targets, and a mask with 0 to PER_ROW positions a row."""
    rng = np.random.default_rng(5)
    hidden_BTD = rng.normal(size=(rows, T, D)).astype(np.float32)
    head_VD = (rng.normal(size=(V, D)) / 3).astype(np.float32)
    target_BT = rng.integers(0, V, (rows, T), np.int32)
    mask_BT = np.zeros((rows, T), bool)
    for row, count in zip(mask_BT, [3, PER_ROW, 0, 11, 7, 1, 19, 5], strict=False):
        row[rng.choice(T, count, replace=False)] = True
    return tuple(map(jnp.asarray, (hidden_BTD, head_VD, target_BT, mask_BT)))


def dense_sum(hidden_BTD: Any, head_VD: Any, target_BT: Any, weight_BT: Any) -> jax.Array:
    logits_BTV = jnp.einsum("btd,vd->btv", hidden_BTD, head_VD, precision=jax.lax.Precision.HIGHEST)
    logp_BTV = jax.nn.log_softmax(logits_BTV)
    logp_BT = jnp.take_along_axis(logp_BTV, target_BT[:, :, None], axis=2)[:, :, 0]
    return -(logp_BT * weight_BT).sum()


def core_sum(
    hidden_BTD: Any, head_VD: Any, target_BT: Any, mask_BT: Any, *, chunk: int, way: str = "reduce"
) -> jax.Array:
    positions = vocab.locate(mask_BT, PER_ROW)
    hidden_ND, target_N = (vocab.gather(x, positions) for x in (hidden_BTD, target_BT))
    args = (vocab.cross_entropy, hidden_ND, head_VD, target_N)
    if way == "reduce":
        return vocab.reduce(*args, positions.weight_N, chunk=chunk)[0]
    return vocab.per_token(*args, positions.valid_N, chunk=chunk)[0].sum()


both = functools.partial(jax.value_and_grad, argnums=(0, 1))


@functools.cache
def wanted_sum() -> Any:
    return jit(both(dense_sum))(*arrays())


def assert_same(found: Any, wanted: Any, limit: float = 1e-5) -> None:
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert relative(ours, theirs) <= limit


CUTS = [
    pytest.param(
        mesh_shape,
        chunk,
        marks=[] if chunk == 7 or mesh_shape in (None, (2, 2, 2)) else pytest.mark.slow,
        id=f"{mesh_shape}-{chunk}",
    )
    for mesh_shape in (None, *MESHES)
    for chunk in (1, 7, 256)
]


@pytest.mark.parametrize(("mesh_shape", "chunk"), CUTS)
def test_any_chunk_on_any_mesh(mesh_shape: tuple[int, int, int] | None, chunk: int) -> None:
    with_both = chunk == 7 and mesh_shape in (None, (2, 2, 2))
    for way in ("reduce", "per_token") if with_both else ("reduce",):
        run = jit(both(functools.partial(core_sum, chunk=chunk, way=way)))
        if mesh_shape is None:
            assert_same(run(*arrays()), wanted_sum())
            continue
        mesh = models.make_mesh(*mesh_shape)
        hidden_BTD, head_VD, *rest = arrays()
        rows = ("data", "fsdp")
        with jax.set_mesh(mesh):
            head_VD = place(head_VD, mesh, "tensor", "fsdp")
            args = [place(x, mesh, rows) for x in (hidden_BTD, *rest)]
            found = jax.block_until_ready(run(args[0], head_VD, *args[1:]))
        assert_same(found, wanted_sum())
        # Gradients come back in the shards of what they are of.
        share = 8 // mesh_shape[0]
        assert found[1][1].addressable_shards[0].data.size == V * D // share


def test_rows_that_no_mesh_divides() -> None:
    with jax.set_mesh(models.make_mesh(2, 2, 2)):
        found = jit(both(functools.partial(core_sum, chunk=7)))(*arrays(3))
    assert_same(jax.block_until_ready(found), jit(both(dense_sum))(*arrays(3)))


@pytest.mark.parametrize("sizes", [[8], [3, 5], [2, 2, 2, 2], [1] * 8], ids=str)
def test_any_split_into_micro_batches(sizes: list[int]) -> None:
    hidden_BTD, head_VD, target_BT, mask_BT = arrays()
    run = jit(both(functools.partial(core_sum, chunk=7)))
    loss, head, hidden = 0.0, 0.0, []
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        cut = slice(start, start + size)
        part, (dhidden, dhead) = run(hidden_BTD[cut], head_VD, target_BT[cut], mask_BT[cut])
        loss, head = loss + part, head + dhead
        hidden.append(dhidden)
    assert_same((loss, (np.concatenate(hidden), head)), wanted_sum())


def test_gradients_by_finite_differences() -> None:
    with jax.enable_x64(True):
        hidden_BTD, head_VD, target_BT, mask_BT = arrays()
        point = [np.asarray(x, np.float64) for x in (hidden_BTD, head_VD)]
        rng = np.random.default_rng(1)
        along = [rng.normal(size=x.shape) for x in point]
        for way in ("reduce", "per_token"):
            run = jit(both(lambda *x, way=way: core_sum(*x, target_BT, mask_BT, chunk=7, way=way)))
            slope = sum((g * a).sum() for g, a in zip(run(*point)[1], along, strict=True))
            ends = [
                run(*(x + h * a for x, a in zip(point, along, strict=True)))[0]
                for h in (-1e-5, 1e-5)
            ]
            assert abs((ends[1] - ends[0]) / 2e-5 - slope) <= 1e-7 * abs(slope)


def test_bfloat16() -> None:
    """Sums stay float32: 160 chunks of one position round no more than one chunk of all."""
    hidden_BTD, head_VD, target_BT, mask_BT = arrays()
    low = hidden_BTD.astype(jnp.bfloat16)
    # What the same numbers give in float32 throughout.
    exact = jit(both(dense_sum))(
        low.astype(jnp.float32),
        head_VD.astype(jnp.bfloat16).astype(jnp.float32),
        target_BT,
        mask_BT,
    )
    for head in (head_VD, head_VD.astype(jnp.bfloat16)):
        for chunk in (1, 256):
            loss, gradients = jit(both(functools.partial(core_sum, chunk=chunk)))(
                low, head, target_BT, mask_BT
            )
            assert loss.dtype == jnp.float32
            assert [x.dtype for x in gradients] == [jnp.bfloat16, head.dtype]
            assert relative(loss, exact[0]) <= 1e-5
            # dlogits are rounded to 8 bits, as the model's other cotangents are; then the result.
            assert_same(gradients, exact[1], 4e-3)
            if head.dtype == jnp.float32:
                assert relative(gradients[1], exact[1][1]) <= 2e-3


def flat(rows: int = B) -> tuple[Any, ...]:
    """Hidden states [N, D], head, targets and weights, some of them 0."""
    hidden_BTD, head_VD, target_BT, mask_BT = arrays(rows)
    rng = np.random.default_rng(6)
    weight_N = np.where(mask_BT, rng.uniform(0.5, 2, mask_BT.shape), 0).reshape(-1)
    weight_N = jnp.asarray(weight_N, jnp.float32)
    return hidden_BTD.reshape(-1, D), head_VD, target_BT.reshape(-1), weight_N


def test_objectives_with_metrics_shared_and_moving_data() -> None:
    """KL to another model whose head is shared, at a temperature that is learnt."""
    hidden_ND, head_VD, _, weight_N = flat()
    rng = np.random.default_rng(7)
    other_VD, other_ND = rng.normal(size=(V, 8)), rng.normal(size=(len(hidden_ND), 8))
    heat_N = rng.uniform(0.5, 2, len(hidden_ND))
    other_VD, other_ND, heat_N = (jnp.asarray(x, jnp.float32) for x in (other_VD, other_ND, heat_N))

    def kl(logits_CV: Any, data: Any, other_VD: Any) -> Any:
        teacher_CV = jax.nn.log_softmax(vocab.project(data["hidden"], other_VD))
        student_CV = jax.nn.log_softmax(logits_CV * data["heat"][:, None])
        kl_C = (jnp.exp(teacher_CV) * (teacher_CV - student_CV)).sum(axis=1)
        return kl_C, {"kl": kl_C, "twice": 2 * kl_C}

    def core(hidden_ND: Any, head_VD: Any, heat_N: Any, *, moves: bool) -> Any:
        data = {"hidden": other_ND, "heat": heat_N}
        return vocab.reduce(
            kl, hidden_ND, head_VD, data, weight_N, shared=(other_VD,), chunk=50, grad_data=moves
        )

    def dense(hidden_ND: Any, head_VD: Any, heat_N: Any) -> Any:
        data = {"hidden": other_ND, "heat": heat_N}
        return (kl(vocab.project(hidden_ND, head_VD), data, other_VD)[0] * weight_N).sum()

    args = (hidden_ND, head_VD, heat_N)
    wanted, gradients = jit(jax.value_and_grad(dense, (0, 1, 2)))(*args)
    for moves in (True, False):
        run = jax.value_and_grad(functools.partial(core, moves=moves), (0, 1, 2), has_aux=True)
        (loss, metrics), found = jit(run)(*args)
        assert_same((loss, found[:2]), (wanted, gradients[:2]))
        assert_same((metrics["kl"], metrics["twice"]), (wanted, 2 * wanted))
        if moves:
            assert_same(found[2], gradients[2])
        else:
            assert not np.any(found[2])
    # Without a gradient the same numbers come out of the other loop.
    assert_same(core(*args, moves=False)[0], wanted, 1e-6)


def test_positions_may_be_joined_in_a_loss() -> None:
    """Per-token values have gradients of their own: a loss of squared sums of rows."""
    hidden_BTD, head_VD, target_BT, mask_BT = arrays()

    def joined(logp_BT: Any, entropy_BT: Any) -> jax.Array:
        return (logp_BT.sum(axis=1) ** 2).sum() + (logp_BT * entropy_BT).sum()

    def core(hidden_BTD: Any, head_VD: Any) -> jax.Array:
        positions = vocab.locate(mask_BT, PER_ROW)

        def fn(logits_CV: Any, target_C: Any) -> Any:
            found = vocab.measure(logits_CV, target_C)
            return {"logp": found.logp, "entropy": found.entropy}, ()

        hidden_ND, target_N = (vocab.gather(x, positions) for x in (hidden_BTD, target_BT))
        values, _ = vocab.per_token(fn, hidden_ND, head_VD, target_N, positions.valid_N, chunk=7)
        return joined(*(vocab.scatter(values[name], positions) for name in ("logp", "entropy")))

    def dense(hidden_BTD: Any, head_VD: Any) -> jax.Array:
        logits_BTV = jnp.einsum("btd,vd->btv", hidden_BTD, head_VD, precision="highest")
        logp_BTV = jax.nn.log_softmax(logits_BTV)
        logp_BT = jnp.take_along_axis(logp_BTV, target_BT[:, :, None], axis=2)[:, :, 0]
        entropy_BT = -(jnp.exp(logp_BTV) * logp_BTV).sum(axis=2)
        return joined(*(jnp.where(mask_BT, x, 0) for x in (logp_BT, entropy_BT)))

    args = (hidden_BTD, head_VD)
    assert_same(jit(both(core))(*args), jit(both(dense))(*args))


def test_a_position_of_weight_0_adds_nothing_whatever_stands_there() -> None:
    hidden_ND, head_VD, target_N, weight_N = flat()
    poisoned_ND = jnp.where(weight_N[:, None] != 0, hidden_ND, np.nan)

    def fn(logits_CV: Any, target_C: Any) -> Any:
        nll_C, _ = vocab.cross_entropy(logits_CV, target_C)
        return nll_C, {"nll": nll_C}

    for call, keep in ((vocab.reduce, weight_N), (vocab.per_token, weight_N != 0)):

        def loss(hidden_ND: Any, head_VD: Any, call: Any = call, keep: Any = keep) -> Any:
            values, metrics = call(fn, hidden_ND, head_VD, target_N, keep, chunk=7)
            return values.sum(), metrics["nll"].sum()

        run = jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        for ours, wanted in zip(
            jax.tree.leaves(run(poisoned_ND, head_VD)),
            jax.tree.leaves(run(hidden_ND, head_VD)),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, wanted)


def test_room_that_is_not_used_is_not_computed() -> None:
    hidden_ND, head_VD, target_N, _ = flat()
    seen: list[int] = []

    def fn(logits_CV: Any, target_C: Any) -> Any:
        jax.debug.callback(lambda x: seen.append(len(x)), target_C)
        return vocab.cross_entropy(logits_CV, target_C)

    run = jit(jax.grad(lambda h, w: vocab.reduce(fn, h, head_VD, target_N, w, chunk=16)[0]))
    for count, chunks in ((len(hidden_ND), 24), (33, 3), (0, 0)):
        seen.clear()
        jax.block_until_ready(run(hidden_ND, jnp.arange(len(hidden_ND)) < count))
        jax.effects_barrier()
        assert len(seen) == chunks


def test_a_frozen_head_has_no_gradient_to_carry() -> None:
    """The compiler drops what the backward pass does not ask for."""
    hidden_ND, _, target_N, weight_N = flat()
    head_VD = jax.ShapeDtypeStruct((4096, D), jnp.float32)

    def loss(hidden_ND: Any, head_VD: Any) -> jax.Array:
        args = (hidden_ND, head_VD, target_N, weight_N)
        return vocab.reduce(vocab.cross_entropy, *args, chunk=2)[0]

    def temporary(argnums: Any) -> int:
        program = jit(jax.grad(loss, argnums)).lower(hidden_ND, head_VD).compile()
        return program.memory_analysis().temp_size_in_bytes

    size = 4096 * D * 4
    assert temporary(0) < size / 2 < size <= temporary((0, 1))


def test_memory_at_152k_is_flat_in_t_and_a_third_of_dense() -> None:
    """By the compiler's account; nothing is run. The head of Qwen3-0.6B, 512 targets."""
    head = jax.ShapeDtypeStruct((151936, 1024), jnp.float32)

    def temporary(loss: Any, length: int) -> int:
        shapes = [
            jax.ShapeDtypeStruct((1, length, *rest), dtype)
            for rest, dtype in (((1024,), jnp.float32), ((), jnp.int32), ((), jnp.bool_))
        ]
        program = jit(both(loss)).lower(shapes[0], head, *shapes[1:]).compile()
        return program.memory_analysis().temp_size_in_bytes

    def core(hidden_BTD: Any, head_VD: Any, target_BT: Any, mask_BT: Any) -> jax.Array:
        positions = vocab.locate(mask_BT, 512)
        hidden_ND, target_N = (vocab.gather(x, positions) for x in (hidden_BTD, target_BT))
        return vocab.reduce(vocab.cross_entropy, hidden_ND, head_VD, target_N, positions.weight_N)[
            0
        ]

    short, long = temporary(core, 1024), temporary(core, 4096)
    assert long < 1.02 * short
    assert long < temporary(dense_sum, 4096) / 3


# Positions.


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
        gathered = re.findall(
            r"= \w+\[([\d,]+)\]\S* all-gather.*op_name=.*while/body", program.as_text()
        )
        assert {math.prod(map(int, shape.split(","))) for shape in gathered} == {7 * 4 * 20}
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
