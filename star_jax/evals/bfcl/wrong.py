"""Verdicts of a wrong answer, with a sentence for people."""

from __future__ import annotations

import reprlib

from star_jax.evals.verdict import Verdict

RIGHT = Verdict(True)


class Short(reprlib.Repr):
    """Any value in a few words, however long or deep it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 4, 80, 80

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write a number of thousands of digits.
        return repr(x) if x.bit_length() < 512 else f"an integer of {x.bit_length()} bits"


show = Short().repr


def wrong(error_type: str, error: str, *, tried: tuple[str, ...] = ()) -> Verdict:
    return Verdict(False, error_type, (error,), tried)
