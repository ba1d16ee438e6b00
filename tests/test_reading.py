"""A sample in pieces says what it says as a whole, whatever the pieces."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax import chat
from star_jax.chat import Call
from star_jax.data.encode import Tokenizer
from star_jax.sampler.reading import Content, Cut, Decoder, Part, Reader, Reasoning, read_call
from tests import tiny

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
# Pieces of text from which well-formed and malformed completions are put together.
WORDS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", CALL, " ", "\n\n", "a", "</th"),
        *("<", "é", '{"name": 1}', "<tool_call>[1e999]"),
        '<tool_call>{"name": "g", "arguments": {"s": "</tool_call>"}}</tool_call>',
        '<tool_call>{"name": "q\\"", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "h", "arguments": {"x": 1e999}}</tool_call>',
        '<tool_call>{"name": "h", "arguments": {"x": "\\ud800"}}</tool_call>',
    ]
)
TEXTS = st.lists(WORDS, max_size=12).map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(tiny.tokenizer(Path(tmp_path_factory.mktemp("tokenizer"))))


def read(pieces: list[str], *, opened: bool = False, thought: bool = False, calls: bool = True):
    reader = Reader(is_open=opened, is_thought=thought, reads_calls=calls)
    parts: list[Part] = []
    for piece in pieces:
        parts += reader.feed(piece)
    return parts + reader.end()


def joined(parts: list[Part]) -> tuple[str, str, list[Call]]:
    return (
        "".join(part.text for part in parts if isinstance(part, Reasoning)),
        "".join(part.text for part in parts if isinstance(part, Content)),
        [part for part in parts if isinstance(part, Call)],
    )


def chop(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(places)]


@given(TEXTS, st.lists(st.integers(0, 500), max_size=20), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_pieces_do_not_matter(text: str, cuts: list[int], opened: bool, calls: bool) -> None:
    whole = joined(read([text], opened=opened, calls=calls))
    assert joined(read(chop(text, cuts), opened=opened, calls=calls)) == whole
    assert joined(read(list(text), opened=opened, calls=calls)) == whole


@given(TEXTS, st.sampled_from(["", "<think>x</think>", "<think>"]))
@settings(max_examples=150, deadline=None)
def test_what_is_well_formed_is_what_the_parser_reads(text: str, prefix: str) -> None:
    found = chat.parse(prefix + text)
    if found.error is not None and found.error.kind != "text_beside_call":
        return
    if any(bad in text for bad in ("1e999", '"q', "ud800")):  # calls that are read, but not said
        return
    if "<think>" not in (prefix + text):  # nobody had opened the reasoning that it closes
        return
    think, content, calls = joined(read([prefix + text]))
    assert (think, content, calls) == (found.think or "", found.reply, list(found.calls))


def test_text_comes_as_soon_as_it_is_final() -> None:
    reader = Reader(is_open=False, is_thought=False, reads_calls=True)
    assert reader.feed("  <thi") == []
    assert reader.feed("nk>\nWarm") == [Reasoning("Warm")]
    assert reader.feed(" or</t") == [Reasoning(" or")]
    assert reader.feed("old?\n</think>\n\n") == [Reasoning("</told?")]
    assert reader.feed("It is <") == [Content("It is")]
    assert reader.feed("5 or <tool") == [Content(" <5 or")]
    assert reader.feed("_call>\n{}") == []
    assert reader.end() == [Content(" <tool_call>\n{}")]


def test_calls_come_when_they_are_closed() -> None:
    reader = Reader(is_open=False, is_thought=True, reads_calls=True)
    spelt = '<tool_call>{"name": "f", "arguments": {"s": "</tool_call>'
    assert reader.feed(spelt) == []
    assert reader.feed('"}}</tool_call') == []
    assert reader.feed(">\n") == [Call("f", {"s": "</tool_call>"})]
    assert reader.feed(CALL) == [Call("f", {"a": 1})]
    assert reader.end() == []


def test_a_bad_call_and_all_behind_it_is_content_to_the_letter() -> None:
    text = f"{CALL}\n<tool_call>{{'name'}}</tool_call> {CALL}"
    parts = read([text], thought=True)
    assert parts == [Call("f", {"a": 1}), Content(f"<tool_call>{{'name'}}</tool_call> {CALL}")]


def test_without_tools_a_call_is_content() -> None:
    assert read([f"See {CALL}"], calls=False) == [Content(f"See {CALL}")]


@pytest.mark.parametrize("arguments", ['{"x": 1e999}', '{"x": "\\ud800"}', "[]", "{} {}"])
def test_calls_that_no_client_could_be_told_are_none(arguments: str) -> None:
    assert read_call(f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>') is None


@pytest.mark.parametrize("name", ["", 'a\\"b', "a\\nb", "\\udc00"])
def test_names_that_no_template_could_write_are_none(name: str) -> None:
    assert read_call(f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>') is None


@given(st.binary(max_size=40), st.lists(st.integers(1, 5), min_size=1))
@settings(max_examples=150, deadline=None)
def test_ids_in_pieces_are_the_text_of_all(tokenizer: Tokenizer, data: bytes, sizes: list[int]):
    ids = [int(b) for b in data]  # the tokenizer has one id a byte
    decoder = Decoder(tokenizer.decode)
    out, at, turn = [], 0, 0
    while at < len(ids):
        out.append(decoder.feed(ids[at : at + sizes[turn % len(sizes)]]))
        at += sizes[turn % len(sizes)]
        turn += 1
        assert len(decoder._waiting) <= 3
    assert "".join(out) + decoder.end() == tokenizer.decode(ids)


def test_no_half_characters(tokenizer: Tokenizer) -> None:
    decoder = Decoder(tokenizer.decode)
    ids = tokenizer.encode(["a🙂é�b"])[0]
    assert "".join(fed := [decoder.feed([i]) for i in ids]) + decoder.end() == "a🙂é�b"
    assert fed[:6] == ["a", "", "", "", "🙂", ""]


@given(
    st.text("abc", max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 500), max_size=6),
)
@settings(max_examples=150, deadline=None)
def test_stops_cut_at_the_same_place_in_pieces(text: str, stops: list[str], cuts: list[int]):
    cut = Cut(stops)
    got = "".join(cut.feed(piece) for piece in chop(text, cuts)) + cut.end()
    # Letter by letter: as soon as the text ends in a stop, the text is over.
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            assert (got, cut.is_cut) == (text[: end - max(map(len, ending))], True)
            return
    assert (got, cut.is_cut) == (text, False)


def test_text_that_may_be_a_stop_waits() -> None:
    cut = Cut(["END", "\n\n"])
    assert [cut.feed(t) for t in ("one E", "N", "ergy\n", "x", "END more")] == [
        "one ",
        "",
        "ENergy",
        "\nx",
        "",
    ]
