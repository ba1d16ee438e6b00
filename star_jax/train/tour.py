"""A short tour: what this machine can do with a tiny random Qwen3, told in words.

    init on a mesh → forward → a few sharded AdamW steps on one sentence → greedy generation
    → export to a Hugging Face folder → load → the same tokens

Nothing is downloaded. The model has a vocabulary of bytes and learns one sentence by heart, so that
a reader can see each part work, and what changed between before and after.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from star_jax import models
from star_jax.models import attention, layout, qwen3, sharding

SENTENCE = 'user: Is it raining in Oslo? call: {"name": "weather", "arguments": {"city": "Oslo"}}\n'
PROMPT = "user: Is it raining in Oslo? call:"
ROWS = 16
STEPS = 80
CONFIG = models.Qwen3Config(
    vocab_size=256,  # one entry a byte
    hidden_size=128,
    intermediate_size=256,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=16,
    rope_theta=1e6,
    rms_norm_eps=1e-6,
    tie_word_embeddings=True,
    max_position_embeddings=512,
)


def encode(text: str) -> list[int]:
    return list(text.encode())


def decode(ids: Any) -> str:
    return bytes(int(i) for i in ids).decode(errors="replace").rstrip("\n\0")


def choose_mesh() -> jax.sharding.Mesh:
    """2 × 2 × 2 where eight devices are, else all of them in a row."""
    return models.make_mesh(2, 2, 2) if len(jax.devices()) == 8 else models.make_mesh()


def loss(params: Any, tokens_BT: jax.Array, length_B: jax.Array) -> jax.Array:
    """Mean negative log-probability of each next byte."""
    places = attention.padded(length_B, tokens_BT.shape[1])
    hidden_BTD, _ = qwen3.hidden(params, CONFIG, tokens_BT, places)
    logits_BTV = qwen3.project(params, CONFIG, hidden_BTD[:, :-1])
    nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, tokens_BT[:, 1:])
    seen_BT = places.segment_BT[:, 1:]
    return (nll_BT * seen_BT).sum() / seen_BT.sum()


def make_step(optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    @jax.jit
    def step(params: Any, state: Any, tokens_BT: jax.Array, length_B: jax.Array) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, tokens_BT, length_B)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def learn(params: Any, mesh: jax.sharding.Mesh) -> tuple[Any, list[float], float]:
    """→ the parameters after STEPS, each step's loss, seconds a step without the compilation."""
    ids = encode(SENTENCE)
    rows = sharding.batch_sharding(mesh)
    tokens_BT = jax.device_put(np.tile(np.array(ids, np.int32), (ROWS, 1)), rows)
    length_B = jax.device_put(np.full(ROWS, len(ids), np.int32), rows)
    optimizer = optax.adamw(3e-3)
    state = optimizer.init(params)
    step = make_step(optimizer)
    losses: list[Any] = []
    start = 0.0
    with jax.set_mesh(mesh):
        for number in range(STEPS):
            params, state, value = step(params, state, tokens_BT, length_B)
            losses.append(value)
            if number == 0:
                jax.block_until_ready(value)
                start = time.perf_counter()
    values = [float(value) for value in losses]
    return params, values, (time.perf_counter() - start) / (STEPS - 1)


def continue_prompt(params: Any) -> str:
    ids = encode(PROMPT)
    made = models.greedy(
        params,
        CONFIG,
        np.array([ids], np.int32),
        np.array([len(ids)], np.int32),
        max_new_tokens=len(encode(SENTENCE)) - len(ids),
        stop_ids=encode("\n"),
    )
    return decode(np.asarray(made.tokens_BT)[0][: int(made.length_B[0])])


def chart(losses: list[float], width: int = 46) -> Iterator[str]:
    """The losses of a few steps as bars."""
    for step in np.linspace(0, len(losses) - 1, 7).round().astype(int):
        bar = "█" * max(1, round(width * losses[step] / losses[0]))
        yield f"    step {step:>3}  {losses[step]:6.3f}  {bar}"


def survives_export(params: Any, said: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        out = models.save(Path(folder) / "tour", CONFIG, params, max_shard_size="200KB")
        files = len(list(out.glob("*.safetensors")))
        again = models.load(out)
    same = continue_prompt(again.params) == said
    return f"{files} safetensors files, loaded again: {'the same words' if same else 'OTHER WORDS'}"


def tell() -> Iterator[str]:
    """The tour, a line at a time."""
    devices, mesh = jax.devices(), choose_mesh()
    params = models.init(CONFIG, jax.random.key(0), mesh=mesh)
    shape = " × ".join(f"{name} {size}" for name, size in mesh.shape.items())
    yield f"1. The machine: {len(devices)} {devices[0].platform} devices as a mesh {shape}."
    yield f"2. A random Qwen3 of {layout.count(CONFIG):,} parameters, each device holding its part."
    q = params["layers"]["attn"]["q"]
    yield f"    one matrix, the queries' of all layers, [L, N, H, D] = {list(q.shape)}:"
    yield f"    each device holds {list(q.addressable_shards[0].data.shape)} of it"
    yield f"3. Asked before learning:  {PROMPT}"
    yield f"    it says: {continue_prompt(params)!r}"
    params, losses, seconds = learn(params, mesh)
    yield f"4. {STEPS} AdamW steps on one sentence, {ROWS} rows split over the mesh:"
    yield from chart(losses)
    yield f"    nats a byte; {seconds * 1e3:.0f} ms a step once compiled"
    said = continue_prompt(params)
    yield f"5. Asked again, byte by byte through the cache:  {PROMPT}"
    yield f"    it says: {said!r}"
    yield f"6. Exported to a Hugging Face folder: {survives_export(params, said)}."
