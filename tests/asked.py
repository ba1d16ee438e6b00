"""A model that has its answers by heart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from star_jax.evals.running.asking import Answer, Question


class Scripted:
    """Answers the question that was asked last first, one a step, so that order has to be kept."""

    def __init__(self, says: Callable[[Question], str | Answer], ahead: int = 7) -> None:
        self.says, self._ahead = says, ahead
        self.questions: list[Question] = []
        self._open: list[tuple[int, Question]] = []

    @property
    def ahead(self) -> int:
        return self._ahead

    @property
    def about(self) -> dict[str, Any]:
        return {"model": "scripted", "seed": 0}

    def ask(self, question: Question) -> int:
        self.questions.append(question)
        self._open.append((len(self.questions), question))
        return len(self.questions)

    def step(self) -> list[tuple[int, Answer]]:
        if not self._open:
            return []
        ticket, question = self._open.pop()
        said = self.says(question)
        if isinstance(said, str):
            said = Answer(said, 10, len(said), "stop")
        return [(ticket, said)]

    def take_tokens(self) -> int:
        return 1

    def close(self) -> None:
        self._open.clear()
