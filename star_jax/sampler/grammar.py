"""Completions that follow the tools' schemas: which tokens may come next.

    tools of a row, tokenizer  →  Grammar  →  State: mask() → the allowed ids → take(id) → …

Under these masks a completion is a think block, if it may have one, and then either text or calls,
each one `{"name": …, "arguments": …}` between its tags with arguments that obey the tool's schema,
up to an id that stops it. `chat.parse` reads every one of them. A mask is data: bit j of word i is
the id 32 i + j, so a sampler and a trainer that apply the same masks have one distribution.

llguidance does the work. Of all ways to write the same arguments it allows one: keys in the order
of `properties`, spaces where the chat template sets them.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from star_jax import chat
from star_jax.chat import Tool
from star_jax.chat.completion import CALL, CALL_END, THINK, THINK_END
from star_jax.data.encode import Tokenizer
from star_jax.sampler.schema import signature

# Whether a completion may begin with a think block, has to, may not, or stands in one from the
# start, because its prompt ended in <think>. After a generation prompt with enable_thinking=False
# it may not: that prompt holds an empty block.
Thinking = Literal["allowed", "required", "forbidden", "begun"]
# auto, none, required, or {"type": "function", "function": {"name": …}}: one call of that tool.
Choice = str | Mapping[str, Any]
TAGS = (THINK, THINK_END, CALL, CALL_END)
HOW = "llguidance is not installed: pip install 'star-jax[grammar]'"
# As json.dumps sets spaces, and the chat template with it.
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """What may be said, compiled for one vocabulary. Any number of completions start from it."""

    def __init__(self, matcher: Any, vocab_size: int, stop_ids: tuple[int, ...]) -> None:
        self.vocab_size, self.stop_ids = vocab_size, stop_ids
        self.words = -(-vocab_size // 32)  # of a mask
        self._matcher = matcher
        self._stops = np.zeros(self.words, np.uint32)
        for i in stop_ids:
            self._stops[i // 32] |= np.uint32(1 << i % 32)
        # A walk over the whole vocabulary, which all completions need at once when a batch starts.
        self._first = State(self, matcher.deep_copy(), None).mask()

    def start(self) -> State:
        return State(self, self._matcher.deep_copy(), self._first)


class State:
    """Where one completion stands."""

    def __init__(self, grammar: Grammar, matcher: Any, mask: np.ndarray | None) -> None:
        self._grammar, self._matcher = grammar, matcher
        self._mask = mask  # here, where it is known already
        self.is_done = False  # an id that stops was taken

    def mask(self) -> np.ndarray:
        """uint32 [words]: the ids that may come next; after the end, those that stop."""
        if self._mask is not None:
            return self._mask.copy()
        grammar = self._grammar
        found = np.zeros(grammar.words, np.uint32)
        if not self.is_done and not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(found.ctypes.data, found.nbytes)
            found &= ~grammar._stops  # a stop id may be an ordinary token, too
        if self.is_done or self._matcher.is_accepting():
            found |= grammar._stops
        self._refuse_error()
        self._mask = found
        return found.copy()

    def take(self, token: int) -> None:
        """Go on with an id; ValueError, and nothing changes, where it is not allowed."""
        token = int(token)
        if self.is_done:
            raise ValueError(f"the id {token} comes after the end")
        if token in self._grammar.stop_ids:
            self.is_done = self._matcher.is_accepting()
            if not self.is_done:
                raise ValueError(f"the id {token} ends what is not complete")
            self._mask = None
            return
        is_known = 0 <= token < self._grammar.vocab_size and not self._matcher.is_stopped()
        if not (is_known and self._matcher.validate_tokens([token])):
            raise ValueError(f"the id {token} is not allowed here")
        self._matcher.consume_token(token)
        self._mask = None
        self._refuse_error()

    def _refuse_error(self) -> None:
        # Its limits on the complexity of a state, which the schema of a tool should not come near.
        if self._matcher.is_error():
            raise RuntimeError(f"llguidance gave up: {_line(self._matcher.get_error())}")


def masks_of(grammar: Grammar, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """int32 [T, words]: the masks under which the ids of a completion were drawn."""
    state = grammar.start()
    masks = np.zeros((len(tokens), grammar.words), np.uint32)
    for position, token in enumerate(tokens):
        masks[position] = state.mask()
        try:
            state.take(token)
        except ValueError as error:
            raise ValueError(f"tokens[{position}]: {error}") from error
    return masks.view(np.int32)


def compile(
    tokenizer: Tokenizer,
    tools: Sequence[Tool] | None,
    *,
    choice: Choice = "auto",
    thinking: Thinking = "allowed",
    parallel: bool = True,  # more than one call in a completion
    vocab_size: int,  # the model's, which may be larger than the tokenizer's
    stop_ids: Sequence[int],
) -> Grammar:
    """The grammar of a row's completions; the same arguments give the same object again.

    ValueError, one sentence, names the tool and what of its schema can't be followed.
    """
    library()
    for fault in chat.check_tools(tools):
        raise ValueError(str(fault))
    signatures = [signature(tool) for tool in tools or ()]
    names = [name for name, _ in signatures]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"tools: {name!r} is there twice: give each tool a name of its own")
    if thinking not in get_args(Thinking):
        known = ", ".join(get_args(Thinking))
        raise ValueError(f"thinking is {thinking!r}: use one of {known}")
    callable_names, must_call = _chosen(choice, names)
    called = [pair for pair in signatures if pair[0] in callable_names]
    many = parallel and not isinstance(choice, Mapping)
    stops = tuple(dict.fromkeys(int(i) for i in stop_ids))
    if not stops or not all(0 <= i < vocab_size for i in stops):
        raise ValueError(f"stop_ids are {stops}: give ids below the vocabulary's {vocab_size}")
    file = (str(tokenizer.path), tokenizer.hash)
    lark = _lark(_tags(*file), [name for name, _ in called], must_call, many, thinking)
    schemas = [json.dumps({**schema, "x-guidance": SPACING}) for _, schema in called]
    return _compiled(file, vocab_size, stops, lark, tuple(callable_names), tuple(schemas))


def _chosen(choice: Choice, names: list[str]) -> tuple[list[str], bool]:
    """The tools that may be called, and whether one has to be."""
    match choice:
        case "none":
            return [], False
        case "auto":
            return names, False
        case "required" if names:
            return names, True
        case "required":
            raise ValueError("choice is 'required', but there are no tools: give some, or 'auto'")
        case {"function": {"name": str(name)}} if name in names:
            return [name], True
        case {"function": {"name": str(name)}}:
            raise ValueError(f"choice names the tool {name!r}: there are {', '.join(names)}")
    form = '{"type": "function", "function": {"name": …}}'
    raise ValueError(f"choice is {choice!r}: use auto, none, required or {form}")


def _lark(
    tags: dict[str, int], names: list[str], must_call: bool, many: bool, thinking: Thinking
) -> str:
    """The grammar in llguidance's syntax; `arguments_i` are the tools' schemas.

    A tag that is a token is asked for as that token, and can't stand in text. Whoever spells a
    tag in other tokens is told apart by the text's own pattern, since chat.parse reads text.
    """

    def tag(text: str) -> str:
        return f"<[{tags[text]}]>" if text in tags else json.dumps(text)

    def without(*texts: str) -> str:
        inner = "|".join(text.replace("/", r"\/") for text in texts)
        return f"~/(?s:.*)({inner})(?s:.*)/"

    # Calls that a think block only speaks of. Where they are no tokens, its text holds them.
    spoken = " | ".join(tag(text) for text in (CALL, CALL_END) if text in tags)
    ends = f"THOUGHT? {tag(THINK_END)}" if THINK_END in tags else "LAST_THOUGHT"
    rules = [
        f"THOUGHT: /(?s:.+)/ & {without(THINK, THINK_END)}",
        f"TEXT: /(?s:.+)/ & {without(*TAGS)}",
        f"LAST_THOUGHT: ANY_THOUGHT {json.dumps(THINK_END)}",
        f"ANY_THOUGHT: /(?s:.*)/ & {without(THINK, THINK_END)}",
        f"thought: {f'(THOUGHT? ({spoken}))* ' if spoken else ''}{ends} " + r'"\n\n"',
        f"block: {tag(THINK)} thought",
    ]
    before = {"allowed": "block?", "required": "block", "forbidden": "", "begun": "thought"}
    answer = ["calls"] if names else []
    answer += [] if must_call else ["TEXT", ""]
    rules.append(f"start: {before[thinking]} answer")
    rules.append(f"answer: {' | '.join(answer)}")
    if names:
        rules.append(r'calls: call ("\n" call)*' if many else "calls: call")
        each = [f"tool_{number}" for number in range(len(names))]
        rules.append(f"call: {tag(CALL)} ({' | '.join(each)}) " + r'"}\n" ' + tag(CALL_END))
    for number, name in enumerate(names):
        head = json.dumps(f'\n{{"name": "{name}", "arguments": ')
        rules.append(f"tool_{number}: {head} @arguments_{number}")
    return "\n".join(rules)


def library() -> Any:
    """llguidance; ModuleNotFoundError, one sentence, where it is absent."""
    try:
        return importlib.import_module("llguidance")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(HOW, name="llguidance") from error


@functools.lru_cache(maxsize=256)
def _compiled(
    file: tuple[str, str],
    vocab_size: int,
    stop_ids: tuple[int, ...],
    lark: str,
    names: tuple[str, ...],
    schemas: tuple[str, ...],
) -> Grammar:
    matchers = library().LLMatcher
    parts: list[dict[str, Any]] = [{"lark_grammar": lark}]
    for number, schema in enumerate(schemas):
        parts.append({"name": f"arguments_{number}", "json_schema": json.loads(schema)})
    vocabulary = _vocabulary(*file, vocab_size, stop_ids)
    matcher = matchers(vocabulary, json.dumps({"grammars": parts}), log_level=0)
    if matcher.is_error():
        for name, schema in zip(names, schemas, strict=True):
            alone = matchers(vocabulary, matchers.grammar_from_json_schema(schema), log_level=0)
            if alone.is_error():
                raise ValueError(
                    f"tool {name!r}: parameters: a grammar can't follow this schema "
                    f"({_line(alone.get_error())}): leave that out, or decode without a grammar"
                )
        raise ValueError(f"tools: no grammar can be made of them: {_line(matcher.get_error())}")
    return Grammar(matcher, vocab_size, stop_ids)


@functools.lru_cache(maxsize=4)
def _vocabulary(path: str, digest: str, vocab_size: int, stop_ids: tuple[int, ...]) -> Any:
    """The tokenizer as llguidance knows it; this takes seconds with a large one.

    To it all added tokens of the form <…> are special, as Qwen3's tags are not: neither free text
    nor a JSON string can hold one.
    """
    raw = json.loads(Path(path).read_text())
    raw |= {"truncation": None, "padding": None}
    size = Tokenizer(Path(path).parent).size
    if size > vocab_size:
        raise ValueError(
            f"{path}: has {size} ids, the model's vocabulary {vocab_size}: use the model's own"
        )
    try:
        return library().LLTokenizer(json.dumps(raw), n_vocab=vocab_size, eos_token=list(stop_ids))
    except ValueError as error:
        raise ValueError(f"{path}: llguidance can't read this tokenizer: {error}") from error


@functools.lru_cache(maxsize=4)
def _tags(path: str, digest: str) -> dict[str, int]:
    """The tags that are tokens of their own."""
    added = json.loads(Path(path).read_text()).get("added_tokens") or ()
    return {token["content"]: token["id"] for token in added if token["content"] in TAGS}


def _line(message: str) -> str:
    """The first lines of llguidance's message, up to its dump of a state, as one."""
    return " ".join(message.split("<state>")[0].split())[:300]
