"""Completions under a grammar: they end, they parse, and they obey their schemas."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, pre_tokenizers

from star_jax import chat
from star_jax.data.encode import Tokenizer
from star_jax.sampler import grammar
from star_jax.sampler.schema import signature
from tests import tiny

try:
    grammar.library()
    absent = False
except ModuleNotFoundError:
    absent = True
needs = pytest.mark.skipif(absent, reason="llguidance is absent: pip install 'star-jax[grammar]'")

EMPTY_BLOCK = "<think>\n\n</think>\n\n"
# What a prompt holds of the completion, by `thinking`.
BEFORE = {"allowed": "", "required": "", "forbidden": EMPTY_BLOCK, "begun": "<think>\n"}
VOCAB = 300  # more than the tokenizer's 263 ids, and no multiple of 32


def tool(name: str, properties: dict[str, Any] | None = None, **rest: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, **rest}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool(
    "get_weather",
    {
        "city": {"type": "string", "description": "where"},
        "unit": {"type": "string", "enum": ["°C", '"F"', "K"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "exact": {"type": "boolean"},
    },
    required=["city"],
)
NESTED = tool(
    "book",
    {
        "trip": {
            "type": "object",
            "properties": {
                "legs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"to": {"type": "string"}, "km": {"type": "number"}},
                        "required": ["to", "km"],
                    },
                    "minItems": 1,
                    "maxItems": 3,
                },
                "class": {"anyOf": [{"const": "first"}, {"type": "integer"}, {"type": "null"}]},
            },
            "required": ["legs"],
        },
        "tags": {"type": "array", "items": {"enum": ["a", 1, None, True]}},
    },
    required=["trip", "tags"],
)
BARE = [  # no parameters, in every way to say so
    {"name": "now"},
    {"type": "function", "function": {"name": "now_2", "parameters": {}}},
    tool("now_3", {}),
]
PYTHON = tool(
    "пошук-搜索.v2/x y",
    {"ключ": {"type": "str"}, "n": {"type": ["float", "null"]}, "o": {"type": "dict"}},
    required=["ключ", "n"],
)
SETS = {
    "weather": [WEATHER],
    "many": [WEATHER, NESTED, *BARE, PYTHON],
    "bare": BARE,
    "prefixes": [tool("get", {"x": {"type": "integer"}}), WEATHER],
}


def is_valid(value: Any, schema: Any) -> bool:
    """A JSON schema's check, of the words that the tools above use."""
    checks: dict[str, Callable[[Any], bool]] = {
        "enum": lambda allowed: any(value == one and type(value) is type(one) for one in allowed),
        "const": lambda only: value == only,
        "anyOf": lambda parts: any(is_valid(value, part) for part in parts),
        "type": lambda kinds: any(
            is_a(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)
        ),
        "minimum": lambda least: value >= least,
        "maximum": lambda most: value <= most,
        "minItems": lambda least: len(value) >= least,
        "maxItems": lambda most: len(value) <= most,
        "items": lambda part: all(is_valid(one, part) for one in value),
        "required": lambda names: set(names) <= set(value),
        "properties": lambda parts: (
            set(value) <= set(parts) and all(is_valid(value[name], parts[name]) for name in value)
        ),
        "description": lambda _: True,
    }
    return all(checks[word](meaning) for word, meaning in schema.items())


def is_a(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    names = {"str": str, "string": str, "dict": dict, "object": dict, "array": list}
    names |= {"integer": int, "number": int | float, "float": int | float, "null": type(None)}
    return kind != "boolean" and isinstance(value, names[kind])


def tokenizer(folder: Path, kind: str) -> Tokenizer:
    """One token a byte. Its tags are special tokens, or added ones as Qwen3's are, or text."""
    if kind == "special":
        return Tokenizer(tiny.tokenizer(folder))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    if kind == "text":
        vocabulary["</think>"] = 256  # a word like any other, which no text is split into
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(tiny.SPECIAL[:3]))
    if kind == "added":
        made.add_tokens(list(tiny.SPECIAL[3:]))
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("tokenizers")
    return {kind: tokenizer(folder / kind, kind) for kind in ("special", "added", "text")}


@pytest.fixture(scope="module")
def real(shared: Path) -> Tokenizer:
    folder = shared / "qwen3-tokenizer"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return Tokenizer(folder)


def compiled(tokens: Tokenizer, tools: Any, vocab_size: int = VOCAB, **options: Any) -> Any:
    stop_ids = options.pop("stop_ids", (tokens.end_of_turn,))
    return grammar.compile(tokens, tools, vocab_size=vocab_size, stop_ids=stop_ids, **options)


def ids_of(mask: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    return np.flatnonzero(bits)


def walk(compiled: Any, rng: np.random.Generator, closers: set[int]) -> list[int]:
    """Any allowed ids, but those that close something more often, so that it comes to an end."""
    state, tokens = compiled.start(), []
    while not state.is_done:
        allowed = ids_of(state.mask())
        assert allowed.size, "nothing may follow"
        assert allowed[-1] < compiled.vocab_size
        closing = [i for i in closers if i in allowed] if rng.random() < 0.2 else []
        tokens.append(int(rng.choice(closing or allowed)))
        state.take(tokens[-1])
        assert len(tokens) < 5000, "it does not end"
    return tokens


def closers(tokens: Tokenizer) -> set[int]:
    """The ids that close a string, a list, an object, a block, a call, a turn."""
    found = {tokens.end_of_turn, tokens.end_of_think}
    for text in ('"', "]", "}", "</tool_call>", "<"):
        found.add(tokens.encode([text])[0][0])
    return found


def check_said(
    text: str, tools: list[Any], *, choice: Any = "auto", thinking: str = "allowed"
) -> chat.Completion:
    """The completion parses, and its calls are what choice and schemas ask for."""
    before = BEFORE[thinking]
    if thinking == "allowed" and not text.startswith("<think>"):
        # Read as if the prompt had held it; else a tag that a string spells would be taken for one.
        before = EMPTY_BLOCK
    said = chat.parse(before + text)
    assert said.error is None, (said.error, text)
    functions = {one["name"]: one for one in (tool.get("function", tool) for tool in tools)}
    for call in said.calls:
        schema = functions[call.name].get("parameters") or {"properties": {}}
        assert is_valid(call.arguments, schema), call
    match choice:
        case "none":
            assert not said.calls
        case "required":
            assert said.calls
        case {"function": {"name": name}}:
            assert [call.name for call in said.calls] == [name]
    return said


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@needs
@pytest.mark.parametrize("kind", ["special", "added", "text"])
@pytest.mark.parametrize("thinking", ["allowed", "required", "forbidden", "begun"])
def test_random_completions_end_parse_and_obey(
    made: dict[str, Tokenizer], kind: str, thinking: str
) -> None:
    tokens, rng = made[kind], np.random.default_rng(0)
    seen: set[str] = set()
    for tools in SETS.values():
        for choice in ("auto", "required", "none", named(signature(tools[-1])[0])):
            options = {"choice": choice, "thinking": thinking}
            for _ in range(3):
                ids = walk(compiled(tokens, tools, **options), rng, closers(tokens))
                said = check_said(tokens.decode(ids), tools, **options)
                seen |= {call.name for call in said.calls}
                seen |= {"a reply"} if said.reply else set()
                seen |= {"two calls"} if len(said.calls) > 1 else set()
                seen |= {"a thought"} if said.think else set()
    assert {"a reply", "two calls", "get_weather", "now_3", "пошук-搜索.v2/x y"} <= seen
    assert ("a thought" in seen) == (thinking != "forbidden")


@needs
@pytest.mark.slow
def test_random_completions_of_the_real_vocabulary(real: Tokenizer) -> None:
    rng, count = np.random.default_rng(1), 0
    for tools in SETS.values():
        for thinking in ("allowed", "required", "forbidden", "begun"):
            for choice in ("auto", "required"):
                options = {"choice": choice, "thinking": thinking}
                made = compiled(real, tools, 151_936, **options)
                for _ in range(3):
                    said = check_said(real.decode(walk(made, rng, closers(real))), tools, **options)
                    count += len(said.calls)
    assert count > 50


BOOKING = {
    "trip": {"legs": [{"to": "", "km": -1.5e3}, {"to": "搜", "km": 0}], "class": None},
    "tags": [True, "a", None],
}
GOLD: list[dict[str, Any]] = [
    {"content": "Zürich: 21 °C 🙂"},
    {"content": ""},
    {"reasoning_content": "Is it <tool_call>?\n\nYes </tool_call>.", "content": "No."},
    {
        "reasoning_content": "two",
        "tool_calls": [
            {"name": "get_weather", "arguments": {"city": 'Zürich\n"x"\t\\ <b>', "days": 3}},
            {"name": "now", "arguments": {}},
        ],
    },
    {"tool_calls": [{"name": "book", "arguments": BOOKING}]},
    {
        "tool_calls": [
            {"name": "пошук-搜索.v2/x y", "arguments": {"ключ": "✓", "n": None, "o": {"a": [1]}}}
        ]
    },
]


@needs
@pytest.mark.parametrize(
    "kind", ["special", "added", "text", pytest.param("real", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("enable_thinking", [None, False])
@pytest.mark.parametrize("number", range(len(GOLD)))
def test_what_the_template_writes_is_accepted(
    number: int,
    enable_thinking: bool | None,
    kind: str,
    made: dict[str, Tokenizer],
    request: pytest.FixtureRequest,
) -> None:
    tokens = request.getfixturevalue("real") if kind == "real" else made[kind]
    tools = SETS["many"]
    question = [{"role": "user", "content": "?"}]
    answer = {"role": "assistant", "content": None, **GOLD[number]}
    if enable_thinking is False and "reasoning_content" in answer:
        del answer["reasoning_content"]
    prompt = chat.render(
        question, tools, add_generation_prompt=True, enable_thinking=enable_thinking
    )
    whole = chat.render([*question, answer], tools)
    assert whole.startswith(prompt)
    ids = tokens.encode([whole.removeprefix(prompt).removesuffix("\n")])[0]
    thinking = "forbidden" if enable_thinking is False else "required"
    vocab = 151_936 if kind == "real" else VOCAB
    masks = grammar.masks_of(compiled(tokens, tools, vocab, thinking=thinking), ids)
    assert masks.dtype == np.int32
    assert masks.shape == (len(ids), -(-vocab // 32))
    for mask, i in zip(masks, ids, strict=True):
        assert i in ids_of(mask)


@needs
def test_masks_are_those_under_which_it_was_drawn(made: dict[str, Tokenizer]) -> None:
    built = compiled(made["added"], SETS["many"])
    state, masks, tokens = built.start(), [], []
    rng = np.random.default_rng(3)
    while not state.is_done:
        masks.append(state.mask())
        tokens.append(int(rng.choice(ids_of(masks[-1]))))
        state.take(tokens[-1])
    again = grammar.masks_of(built, np.array(tokens))
    np.testing.assert_array_equal(again.view(np.uint32), np.array(masks))
    np.testing.assert_array_equal(grammar.masks_of(built, tokens[:7]), again[:7])
    assert len({mask.tobytes() for mask in masks}) > 3
    # What comes after the end is an id that stops, so that no row of logits is masked out whole.
    assert [*ids_of(state.mask())] == [made["added"].end_of_turn]


@needs
@pytest.mark.parametrize("kind", ["special", "added"])
def test_a_tag_is_its_token_and_is_not_spelled(made: dict[str, Tokenizer], kind: str) -> None:
    tokens = made[kind]

    def spelled(text: str) -> list[int]:
        return [tokens.encode([letter])[0][0] for letter in text]

    def allowed(tools: Any, *ids: int, **options: Any) -> np.ndarray:
        state = compiled(tokens, tools, **options).start()
        for i in ids:
            state.take(i)
        return ids_of(state.mask())

    (think,), (end,), (call,), (call_end,) = tokens.encode(list(grammar.TAGS))
    (closing,) = spelled(">")
    first = allowed([WEATHER], thinking="required", choice="required")
    assert [*first] == [think]
    assert [*allowed([WEATHER], thinking="forbidden", choice="required")] == [call]
    assert {think, call} < {*allowed([WEATHER])}
    for text in ("<think", "</think", "<tool_call", "</tool_call"):
        assert closing not in allowed([WEATHER], *spelled(text))  # in a reply
        in_block = allowed([WEATHER], think, *spelled(text))
        assert (closing in in_block) == ("tool" in text)
    assert {end, call, call_end} < {*allowed([WEATHER], think)}
    assert not {think} & {*allowed([WEATHER], think)}
    # A JSON string holds none of them.
    inside = [call, *spelled('\n{"name": "get_weather", "arguments": {"city": "')]
    assert not {think, end, call, call_end} & {*allowed([WEATHER], *inside)}


@needs
def test_one_call_where_no_more_are_wanted(made: dict[str, Tokenizer]) -> None:
    tokens = made["special"]
    (one,) = tokens.encode(['<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'])
    for options in ({"parallel": False}, {"choice": named("now")}):
        state = compiled(tokens, BARE, **options).start()
        for i in one:
            state.take(i)
        assert [*ids_of(state.mask())] == [tokens.end_of_turn]


@needs
def test_an_ordinary_token_may_stop(made: dict[str, Tokenizer]) -> None:
    """It ends text, and is missing from the strings of a call."""
    tokens = made["special"]
    ((x,),) = tokens.encode(["x"])
    built = compiled(tokens, [WEATHER], stop_ids=(x, tokens.end_of_turn), choice="required")
    (head,) = tokens.encode(['<tool_call>\n{"name": "get_weather", "arguments": {"city": "'])
    state = built.start()
    for i in head:
        state.take(i)
    assert x not in ids_of(state.mask())
    with pytest.raises(ValueError, match=f"the id {x} ends what is not complete"):
        state.take(x)
    for i in tokens.encode(['y"}}\n</tool_call>'])[0]:  # the refusal has changed nothing
        state.take(i)
    assert {x, tokens.end_of_turn} < {*ids_of(state.mask())}
    state.take(x)
    assert state.is_done
    with pytest.raises(ValueError, match=f"the id {x} comes after the end"):
        state.take(x)


@needs
def test_the_same_arguments_give_the_same_grammar(made: dict[str, Tokenizer]) -> None:
    tokens = made["special"]
    one = compiled(tokens, [WEATHER])
    assert compiled(tokens, json.loads(json.dumps([WEATHER]))) is one
    assert compiled(tokens, [WEATHER], choice="required") is not one
    assert compiled(tokens, [NESTED]) is not one
    assert compiled(made["added"], [WEATHER]) is not one


ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"choice": "required", "tools": []}, "choice is 'required', but there are no tools"),
    ({"choice": named("weather")}, "choice names the tool 'weather': there are get_weather"),
    ({"choice": "maybe"}, "choice is 'maybe': use auto, none, required or {"),
    ({"thinking": "sometimes"}, "thinking is 'sometimes': use one of allowed, required, forb"),
    ({"stop_ids": ()}, "stop_ids are (): give ids below the vocabulary's 300"),
    ({"stop_ids": (300,)}, "stop_ids are (300,): give ids below the vocabulary's 300"),
    ({"vocab_size": 262}, "has 263 ids, the model's vocabulary 262: use the model's own"),
    ({"tools": [WEATHER, WEATHER]}, "tools: 'get_weather' is there twice: give each tool a name"),
    ({"tools": [{"name": ""}]}, "tools[0].name: is an empty string"),
    ({"tools": [tool("f", {}, type="string")]}, "tool 'f': parameters: type is 'string'"),
    ({"tools": [{"name": "f", "parameters": [1]}]}, "tool 'f': parameters: is [1]: give a JSON s"),
]  # fmt: skip
for schema, keyword in (
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"not": {"type": "string"}}, '"not"'),
    ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    ({"type": "string", "format": "shoe-size"}, "shoe-size"),
    ({"type": "widget"}, "widget"),
    ({"$ref": "#/$defs/absent"}, "$defs/absent"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "'x' is unsatisfiable"),
):
    sentence = f"tool 'f': parameters: a grammar can't follow this schema (… {keyword}"
    ERRORS.append(({"tools": [WEATHER, tool("f", {"x": schema}, required=["x"])]}, sentence))


@needs
@pytest.mark.parametrize(("options", "sentence"), ERRORS)
def test_mistakes_are_sentences(
    made: dict[str, Tokenizer], options: dict[str, Any], sentence: str
) -> None:
    options = {"tools": [WEATHER], **options}
    pattern = ".*".join(re.escape(part) for part in sentence.split("… "))
    with pytest.raises(ValueError, match=pattern) as caught:
        compiled(made["special"], **options)
    assert "\n" not in str(caught.value)


@needs
def test_arguments_are_spaced_as_the_template_does(made: dict[str, Tokenizer]) -> None:
    tokens = made["special"]
    for days in ('{"city": "", "days": 3}', '{"city":"","days":3}', '{"city": "",  "days": 3}'):
        text = f'<tool_call>\n{{"name": "get_weather", "arguments": {days}}}\n</tool_call>'
        (ids,) = tokens.encode([text])
        if days == '{"city": "", "days": 3}':
            assert len(grammar.masks_of(compiled(tokens, [WEATHER]), ids)) == len(ids)
        else:
            with pytest.raises(ValueError, match="is not allowed here"):
                grammar.masks_of(compiled(tokens, [WEATHER]), ids)


@needs
def test_a_completion_that_was_not_drawn_so_is_refused(made: dict[str, Tokenizer]) -> None:
    tokens = made["special"]
    (ids,) = tokens.encode(['<tool_call>\n{"name": "now", "arguments": {"x": 1}}\n</tool_call>'])
    with pytest.raises(ValueError, match=r"tokens\[32\]: the id \d+ is not allowed here"):
        grammar.masks_of(compiled(tokens, BARE), ids)
    with pytest.raises(ValueError, match=r"tokens\[0\]: the id 299 is not allowed"):
        grammar.masks_of(compiled(tokens, BARE), [299])
    with pytest.raises(ValueError, match=r"tokens\[0\]: the id 3000 is not allowed"):
        grammar.masks_of(compiled(tokens, BARE), [3000])


def test_without_llguidance_a_sentence_names_the_extra(
    made: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'star-jax\[grammar\]'"):
        compiled(made["special"], [WEATHER])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"type": "object", "properties": {}, "additionalProperties": False}),
        (
            {"type": "dict", "properties": {"a": {"type": "int"}}},
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "additionalProperties": False,
            },
        ),
        (  # arguments alone
            {"type": {"type": "str"}, "properties": {"type": "bool"}},
            {
                "type": "object",
                "properties": {"type": {"type": "string"}, "properties": {"type": "boolean"}},
                "additionalProperties": False,
            },
        ),
        (  # it says itself that there may be others
            {"type": "object", "properties": {}, "additionalProperties": {"type": "float"}},
            {"type": "object", "properties": {}, "additionalProperties": {"type": "number"}},
        ),
        (  # each part of allOf lists a part of the properties
            {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
            {"type": "object", "allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        ),
        (  # examples and constants are data, not schemas
            {"type": "object", "properties": {"a": {"const": {"type": "dict", "properties": {}}}}},
            {
                "type": "object",
                "properties": {"a": {"const": {"type": "dict", "properties": {}}}},
                "additionalProperties": False,
            },
        ),
    ],
)
def test_schemas_get_one_meaning(given: Any, expected: dict[str, Any]) -> None:
    assert signature({"name": "f", "parameters": given}) == ("f", expected)


def test_a_schema_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"items": deep}
    with pytest.raises(ValueError, match="tool 'f': parameters: nests deeper than 100 levels"):
        signature({"name": "f", "parameters": deep})
