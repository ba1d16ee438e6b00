"""The loop of RL: rollouts, their files, updates however they are cut, and what stops a run."""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from star_jax import models
from star_jax.rewards import Reward
from star_jax.sampler import Sampler
from star_jax.sampler.request import Sample
from star_jax.train import acting, config, flags, learning, rl, rollouts, setup, state, telling
from star_jax.train import step as steps
from star_jax.train.prompts import Prompt, Prompts
from star_jax.train.rollouts import Asker, Group, Rollout
from tests import bandit, world

SMALL = {
    "data.max_tokens": 64,
    "rollout.max_new_tokens": 6,
    "rollout.prompts": 4,
    "rollout.samples": 4,
    "rollout.slots": 16,
    "batch.examples": 8,
    "batch.rows_per_device": 1,
    "optimizer.learning_rate": 1e-2,
    "compute.dtype": "float32",
    "compute.remat": "none",
    "reward.function": "tests.bandit.letters",
    "filter.rule": "all",
    "log.tensorboard": "false",
    "log.bar": "false",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rl")
    world.student(made / "student")
    bandit.write(made / "train.jsonl", 8)
    return made


def opened(
    folder: Path, output: Path, mesh: tuple[int, int, int] | None = None, **changes: Any
) -> rl.RlRun:
    given = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    given |= {"model": folder / "student", "output": output}
    given.setdefault("data.train", folder / "train.jsonl")
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    run = rl.open(flags.load(config.Rl, words))
    if mesh is None:
        return run
    devices = jax.devices()[: mesh[0] * mesh[1] * mesh[2]]
    return dataclasses.replace(run, mesh=models.make_mesh(*mesh, devices=devices))


# Which groups a rollout trains on


def prompts_of(count: int) -> Prompts:
    def one(number: int) -> Prompt:
        return Prompt(
            ids=np.array([number + 1], np.int32),
            text=f"p{number}",
            label="",
            target_ids=np.array([1], np.int32),
            opening="",
            tools=(),
            wanted="words",
            row_id=str(number),
            line=number + 1,
        )

    return Prompts("made.jsonl", tuple(one(number) for number in range(count)))


def asker_of(count: int, places: int, is_kept: Any, most_batches: int = 99) -> Asker:
    """Samples whose token is their number, and is what they are worth; `is_kept` of a place."""
    prompts = prompts_of(count)

    def ask(rows: Any, names: Any, number: int) -> list[list[Sample]]:
        said = []
        for name in names:
            base = int(name) * 10
            one = [
                Sample(
                    np.array([base + j], np.int32), np.zeros(1, np.float32), np.zeros(1), "length"
                )
                for j in range(2)
            ]
            said.append(one)
        return said

    def score(generation: str, label: str, tools: Any) -> Reward:
        return Reward(float(generation), 1.0, float(generation), "number", "")

    def keep(rewards_PG: np.ndarray, scores_PG: np.ndarray) -> np.ndarray:
        return np.array([is_kept(int(row[0]) // 10) for row in rewards_PG])

    return Asker(
        prompts=prompts,
        seed=3,
        places=places,
        ask=ask,
        decode=lambda tokens: str(int(tokens[0])),
        score=score,
        keep=keep,
        most_batches=most_batches,
        samples=2,
    )


@pytest.mark.parametrize("seed", range(20))
def test_every_accepted_group_is_trained_on_once(seed: int) -> None:
    rng = random.Random(seed)
    places, want, least = rng.randint(1, 60), rng.randint(1, 7), rng.randint(1, 9)
    wanted = {place for place in range(places) if rng.random() < 0.6}
    asker = asker_of(rng.randint(1, 25), places, wanted.__contains__)
    start, carried, trained = 0, (), []
    for number in range(999):
        made = rollouts.fill(asker, number, start, carried, want, least)
        if not made.chosen:
            break
        assert len(made.chosen) == want or made.next_place == places
        trained += [group.place for group in made.chosen]
        start, carried = made.next_place, made.carried
    assert trained == sorted(wanted)
    assert not carried


def test_prompts_come_once_an_epoch_in_another_order() -> None:
    asker = asker_of(10, 30, lambda place: True)
    epochs = [[asker.prompt(10 * epoch + i) for i in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_rollout_that_finds_nothing_says_why() -> None:
    asker = asker_of(10, 1000, lambda place: False, most_batches=3)
    with pytest.raises(rl.Starved, match=r"rollout 5: 12 prompts gave 0 of 4 groups.*number 24"):
        rollouts.fill(asker, 5, 0, (), 4)


def test_a_rollout_is_read_as_it_was_written(tmp_path: Path) -> None:
    asker = asker_of(10, 30, lambda place: place % 2 == 0)
    made = rollouts.fill(asker, 2, 7, (), 3, 8)
    assert [group.place for group in made.carried] == [14]
    known = dataclasses.replace(
        made.groups[1].answers[0],
        advantage=0.5,
        old_logps=np.array([-1.5], np.float32),
        text="a half of a pair: \ud800",
    )
    groups = list(made.groups)
    groups[1] = dataclasses.replace(groups[1], answers=(known, groups[1].answers[1]))
    made = dataclasses.replace(made, groups=tuple(groups))
    path = tmp_path / "rollouts" / "000002.parquet"
    rollouts.write(path, made, asker.prompts)
    found = rollouts.read(path, asker.prompts)
    assert (found.number, found.next_place) == (2, made.next_place)
    assert [(g.place, g.prompt, g.drawn_at, g.use) for g in found.groups] == [
        (g.place, g.prompt, g.drawn_at, g.use) for g in made.groups
    ]
    again = found.groups[1].answers[0]
    assert (again.advantage, again.text) == (0.5, "a half of a pair: \\ud800")
    assert again.old_logps is not None
    np.testing.assert_array_equal(again.old_logps, known.old_logps)
    assert found.groups[0].answers[0].old_logps is None
    np.testing.assert_array_equal(
        found.groups[2].answers[1].tokens, made.groups[2].answers[1].tokens
    )


# One update, however it is cut


def answered(run: rl.RlRun, seed: int = 0) -> Rollout:
    """Random answers with random rewards, without a model."""
    rng = np.random.default_rng(seed)
    groups = []
    for place in range(4):
        answers = []
        for _ in range(4):
            count = int(rng.integers(1, 7))
            answers.append(
                rollouts.Answer(
                    tokens=rng.integers(0, 262, count).astype(np.int32),
                    logps=np.log(rng.random(count)).astype(np.float32),
                    end="length" if count == 6 else "stop",
                    text="x",
                    reward=float(rng.random()),
                    format=1.0,
                    answer=0.0,
                    kind="",
                    why="",
                    advantage=float(rng.normal()),
                    old_logps=np.log(rng.random(count)).astype(np.float32),
                    ref_logps=np.log(rng.random(count)).astype(np.float32),
                )
            )
        group = Group(place=place, prompt=place, drawn_at=0, answers=tuple(answers), use="now")
        groups.append(group)
    return Rollout(number=0, next_place=4, groups=tuple(groups))


def updated(run: rl.RlRun, rollout: Rollout) -> tuple[dict[str, float], Any]:
    """Metrics and parameters after a rollout's second update, whose old log-probs are given."""
    lesson = learning.Lesson(run, run.prompts, rollout)
    function = functools.partial(acting.rl, forward=run.forward, joint=run.joint)
    made = steps.make_step(function, run.optimizer, lambda _: 1e-2)
    programs = steps.Programs("step", made, donate=False)
    plan, batch = lesson.batch(1, is_first=False)
    with jax.set_mesh(run.mesh):
        fixed = rl.loss.Fixed()
        now, metrics = programs(setup.fresh(run), batch, fixed, plan.shape.targets)
    return {name: float(value) for name, value in metrics.items()}, now.params


CUTS: dict[str, dict[str, Any]] = {
    "eight devices": {},
    "one device": {"mesh": (1, 1, 1), "batch__rows_per_device": 8},
    "small micro-batches": {"mesh": (1, 1, 1), "batch__rows_per_device": 1},
    "unpacked": {"mesh": (2, 1, 1), "batch__packing": "false"},
    "split parameters": {"mesh": (2, 2, 2)},
    "chunks": {"mesh": (1, 1, 1), "compute__chunk": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["star", "grpo", "dr_grpo", "gspo", "cispo"])
def test_an_update_does_not_depend_on_how_it_is_cut(
    folder: Path, tmp_path: Path, preset: str
) -> None:
    found = {}
    for name, cut in CUTS.items():
        run = opened(folder, tmp_path, policy__preset=preset, policy__kl_weight=0.01, **cut)
        found[name] = updated(run, answered(run))
    wanted, params = found.pop("one device")
    assert wanted["optim/gradient_norm"] > 0
    for name, (metrics, others) in found.items():
        for key, value in metrics.items():
            np.testing.assert_allclose(value, wanted[key], rtol=1e-5, atol=1e-6, err_msg=name + key)
        for mine, theirs in zip(jax.tree.leaves(others), jax.tree.leaves(params), strict=True):
            # Adam divides by the gradient's own size: where that is nothing, its sign is noise.
            np.testing.assert_allclose(mine, theirs, atol=2e-3, err_msg=name)


def test_what_a_sample_brings_stands_beside_its_tokens(folder: Path, tmp_path: Path) -> None:
    """Laid out in packed rows and taken apart again; unfinished answers weigh nothing if asked."""
    run = opened(folder, tmp_path, (1, 1, 1), policy__learn_unfinished="false")
    rollout = answered(run)
    lesson = learning.Lesson(run, run.prompts, rollout)
    seen: collections.Counter[int] = collections.Counter()
    for number in range(lesson.feed.steps):
        plan, batch = lesson.batch(number, is_first=number == 0)
        tokens, acted, _ = jax.device_get(batch.micro)
        assert np.isnan(acted.old_BT).all() == (number == 0)
        for index, values in lesson.taken_apart(plan, acted.sampled_BT).items():
            answer = lesson.answers[index]
            np.testing.assert_array_equal(values, answer.logps)
            seen[index] += 1
        for index, values in lesson.taken_apart(plan, tokens.target_BT).items():
            np.testing.assert_array_equal(values, lesson.answers[index].tokens)
        for index, values in lesson.taken_apart(plan, tokens.weight_BT).items():
            assert set(values) == {float(lesson.answers[index].end != "length")}
        for index, values in lesson.taken_apart(plan, acted.advantage_BT).items():
            np.testing.assert_allclose(values, lesson.answers[index].advantage, rtol=1e-6)
    assert seen == collections.Counter(range(16))


# The whole loop


@pytest.mark.slow
def test_the_first_update_is_taken_by_the_policy_that_answered(
    folder: Path, tmp_path: Path
) -> None:
    run = opened(folder, tmp_path / "out", schedule__epochs=1, schedule__warmup_share=0)
    assert rl.go_on(rl.begin(run)) is None
    lines = [
        flags.yaml.safe_load(x) for x in (run.output / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        is_first = line["step"] % 2 == 1
        assert (line["policy/ratio"] == 1) == is_first
        assert (line["policy/old_kl_nats"] == 0) == is_first
    assert lines[0]["policy/reference_kl_nats"] < 1e-10 < lines[1]["policy/reference_kl_nats"]
    assert all(line["rollout/sampler_gap_most_nats"] < 1e-5 for line in lines[::2])
    written = [rollouts.read(path, run.prompts) for path in sorted(run.output.glob("rollouts/*"))]
    assert [rollout.number for rollout in written] == [0, 1]
    assert (run.output / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_adapters_are_trained_against_what_is_frozen_under_them(
    folder: Path, tmp_path: Path
) -> None:
    run = opened(folder, tmp_path / "out", lora__rank=2, schedule__epochs=1, batch__examples=16)
    run = dataclasses.replace(run, rate=lambda _: 1e-2, optimizer=state.adamw(lambda _: 1e-2))
    session = rl.begin(run)
    assert session.reference is session.base
    assert rl.go_on(session) is None
    lines = world.metrics(run.output)
    assert len(lines) == 2
    assert lines[0]["policy/reference_kl_nats"] < 1e-10 < lines[1]["policy/reference_kl_nats"]
    # The sampler draws from the adapted model, as the trainer sees it.
    assert lines[1]["rollout/sampler_gap_most_nats"] < 1e-5


@pytest.mark.slow
def test_a_run_stops_where_sampler_and_trainer_are_apart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Sampler.generate

    def generate(self: Sampler, *args: Any, **options: Any) -> Any:
        self.load_params(jax.tree.map(lambda x: x * 1.05, self.model_params))
        return real(self, *args, **options)

    monkeypatch.setattr(Sampler, "generate", generate)
    made = Sampler.__init__

    def init(self: Sampler, model: Any, **options: Any) -> None:
        self.model_params = model.params
        made(self, model, **options)

    monkeypatch.setattr(Sampler, "__init__", init)
    run = opened(folder, tmp_path / "out", rollout__gap_limit=1e-4)
    with pytest.raises(rl.Apart, match=r"rollout 0: the sampler's log-probs are 0\.\d+ nats"):
        rl.go_on(rl.begin(run))
    assert not list((run.output / "rollouts").glob("*")) or not run.output.exists()


def test_a_reward_that_does_not_move_is_said() -> None:
    asker = asker_of(4, 99, lambda place: True)
    watch = telling.Watch(asker.prompts, 3)
    rollout = rollouts.fill(asker, 0, 0, (), 4)
    said = [
        list(watch.look(rollout, {"rollout/words_reward": value}))
        for value in (0.5, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5)
    ]
    assert [len(x) for x in said] == [0, 0, 0, 1, 0, 0, 0, 1]
    assert "the reward where words is due has been 0.2500 for 3 rollouts" in said[3][0]
    assert said[3][0].count("\n") == 3


def test_a_run_that_lacks_a_rollout_says_so(folder: Path, tmp_path: Path) -> None:
    run = opened(folder, tmp_path / "out", schedule__epochs=1)
    rl.check_files(run, 0)
    for step, number in ((1, 0), (2, 0), (3, 1)):
        with pytest.raises(
            ValueError, match=rf"{number:06d}.parquet: is missing, and the run goes"
        ):
            rl.check_files(run, step)
    run.path(0).parent.mkdir(parents=True)
    run.path(0).touch()
    rl.check_files(run, 2)


def test_a_preview_computes_nothing(folder: Path, tmp_path: Path) -> None:
    run = opened(folder, tmp_path / "out")
    text = "\n".join(rl.preview(run))
    assert "prompts      8 of 7 to 7 tokens; 0 labels are calls, 8 words" in text
    assert "rollouts     at most 6, of 4 groups of 4 answers; 2 updates each, 12 steps" in text
    assert not run.output.exists()


# Mistakes


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_answers_do_not_depend_on_the_parts_they_are_asked_in(parts: int) -> None:
    whole = asker_of(9, 20, lambda place: True)
    cut = dataclasses.replace(whole, parts=parts)
    made, other = (each.groups(range(3, 17), 0) for each in (cut, whole))
    assert [group.place for group in made] == list(range(3, 17))
    for mine, theirs in zip(made, other, strict=True):
        assert [a.reward for a in mine.answers] == [a.reward for a in theirs.answers]


def test_rewards_of_a_part_are_computed_while_the_next_is_asked() -> None:
    """The second question waits for the first one's rewards, which only another thread can give."""
    scored, first = threading.Event(), asker_of(9, 20, lambda place: True)

    def score(*given: Any) -> Reward:
        scored.set()
        return first.score(*given)

    def ask(rows: Any, names: Any, number: int) -> Any:
        if names[0] != b"0":
            assert scored.wait(30)
        return first.ask(rows, names, number)

    asker = dataclasses.replace(first, parts=2, ask=ask, score=score)
    assert len(asker.groups(range(4), 0)) == 4


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "room": ({"rollout__max_new_tokens": 64}, "rollout.max_new_tokens: is 64, a row has 64 tokens"),
    "length": ({"rollout__max_new_tokens": 60}, "train.jsonl:1: the prompt has 7 tokens"),
    "reward": ({"reward__function": "nothing"}, "reward.function: .* give simrl, binary"),
    "eval": ({"data__eval": "x.jsonl"}, "x.jsonl"),
    "judge": ({"reward__function": "swirl"}, "reward.judge: is None, reward.function is swirl"),
    "nothing": ({"policy__weight": 0}, "policy.weight: is 0 and there is no teacher.model"),
    "guide": ({"rollout__guide": "true", "rollout__samples": 1}, "rollout.samples: is 1: a guide"),
    "part": ({"objective__part": "think"}, "objective.part: is think: rl learns whole answers"),
    "mean": ({"batch__mean": "micro"}, "batch.mean: is micro: RL goes by policy.per"),
    "per": ({"policy__per": "fixed"}, "policy: per 'fixed' divides by a constant"),
    "epochs": ({"schedule__epochs": 0.01}, "schedule.epochs: 0.01 of 8 prompts is less than one"),
    "temperature": ({"rollout__temperature": 0}, "rollout.temperature: is 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, name: str) -> None:
    given, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as caught:
        opened(folder, tmp_path, **given)
    assert "\n" not in str(caught.value)


def test_rows_without_tools_are_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "inputs": "say: ", "targets": "ok<|im_end|>"}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl:1: tools: is missing"):
        opened(folder, tmp_path / "out", data__train=path)
