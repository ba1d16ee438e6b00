"""Several stages from one file: each run once, gone on with when killed, run again when what it
reads is another.

    file → Plan(stages) --check--> nothing has been computed yet
         → for each stage: key = hash of its settings and of all that it reads
              done under that key: skipped;   begun: gone on with;   another key: set aside, run

OUTPUT/manifest.json says how far it is, OUTPUT/stages/NAME holds what a stage makes. A value in a
stage's settings may name what stands elsewhere: {NAME} is a stage's folder, {NAME.model} the model
in it, {student} an entry of `models`, {prompts} one of `files`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from star_jax.data import read
from star_jax.data.cache import identity
from star_jax.data.encode import Tokenizer
from star_jax.models import hf
from star_jax.train import flags, presets, stages
from star_jax.train.manifest import MANIFEST, Manifest, Plan, Ready
from star_jax.train.processes import Signals
from star_jax.train.stages import Stage
from star_jax.version import __version__
from star_jax.world import MODELS
from star_jax.world import VERSION as WORLD_VERSION

STAGES, ASIDE = "stages", "aside"
FIELDS = ("name", "models", "files", "defaults", "stages")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")
REFERENCE = re.compile(r"\{([^{}]*)\}")
WORLD = "world:"  # a model that comes with the program
ASKS = ("teacher", "evaluate")  # stages that look for signals by asking


# From a file


def load(path: Path, output: Path | None, seed: int = 0) -> Plan:
    """ValueError where the file is no curriculum."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file: check the path")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ValueError(f"{where}: is no YAML: write one `key: value` a line") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: is no mapping: give name, models and stages")
    flags.known_key(raw, FIELDS, str(path))
    if not isinstance(raw.get("stages"), list) or not raw["stages"]:
        raise ValueError(f"{path}: stages: is missing: give a list of stages")
    name = str(raw.get("name", path.stem))
    defaults = _mapping(raw, "defaults", str(path))
    for run in defaults:
        if run not in stages.KINDS:
            raise ValueError(f"{path}: defaults: {run}: is no stage: use {', '.join(stages.KINDS)}")
    made = tuple(
        _stage(entry, number, defaults, str(path)) for number, entry in enumerate(raw["stages"], 1)
    )
    return Plan(
        source=str(path),
        name=name,
        models={key: _model(path, value) for key, value in _mapping(raw, "models", path).items()},
        files={
            key: path.parent / str(value) for key, value in _mapping(raw, "files", path).items()
        },
        stages=made,
        output=output or Path("runs") / name,
        seed=seed,
    )


def _mapping(raw: Mapping[str, Any], name: str, path: Any) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {name}: is {value!r}: give `name: value` pairs")
    return value


def _model(path: Path, value: Any) -> Path:
    text = str(value)
    if not text.startswith(WORLD):
        return path.parent / text
    if (name := text.removeprefix(WORLD)) not in MODELS:
        raise ValueError(f"{path}: models: {text}: the world has {' and '.join(MODELS)}")
    if not MODELS[name].is_dir():
        raise ValueError(
            f"{path}: models: {text}: does not come with this version: make one with python -m "
            f"star_jax.world pretrain {name} DIR, and give DIR/model"
        )
    return MODELS[name]


def _stage(entry: Any, number: int, defaults: Mapping[str, Any], path: str) -> Stage:
    """{name, run, preset, ready, and what the stage's own command takes}."""
    where = f"{path}: stage {number}"
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: is {entry!r}: give name, run and settings")
    name, run = entry.get("name"), entry.get("run")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"{where}: name: is {name!r}: give letters, digits, +, - and _")
    if run not in stages.KINDS:
        raise ValueError(f"{where} ({name}): run: is {run!r}: use {', '.join(stages.KINDS)}")
    own = {key: x for key, x in entry.items() if key not in ("name", "run", "preset", "ready")}
    preset = entry.get("preset")
    if preset is not None and run in presets.PRESETS:
        presets.of(run, str(preset))
    elif preset is not None:
        raise ValueError(f"{where} ({name}): preset: {run} has none: leave it out")
    return Stage(
        name=name,
        run=run,
        preset=preset,
        ready=bool(entry.get("ready", False)),
        settings=flags.overlaid(defaults.get(run) or {}, own),
    )


# Before anything is computed


def check(plan: Plan) -> list[Ready]:
    """Every stage with its configuration and its key; ValueError for the first mistake."""
    _check_models(plan)
    for name, path in plan.files.items():
        try:
            for _ in read.read(path):
                pass
        except ValueError as error:
            raise ValueError(f"{plan.source}: files: {name}: {error}") from error
    found: dict[str, Ready] = {}
    for stage in plan.stages:
        if stage.name in found or stage.name in plan.models or stage.name in plan.files:
            raise ValueError(f"{plan.source}: stage {stage.name}: the name is there twice")
        found[stage.name] = _ready(plan, stage, found)
    _check_output(plan)
    return list(found.values())


def _check_models(plan: Plan) -> None:
    first: tuple[str, str] | None = None
    for name, path in plan.models.items():
        try:
            hf.read_config(path)
            hf.read_entries(path)
            made = Tokenizer(path).hash
        except (ValueError, OSError) as error:
            raise ValueError(f"{plan.source}: models: {name}: {error}") from error
        if first is not None and made != first[1]:
            raise ValueError(
                f"{plan.source}: models: {name} has another tokenizer than {first[0]}: give models "
                "of one family"
            )
        first = first or (name, made)


def _check_output(plan: Plan) -> None:
    there = plan.output
    if there.exists() and not there.is_dir():
        raise ValueError(f"{there}: is a file: choose another --output")
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{there}: can't be written to: choose another --output")
    others = [x.name for x in plan.output.iterdir()] if plan.output.is_dir() else []
    if others and MANIFEST not in others:
        raise ValueError(
            f"{plan.output}: holds {others[0]}, no curriculum: choose another --output"
        )


def _ready(plan: Plan, stage: Stage, before: Mapping[str, Ready]) -> Ready:
    where = f"{plan.source}: stage {stage.name}"
    if "output" in stage.settings:
        raise ValueError(f"{where}: output: is the curriculum's to choose: leave it out")
    settings = _filled(stage.settings, lambda text: _path(plan, text, before, where))
    settings["output"] = str(plan.output / STAGES / stage.name)
    fields = {one.name for one in dataclasses.fields(stages.kind_of(stage.run))}
    if "seed" in fields:
        settings.setdefault("seed", plan.seed)
    config = stages.configured(stage, settings, plan.source)
    hashes: dict[str, str] = {}
    named = _filled(stage.settings, lambda text: _content(plan, text, before, hashes))
    meaning = {
        "run": stage.run,
        "preset": presets.of(stage.run, stage.preset) if stage.preset else None,
        "settings": named,
        "seed": settings.get("seed"),
        "version": __version__,
        "world": WORLD_VERSION if stage.run == "world" else None,
    }
    made = hashlib.blake2b(json.dumps(meaning, sort_keys=True).encode(), digest_size=12)
    return Ready(stage=stage, config=config, key=made.hexdigest())


def _filled(value: Any, replace: Callable[[str], str]) -> Any:
    match value:
        case str():
            return replace(value)
        case Mapping():
            return {name: _filled(x, replace) for name, x in value.items()}
        case list() | tuple():
            return [_filled(x, replace) for x in value]
    return value


def _path(plan: Plan, text: str, before: Mapping[str, Ready], where: str) -> str:
    """With every reference as the path that it means."""

    def one(found: re.Match[str]) -> str:
        name, _, part = found[1].partition(".")
        if name in before and part in ("", "model"):
            made = before[name].output
            return str(made / "model" if part else made)
        if not part and name in plan.models:
            return str(plan.models[name])
        if not part and name in plan.files:
            return str(plan.files[name])
        known = [*plan.models, *plan.files, *before]
        raise ValueError(f"{where}: {found[0]}: is not known here: use {', '.join(known)}")

    return REFERENCE.sub(one, text)


def _content(plan: Plan, text: str, before: Mapping[str, Ready], hashes: dict[str, str]) -> str:
    """With every reference as the hash of what it means."""

    def one(found: re.Match[str]) -> str:
        name, _, part = found[1].partition(".")
        if name in before:
            return f"<{before[name].key}.{part}>"
        path = plan.models.get(name) or plan.files[name]
        if name not in hashes:
            hashes[name] = _hash(path)
        return f"<{hashes[name]}>"

    return REFERENCE.sub(one, text)


def _hash(path: Path) -> str:
    if path.is_dir():
        return f"{identity.teacher_hash(path)}-{Tokenizer(path).hash}"
    made = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            made.update(block)
    return made.hexdigest()


# One stage after the other


def run(plan: Plan, ready: list[Ready], manifest: Manifest, log: logging.Logger) -> int | None:
    """All stages that are not done; → the signal that it was stopped by."""
    manifest.write()
    for number, one in enumerate(ready, 1):
        entry = manifest.entry(one.stage.name)
        if entry["state"] == "done":
            continue
        _set_aside(plan, one, entry)
        log.info("stage %d of %d: %s", number, len(ready), one.stage.name)
        spent, began = entry["seconds"] or 0.0, time.perf_counter()
        manifest.set(one.stage.name, state="running", begun_as=one.key)
        state = "failed"
        try:
            ending = _run_one(one)
            state = "done" if ending is None else "stopped"
        except (KeyboardInterrupt, SystemExit):
            state = "stopped"
            raise
        finally:
            seconds = round(spent + time.perf_counter() - began, 1)
            manifest.set(one.stage.name, state=state, seconds=seconds)
        if ending is not None:
            return ending
    return None


def _run_one(one: Ready) -> int | None:
    if one.stage.run not in ASKS:  # a loop looks for signals itself
        return stages.run(one.stage, one.config, lambda: None)
    with Signals() as signals:
        return stages.run(one.stage, one.config, signals.ending)


def _set_aside(plan: Plan, one: Ready, entry: Mapping[str, Any]) -> None:
    """What a stage made of other inputs is kept, under another name."""
    if not one.output.exists() or entry["begun_as"] == one.key:
        return
    aside = plan.output / ASIDE
    aside.mkdir(exist_ok=True)
    for number in range(1, 10**6):
        there = aside / f"{one.stage.name}-{number}"
        if not there.exists():
            one.output.rename(there)
            return


def evaluations(plan: Plan, ready: list[Ready]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was measured: (stage, marks.json), in the order of the stages."""
    for one in ready:
        path = one.output / "marks.json"
        if one.stage.run == "evaluate" and path.is_file():
            yield one.stage.name, json.loads(path.read_text(encoding="utf-8"))
