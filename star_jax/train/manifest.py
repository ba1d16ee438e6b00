"""How far a curriculum is: on the disk after every change, with what it runs on.

Plan, Ready    a curriculum and its stages, once their mistakes have been looked for
Manifest       OUTPUT/manifest.json: states, keys, times, the command, the machine
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from star_jax.data.cache import partfile
from star_jax.train import flags
from star_jax.train.stages import Stage
from star_jax.version import __version__

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    source: str  # the file, for what is said of it
    name: str
    models: Mapping[str, Path]
    files: Mapping[str, Path]
    stages: tuple[Stage, ...]
    output: Path
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A stage whose mistakes have been looked for."""

    stage: Stage
    config: Any
    key: str

    @property
    def output(self) -> Path:
        return Path(self.config.output)


class Manifest:
    """How far a curriculum is, on the disk after every change."""

    def __init__(self, plan: Plan, ready: list[Ready], command: str) -> None:
        self.path = plan.output / MANIFEST
        before = self._before()
        self.known: dict[str, Any] = {
            "name": plan.name,
            "seed": plan.seed,
            "version": __version__,
            "command": command,
            "machine": machine(),
            "stages": [self._entry(plan, one, before.get(one.stage.name)) for one in ready],
        }

    def _before(self) -> dict[str, dict[str, Any]]:
        if not self.path.is_file():
            return {}
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            return {entry["name"]: entry for entry in known["stages"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path}: is damaged ({error}): remove it, and stages are looked at again"
            ) from error

    @staticmethod
    def _entry(plan: Plan, one: Ready, before: dict[str, Any] | None) -> dict[str, Any]:
        begun_as = None if before is None else before.get("begun_as")
        is_same = begun_as == one.key and one.output.is_dir()
        return {
            "name": one.stage.name,
            "run": one.stage.run,
            "preset": one.stage.preset,
            "output": str(one.output.relative_to(plan.output)),
            "key": one.key,
            "state": before["state"] if is_same and before else "waiting",
            "seconds": before["seconds"] if is_same and before else None,
            "begun_as": begun_as,  # the key that its folder is of
            "settings": flags.values(one.config),
        }

    def entry(self, name: str) -> dict[str, Any]:
        return next(entry for entry in self.known["stages"] if entry["name"] == name)

    def set(self, name: str, **changes: Any) -> None:
        self.entry(name).update(changes)
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partfile.write(self.path, [json.dumps(self.known, indent=1).encode() + b"\n"])


def machine() -> dict[str, Any]:
    """What it runs on, in words."""
    devices = [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "accelerators": devices,
        "system": platform.system(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "star_jax": __version__,
    }


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
