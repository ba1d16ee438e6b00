"""Guards that every test runs under: eight CPU devices, and JAX's own checks switched on.

Warnings are errors by pyproject.toml; jaxtyping's shapes are checked there as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

# Most of a test's time is LLVM's, which optimizes programs that run for milliseconds. Without that
# they compile three times as fast and compute the same but for rounding. The checks of a change run
# the comparisons with reference values a second time, optimized as a user's programs are.
if "STAR_JAX_OPTIMIZED" not in os.environ:
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

from star_jax.train import devices

# Every mesh shape can be tried on one host.
devices.split_cpu(8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)

SHARED = Path(os.environ.get("STAR_JAX_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference values that lies beside a developer's checkout, if there is one."""
    if not SHARED.is_dir():
        pytest.skip("the folder of reference values (shared/, beside the checkout) is absent")
    return SHARED


@pytest.fixture
def no_transfers() -> Callable[[], AbstractContextManager[None]]:
    """A context for a jitted step: moving anything between host and device inside it raises."""
    return lambda: jax.transfer_guard("disallow")
