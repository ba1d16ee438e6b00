"""Against recorded values of the reference implementation, where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import models
from star_jax.models import layout
from tests.test_qwen3 import full_forward_greedy, mean_nll

FOLDERS = ["tied-f32", "untied-bf16-sharded", "gqa8-f32"]


@pytest.fixture(scope="module", params=FOLDERS)
def golden(request: pytest.FixtureRequest, shared: Path) -> tuple[models.Model, dict[str, Any]]:
    folder = shared / "golden" / "qwen3-tiny" / request.param
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not among the reference values")
    with np.load(folder / "reference.npz") as file:
        return models.load(folder, dtype="float32"), dict(file)


def left_aligned(value: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The reference's left-padded rows, as our right-padded ones."""
    length_B = value["left_mask"].sum(1)
    tokens_BT = np.zeros_like(value["input_ids"])
    for ours, row, length in zip(tokens_BT, value["input_ids"], length_B, strict=True):
        ours[:length] = row[len(row) - length :]
    return tokens_BT, length_B


def test_logits(golden: tuple[models.Model, dict[str, Any]]) -> None:
    model, value = golden
    length_B = value["right_mask"].sum(1)
    ours_BTV = models.logits(model.params, model.config, value["input_ids"], length_B)
    seen_BT = value["right_mask"].astype(bool)
    error = np.abs(np.asarray(ours_BTV) - value["right_logits"])[seen_BT]
    assert error.max() <= 2e-4


def test_logits_of_left_padded_rows(golden: tuple[models.Model, dict[str, Any]]) -> None:
    """Ours are right-padded; rotary positions are relative, so the values are the same.

    The reference computes nan for rows that begin with padding. Their prompts are also the prompts
    of the greedy continuations below.
    """
    model, value = golden
    tokens_BT, length_B = left_aligned(value)
    ours_BTV = np.asarray(models.logits(model.params, model.config, tokens_BT, length_B))
    compared = 0
    for ours_TV, wanted_TV, length in zip(ours_BTV, value["left_logits"], length_B, strict=True):
        wanted_TV = wanted_TV[len(wanted_TV) - length :]
        if np.isfinite(wanted_TV).all():
            assert np.abs(ours_TV[:length] - wanted_TV).max() <= 2e-4
            compared += 1
    assert compared


def test_next_token_log_probabilities(golden: tuple[models.Model, dict[str, Any]]) -> None:
    model, value = golden
    tokens_BT = jnp.asarray(value["input_ids"], jnp.int32)
    length_B = value["right_mask"].sum(1)
    logits_BTV = models.logits(model.params, model.config, tokens_BT, length_B)
    logp_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
    logp_BT = jnp.take_along_axis(logp_BTV, tokens_BT[:, 1:, None], axis=-1)[..., 0]
    seen_BT = value["right_mask"][:, 1:].astype(bool)
    assert np.abs(np.asarray(logp_BT) - value["next_logp"])[seen_BT].max() <= 1e-4
    assert -logp_BT[seen_BT].mean() == pytest.approx(value["nll"], abs=1e-5)


def test_gradients(golden: tuple[models.Model, dict[str, Any]]) -> None:
    model, value = golden
    tokens_BT = jnp.asarray(value["input_ids"], jnp.int32)
    length_B = jnp.asarray(value["right_mask"].sum(1))

    def loss(params: Any) -> Any:
        return mean_nll(
            models.logits(params, model.config, tokens_BT, length_B), tokens_BT, length_B
        )

    ours = dict(layout.hf_tensors(model.config, jax.grad(loss)(model.params)))
    listed = [name for name in value if name.startswith("grad/")]
    assert listed
    for name in listed:
        gradient = np.asarray(ours[name.removeprefix("grad/")])
        error = np.linalg.norm(gradient - value[name]) / np.linalg.norm(value[name])
        assert error <= 1e-4, name
        assert np.abs(gradient - value[name]).max() <= 1e-4 * np.abs(value[name]).max(), name


def test_greedy_through_the_cache(golden: tuple[models.Model, dict[str, Any]]) -> None:
    model, value = golden
    tokens_BT, length_B = left_aligned(value)
    count = value["greedy_free"].shape[1]
    made = models.greedy(model.params, model.config, tokens_BT, length_B, max_new_tokens=count)
    np.testing.assert_array_equal(made.tokens_BT, value["greedy_free"])
    stopped = models.greedy(
        model.params,
        model.config,
        tokens_BT,
        length_B,
        max_new_tokens=count,
        stop_ids=(int(value["eos_id"]),),
    )
    np.testing.assert_array_equal(stopped.tokens_BT, value["greedy_eos"])


def test_greedy_by_full_forwards(golden: tuple[models.Model, dict[str, Any]]) -> None:
    model, value = golden
    tokens_BT, length_B = left_aligned(value)
    count = value["greedy_free"].shape[1]
    for row, length, wanted in zip(tokens_BT, length_B, value["greedy_free"], strict=True):
        prompt = row[:length].tolist()
        assert full_forward_greedy(model, prompt, count) == wanted.tolist()
