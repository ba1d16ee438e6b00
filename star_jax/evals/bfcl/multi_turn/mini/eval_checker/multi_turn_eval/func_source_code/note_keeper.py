"""A keeper of short notes: the API that the small multi-turn entries act on."""

from __future__ import annotations

import random
from typing import Any

from star_jax.evals.bfcl.multi_turn.mini.eval_checker.multi_turn_eval.func_source_code.long_context import (  # noqa: E501
    OLD_NOTES,
)


class NoteKeeper:
    """Notes by title, some of them pinned. What begins with an underscore is not compared."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}
        self.pinned: list[str] = []
        self.is_locked = False
        self._opened = ""
        self._random = random.Random(0)

    def _load_scenario(self, scenario: dict[str, Any], long_context: bool = False) -> None:
        self.notes = scenario.get("notes", {})
        self.pinned = scenario.get("pinned", [])
        self.is_locked = scenario.get("is_locked", False)
        self._random = random.Random(scenario.get("random_seed", 7))
        if long_context:
            self.notes.update(OLD_NOTES)

    def list_notes(self, only_pinned: bool = False) -> dict[str, list[str]]:
        """The titles."""
        return {"titles": [*self.pinned] if only_pinned else [*self.notes]}

    def open_note(self, title: str) -> dict[str, str]:
        """A note's text; append_text writes to the note opened last."""
        if title not in self.notes:
            return {"error": f"open_note: there is no note '{title}'"}
        self._opened = title
        return {"text": self.notes[title]}

    def add_note(self, title: str, text: str = "") -> dict[str, str] | None:
        """A new note. Titles are used once."""
        if self.is_locked:
            return {"error": "add_note: the keeper is locked"}
        if title in self.notes:
            return {"error": f"add_note: '{title}' exists"}
        self.notes[title] = text
        return None

    def append_text(self, text: str) -> dict[str, int]:
        """More text for the note opened last."""
        self.notes[self._opened] += text
        return {"length": len(self.notes[self._opened])}

    def pin_note(self, title: str) -> dict[str, str]:
        """Put a note on the board."""
        if title not in self.notes:
            return {"error": f"pin_note: there is no note '{title}'"}
        if title not in self.pinned:
            self.pinned.append(title)
        return {"result": f"'{title}' is pinned"}

    def share_note(self, title: str, with_whom: str) -> dict[str, str]:
        """A link for somebody; its number is drawn."""
        if title not in self.notes:
            return {"error": f"share_note: there is no note '{title}'"}
        return {"link": f"notes/{self._random.randint(1000, 9999)}", "for": with_whom}

    def search(self, word: str) -> str:
        """The titles of notes that hold a word, as text."""
        return ", ".join(title for title, text in self.notes.items() if word in text)

    def repeat_text(self, text: str, times: int) -> dict[str, int]:
        """How long a text is when it is repeated."""
        return {"length": len(text * times)}

    def to_the_power(self, base: int, exponent: int) -> dict[str, int]:
        """A power, for sums in notes."""
        return {"result": base**exponent}

    def remove(self, title: str) -> dict[str, str]:
        """Not to be reached: its name is one of those refused."""
        self.notes.pop(title)
        return {"result": f"'{title}' is gone"}
