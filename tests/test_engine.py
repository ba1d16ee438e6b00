"""Qwen3 behind JetStream's interface: its Driver, and step by step by hand."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from star_jax.sampler import Sampler, Settings, jetstream
from star_jax.sampler.jetstream import qwen3
from tests.test_sampler import CONFIG, full_log_probs, model_of

NEW = 24


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(4)
    return [rng.integers(0, CONFIG.vocab_size, rng.integers(1, 60)).tolist() for _ in range(64)]


def make(model: Any, **changes: Any) -> qwen3.Qwen3Engine:
    settings = Settings(max_new_tokens=NEW, seed=3, stop_ids=(7, 11))
    return qwen3.Qwen3Engine(
        model, **{"slots": 8, "max_prompt": 64, "max_new": 32, "settings": settings, **changes}
    )


def test_every_method_of_the_interface_is_there(model: Any) -> None:
    engine = make(model)
    assert isinstance(engine, jetstream.Engine)
    assert (engine.max_concurrent_decodes, engine.samples_per_slot) == (8, 1)
    assert engine.max_prefill_length == 64
    assert engine.mesh.size == 1
    assert engine.colocated_cpus is None
    prefix = engine.prefill(
        params=engine.load_params(), padded_tokens=np.zeros(16, np.int32), true_length=9
    )
    moved = jax.device_put(prefix, engine.get_prefix_destination_sharding())
    state = engine.insert(moved, engine.init_decode_state(), slot=3)
    jax.tree.map(lambda x: x.delete(), moved)  # as Drivers do
    state, result = engine.generate(engine.load_params(), state)
    found = result.convert_to_numpy().get_result_at_slot(3)
    assert (found.valid.tolist(), found.lengths.tolist()) == ([[1]], [1])
    assert result.convert_to_numpy().get_result_at_slot(2).valid.tolist() == [[0]]


@pytest.mark.parametrize("samples", [1, 3])
def test_steps_by_hand_equal_the_sampler(
    model: Any, prompts: list[list[int]], samples: int
) -> None:
    """Prompts come and go; tokens, ends, lengths and log-probs of each are the sampler's."""
    engine = make(model, slots=3, samples=samples)
    params, state = engine.load_params(), engine.init_decode_state()
    wanted = Sampler(model, slots=8, max_len=96).generate(
        prompts[:7], n=samples, max_new_tokens=NEW, seed=3, stop_ids=(7, 11)
    )
    made: dict[tuple[int, int], list[tuple[int, float]]] = {}
    free, waiting, held = [0, 1, 2], list(range(7)), {}
    while waiting or held:
        while free and waiting:
            slot, index = free.pop(), waiting.pop(0)
            tokens = np.array(prompts[index] + [0] * (64 - len(prompts[index])))
            prefix = engine.prefill(
                params=params, padded_tokens=tokens, true_length=len(prompts[index])
            )
            state, held[slot] = engine.insert(prefix, state, slot=slot), index
        state, result = engine.generate(params, state)
        result = result.convert_to_numpy()
        for slot, index in list(held.items()):
            found = result.get_result_at_slot(slot)
            log_p = result.logprobs_at_slot(slot)
            for sample in range(samples):
                if found.valid[sample, 0]:
                    mine = made.setdefault((index, sample), [])
                    mine.append((int(found.tokens[sample, 0]), float(log_p[sample, 0])))
                    assert found.lengths[sample] == len(mine)
            if not found.valid.any():
                del held[slot]
                free.append(slot)
    for index in range(7):
        for sample, theirs in enumerate(wanted[index]):
            tokens, log_p = zip(*made[index, sample], strict=True)
            assert list(tokens) == theirs.tokens.tolist()
            np.testing.assert_allclose(log_p, theirs.logprobs, atol=1e-5)


@pytest.mark.parametrize("interleaved", [True, False])
def test_the_driver_serves_64_requests(
    model: Any, prompts: list[list[int]], interleaved: bool
) -> None:
    if not jetstream.is_installed:
        pytest.skip("google-jetstream is not installed")
    wanted = Sampler(model, slots=16, max_len=96).generate(
        prompts, max_new_tokens=NEW, seed=3, stop_ids=(7, 11)
    )
    engine = make(model)
    params = engine.load_params()
    driver = jetstream.SafeDriver(
        [engine], [engine], [params], [params], interleaved_mode=interleaved
    )
    with driver:
        made = jetstream.serve_tokens(driver, prompts, NEW)
        again = jetstream.serve_tokens(driver, prompts[:5], NEW)
        assert driver.failure is None
    for tokens, (sample,) in zip(made, wanted, strict=True):
        whole = sample.tokens.tolist()
        assert tokens == (whole[:-1] if sample.stopped else whole)
    assert again == made[:5]


def test_weights_are_exchanged_in_the_box(model: Any, prompts: list[list[int]]) -> None:
    engine = make(model)
    box = engine.load_params()

    def first() -> tuple[int, float]:
        tokens = np.array(prompts[0])
        prefix = engine.prefill(params=box, padded_tokens=tokens, true_length=len(tokens))
        state = engine.insert(prefix, engine.init_decode_state(), slot=0)
        _, result = engine.generate(box, state)
        result = result.convert_to_numpy()
        token = int(result.get_result_at_slot(0).tokens[0, 0])
        return token, float(result.logprobs_at_slot(0)[0, 0])

    token, log_p = first()
    assert log_p == pytest.approx(
        full_log_probs(model, prompts[0])[len(prompts[0]) - 1][token], abs=1e-5
    )
    other = jax.tree.map(lambda x: x * 0.7 if x.ndim > 2 else x, model.params)
    box.params = engine.load_params(other).params
    token, log_p = first()
    half = type(model)(CONFIG, other)
    assert log_p == pytest.approx(
        full_log_probs(half, prompts[0])[len(prompts[0]) - 1][token], abs=1e-5
    )


def test_what_it_does_not_do_is_said(model: Any) -> None:
    engine = make(model)
    given = {"params": engine.load_params(), "padded_tokens": np.zeros(64, np.int32)}
    with pytest.raises(ValueError, match="existing_prefix must be None"):
        engine.prefill(existing_prefix=1, true_length=3, **given)
    with pytest.raises(ValueError, match="a prompt has 1 to 64 tokens, got 65"):
        engine.prefill(true_length=65, **given)
