"""Adapters: the same numbers beside a matrix as within it, and no gradient of the matrix."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import models
from star_jax.models import attention, layout, lora, qwen3, sharding
from star_jax.models.lora import Lora
from tests import tiny

# No two kinds of matrix have as many numbers, and nothing that flows has as many as any of them.
CONFIG = models.Qwen3Config(
    vocab_size=72,
    hidden_size=80,
    intermediate_size=144,
    num_layers=3,
    num_heads=8,
    num_kv_heads=4,
    head_dim=8,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    max_position_embeddings=64,
)
LORA = Lora(rank=3, alpha=4.5)
LENGTHS = np.array([13, 3, 7, 1, 12, 2, 9, 5])
TOKENS = tiny.rows(0, LENGTHS.tolist(), vocab=72)


@functools.cache
def params_of(dtype: Any = jnp.float32) -> Any:
    """Matrices that let signals through, so that no part of the model is negligible."""
    rng = np.random.default_rng(1)

    def make(row: layout.Row) -> jax.Array:
        shape = row.shape(CONFIG)
        if len(row.hf_axes) == 2:
            fan_in = math.prod(row.hf_shape(CONFIG)[1:])
            return jnp.asarray(rng.normal(0, 1 / math.sqrt(fan_in), shape), dtype)
        return jnp.asarray(rng.uniform(0.5, 1.5, shape), dtype)

    return layout.tree(CONFIG, make)


@functools.cache
def adapters_of(chosen: Lora = LORA, config: models.Qwen3Config = CONFIG) -> Any:
    """As after some training: B is no longer zero."""
    rng = np.random.default_rng(2)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.15, x.shape), x.dtype), lora.abstract(config, chosen)
    )


def loss(params: Any, remat: Any) -> jax.Array:
    """Mean negative log-probability of the next tokens."""
    places = attention.padded(jnp.asarray(LENGTHS), TOKENS.shape[1])
    tokens_BT = jnp.asarray(TOKENS)
    hidden_BTD, _ = qwen3.hidden(params, CONFIG, tokens_BT, places, remat=remat)
    logp_BTV = jax.nn.log_softmax(qwen3.project(params, CONFIG, hidden_BTD))
    nll_BT = -jnp.take_along_axis(logp_BTV[:, :-1], tokens_BT[:, 1:, None], axis=2)[:, :, 0]
    seen_BT = np.arange(1, TOKENS.shape[1])[None] < LENGTHS[:, None]
    return jnp.where(seen_BT, nll_BT, 0).sum() / seen_BT.sum()


Join = Callable[[models.Qwen3Config, Any, Any, Lora], Any]


@functools.cache
def compiled(join: Join, remat: str = "none", dtype: Any = jnp.float32) -> Any:
    """(adapters, params) → the loss and its gradient by adapters, on one device."""
    return jax.jit(step(join, remat)).lower(adapters_of(), params_of(dtype)).compile()


def step(join: Join, remat: str = "none") -> Any:
    def of(adapters: Any, params: Any) -> jax.Array:
        return loss(join(CONFIG, params, adapters, LORA), remat)

    return jax.value_and_grad(of)


def relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def logits(params: Any) -> np.ndarray:
    """At the places of tokens."""
    seen_BT = np.arange(TOKENS.shape[1])[None] < LENGTHS[:, None]
    return np.asarray(models.logits(params, CONFIG, TOKENS, LENGTHS))[seen_BT]


def test_fresh_adapters_change_nothing() -> None:
    params = params_of()
    fresh = lora.init(CONFIG, LORA, jax.random.key(0))
    merged = lora.merge(CONFIG, params, fresh, LORA)
    jax.tree.map(np.testing.assert_array_equal, merged, params)
    attached = lora.attach(CONFIG, params, fresh, LORA)
    np.testing.assert_array_equal(logits(attached), logits(params))
    # And yet they learn: B at once, A as soon as B is not zero.
    _, gradient = compiled(lora.attach)(fresh, params)
    for row in LORA.rows:
        pair = layout.leaf(gradient, row)
        assert np.abs(pair["up"]).max() > 0
        assert not pair["down"].any()


def test_what_a_fresh_adapter_is() -> None:
    big = dataclasses.replace(CONFIG, hidden_size=512)
    made = lora.init(big, Lora(rank=16), jax.random.key(3))
    assert jax.tree.leaves(jax.tree.map(lambda x: x.dtype == jnp.float32, made)) == [True] * 14
    q, o = made["layers"]["attn"]["q"], made["layers"]["attn"]["o"]
    assert q["down"].shape == (3, 16, 512)
    assert q["up"].shape == (3, 8, 8, 16)
    assert o["down"].shape == (3, 16, 8, 8)
    assert o["up"].shape == (3, 512, 16)
    # 24,576 and 3,072 normal numbers: their deviation is off by 0.5 % and 1.3 %.
    assert abs(float(q["down"].std()) * math.sqrt(512) - 1) < 0.03
    assert abs(float(o["down"].std()) * math.sqrt(64) - 1) < 0.06
    downs = [layout.leaf(made, row)["down"].ravel()[:100] for row in layout.MATRICES]
    assert len({down.tobytes() for down in map(np.asarray, downs)}) == 7


def test_a_matrix_starts_the_same_whichever_others_learn() -> None:
    key = jax.random.key(0)
    one = lora.init(CONFIG, Lora(targets=("up",)), key)["layers"]["mlp"]["up"]["down"]
    both = lora.init(CONFIG, Lora(targets=("up", "q")), key)["layers"]["mlp"]["up"]["down"]
    np.testing.assert_array_equal(one, both)


slow = pytest.mark.slow
ONE_BY_ONE = [pytest.param((name,), marks=slow) for name in lora.TARGETS]
REMATS = ["none", *(pytest.param(remat, marks=slow) for remat in ("dots", "block"))]


@pytest.mark.parametrize("targets", [lora.TARGETS, *ONE_BY_ONE], ids=str)
def test_beside_the_matrix_or_within_it(targets: tuple[str, ...]) -> None:
    chosen = Lora(rank=3, alpha=4.5, targets=targets)
    adapters, params = adapters_of(chosen), params_of()
    wanted = logits(lora.merge(CONFIG, params, adapters, chosen))
    assert relative(logits(lora.attach(CONFIG, params, adapters, chosen)), wanted) <= 1e-5
    assert relative(logits(params), wanted) > 0.05


def test_merging_is_the_formula() -> None:
    """In float64, of matrices as the file has them."""
    params, adapters = params_of(), adapters_of()
    merged = lora.merge(CONFIG, params, adapters, LORA)
    for row in layout.rows(CONFIG):
        ours, weight = layout.leaf(merged, row), layout.leaf(params, row)
        if row not in layout.MATRICES:
            assert ours is weight
            continue
        out, inside = row.hf_shape(CONFIG)
        pair = {name: np.asarray(x, np.float64) for name, x in layout.leaf(adapters, row).items()}
        for layer in range(3):
            down, up = pair["down"][layer].reshape(3, inside), pair["up"][layer].reshape(out, 3)
            wanted = np.asarray(weight[layer], np.float64).reshape(out, inside) + 1.5 * up @ down
            assert relative(ours[layer].reshape(out, inside), wanted) <= 1e-6


def test_adapters_follow_the_targets() -> None:
    chosen = Lora(targets=("v", "down"))
    made = lora.init(CONFIG, chosen, jax.random.key(0))
    assert {kind: set(pairs) for kind, pairs in made["layers"].items()} == {
        "attn": {"v"},
        "mlp": {"down"},
    }
    attached = lora.attach(CONFIG, params_of(), made, chosen)
    is_adapted = {
        row.path: isinstance(layout.leaf(attached, row), lora.Adapted)
        for row in layout.rows(CONFIG)
    }
    assert [path[-1] for path, is_one in is_adapted.items() if is_one] == ["v", "down"]
    jax.tree.map(
        lambda a, b: None if a is b else pytest.fail("copied"), lora.detach(attached), params_of()
    )


@pytest.mark.parametrize("remat", REMATS)
def test_gradients_are_those_through_the_merged_matrix(remat: str) -> None:
    value, ours = compiled(lora.attach, remat)(adapters_of(), params_of())
    wanted_value, wanted = compiled(lora.merge)(adapters_of(), params_of())
    assert relative(value, wanted_value) <= 1e-6
    for path, array in jax.tree_util.tree_leaves_with_path(ours):
        there = functools.reduce(lambda node, key: node[key.key], path, wanted)
        assert relative(array, there) <= 1e-5, path


MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]


@slow
@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
def test_one_device_and_eight(mesh_shape: tuple[int, int, int]) -> None:
    mesh = models.make_mesh(*mesh_shape)
    placed = lora.shardings(CONFIG, LORA, mesh)
    params = jax.device_put(params_of(), sharding.param_shardings(CONFIG, mesh))
    adapters = jax.device_put(adapters_of(), placed)
    wanted_value, wanted = compiled(lora.attach)(adapters_of(), params_of())
    with jax.set_mesh(mesh):
        value, ours = jax.jit(step(lora.attach, "dots"))(adapters, params)
    assert relative(value, wanted_value) <= 1e-5
    assert max(jax.tree.leaves(jax.tree.map(relative, ours, wanted))) <= 1e-5
    # Merging leaves every matrix where it lies, and so does the model that meets both.
    merged = lora.merge(CONFIG, params, adapters, LORA)
    jax.tree.map(
        lambda x, y: (
            None if x.sharding.is_equivalent_to(y.sharding, x.ndim) else pytest.fail(str(x))
        ),
        merged,
        params,
    )
    alone = logits(lora.merge(CONFIG, params_of(), adapters_of(), LORA))
    assert relative(logits(merged), alone) <= 1e-5
    assert relative(logits(lora.attach(CONFIG, params, adapters, LORA)), alone) <= 1e-5


def test_adapters_are_split_as_their_matrix() -> None:
    mesh = models.make_mesh(2, 2, 2)
    specs = {
        f"{kind}/{name}/{part}": tuple(at.spec)
        for kind, pairs in lora.shardings(CONFIG, LORA, mesh)["layers"].items()
        for name, pair in pairs.items()
        for part, at in pair.items()
    }
    assert len(specs) == 14
    assert specs["attn/q/down"] == (None, None, "fsdp")
    assert specs["attn/q/up"] == (None, "tensor", None, None)
    assert specs["attn/o/down"] == (None, None, "tensor", None)
    assert specs["attn/o/up"] == (None, "fsdp", None)
    assert specs["mlp/down/down"] == (None, None, "tensor")
    assert specs["mlp/gate/up"] == (None, "tensor", None)


def test_adapters_are_made_where_they_lie() -> None:
    mesh, chosen = models.make_mesh(2, 2, 2), Lora(rank=3, targets=("q", "down"))
    made = lora.init(CONFIG, chosen, jax.random.key(0), mesh)
    whole = lora.init(CONFIG, chosen, jax.random.key(0))
    placed = lora.shardings(CONFIG, chosen, mesh)
    jax.tree.map(lambda x, at: None if x.sharding == at else pytest.fail(str(x)), made, placed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), made, whole)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), whole)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), lora.abstract(CONFIG, chosen)) == shapes


@slow
def test_bfloat16_beside_float32() -> None:
    """A bfloat16 model computes in bfloat16; the adapters and their gradients stay float32."""
    params, adapters = params_of(jnp.bfloat16), adapters_of()
    _, ours = compiled(lora.attach, "block", jnp.bfloat16)(adapters, params)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    _, wanted = compiled(lora.attach)(adapters, exact)
    for path, array in jax.tree_util.tree_leaves_with_path(ours):
        there = functools.reduce(lambda node, key: node[key.key], path, wanted)
        assert array.dtype == jnp.float32
        # bfloat16 keeps 8 bits, and errors of three layers add up: 2.2 % to 3.5 % was measured.
        assert relative(array, there) <= 0.06, path
        # Numbers that had been rounded to bfloat16 on their way would be the same in it.
        assert np.any(np.asarray(array) != np.asarray(array.astype(jnp.bfloat16), np.float32))
    merged = lora.merge(CONFIG, params, adapters, LORA)
    for row in layout.MATRICES:
        weight = layout.leaf(merged, row)
        assert weight.dtype == jnp.bfloat16
        # Rounded once, from float32.
        whole = layout.leaf(lora.merge(CONFIG, exact, adapters, LORA), row)
        np.testing.assert_array_equal(weight, whole.astype(jnp.bfloat16))


def products(program: str) -> set[int]:
    """How many numbers the results of a compiled program's matrix products have."""
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* dot\(", program)
    return {math.prod(map(int, shape.split(","))) for shape in shapes}


def everything(program: str) -> set[int]:
    """How many numbers any array has that the program computes, inputs and loop carries aside."""
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* (?:dot|fusion|broadcast|add|scatter)\(", program)
    return {math.prod(map(int, shape.split(","))) for shape in shapes}


@pytest.mark.parametrize("remat", REMATS)
def test_no_gradient_of_a_frozen_matrix_is_made(remat: str) -> None:
    """Where it is merged, one is: that is how this test sees what it looks for."""
    thin, full = compiled(lora.attach, remat).as_text(), compiled(lora.merge).as_text()
    sizes = {math.prod(row.layer_shape(CONFIG)) for row in layout.MATRICES}
    assert len(sizes) == 3  # q and o, k and v, the SwiGLU's
    assert sizes <= products(full)
    assert not sizes & products(thin)
    # Nor is there a place for all layers' gradients of one.
    stacks = {3 * size for size in sizes}
    assert stacks <= everything(full)
    assert not stacks & everything(thin)


@slow
def test_decoding_with_adapters() -> None:
    params, adapters = params_of(), adapters_of()
    ways = (join(CONFIG, params, adapters, LORA) for join in (lora.attach, lora.merge))
    a, b = (models.greedy(way, CONFIG, TOKENS, LENGTHS, max_new_tokens=6) for way in ways)
    np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)


def test_what_is_merged_is_a_model(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "base")
    base = models.load(folder)
    adapters = adapters_of(LORA, base.config)
    merged = lora.merge(base.config, base.params, adapters, LORA)
    models.save(tmp_path / "out", base.config, merged, like=folder)
    again = models.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.params, merged)
    rows = tiny.rows(1, [6, 6]), np.array([6, 6])
    attached = lora.attach(base.config, base.params, adapters, LORA)
    wanted = models.logits(attached, base.config, *rows)
    assert relative(models.logits(again.params, again.config, *rows), wanted) <= 1e-5


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rank": 0}, "lora.rank must be at least 1, got 0"),
        ({"alpha": 0.0}, "lora.alpha must be a number above 0, got 0.0"),
        ({"alpha": math.nan}, "lora.alpha must be a number above 0, got nan"),
        ({"targets": ()}, "lora.targets must be some of q, k, v, o, gate, up, down, got ()"),
        ({"targets": ("q", "gates")}, "there is no matrix 'gates': did you mean gate?"),
        ({"targets": ("w_1",)}, "no matrix 'w_1': they are q, k, v, o, gate, up, down"),
        ({"targets": ("q", "v", "q")}, "lora.targets: q stands twice in ('q', 'v', 'q')"),
    ],
)
def test_nonsense_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="lora") as caught:
        Lora(**given)
    assert sentence in str(caught.value)


def test_a_word_is_no_list_of_targets() -> None:
    """Where no types are checked, as outside of tests, its letters would be taken for names."""
    word = Lora()
    object.__setattr__(word, "targets", "qkv")
    with pytest.raises(ValueError, match="must be some of q, k, v, o, gate, up, down, got 'qkv'"):
        word.__post_init__()


@pytest.mark.parametrize("join", [lora.attach, lora.merge])
def test_adapters_of_another_kind_are_refused(join: Join) -> None:
    params = params_of()
    for chosen, sentence in (
        (Lora(rank=3, targets=("q",)), r"adapters hold layers/attn/k/down \(3, 3, 80\), which"),
        (Lora(rank=4), r"adapters: layers/attn/q/down is \(3, 3, 80\), .* asks for \(3, 4, 80\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            join(CONFIG, params, adapters_of(), chosen)
    few = adapters_of(Lora(rank=3, targets=("q",)))
    with pytest.raises(ValueError, match=r"adapters lack layers/attn/k/down \(3, 3, 80\)"):
        join(CONFIG, params, few, LORA)


def test_what_does_not_divide_is_named() -> None:
    mesh = models.make_mesh(1, 1, 3, devices=jax.devices()[:3])
    with pytest.raises(ValueError, match="layers/attn/q: heads = 8 does not divide over 3"):
        lora.shardings(CONFIG, LORA, mesh)


def test_the_equations() -> None:
    assert lora.equations("btd,nhd->btnh") == ("btd,rd->btr", "btr,nhr->btnh")
    assert lora.equations("btnh,dnh->btd") == ("btnh,rnh->btr", "btr,dr->btd")
