"""What a run's folder holds, read for the page.

collect(folder) → Run      manifest.json, and of each stage's folder what its loop has written

A folder that a single loop has written (`train sft --output FOLDER`) is a run of one stage. What is
missing is None or empty; what can't be read is a note of its stage. Only a folder that is no run is
a ValueError.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from star_jax.train.report import lines, samples
from star_jax.train.report.aggregate import Mark
from star_jax.train.report.markup import shown
from star_jax.train.report.samples import Rollouts, Said

MANIFEST, LONE = "manifest.json", "run.json"
LOOPS = ("sft", "ckd", "rl", "dpo")
ANSWERS = 200  # of the rollouts of a stage, to be read

Curve = tuple[tuple[int, dict[str, float]], ...]  # (step, its numbers)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """How one model did on one set of prompts."""

    rows: float | None = None
    call_rows: float | None = None
    words_rows: float | None = None
    marks: dict[str, Mark] = field(default_factory=dict)
    passk: dict[str, dict[int, float]] = field(default_factory=dict)  # all, call, words
    others: dict[str, float] = field(default_factory=dict)  # entropy_nats, samples, …


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """What a teacher's answers came to."""

    counts: dict[str, float]
    dropped: dict[str, float]
    rows: int | None  # that are there to be learnt


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    loop: str
    preset: str | None
    output: str
    state: str
    seconds: float | None
    command: str
    config: str  # YAML
    metrics: Curve = ()
    pace: Curve = ()
    rollouts: Rollouts = field(default_factory=Rollouts)
    sets: dict[str, Marks] = field(default_factory=dict)
    said: tuple[Said, ...] = ()
    teaching: Teaching | None = None
    has_model: bool = False
    notes: tuple[str, ...] = ()

    def series(self, name: str) -> tuple[tuple[float, float], ...]:
        """A metric over the steps that have it."""
        return tuple((step, row[name]) for step, row in self.metrics if name in row)


@dataclass(frozen=True, kw_only=True)
class Run:
    folder: Path
    name: str
    seed: float | None
    version: str
    command: str
    machine: dict[str, str]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[Stage, ...]:
        """The evaluations that have numbers, in their order."""
        return tuple(stage for stage in self.stages if stage.sets)


def collect(folder: Path, answers: int = ANSWERS) -> Run:
    """ValueError where the folder is no run's."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder: give the folder of a run")
    if (folder / MANIFEST).exists():
        manifest = _object(folder / MANIFEST)
    elif (folder / LONE).exists():
        loop = str(_object(folder / LONE).get("loop", "–"))
        alone = {"name": loop, "run": loop, "output": "."}
        manifest = {"name": folder.resolve().name, "stages": [alone]}
    else:
        raise ValueError(f"{folder}: holds no {MANIFEST}: give the folder of a run")
    stages = manifest.get("stages", [])
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError(f"{folder / MANIFEST}: stages: is no list of objects: restore the file")
    machine = manifest.get("machine")
    return Run(
        folder=folder,
        name=_text(manifest.get("name")),
        seed=lines.as_number(manifest.get("seed")),
        version=_text(manifest.get("version")),
        command=_text(manifest.get("command"), 4000),
        machine={str(k): _text(v) for k, v in machine.items()} if isinstance(machine, dict) else {},
        stages=tuple(_stage(folder, stage, answers) for stage in stages),
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}): restore the file") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is no JSON object: restore the file")
    return found


def _text(value: Any, most: int = 300) -> str:
    """A value of the manifest for a reader; lists as their parts."""
    if value is None or value == "":
        return "–"
    if isinstance(value, list):
        return ", ".join(_text(part) for part in value) or "none"
    return shown(value, most)


def _stage(folder: Path, raw: dict[str, Any], answers: int) -> Stage:
    given, preset = raw.get("output"), raw.get("preset")
    stage = Stage(
        name=_text(raw.get("name")),
        loop=_text(raw.get("run")),
        preset=None if preset is None else _text(preset),
        output=_text(given),
        state=_text(raw.get("state")),
        seconds=lines.finite(raw).get("seconds"),
        command=_text(raw.get("command"), 4000),
        config=_settings(raw.get("settings")),
    )
    output = folder / given if isinstance(given, str) else None
    if output is not None and output.is_dir():
        return _held(stage, output, answers)
    if stage.state in ("done", "running"):
        return replace(stage, notes=(f"{stage.output} is not there.",))
    return stage


def _settings(settings: Any) -> str:
    if not settings:
        return ""
    try:
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    except yaml.YAMLError:
        return shown(settings, 20000)


def _held(stage: Stage, output: Path, answers: int) -> Stage:
    """The stage with what its folder holds."""
    notes: list[str] = []
    config = lines.text(output / "config.yaml", notes)
    has_model = (output / "model").is_dir()
    stage = replace(stage, config=config or stage.config, has_model=has_model)
    match stage.loop:
        case "teacher":
            stage = replace(stage, teaching=_teaching(output, notes))
            if stage.teaching is None:
                notes.append("There is no report.json yet.")
        case "evaluate":
            stage = replace(
                stage,
                sets=_sets(lines.load(output / "marks.json", notes)),
                said=samples.of_evaluation(output / "answers.jsonl", notes),
            )
            if not stage.sets:
                notes.append("There are no marks yet.")
        case loop if loop in LOOPS:
            stage = replace(
                stage,
                metrics=_curve(output / "metrics.jsonl", notes),
                pace=_curve(output / "pace.jsonl", notes),
                rollouts=samples.of_rollouts(output / "rollouts", answers, notes),
            )
            if not stage.metrics:
                notes.append("No step has been logged yet.")
    return replace(stage, notes=tuple(notes))


def _curve(path: Path, notes: list[str]) -> Curve:
    found: dict[int, dict[str, float]] = {}
    for row in lines.rows(path, notes):
        step = row.pop("step", None)
        if isinstance(step, int):
            found[step] = lines.numbers(row)  # a step that was done again counts once
    return tuple(sorted(found.items()))


def _teaching(output: Path, notes: list[str]) -> Teaching | None:
    report = lines.load(output / "report.json", notes)
    if report is None:
        return None
    counts = lines.finite(report.get("counts")) or lines.finite(report)
    inner = report.get("counts")
    nested = inner.get("dropped") if isinstance(inner, dict) else None
    train = output / "train.jsonl"
    return Teaching(
        counts=counts,
        dropped=lines.finite(report.get("dropped", nested)),
        rows=sum(1 for _ in lines.rows(train, notes)) if train.is_file() else None,
    )


def _sets(found: dict[str, Any] | None) -> dict[str, Marks]:
    sets = (found or {}).get("sets")
    if not isinstance(sets, dict):
        return {}
    return {shown(name, 120): _marks(raw) for name, raw in sets.items() if isinstance(raw, dict)}


def _marks(raw: dict[str, Any]) -> Marks:
    ends = raw.get("intervals") if isinstance(raw.get("intervals"), dict) else {}
    passk = raw.get("passk") if isinstance(raw.get("passk"), dict) else {}
    counted = ("rows", "call_rows", "words_rows")
    numbers = lines.finite(raw)
    return Marks(
        **{name: numbers.get(name) for name in counted},
        marks={
            name: _mark(value, (ends or {}).get(name))
            for name, value in lines.finite(raw.get("marks")).items()
        },
        passk={str(kind): _by_count(values) for kind, values in (passk or {}).items()},
        others={name: value for name, value in numbers.items() if name not in counted},
    )


def _mark(value: float, ends: Any) -> Mark:
    if isinstance(ends, list) and len(ends) == 2:
        low, high = (lines.finite({"": end}).get("") for end in ends)
        if low is not None and high is not None:
            return Mark(value, low, high)
    return Mark(value)


def _by_count(values: Any) -> dict[int, float]:
    read = {int(k): value for k, value in lines.finite(values).items() if k.isdigit() and int(k)}
    return dict(sorted(read.items()))
