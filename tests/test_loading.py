"""A folder that answers: with our own loop and with JetStream's Driver, compiled ahead or not."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from star_jax import chat
from star_jax.sampler import jetstream, loading, request
from star_jax.sampler.engine import Engine
from star_jax.sampler.request import Request, Settings
from star_jax.sampler.rollout import Rollout
from tests import world
from tests.test_rollout import finish
from tests.test_sampler import CONFIG, model_of

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "enum": ["Oslo", "Bern"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city", "days"],
            },
        },
    }
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.student(tmp_path_factory.mktemp("model") / "student")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> loading.Loaded:
    return loading.load(folder, dtype="float32", slots=4, max_prompt=256, max_new=128)


def ask(loaded: loading.Loaded, text: str, **how: Any) -> Request:
    (ids,) = loaded.tokenizer.encode([text])
    prompt = np.array(ids, np.int32)
    settings = Settings(**{"max_new_tokens": 24, "stop_ids": loaded.stops, **how})
    return Request(prompt, 1, settings, request.name_of(prompt))


def test_what_a_folder_says_of_itself(folder: Path, loaded: loading.Loaded) -> None:
    assert loaded.stops == (loaded.tokenizer.end_of_turn, 5)
    assert (loaded.max_prompt, loaded.max_new) == (256, 128)
    assert loaded.name == "student"
    other = loading.load(folder, dtype="bfloat16", slots=1, max_prompt=9, max_new=9)
    assert other.about["hash"] != loaded.about["hash"]


def test_a_stop_string_is_decoded(loaded: loading.Loaded) -> None:
    free = loaded.scheduler.submit(ask(loaded, "hello", seed=3))
    text = loaded.tokenizer.decode(finish(loaded.scheduler)[free, 0].tokens)  # type: ignore[arg-type]
    letter = next(c for c in text if c.isascii() and c.isprintable() and c != "<")
    cut = loaded.scheduler.submit(ask(loaded, "hello", seed=3, stop=(letter,)))
    sample = finish(loaded.scheduler)[cut, 0]  # type: ignore[arg-type]
    assert sample.end == "string"
    assert loaded.tokenizer.decode(sample.tokens).count(letter) == 1


@pytest.mark.parametrize("choice", ["required", {"name": "weather"}])
def test_a_grammar_makes_a_random_model_call_the_tool(loaded: loading.Loaded, choice: Any) -> None:
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    assert loaded.grammar is not None
    made = loaded.grammar(TOOLS, choice)
    texts = []
    for seed in range(3):
        asked = ask(loaded, "rain?", seed=seed, max_new_tokens=128)
        ticket = loaded.scheduler.submit(
            Request(asked.prompt, 1, asked.settings, asked.name, grammar=made)
        )
        sample = finish(loaded.scheduler)[ticket, 0]  # type: ignore[arg-type]
        texts.append((sample.end, loaded.tokenizer.decode(sample.tokens)))
    ended = [text for end, text in texts if end == "stop"]
    for text in ended:
        if "<think>" not in text:
            text = "<think>\n\n</think>\n\n" + text
        call = chat.parse(text).calls[0]
        assert call.name == "weather"
        assert call.arguments["city"] in ("Oslo", "Bern")
        assert 1 <= call.arguments["days"] <= 9


def test_jetstreams_driver_answers_alike(folder: Path, loaded: loading.Loaded) -> None:
    if not jetstream.is_installed:
        pytest.skip("google-jetstream is not installed")
    driven = loading.load(
        folder, dtype="float32", slots=4, max_prompt=256, max_new=128, driver="jetstream"
    )
    try:
        made = []
        for one in (loaded, driven):
            tickets = [one.scheduler.submit(ask(one, f"hello {i}")) for i in range(6)]
            found = finish(one.scheduler)  # type: ignore[arg-type]
            made.append([found[ticket, 0] for ticket in tickets])
        for ours, theirs in zip(*made, strict=True):
            assert theirs.end == ours.end
            whole = ours.tokens.tolist()
            assert theirs.tokens.tolist() == (whole[:-1] if ours.end == "stop" else whole)
        refused = {
            "temperature 1.0 alone, got 0.5": {"temperature": 0.5},
            "top_logprobs 0 alone, got 2": {"top_logprobs": 2},
        }
        for message, how in refused.items():
            with pytest.raises(ValueError, match=message):
                driven.scheduler.submit(ask(driven, "hello", **how))
    finally:
        driven.scheduler.close()  # type: ignore[attr-defined]


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    other = world.student(tmp_path / "other")
    raw = json.loads((other / "tokenizer.json").read_text())
    last = raw["added_tokens"][-1]
    raw["added_tokens"] += [
        {**last, "id": last["id"] + i, "content": f"<more {i}>"} for i in (1, 2)
    ]
    (other / "tokenizer.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"its tokenizer has \d+ ids and its model 264"):
        loading.load(other, dtype="float32", slots=1, max_prompt=64, max_new=64)


@pytest.mark.slow
def test_nothing_is_compiled_after_warm_up(caplog: pytest.LogCaptureFixture) -> None:
    """1,000 mixed requests: the engine's own count, and JAX's."""
    engine = Engine(model_of(), slots=6, max_len=96, top=2)
    rollout = Rollout(engine, rooms=(16, 64), reply_rooms=(8, 32), patience=8)
    rollout.warm_up()
    rng = random.Random(0)
    asked: list[Request] = []
    for i in range(1000):
        prompt = np.array([rng.randrange(CONFIG.vocab_size) for _ in range(rng.randint(1, 60))])
        settings = Settings(
            max_new_tokens=rng.randint(1, 30),
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_p=rng.choice([1.0, 0.9]),
            top_k=rng.choice([0, 5]),
            seed=i,
            top_logprobs=rng.choice([0, 0, 2]),
            stop_ids=(3, 9),
        )
        prompt = prompt.astype(np.int32)
        asked.append(Request(prompt, rng.choice([1, 1, 3]), settings, request.name_of(prompt)))
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        done, pieces = 0, []
        while done < len(asked) or rollout.is_busy:
            for one in asked[done : done + rng.randint(0, 6)]:
                rollout.submit(one)
                done += 1
            pieces += rollout.step()
    assert sum(piece.end is not None for piece in pieces) == sum(one.n for one in asked)
    assert engine.unplanned == 0
    compiled = [record.message for record in caplog.records if "Compiling" in record.message]
    assert not compiled, compiled[:3]
