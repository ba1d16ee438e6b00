"""What every reward returns: a number, its parts, and a sentence that says why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reward:
    """One sample's score.

    `kind` names in one word what decided, `parts` holds the numbers that went into it. The
    sentence is kept as a pattern and its facts, because most are never read.
    """

    total: float
    format: float
    answer: float
    kind: str
    sentence: str
    facts: tuple[object, ...] = ()
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def why(self) -> str:
        """Why the score is what it is, for a person to read."""
        return self.sentence.format(*self.facts)
