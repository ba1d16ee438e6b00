"""One device and eight: the same logits and gradients on every mesh whose axes divide."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from star_jax import models
from star_jax.models import attention, layout, qwen3, sharding
from tests import tiny
from tests.test_qwen3 import mean_nll

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    # The tensor axis is split over query heads; every shard keeps the one key head.
    "one key head": {"num_key_value_heads": 1},
}


CONFIG = models.Qwen3Config(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_layers=4,
    num_heads=8,
    num_kv_heads=8,
    head_dim=16,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    max_position_embeddings=512,
)


@functools.cache
def folder_of(root: Path, name: str) -> Path:
    return tiny.write(root / name, seed=11, **SHAPES[name])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharding")


def value_and_gradient(model: models.Model, batch: tuple[Any, Any]) -> Any:
    def loss(params: Any) -> tuple[Any, Any]:
        logits_BTV = models.logits(params, model.config, *batch)
        return mean_nll(logits_BTV, *batch), logits_BTV

    return jax.grad(loss, has_aux=True)(model.params)


def relative(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def batch_of(rows: int) -> tuple[Any, Any]:
    lengths = [20, 7, 13, 1, 20, 2, 9, 16][:rows]
    return jnp.asarray(tiny.rows(12, lengths)), jnp.array(lengths)


@functools.cache
def alone(folder: Path, rows: int) -> Any:
    """What one device computes."""
    return value_and_gradient(models.load(folder), batch_of(rows))


slow = pytest.mark.slow
CASES = [
    *[("tied", mesh_shape, 8) for mesh_shape in MESHES],
    *[pytest.param("untied", mesh_shape, 8, marks=slow) for mesh_shape in MESHES],
    *[pytest.param("one key head", mesh_shape, 8, marks=slow) for mesh_shape in MESHES[:2]],
    *[("one key head", mesh_shape, 8) for mesh_shape in MESHES[2:]],
    # 3 rows divide over no mesh: each device then computes them all.
    pytest.param("untied", (1, 8, 1), 3, marks=slow),
    ("tied", (2, 2, 2), 3),
]


@pytest.mark.parametrize(("name", "mesh_shape", "rows"), CASES, ids=str)
def test_same_logits_and_gradients(
    root: Path, name: str, mesh_shape: tuple[int, int, int], rows: int
) -> None:
    folder = folder_of(root, name)
    wanted_gradient, wanted_BTV = alone(folder, rows)
    model = models.load(folder, mesh=models.make_mesh(*mesh_shape))
    tokens_BT, length_B = batch_of(rows)
    gradient, logits_BTV = value_and_gradient(model, (tokens_BT, length_B))
    seen_BT = np.arange(tokens_BT.shape[1])[None] < np.asarray(length_B)[:, None]
    assert relative(np.asarray(logits_BTV)[seen_BT], np.asarray(wanted_BTV)[seen_BT]) <= 1e-5
    for row in layout.rows(model.config):
        ours, wanted = layout.leaf(gradient, row), layout.leaf(wanted_gradient, row)
        assert relative(ours, wanted) <= 1e-5, row.path


@pytest.mark.parametrize("mesh_shape", MESHES, ids=str)
def test_same_greedy_tokens(root: Path, mesh_shape: tuple[int, int, int]) -> None:
    folder = folder_of(root, "tied")
    lengths = np.array([5, 9, 2, 7])
    tokens_BT = tiny.rows(13, lengths.tolist())
    made = [
        models.greedy(model.params, model.config, tokens_BT, lengths, max_new_tokens=8).tokens_BT
        for model in (
            models.load(folder),
            models.load(folder, mesh=models.make_mesh(*mesh_shape)),
        )
    ]
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("name", ["jit", "vmap", "grad"])
def test_parameters_on_a_mesh_inside_a_transformation(root: Path, name: str) -> None:
    """Closed over, as a user would write it."""
    folder = folder_of(root, "tied")
    one, many = models.load(folder), models.load(folder, mesh=models.make_mesh(2, 2, 2))
    tokens_BT, length_B = batch_of(8)

    def run(model: models.Model) -> Any:
        def logits(tokens_BT: Any, length_B: Any) -> Any:
            return models.logits(model.params, model.config, tokens_BT, length_B)

        if name == "jit":
            return jax.jit(logits)(tokens_BT, length_B)
        if name == "vmap":
            return jax.vmap(lambda t, n: logits(t[None], n[None])[0])(tokens_BT, length_B)
        rest = {key: value for key, value in model.params.items() if key != "norm"}

        def loss(norm: Any) -> Any:
            params = {**rest, "norm": norm}
            logits_BTV = models.logits(params, model.config, tokens_BT, length_B)
            return mean_nll(logits_BTV, tokens_BT, length_B)

        return jax.jit(jax.grad(loss))(model.params["norm"])["scale"]

    ours, wanted = np.asarray(run(many)), np.asarray(run(one))
    seen = np.arange(20)[None] < np.asarray(length_B)[:, None] if ours.ndim == 3 else ...
    assert relative(ours[seen], wanted[seen]) <= 1e-5


def test_activations_are_pinned_to_the_mesh(root: Path) -> None:
    """Rows of the logits over data and fsdp, the vocabulary over tensor."""
    model = models.load(folder_of(root, "tied"), mesh=models.make_mesh(2, 2, 2))
    logits_BTV = models.logits(model.params, model.config, *batch_of(8))
    assert logits_BTV.sharding.shard_shape(logits_BTV.shape) == (2, 20, 64)


def test_the_work_is_split() -> None:
    """The compiled step holds a fraction of the parameters and of the activations per device."""
    tokens_BT = jax.ShapeDtypeStruct((16, 64), jnp.int32)
    length_B = jax.ShapeDtypeStruct((16,), jnp.int32)

    def sizes(mesh_shape: tuple[int, int, int]) -> tuple[int, int]:
        mesh = models.make_mesh(*mesh_shape, devices=jax.devices()[: int(np.prod(mesh_shape))])
        placed = sharding.param_shardings(CONFIG, mesh)
        params = jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            layout.abstract(CONFIG, jnp.float32),
            placed,
        )
        rows = sharding.batch_sharding(mesh)

        def loss(params: Any, tokens_BT: Any, length_B: Any) -> Any:
            places = attention.padded(length_B, 64)
            hidden_BTD, _ = qwen3.hidden(params, CONFIG, tokens_BT, places)
            return mean_nll(qwen3.project(params, CONFIG, hidden_BTD), tokens_BT, length_B)

        with jax.set_mesh(mesh):
            step = jax.jit(jax.grad(loss), in_shardings=(placed, rows, rows), out_shardings=placed)
            memory = step.lower(params, tokens_BT, length_B).compile().memory_analysis()
        return memory.argument_size_in_bytes, memory.temp_size_in_bytes

    whole, whole_work = sizes((1, 1, 1))
    for mesh_shape, share in (((1, 8, 1), 8), ((1, 1, 8), 8), ((2, 2, 2), 4)):
        part, work = sizes(mesh_shape)
        assert part < 1.1 * whole / share + 20_000  # norms and tokens are small and stay whole
        assert work < 0.6 * whole_work


def test_init_is_made_where_it_lies() -> None:
    mesh = models.make_mesh(2, 2, 2)
    params = models.init(CONFIG, jax.random.key(0), mesh=mesh)
    placed = sharding.param_shardings(CONFIG, mesh)
    jax.tree.map(lambda x, at: None if x.sharding == at else pytest.fail(str(x)), params, placed)
    whole = models.init(CONFIG, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, whole)


def test_a_mesh_made_by_hand(root: Path) -> None:
    """Any axes of ours in any order; what is absent counts one device."""
    folder = folder_of(root, "tied")
    auto = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((4, 2), ("tensor", "data"), axis_types=auto)
    model = models.load(folder, mesh=mesh)
    tokens_BT, length_B = tiny.rows(1, [6, 6]), np.array([6, 6])
    one = models.load(folder)
    np.testing.assert_allclose(
        models.logits(model.params, model.config, tokens_BT, length_B),
        models.logits(one.params, one.config, tokens_BT, length_B),
        atol=1e-5,
    )


def test_errors_name_both_numbers(root: Path) -> None:
    folder = folder_of(root, "tied")
    three = models.make_mesh(1, 1, 3, devices=jax.devices()[:3])
    with pytest.raises(
        ValueError, match="embed: vocab = 128 does not divide over 3 devices of mesh"
    ):
        models.load(folder, mesh=three)
    narrow = tiny.write(root / "narrow", hidden_size=60)
    with pytest.raises(
        ValueError, match="embed = 60 does not divide over 8 devices of mesh axis 'fsdp'"
    ):
        models.load(narrow, mesh=models.make_mesh(1, 8, 1))
    # 4 key heads over 8 shards are kept whole; 6 over 4 cannot be.
    six = tiny.write(root / "six", num_attention_heads=12, num_key_value_heads=6)
    with pytest.raises(ValueError, match="kv_heads = 6 does not divide over 4 devices"):
        models.load(six, mesh=models.make_mesh(2, 1, 4))
    models.load(folder, mesh=models.make_mesh(1, 1, 8))
    with pytest.raises(ValueError, match=r"a mesh of \(3, 1, 1\) needs 3 devices, there are 8"):
        models.make_mesh(3, 1, 1)
    with pytest.raises(ValueError, match=r"a mesh of \(-1, 3, 1\) does not divide 8 devices"):
        models.make_mesh(-1, 3, 1)
    with pytest.raises(ValueError, match="at most one of them -1"):
        models.make_mesh(-1, -1, 1)
    with pytest.raises(ValueError, match="mesh axis 'model' is unknown"):
        models.load(folder, mesh=jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,)))
    with pytest.raises(ValueError, match=r"mesh axis 'data' is not AxisType.Auto"):
        models.load(folder, mesh=jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,)))


def test_the_batch_is_split_over_data_and_fsdp() -> None:
    mesh = models.make_mesh(2, 2, 2)
    rows = jax.device_put(jnp.zeros((8, 3)), sharding.batch_sharding(mesh))
    assert {shard.data.shape for shard in rows.addressable_shards} == {(2, 3)}
    whole = jax.device_put(jnp.zeros((8, 3)), sharding.batch_sharding(models.make_mesh(1, 1, 8)))
    assert {shard.data.shape for shard in whole.addressable_shards} == {(8, 3)}
