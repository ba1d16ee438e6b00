"""The official verdict on the calls of one entry, for every category of a single turn.

calls or a Failure, tools, possible answer, category → Verdict
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from star_jax.evals.bfcl import matching
from star_jax.evals.bfcl.categories import groups
from star_jax.evals.bfcl.crash import Crash
from star_jax.evals.bfcl.decode import Call, Failure
from star_jax.evals.bfcl.kinds import language_of
from star_jax.evals.bfcl.matching import Answer, Tool
from star_jax.evals.bfcl.wrong import RIGHT, wrong
from star_jax.evals.verdict import Verdict

SINGLE_TURN = {name for version in ("v3", "v4") for name in groups(version)["single_turn"]}


def check(
    calls: Sequence[Call] | Failure,
    tools: Sequence[Tool],
    possible_answer: Sequence[Answer] | None,
    category: str,
) -> Verdict:
    """Whether these calls are right, in the official checker's words.

    `calls` is what `decode` gives: a list of {"name": ..., "arguments": {...}}, or a Failure. Any
    other value is a wrong answer. `category` is a name of v3 or v4. The possible answer of an
    (ir)relevance category is not read.
    """
    if category not in SINGLE_TURN:
        known = ", ".join(sorted(SINGLE_TURN))
        raise ValueError(f"category {category!r} is none of a single turn: give one of {known}")
    if "relevance" in category:
        return check_relevance(calls, category)
    if isinstance(calls, Failure):
        return wrong("ast_decoder:decoder_failed", str(calls))
    if not is_calls(calls):
        return wrong("ast_decoder:decoder_wrong_output_format", "expected a list of calls")
    try:
        return dispatch(calls, tools, possible_answer or (), category)
    except Crash as crash:
        return crashed(crash.name)
    # A tool or an answer that is not in BFCL's form: the official checker ends the same way.
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        return crashed(type(error).__name__, str(error))


def dispatch(
    calls: Sequence[Call], tools: Sequence[Tool], answers: Sequence[Answer], category: str
) -> Verdict:
    language = language_of(category)
    if "parallel" in category:
        return matching.parallel(calls, tools, answers, language)
    if "multiple" in category:
        return matching.multiple(calls, tools, answers, language)
    return matching.simple(calls, tools, answers, language)


def crashed(name: str, detail: str = "") -> Verdict:
    sentence = f"the official checker ends with {name}" + (f": {detail}" if detail else "")
    return Verdict(False, None, (sentence,), raises=name)


def is_calls(calls: Any) -> bool:
    return isinstance(calls, list | tuple) and all(
        isinstance(call, dict) and "name" in call and isinstance(call.get("arguments"), dict)
        for call in calls
    )


def check_relevance(calls: Sequence[Call] | Failure, category: str) -> Verdict:
    """Only whether there is a call counts: not which, nor whether its arguments make sense. A call
    that cannot be read is none, and so a correct refusal."""
    called = not isinstance(calls, Failure) and is_calls(calls) and len(calls) > 0
    if "irrelevance" in category:
        return wrong("irrelevance_error:decoder_success", "a call") if called else RIGHT
    return RIGHT if called else wrong("relevance_error:decoder_failed", "no call")
