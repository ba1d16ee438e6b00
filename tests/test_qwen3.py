"""The model against a NumPy transcription of its equations, and against itself in other forms."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import models
from star_jax.models import attention, layout, qwen3
from tests import oracle, tiny

VARIANTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "one key head": {"num_key_value_heads": 1},
    "as many key heads": {"num_key_value_heads": 8, "head_dim": 8},
    "odd sizes": {
        "hidden_size": 40,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 10,
        "intermediate_size": 56,
        "vocab_size": 97,
        "num_hidden_layers": 3,
    },
    "rms_norm_eps": {"rms_norm_eps": 1e-2},
    "theta": {"rope_theta": 5e6},
    "theta, newer spelling": {
        "rope_theta": ...,
        "rope_scaling": ...,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
        "torch_dtype": ...,
        "dtype": "float32",
    },
    "bfloat16 sharded": {"torch_dtype": "bfloat16", "shards": 3},
    "float16": {"torch_dtype": "float16"},
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_follow_the_equations(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tiny.write(tmp_path / "m", seed=1, **changes)
    model = models.load(folder)
    lengths = [17, 5, 1]
    tokens_BT = tiny.rows(2, lengths, vocab=model.config.vocab_size)
    ours_BTV = models.logits(model.params, model.config, tokens_BT, np.array(lengths))
    assert ours_BTV.dtype == jnp.float32
    for row, length, ours_TV in zip(tokens_BT, lengths, np.asarray(ours_BTV), strict=True):
        wanted_TV = oracle.logits(folder, row[:length].tolist())
        assert np.abs(wanted_TV).max() > 0.5  # the comparison below means something
        np.testing.assert_allclose(ours_TV[:length], wanted_TV, atol=2e-5, rtol=0)


def test_theta_changes_the_logits(tmp_path: Path) -> None:
    tokens_BT, length_B = tiny.rows(0, [12]), np.array([12])
    seen = []
    for theta in (1e6, 5e6):
        model = models.load(tiny.write(tmp_path / f"{theta}", rope_theta=theta))
        seen.append(np.asarray(models.logits(model.params, model.config, tokens_BT, length_B)))
    assert np.abs(seen[0] - seen[1])[0, 2:].max() > 1e-4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> models.Model:
    return models.load(tiny.write(tmp_path_factory.mktemp("model") / "m", seed=3))


def loss(params: Any, config: models.Qwen3Config, tokens_BT: Any, length_B: Any, **how: Any) -> Any:
    """Mean negative log-probability of the next tokens, as any user would write it."""
    places = attention.padded(length_B, tokens_BT.shape[1])
    hidden_BTD, _ = qwen3.hidden(params, config, tokens_BT, places, **how)
    logits_BTV = qwen3.project(params, config, hidden_BTD)
    return mean_nll(logits_BTV, tokens_BT, length_B)


def mean_nll(logits_BTV: Any, tokens_BT: Any, length_B: Any) -> Any:
    logp_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    logp_BT = jnp.take_along_axis(logp_BTV, tokens_BT[:, 1:, None], axis=-1)[..., 0]
    seen_BT = jnp.arange(1, tokens_BT.shape[1])[None, :] < length_B[:, None]
    return -jnp.where(seen_BT, logp_BT, 0).sum() / seen_BT.sum()


@pytest.mark.slow
def test_gradient_matches_finite_differences(model: models.Model) -> None:
    """Along a random direction of every parameter, in float32."""
    tokens_BT, length_B = jnp.asarray(tiny.rows(4, [9, 6])), jnp.array([9, 6])
    at = jax.jit(lambda params: loss(params, model.config, tokens_BT, length_B))
    gradient = jax.grad(at)(model.params)
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    for i, (leaf, key) in enumerate(zip(leaves, keys, strict=True)):
        direction = jax.random.normal(key, leaf.shape) * jnp.abs(leaf).mean()
        step = 2e-3
        ends = [
            at(tree.unflatten([*leaves[:i], leaf + sign * step * direction, *leaves[i + 1 :]]))
            for sign in (1, -1)
        ]
        slope = float(ends[0] - ends[1]) / (2 * step)
        wanted = float(jnp.vdot(jax.tree.leaves(gradient)[i], direction))
        assert slope == pytest.approx(wanted, rel=0.02, abs=2e-3)


@pytest.mark.parametrize("remat", ["dots", "block"])
def test_remat_changes_memory_not_gradients(model: models.Model, remat: qwen3.Remat) -> None:
    tokens_BT, length_B = jnp.asarray(tiny.rows(5, [20, 11])), jnp.array([20, 11])

    def gradient(how: qwen3.Remat) -> Any:
        run = jax.jit(
            lambda params: jax.grad(loss)(params, model.config, tokens_BT, length_B, remat=how)
        )
        return run(model.params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        gradient(remat),
        gradient("none"),
    )


def test_remat_keeps_less(model: models.Model) -> None:
    config = dataclasses.replace(model.config, num_layers=8)
    params = models.init(config, jax.random.key(0))
    tokens_BT, length_B = jnp.ones((4, 128), jnp.int32), jnp.full(4, 128)

    def temporary_bytes(how: qwen3.Remat) -> int:
        run = jax.jit(lambda params: jax.grad(loss)(params, config, tokens_BT, length_B, remat=how))
        return run.lower(params).compile().memory_analysis().temp_size_in_bytes

    none, dots, block = (temporary_bytes(how) for how in ("none", "dots", "block"))
    assert block < dots < none


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compute_dtype_follows_the_parameters(tmp_path: Path, dtype: str) -> None:
    folder = tiny.write(tmp_path / "m", seed=6)
    tokens_BT, length_B = jnp.asarray(tiny.rows(6, [14])), jnp.array([14])
    model = models.load(folder, dtype=dtype)
    places = attention.padded(length_B, 14)
    hidden_BTD, _ = qwen3.hidden(model.params, model.config, tokens_BT, places)
    assert hidden_BTD.dtype == dtype
    exact_TV = oracle.logits(folder, tokens_BT[0].tolist())
    ours_TV = models.logits(model.params, model.config, tokens_BT, length_B)[0]
    assert ours_TV.dtype == jnp.float32
    # bfloat16 has 8 bits of mantissa: a few percent of logits of a few units.
    tolerance = {"float32": 2e-5, "bfloat16": 0.15}[dtype]
    np.testing.assert_allclose(ours_TV, exact_TV, atol=tolerance, rtol=0)


def test_bfloat16_compute_over_float32_weights(model: models.Model) -> None:
    tokens_BT, length_B = jnp.asarray(tiny.rows(7, [14])), jnp.array([14])
    gradient = jax.grad(loss)(model.params, model.config, tokens_BT, length_B, dtype=jnp.bfloat16)
    exact = jax.grad(loss)(model.params, model.config, tokens_BT, length_B)
    for ours, wanted in zip(jax.tree.leaves(gradient), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == jnp.float32
        error = jnp.linalg.norm(ours - wanted) / jnp.linalg.norm(wanted)
        assert 0 < error < 0.05


def test_a_frequent_token_keeps_its_gradient() -> None:
    """2,000 equal gradients add up to 2,000, in bfloat16 too, where a running sum stops at 256."""
    for dtype in (jnp.float32, jnp.bfloat16):
        table_VD = jnp.zeros((4, 2), dtype)
        tokens_BT = jnp.ones((2, 1000), jnp.int32)

        def total(table_VD: Any, tokens_BT: Any = tokens_BT) -> Any:
            return (
                qwen3.embed({"embed": table_VD}, tokens_BT, jnp.bfloat16).astype(jnp.float32).sum()
            )

        gradient_VD = jax.grad(total)(table_VD)
        assert gradient_VD.dtype == dtype
        assert gradient_VD[:, 0].tolist() == [0, 2000, 0, 0]


def equations(jaxpr: Any) -> Any:
    """Every equation of a program, those inside its loops and calls too."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                if hasattr(inner, "jaxpr"):
                    inner = inner.jaxpr
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_what_is_float32_in_the_program(model: models.Model, dtype: Any) -> None:
    """Softmax, norms, rotation, logits and weights' gradients; and float32 products are exact."""
    tokens_BT, length_B = jnp.asarray(tiny.rows(7, [14])), jnp.array([14])
    value = functools.partial(
        loss, config=model.config, tokens_BT=tokens_BT, length_B=length_B, dtype=dtype
    )
    forward, both = (
        list(equations(jax.make_jaxpr(run)(model.params).jaxpr)) for run in (value, jax.grad(value))
    )
    for equation in both:
        dtypes = {value.aval.dtype for value in (*equation.invars, *equation.outvars)}
        if equation.primitive.name in ("exp", "rsqrt", "reduce_sum", "reduce_max", "cos"):
            assert jnp.bfloat16 not in dtypes, equation
    products = {
        id(program): [step for step in program if step.primitive.name == "dot_general"]
        for program in (forward, both)
    }
    if dtype == jnp.float32:
        for equation in products[id(both)]:
            assert equation.params["precision"] == (jax.lax.Precision.HIGHEST,) * 2
    scores = [step for step in products[id(forward)] if step.outvars[0].aval.ndim == 5]
    # The first of the two is q · k; the weighted sum of values follows it.
    assert scores[0].outvars[0].aval.dtype == jnp.float32
    for equation in products[id(both)]:
        out = equation.outvars[0].aval
        if 128 in out.shape or 14 not in out.shape:  # logits, and sums over the 14 tokens
            assert out.dtype == jnp.float32, equation
    assert {"exp", "rsqrt", "cos"} <= {equation.primitive.name for equation in both}


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        ([[1, 2]], [3], "length 3 is outside 0 to 2"),
        ([[1, 2]], [-1], "length -1 is outside"),
        ([[1, 128]], [2], "token 128 is outside 0 to 127"),
        ([[-1, 2]], [2], "token -1 is outside"),
        ([[1, 2], [3, 4]], [2], "2 rows of tokens need 2 lengths, got 1"),
        ([1, 2], [2], "tokens must be 2-D integers, got int64"),
        ([[1.0, 2.0]], [2], "tokens must be 2-D integers, got float64"),
        ([[1, 2]], [[2]], "lengths must be 1-D integers"),
    ],
)
def test_rows_that_are_none(model: models.Model, tokens: Any, lengths: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        qwen3.check_rows(model.params, model.config, np.array(tokens), np.array(lengths))


def test_a_config_of_other_parameters(model: models.Model) -> None:
    deeper = dataclasses.replace(model.config, num_layers=5)
    rows = tiny.rows(0, [4]), np.array([4])
    with pytest.raises(
        ValueError, match=r"attn_norm/scale is .2, 64., this config asks for .5, 64."
    ):
        models.logits(model.params, deeper, *rows)
    with pytest.raises(ValueError, match="this config asks for"):
        models.greedy(model.params, deeper, *rows, max_new_tokens=2)
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1, got 0"):
        models.greedy(model.params, model.config, *rows, max_new_tokens=0)


def full_forward_greedy(model: models.Model, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    room = len(prompt) + count
    for _ in range(count):
        tokens_BT = np.array([ids + [0] * (room - len(ids))], np.int32)
        logits_BTV = models.logits(model.params, model.config, tokens_BT, np.array([len(ids)]))
        ids.append(int(jnp.argmax(logits_BTV[0, len(ids) - 1])))
    return ids[len(prompt) :]


def test_cached_decode_is_the_full_forward(model: models.Model) -> None:
    lengths = [11, 3, 7]
    tokens_BT = tiny.rows(8, lengths)
    made = models.greedy(
        model.params, model.config, tokens_BT, np.array(lengths), max_new_tokens=10
    )
    for row, length, ours in zip(tokens_BT, lengths, np.asarray(made.tokens_BT), strict=True):
        assert ours.tolist() == full_forward_greedy(model, row[:length].tolist(), 10)
    assert made.length_B.tolist() == [10, 10, 10]


def test_cached_logits_equal_full_logits(model: models.Model) -> None:
    """Every position of every row: read 4 tokens at once, then one by one."""
    lengths = np.array([12, 9])
    tokens_BT = jnp.asarray(tiny.rows(9, [12, 9]))
    full_BTV = models.logits(model.params, model.config, tokens_BT, lengths)
    begun = jnp.array([4, 4])
    logits_BV, cache = models.prefill(model.params, model.config, tokens_BT[:, :4], begun, 12)
    layers = models.unstack(model.params, model.config)
    for t in range(4, 12):
        live = lengths >= t
        np.testing.assert_allclose(logits_BV[live], full_BTV[live, t - 1], atol=1e-5)
        logits_BV, cache = models.decode(model.params, layers, model.config, tokens_BT[:, t], cache)
    assert cache.length_B.tolist() == [12, 12]


def test_greedy_stops_where_it_should(model: models.Model) -> None:
    lengths = [11, 3, 7]
    tokens_BT = tiny.rows(8, lengths)
    run = lambda **how: models.greedy(  # noqa: E731
        model.params, model.config, tokens_BT, np.array(lengths), max_new_tokens=10, **how
    )
    free_BT = np.asarray(run().tokens_BT)
    stop = int(free_BT[0, 4])
    made = run(stop_ids=(stop,))
    for ours, count, free in zip(
        np.asarray(made.tokens_BT), made.length_B.tolist(), free_BT.tolist(), strict=True
    ):
        wanted = free[: free.index(stop) + 1] if stop in free else free
        assert ours.tolist() == wanted + [0] * (10 - len(wanted))
        assert count == len(wanted)
    with pytest.raises(ValueError, match="2048 positions"):
        models.greedy(model.params, model.config, tokens_BT, np.array(lengths), max_new_tokens=2048)
    with pytest.raises(ValueError, match="no room for rows of 11"):
        models.prefill(model.params, model.config, tokens_BT, np.array(lengths), 8)


def test_a_step_moves_nothing_between_host_and_device(
    model: models.Model, no_transfers: Callable[[], AbstractContextManager[None]]
) -> None:
    tokens_BT, length_B = jnp.asarray(tiny.rows(1, [8])), jnp.array([8])
    step = jax.jit(lambda params, *batch: jax.grad(loss)(params, model.config, *batch))
    step(model.params, tokens_BT, length_B)
    with no_transfers():
        jax.block_until_ready(step(model.params, tokens_BT, length_B))


@pytest.mark.slow
def test_init_is_what_the_table_says() -> None:
    config = models.Qwen3Config(
        vocab_size=300,
        hidden_size=128,
        intermediate_size=200,
        num_layers=3,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        max_position_embeddings=512,
        initializer_range=0.05,
    )
    params = models.init(config, jax.random.key(0), jnp.bfloat16)
    wanted = layout.abstract(config, jnp.bfloat16)
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    for row in layout.rows(config):
        ours = layout.leaf(params, row)
        assert (ours.shape, ours.dtype) == (row.shape(config), jnp.bfloat16)
        if row.path[-1] == "scale":
            assert (ours == 1).all()
        else:
            assert float(ours.astype(jnp.float32).std()) == pytest.approx(0.05, rel=0.05)
            assert not jnp.array_equal(ours[0], ours[1])  # layers, and rows, differ
    assert sum(x.size for x in jax.tree.leaves(params)) == layout.count(config)
