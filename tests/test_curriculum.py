"""Curricula: references and keys, what is skipped, gone on with and set aside, and mistakes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from star_jax.train import course, curriculum, stages, view
from star_jax.train.manifest import Manifest, Plan, Ready
from star_jax.train.stages import Stage
from tests import tiny, world

LOG = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    world.student(made / "student")
    world.student(made / "teacher")
    world.write_rows(made / "rows.jsonl", world.rows(4, "t"))
    return made


def written(folder: Path, where: Path, **changes: Any) -> Path:
    raw: dict[str, Any] = {
        "name": "test",
        "models": {"student": str(where / "student"), "teacher": str(where / "teacher")},
        "files": {"rows": str(where / "rows.jsonl")},
        "defaults": {"sft": {"data": {"max_tokens": 64}}},
        "stages": [
            {
                "name": "answers",
                "run": "teacher",
                "model": "{teacher}",
                "data": {"train": "{rows}"},
            },
            {
                "name": "sft",
                "run": "sft",
                "preset": "sft-think",
                "model": "{student}",
                "data": {"train": "{answers}/train.jsonl"},
            },
            {"name": "look", "run": "evaluate", "model": "{sft.model}", "data": ["a={rows}"]},
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump({**raw, **changes}))
    return path


def ready(path: Path, output: Path, seed: int = 0) -> tuple[Plan, list[Ready]]:
    plan = curriculum.load(path, output, seed)
    return plan, curriculum.check(plan)


def changed(path: Path, stage: str, **settings: Any) -> None:
    raw = yaml.safe_load(path.read_text())
    for entry in raw["stages"]:
        if entry["name"] == stage:
            entry.update(settings)
    path.write_text(yaml.safe_dump(raw))


class Runs:
    """Stages that leave a file each, and may be made to fail or to be told to stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.trouble: dict[str, Any] = {}
        monkeypatch.setattr(stages, "run", self._run)

    def _run(self, stage: Stage, config: Any, told: Any) -> int | None:
        self.ran.append(stage.name)
        out = Path(config.output)
        out.mkdir(parents=True, exist_ok=True)
        with (out / "log").open("a") as file:
            file.write(stage.name)
        found = self.trouble.pop(stage.name, None)
        if isinstance(found, BaseException):
            raise found
        return found

    def go(self, path: Path, output: Path, seed: int = 0) -> int | None:
        self.ran.clear()
        plan, made = ready(path, output, seed)
        return curriculum.run(plan, made, Manifest(plan, made, "again"), LOG)


def states(output: Path) -> list[str]:
    known = json.loads((output / curriculum.MANIFEST).read_text())
    return [entry["state"] for entry in known["stages"]]


def test_references_become_paths(models: Path, tmp_path: Path) -> None:
    _, (answers, sft, look) = ready(written(tmp_path, models), tmp_path / "out")
    folder = tmp_path / "out" / "stages"
    assert answers.config.model == str(models / "teacher")
    assert answers.config.data.train == str(models / "rows.jsonl")
    assert sft.config.data.train == str(folder / "answers" / "train.jsonl")
    assert sft.config.data.max_tokens == 64
    assert look.config.model == str(folder / "sft" / "model")
    assert look.config.data == (f"a={models / 'rows.jsonl'}",)
    assert [one.config.output for one in (answers, sft)] == [
        str(folder / "answers"),
        str(folder / "sft"),
    ]


def test_what_is_done_is_not_done_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, path, out = Runs(monkeypatch), written(tmp_path, models), tmp_path / "out"
    assert runs.go(path, out) is None
    assert runs.ran == ["answers", "sft", "look"]
    assert states(out) == ["done"] * 3
    assert runs.go(path, out) is None
    assert runs.ran == []


def test_a_stage_whose_input_changed_is_run_again_and_the_old_one_kept(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, path, out = Runs(monkeypatch), written(tmp_path, models), tmp_path / "out"
    runs.go(path, out)
    changed(path, "sft", seed=7)
    runs.go(path, out)
    assert runs.ran == ["sft", "look"]
    kept = sorted(x.name for x in (out / curriculum.ASIDE).iterdir())
    assert kept == ["look-1", "sft-1"]
    assert (out / "stages" / "sft" / "log").read_text() == "sft"
    changed(path, "sft", seed=8)
    runs.go(path, out)
    assert (out / curriculum.ASIDE / "sft-2").is_dir()


def test_keys_follow_contents_and_not_names(models: Path, tmp_path: Path) -> None:
    def keys(path: Path, seed: int = 0) -> list[str]:
        return [one.key for one in ready(path, tmp_path / "out", seed)[1]]

    before = keys(written(tmp_path, models))
    copy = tmp_path / "rows.jsonl"
    copy.write_bytes((models / "rows.jsonl").read_bytes())
    assert keys(written(tmp_path, models, files={"rows": str(copy)})) == before
    world.write_rows(copy, world.rows(5, "t"))
    assert set(keys(written(tmp_path, models, files={"rows": str(copy)}))).isdisjoint(before)
    assert set(keys(written(tmp_path, models), seed=1)).isdisjoint(before)
    tiny.write(tmp_path / "other", seed=9, hidden_size=32, intermediate_size=48, **world.SIZES)
    tiny.tokenizer(tmp_path / "other")
    both = {"student": str(tmp_path / "other"), "teacher": str(models / "teacher")}
    found = keys(written(tmp_path, models, models=both))
    assert found[0] == before[0]
    assert found[1] != before[1]
    assert found[2] != before[2]


def test_a_stage_that_failed_or_was_told_to_stop_goes_on_in_its_folder(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, path, out = Runs(monkeypatch), written(tmp_path, models), tmp_path / "out"
    runs.trouble["sft"] = OSError("disk")
    with pytest.raises(OSError, match="disk"):
        runs.go(path, out)
    assert states(out) == ["done", "failed", "waiting"]
    runs.trouble["sft"] = 15
    assert runs.go(path, out) == 15
    assert states(out) == ["done", "stopped", "waiting"]
    runs.trouble["sft"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        runs.go(path, out)
    assert runs.go(path, out) is None
    assert runs.ran == ["sft", "look"]
    assert (out / "stages" / "sft" / "log").read_text() == "sft" * 4
    assert not (out / curriculum.ASIDE).exists()


def test_a_kill_that_nothing_could_note_changes_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest says `running` of a stage whose process is gone."""
    runs, path, out = Runs(monkeypatch), written(tmp_path, models), tmp_path / "out"
    runs.go(path, out)
    file = out / curriculum.MANIFEST
    known = json.loads(file.read_text())
    known["stages"][1].update(state="running")
    known["stages"][2].update(state="waiting", begun_as=None)
    file.write_text(json.dumps(known))
    runs.go(path, out)
    assert runs.ran == ["sft", "look"]
    assert (out / "stages" / "sft" / "log").read_text() == "sft" * 2


def test_seeds_have_folders_of_their_own(models: Path, tmp_path: Path) -> None:
    path = written(tmp_path, models)
    asked = course.asked([str(path), "--output", str(tmp_path / "out"), "--seeds", "3"])
    found = course.plans(asked)
    assert [plan.seed for plan in found] == [0, 1, 2]
    assert [plan.output.name for plan in found] == ["seed-0", "seed-1", "seed-2"]


def test_the_table_is_split_by_what_is_due(models: Path, tmp_path: Path) -> None:
    path, made = written(tmp_path, models), []
    for seed, exact in ((0, 0.5), (1, 0.7)):
        plan, stages_ = ready(path, tmp_path / f"out-{seed}", seed)
        folder = stages_[2].output
        folder.mkdir(parents=True)
        marks = {"call_exact": exact, "call_call_share": 0.9, "words_reward": 0.25}
        (folder / "marks.json").write_text(json.dumps({"sets": {"a": {"marks": marks}}}))
        made.append((plan, stages_))
    one = list(course.table(made[:1]))
    assert one[1].split()[:3] == ["a", "call:", "exact"]
    assert one[2].split() == ["look", "50", "90", "-", "-", "-", "-", "0.25"]
    assert "60 ± 127" in list(course.table(made))[2]


def test_a_view_shows_what_stages_write(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    plan, made = ready(written(tmp_path, models), tmp_path / "out")
    manifest = Manifest(plan, made, "x")
    manifest.set("answers", state="done", seconds=12.0)
    manifest.set("sft", state="running")
    out = made[1].output
    out.mkdir(parents=True)
    (out / "metrics.jsonl").write_text('{"step": 3, "loss/total_nats": 1.25}\n{"step": 4, "lo')
    (out / "pace.jsonl").write_text('{"step": 3, "time/elapsed_s": 3, "time/eta_s": 9}\n')
    assert view.progress(made[1]) == 0.25
    console = Console(width=120, force_terminal=False)
    console.print(view.View(plan, made, manifest, console).shown())
    said = capsys.readouterr().out
    assert "✓  answers" in said
    assert "12 s" in said
    assert "step 3  loss 1.250" in said
    assert "9 s left" in said


# Mistakes, all of them before anything is computed

STAGE = {"name": "s", "run": "sft", "model": "{student}", "data": {"train": "{rows}"}}
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no stages": ({"stages": []}, r"stages: is missing: give a list"),
    "key": ({"stagse": []}, r"stagse: is unknown: did you mean stages\?"),
    "run": ({"stages": [{**STAGE, "run": "sfd"}]}, r"stage 1 \(s\): run: is 'sfd': use world,"),
    "name": ({"stages": [{**STAGE, "name": "a/b"}]}, r"stage 1: name: is 'a/b': give letters"),
    "twice": ({"stages": [STAGE, STAGE]}, r"stage s: the name is there twice"),
    "model name": ({"stages": [{**STAGE, "name": "student"}]}, r"student: the name is there twice"),
    "setting": (
        {"stages": [{**STAGE, "sede": 1}]},
        r"stage s: sede: is unknown: did you mean seed",
    ),
    "value": ({"stages": [{**STAGE, "seed": "x"}]}, r"stage s: seed: is 'x': give a whole number"),
    "reference": ({"stages": [{**STAGE, "model": "{studnt}"}]}, r"\{studnt\}: is not known here"),
    "later": (
        {"stages": [{**STAGE, "model": "{t.model}"}, {**STAGE, "name": "t"}]},
        r"stage s: \{t\.model\}: is not known here",
    ),
    "missing": (
        {"stages": [{"name": "s", "run": "sft", "model": "{student}"}]},
        r"data\.train: is",
    ),
    "output": ({"stages": [{**STAGE, "output": "x"}]}, r"output: is the curriculum's to choose"),
    "preset": ({"stages": [{**STAGE, "preset": "ckd"}]}, r"--preset: ckd is one of ckd"),
    "world": ({"models": {"student": "world:pupil"}}, r"world:pupil: the world has student and"),
    "defaults": ({"defaults": {"sfd": {}}}, r"defaults: sfd: is no stage"),
    "no model": ({"models": {"student": "nowhere"}}, r"models: student: .*nowhere"),
    "no file": (
        {"files": {"rows": "nowhere.jsonl"}},
        r"files: rows: .*nowhere\.jsonl: there is no",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(models: Path, tmp_path: Path, name: str) -> None:
    changes, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as caught:
        ready(written(tmp_path, models, **changes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_broken_rows_are_named(models: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "inputs": "x", "targets": "y"}\nno json\n')
    with pytest.raises(ValueError, match=r"files: rows: .*bad\.jsonl:2: row: is not JSON"):
        ready(written(tmp_path, models, files={"rows": str(bad)}), tmp_path / "out")


def test_a_teacher_with_another_tokenizer_is_refused(models: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.write(other, seed=9, hidden_size=32, intermediate_size=48, **world.SIZES)
    made = json.loads((models / "student" / "tokenizer.json").read_text())
    made["model"]["vocab"] = {
        k: (v + 1) % 4 if v < 4 else v for k, v in made["model"]["vocab"].items()
    }
    (other / "tokenizer.json").write_text(json.dumps(made))
    both = {"student": str(models / "student"), "teacher": str(other)}
    with pytest.raises(ValueError, match="teacher has another tokenizer than student"):
        ready(written(tmp_path, models, models=both), tmp_path / "out")


def test_folders_that_are_no_curriculum_are_left_alone(models: Path, tmp_path: Path) -> None:
    path, out = written(tmp_path, models), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.txt, no curriculum"):
        ready(path, out)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file: is a file: choose another --output"):
        ready(path, tmp_path / "file")


def test_a_damaged_manifest_is_named(models: Path, tmp_path: Path) -> None:
    plan, made = ready(written(tmp_path, models), tmp_path / "out")
    Manifest(plan, made, "x").write()
    (tmp_path / "out" / curriculum.MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json: is damaged"):
        Manifest(plan, made, "x")


def test_embedded_curricula_are_sound(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for the world's models: their places in the files are what is looked at."""
    found = sorted(course.EMBEDDED.glob("*.yaml"))
    assert [path.stem for path in found] == ["demo", "paper"]
    for path in found:
        monkeypatch.setattr(
            curriculum, "MODELS", {name: models / name for name in ("student", "teacher")}
        )
        plan, made = ready(path, tmp_path / path.stem)
        assert len(made) == len(plan.stages)
    monkeypatch.setattr(curriculum, "MODELS", {"student": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match="world:student: does not come with this version"):
        ready(found[0], tmp_path / "none")
