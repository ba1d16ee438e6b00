"""One contract on every backend: what a token may see, shown by changing what it may not.

CPU has the einsum path, whole and in query blocks, and the TPU kernel under Pallas' interpreter;
cuDNN and the compiled kernel are tried where their hardware is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import models
from star_jax.models import attention, qwen3
from star_jax.models.attention import Places
from tests import tiny

CONFIG = models.Qwen3Config(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rope_theta=1e4,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    max_position_embeddings=2048,
    initializer_range=0.2,
)
T = 24
PATHS = ["xla", "xla in blocks", "splash"]


@pytest.fixture(scope="class", params=PATHS)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Route `within` through one implementation, whatever the device."""
    with pytest.MonkeyPatch.context() as patch:
        jax.clear_caches()
        if request.param == "xla in blocks":
            patch.setattr(attention, "QUERY_BLOCK", 5)  # 24 tokens: (5 + 5) + (5 + 5) + (4)
            patch.setattr(attention, "SPANS", 3)
        if request.param == "splash":
            splash = functools.partial(attention._splash, interpret=True)
            patch.setattr(attention, "_splash", splash)
            patch.setattr(attention, "choose", lambda backend, q: "splash")
        yield request.param
    jax.clear_caches()


def config_and_rows(path: str) -> tuple[models.Qwen3Config, int]:
    """The kernel takes rows and heads of 128."""
    if path != "splash":
        return CONFIG, T
    return dataclasses.replace(CONFIG, head_dim=128), 128


def params_of(config: models.Qwen3Config) -> Any:
    return models.init(config, jax.random.key(1))


@functools.partial(jax.jit, static_argnames="config")
def probe(config: Any, params: Any, tokens_BT: Any, places: Places, weight_BT: Any) -> Any:
    """Gradient of a weighted sum of log-probabilities over positions, and the hidden states."""

    def loss(params: Any) -> tuple[Any, Any]:
        hidden_BTD, _ = qwen3.hidden(params, config, tokens_BT, places)
        logp_BTV = jax.nn.log_softmax(qwen3.project(params, config, hidden_BTD))
        return (logp_BTV[:, :, 3] * weight_BT).sum(), hidden_BTD

    return jax.grad(loss, has_aux=True)(params)


def places_of(length_B: Any, T: int) -> Places:
    """Padded rows, told by their segments: one compilation serves them and packed ones."""
    return attention.padded(length_B, T)._replace(length_B=None)


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


class TestEveryPath:
    """One compilation of `probe` a path serves most of these."""

    def test_causality(self, path: str) -> None:
        config, T = config_and_rows(path)
        tokens_BT = tiny.rows(0, [T, T])
        params = params_of(config)
        places = places_of(jnp.array([T, T]), T)
        for t in (1, T // 2, T - 1):
            weight_BT = np.tile(np.arange(T) < t, (2, 1)).astype(np.float32)
            run = functools.partial(probe, config, params, places=places, weight_BT=weight_BT)
            changed_BT = tokens_BT.copy()
            changed_BT[:, t:] = 7 + tokens_BT[:, t:] % 100
            assert (changed_BT[:, t] != tokens_BT[:, t]).all()
            gradient, hidden_BTD = jax.device_get(run(tokens_BT=tokens_BT))
            other_gradient, other_BTD = jax.device_get(run(tokens_BT=changed_BT))
            assert_same(hidden_BTD[:, :t], other_BTD[:, :t])
            assert_same(gradient, other_gradient)
            # The change is seen where it may be, so the equality above is not that of a dead model.
            assert (hidden_BTD[:, t:] != other_BTD[:, t:]).any(axis=-1).all()

    def test_padding(self, path: str) -> None:
        config, T = config_and_rows(path)
        lengths = [T - 5, 3]
        tokens_BT = tiny.rows(1, lengths, T=T)
        seen_BT = np.arange(T)[None] < np.array(lengths)[:, None]
        places = places_of(jnp.array(lengths), T)
        weight_BT = seen_BT.astype(np.float32)
        run = functools.partial(
            probe, config, params_of(config), places=places, weight_BT=weight_BT
        )
        changed_BT = np.where(seen_BT, tokens_BT, 99)
        gradient, hidden_BTD = jax.device_get(run(tokens_BT=tokens_BT))
        other_gradient, other_BTD = jax.device_get(run(tokens_BT=changed_BT))
        assert_same(hidden_BTD[seen_BT], other_BTD[seen_BT])
        assert_same(gradient, other_gradient)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, hidden_BTD)))

    def test_packing(self, path: str) -> None:
        """Three segments and padding: each is what it is alone, and no other reaches it."""
        config, T = config_and_rows(path)
        params = params_of(config)
        bounds = [(0, 9), (9, 10), (10, T - 4)]
        segment_BT = np.zeros((2, T), np.int32)
        for number, (start, end) in enumerate(bounds, start=1):
            segment_BT[0, start:end] = number
        segment_BT[1, :5] = 1
        places = attention.packed(jnp.asarray(segment_BT))
        tokens_BT = tiny.rows(2, [T, T])
        for start, end in bounds:
            own_BT = np.zeros((2, T), bool)
            own_BT[0, start:end] = True
            weight_BT = own_BT.astype(np.float32)
            run = functools.partial(probe, config, params, places=places, weight_BT=weight_BT)
            changed_BT = np.where(own_BT, tokens_BT, 11)
            gradient, hidden_BTD = jax.device_get(run(tokens_BT=tokens_BT))
            other_gradient, other_BTD = jax.device_get(run(tokens_BT=changed_BT))
            assert_same(hidden_BTD[own_BT], other_BTD[own_BT])
            assert_same(gradient, other_gradient)
            alone_BT = np.zeros_like(tokens_BT)
            alone_BT[0, : end - start] = tokens_BT[0, start:end]
            alone = places_of(jnp.array([end - start, 0]), T)
            _, alone_BTD = jax.device_get(
                probe(config, params, alone_BT, alone, np.zeros_like(weight_BT))
            )
            np.testing.assert_allclose(
                hidden_BTD[0, start:end], alone_BTD[0, : end - start], rtol=2e-5, atol=2e-5
            )

    def test_paths_agree_with_one_einsum(self, path: str) -> None:
        config, T = config_and_rows(path)
        q_key, k_key, v_key = jax.random.split(jax.random.key(0), 3)
        N, K, H = config.num_heads, config.num_kv_heads, config.head_dim
        q_BTNH = jax.random.normal(q_key, (2, T, N, H))
        k_BTKH = jax.random.normal(k_key, (2, T, K, H))
        v_BTKH = jax.random.normal(v_key, (2, T, K, H))
        segment_BT = jnp.array([[1] * 10 + [2] * (T - 10), [1] * (T - 4) + [0] * 4])
        for places in (attention.packed(segment_BT), attention.padded(jnp.array([T, T - 4]), T)):
            seen_BT = np.asarray(places.segment_BT) > 0
            weight_BT = jnp.asarray(seen_BT, jnp.float32)[:, :, None, None]

            def value(attend: Any, *qkv: Any, weight: Any = weight_BT) -> tuple[Any, Any]:
                out = attend(*qkv)
                return (jnp.sin(out) * weight).sum(), out

            both = []
            for attend in (
                functools.partial(attention.within, places=places),
                functools.partial(attention.cross, query=places, key=places),
            ):
                run = jax.grad(functools.partial(value, attend), argnums=(0, 1, 2), has_aux=True)
                both.append(jax.jit(run)(q_BTNH, k_BTKH, v_BTKH))
            (gradient, out), (wanted_gradient, wanted) = both
            np.testing.assert_allclose(
                np.asarray(out)[seen_BT], np.asarray(wanted)[seen_BT], rtol=1e-5, atol=1e-5
            )
            for ours, theirs in zip(gradient, wanted_gradient, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_blocks_keep_no_square_of_scores() -> None:
    """The backward pass of a long row holds blocks, not [N, T, T]."""
    T, N, H = 4096, 4, 16
    x_BTNH = jax.ShapeDtypeStruct((1, T, N, H), jnp.float32)
    places = attention.padded(jnp.array([T]), T)

    def temporary_bytes(attend: Any) -> int:
        run = jax.jit(jax.grad(lambda q, k, v: attend(q, k, v).sum(), argnums=(0, 1, 2)))
        compiled = run.lower(x_BTNH, x_BTNH, x_BTNH).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    square = N * T * T * 4
    whole = temporary_bytes(functools.partial(attention.cross, query=places, key=places))
    blocks = temporary_bytes(functools.partial(attention.within, places=places, backend="xla"))
    assert whole > square
    assert blocks < square / 2


def test_positions_of_packed_rows() -> None:
    segment_BT = jnp.array([[1, 1, 1, 2, 3, 3, 0, 0], [4, 4, 9, 9, 9, 9, 9, 0]])
    places = attention.packed(segment_BT)
    assert places.position_BT.tolist() == [[0, 1, 2, 0, 0, 1, 0, 1], [0, 1, 0, 1, 2, 3, 4, 0]]
    assert places.length_B is None
    seen_TT = attention.visible(places, places)[0]
    assert seen_TT[2].tolist() == [True, True, True, False, False, False, False, False]
    assert seen_TT[5].tolist() == [False, False, False, False, True, True, False, False]
    assert not seen_TT[6].any()


def test_a_number_that_comes_back_is_another_segment() -> None:
    places = attention.packed(jnp.array([[1, 1, 2, 2, 1, 1, 0, 1]]))
    assert places.position_BT.tolist() == [[0, 1, 0, 1, 0, 1, 0, 0]]
    seen_TT = attention.visible(places, places)[0]
    assert not np.triu(np.asarray(seen_TT), 1).any()
    assert seen_TT[4].tolist() == [False] * 4 + [True] + [False] * 3
    assert seen_TT.sum() == 3 + 3 + 3 + 1


def test_splash_on_a_mesh() -> None:
    """One call a device: rows over data and fsdp, heads over tensor where both kinds divide."""
    keys = jax.random.split(jax.random.key(0), 3)
    T, H = 128, 128
    for N, K in ((4, 2), (4, 1)):
        q, k, v = (
            jax.random.normal(key, (4, T, heads, H))
            for key, heads in zip(keys, (N, K, K), strict=True)
        )
        places = attention.packed(jnp.array([[1] * 100 + [0] * 28, [1] * 60 + [2] * 68] * 2))
        with jax.set_mesh(models.make_mesh(2, 2, 2)):
            ours = jax.jit(functools.partial(attention._splash, interpret=True))(q, k, v, places)
        wanted = attention.cross(q, k, v, places, places)
        seen = np.asarray(places.segment_BT) > 0
        np.testing.assert_allclose(
            np.asarray(ours)[seen], np.asarray(wanted)[seen], rtol=1e-4, atol=1e-5
        )


def test_a_backend_that_cannot_run_says_why() -> None:
    q_BTNH = jnp.zeros((1, 100, 2, 16))
    k_BTKH = jnp.zeros((1, 100, 1, 16))
    places = attention.padded(jnp.array([100]), 100)
    with pytest.raises(
        ValueError, match="'splash' can't run here: rows and heads must be multiple"
    ):
        attention.within(q_BTNH, k_BTKH, k_BTKH, places, "splash")
    if jax.default_backend() == "cpu":
        with pytest.raises(ValueError, match="'cudnn' can't run here: it needs an NVIDIA GPU"):
            attention.within(q_BTNH, k_BTKH, k_BTKH, places, "cudnn")
        wide_BTNH = jnp.zeros((1, 128, 2, 128))
        with pytest.raises(ValueError, match="it needs a TPU, this is cpu"):
            attention.choose("splash", wide_BTNH)
        assert attention.choose("auto", wide_BTNH) == "xla"


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_cudnn_agrees_with_the_einsum(kind: str) -> None:
    hardware_agrees("cudnn", "gpu", kind)


@pytest.mark.tpu
@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_splash_agrees_with_the_einsum(kind: str) -> None:
    hardware_agrees("splash", "tpu", kind)


def hardware_agrees(backend: attention.Backend, platform: str, kind: str) -> None:
    """bfloat16, forward and backward, and nothing of the padding or of a neighbour in it."""
    if jax.default_backend() != platform:
        pytest.skip(f"{backend} needs a {platform}, this is {jax.default_backend()}")
    T, N, K, H = 256, 8, 4, 128
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (2, T, heads, H), jnp.bfloat16)
        for key, heads in zip(keys, (N, K, K), strict=True)
    )
    segment_BT = jnp.array([[1] * 100 + [2] * 156, [1] * 200 + [0] * 56])
    places = (
        attention.packed(segment_BT)
        if kind == "packed"
        else attention.padded(jnp.array([T, 200]), T)
    )
    seen_BT = np.asarray(places.segment_BT) > 0
    weight = jnp.asarray(seen_BT, jnp.float32)[:, :, None, None]

    def run(backend: attention.Backend, q: Any, k: Any, v: Any) -> tuple[Any, Any]:
        def value(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
            out = attention.within(q, k, v, places, backend)
            return (jnp.sin(out.astype(jnp.float32)) * weight).sum(), out

        return jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    gradient, out = run(backend, q, k, v)
    wanted_gradient, wanted = run("xla", q, k, v)
    for ours, theirs in zip((*gradient, out), (*wanted_gradient, wanted), strict=True):
        ours, theirs = (np.asarray(x, np.float32)[seen_BT] for x in (ours, theirs))
        assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 1e-2
    hole = ~jnp.asarray(seen_BT)[:, :, None, None]
    other, other_out = run(backend, *(jnp.where(hole, 7.0, x).astype(x.dtype) for x in (q, k, v)))
    np.testing.assert_array_equal(np.asarray(out)[seen_BT], np.asarray(other_out)[seen_BT])
    for ours, theirs in zip(gradient, other, strict=True):
        np.testing.assert_array_equal(np.asarray(ours)[seen_BT], np.asarray(theirs)[seen_BT])
