"""A configuration from a file and flags; every mistake is one sentence with its place."""

from __future__ import annotations

import ast
import dataclasses
import typing
from pathlib import Path

import pytest

from star_jax.train import config, distill, flags
from star_jax.train.config import Ckd, Sft

NEEDED = ["--model", "m", "--output", "o", "--data.train", "t.jsonl"]
TEACHER = ["--teacher.model", "big"]
FILE = """\
model: m
output: o
data:
  train: t.jsonl
optimizer:
  learning_rate: 1e-5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "run.yaml"
    made.write_text(FILE)
    return made


def test_defaults_are_the_published_settings() -> None:
    made = flags.load(Ckd, NEEDED + TEACHER)
    adam, schedule = made.optimizer, made.schedule
    assert (adam.learning_rate, adam.beta1, adam.beta2) == (3e-6, 0.9, 0.95)
    assert (adam.weight_decay, adam.clip_norm) == (1e-4, 1.0)
    assert (schedule.curve, schedule.final_share, schedule.warmup_share) == ("cosine", 0.1, 0.03)
    assert made.batch.examples == 128
    built = made.objective.build()
    assert built == distill.Objective(**distill.presets.star("fkl"))
    assert (built.top_k, built.student_top_m, built.tail_weight) == (100, 100, 10.0)


def test_a_flag_goes_over_the_file_and_the_file_over_the_default(path: Path) -> None:
    made = flags.load(Sft, ["--config", str(path), "--schedule.epochs=3"])
    assert (made.optimizer.learning_rate, made.schedule.epochs) == (1e-5, 3.0)
    made = flags.load(Sft, ["--config", str(path), "--optimizer.learning_rate", "2e-5"])
    assert made.optimizer.learning_rate == 2e-5


def test_values_are_yaml() -> None:
    made = flags.load(
        Sft,
        [
            *NEEDED,
            *("--data.allow", "[end_missing, 'duplicate:7']", "--batch.packing", "false"),
            *("--optimizer.clip_norm", "null", "--log.bar", "true"),
        ],
    )
    assert made.data.allow == ("end_missing", "duplicate:7")
    assert (made.batch.packing, made.optimizer.clip_norm, made.log.bar) == (False, None, True)


def test_words_stay_words() -> None:
    """YAML 1.1 would make booleans of on and yes, and numbers of 0012 and 1e3."""
    given = ["--model", "0012", "--output", "yes", "--data.train", "1e3", "--data.eval", "null"]
    made = flags.load(Sft, [*given, "--distributed.mode", "off", "--log.wandb_project", "on"])
    assert (made.model, made.output, made.data.train) == ("0012", "yes", "1e3")
    assert (made.data.eval, made.distributed.mode, made.log.wandb_project) == (None, "off", "on")


def test_words_of_a_file_stay_words(path: Path) -> None:
    path.write_text(FILE + "distributed:\n  mode: off\nlog:\n  bar: True\n")
    made = flags.load(Sft, ["--config", str(path)])
    assert (made.distributed.mode, made.log.bar) == ("off", True)


def test_a_word_alone_is_a_list_of_one() -> None:
    made = flags.load(Sft, [*NEEDED, "--data.allow", "end_missing", "--lora.targets", "gate"])
    assert (made.data.allow, made.lora.targets) == (("end_missing",), ("gate",))


def test_a_flag_at_fault_is_not_blamed_on_the_file(path: Path) -> None:
    with pytest.raises(ValueError, match=r"^seed: is -1"):
        flags.load(Sft, ["--config", str(path), "--seed", "-1"])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    more = ["--lora.rank", "4", "--objective.kind", "akl", "--data.eval", "e.jsonl"]
    made = flags.load(Ckd, NEEDED + TEACHER + more)
    (tmp_path / "c.yaml").write_text(flags.to_yaml(made))
    assert flags.load(Ckd, ["--config", str(tmp_path / "c.yaml")]) == made


FLAGS: list[tuple[list[str], str]] = [
    (["--optimizer.lerning_rate", "1"], "--optimizer.lerning_rate: is unknown: did you mean opt"),
    (
        ["--learning_rate", "1"],
        "--learning_rate: is unknown: did you mean optimizer.learning_rate?",
    ),
    (["--optimizer", "1"], "--optimizer: is a section: its keys are optimizer.learning_rate, "),
    (["--zzz", "1"], "--zzz: is unknown: see --help for all keys"),
    (["--seed"], "--seed: has no value: write --seed value"),
    (["seed", "1"], "seed: is no flag: write --section.key value"),
    (["--seed", "1", "--seed", "2"], "--seed: is given twice: leave one"),
    (["--seed", "x"], "--seed: is 'x': give a whole number"),
    (["--seed", "1.5"], "--seed: is 1.5: give a whole number"),
    (["--seed", "true"], "--seed: is True: give a whole number"),
    (["--optimizer.learning_rate", "fast"], "is 'fast': give a number"),
    (["--optimizer.learning_rate", "null"], "--optimizer.learning_rate: is None: give a number"),
    (["--optimizer.clip_norm", "[1]"], "is [1]: give a number, or null"),
    (["--batch.packing", "maybe"], "--batch.packing: is 'maybe': give true or false"),
    (["--batch.packing", "on"], "--batch.packing: is 'on': give true or false"),
    (["--data.allow", "3"], "--data.allow: is 3: give a list of words, as in [one, other]"),
    (["--compute.dtype", "float16"], "--compute.dtype: is 'float16': give bfloat16 or float32"),
    (["--seed", "-1"], "seed: is -1: give 0 or more"),
    (["--seed", "[1"], "--seed: is '[1', which is no YAML value: quote it"),
    (["--data.max_tokens", "1"], "data.max_tokens: is 1: give 2 or more"),
    (["--data.max_targets", "0"], "data.max_targets: is 0: give 1 or more"),
    (["--batch.examples", "0"], "batch.examples: is 0: give 1 or more"),
    (["--batch.mean", "rows"], "--batch.mean: is 'rows': give tokens or micro"),
    (["--optimizer.learning_rate", "0"], "optimizer.learning_rate: is 0.0: give a number above 0"),
    (["--optimizer.learning_rate", ".inf"], "optimizer.learning_rate: is inf: give a number above"),
    (["--optimizer.beta2", "1"], "optimizer.beta2: is 1.0: give 0 or more, below 1"),
    (["--optimizer.clip_norm", "0"], "optimizer.clip_norm: is 0.0: give a number above 0"),
    (["--schedule.epochs", "0"], "schedule.epochs: is 0.0: give a number above 0"),
    (["--schedule.final_share", "2"], "schedule.final_share: is 2.0: give 0 to 1"),
    (["--lora.rank", "2", "--lora.targets", "[qq]"], "qq"),
    (["--distributed.process", "1"], "distributed: coordinator, processes and process go together"),
    (["--config", "nowhere.yaml"], "nowhere.yaml: there is no such file: check --config"),
]


@pytest.mark.parametrize(("given", "said"), FLAGS, ids=[said for _, said in FLAGS])
def test_a_wrong_flag_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        flags.load(Sft, NEEDED + given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


FILES: list[tuple[str, str]] = [
    (FILE + "  lerning_rate: 1\n", ":7: optimizer.lerning_rate: is unknown: did you mean"),
    (FILE + "sead: 1\n", ":7: sead: is unknown: did you mean seed?"),
    (FILE + "seed:\n  a: 1\n", ":7: seed: is one value, not a section"),
    (FILE + "batch: 3\n", ":7: batch: is a section: its keys are batch.examples"),
    (FILE + "seed: x\n", ":7: seed: is 'x': give a whole number"),
    (FILE + "log:\n  bar: 1\n", ":8: log.bar: is 1: give true or false, or null"),
    (FILE.replace("model: m", "model: 7"), ":1: model: is 7: give a text"),
    (FILE + "batch:\n  examples: 0\n", ": batch.examples: is 0: give 1 or more"),
    ("model: m\noutput: o\n", ": data.train: is missing: give --data.train, or put it in a"),
    ("- 1\n", ": is no mapping"),
    ("a: [1\n", "is no YAML"),
]


@pytest.mark.parametrize(("text", "said"), FILES, ids=[said for _, said in FILES])
def test_a_wrong_file_is_refused_with_its_line(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        flags.load(Sft, ["--config", str(path)])
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_teacher_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"^teacher: is missing: give teacher\.model or teacher"):
        flags.load(Ckd, NEEDED)


@pytest.mark.parametrize(
    "more", [["--objective.kind", "rskd"], ["--objective.preset", "gkd"]], ids=["rskd", "gkd"]
)
def test_a_cache_cannot_say_what_only_a_live_teacher_knows(more: list[str]) -> None:
    with pytest.raises(ValueError, match=r"teacher\.cache: .* give teacher\.model instead$"):
        flags.load(Ckd, [*NEEDED, "--teacher.cache", "c", *more])


def test_a_preset_is_a_start_from_which_single_values_differ() -> None:
    made = flags.load(Ckd, [*NEEDED, *TEACHER, "--objective.preset", "nemo"])
    assert made.objective.build() == distill.Objective(**distill.presets.nemo())
    made = flags.load(
        Ckd, [*NEEDED, *TEACHER, "--objective.kind", "akl", "--objective.tail_weight", "1"]
    )
    assert (made.objective.build().kind, made.objective.build().tail_weight) == ("akl", 1.0)


@pytest.mark.parametrize("kind", [Sft, Ckd])
def test_help_explains_every_key(kind: type) -> None:
    lines = flags.help_text(kind).splitlines()
    for name in flags.values_of(kind):
        line = next(line for line in lines if line.split()[0] == f"--{name}")
        assert len(line.split("[")[0].split()) > 2, f"{name} has no comment that says what it is"


def test_help_shows_each_default_as_a_file_would_have_it() -> None:
    text = flags.help_text(Ckd)
    shown = {line.split()[0][2:]: line.rpartition(" [")[2][:-1] for line in text.splitlines()[2:]}
    assert shown["seed"] == shown["lora.rank"] == "0"
    assert shown["optimizer.clip_norm"] == "1.0"
    assert shown["batch.packing"] == "true"
    assert shown["data.eval"] == "null"
    assert shown["model"] == "required"


def test_every_key_is_read_somewhere() -> None:
    """A field that nothing reads is a promise that nothing keeps."""
    sources = Path(flags.__file__).parents[1].rglob("*.py")
    read = {
        node.attr
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    sections = [config.Sft, config.Ckd, config.Mesh, config.Data, config.Batch, config.Optimizer]
    sections += [config.Schedule, config.Compute, config.Adapters, config.Checkpoint]
    sections += [config.Evaluation, config.Log, config.Distributed, config.Teacher]
    for section in sections:
        for field in dataclasses.fields(typing.cast(typing.Any, section)):
            assert field.name in read, f"{section.__name__}.{field.name} is read nowhere"
