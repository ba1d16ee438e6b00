"""Preference training: pairs from a file, the reference's part, and the loss of a step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from star_jax import models
from star_jax.data import pairs, template
from star_jax.data.encode import Tokenizer
from star_jax.train import config, dpo, fit, flags, preference
from tests import world

SMALL = {
    "data.max_tokens": 256,
    "batch.examples": 4,
    "batch.rows_per_device": 1,
    "optimizer.learning_rate": 1e-3,
    "compute.dtype": "float32",
    "compute.remat": "none",
    "log.tensorboard": "false",
    "log.bar": "false",
}


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"p{i}",
            "prompt": f"say {i}: ",
            "chosen": f"yes {'a' * (i % 3)}<|im_end|>",
            "rejected": f"no {i}<|im_end|>",
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dpo")
    world.student(made / "student")
    world.write_rows(made / "train.jsonl", rows(8))
    return made


def words(folder: Path, output: Path, **changes: Any) -> list[str]:
    given = SMALL | {"model": folder / "student", "output": output}
    given |= {"data.train": folder / "train.jsonl"}
    given |= {name.replace("__", "."): value for name, value in changes.items()}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def opened(folder: Path, output: Path, **changes: Any) -> fit.Task:
    return dpo.task(flags.load(config.Dpo, words(folder, output, **changes)))


def metrics(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_pairs_are_two_halves_that_stay_together(folder: Path) -> None:
    student = folder / "student"
    found = pairs.read(folder / "train.jsonl", Tokenizer(student), template.load(student))
    tokenizer = Tokenizer(student)
    assert len(found) == 8
    (prompt,), (yes,), (no,) = (
        tokenizer.encode([text]) for text in ("say 2: ", "yes aa<|im_end|>", "no 2<|im_end|>")
    )
    assert found.examples[2].ids.tolist() == [*prompt, *yes, *prompt, *no]
    half, predicts = found.halves(2)
    assert (half == pairs.CHOSEN).sum() == len(prompt) + len(yes)
    predicted = np.flatnonzero(predicts) + 1
    assert found.examples[2].ids[predicted].tolist() == [*yes, *no]
    assert found.n_target[2] == len(yes) + len(no)


@pytest.mark.slow
def test_the_first_step_knows_no_preference_and_the_last_does(folder: Path, tmp_path: Path) -> None:
    """Before a step the policy is its reference: the loss is log 2, of every cut the same."""
    seen = {}
    for name, changes in {
        "packed": {},
        "apart": {"batch__packing": "false"},
        "halves": {"batch__rows_per_device": 1, "data__max_tokens": 64},
        "lora": {"lora__rank": 4},
    }.items():
        output = tmp_path / name
        task = opened(folder, output, schedule__epochs=10, **changes)
        assert fit.go_on(fit.begin(task)) is None
        seen[name] = metrics(output)
        assert seen[name][0]["loss/total_nats"] == pytest.approx(math.log(2), abs=1e-6), name
        assert seen[name][-1]["preference/accuracy"] == 1, name
        assert seen[name][-1]["loss/total_nats"] < 0.5 * math.log(2), name
    for mine, theirs in zip(seen["packed"], seen["apart"], strict=True):
        assert mine["loss/total_nats"] == pytest.approx(theirs["loss/total_nats"], abs=1e-4)


def test_a_step_is_the_mean_of_its_pairs(folder: Path, tmp_path: Path) -> None:
    """The sums of a micro-batch against `preference.dpo` of log-probs from plain logits."""
    task = opened(folder, tmp_path / "out", preference__sft_weight=0.5, preference__beta=0.3)
    run = task.run
    params = models.init(run.model, jax.random.key(5), mesh=run.mesh)
    plan = run.train.feed.plan(0)
    source = task.source
    assert isinstance(source, dpo.Beside)
    with jax.set_mesh(run.mesh):
        batch = source._batch(plan)
        total, count = 0.0, 0.0
        for m in range(plan.used):
            micro = jax.tree.map(lambda x, m=m: x[m], batch.micro)
            value, (number, _) = task.loss(params, micro, dpo.Fixed(), plan.shape.targets)
            total, count = total + float(value), count + float(number)
    assert count == 4

    def logp(folder_: str, which: str, weights: Any) -> np.ndarray:
        made = []
        for index in plan.indices:
            side = getattr(source._pairs, which)
            example = side[int(index)]
            ids = np.asarray(example.ids)[None]
            logits = models.logits(weights, run.model, ids, np.array([ids.shape[1]]))
            logps = jax.nn.log_softmax(logits, axis=-1)[0, :-1]
            picked = np.take_along_axis(np.asarray(logps), ids[0, 1:, None], axis=1)[:, 0]
            made.append(picked[example.n_prompt - 1 :].sum())
        return np.array(made, np.float32)

    start = models.load(run.config.model, dtype="float32").params
    wanted, _ = preference.dpo(
        logp("", "chosen", params),
        logp("", "rejected", params),
        logp("", "chosen", start),
        logp("", "rejected", start),
        beta=0.3,
        sft_weight=0.5,
        tokens_chosen=source._pairs.chosen.n_target[plan.indices],
    )
    assert total / count == pytest.approx(float(wanted), abs=1e-5)


MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no rejected": ({"rejected": None}, {}, r"train\.jsonl:1: rejected: is missing"),
    "the same": (
        {"rejected": "yes <|im_end|>"},
        {},
        r"train\.jsonl:1: rejected: is what is chosen",
    ),
    "no room": ({}, {"data__max_tokens": 20}, r"train\.jsonl:\d: both answers with their prompts"),
    "beta": ({}, {"preference__beta": 0}, r"preference: beta must be > 0"),
    "skip": ({}, {"data__skip_bad": 1}, r"data\.skip_bad: dpo leaves no row out"),
    "mean": ({}, {"batch__mean": "micro"}, r"batch\.mean: is micro: dpo has a mean of pairs"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    row, changes, message = MISTAKES[name]
    made = [{**rows(1)[0], **row}, *rows(4)[1:]]
    path = world.write_rows(tmp_path / "train.jsonl", made)
    with pytest.raises(ValueError, match=message):
        opened(folder, tmp_path / "out", data__train=path, **changes)
