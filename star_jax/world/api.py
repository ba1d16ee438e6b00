"""What an API is, before a prompt shows it: names, descriptions, phrasings, parameters, results.

Alternatives are written in one string: names with spaces between them, phrases with " / ". What
follows " // " are the phrases that only the split `seen` uses.
"""

from __future__ import annotations

from dataclasses import dataclass

from star_jax.world.kinds import Kind


@dataclass(frozen=True)
class Phrases:
    """Ways to say one thing: those to learn from, and those held back."""

    known: tuple[str, ...]
    new: tuple[str, ...]

    def of(self, is_new: bool) -> tuple[str, ...]:
        return self.new if is_new else self.known


def phrases(written: str) -> Phrases:
    known, _, new = written.partition(" // ")
    return Phrases(tuple(known.split(" / ")), tuple((new or known).split(" / ")))


@dataclass(frozen=True)
class Param:
    """One parameter, and how a request mentions its value."""

    names: tuple[str, ...]  # the first is the usual one
    kind: Kind
    about: tuple[str, ...]
    says: Phrases
    is_required: bool


def need(names: str, kind: Kind, about: str, says: str) -> Param:
    return Param(tuple(names.split()), kind, tuple(about.split(" / ")), phrases(says), True)


def may(names: str, kind: Kind, about: str, says: str = "{}") -> Param:
    return Param(tuple(names.split()), kind, tuple(about.split(" / ")), phrases(says), False)


@dataclass(frozen=True)
class Result:
    """One field of what a tool answers."""

    names: tuple[str, ...]
    kind: Kind


def result(names: str, kind: Kind) -> Result:
    return Result(tuple(names.split()), kind)


@dataclass(frozen=True, eq=False)  # each is its own
class Api:
    """One thing that a tool can do."""

    domain: str
    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    about: tuple[str, ...]
    asks: Phrases  # as an order: "check the weather"
    takes: tuple[Param, ...]
    gives: tuple[Result, ...]
    is_held: bool  # never in `train`, though its domain may be

    @property
    def key(self) -> str:
        return f"{self.domain}.{self.verbs[0]}_{self.nouns[0]}"


def api(
    domain: str,
    verbs: str,
    nouns: str,
    *,
    about: str,
    asks: str,
    takes: tuple[Param, ...],
    gives: tuple[Result, ...],
    is_held: bool = False,
) -> Api:
    return Api(
        domain,
        tuple(verbs.split()),
        tuple(nouns.split()),
        tuple(about.split(" / ")),
        phrases(asks),
        takes,
        gives,
        is_held,
    )
