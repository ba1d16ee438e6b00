"""Any string is a completion; what is wrong with it is named; what was rendered is read back."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from star_jax import chat

OK = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
F = chat.Call("f", {"a": 1})


def call(content: str) -> str:
    return f"<think>t</think><tool_call>{content}</tool_call>"


# --- The strict reader ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nwhy\n</think>\n\n{}<|im_end|>\n",
        "\n<think>why</think>{}",
        "why\n</think>\n\n{}<|im_end|>",
        " why </think> {} <|im_end|><|endoftext|><|endoftext|>",
    ],
)
def test_well_formed_generations(text: str) -> None:
    assert chat.parse(text.format("Hi there")) == chat.Completion("why", (), "Hi there", None)
    assert chat.parse(text.format(OK)) == chat.Completion("why", (F,), "", None)
    assert chat.parse(text.format(OK + "\n" + OK)) == chat.Completion("why", (F, F), "", None)
    assert chat.parse(text.format("")) == chat.Completion("why", (), "", None)


@pytest.mark.parametrize(
    ("text", "kind", "detail"),
    [
        ("", "no_think", "There is no <think>...</think> block."),
        ("Hi", "no_think", "There is no"),
        (OK, "no_think", "There is no"),
        ("<think>on and on", "unclosed_think", "The <think> at line 1, column 1 is never closed."),
        ("Hi\n<think>on", "unclosed_think", "The <think> at line 2, column 1 is never"),
        ("Hi\n <think>a</think>b", "text_before_think", "before the <think> at line 2, column 2."),
        ("<think>a<think>b</think>c", "two_thinks", "A second <think> opens at line 1, column 9"),
        ("<think>a</think>b</think>c", "two_thinks", "another </think> at line 1, column 18."),
        ("<think>a</think>b<think>c</think>", "two_thinks", "another <think> at line 1, column 18"),
        ("a</think>\n<think>b</think>", "two_thinks", "another <think> at line 2, column 1."),
        (f"<think>a</think>{OK}</think>", "two_thinks", "another </think>"),
        (
            "<think>a</think><tool_call>",
            "unclosed_call",
            "<tool_call> at line 1, column 17 is never",
        ),
        (f"<think>a</think>{OK[:-12]}", "unclosed_call", "at line 1, column 17 is never closed."),
        (f"<think>a</think>{OK[:-12]}{OK}", "unclosed_call", "line 1, column 17 is never closed."),
        ("<think>a</think>x</tool_call>", "stray_call_end", "at line 1, column 18 closes no call."),
        (f"<think>a</think>{OK}</tool_call>", "stray_call_end", "at line 3, column 13 closes no"),
        (call(""), "bad_json", "The call at line 1, column 17 is not one JSON object: Expecting"),
        (call('\n{"name": f}\n'), "bad_json", "Expecting value at line 2, column 10."),
        (
            call('{"name": "f", "arguments": {"a": 1}'),
            "bad_json",
            "delimiter at line 1, column 63.",
        ),
        (
            call('{"name": "f", "arguments": {}} {}'),
            "bad_json",
            "follows the JSON object at line 1",
        ),
        (call('{"name": "f", "arguments": {"a": NaN}}'), "bad_json", "NaN is not JSON"),
        (call('{"name": "f", "arguments": {"a": %s}}' % ("9" * 5000)), "bad_json", "digits"),
        (
            call('{"name": "f", "arguments": {"a": %s}}' % ("[" * 99 + "]" * 99)),
            "bad_json",
            "100",
        ),
        (call("[" * 100_000), "bad_json", "It nests deeper than 100 levels."),
        (call("[]"), "not_object", "The call at line 1, column 17 is a list, not an object."),
        (call("null"), "not_object", "is null, not an object."),
        (call('"f"'), "not_object", "is a string, not an object."),
        (call("1.5"), "not_object", "is a number, not an object."),
        (call("true"), "not_object", "is a boolean, not an object."),
        (call("{}"), "missing_name", "The call at line 1, column 17 has no name."),
        (call('{"arguments": {}}'), "missing_name", "has no name."),
        (call('{"name": null, "arguments": {}}'), "name_not_string", "a name that is null."),
        (call('{"name": ["f"]}'), "name_not_string", "a name that is a list."),
        (call('{"name": "f"}'), "missing_arguments", "has no arguments."),
        (call('{"name": "f", "arguments": []}'), "arguments_not_object", "are a list, not an"),
        (call('{"name": "f", "arguments": "{}"}'), "arguments_not_object", "are a string, not"),
        (f"Hi <think>a</think>{OK[:-12]}", "text_before_think", "line 1, column 4."),
        (f"<think>a</think>x</tool_call>{OK}", "stray_call_end", "column 18 closes no call."),
        (f"<think>a</think>Sure.{OK}", "text_beside_call", "beside the calls: 'Sure.'."),
        (f"<think>a</think>{OK}{OK} Done.", "text_beside_call", "beside the calls: 'Done.'."),
    ],
)
def test_faults_are_named_and_placed(text: str, kind: str, detail: str) -> None:
    error = chat.parse(text).error
    assert error is not None
    assert (error.kind, detail in error.detail) == (kind, True), error


def test_what_can_be_read_is_read_beside_a_fault() -> None:
    text = f"<think>t</think>Hm {OK}<tool_call>{{]</tool_call>{OK} ok"
    completion = chat.parse(text)
    assert (completion.think, completion.calls, completion.reply) == ("t", (F,), "Hm")
    assert completion.error is not None
    assert completion.error.kind == "bad_json"
    assert chat.parse(f"{OK}<|im_end|>").calls == (F,)
    assert chat.parse("<think>cut").think == "cut"


def test_a_hundred_levels_are_read() -> None:
    nested = "[" * 99 + "]" * 99
    # The call itself and its arguments are two of the hundred levels.
    text = call('{"name": "f", "arguments": {"a": 0}}')
    assert chat.parse(text.replace("0", nested[1:-1])).error is None
    assert chat.parse(text.replace("0", nested)).error is not None
    wide = json.dumps({"name": "f", "arguments": {"a": [[]] * 300}})
    assert chat.parse(call(wide)).error is None


def test_a_string_may_spell_the_tags() -> None:
    arguments = {"html": "</tool_call><tool_call></think><think>", "b": "<|im_end|>"}
    text = f"t</think>{call_text('f', arguments)}<|im_end|>"
    assert chat.parse(text) == chat.Completion("t", (chat.Call("f", arguments),), "", None)


def call_text(name: str, arguments: dict[str, Any]) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


# --- The reader that accepts what simrl.py accepts ------------------------------------------------


@pytest.mark.parametrize(
    ("text", "think", "calls", "reply"),
    [
        ("<think>why</think> Hi <|im_end|>", "why", (), "Hi <|im_end|>"),
        ("<think>why</think>a</think>b", "why", (), "b"),
        ("<think>a<think>b</think>c", "a<think>b", (), "c"),
        (f"<think>t</think>Sure. {OK} Done.", "t", (F,), ""),
        (f"<think>t</think>{OK[:-12]}", "t", (), ""),
        (f"<think>t</think>{OK}<tool_call>", "t", (F,), ""),
        (call('{"name": "f", "arguments": []}'), "t", (chat.Call("f", {}),), ""),
        (call('{"name": "f", "arguments": ""}'), "t", (chat.Call("f", {}),), ""),
        (call('{"name": "f", "arguments": ["b"]}'), "t", (chat.Call("f", {"b": None}),), ""),
        (
            call('{"name": "f", "arguments": "xy"}'),
            "t",
            (chat.Call("f", {"x": None, "y": None}),),
            "",
        ),
        (call('{"name": "f", "arguments": {"a": 1}, "id": 3}'), "t", (F,), ""),
        ("x<|im_start|>assistant\n<think>t</think>Hi", "t", (), "Hi"),
    ],
)
def test_compat_accepts(text: str, think: str, calls: tuple[chat.Call, ...], reply: str) -> None:
    assert chat.parse(text, "compat") == chat.Completion(think, calls, reply, None)


def test_compat_reads_on_beside_a_fault() -> None:
    text = f"<think>a</think><think>b</think>{OK}<tool_call>{{]</tool_call>{OK}"
    completion = chat.parse(text, "compat")
    assert (completion.think, completion.calls) == ("a", (F, F))
    assert completion.error is not None
    assert completion.error.kind == "two_thinks"


def test_compat_reads_infinity() -> None:
    (found,) = chat.parse(call('{"name": "f", "arguments": {"a": -Infinity}}'), "compat").calls
    assert found.arguments == {"a": float("-inf")}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Hi", "no_think"),
        ("<think>Hi", "no_think"),
        ("why</think>Hi", "no_think"),
        ("<think>a</think><think>b</think>c", "two_thinks"),
        (call("{"), "bad_json"),
        (call(f"{OK}"), "bad_json"),
        (call("[" * 100_000), "bad_json"),
        (call("3"), "not_object"),
        (call("{}"), "missing_name"),
        (call('{"name": 1, "arguments": {}}'), "name_not_string"),
        (call('{"name": "f"}'), "missing_arguments"),
        (call('{"name": "f", "arguments": null}'), "arguments_not_object"),
        (call('{"name": "f", "arguments": 0}'), "arguments_not_object"),
        (call('{"name": "f", "arguments": [1]}'), "arguments_not_object"),
        (f"<think>t</think>{OK}<tool_call>{{]</tool_call>", "bad_json"),
    ],
)
def test_compat_refuses(text: str, kind: str) -> None:
    error = chat.parse(text, "compat").error
    assert error is not None
    assert error.kind == kind


def keys_of(tools: list[dict[str, Any]]) -> dict[str, Any]:
    """The arguments that simrl.py lets each tool have."""
    allowed = {}
    for tool in tools:
        keys = tool["parameters"]
        if isinstance(keys.get("properties"), dict) and keys.get("type") is not None:
            keys = keys["properties"]
        allowed[tool["name"]] = keys
    return allowed


def test_compat_agrees_with_the_recorded_formats(shared: Path) -> None:
    """A format is 1 exactly when the text is readable and its names and arguments are known."""
    refused = 0
    for line in (shared / "golden/rewards.jsonl").read_text().splitlines():
        row = json.loads(line)
        allowed = keys_of(row["tools"])
        completion = chat.parse(row["generation"], "compat")
        is_known = all(
            made.name in allowed and made.arguments.keys() <= allowed[made.name].keys()
            for made in completion.calls
        )
        assert (completion.error is None and is_known) == (row["format"] == 1), row["id"]
        refused += completion.error is not None
    assert refused == 134


# --- Properties -----------------------------------------------------------------------------------

pieces = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "<|endoftext|>"),
        *("<|im_start|>assistant\n", "\n", " ", '{"name": "f", "arguments": {}}', '"', "{", "}"),
        *("[", "]", '{"name": ', '"arguments": ', "NaN", "1e999", "\\ud800", "é", "\x00", "\ud800"),
    ]
)
anything = st.text() | st.lists(pieces | st.text(max_size=3), max_size=14).map("".join)


@settings(max_examples=600, deadline=None)
@given(anything, st.sampled_from(["strict", "compat"]))
@example("<tool_call>" * 50, "strict")
@example("</think>" * 50, "compat")
def test_any_text_is_a_completion(text: str, mode: chat.Mode) -> None:
    completion = chat.parse(text, mode)
    assert isinstance(completion, chat.Completion)
    assert completion.think is None or completion.think in text
    assert all(isinstance(made.name, str) for made in completion.calls)
    assert all(isinstance(made.arguments, dict) for made in completion.calls)
    if completion.error is not None:
        assert completion.error.detail.endswith(".")
        assert "\n" not in completion.error.detail


@settings(max_examples=300, deadline=None)
@given(st.binary())
def test_any_bytes_are_a_completion(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    chat.parse(text)
    chat.parse("<think></think><tool_call>" + text + "</tool_call>", "compat")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.sampled_from(["strict", "compat"]))
def test_any_json_in_a_call_is_a_call_or_a_fault(value: object, mode: chat.Mode) -> None:
    completion = chat.parse(call(json.dumps(value)), mode)
    assert completion.calls or completion.error


@settings(max_examples=600, deadline=None)
@given(anything)
def test_compat_finds_what_the_expressions_find(text: str) -> None:
    """simrl.py is written with these expressions; they take quadratic time on hostile text."""
    content = text.split("<|im_start|>assistant\n")[-1]
    thinks = re.findall(r"<think>(.*?)</think>", content, re.DOTALL)
    completion = chat.parse(text, "compat")
    assert completion.think == (thinks[0].strip() if thinks else None)
    answer = content.split("</think>")[-1].strip()
    blocks = re.findall(r"<tool_call>(.*?)</tool_call>", answer, re.DOTALL)
    assert len(completion.calls) <= len(blocks)
    assert completion.reply == ("" if "<tool_call>" in answer else answer)
    if len(thinks) == 1 and completion.error is None:
        assert len(completion.calls) == len(blocks)


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
arguments = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.none() | st.booleans() | st.integers() | finite | st.text() | st.lists(st.text()),
    max_size=3,
)
made_calls = st.lists(st.builds(chat.Call, st.from_regex(r"\A\w+\Z"), arguments), max_size=3)


@settings(max_examples=300, deadline=None)
@given(words, words, made_calls, st.booleans())
def test_what_was_rendered_is_read_back(
    think: str, reply: str, calls: list[chat.Call], as_strings: bool
) -> None:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": reply,
        "reasoning_content": think,
        "tool_calls": [
            {
                "name": made.name,
                "arguments": json.dumps(made.arguments) if as_strings else made.arguments,
            }
            for made in calls
        ],
    }
    history = [{"role": "user", "content": "?"}]
    prompt = chat.render(history, add_generation_prompt=True)
    text = chat.render([*history, message])
    assert text.startswith(prompt)
    completion = chat.parse(text.removeprefix(prompt))
    assert (completion.think, completion.calls) == (think.strip(), tuple(calls))
    assert completion.reply == reply.strip()
    if calls and reply.strip():
        assert completion.error is not None
        assert completion.error.kind == "text_beside_call"
    else:
        assert completion.error is None


@pytest.mark.parametrize("mode", ["strict", "compat"])
@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_call>{",
        "[",
        " \n",
        "<|im_end|> ",
    ],
)
def test_hostile_text_takes_linear_time(piece: str, mode: chat.Mode) -> None:
    start = time.perf_counter()
    chat.parse("<think></think>" + piece * 20_000, mode)
    assert time.perf_counter() - start < 1  # quadratic readers take minutes


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode is 'loose': use 'strict' or 'compat'"):
        chat.parse("", "loose")  # ty: ignore[invalid-argument-type]  (what is being tested)
