"""What a step of RL can add up: the policy's loss, a teacher's, a guide's tokens, KL as a cost."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from star_jax import models
from star_jax.train import (
    acting,
    config,
    exam,
    flags,
    judging,
    learning,
    loss,
    policy,
    presets,
    rl,
    rollouts,
    setup,
    teaching,
    telling,
)
from star_jax.train import step as steps
from star_jax.train.prompts import Prompt
from star_jax.train.rollouts import Rollout
from tests import bandit, tiny, world
from tests.test_rl import SMALL, answered


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("joint")
    world.student(made / "student")
    tiny.write(made / "teacher", seed=2, hidden_size=48, intermediate_size=64, **world.SIZES)
    tiny.tokenizer(made / "teacher")
    bandit.write(made / "train.jsonl", 8)
    return made


def opened(folder: Path, output: Path, **changes: Any) -> rl.RlRun:
    given = (
        SMALL
        | {"batch.rows_per_device": 8}
        | {name.replace("__", "."): value for name, value in changes.items()}
    )
    given |= {"model": folder / "student", "output": output}
    given |= {"data.train": folder / "train.jsonl"}
    if given.pop("teach", False):
        given["teacher.model"] = folder / "teacher"
        given["teacher.dtype"] = "float32"
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    run = rl.open(flags.load(config.Rl, words))
    return dataclasses.replace(run, mesh=models.make_mesh(1, 1, 1, devices=jax.devices()[:1]))


def gradient(run: rl.RlRun, rollout: Rollout) -> tuple[float, Any]:
    """The loss of an update and its gradient."""
    lesson = learning.Lesson(run, run.prompts, rollout)
    with jax.set_mesh(run.mesh):
        teacher = teaching.Model(run, run.config.teacher) if run.teacher is not None else None
        plan, batch = lesson.batch(1, is_first=False, teacher=teacher)
        fixed = loss.Fixed(None, None if teacher is None else teacher.head, np.uint32(0))
        function = functools.partial(acting.rl, forward=run.forward, joint=run.joint)
        return summed(run, function, batch, fixed, plan)


def summed(run: rl.RlRun, function: Any, batch: Any, fixed: Any, plan: Any) -> tuple[float, Any]:
    def total(params: Any) -> Any:
        sums = [
            function(params, steps.at(batch.micro, m), fixed, plan.shape.targets)
            for m in range(plan.used)
        ]
        return sum(value for value, _ in sums) / sum(count for _, (count, _) in sums)

    params = setup.fresh(run).params
    value, found = jax.value_and_grad(total)(params)
    return float(value), found


def close(left: Any, right: Any, atol: float = 1e-6) -> None:
    for mine, theirs in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsd", "rkl"])
def test_distillation_alone_is_what_ckd_learns(folder: Path, tmp_path: Path, kind: str) -> None:
    """The policy's weight at 0: the loss and gradient of `loss.ckd` on the same tokens."""
    options = {"objective__preset": "gkd", "objective__kind": kind} if kind == "jsd" else {}
    run = opened(folder, tmp_path, teach=True, policy__weight=0, policy__kl_weight=0, **options)
    rollout = answered(run)
    value, found = gradient(run, rollout)
    lesson = learning.Lesson(run, run.prompts, rollout)
    with jax.set_mesh(run.mesh):
        teacher = teaching.Model(run, run.config.teacher)
        plan, batch = lesson.batch(1, is_first=False, teacher=teacher)
        micro = loss.Micro(batch.micro.tokens, batch.micro.teacher)
        assert run.joint.taught is not None
        function = functools.partial(
            loss.ckd, forward=run.forward, objective=run.joint.taught, end_of_think=0
        )
        fixed = loss.Fixed(None, teacher.head)
        wanted = summed(run, function, batch._replace(micro=micro), fixed, plan)
    assert abs(value - wanted[0]) < 1e-6
    assert abs(value) > 1e-3
    close(found, wanted[1])


@pytest.mark.slow
def test_parts_of_a_joint_loss_add_up(folder: Path, tmp_path: Path) -> None:
    """policy + 0.3 · teacher at own tokens + 0.7 at a guide's."""

    def with_guides(run: rl.RlRun) -> Rollout:
        made = answered(run)
        groups = tuple(
            dataclasses.replace(
                group,
                answers=(*group.answers[:-1], dataclasses.replace(group.answers[-1], guided=True)),
            )
            for group in made.groups
        )
        return dataclasses.replace(made, groups=groups)

    def of(**changes: Any) -> tuple[float, Any]:
        shared = {"rollout__guide": "true", "teach": True, "policy__kl_weight": 0.0}
        run = opened(folder, tmp_path, **shared, **changes)
        return gradient(run, with_guides(run))

    whole = of(teacher__weight=0.3, teacher__label_weight=0.7)
    parts = [
        of(teacher__weight=0),
        of(policy__weight=0, teacher__weight=0.3, teacher__label_weight=0),
        of(policy__weight=0, teacher__weight=0, teacher__label_weight=0.7),
    ]
    assert all(abs(value) > 1e-4 for value, _ in parts)
    assert abs(whole[0] - sum(value for value, _ in parts)) < 1e-6
    close(whole[1], jax.tree.map(lambda *x: sum(x), *(found for _, found in parts)))


@pytest.mark.slow
def test_a_guides_tokens_are_shaped(folder: Path, tmp_path: Path) -> None:
    """The loss is policy.loss's with `guided`, from the log-probs that the trainer has."""
    run = opened(folder, tmp_path, rollout__guide="true", policy__preset="luffy")
    assert run.joint.policy.clip is None
    rollout = answered(run)
    groups = tuple(
        dataclasses.replace(
            group,
            answers=tuple(
                dataclasses.replace(a, guided=i == 3) for i, a in enumerate(group.answers)
            ),
        )
        for group in rollout.groups
    )
    rollout = dataclasses.replace(rollout, groups=groups)
    value, _ = gradient(run, rollout)
    lesson = learning.Lesson(run, run.prompts, rollout)
    with jax.set_mesh(run.mesh):
        plan, _ = lesson.batch(1, is_first=False)
        scorer = learning.Scorer(run.forward)
        logps = scorer.log_probs(lesson, setup.fresh(run).params, loss.Fixed())
    chosen = [lesson.answers[i] for i in plan.indices]
    T = max(len(a.tokens) for a in chosen)

    def rows(values: Any) -> np.ndarray:
        made = np.zeros((len(chosen), T), np.float32)
        for row, each in enumerate(values):
            made[row, : len(each)] = each
        return made

    mask = rows([np.ones(len(a.tokens)) for a in chosen]) > 0
    wanted, _ = policy.loss(
        rows([logps[i] for i in plan.indices]),
        rows([a.old_logps for a in chosen]),
        np.array([a.advantage for a in chosen], np.float32),
        mask,
        guided=rows([np.full(len(a.tokens), a.guided) for a in chosen]) > 0,
        entropy=np.zeros(mask.shape, np.float32),
        **presets_of(run),
    )
    # The bonus for entropy is apart: it is the trainer's own.
    bare = opened(
        folder, tmp_path, rollout__guide="true", policy__preset="luffy", policy__entropy_weight=0
    )
    bare_value, _ = gradient(bare, rollout)
    assert abs(bare_value - float(wanted)) < 1e-6
    assert value < bare_value


def presets_of(run: rl.RlRun) -> dict[str, Any]:
    made = policy.presets.luffy(run.config.rollout.max_new_tokens)
    return {**made, "entropy_weight": 0.0}


def test_kl_as_a_cost_is_charged_to_what_comes_before_it(folder: Path, tmp_path: Path) -> None:
    run = opened(
        folder,
        tmp_path,
        policy__kl_in="reward",
        policy__kl_weight=0.5,
        policy__kl_estimator="k1",
    )
    assert run.joint.policy.kl_weight == 0
    assert run.joint.shows_reference
    lesson = learning.Lesson(run, run.prompts, answered(run))
    plan, batch = lesson.batch(1, is_first=False)
    gain_MBT = jax.device_get(batch.micro.acted.advantage_BT)
    found = lesson.taken_apart(plan, gain_MBT)
    assert len(found) == 8
    for index, gain_T in found.items():
        answer = lesson.answers[index]
        assert answer.old_logps is not None
        assert answer.ref_logps is not None
        kl_T = answer.old_logps - answer.ref_logps
        kl_T = np.clip(kl_T, -10, 10)
        coming_T = np.cumsum(kl_T[::-1])[::-1]
        np.testing.assert_allclose(gain_T, answer.advantage - 0.5 * coming_T, rtol=1e-4, atol=1e-5)


# Targets as answers


def test_a_share_of_prompts_is_answered_by_the_rows(folder: Path, tmp_path: Path) -> None:
    run = opened(folder, tmp_path, rollout__own_share=0.3)
    asked: list[int] = []

    def ask(rows: Any, names: Any, number: int) -> list[Any]:
        asked.extend(int(name) for name in names)
        return [[] for _ in rows]

    asker = rollouts.Asker(
        prompts=run.prompts,
        seed=0,
        places=2000,
        ask=ask,
        decode=str,
        score=run.score,
        keep=lambda rewards, scores: np.ones(len(rewards), bool),
        most_batches=9,
        samples=2,
        own_share=0.3,
    )
    groups = asker.groups(range(2000), 0)
    assert 0.25 < len(asked) / 2000 < 0.35
    of_rows = [group for group in groups if group.place not in asked]
    target = run.tokenizer.encode(["ok<|im_end|>"])[0]
    for group in of_rows[:20]:
        assert [a.guided for a in group.answers] == [True, True]
        assert group.answers[0].tokens.tolist() == target
    again: list[int] = asked.copy()
    asked.clear()
    asker.groups(range(2000), 7)
    assert asked == again


def test_a_target_that_has_no_room_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.jsonl:1: the target has 3 tokens and is to be"):
        opened(folder, tmp_path, rollout__guide="true", rollout__max_new_tokens=2)


# Rewards, exams, collapse

TOOLS = [
    {"name": "look", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
]
CALL = (
    '<think>\nx\n</think>\n\n<tool_call>\n{"name": "look", "arguments": {"a": "b"}}\n</tool_call>'
)
WORDS = "<think>\nx\n</think>\n\nI do not know."


def test_words_for_a_call_may_be_worth_what_a_broken_call_is() -> None:
    paper = judging.of(config.Reward())
    strict = judging.of(config.Reward(reply_for_call="invalid"))
    assert paper(WORDS, CALL, TOOLS).total == 0
    assert strict(WORDS, CALL, TOOLS).total == -1
    assert strict(WORDS, CALL, TOOLS).why == "-1: words where a call is due"
    for said, label in ((CALL, CALL), (CALL, WORDS), (WORDS, WORDS)):
        assert strict(said, label, TOOLS) == paper(said, label, TOOLS)


def test_a_judge_without_a_model() -> None:
    judge = "star_jax.rewards.judges.by_schema"
    score = judging.of(config.Reward(function="swirl", judge=judge))
    assert score(CALL, "unread", TOOLS).total == 1
    assert score(CALL.replace('"b"', "7"), "unread", TOOLS).total == 0


def test_marks_are_split_by_what_is_due() -> None:
    def prompt(label: str, wanted: Any) -> Prompt:
        nothing = np.zeros(1, np.int32)
        return Prompt(
            ids=nothing,
            text="",
            label=label,
            target_ids=nothing,
            opening="",
            tools=tuple(TOOLS),
            wanted=wanted,
            row_id="",
            line=1,
        )

    rows = [prompt(CALL, "call"), prompt(CALL, "call"), prompt(WORDS, "words")]
    found = exam.marks(rows, [CALL, WORDS, WORDS], judging.of(config.Reward()))
    assert found["call_exact"] == 0.5
    assert found["call_call_share"] == 0.5
    assert found["words_exact"] == 1
    assert found["words_call_share"] == 0
    assert found["exact"] == pytest.approx(2 / 3)
    assert found["reward"] == pytest.approx(2 / 3)


def test_a_fall_of_the_call_rate_is_a_collapse() -> None:
    name = "rollout/call_call_share"
    said = telling.collapse({name: 0.8}, {name: 0.39})
    assert said is not None
    assert "calls in 39% of its answers, at the beginning in 80%" in said
    assert telling.collapse({name: 0.8}, {name: 0.41}) is None
    assert telling.collapse({name: 0.02}, {name: 0.0}) is None
    assert telling.collapse({}, {name: 0.0}) is None


@pytest.mark.slow
def test_a_collapse_ends_the_run_and_names_the_last_good_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers of a policy that calls at first and then no more; told to, the run goes on."""
    tell = telling.numbers

    def numbers(rollout: Rollout, prompts: Any) -> dict[str, float]:
        share = 0.9 if rollout.number == 0 else 0.1
        return tell(rollout, prompts) | {"rollout/call_call_share": share}

    monkeypatch.setattr(telling, "numbers", numbers)
    made = opened(folder, tmp_path / "out", schedule__epochs=3)
    with pytest.raises(rl.Collapsed, match=r"rollout 1: .*10% .*90%.*latest checkpoint is .*/2"):
        rl.go_on(rl.begin(made))
    assert not (tmp_path / "out" / "model").exists()
    allowed = opened(folder, tmp_path / "out", schedule__epochs=3, rollout__allow_collapse="true")
    assert rl.go_on(rl.begin(allowed)) is None
    assert (tmp_path / "out" / "model").is_dir()


@pytest.mark.slow
def test_a_policy_is_examined_while_it_trains(folder: Path, tmp_path: Path) -> None:
    """At ends of rollouts past each multiple, and at the end; the best is kept by its reward."""
    row = {"id": "e", "inputs": "say: ", "targets": f"{WORDS}<|im_end|>", "tools": []}
    given = {
        "data__eval": world.write_rows(tmp_path / "eval.jsonl", [row]),
        "evaluation__every_steps": 4,
        "schedule__epochs": 3,
        "checkpoint__keep_last": 1,
    }
    made = opened(folder, tmp_path / "out", **given)
    assert rl.go_on(rl.begin(made)) is None
    lines = world.metrics(tmp_path / "out")
    seen = [line["step"] for line in lines if "eval/reward" in line]
    assert seen == [4, 8, 12]
    scores = {line["step"]: line["eval/reward"] for line in lines if "eval/reward" in line}
    best = rl.begin(made).checkpoints.best()
    assert best is not None
    assert scores[best] == max(scores.values())


def test_a_label_that_is_no_answer_is_named_before_it_is_examined(
    folder: Path, tmp_path: Path
) -> None:
    """The reward of this run reads any label; whether an answer is exactly it could not be told."""
    with pytest.raises(ValueError, match=r"train\.jsonl:1: label has 0 </think>"):
        opened(folder, tmp_path / "out", data__eval=folder / "train.jsonl")


# Presets


@pytest.mark.parametrize(
    ("loop", "name"), [(loop, name) for loop, rows in presets.PRESETS.items() for name in rows]
)
def test_every_preset_is_a_configuration(loop: str, name: str) -> None:
    kind: Any = {"sft": config.Sft, "ckd": config.Ckd, "rl": config.Rl, "dpo": config.Dpo}[loop]
    words = ["--model", "m", "--output", "o", "--data.train", "x.jsonl"]
    if loop == "ckd" or name == "gkd":
        words += ["--teacher.model", "t"]
    made = flags.load(kind, words, presets.of(loop, name))
    assert flags.values(made) != {}
    assert presets.of(loop, name) == presets.PRESETS[loop][name]


def test_what_is_given_goes_over_a_preset(tmp_path: Path) -> None:
    words = ["--model", "m", "--output", "o", "--data.train", "x", "--rollout.samples", "6"]
    made = flags.load(config.Rl, words, presets.of("rl", "toolrl"))
    assert made.rollout.samples == 6
    assert made.optimizer.learning_rate == 1e-6
    file = tmp_path / "run.yaml"
    file.write_text("optimizer:\n  weight_decay: 0.5\n")
    made = flags.load(config.Rl, [*words, "--config", str(file)], presets.of("rl", "toolrl"))
    assert (made.optimizer.learning_rate, made.optimizer.weight_decay) == (1e-6, 0.5)


def test_unknown_presets_are_named() -> None:
    with pytest.raises(ValueError, match=r"--preset: 'sim-lr' is unknown: did you mean sim-rl\?"):
        presets.of("rl", "sim-lr")
    with pytest.raises(
        ValueError, match=r"--preset: ckd is one of ckd: python -m star_jax\.train ckd"
    ):
        presets.of("rl", "ckd")


@pytest.mark.slow
def test_every_preset_starts_from_one_command(tmp_path: Path) -> None:
    """A step of each on the tiny world's models, and a model at its end."""
    world.make(tmp_path)
    rows = [{**row, "tools": []} for row in world.rows(16, "t")]
    world.write_rows(tmp_path / "train.jsonl", rows)
    pairs = [
        {"id": f"p{i}", "prompt": f"say {i}: ", "chosen": "a<|im_end|>", "rejected": "b<|im_end|>"}
        for i in range(8)
    ]
    world.write_rows(tmp_path / "pairs.jsonl", pairs)
    small: dict[str, Any] = {"schedule__max_steps": 1, "data__eval": None}
    of_loop: dict[str, dict[str, Any]] = {
        "sft": {},
        "ckd": {"teacher__model": "teacher"},
        "dpo": {"data__train": "pairs.jsonl"},
        "rl": {
            "rollout__prompts": 4,
            "rollout__max_new_tokens": 64,
            "filter__rule": "all",
            "evaluation__every_steps": None,
        },
    }
    commands = []
    for loop, known in presets.PRESETS.items():
        for name in known:
            given = {**small, **of_loop[loop]}
            if name == "gkd":
                given |= {"teacher__model": "teacher", "teacher__dtype": "float32"}
            words = world.words(loop, f"out-{name}", **given)
            commands.append((world.TRAIN, [*words, "--preset", name]))
    done = world.run_all(tmp_path, world.environment(tmp_path / "compiled"), *commands)
    for (_, words), one in zip(commands, done, strict=True):
        assert one.status == 0, (words, one.stderr)
        assert (tmp_path / words[words.index("--output") + 1] / "model").is_dir()
