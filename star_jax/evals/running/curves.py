"""What many samples of every prompt say: pass@k, mean@k and entropy, of one model and of several.

    lines of models → numbers, with intervals          lines of two → comparisons, prompt by prompt

A line has of its prompt: `right` for every sample, and `nats`, by class of token the sum of −log π
over the sampled tokens and their number. Its mean is a token's entropy, without bias at
temperature 1. `passk` writes such lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from star_jax.evals import passk, stats
from star_jax.evals.classes import CLASSES
from star_jax.evals.running import scoring

KINDS = ("all", "call", "words")
FloatP = np.ndarray  # a value for every prompt
Lines = Sequence[Mapping[str, Any]]


def of_kind(lines: Lines, kind: str) -> Lines:
    return [line for line in lines if kind == "all" or line["wanted"] == kind]


def pass_values(lines: Lines, k: int) -> FloatP:
    right = [sum(line["right"]) for line in lines]
    return passk.pass_at_k(right, [len(line["right"]) for line in lines], k)


def entropy_values(lines: Lines, token_class: str) -> FloatP | None:
    """A value for every prompt whose mean is the entropy of a token; None: no such token.

    The entropy is a ratio, nats over tokens. Each prompt's pull on it, to first order, stands for
    the prompt, so that prompts can be resampled and paired.
    """
    wanted = CLASSES if token_class == "all" else (token_class,)
    nats = np.array([sum(line["nats"][one][0] for one in wanted) for line in lines])
    count = np.array([sum(line["nats"][one][1] for one in wanted) for line in lines], np.float64)
    if not count.sum():
        return None
    ratio = nats.sum() / count.sum()
    return ratio + (nats - ratio * count) / count.mean()


def numbers(lines: Lines, ks: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Of one model, by kind of prompt."""
    made = {}
    for kind in KINDS:
        some = of_kind(lines, kind)
        if not some:
            continue
        entropy = {}
        for one in ("all", *CLASSES):
            values = entropy_values(some, one)
            if values is not None:
                entropy[one] = scoring.number(scoring.interval(values))
        made[kind] = {
            "prompts": len(some),
            "samples": len(some[0]["right"]),
            "mean": scoring.number(scoring.interval(pass_values(some, 1))),
            "pass": {str(k): scoring.number(scoring.interval(pass_values(some, k))) for k in ks},
            "entropy": entropy,
            "tokens": {one: sum(line["nats"][one][1] for line in some) for one in CLASSES},
            "stopped": float(np.mean([one for line in some for one in line["stopped"]])),
        }
    return made


def compared(first: Lines, other: Lines, names: tuple[str, str], ks: Sequence[int]) -> list[Any]:
    """The first model against another, prompt by prompt."""
    found = []
    for kind in KINDS:
        a, b = of_kind(first, kind), of_kind(other, kind)
        if not a:
            continue
        for k in ks:
            one = stats.compare(pass_values(a, k), pass_values(b, k), names=names)
            found.append(told(f"pass@{k}", kind, names, one))
        for token_class in ("all", *CLASSES):
            one_P, other_P = entropy_values(a, token_class), entropy_values(b, token_class)
            if one_P is not None and other_P is not None:
                one = stats.compare(one_P, other_P, names=names)
                found.append(told(f"entropy of {token_class}", kind, names, one))
    return found


def told(what: str, kind: str, names: tuple[str, str], one: stats.Comparison) -> dict[str, Any]:
    return {
        "what": what,
        "kind": kind,
        "a": names[0],
        "b": names[1],
        "difference": scoring.number(one.difference),
        "wins": one.wins,
        "losses": one.losses,
        "ties": one.ties,
        "p": one.p,
        "verdict": one.verdict,
        "sentence": one.sentence,
    }


def roles(names: Sequence[str]) -> list[tuple[str, str]]:
    """Which model is said to explore more than which: those that are called CKD, than SFT; where
    none is, the first than each other one."""
    ckd = [name for name in names if "ckd" in name.lower()]
    sft = [name for name in names if "sft" in name.lower() and name not in ckd]
    if ckd and sft:
        return [(one, other) for one in ckd for other in sft]
    return [(names[0], other) for other in names[1:]]


def claim(one: str, other: str, found: Sequence[Mapping[str, Any]], k: int) -> str:
    """The paper's claim on exploration, as it stands for these two."""
    said = []
    for what, words in ((f"pass@{k}", f"pass@{k}"), ("entropy of all", "entropy")):
        for row in found:
            if (row["what"], row["kind"]) == (what, "all"):
                said.append(_holds(words, row))
    return (
        f"The paper's claim that CKD explores more than SFT, with {one} for CKD and {other} for "
        f"SFT: " + "; ".join(said) + "."
    )


def _holds(words: str, row: Mapping[str, Any]) -> str:
    """`row` compares the claimed better one with the other, in this order."""
    difference = row["difference"]["value"]
    match row["verdict"]:
        case "better":
            return f"higher {words} holds, by {difference:.4f}"
        case "worse":
            return f"higher {words} does not hold, it is lower by {-difference:.4f}"
    if difference == 0:
        return f"higher {words} does not show, they come out level"
    side = "higher" if difference > 0 else "lower"
    return f"{words} is {side} by {abs(difference):.4f}, which is within noise"


def score(
    lines: Mapping[str, Lines], ks: Sequence[int], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What scores.json says, from every model's lines. The first is compared with each other."""
    names = list(lines)
    pairs = list(dict.fromkeys([(names[0], other) for other in names[1:]] + roles(names)))
    found = {pair: compared(lines[pair[0]], lines[pair[1]], pair, ks) for pair in pairs}
    return {
        "benchmark": "passk",
        "entries": {"rows": scoring.digest(line["entry"] for line in lines[names[0]])},
        "settings": dict(settings),
        "models": {name: numbers(lines[name], ks) for name in names},
        "comparisons": [row for rows in found.values() for row in rows],
        "claims": [claim(*pair, found[pair], max(ks)) for pair in roles(names)],
    }
