"""Imports point down: a module may import from lower floors, or from its own package and floor.

The floors are the ones that CONTRIBUTING.md draws. A new module has to be given one here.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "star_jax"

# The longest prefix that fits a module's dotted name (without `star_jax.`) gives its floor.
FLOORS = {
    "version": 0,
    "chat": 0,
    "batch": 0,
    "models": 1,
    "rewards": 1,
    "train.distill": 1,
    "train.policy": 1,
    "train.preference": 1,
    "train.vocab": 1,
    "data": 2,
    "sampler": 2,
    "train.devices": 2,
    "train.flops": 2,
    "train.loss": 2,
    "train.acting": 2,
    "train.place": 2,
    "train.processes": 2,
    "train.state": 2,
    "train.step": 2,
    "train.leaves": 2,
    "train.checkpoint": 2,
    "train.units": 2,
    "train.boards": 2,
    "train.log": 2,
    "evals": 3,
    "evals.running": 4,
    "world": 3,
    "sampler.grammar": 3,
    "sampler.talk": 3,
    "sampler.generate": 3,
    "sampler.server": 3,
    "sampler.loading": 3,
    "sampler.output": 3,
    "train.config": 3,
    "train.feeding": 3,
    "train.flags": 3,
    "train.folder": 3,
    "train.pace": 3,
    "train.setup": 3,
    "train.teaching": 3,
    "train.evaluation": 3,
    "train.fit": 3,
    "train.preview": 3,
    "train.prompts": 3,
    "train.judging": 3,
    "train.rl_run": 3,
    "train.speaking": 3,
    "train.presets": 3,
    "train.exam": 3,
    "train.rollouts": 3,
    "train.learning": 3,
    "train.telling": 3,
    "train.sft": 4,
    "train.ckd": 4,
    "train.rl": 4,
    "train.dpo": 4,
    "train.teacher": 4,
    "train.measure": 4,
    "train.stages": 5,
    "train.manifest": 5,
    "train.course": 5,
    "train.paper": 5,
    "train.view": 5,
    "train.curriculum": 5,
    "train.report": 5,
    "train.tour": 5,
    "train.export": 4,
    "models.__main__": 6,
    "evals.__main__": 6,
    "sampler.__main__": 6,
    "train.__main__": 6,
}


def floor(module: str) -> int:
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        if (known := FLOORS.get(".".join(parts[:end]))) is not None:
            return known
    raise AssertionError(f"star_jax.{module} has no floor: add it to FLOORS in {__file__}")


def name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(dotted: str) -> bool:
    path = PACKAGE.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imported(source: str) -> set[str]:
    """The dotted names of our own modules that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor they reach for"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {dotted.removeprefix("star_jax.") for dotted in found if dotted.startswith("star_jax.")}
    # `from star_jax.models import load` names a function: its module is what counts.
    return {dotted if is_module(dotted) else dotted.rpartition(".")[0] for dotted in ours} - {""}


def is_allowed(source: str, target: str) -> bool:
    same_package = source.split(".")[0] == target.split(".")[0]
    return floor(target) < floor(source) or (floor(target) == floor(source) and same_package)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    # A package's own name (`train`, `train/__init__`) holds no code and stands on no floor.
    if path.read_text().strip() == "" or name(path) in ("", "train"):
        return
    for target in imported(path.read_text()):
        assert is_allowed(name(path), target), f"{name(path)} imports {target} from a higher floor"


def test_the_rule_forbids_what_it_should() -> None:
    assert not is_allowed("models.qwen3", "train.config")
    assert not is_allowed("train.distill", "models.qwen3")
    assert not is_allowed("rewards.simrl", "data.read")
    assert is_allowed("models.hf", "models.config")
    assert is_allowed("train.rl", "train.policy")
    assert imported("from star_jax.models import qwen3") == {"models.qwen3"}
    assert imported("def f():\n    from star_jax import models") == {"models"}


@pytest.mark.parametrize("module", ["chat", "rewards"])
def test_text_and_rewards_know_no_arrays(module: str) -> None:
    """Rewards run in worker processes that must start at once: they import no jax."""
    paths = [PACKAGE / f"{module}.py", *sorted((PACKAGE / module).rglob("*.py"))]
    for path in paths:
        if path.is_file():
            words = path.read_text().replace(",", " ").split()
            assert not {"jax", "flax", "jax.numpy"} & set(words), f"{path} names jax"
