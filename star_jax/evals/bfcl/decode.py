"""What a model wrote as the calls that BFCL's Qwen handler finds in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    error: str
