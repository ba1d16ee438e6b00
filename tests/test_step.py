"""One step for every loss: the same update however the batch is cut, packed and spread."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from star_jax import models
from star_jax.data import feed
from star_jax.data.feed import Feed, Shape
from star_jax.models import attention, qwen3, sharding
from star_jax.train import distill, loss, place, state, step
from star_jax.train.step import StepBatch
from tests import tiny
from tests.test_feed import examples

V = 320
CONFIG = models.Qwen3Config(
    vocab_size=V,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    max_position_embeddings=256,
)
THINK_END = 7
HELD = examples(24, seed=5)
Mesh = tuple[int, int, int]


def mesh_of(shape: Mesh) -> jax.sharding.Mesh:
    return models.make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])


@functools.cache
def teacher() -> np.ndarray:
    """Logits of a teacher for every token of the examples, end to end."""
    return np.random.default_rng(9).normal(0, 2, (len(HELD.ids), V)).astype(np.float32)


def stored(plan: feed.Plan, part: slice, C: int) -> loss.Stored:
    """What a cache says of these rows: log-probs of the token that follows."""
    logp_NV = np.asarray(jax.nn.log_softmax(teacher()))
    ids_NC = np.argsort(-logp_NV, axis=1, kind="stable")[:, :C]
    logp_NC = np.take_along_axis(logp_NV, ids_NC, axis=1)
    tail_N = np.log(-np.expm1(np.log(np.exp(logp_NC).sum(axis=1))))
    rows, R = len(range(plan.shape.rows)[part]), plan.shape.targets
    made = loss.Stored(
        np.zeros((plan.shape.micro, rows, R, C), np.int32),
        np.zeros((plan.shape.micro, rows, R, C), np.float32),
        np.zeros((plan.shape.micro, rows, R), np.float32),
        np.zeros((plan.shape.micro, rows, R), np.float32),
    )
    for m, row, first, count, index in feed.targets_of(plan, HELD.n_target, part):
        # The token before a target predicts it.
        start = int(HELD.start[index]) + int(HELD.n_prompt[index]) - 1
        at, said = (m, row, slice(first, first + count)), slice(start, start + count)
        label = HELD.ids[start + 1 : start + count + 1]
        made.ids_BRC[at], made.logp_BRC[at] = ids_NC[said], logp_NC[said]
        made.tail_logp_BR[at] = tail_N[said]
        made.label_logp_BR[at] = logp_NV[range(start, start + count), label]
    return made


def losses(kind: str, chunk: int, part: distill.Part = "all", config: Any = CONFIG) -> Any:
    forward = loss.Forward(config=config, dtype=jnp.float32, chunk=chunk)
    if kind == "sft":
        return functools.partial(loss.sft, forward=forward)
    objective = distill.Objective(top_k=10, student_top_m=12)
    return functools.partial(
        loss.ckd, forward=forward, objective=objective, part=part, end_of_think=THINK_END
    )


@functools.cache
def run(
    kind: str,
    *,
    mesh_shape: Mesh = (1, 1, 1),
    rows: int = 8,
    packing: bool = True,
    tokens: int = 128,
    chunk: int = 256,
    steps: int = 3,
    part: distill.Part = "all",
    **options: Any,
) -> tuple[list[dict[str, float]], Any]:
    """The metrics of a few steps, and the parameters after them."""
    mesh = mesh_of(mesh_shape)
    made = Feed(
        length=HELD.lengths,
        n_target=HELD.n_target,
        batch=12,
        rows=rows,
        tokens=tokens,
        packing=packing,
        epochs=2,
    )
    rate = state.learning_rate(1e-3, 8)
    with jax.set_mesh(mesh):
        now = state.init(tiny.params(CONFIG, mesh=mesh), state.adamw(rate))
        function = step.make_step(losses(kind, chunk, part), state.adamw(rate), rate, **options)
        programs = step.Programs("step", function, donate=True)
        metrics = []
        for number in range(steps):
            now, found = programs(now, *arguments(made, number, mesh, kind))
            metrics.append({name: float(x) for name, x in found.items()})
    return metrics, jax.tree.map(np.asarray, now.params)


def arguments(made: Feed, number: int, mesh: jax.sharding.Mesh, kind: str) -> tuple[Any, ...]:
    plan = made.plan(number)

    def rows(part: slice) -> loss.Micro:
        words = None if kind == "sft" else stored(plan, part, 10)
        return loss.Micro(feed.lay_out(plan, HELD, part), words)

    host = place.on_host(mesh, plan.shape.rows, rows)
    batch = StepBatch(
        place.on_mesh(mesh, plan.shape.rows, host), place.everywhere(mesh, np.int32(plan.used))
    )
    return batch, loss.Fixed(seed=place.everywhere(mesh, np.uint32(number))), plan.shape.targets


@functools.cache
def wanted(kind: str) -> tuple[list[dict[str, float]], Any]:
    """One device, one example a row, every row in one micro-batch, logits of a row at once."""
    return run(kind, rows=12, packing=False, chunk=4096)


CUTS: list[dict[str, Any]] = [
    {"rows": 1, "chunk": 1, "tokens": 64},
    {"rows": 2, "chunk": 7},
    {"rows": 3, "packing": False, "chunk": 256},
    {"rows": 8, "chunk": 7, "mesh_shape": (8, 1, 1)},
    {"rows": 8, "packing": False, "mesh_shape": (2, 2, 2)},
    {"rows": 4, "chunk": 1, "mesh_shape": (1, 4, 2)},
    {"rows": 2, "mesh_shape": (1, 2, 1)},
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "ckd"])
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_a_step_is_the_same_however_its_batch_is_cut(kind: str, cut: dict[str, Any]) -> None:
    plain, plain_params = wanted(kind)
    ours, params = run(kind, **cut)
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(mine[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    # AdamW turns a gradient near 0 into a step of its full length, whichever its sign: of
    # parameters only what moved by many steps is compared.
    for mine, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(plain_params), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-5)


def test_a_step_is_one_over_dense_logits() -> None:
    """Loss, gradient's norm and update beside a model that holds all logits and optax alone."""
    (first, *_), params = run("sft", steps=1)
    start = tiny.params(CONFIG)
    plan = Feed(
        length=HELD.lengths, n_target=HELD.n_target, batch=12, rows=12, tokens=64, packing=False
    ).plan(0)
    batch = jax.tree.map(lambda x: x[0], feed.lay_out(plan, HELD))

    def dense(params: Any) -> jax.Array:
        places = attention.packed(jnp.asarray(batch.segment_BT))
        hidden_BTD, _ = qwen3.hidden(params, CONFIG, jnp.asarray(batch.tokens_BT), places)
        logp_BTV = jax.nn.log_softmax(qwen3.project(params, CONFIG, hidden_BTD))
        nll_BT = -jnp.take_along_axis(logp_BTV, jnp.asarray(batch.target_BT)[..., None], 2)[..., 0]
        return (nll_BT * batch.weight_BT).sum() / batch.weight_BT.sum()

    value, gradient = jax.jit(jax.value_and_grad(dense))(start)
    norm = optax.tree.norm(gradient)
    np.testing.assert_allclose(first["loss/total_nats"], value, rtol=1e-6)
    np.testing.assert_allclose(first["optim/gradient_norm"], norm, rtol=1e-5)
    # The first step of the schedule has a rate of 0.
    for mine, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(start), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_the_mean_of_micro_batches_is_stars() -> None:
    """Each micro-batch's own token mean, then their mean: unlike the mean over all tokens where
    they differ in size. Rows of one example each make that easy to compute here."""
    (first, *_), _ = run("sft", rows=1, packing=False, tokens=64, steps=1, mean="micro")
    start = tiny.params(CONFIG)
    made = Feed(
        length=HELD.lengths, n_target=HELD.n_target, batch=12, rows=1, tokens=64, packing=False
    )
    batch = feed.lay_out(made.plan(0), HELD)
    forward = functools.partial(loss.sft, forward=loss.Forward(config=CONFIG, dtype=jnp.float32))

    @jax.jit
    def gradient(params: Any) -> Any:
        def mean(params: Any) -> jax.Array:
            total = jnp.zeros(())
            for row in range(12):
                micro = loss.Micro(jax.tree.map(lambda x, row=row: jnp.asarray(x[row]), batch))
                value, (weight, _) = forward(params, micro, loss.Fixed(), 32)
                total = total + value / weight / 12
            return total

        return jax.grad(mean)(params)

    norm = optax.tree.norm(gradient(start))
    np.testing.assert_allclose(first["optim/gradient_norm"], norm, rtol=1e-5)
    (tokens, *_), _ = run("sft", rows=1, packing=False, tokens=64, steps=1)
    assert abs(tokens["optim/gradient_norm"] - float(norm)) > 1e-3


@pytest.mark.slow
def test_a_gradient_is_clipped_to_its_longest() -> None:
    free, _ = run("sft", steps=2, clip_norm=None)
    cut, _ = run("sft", steps=2, clip_norm=1e-3)
    assert free[0]["optim/gradient_norm"] == cut[0]["optim/gradient_norm"] > 1e-3
    assert [m["optim/clipped"] for m in free] == [0, 0]
    assert [m["optim/clipped"] for m in cut] == [1, 1]


@pytest.mark.slow
def test_parts_of_the_targets_are_told_apart() -> None:
    """Thinking and answer are the whole; the random ids hold an end-of-think now and then."""
    found = {part: run("ckd", steps=1, part=part)[0][0] for part in ("all", "think", "answer")}
    tokens = {part: metrics["data/loss_tokens"] for part, metrics in found.items()}
    assert 0 < tokens["think"] < tokens["all"]
    assert tokens["think"] + tokens["answer"] == tokens["all"]
    total = {part: found[part]["loss/total_nats"] * tokens[part] for part in found}
    np.testing.assert_allclose(total["think"] + total["answer"], total["all"], rtol=1e-5)


def test_what_is_not_finite_changes_nothing_from_then_on() -> None:
    mesh = mesh_of((1, 1, 1))
    rate = state.learning_rate(1e-3, 8, warmup_share=0.0)

    def broken(params: Any, micro: Any, fixed: Any, targets: int) -> Any:
        total, (weight, metrics) = losses("sft", 64)(params, micro, fixed, targets)
        return total * jnp.where(fixed.seed == 1, jnp.nan, 1), (weight, metrics)

    made = Feed(length=HELD.lengths, n_target=HELD.n_target, batch=12, rows=4, tokens=128, epochs=2)
    with jax.set_mesh(mesh):
        now = state.init(tiny.params(CONFIG, mesh=mesh), state.adamw(rate))
        programs = step.Programs(
            "step", step.make_step(broken, state.adamw(rate), rate), donate=False
        )
        states, found = [now], []
        for number in range(3):
            now, metrics = programs(now, *arguments(made, number, mesh, "sft"))
            states.append(now)
            found.append(float(metrics["loss/total_nats"]))
    assert np.isfinite(found[0])
    assert np.isnan(found[1])
    assert [int(s.step) for s in states] == [0, 1, 1, 1]
    assert [bool(s.is_sound) for s in states] == [True, True, False, False]
    first = jax.tree.leaves((states[1].params, states[1].opt_state))
    for later in states[2:]:
        for mine, theirs in zip(
            jax.tree.leaves((later.params, later.opt_state)), first, strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("curve", ["cosine", "linear", "constant"])
def test_the_learning_rate_is_the_published_one(curve: state.Schedule) -> None:
    """Against the formulas, step by step: the rise ends after ceil(3 % of the steps)."""
    steps, peak = 250, 3e-6
    rate = state.learning_rate(peak, steps, schedule=curve)
    for number in range(steps + 1):
        if number < 8:
            wanted = peak * number / 8
        else:
            done = (number - 8) / (steps - 8)
            shape = {"cosine": (1 + math.cos(math.pi * done)) / 2, "linear": 1 - done}
            wanted = peak * (0.1 + 0.9 * shape.get(curve, 1.0))
        np.testing.assert_allclose(float(rate(number)), wanted, rtol=1e-5, atol=1e-12)


def test_a_run_of_one_step_learns() -> None:
    """The published warm-up alone would end it at a rate of 0."""
    assert float(state.learning_rate(1e-3, 1)(0)) == np.float32(1e-3)
    assert [float(state.learning_rate(1e-3, 2)(n)) for n in (0, 1)] == [0, np.float32(1e-3)]


def test_the_optimizer_is_adamw_in_the_room_of_its_state() -> None:
    """The numbers of optax.adamw, and no copy of the moments while a step updates them in place."""
    rng = np.random.default_rng(0)
    rate = state.learning_rate(1e-2, 8)
    params = {"w": jnp.asarray(rng.normal(size=(256, 1024)), jnp.float32)}
    plain = optax.adamw(rate, b1=0.9, b2=0.95, eps=1e-8, weight_decay=1e-4, mask=state.decays)
    now, wanted = state.init(params, state.adamw(rate)), (params, plain.init(params))
    batch = StepBatch(jnp.zeros((1, 1)), jnp.ones((), jnp.int32))

    def loss(params: Any, micro: Any, fixed: Any, targets: int) -> Any:
        return (params["w"] * fixed).sum(), (jnp.ones(()), {})

    made = step.make_step(loss, state.adamw(rate), rate, clip_norm=None)
    programs = step.Programs("step", made, donate=False)
    for _ in range(4):
        gradient = jnp.asarray(rng.normal(size=(256, 1024)), jnp.float32)
        now, _ = programs(now, batch, gradient, 0)
        updates, moments = plain.update({"w": gradient}, wanted[1], wanted[0])
        wanted = optax.apply_updates(wanted[0], updates), moments
        np.testing.assert_allclose(now.params["w"], wanted[0]["w"], rtol=1e-6, atol=1e-7)
    compiled = step.Programs("step", made, donate=True).compile(now, batch, gradient, 0)
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * gradient.nbytes


def test_norms_do_not_decay() -> None:
    params = tiny.params(CONFIG)
    decays = state.decays(params)
    assert not decays["norm"]["scale"]
    assert not decays["layers"]["attn"]["q_norm"]["scale"]
    assert not decays["layers"]["mlp_norm"]["scale"]
    assert decays["embed"]
    assert decays["layers"]["attn"]["q"]
    assert decays["layers"]["mlp"]["down"]


def test_moments_lie_beside_their_parameters() -> None:
    mesh = mesh_of((2, 2, 2))
    rate = state.learning_rate(1e-3, 8)
    with jax.set_mesh(mesh):
        params = tiny.params(CONFIG, mesh=mesh)
        now = state.init(params, state.adamw(rate))
        wanted = state.abstract(params, state.adamw(rate))
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), now) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), wanted
    )
    moments = now.opt_state[0]
    at = sharding.param_shardings(CONFIG, mesh)
    assert jax.tree.map(lambda x: x.sharding, moments.mu) == at
    assert jax.tree.map(lambda x: x.sharding, moments.nu) == at


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "ckd"])
@pytest.mark.parametrize("mesh_shape", [(1, 1, 1), (2, 4, 1)], ids=str)
def test_no_array_of_logits_is_in_a_compiled_step(kind: str, mesh_shape: Mesh) -> None:
    """B · T · V elements, of all rows or on a mesh of a device's, in whatever shape."""
    mesh = mesh_of(mesh_shape)
    # Of a vocabulary so large that nothing else comes near its logits.
    config = dataclasses.replace(CONFIG, vocab_size=2048)
    shape = Shape(micro=2, rows=8, tokens=64, targets=32)
    rate = state.learning_rate(1e-3, 8)
    with jax.set_mesh(mesh):
        now = state.init(tiny.params(config, mesh=mesh), state.adamw(rate))
        tokens = place.abstract_rows(mesh, *shape[:3])
        at = place.micro_sharding(mesh)
        where = (shape.micro, shape.rows, shape.targets)
        words = loss.Stored(
            jax.ShapeDtypeStruct((*where, 10), jnp.int32, sharding=at),
            jax.ShapeDtypeStruct((*where, 10), jnp.float32, sharding=at),
            jax.ShapeDtypeStruct(where, jnp.float32, sharding=at),
            jax.ShapeDtypeStruct(where, jnp.float32, sharding=at),
        )
        micro = loss.Micro(tokens, words if kind == "ckd" else None)
        batch = StepBatch(micro, place.abstract_number(mesh))
        fixed = loss.Fixed(seed=place.abstract_number(mesh, jnp.uint32))
        function = step.make_step(losses(kind, 7, config=config), state.adamw(rate), rate)
        compiled = step.Programs("step", function, donate=True).compile(
            now, batch, fixed, shape.targets
        )
    rows = shape.rows // math.prod(mesh_shape)
    found = re.findall(r"\b(?:pred|bf16|[fsu]\d+)\[([\d,]+)\]", compiled.as_text())
    largest = max(math.prod(map(int, each.split(","))) for each in found)
    assert largest < rows * shape.tokens * config.vocab_size
    # The donated state is updated in place: no second one is allocated.
    room = compiled.memory_analysis()
    state_bytes = sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(now)
    )
    assert room.alias_size_in_bytes >= state_bytes


def test_a_shape_that_nobody_planned_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    programs = step.Programs("double", lambda x, batch, fixed, targets: x * batch, donate=False)
    one, two = jnp.ones(3), jnp.ones((2, 3))
    programs.compile(one, one, None, 4)
    np.testing.assert_array_equal(programs(one, one * 3, None, 4), 3)
    assert programs.unplanned == 0
    np.testing.assert_array_equal(programs(two, two * 2, None, 4), 2 * np.ones((2, 3)))
    assert programs.unplanned == 1
    assert "double: compiling a shape that was not planned" in caplog.text


@pytest.mark.slow
def test_a_planned_step_moves_nothing_between_host_and_device(no_transfers: Any) -> None:
    mesh = mesh_of((2, 2, 1))
    rate = state.learning_rate(1e-3, 8)
    made = Feed(length=HELD.lengths, n_target=HELD.n_target, batch=12, rows=4, tokens=128)
    with jax.set_mesh(mesh):
        now = state.init(tiny.params(CONFIG, mesh=mesh), state.adamw(rate))
        function = step.make_step(losses("sft", 64), state.adamw(rate), rate)
        programs = step.Programs("step", function, donate=True)
        given = arguments(made, 0, mesh, "sft")
        programs.compile(now, *given)
        with no_transfers():
            now, _ = programs(now, *given)
    assert int(now.step) == 1
