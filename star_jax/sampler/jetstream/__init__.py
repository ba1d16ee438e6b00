"""JetStream's interface: the engine that it drives, and its Driver and orchestrator made safe.

    Engine, ResultTokens, SlotData      JetStream's own; where it is absent, the same in our words
    RolloutTokens, pack                 results that carry log-probs in the same copy to the host
    Box, unbox                          weights that can be exchanged under a running driver
    SafeDriver, Tokenizer, orchestrator, decode, serve_tokens
                                        need JetStream; without it they say how to install it

google-jetstream is archived and its last release is 0.2.2. `upstream` imports it, lists what breaks
beside today's libraries, and repairs it; no other module imports it. The PyPI project that is
called `jetstream` is something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from star_jax.sampler.jetstream.interface import (
    Box,
    Engine,
    ResultTokens,
    RolloutTokens,
    SlotData,
    pack,
    unbox,
)
from star_jax.sampler.jetstream.upstream import is_installed, require

if TYPE_CHECKING:
    from star_jax.sampler.jetstream.driver import (
        SafeDriver,
        Tokenizer,
        decode,
        orchestrator,
        serve_tokens,
    )

__all__ = [
    "Box",
    "Engine",
    "ResultTokens",
    "RolloutTokens",
    "SafeDriver",
    "SlotData",
    "Tokenizer",
    "decode",
    "is_installed",
    "orchestrator",
    "pack",
    "require",
    "serve_tokens",
    "unbox",
]


def __getattr__(name: str) -> Any:
    """What needs the driver: it brings gRPC along, so it is imported when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from star_jax.sampler.jetstream import driver

    return getattr(driver, name)
