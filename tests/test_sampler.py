"""Samples: what they are, that they do not depend on where they are decoded, what they cost."""

from __future__ import annotations

import functools
import os
import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import models
from star_jax.models import grouped, lora, qwen3
from star_jax.sampler import Sampler, request
from star_jax.sampler.engine import Engine
from tests import tiny
from tests.test_golden import left_aligned

CONFIG = models.Qwen3Config(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-6,
    rope_theta=1e6,
    tie_word_embeddings=True,
    max_position_embeddings=512,
)
LENGTHS = [1, 2, 5, 17, 40, 63, 64, 65, 90, 3]
NEW = 70  # more than the least room for replies, so that rings grow


def model_of(config: models.Qwen3Config = CONFIG, mesh: Any = None, scale: float = 10.0) -> Any:
    """Matrices large enough for distributions with likely and unlikely tokens."""
    params = tiny.params(config, mesh=mesh)
    bigger = jax.tree.map(lambda x: x * scale if x.ndim > 2 else x, params)
    return models.Model(config, bigger)


@pytest.fixture(scope="module")
def model() -> models.Model:
    return model_of()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, CONFIG.vocab_size, size).tolist() for size in LENGTHS]


@pytest.fixture(scope="module")
def wanted(model: models.Model, prompts: list[list[int]]) -> list[list[Any]]:
    """Three samples of each prompt, one row at a time."""
    return Sampler(model, slots=1, max_len=192).generate(prompts, n=3, max_new_tokens=NEW, seed=5)


def tokens(rows: list[list[Any]]) -> list[list[list[int]]]:
    return [[sample.tokens.tolist() for sample in row] for row in rows]


def full_log_probs(model: models.Model, ids: list[int]) -> np.ndarray:
    rows, length = np.array([ids + [0] * (192 - len(ids))]), np.array([len(ids)])
    return np.asarray(jax.nn.log_softmax(models.logits(model.params, model.config, rows, length)))[
        0
    ]


def test_log_probs_are_those_of_a_full_forward(
    model: models.Model, prompts: list[list[int]], wanted: list[list[Any]]
) -> None:
    for prompt, row in zip(prompts, wanted, strict=True):
        for sample in row:
            assert len(sample.tokens) == len(sample.logprobs) == NEW
            assert (sample.end, sample.stopped) == ("length", False)
            log_p_TV = full_log_probs(model, prompt + sample.tokens.tolist())
            seen = log_p_TV[len(prompt) - 1 : len(prompt) - 1 + NEW]
            picked = seen[np.arange(NEW), sample.tokens]
            np.testing.assert_allclose(sample.logprobs, picked, rtol=0, atol=1e-5)
            np.testing.assert_allclose(sample.drawn_logprobs, picked, rtol=0, atol=1e-5)


def test_samples_of_a_group_differ_and_so_do_steps_and_seeds(
    model: models.Model, prompts: list[list[int]], wanted: list[list[Any]]
) -> None:
    for row in tokens(wanted):
        assert len({tuple(sample) for sample in row}) == 3
    sampler = Sampler(model, slots=64, max_len=192)
    draw = functools.partial(sampler.generate, prompts[:3], max_new_tokens=8)
    ways = [draw(seed=5), draw(seed=6), draw(seed=5, step=1), draw(seed=6, step=1)]
    assert len({str(tokens(way)) for way in ways}) == 4
    assert tokens(draw(seed=5)) == [[row[0][:8]] for row in tokens(wanted[:3])]


PLACES: dict[str, dict[str, Any]] = {
    "three slots": {"slots": 3},
    "three slots, nothing shared": {"slots": 3, "share_prompts": False},
    "64 slots": {"slots": 64},
    "64 slots, nothing shared": {"slots": 64, "share_prompts": False},
    "other buckets": {"slots": 8, "rooms": (7, 50, 100), "reply_rooms": (5, 90)},
    "one bucket": {"slots": 5, "rooms": (192,), "reply_rooms": (192,)},
}


@pytest.mark.parametrize("name", PLACES)
def test_samples_do_not_depend_on_where_they_are_decoded(
    model: models.Model, prompts: list[list[int]], wanted: list[list[Any]], name: str
) -> None:
    sampler = Sampler(model, max_len=192, **PLACES[name])
    order = list(range(len(prompts)))
    for turn in range(2):
        rows = sampler.generate([prompts[i] for i in order], n=3, max_new_tokens=NEW, seed=5)
        assert tokens(rows) == [tokens(wanted)[i] for i in order]
        random.Random(turn).shuffle(order)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_samples_do_not_depend_on_the_devices(
    prompts: list[list[int]], wanted: list[list[Any]], shape: tuple[int, int, int]
) -> None:
    model = model_of(mesh=models.make_mesh(*shape))
    for slots in (3, 32):
        sampler = Sampler(model, slots=slots, max_len=192)
        rows = sampler.generate(prompts, n=3, max_new_tokens=NEW, seed=5)
        assert tokens(rows) == tokens(wanted)
        gap = [
            abs(ours.logprobs - theirs.logprobs).max()
            for row, other in zip(rows, wanted, strict=True)
            for ours, theirs in zip(row, other, strict=True)
        ]
        assert max(gap) < 1e-5


@pytest.mark.parametrize("tied", [True, False])
def test_greedy_is_greedy(prompts: list[list[int]], tied: bool) -> None:
    config = CONFIG.__class__(**{**vars(CONFIG), "tie_word_embeddings": tied})
    model = model_of(config)
    rows = Sampler(model, slots=4, max_len=128).generate(prompts, temperature=0, max_new_tokens=20)
    padded = np.array([prompt + [0] * (90 - len(prompt)) for prompt in prompts])
    length_B = np.array(LENGTHS)
    theirs = models.greedy(model.params, config, padded, length_B, max_new_tokens=20)
    assert [row[0].tokens.tolist() for row in rows] == np.asarray(theirs.tokens_BT).tolist()


@pytest.mark.parametrize("folder", ["tied-f32", "untied-bf16-sharded", "gqa8-f32"])
def test_greedy_tokens_are_the_recorded_ones(shared: Any, folder: str) -> None:
    at = shared / "golden" / "qwen3-tiny" / folder
    if not at.is_dir():
        pytest.skip(f"{folder} is not among the reference values")
    with np.load(at / "reference.npz") as file:
        value = dict(file)
    tokens_BT, length_B = left_aligned(value)
    prompts = [row[:length] for row, length in zip(tokens_BT, length_B, strict=True)]
    sampler = Sampler(models.load(at, dtype="float32"), slots=3, max_len=256)
    settings = {"temperature": 0, "max_new_tokens": value["greedy_free"].shape[1]}
    free = sampler.generate(prompts, **settings)
    assert [row[0].tokens.tolist() for row in free] == value["greedy_free"].tolist()
    stopped = sampler.generate(prompts, stop_ids=(int(value["eos_id"]),), **settings)
    for (sample,), wanted in zip(stopped, value["greedy_eos"].tolist(), strict=True):
        count = len(sample.tokens)
        assert sample.tokens.tolist() == wanted[:count]
        assert not any(wanted[count:])


def test_a_stop_id_ends_a_sample_and_is_its_last_token(
    model: models.Model, prompts: list[list[int]], wanted: list[list[Any]]
) -> None:
    stops = (7, 11, 50)
    sampler = Sampler(model, slots=6, max_len=192)
    rows = sampler.generate(prompts, n=3, max_new_tokens=NEW, seed=5, stop_ids=stops)
    ended = set()
    for ours, theirs in zip(rows, tokens(wanted), strict=True):
        for sample, whole in zip(ours, theirs, strict=True):
            at = next((i for i, token in enumerate(whole) if token in stops), None)
            assert sample.tokens.tolist() == (whole if at is None else whole[: at + 1])
            assert sample.stopped == (at is not None)
            ended.add(sample.end)
    assert ended == {"stop", "length"}


def test_a_stop_string_ends_a_sample_where_it_is_first_said(
    model: models.Model, prompts: list[list[int]], wanted: list[list[Any]]
) -> None:
    def text_of(ids: Any) -> str:
        return "".join(chr(48 + token % 10) for token in ids)

    sampler = Sampler(model, slots=4, max_len=192, text_of=text_of)
    settings = {"max_new_tokens": NEW, "seed": 5, "stop": ("123", "77")}
    rows = sampler.generate(prompts, n=3, **settings)
    ends = []
    for ours, theirs in zip(rows, tokens(wanted), strict=True):
        for sample, whole in zip(ours, theirs, strict=True):
            said = [
                i for i in range(NEW + 1) if any(s in text_of(whole[:i]) for s in ("123", "77"))
            ]
            assert sample.tokens.tolist() == whole[: said[0] if said else NEW]
            assert sample.end == ("string" if said else "length")
            assert len(sample.logprobs) == len(sample.tokens)
            ends.append(sample.end)
    assert "string" in ends
    with pytest.raises(ValueError, match="stop strings need a tokenizer"):
        Sampler(model, slots=4, max_len=192).generate(prompts, stop=("x",), max_new_tokens=4)


def test_the_prompt_of_a_group_is_read_once_and_kept_once(model: models.Model) -> None:
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 96, 65).tolist() for _ in range(4)]
    read, held, out = {}, {}, {}
    for share in (True, False):
        sampler = Sampler(model, slots=32, max_len=128, share_prompts=share, lanes=1)
        out[share] = tokens(sampler.generate(prompts, n=8, max_new_tokens=5))
        engine = sampler.engines[8 if share else 1]
        read[share] = engine.tokens_read
        held[share] = engine.cache_bytes(64, 0)
    assert out[True] == out[False]
    assert read == {True: 4 * 64, False: 4 * 64}  # in both ways a prompt is read once …
    a_token = 2 * CONFIG.num_layers * CONFIG.num_kv_heads * CONFIG.head_dim * 4
    lengths = {True: 4 * 4, False: 32 * 4}
    # … but kept for each sample where nothing is shared.
    assert held == {
        True: 4 * 64 * a_token + lengths[True] + 4,
        False: 32 * 64 * a_token + lengths[False] + 4,
    }
    naive = Sampler(model, slots=32, max_len=128, lanes=1)
    naive.generate([prompt for prompt in prompts for _ in range(8)], max_new_tokens=5)
    assert naive.engines[1].tokens_read == 8 * read[True]


def test_a_cache_takes_the_bytes_that_were_predicted(model: models.Model) -> None:
    for small in (False, True):
        engine = Engine(model, slots=3, group=4, max_len=64, small_cache=small)
        state = engine.state(48, 32)
        found = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        assert found == engine.cache_bytes(48, 32)


def test_equal_prompts_are_not_the_same_prompt(model: models.Model) -> None:
    sampler = Sampler(model, slots=8, max_len=64)
    same = [[5, 6, 7]] * 3
    rows = tokens(sampler.generate(same, n=2, max_new_tokens=12))
    assert len({str(sample) for row in rows for sample in row}) == 6
    named = sampler.generate(same, n=2, max_new_tokens=12, names=[b"a", b"b", b"a"])
    assert tokens(named)[0] == tokens(named)[2] != tokens(named)[1]


def test_an_int8_cache_says_how_far_off_it_is(
    model: models.Model, prompts: list[list[int]], wanted: list[list[Any]]
) -> None:
    sampler = Sampler(model, slots=8, max_len=192, small_cache=True)
    ours = sampler.generate(prompts, n=1, max_new_tokens=4, seed=5)
    gaps = [
        abs(one.logprobs[0] - other.logprobs[0])
        for (one,), (other, *_) in zip(ours, wanted, strict=True)
        if one.tokens[0] == other.tokens[0]
    ]
    assert len(gaps) >= 5
    assert 0 < max(gaps) < 0.2
    exact, small = (Engine(model, slots=8, max_len=192, small_cache=s) for s in (False, True))
    assert small.cache_bytes(64, 64) < 0.4 * exact.cache_bytes(64, 64)


def test_new_parameters_are_taken_without_a_new_sampler(model: models.Model) -> None:
    sampler = Sampler(model, slots=8, max_len=64)
    before = tokens(sampler.generate([[1, 2, 3]], n=2, max_new_tokens=10))
    other = jax.tree.map(lambda x: x * 0.5 if x.ndim > 2 else x, model.params)
    sampler.load_params(other)
    after = tokens(sampler.generate([[1, 2, 3]], n=2, max_new_tokens=10))
    fresh = Sampler(models.Model(CONFIG, other), slots=8, max_len=64)
    assert before != after == tokens(fresh.generate([[1, 2, 3]], n=2, max_new_tokens=10))
    sampler.load_params(model.params)
    assert tokens(sampler.generate([[1, 2, 3]], n=2, max_new_tokens=10)) == before


def test_adapters_are_part_of_the_policy(model: models.Model) -> None:
    how = lora.Lora(rank=2)
    adapters = lora.init(CONFIG, how, jax.random.key(0))
    adapters = jax.tree.map(lambda x: x + 0.3 * jnp.ones_like(x), adapters)
    attached = lora.attach(CONFIG, model.params, adapters, how)
    merged = lora.merge(CONFIG, model.params, adapters, how)
    out = [
        Sampler(models.Model(CONFIG, params), slots=4, max_len=64).generate(
            [[1, 2, 3]], n=2, max_new_tokens=10
        )
        for params in (attached, merged, model.params)
    ]
    assert tokens(out[0]) == tokens(out[1]) != tokens(out[2])


def test_embedding_and_head_are_not_copied(model: models.Model) -> None:
    engine = Engine(model, slots=1, max_len=64)
    assert engine.weights.embed_VD is model.params["embed"]
    assert engine.weights.head_VD is model.params["embed"]
    assert Engine(model, slots=1, max_len=64, dtype="bfloat16").weights.embed_VD.dtype == "bfloat16"


def test_bfloat16_stays_near_its_own_full_forward(prompts: list[list[int]]) -> None:
    model = model_of(scale=4.0)
    half = models.Model(CONFIG, jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params))
    rows = Sampler(half, slots=4, max_len=128).generate(prompts[:4], max_new_tokens=20)
    assert qwen3.compute_dtype(half.params) == jnp.bfloat16
    for prompt, (sample,) in zip(prompts, rows, strict=False):
        log_p_TV = full_log_probs(half, prompt + sample.tokens.tolist())
        picked = log_p_TV[len(prompt) - 1 :][np.arange(20), sample.tokens]
        assert abs(picked - sample.logprobs).max() < 0.1


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens": ({"prompts": [[]]}, "at least one token id"),
    "too large": ({"prompts": [[1, 96]]}, "prompt token 96 is outside 0 to 95"),
    "negative": ({"prompts": [[-1]]}, "prompt token -1 is outside"),
    "no room": ({"prompts": [[1] * 60], "max_new_tokens": 5}, "60 prompt tokens and 5 new ones"),
    "no samples": ({"n": 0}, "n must be at least 1"),
    "no new tokens": ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    "temperature": ({"temperature": -1.0}, "temperature must be 0 to 100, got -1.0"),
    "nan": ({"temperature": float("nan")}, "temperature must be 0 to 100, got nan"),
    "top-p": ({"top_p": 1.5}, "top_p must be 0 to 1, got 1.5"),
    "top-p 0": ({"top_p": 0.0}, "top_p must be above 0"),
    "top-k": ({"top_k": -1}, "top_k must be at least 0"),
    "min-p": ({"min_p": 2.0}, "min_p must be 0 to 1"),
    "seed": ({"seed": -1}, "seed must be 0 to"),
    "stops": ({"stop_ids": tuple(range(9))}, "at most 8 stop ids, got 9"),
    "empty stop": ({"stop": ("",)}, "stop holds an empty text"),
    "names": ({"names": [b"a", b"b"]}, "1 prompts need as many names, got 2"),
    "top log-probs": ({"top_logprobs": 1}, "top_logprobs 1 is more than the 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(model: models.Model, name: str) -> None:
    given, message = MISTAKES[name]
    given = {"prompts": [[1, 2]], "max_new_tokens": 4, **given}
    sampler = Sampler(model, slots=4, max_len=64)
    with pytest.raises(ValueError, match=message):
        sampler.generate(given.pop("prompts"), **given)
    assert not any(rollout.is_busy for rollout in sampler.rollouts(1))


@pytest.mark.parametrize("n", [1, 8])
def test_lanes_draw_the_same_samples(model: models.Model, n: int) -> None:
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 96, size).tolist() for size in (3, 40, 17, 9, 33, 21, 5)]
    how = {"n": n, "max_new_tokens": 12, "seed": 3, "stop_ids": (7,)}
    made = [
        tokens(Sampler(model, slots=16, max_len=64, lanes=lanes).generate(prompts, **how))
        for lanes in (1, 2, 3)
    ]
    assert made[0] == made[1] == made[2]


def test_slots_are_dealt_out_to_the_cores_that_get_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    found = {slots: Sampler(model, slots=slots, max_len=64).lanes for slots in (1, 16, 32, 47, 256)}
    assert found == {1: 1, 16: 1, 32: 2, 47: 2, 256: 4}
    assert Sampler(model, slots=2, max_len=64, lanes=5).lanes == 2


def test_a_call_that_failed_leaves_nothing_to_the_next(
    model: models.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a step, of one lane of two: the other stops, and both begin again."""
    prompts = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]]
    wanted = tokens(
        Sampler(model, slots=4, max_len=64, lanes=2).generate(prompts, max_new_tokens=9)
    )
    sampler = Sampler(model, slots=2, max_len=64, lanes=2)
    real, calls = Engine.decode, []

    def decode(self: Engine, *args: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return real(self, *args, **options)

    monkeypatch.setattr(Engine, "decode", decode)
    with pytest.raises(RuntimeError, match="out of memory"):
        sampler.generate(prompts, max_new_tokens=9)
    assert tokens(sampler.generate(prompts, max_new_tokens=9)) == wanted


def test_a_sampler_that_cannot_be() -> None:
    model = model_of()
    with pytest.raises(ValueError, match="lanes must be at least 1, got 0"):
        Sampler(model, lanes=0)
    with pytest.raises(ValueError, match="slots must be at least 1, got 0"):
        Engine(model, slots=0, max_len=8)
    with pytest.raises(ValueError, match="slots must be at least 1, got -1"):
        Sampler(model, slots=-1)
    with pytest.raises(ValueError, match="max_len 513 is more than the 512 positions"):
        Engine(model, slots=1, max_len=513)
    with pytest.raises(ValueError, match="rooms must be sizes of at least 1"):
        Sampler(model, slots=1, rooms=()).generate([[1]])


def test_keys_are_the_identity_of_a_sample() -> None:
    settings = request.Settings(seed=3, step=4)
    ids = np.array([1, 2, 3], np.int32)
    made = request.Request(ids, 2, settings, request.name_of(ids))
    again = request.Request(ids.astype(np.int32), 9, settings, request.name_of(ids.copy()))
    assert request.key_of(made, 1).tolist() == request.key_of(again, 1).tolist()
    # Recorded: a change of the identity would change every run that is resumed.
    assert request.key_of(made, 0).tolist() == [1910890940, 2523953900]


def test_the_ring_turns_without_forgetting_what_is_needed(model: models.Model) -> None:
    """A step at any place of the ring gives the logits that a fresh ring gives."""
    engine = Engine(model, slots=2, max_len=64)
    prompts, replies = engine.state(8, 4)
    step = jax.jit(functools.partial(grouped.step, engine.weights, CONFIG))
    start = jnp.zeros(2, jnp.int32)
    seen = []
    for offset in (0, 3, 6):
        ring = replies._replace(now=jnp.int32(offset))
        for i in range(4):
            token_B = jnp.asarray([3 + i, 9 + i], jnp.int32)
            logits_BV, ring = step(token_B, start + i, start + offset, prompts, ring)
        seen.append(np.asarray(logits_BV))
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-6)
    np.testing.assert_allclose(seen[2], seen[0], atol=1e-6)
