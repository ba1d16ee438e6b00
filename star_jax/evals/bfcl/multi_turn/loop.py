"""A dialogue with a model as a state: what to ask it next, until its turns are over.

    start(entry, apis)        → Dialogue
    advance(dialogue, text)   → Dialogue          text: what the model wrote
    dialogue.ended            None while `dialogue.messages` and `dialogue.tools` await an answer
    verdict(dialogue)         → Verdict

Nothing here knows a model, and a state is never changed: many dialogues can be asked in one batch,
and one can be continued in several ways. The texts so far are all that has to be kept of it;
`resume` makes the rest from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from star_jax.evals.bfcl.multi_turn import classes, decoding
from star_jax.evals.bfcl.multi_turn.checking import check
from star_jax.evals.bfcl.multi_turn.sandbox import Sandbox
from star_jax.evals.verdict import Verdict

MAX_STEPS = 20  # steps with calls in a turn; the step after them is performed, and is the last

# Models were trained and measured on these very words.
_HINT = " Note that the provided function is in Python 3 syntax."
_MORE = "I have updated some more functions you can choose from. What about now?"

Message = dict[str, Any]
Calls = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Dialogue:
    """Where a dialogue stands."""

    entry: Mapping[str, Any] = field(repr=False)
    apis: Sandbox = field(repr=False, compare=False)
    tools: tuple[dict[str, Any], ...] = field(repr=False)  # as the model reads them
    withheld: Mapping[int, list[dict[str, Any]]] = field(repr=False)  # by the turn that shows them
    texts: tuple[str, ...] = ()  # what the model wrote
    messages: tuple[Message, ...] = ()
    decoded: tuple[tuple[Calls, ...], ...] = ()  # by turn and step, as `check` takes them
    stopped: frozenset[int] = frozenset()  # numbers of the calls that overran
    ended: str | None = None  # finished, forced, inference_error
    why: str | None = None  # of an inference error

    @property
    def turn(self) -> int:
        """The turn that the model is in, from 0."""
        return len(self.decoded) - 1


def start(entry: Mapping[str, Any], apis: Sandbox) -> Dialogue:
    """A dialogue before the model's first word."""
    name = entry.get("id")
    turns, missed = entry.get("question"), entry.get("missed_function", {})
    if (
        not isinstance(turns, list)
        or not turns
        or not all(isinstance(turn, list) for turn in turns)
    ):
        raise ValueError(f"entry {name}: question is no list of turns, each a list of messages")
    if not isinstance(missed, dict):
        raise ValueError(f"entry {name}: missed_function is {missed!r}; give names by turn")
    documents = [
        document
        for involved in entry.get("involved_classes", [])
        for document in classes.documents(apis.source, involved)
    ]
    withheld = {}
    for turn, names in missed.items():
        if not str(turn).isdecimal() or int(turn) >= len(turns) or turns[int(turn)]:
            raise ValueError(
                f"entry {name}: missed_function names turn {turn!r}, which is no turn without"
                " messages; the functions are shown in place of a message"
            )
        withheld[int(turn)] = [_taken(documents, wanted, name) for wanted in names]
    tools = tuple(
        {**document, "description": document["description"] + _HINT} for document in documents
    )
    return _next_turn(Dialogue(entry, apis, tools, withheld))


def advance(dialogue: Dialogue, text: str) -> Dialogue:
    """The dialogue after the model wrote a text; results of its calls stand in the messages."""
    if dialogue.ended is not None:
        raise ValueError(f"entry {dialogue.entry['id']}: the dialogue is over ({dialogue.ended})")
    step = decoding.read(text, dialogue.apis.source.version)
    dialogue = replace(
        dialogue,
        texts=(*dialogue.texts, text),
        messages=(*dialogue.messages, step.message),
        why=dialogue.why or step.unprintable,
    )
    if not step.calls:
        return _next_turn(dialogue)
    dialogue = _performed(dialogue, step.calls)
    if len(dialogue.decoded[-1]) > MAX_STEPS:
        return replace(dialogue, ended="forced")
    return _asked(dialogue)


def resume(entry: Mapping[str, Any], apis: Sandbox, texts: Sequence[str]) -> Dialogue:
    """The dialogue that a model's texts lead to."""
    dialogue = start(entry, apis)
    for text in texts:
        dialogue = advance(dialogue, text)
    return dialogue


def give_up(dialogue: Dialogue, why: str) -> Dialogue:
    """End a dialogue that the model cannot be asked about, for instance over its context."""
    return replace(dialogue, ended="inference_error", why=why)


def verdict(dialogue: Dialogue) -> Verdict:
    """The verdict over a dialogue that has ended."""
    if dialogue.ended is None:
        raise ValueError(f"entry {dialogue.entry['id']}: the dialogue has not ended; advance it")
    if dialogue.ended == "inference_error":
        why = dialogue.why or "the model gave no answer"
        return Verdict(valid=False, error_type="multi_turn:inference_error", error=(why,))
    return check(dialogue.decoded, dialogue.entry, dialogue.apis)


def _next_turn(dialogue: Dialogue) -> Dialogue:
    turns = dialogue.entry["question"]
    turn = dialogue.turn + 1
    if turn == len(turns):
        return replace(dialogue, ended="finished")
    if turn in dialogue.withheld:
        asked = [{"role": "user", "content": f"{dialogue.withheld[turn]}\n{_MORE}"}]
    else:
        asked = turns[turn]
    messages = (*dialogue.messages, *asked)
    return _asked(replace(dialogue, messages=messages, decoded=(*dialogue.decoded, ())))


def _asked(dialogue: Dialogue) -> Dialogue:
    """The dialogue, ended if the official prompt cannot be made from its messages.

    The official handler raises there, and the entry is lost: only then, so that a malformed call
    costs nothing in the last turn.
    """
    return replace(dialogue, ended="inference_error") if dialogue.why else dialogue


def _performed(dialogue: Dialogue, calls: Calls) -> Dialogue:
    """The calls' results among the messages. Earlier calls run again: no object is kept."""
    decoded = (*dialogue.decoded[:-1], (*dialogue.decoded[-1], calls))
    steps = [step for turn in decoded for step in turn]
    run = dialogue.apis.run(dialogue.entry, steps, dialogue.stopped)
    answers = [
        {"role": "tool", "name": decoding.spelled(call), "content": result}
        for call, result in zip(calls, run.results[-1], strict=True)
    ]
    messages = (*dialogue.messages, *answers)
    return replace(dialogue, messages=messages, decoded=decoded, stopped=run.stopped)


def _taken(documents: list[dict[str, Any]], wanted: str, entry: object) -> dict[str, Any]:
    """Remove a function's document from the list, and return it."""
    for index, document in enumerate(documents):
        if document["name"] == wanted:
            return documents.pop(index)
    raise ValueError(
        f"entry {entry}: missed_function {wanted!r} is no function of its classes; mend the entry"
    )
