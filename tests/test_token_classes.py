"""Every token of a generation has a class, of whatever shape the generation is."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax import chat
from star_jax.evals import classes
from star_jax.evals.classes import CLASSES, TokenClass

SIGNS: dict[TokenClass, str] = dict(zip(CLASSES, ".tnkvr", strict=True))


Parts = list[tuple[TokenClass, str]]


def parts(text: str, *, in_think: bool = False) -> Parts:
    """What is not `other`, run by run."""
    kinds = classes.of_pieces(list(text), in_think=in_think)
    runs: Parts = []
    for kind, run in itertools.groupby(zip(kinds, text, strict=True), key=lambda pair: pair[0]):
        runs.append((kind, "".join(character for _, character in run)))
    return [run for run in runs if run[0] != "other"]


SHAPES: dict[str, tuple[str, Parts]] = {
    "thought, call": (
        "<think>\nI see.\n</think>\n\n<tool_call>\n"
        '{"name": "f.g", "arguments": {"a": "x", "bc": -1.5}}\n</tool_call>',
        [
            ("think", "I see."),
            ("name", "f.g"),
            ("key", "a"),
            ("value", "x"),
            ("key", "bc"),
            ("value", "-1.5"),
        ],
    ),
    "thought, reply": (
        "<think>\na\nb\n</think>\n\nTwo words.\n<|im_end|>\n",
        [("think", "a\nb"), ("reply", "Two words.")],
    ),
    "a reply alone": (
        "No, I can't.",
        [("reply", "No, I can't.")],
    ),
    "empty thought": (
        "<think>\n\n</think>\n\nYes",
        [("reply", "Yes")],
    ),
    "the prompt opened the thought": (
        "hm\n</think>\n\nYes",
        [("think", "hm"), ("reply", "Yes")],
    ),
    "text before the thought": (
        "So <think>x</think>y",
        [("reply", "So"), ("think", "x"), ("reply", "y")],
    ),
    "thought cut off": (
        "<think>\nso far ",
        [("think", "so far")],
    ),
    "thought that names markup": (
        "<think>a <tool_call> b</think>c",
        [("think", "a <tool_call> b"), ("reply", "c")],
    ),
    "thought that ends the turn": (
        "<think>a<|im_end|>",
        [("think", "a")],
    ),
    "two thoughts": (
        "<think>a</think>b<think>c</think>d",
        [("think", "a"), ("reply", "b"), ("think", "c"), ("reply", "d")],
    ),
    "second thought cut off": (
        "<think>a</think><think>c d",
        [("think", "a"), ("think", "c d")],
    ),
    "stray ends": (
        "a</tool_call>b</think>",
        [("think", "a</tool_call>b")],
    ),
    "stray ends behind": (
        "</think>a</tool_call>b</think>",
        [("reply", "a"), ("reply", "b")],
    ),
    "nested": (
        '<tool_call>{"name":"f","arguments":{"a":{"b":{"c":1},"d":[{"e":"x"},2]}}}</tool_call>',
        [
            ("name", "f"),
            ("key", "a"),
            ("key", "b"),
            ("key", "c"),
            ("value", "1"),
            ("key", "d"),
            ("key", "e"),
            ("value", "x"),
            ("value", "2"),
        ],
    ),
    "arguments first": (
        '<tool_call>{"arguments":{"name":"x","arguments":true},"name":"f"}</tool_call>',
        [("key", "name"), ("value", "x"), ("key", "arguments"), ("value", "true"), ("name", "f")],
    ),
    "more fields": (
        '<tool_call>{"id":7,"name":"f","more":{"a":1},"arguments":{}}</tool_call>',
        [("name", "f")],
    ),
    "markup in a value": (
        '<tool_call>{"name":"f","arguments":{"a":"</tool_call><think>"}}</tool_call>b',
        [("name", "f"), ("key", "a"), ("value", "</tool_call><think>"), ("reply", "b")],
    ),
    "quotes and JSON in a value": (
        '<tool_call>{"name":"f","arguments":{"a":"\\"b\\": {\\\\","c":null}}</tool_call>',
        [("name", "f"), ("key", "a"), ("value", '\\"b\\": {\\\\'), ("key", "c"), ("value", "null")],
    ),
    "brackets in a key": (
        '<tool_call>{"name":"f","arguments":{"a}\\",":1}}</tool_call>',
        [("name", "f"), ("key", 'a}\\",'), ("value", "1")],
    ),
    "an empty value": (
        '<tool_call>{"name":"f","arguments":{"a":""}}</tool_call>',
        [("name", "f"), ("key", "a")],
    ),
    "arguments as text": (
        '<tool_call>{"name":"f","arguments":"{\\"a\\":1}"}</tool_call>',
        [("name", "f"), ("value", '{\\"a\\":1}')],
    ),
    "arguments as a list": (
        '<tool_call>{"name":"f","arguments":[1,"x"]}</tool_call>',
        [("name", "f"), ("value", "1"), ("value", "x")],
    ),
    "a list of calls": (
        '<tool_call>[{"name":"f","arguments":{"a":1}}]</tool_call>',
        [("name", "f"), ("key", "a"), ("value", "1")],
    ),
    "a name that is a list": (
        '<tool_call>{"name":["f"],"arguments":{}}</tool_call>',
        [],
    ),
    "bare words": (
        "<tool_call>{name:f,arguments:{a:x y,'b':2}}</tool_call>",
        [
            ("name", "f"),
            ("key", "a"),
            ("value", "x"),
            ("value", "y"),
            ("key", "'b'"),
            ("value", "2"),
        ],
    ),
    "no object": (
        '<tool_call>f("x")</tool_call>',
        [],
    ),
    "one brace too many": (
        '<tool_call>{"name":"f","arguments":{"a":1}}}\n</tool_call>ok',
        [("name", "f"), ("key", "a"), ("value", "1"), ("reply", "ok")],
    ),
    "never closed": (
        '<tool_call>{"name":"f","arguments":{"a":1}}\nSo',
        [("name", "f"), ("key", "a"), ("value", "1"), ("reply", "So")],
    ),
    "never closed, another follows": (
        '<tool_call>{"name":"f","arguments":{}}<tool_call>{"name":"gh"}</tool_call>',
        [("name", "f"), ("name", "gh")],
    ),
    "never closed, broken, another follows": (
        '<tool_call>{"name":"f",<tool_call>{"name":"gh"}</tool_call>',
        [("name", "f"), ("name", "gh")],
    ),
    "a quote never closed": (
        '<tool_call>{"name":"f","arguments":{"a":"x}}</tool_call>ok',
        [("name", "f"), ("key", "a"), ("value", "x}}"), ("reply", "ok")],
    ),
    "a quote never closed, and others": (
        '<tool_call>{"arguments":{"a":"x</tool_call>b"c"d":1}}',
        [("key", "a"), ("value", "x"), ("reply", 'b"c"d":1}}')],
    ),
    "a quote never closed, another follows": (
        '<tool_call>{"name":"f","arguments":{"a":"x}}</tool_call>'
        '<tool_call>{"name":"g"}</tool_call>',
        [("name", "f"), ("key", "a"), ("value", "x}}"), ("name", "g")],
    ),
    "never closed, a reply, another follows": (
        '<tool_call>{"name":"f"}So<tool_call>{"name":"g"}</tool_call>',
        [("name", "f"), ("reply", "So"), ("name", "g")],
    ),
    "two words for a name": (
        '<tool_call>{"name":f g, "id":h}</tool_call>',
        [("name", "f"), ("name", "g")],
    ),
    "the prompt opened one thought of two": (
        "a</think>b<think>c",
        [("think", "a"), ("reply", "b"), ("think", "c")],
    ),
    "no object, cut off": ("<tool_call>}x", []),
    "cut in a name": (
        '<tool_call>\n{"name": "get_w',
        [("name", "get_w")],
    ),
    "cut in a key": (
        '<tool_call>{"name":"f","arguments":{"ab',
        [("name", "f"), ("key", "ab")],
    ),
    "cut in a value": (
        '<tool_call>{"name":"f","arguments":{"a":"b c\\',
        [("name", "f"), ("key", "a"), ("value", "b c\\")],
    ),
    "cut in a tag": (
        "<think>a</think>b<tool_ca",
        [("think", "a"), ("reply", "b<tool_ca")],
    ),
    "two calls": (
        '<tool_call>{"name":"f"}</tool_call>\n<tool_call>{"name":"gh"}</tool_call>',
        [("name", "f"), ("name", "gh")],
    ),
    "nothing": (
        "",
        [],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_part_has_its_class(name: str) -> None:
    text, expected = SHAPES[name]
    assert parts(text) == expected


def test_a_prompt_that_opened_the_thought_is_told() -> None:
    assert parts("so far", in_think=True) == [("think", "so far")]
    assert parts("so far") == [("reply", "so far")]
    assert parts("so</think>x", in_think=True) == [("think", "so"), ("reply", "x")]
    assert parts("a <think>b</think>", in_think=True) == [("think", "a <think>b")]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        # As Qwen's tokenizer cuts them.
        (["<think>", "\n", "I", " see", ".\n", "</think>", "\n\n", "Yes"], "..ttt..r"),
        (
            ["<tool_call>", "\n", '{"', "name", '":', ' "', "get", "_weather", '",', ' "'],
            "......nn..",
        ),
        (
            ['<tool_call>{"arguments', '":', ' {"', "city", '":', ' "', "Os", 'lo"', "}}\n"],
            "...k..vv.",
        ),
        # The most characters, then the first.
        (['<tool_call>{"name":"f","arguments":{"ab":"c', "d"], "kv"),
        (
            ['<tool_call>{"name":"f","arguments":{"a":"', 'b","', "cde", '":', "1}}</tool_call>"],
            "nvk.v",
        ),
        # Empty ones go with what follows.
        (["", "<think>", "", "a", "</think>", "", "", "b", ""], "..tt.rrr."),
        ([""], "."),
        ([], ""),
    ],
)
def test_a_token_has_the_class_of_most_of_its_characters(pieces: list[str], expected: str) -> None:
    assert "".join(SIGNS[kind] for kind in classes.of_pieces(pieces)) == expected


def test_how_a_text_is_cut_does_not_matter_to_its_characters() -> None:
    text = SHAPES["nested"][0]
    whole = classes.of_pieces(list(text))
    for seed in range(20):
        rng = random.Random(seed)
        cuts = sorted(rng.sample(range(len(text)), 30))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        start = 0
        for piece, kind in zip(pieces, classes.of_pieces(pieces), strict=True):
            inside = [k for k in whole[start : start + len(piece)] if k != "other"]
            if piece:
                assert kind == (max(inside, key=inside.count) if inside else "other")
            start += len(piece)


# --- ids ---------------------------------------------------------------------


def decode(ids: list[int]) -> str:
    """A byte-level tokenizer's: a token is a byte, or from 256 on one of these."""
    parts = [bytes([i]) if i < 256 else SPECIAL[i - 256] for i in ids]
    return b"".join(parts).decode("utf-8", errors="replace")


SPECIAL = [b"<think>", b"</think>", b"<tool_call>", b"</tool_call>", b"\xa0\xe4\xbd"]


def encode(text: str) -> list[int]:
    ids = list(text.encode())
    for number, special in enumerate(SPECIAL[:4]):
        joined, out, i = list(special), [], 0
        while i < len(ids):
            if ids[i : i + len(joined)] == joined:
                out, i = [*out, 256 + number], i + len(joined)
            else:
                out, i = [*out, ids[i]], i + 1
        ids = out
    return ids


@pytest.mark.parametrize("name", SHAPES)
def test_ids_are_classed_as_their_texts(name: str) -> None:
    text = SHAPES[name][0]
    kinds = classes.of_pieces(list(text))
    expected = [kind for c, kind in zip(text, kinds, strict=True) for _ in c.encode()]
    assert classes.of_ids(list(text.encode()), decode) == expected


def test_characters_split_over_tokens() -> None:
    text = '<think>é</think>\n\n你<tool_call>{"name":"ü","arguments":{"键":"😀x"}}</tool_call>'
    found = classes.of_ids(encode(text), decode)
    expected: list[TokenClass] = []
    for piece, kind in zip(encode(text), found, strict=True):
        expected += [kind] * (piece >= 128 and piece < 256)
    assert expected == ["think"] * 2 + ["reply"] * 3 + ["name"] * 2 + ["key"] * 3 + ["value"] * 4
    assert [SIGNS[kind] for kind in found].count("v") == 5


def test_two_characters_that_share_a_token() -> None:
    # 你 is e4 bd a0; the middle token ends the first and begins the second.
    ids = [0xE4, 0xBD, 260, 0xA0]
    assert decode(ids) == "你你"
    assert classes.of_ids([256, *ids, 257], decode) == ["other", *["think"] * 4, "other"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([0xFF, *b"ab"], "rrr"),  # no character at all
        ([256, 0xE4, 0xBD], ".tt"),  # cut off inside one
        ([256, 0xE4, 257, *b"a"], ".t.r"),  # inside one, and on
        ([*"\ufffd".encode(), *b"a"], "rrrr"),  # the replacement character itself
        ([256, *[0xE4] * 40, 257], "." + "t" * 40 + "."),
    ],
)
def test_bytes_that_are_no_characters(ids: list[int], expected: str) -> None:
    assert "".join(SIGNS[kind] for kind in classes.of_ids(ids, decode)) == expected


# --- anything ----------------------------------------------------------------

SCRAPS = [
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "{", "}", "[", "]", ":",
    ",", '"', "\\", "\n", " ", "name", "arguments", '{"name": "f", "arguments": {"a": ',
    "x", "é", "1",
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(SCRAPS) | st.text(max_size=3), max_size=40), st.booleans())
def test_anything_has_classes(pieces: list[str], in_think: bool) -> None:
    found = classes.of_pieces(pieces, in_think=in_think)
    assert len(found) == len(pieces)
    assert set(found) <= set(CLASSES)


names = st.text("abc_.é<", min_size=1, max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["x", "</tool_call>", '"', "\\{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(names, st.dictionaries(names, values, max_size=3), st.booleans())
def test_the_classes_of_a_rendered_call_are_its_parts(
    name: str, arguments: dict, is_ascii: bool
) -> None:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=is_ascii)
    text = f"<think>\nhm\n</think>\n\n<tool_call>\n{body}\n</tool_call><|im_end|>"
    assert chat.parse(text).error is None
    found = parts(text)

    def told(kind: TokenClass) -> str:
        return "".join(part for of, part in found if of == kind)

    def spelled(value: object) -> str:
        return json.dumps(value, ensure_ascii=is_ascii)

    def spelled_parts(value: object) -> tuple[str, str]:
        if isinstance(value, list):
            inside = [spelled_parts(item) for item in value]
            return "".join(k for k, _ in inside), "".join(v for _, v in inside)
        if isinstance(value, dict):
            inside = [spelled_parts(item) for item in value.values()]
            keys = "".join(
                spelled(key)[1:-1] + k for key, (k, _) in zip(value, inside, strict=True)
            )
            return keys, "".join(v for _, v in inside)
        return "", spelled(value)[1:-1] if isinstance(value, str) else spelled(value)

    keys, texts = spelled_parts(arguments)
    assert (told("think"), told("name"), told("reply")) == ("hm", spelled(name)[1:-1], "")
    assert (told("key"), told("value")) == (keys, texts)


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" * 30_000,
        "<think>" * 30_000,
        "<tool_call>" + '{"a":' * 50_000,
        "<tool_call>" + "[" * 50_000 + "]" * 50_000 + "</tool_call>",
        '<tool_call>{"name":"f","arguments":{"a":"' + "\\" * 200_000,
        '<tool_call>{"name":"f","arguments":{"a":' + "9" * 100_000 + "}}</tool_call>",
        "<|im_end|>" * 100_000,
        "<tool_call>{" * 30_000 + "</tool_call>" * 30_000,
        '<tool_call>["' * 30_000,
        '","<tool_call>[' * 30_000,
        '<tool_call>[1,"' * 30_000,
    ],
    ids=lambda text: text[:20],
)
def test_long_and_deep_ones_take_no_longer_than_they_are(text: str) -> None:
    (found,) = classes.of_pieces([text])
    assert found in CLASSES


# --- what it is for ----------------------------------------------------------


def test_totals_per_class() -> None:
    found = classes.of_pieces(["<think>", "a", "b", "</think>", "c"])
    assert classes.totals([0.5, 1, 2, 0.25, 4], found) == {
        "other": (0.75, 2),
        "think": (3.0, 2),
        "reply": (4.0, 1),
    }
    assert classes.totals([], []) == {}
    with pytest.raises(ValueError, match=r"values of shape \(2,\) for 1 tokens: give one for each"):
        classes.totals([1, 2], ["think"])
