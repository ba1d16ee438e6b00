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
from star_jax.train import vocab

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]
B, T, PER_ROW = 8, 48, 20


def relative(ours: Any, wanted: Any) -> float:
    ours, wanted = np.asarray(ours, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def place(x: Any, mesh: Any, *axes: Any) -> jax.Array:
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))


# LLVM's passes are half of the time of these tests, and change nothing of what they test.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

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


def sent_by_chunks(program: Any) -> list[int]:
    """Elements of what each collective in a loop makes."""
    made = re.findall(
        r"= (\S+|\(.*?\)) all-(?:gather|reduce|to-all)\(.*op_name=.*while/body", program.as_text()
    )
    shapes = [shape for several in made for shape in re.findall(r"\[([\d,]+)\]", several)]
    return [math.prod(map(int, shape.split(","))) for shape in shapes]


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
            program = run.lower(args[0], head_VD, *args[1:]).compile()
            found = jax.block_until_ready(program(args[0], head_VD, *args[1:]))
        assert_same(found, wanted_sum())
        # What travels with every chunk is as wide as its positions, not as the vocabulary.
        assert max(sent_by_chunks(program), default=0) <= chunk * D
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


@pytest.mark.parametrize("mesh_shape", [None, (2, 2, 2)], ids=str)
def test_objectives_with_metrics_shared_and_moving_data(
    mesh_shape: tuple[int, int, int] | None,
) -> None:
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
    for moves in (True, False) if mesh_shape is None else (True,):
        run = jit(jax.value_and_grad(functools.partial(core, moves=moves), (0, 1, 2), has_aux=True))
        if mesh_shape is None:
            (loss, metrics), found = run(*args)
        else:
            with jax.set_mesh(models.make_mesh(*mesh_shape)):
                (loss, metrics), found = jax.block_until_ready(run(*args))
        assert_same((loss, found[:2]), (wanted, gradients[:2]))
        assert_same((metrics["kl"], metrics["twice"]), (wanted, 2 * wanted))
        if moves:
            assert_same(found[2], gradients[2])
        else:
            assert not np.any(found[2])
    # Without a gradient the same numbers come out of the other loop.
    assert_same(jit(functools.partial(core, moves=False))(*args)[0], wanted, 1e-6)


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
