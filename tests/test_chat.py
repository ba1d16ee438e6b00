"""Rendering equals the Qwen3 template: on recorded rows, on drawn conversations, and on a few
texts written out here, which need nothing beside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax import chat

WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


# --- Recorded rows --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden(shared: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared / "golden/chat.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def template(shared: Path) -> str:
    return json.loads((shared / "qwen3-tokenizer/tokenizer_config.json").read_text())[
        "chat_template"
    ]


def options(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("add_generation_prompt", "enable_thinking")}


def test_recorded_rows_render_alike(golden: list[dict[str, Any]], template: str) -> None:
    assert len(golden) == 80
    for row in golden:
        given = row["messages"], row["tools"]
        assert chat.render(*given, **options(row)) == row["text"], row["id"]
        assert chat.render_with(template, *given, **options(row)) == row["text"], row["id"]


def with_string_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    messages = json.loads(json.dumps(messages))
    for message in messages:
        for call in message.get("tool_calls") or ():
            function = call.get("function") or call
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return messages


def test_string_arguments_render_like_objects(golden: list[dict[str, Any]]) -> None:
    changed = 0
    for row in golden:
        messages = with_string_arguments(row["messages"])
        changed += messages != row["messages"]
        assert chat.render(messages, row["tools"], **options(row)) == row["text"], row["id"]
    assert changed > 20


def test_the_tokenizer_gives_the_recorded_ids(golden: list[dict[str, Any]], shared: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(shared / "qwen3-tokenizer/tokenizer.json"))
    for row in golden:
        text = chat.render(row["messages"], row["tools"], **options(row))
        assert tokenizer.encode(text, add_special_tokens=False).ids == row["ids"], row["id"]


# --- Drawn conversations --------------------------------------------------------------------------

texts = st.one_of(
    st.sampled_from(
        [
            "",
            "\n",
            "\n\nhi\n",
            " \t a \n",
            "<think>\na\n</think>\n\nb",
            "</think>x",
            "a</think>b</think>\nc",
        ]
    ),
    st.sampled_from(
        ["<tool_response>\nx\n</tool_response>", "<tool_response>", "</tool_response>"]
    ),
    st.sampled_from(["<b>&amp;'\"</b>", "{{ x }}{% if %}"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
names = st.text(st.characters(categories=["L", "Nd"], include_characters="_.-"), min_size=1)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(texts, values, max_size=3)
written_arguments = arguments | arguments.map(lambda value: json.dumps(value, indent=1))
flat_calls = st.fixed_dictionaries({"name": names, "arguments": written_arguments})
calls = flat_calls | flat_calls.map(lambda call: {"type": "function", "function": call, "id": "1"})
assistants = st.fixed_dictionaries(
    {"role": st.just("assistant")},
    optional={
        "content": texts | st.none(),
        "reasoning_content": texts | st.none(),
        "tool_calls": st.lists(calls, max_size=3) | st.none(),
    },
)
others = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "tool"]), "content": texts | st.none()}
) | st.fixed_dictionaries({"role": st.just("system"), "content": texts})
flat_tools = st.fixed_dictionaries(
    {"name": names}, optional={"description": texts, "parameters": arguments}
)
tools = flat_tools | flat_tools.map(lambda tool: {"type": "function", "function": tool})
conversations = st.fixed_dictionaries(
    {
        "messages": st.lists(assistants | others, min_size=1, max_size=7),
        "tools": st.none() | st.lists(tools, max_size=3),
        "add_generation_prompt": st.booleans(),
        "enable_thinking": st.sampled_from([None, True, False]),
    }
)


@pytest.fixture(scope="module")
def apply_chat_template(template: str) -> Callable[..., str]:
    from transformers.utils.chat_template_utils import render_jinja_template

    def apply(messages: Any, enable_thinking: bool | None, **kwargs: Any) -> str:
        if enable_thinking is not None:
            kwargs["enable_thinking"] = enable_thinking
        rendered, _ = render_jinja_template([messages], chat_template=template, **kwargs)
        return rendered[0]

    return apply


@settings(max_examples=400, deadline=None)
@given(conversations)
def test_drawn_conversations_render_alike(
    apply_chat_template: Callable[..., str], template: str, conversation: dict[str, Any]
) -> None:
    expected = apply_chat_template(**conversation)
    assert chat.render(**conversation) == expected
    assert chat.render_with(template, **conversation) == expected


# --- Texts written out ----------------------------------------------------------------------------


def test_reasoning_is_kept_only_after_the_last_question() -> None:
    messages = [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "<think>\nold\n</think>\n\n1"},
        {"role": "user", "content": "Two?"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "\n new\n",
            "tool_calls": [{"name": "two", "arguments": {}}, {"name": "deux", "arguments": "{}"}],
        },
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "deux"},
        {"role": "assistant", "content": "<think>\nsum\n</think>\n\n2"},
    ]
    calls = (
        '<tool_call>\n{"name": "two", "arguments": {}}\n</tool_call>\n'
        '<tool_call>\n{"name": "deux", "arguments": {}}\n</tool_call>'
    )
    responses = "<tool_response>\n2\n</tool_response>\n<tool_response>\ndeux\n</tool_response>"
    assert chat.render(messages) == (
        turn("user", "One?")
        + turn("assistant", "1")
        + turn("user", "Two?")
        + turn("assistant", f"<think>\n new\n</think>\n\n{calls}")
        + turn("user", responses)
        + turn("assistant", "<think>\nsum\n</think>\n\n2")
    )


def test_tools_join_the_system_message() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = chat.render(messages, [WEATHER], add_generation_prompt=True, enable_thinking=False)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call")
    assert f"<tools>\n{json.dumps(WEATHER)}\n</tools>" in text
    assert text.endswith(turn("user", "Hi") + "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert chat.render(messages, []) == turn("system", "Be brief.") + turn("user", "Hi")


def test_scripts_and_markup_stand_as_they_are() -> None:
    messages = [{"role": "user", "content": "?"}]
    assert '{"name": "气温", "description": "<b>é & \'"}' in chat.render(
        messages, [{"name": "气温", "description": "<b>é & '"}]
    )


# --- Malformed messages ---------------------------------------------------------------------------

USER = {"role": "user", "content": "Hi"}


def calling(**call: Any) -> list[dict[str, Any]]:
    return [USER, {"role": "assistant", "tool_calls": [call]}]


@pytest.mark.parametrize(
    ("messages", "tools", "error"),
    [
        ([], None, "messages: is an empty list: give a list"),
        ("Hi", None, "messages: is a string: give a list"),
        ([USER, 3], None, "messages[1]: is a number: give an object"),
        ([{"content": "x"}], None, "messages[0].role: is missing: use system"),
        ([{"role": "function", "content": "x"}], None, "messages[0].role: is 'function': use"),
        ([{"role": "user"}], None, "messages[0].content: is missing: give a string"),
        ([{"role": "system", "content": None}], None, "messages[0].content: is null: give a s"),
        ([{"role": "user", "content": [{"text": "x"}]}], None, "messages[0].content: is a list"),
        ([USER, {"role": "tool", "content": {"a": 1}}], None, "messages[1].content: is an object"),
        ([USER | {"tool_calls": [1]}], None, "messages[0].tool_calls: stands in a user message"),
        ([USER | {"reasoning_content": "x"}], None, "messages[0].reasoning_content: stands in a"),
        (
            [{"role": "assistant", "reasoning_content": 1}],
            None,
            "messages[0].reasoning_content: is",
        ),
        ([{"role": "assistant", "thinking": "x"}], None, "messages[0].thinking: is not read"),
        ([{"role": "assistant", "tool_calls": "x"}], None, "messages[0].tool_calls: is a string"),
        ([{"role": "assistant", "tool_calls": ["x"]}], None, "messages[0].tool_calls[0]: is a str"),
        (calling(function="f"), None, "messages[1].tool_calls[0].function: is a string"),
        (calling(arguments={}), None, "messages[1].tool_calls[0].name: is missing"),
        (calling(name='f"', arguments={}), None, "messages[1].tool_calls[0].name: is 'f\"': leave"),
        (calling(name="f"), None, "messages[1].tool_calls[0].arguments: is missing: give an obj"),
        (calling(name="f", arguments=None), None, "messages[1].tool_calls[0].arguments: is null"),
        (calling(name="f", arguments="{"), None, "[0].arguments: is a string that is not JSON (Ex"),
        (calling(name="f", arguments="[]"), None, "[0].arguments: is a string that holds an empty"),
        (calling(function={"name": "f", "arguments": 1}), None, "[0].function.arguments: is a num"),
        (
            calling(name="f", arguments={"a": {1}}),
            None,
            "tool_calls[0].arguments: is not JSON: kee",
        ),
        ([USER], {"name": "f"}, "tools: is an object: give a list"),
        ([USER], ["f"], "tools[0]: is a string: give the tool's schema"),
        ([USER], [WEATHER, {"type": "function"}], "tools[1].name: is missing: give"),
        ([USER], [{"function": {}}], "tools[0].function.name: is missing"),
        ([USER], [{"function": "f"}], "tools[0].function: is a string"),
        ([USER], [WEATHER | {"parameters": {1j}}], "tools[0]: is not JSON"),
    ],
)
def test_malformed_messages_are_named(messages: Any, tools: Any, error: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (compared below, brackets and all)
        chat.render(messages, tools)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_fault_is_listed() -> None:
    faults = list(chat.check([{"role": "user"}, {"role": "x"}], [1]))
    assert [fault.field for fault in faults] == [
        "messages[0].content",
        "messages[1].role",
        "tools[0]",
    ]


def test_called_reads_every_spelling() -> None:
    expected = chat.Call("f", {"a": 1})
    for call in ({"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": '{"a":1}'}):
        assert chat.called(call) == expected
        assert chat.called({"type": "function", "function": call}) == expected


# --- Other templates ------------------------------------------------------------------------------


def test_a_template_may_be_laid_out_in_lines() -> None:
    loop = "{% for message in messages %}\n  {% if true %}\n{{ message.content }}\n"
    template = loop + "  {% endif %}\n{% endfor %}\n"
    assert chat.render_with(template, [USER, USER]) == "Hi\nHi\n"


def test_a_template_sees_what_it_is_given() -> None:
    template = (
        "{{ bos_token }}{% for message in messages %}[{{ message.role }}]"
        "{% generation %}{{ message.content }}{% endgeneration %}{% endfor %}"
        "{{ tools | tojson }}{% if enable_thinking is defined %}!{% endif %}"
    )
    text = chat.render_with(template, [USER], [{"name": "é"}], bos_token="<s>")
    assert text == '<s>[user]Hi[{"name": "é"}]'
    assert chat.render_with(template, [USER], enable_thinking=False).endswith("!")


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ raise_exception('no tools here') }}", "refuses these messages: no tools here"),
        ("{{ messages.append(1) }}", "refuses these messages"),
        ("{{ ''.__class__.__mro__ }}", "refuses these messages"),
        ("{% for %}", "is not valid Jinja"),
    ],
)
def test_a_template_that_fails_says_so(template: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        chat.render_with(template, [USER])


def test_chat_starts_without_heavy_imports() -> None:
    heavy = {"jax", "numpy", "torch", "transformers", "jinja2", "tokenizers"}
    code = f"import sys, star_jax.chat; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
