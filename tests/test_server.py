"""The server as clients meet it: OpenAI's client, raw sockets, who leaves and who errs."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from star_jax import chat
from star_jax.data.encode import Tokenizer
from star_jax.sampler.reading import Content
from star_jax.sampler.request import Piece, Request, Settings, name_of
from star_jax.sampler.server import answer, asking
from star_jax.sampler.server.body import Limits
from star_jax.sampler.server.run import Options
from tests import speaking, tiny
from tests.served import Answer, Served, serving

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Genève"}}\n</tool_call>'
USER = [{"role": "user", "content": "Hi"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LIMITS = Limits(body_bytes=20_000, body_s=0.5, waiting=6, n=4, prompts=3, stop=2, tools=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(tiny.tokenizer(folder))


@pytest.fixture(scope="module")
def module_server(folder: Path) -> Generator[Served]:
    with serving(speaking.loaded(folder)) as made:
        yield made


@pytest.fixture
def server(module_server: Served) -> Generator[Served]:
    """One for many tests; each leaves it free."""
    module_server.speaker.script = speaking.noise
    yield module_server
    module_server.wait_until(lambda: module_server.is_free)


@pytest.fixture(scope="module")
def module_strict(folder: Path) -> Generator[Served]:
    with serving(speaking.loaded(folder, max_prompt=300, max_new=64), limits=LIMITS) as made:
        yield made


@pytest.fixture
def strict(module_strict: Served) -> Generator[Served]:
    """One with tight limits."""
    yield module_strict
    assert module_strict.request("GET", "/health").status == 200
    module_strict.wait_until(lambda: module_strict.is_free)


@pytest.fixture
def client(server: Served) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url, api_key="any", max_retries=0) as made:
        yield made


def said(server: Served, *texts: str) -> None:
    server.speaker.script = speaking.says(server.running.service.loaded.tokenizer, *texts)


# What OpenAI's client gets.


def test_chat(server: Served, client: openai.OpenAI) -> None:
    said(server, "Warm, 21 °C.", "Cold.")
    made = client.chat.completions.create(model="tiny", messages=USER, n=2, seed=1)
    assert [choice.message.content for choice in made.choices] == ["Warm, 21 °C.", "Cold."]
    assert [choice.finish_reason for choice in made.choices] == ["stop", "stop"]
    prompt = chat.render(USER, add_generation_prompt=True)
    assert made.usage.prompt_tokens == len(server.speaker.requests[-1].prompt)
    assert made.usage.completion_tokens == len("Warm, 21 °C.".encode()) + len("Cold.") + 2
    request = server.speaker.requests[-1]
    tokenizer = server.running.service.loaded.tokenizer
    assert tokenizer.decode(request.prompt) == prompt
    assert request.name == name_of(request.prompt)
    assert request.settings == Settings(
        max_new_tokens=256, seed=1, stop_ids=(tokenizer.end_of_turn,)
    )


def test_a_tool_is_called_and_its_result_read(server: Served, client: openai.OpenAI) -> None:
    said(server, f"<think>\nI look.\n</think>\n\nLet me see.\n{CALL}\n{CALL}")
    made = client.chat.completions.create(model="tiny", messages=USER, tools=[WEATHER])
    choice = made.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.reasoning_content == "I look."
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert json.loads(calls[0].function.arguments) == {"city": "Genève"}
    assert len({call.id for call in calls}) == 2
    said(server, "It rains.")
    history = [*USER, choice.message, *(tool_turn(call.id) for call in calls)]
    made = client.chat.completions.create(model="tiny", messages=history, tools=[WEATHER])
    assert made.choices[0].message.content == "It rains."
    rendered = server.running.service.loaded.tokenizer.decode(server.speaker.requests[-1].prompt)
    assert rendered.count('"name": "weather", "arguments": {"city": "Genève"}') == 2
    assert rendered.count("<tool_response>\nrain\n</tool_response>") == 2
    assert json.dumps(WEATHER) in rendered


def tool_turn(call_id: str) -> dict[str, str]:
    return {"role": "tool", "tool_call_id": call_id, "content": "rain"}


TOLD = f"<think>\nHm, <b>?\n</think>\n\nIt’s 5 < 6 🙂 </think> so\n\n{CALL}\n{CALL}"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("text", [TOLD, f"{TOLD}<tool_call>oh", "", " \n", "<think>cut", CALL[:40]])
def test_a_stream_says_what_a_whole_answer_says(
    server: Served, client: openai.OpenAI, text: str, size: int
) -> None:
    said(server, text, "Second.")
    server.speaker.tokens = size
    ask: dict[str, Any] = {"model": "tiny", "messages": USER, "tools": [WEATHER], "n": 2}
    whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2)
    stream = client.chat.completions.create(
        **ask, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    server.speaker.tokens = 3
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    for index, choice in enumerate(whole.choices):
        mine = [one.choices[0] for one in chunks[:-1] if one.choices[0].index == index]
        assert [one.finish_reason for one in mine if one.finish_reason] == [choice.finish_reason]
        assert mine[0].delta.role == "assistant"
        assert mine[-1].finish_reason
        content = "".join(one.delta.content or "" for one in mine)
        assert content == (choice.message.content or "")
        reasoning = "".join(getattr(one.delta, "reasoning_content", None) or "" for one in mine)
        assert reasoning == (getattr(choice.message, "reasoning_content", None) or "")
        calls = [call for one in mine for call in one.delta.tool_calls or []]
        assert [call.index for call in calls] == list(range(len(calls)))
        assert [call.function for call in calls] == [
            type(calls[0].function)(**call.function.model_dump())
            for call in choice.message.tool_calls or []
        ]
        scored = [entry for one in mine if one.logprobs for entry in one.logprobs.content]
        assert [one.model_dump() for one in scored] == [
            one.model_dump() for one in choice.logprobs.content
        ]
        assert len(scored) == len(text if index == 0 else "Second.") + 1 or index == 0


def test_content_comes_as_it_is_said(server: Served, client: openai.OpenAI) -> None:
    said(server, "abcdefghijkl")
    server.speaker.after = 2  # two steps of three tokens, then it holds
    stream = client.chat.completions.create(model="tiny", messages=USER, stream=True)
    got = [next(stream).choices[0].delta.content for _ in range(3)]
    assert got == ["", "abc", "def"]
    server.speaker.after = 10**9
    server.speaker.go.set()
    assert "".join(one.choices[0].delta.content or "" for one in stream) == "ghijkl"


def test_text(server: Served, client: openai.OpenAI) -> None:
    said(server, "one two END three", "x")
    made = client.completions.create(
        model="tiny", prompt=["A: ", "A: ", "B"], n=2, stop=["END"], max_tokens=99
    )
    assert [choice.text for choice in made.choices] == ["one two ", "x"] * 3
    assert [choice.index for choice in made.choices] == list(range(6))
    assert {choice.finish_reason for choice in made.choices} == {"stop"}
    first, second, _ = server.speaker.requests[-3:]
    assert first.name != second.name, "two equal prompts of a list are two"
    ids = [int(i) for i in first.prompt]
    by_ids = client.completions.create(model="tiny", prompt=ids, max_tokens=3)
    assert (by_ids.choices[0].text, by_ids.choices[0].finish_reason) == ("one", "length")
    assert client.completions.create(model="tiny", prompt=[ids, [5]]).usage.prompt_tokens == 4
    default = client.completions.create(model="tiny", prompt="A")
    assert default.usage.completion_tokens == 16


def test_a_stop_in_the_last_tokens_is_a_stop(tokenizer: Tokenizer) -> None:
    """Whichever of its reasons to end a sampler names."""
    settings = Settings(stop=("END",))
    request = Request(np.array([1]), 1, settings, b"")
    asked = asking.Asked((request,), False, False, None, asking.Verbatim)
    voice = answer.Voice(asked, 0, tokenizer.decode)
    ids = np.array(tokenizer.encode(["so END it"])[0])
    none = np.zeros((len(ids), 0))
    parts = voice.hear(Piece(0, 0, ids, none[:, :0], none, none, none, "length"))
    assert (parts, voice.finish, voice.tokens) == ([Content("so ")], "stop", len(ids))


def test_a_stream_of_texts(server: Served, client: openai.OpenAI) -> None:
    said(server, "one 🙂 two", "x")
    ask: dict[str, Any] = {"model": "tiny", "prompt": ["A", "B"], "n": 2, "logprobs": 2}
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(**ask, stream=True))
    for choice in whole.choices:
        mine = [one.choices[0] for one in chunks if one.choices[0].index == choice.index]
        assert "".join(one.text for one in mine) == choice.text
        assert mine[-1].finish_reason == choice.finish_reason
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            joined = [entry for one in mine for entry in getattr(one.logprobs, name)]
            assert joined == getattr(choice.logprobs, name)
    found = whole.choices[0].logprobs
    assert found.tokens[:4] == ["o", "n", "e", " "]
    assert found.tokens[-1] == "<|im_end|>"
    assert found.text_offset[:10] == [0, 1, 2, 3, 4, 4, 4, 4, 5, 6]
    tokenizer = server.running.service.loaded.tokenizer
    o = tokenizer.encode(["o"])[0][0]
    assert found.token_logprobs[0] == -(o + 1) / 64
    assert found.top_logprobs[0] == {
        "o": -(o + 1) / 64,
        tokenizer.decode([o + 1]): -(o + 1) / 64 - 1,
    }


def test_log_probs_of_chat(server: Served, client: openai.OpenAI) -> None:
    said(server, "aé")
    made = client.chat.completions.create(
        model="tiny", messages=USER, logprobs=True, top_logprobs=1
    )
    first, half, *_ = made.choices[0].logprobs.content
    assert (first.token, first.bytes, first.top_logprobs[0].token) == ("a", [97], "a")
    assert half.bytes is None, "half a character has no text, and so no bytes"
    bare = client.chat.completions.create(model="tiny", messages=USER, logprobs=True)
    assert bare.choices[0].logprobs.content[0].top_logprobs == []
    assert server.speaker.requests[-1].settings.top_logprobs == 0


def test_seeds(server: Served) -> None:
    def text(**fields: Any) -> str:
        return server.chat(max_tokens=40, **fields).json["choices"][0]["message"]["content"]

    assert text(seed=3) == text(seed=3) != text(seed=4)
    assert text() != text()
    assert text(temperature=0) == text(temperature=0)
    pair = server.chat(max_tokens=40, seed=3, n=2).json["choices"]
    assert pair[0]["message"]["content"] == text(seed=3) != pair[1]["message"]["content"]


def test_settings_arrive(server: Served) -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "top_k": 7, "seed": 2, "stop": "x"}
    assert server.chat(**fields, max_completion_tokens=5, stop_token_ids=[9]).status == 200
    end = server.running.service.loaded.tokenizer.end_of_turn
    made = server.speaker.requests[-1].settings
    assert made == Settings(max_new_tokens=5, **(fields | {"stop": ("x",)}), stop_ids=(end, 9))
    assert server.chat(ignore_eos=True, top_k=-1, max_tokens=1).status == 200
    assert server.speaker.requests[-1].settings.stop_ids == ()


def test_thinking_is_switched_off(server: Served) -> None:
    said(server, "So.</think> Yes")
    made = server.chat(chat_template_kwargs={"enable_thinking": False}).json
    rendered = server.running.service.loaded.tokenizer.decode(server.speaker.requests[-1].prompt)
    assert rendered.endswith("<think>\n\n</think>\n\n")
    assert made["choices"][0]["message"] == {"role": "assistant", "content": "So.</think> Yes"}


def test_tools_that_must_not_be_called(server: Served) -> None:
    said(server, CALL)
    made = server.chat(tools=[WEATHER], tool_choice="none").json["choices"][0]
    assert made["message"]["content"] == CALL
    assert made["finish_reason"] == "stop"
    tokenizer = server.running.service.loaded.tokenizer
    assert "weather" not in tokenizer.decode(server.speaker.requests[-1].prompt)


def test_a_grammar_is_made_where_one_is_asked_for(folder: Path) -> None:
    asked: list[tuple[Any, Any]] = []

    def grammar(tools: Any, choice: Any) -> str:
        asked.append((tools, choice))
        if choice == "required":
            raise ValueError("the schema of weather can't be compiled: mend it")
        return "grammar"

    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    named = {"type": "function", "function": {"name": "weather"}}
    with serving(speaking.loaded(folder, grammar=grammar)) as made:
        assert made.chat(tools=[WEATHER]).status == 200
        assert made.speaker.requests[-1].grammar is None
        for fields in ({"tools": [strict]}, {"tools": [WEATHER], "tool_choice": named}):
            assert made.chat(**fields).status == 200
            assert made.speaker.requests[-1].grammar == "grammar"
        assert asked == [([WEATHER], "auto"), ([WEATHER], {"name": "weather"})]
        refused = made.chat(tools=[WEATHER], tool_choice="required")
        assert (refused.status, "can't be compiled" in refused.message) == (400, True)


def test_a_fault_of_ours_is_a_500_and_no_end(folder: Path) -> None:
    def grammar(tools: Any, choice: Any) -> Any:
        raise KeyError("oops")

    with serving(speaking.loaded(folder, grammar=grammar)) as made:
        broken = made.chat(tools=[WEATHER], tool_choice="required")
        assert (broken.status, "KeyError" in broken.message) == (500, True)
        assert made.chat().status == 200
        made.wait_until(lambda: made.is_free)


def test_models_and_paths(server: Served, client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == ("tiny", 2048 + 256)
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'gpt-5' is not served here: use 'tiny'"):
        client.models.retrieve("gpt-5")
    with pytest.raises(openai.NotFoundError, match="use 'tiny'"):
        client.chat.completions.create(model="gpt-5", messages=USER)
    assert server.request("GET", "/health").json == {"status": "ok"}
    assert server.request("GET", "/v2/x").status == 404
    assert "v2" in server.request("GET", "/v2/x").message
    wrong = server.request("GET", CHAT)
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert "use POST" in wrong.message


# What is refused.

MESSAGE = {"messages": USER}
REFUSED: list[tuple[str, Any, int, str]] = [
    (CHAT, b"", 400, "not JSON"),
    (CHAT, b"{", 400, "not JSON"),
    (CHAT, b"\xff{}", 400, "not UTF-8"),
    (CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400, "not UTF-8"),
    (CHAT, b"[1]", 400, "no JSON object"),
    (CHAT, b'{"temperature": NaN}', 400, "NaN is no number"),
    (CHAT, b'{"temperature": 1e999}', 400, "too large a number"),
    (CHAT, b'{"seed": ' + b"9" * 5000 + b"}", 400, "not JSON"),
    (CHAT, b'{"a":' * 3000 + b"1" + b"}" * 3000, 400, "nests deeper"),
    (CHAT, b"[" * 19000, 400, "the body "),
    (CHAT, b'{"user":' * 101 + b"1" + b"}" * 101, 400, "nests deeper than 100 levels"),
    (CHAT, {}, 400, "messages: is null"),
    (CHAT, {"messages": []}, 400, "messages: is an empty list"),
    (CHAT, {"messages": "Hi"}, 400, "messages: is a string"),
    (CHAT, {"messages": [1]}, 400, "messages[0]: is a number"),
    (CHAT, {"messages": [{"role": "king", "content": ""}]}, 400, "messages[0].role: is 'king'"),
    (CHAT, {"messages": [{"role": "user"}]}, 400, "messages[0].content: is missing"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        "messages[0].content[0] is of type 'image_url'",
    ),
    (CHAT, {"messages": [{"role": "user", "content": ["x"]}]}, 400, "messages[0].content[0] is no"),
    (CHAT, {**MESSAGE, "tools": {}}, 400, "tools: is an object"),
    (CHAT, {**MESSAGE, "tools": [{"type": "function"}]}, 400, "tools[0].name: is missing"),
    (CHAT, {**MESSAGE, "tools": [{"type": "web", "name": "a"}]}, 400, "tools[0].type is 'web'"),
    (CHAT, {**MESSAGE, "tools": [WEATHER] * 3}, 400, "tools holds 3: give at most 2"),
    (CHAT, {**MESSAGE, "tool_choice": "required"}, 400, "there are no tools"),
    (CHAT, {**MESSAGE, "tools": [WEATHER], "tool_choice": "required"}, 400, "schemas, which this"),
    (CHAT, {**MESSAGE, "tools": [WEATHER], "tool_choice": "never"}, 400, "tool_choice is none of"),
    (
        CHAT,
        {
            **MESSAGE,
            "tools": [WEATHER],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
        },
        400,
        "tool_choice names 'f'",
    ),
    (
        CHAT,
        {**MESSAGE, "tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        400,
        "tools: strict needs decoding",
    ),
    (CHAT, {**MESSAGE, "temprature": 1}, 400, "temprature is no field of this request: did you"),
    (CHAT, {**MESSAGE, "prompt": "a"}, 400, "prompt is no field"),
    (CHAT, {**MESSAGE, "temperature": "hot"}, 400, "temperature is a text: give a number"),
    (CHAT, {**MESSAGE, "temperature": -1}, 400, "temperature is -1: give 0 to 100"),
    (CHAT, {**MESSAGE, "temperature": True}, 400, "temperature is a boolean"),
    (CHAT, {**MESSAGE, "top_p": 0}, 400, "top_p must be above 0"),
    (CHAT, {**MESSAGE, "top_k": 1.5}, 400, "top_k is 1.5: give a whole number"),
    (CHAT, {**MESSAGE, "top_k": 2**40}, 400, "top_k is"),
    (CHAT, {**MESSAGE, "min_p": 2}, 400, "min_p is 2: give 0 to 1"),
    (CHAT, {**MESSAGE, "seed": -1}, 400, "seed is -1"),
    (CHAT, {**MESSAGE, "seed": 2**63}, 400, "seed is"),
    (CHAT, {**MESSAGE, "n": 0}, 400, "n is 0: give 1 to 4"),
    (CHAT, {**MESSAGE, "n": 5}, 400, "n is 5: give 1 to 4"),
    (CHAT, {**MESSAGE, "stop": ["a", "b", "c"]}, 400, "stop holds 3 texts: give at most 2"),
    (CHAT, {**MESSAGE, "stop": [""]}, 400, "stop holds something else"),
    (CHAT, {**MESSAGE, "stop": 1}, 400, "stop holds something else"),
    (CHAT, {**MESSAGE, "stop_token_ids": [999]}, 400, "stop_token_ids holds token 999"),
    (CHAT, {**MESSAGE, "stream": "yes"}, 400, "stream is a text: give true or false"),
    (CHAT, {**MESSAGE, "stream_options": {"x": 1}}, 400, "stream_options.x is no field"),
    (CHAT, {**MESSAGE, "stream_options": []}, 400, "stream_options is a list"),
    (CHAT, {**MESSAGE, "chat_template_kwargs": {"thinking": 1}}, 400, "chat_template_kwargs.think"),
    (CHAT, {**MESSAGE, "logprobs": 3}, 400, "logprobs is a number"),
    (CHAT, {**MESSAGE, "top_logprobs": 3}, 400, "top_logprobs needs logprobs"),
    (CHAT, {**MESSAGE, "logprobs": True, "top_logprobs": 21}, 400, "top_logprobs is 21: give 0"),
    (CHAT, {**MESSAGE, "presence_penalty": 0.5}, 400, "presence_penalty is 0.5, which this"),
    (CHAT, {**MESSAGE, "logit_bias": {"5": 1}}, 400, "logit_bias is"),
    (CHAT, {**MESSAGE, "response_format": {"type": "json_schema"}}, 400, "use tools with"),
    (CHAT, {**MESSAGE, "functions": [{}]}, 400, "functions is [{}], which this server can't do"),
    (CHAT, {**MESSAGE, "max_tokens": 0}, 400, "max_tokens is 0: give at least 1"),
    (CHAT, {**MESSAGE, "max_tokens": 65}, 400, "65 new ones are asked for, there is room for 300"),
    (CHAT, {"messages": [{"role": "user", "content": "a" * 400}]}, 400, "the prompt has 4"),
    (CHAT, {**MESSAGE, "model": 3}, 400, "model is a number"),
    (TEXT, {}, 400, "prompt is missing"),
    (TEXT, {"prompt": ""}, 400, "prompt holds no token"),
    (TEXT, {"prompt": []}, 400, "prompt is none of"),
    (TEXT, {"prompt": ["a", 1]}, 400, "prompt is none of"),
    (TEXT, {"prompt": [1, "a"]}, 400, "prompt is none of"),
    (TEXT, {"prompt": [True]}, 400, "prompt is none of"),
    (TEXT, {"prompt": [[1], []]}, 400, "prompt holds no token"),
    (TEXT, {"prompt": [1, -1]}, 400, "prompt holds token -1: give ids from 0 to 262"),
    (TEXT, {"prompt": ["a"] * 4}, 400, "prompt is a list of 4: give at most 3"),
    (TEXT, {"prompt": "a" * 301}, 400, "the prompt has 301 tokens and 16 new ones"),
    (TEXT, {"prompt": "a", "echo": True}, 400, "echo is True, which this server can't do"),
    (TEXT, {"prompt": "a", "logprobs": True}, 400, "logprobs is True: give a whole number"),
    (TEXT, {"prompt": "a", "messages": USER}, 400, "messages is no field"),
    (TEXT, {"prompt": "a", "max_completion_tokens": 3}, 400, "did you mean max_tokens?"),
    (TEXT, {"prompt": "a", "padding": "x" * 30_000}, 413, "more than 20000 bytes"),
    (TEXT, {"prompt": "a", "padding": "x" * 500_000}, 413, "more than 20000 bytes"),
]


@pytest.mark.parametrize(("path", "body", "status", "sentence"), REFUSED, ids=str)
def test_refused(strict: Served, path: str, body: Any, status: int, sentence: str) -> None:
    asked = len(strict.speaker.requests)
    try:
        answer = strict.post(path, body)
    except (BrokenPipeError, ConnectionResetError):
        # Who sends many times what is allowed, and does not listen meanwhile, is cut off.
        assert status == 413
        assert len(body["padding"]) > 100_000
        return
    assert (answer.status, sentence in answer.message) == (status, True), answer.data
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert "\n" not in answer.message
    assert len(answer.message) < 300
    assert len(strict.speaker.requests) == asked


def test_the_field_at_fault_is_named(strict: Served) -> None:
    def param(**fields: Any) -> Any:
        return strict.chat(**fields).json["error"]["param"]

    assert param(top_p=0) == "top_p"
    assert param(tools=[{"type": "function", "function": {}}]) == "tools[0].function.name"
    assert param(max_tokens=65) == "max_tokens"
    assert param(content="a" * 400) == "messages"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_kinds_of_body(strict: Served, kind: str) -> None:
    got = strict.post(CHAT, {"messages": USER}, Content_Type=kind)
    assert (got.status, "application/json" in got.message) == (415, True)


def test_fields_that_change_nothing_are_taken(strict: Served) -> None:
    harmless = {"user": "me", "metadata": {"a": "b"}, "store": True, "parallel_tool_calls": False}
    neutral = {"presence_penalty": 0, "logit_bias": {}, "response_format": {"type": "text"}}
    nulls = dict.fromkeys(["stop", "seed", "tools", "tool_choice", "n", "logprobs", "audio"])
    assert strict.chat(**harmless, **neutral, **nulls, max_tokens=2).status == 200


def test_parts_of_text_and_developers(strict: Served) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "developer", "content": "Be."}, {"role": "user", "content": parts}]
    assert strict.post(CHAT, {"messages": messages}).status == 200
    expected = [{"role": "system", "content": "Be."}, {"role": "user", "content": "one\ntwo"}]
    tokenizer = strict.running.service.loaded.tokenizer
    prompt = tokenizer.decode(strict.speaker.requests[-1].prompt)
    assert prompt == chat.render(expected, add_generation_prompt=True)


def raw(server: Served, data: bytes) -> Answer:
    """Bytes as they are, and all that comes back until the server closes."""
    with server.connect() as connection:
        connection.sendall(data)
        got = b""
        while part := connection.recv(65536):
            got += part
    head, _, body = got.partition(b"\r\n\r\n")
    return Answer(int(head.split()[1]), {}, body)


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_slow_and_broken_senders(strict: Served) -> None:
    late = raw(strict, HEAD + b'Content-Length: 100\r\n\r\n{"prompt"')
    assert (late.status, "within 0.5 seconds" in late.message) == (408, True)
    silent = raw(strict, b"")
    assert (silent.status, "no request arrived within 0.5" in silent.message) == (408, True)
    never = raw(strict, HEAD)
    assert (never.status, "no request arrived within 0.5" in never.message) == (408, True)
    noise = raw(strict, b"\x16\x03\x01 hello\r\n\r\n")
    assert (noise.status, "no HTTP request" in noise.message) == (400, True)
    expecting = raw(
        strict, HEAD + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 99999\r\n\r\n"
    )
    assert (expecting.status, "20000 bytes" in expecting.message) == (413, True)
    chunked = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"1000\r\n" + b" " * 4096 + b"\r\n"
    endless = raw(strict, chunked + chunk * 8 + b"0\r\n\r\n")
    assert endless.status == 413
    left = strict.connect()
    left.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    left.close()


def test_too_many_wait(strict: Served) -> None:
    strict.speaker.go.clear()
    body = json.dumps({"prompt": ["a", "b", "c"]}).encode()
    clients = [strict.connect() for _ in range(2)]
    for client in clients:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    strict.wait_until(lambda: strict.gauge("star_jax_prompts_waiting") == 6)
    refused = strict.post(TEXT, {"prompt": "a"})
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert "6 prompts are waiting already, and 6 may" in refused.message
    assert refused.json["error"]["type"] == "rate_limit_error"
    strict.speaker.go.set()
    for client in clients:
        assert client.recv(15) == b"HTTP/1.1 200 OK"
        client.close()
    assert strict.post(TEXT, {"prompt": "a"}).status == 200


def begin(client: httpx2.Client, prompt: Any) -> httpx2.Response:
    """A stream that has begun."""
    body = {"prompt": prompt, "stream": True, "max_tokens": 60}
    return client.send(client.build_request("POST", "completions", json=body), stream=True)


def test_keys(folder: Path) -> None:
    with serving(speaking.loaded(folder), api_key="secret") as made:
        refused = made.chat()
        assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")
        assert made.post(CHAT, MESSAGE, Authorization="Bearer secres").status == 401
        assert made.post(CHAT, MESSAGE, Authorization="Bearer s\xe9").status == 401
        assert made.request("GET", "/v1/models").status == 401
        assert made.post(CHAT, MESSAGE, Authorization="Bearer secret").status == 200
        assert made.request("GET", "/health").status == 200


def test_what_the_scheduler_refuses(folder: Path) -> None:
    with serving(speaking.loaded(folder, max_prompt=9999)) as made:
        made.speaker.max_prompt = 30
        refused = made.post(TEXT, {"prompt": ["a", "b" * 31], "stream": True})
        assert (refused.status, "31 tokens is too long for the fake" in refused.message) == (400, 1)
        made.wait_until(lambda: made.is_free)


def test_answers_are_sent_at_once(server: Served) -> None:
    (listener,) = server.running._server.servers[0].sockets
    assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_options() -> None:
    assert Options().warning is None
    assert Options(host="::1").warning is None
    assert "--api-key" in (Options(host="0.0.0.0").warning or "")
    assert Options(host="0.0.0.0", api_key="k").warning is None
    for wrong in ({"port": 70000}, {"grace_s": -1}, {"api_key": ""}):
        with pytest.raises(ValueError, match="--"):
            Options(**wrong)
    with pytest.raises(ValueError, match="waiting must be above 0"):
        Limits(waiting=0)


# Many, those who leave, and the end.


def test_two_hundred_at_once(server: Served) -> None:
    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        ask: Any = {"model": "tiny", "seed": number, "max_tokens": 24}
        ask["messages"] = [{"role": "user", "content": f"Number {number}"}]
        if number % 2:
            stream = await client.chat.completions.create(**ask, stream=True)
            return "".join([one.choices[0].delta.content or "" async for one in stream])
        return (await client.chat.completions.create(**ask)).choices[0].message.content or ""

    async def everyone() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url, api_key="x", max_retries=0) as client:
            return await asyncio.gather(*[one(client, number) for number in range(200)])

    texts = asyncio.run(everyone())
    assert len(set(texts)) > 190
    for number in (0, 7, 199):  # alone it says the same
        alone = server.chat(f"Number {number}", seed=number, max_tokens=24).json
        assert alone["choices"][0]["message"]["content"] == texts[number]
    assert len(server.speaker.owners) == 1, "one thread owns the scheduler"


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_are_killed(server: Served, stream: bool) -> None:
    said(server, "a" * 200)
    cancelled = server.gauge("star_jax_requests_cancelled_total")
    count = len(server.speaker.cancelled)
    server.speaker.after = 3
    body = json.dumps({"prompt": ["p", "q"], "n": 6, "stream": stream, "max_tokens": 150}).encode()
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.sendall(head + body)
    opens = server.running.service.worker._opens
    server.wait_until(lambda: len(opens) == 5 and not server.speaker.go.is_set())
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        client.close()
    server.wait_until(lambda: not opens)
    server.speaker.after = 10**9
    server.speaker.go.set()
    server.wait_until(lambda: server.is_free)
    assert len(server.speaker.cancelled) == count + 10
    assert server.gauge("star_jax_requests_cancelled_total") == cancelled + 5
    assert server.gauge('star_jax_requests_total{path="/v1/completions",status="499"}') >= 5
    assert server.chat(max_tokens=2).status == 200


def test_a_scheduler_that_fails(folder: Path) -> None:
    with serving(speaking.loaded(folder)) as made, httpx2.Client(timeout=30) as client:
        made.speaker.go.clear()
        client.base_url = httpx2.URL(made.url)
        stream = begin(client, "a")
        made.speaker.fails = RuntimeError("out of memory")
        made.speaker.go.set()
        event = b"".join(stream.iter_raw()).decode().strip().split("\n\n")[-1]
        told = json.loads(event.removeprefix("data: "))["error"]
        assert "RuntimeError('out of memory')" in told["message"]
        assert told["type"] == "server_error"
        refused = made.chat()
        assert (refused.status, "must be restarted" in refused.message) == (503, True)
        health = made.request("GET", "/health")
        assert (health.status, health.json["status"]) == (503, "failed")
        assert made.gauge("star_jax_healthy") == 0


def test_a_failure_reaches_who_waits_for_a_whole_answer(folder: Path) -> None:
    with serving(speaking.loaded(folder)) as made:
        made.speaker.fails = RuntimeError("gone")
        answer = made.chat()
        assert (answer.status, "RuntimeError('gone')" in answer.message) == (500, True)


def test_a_submit_that_fails_hangs_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(request: Any) -> int:
        raise RuntimeError("no room")

    with serving(speaking.loaded(folder)) as made:
        monkeypatch.setattr(made.speaker, "submit", submit)
        assert made.chat().status == 500


def test_the_end_lets_what_runs_finish(folder: Path) -> None:
    with serving(speaking.loaded(folder), grace_s=20) as made, httpx2.Client(timeout=30) as client:
        client.base_url = httpx2.URL(made.url)
        said(made, "all of it")
        made.speaker.after = 1
        stream = begin(client, "a")
        made.wait_until(lambda: not made.speaker.go.is_set())
        made.running.stop()
        made.wait_until(lambda: refuses(made))
        made.speaker.after = 10**9
        made.speaker.go.set()
        assert b"".join(stream.iter_raw()).endswith(b"data: [DONE]\n\n")
        made.thread.join(20)
        assert not made.thread.is_alive()
        assert made.is_free


def refuses(server: Served) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_end_cancels_what_takes_too_long(folder: Path) -> None:
    with serving(speaking.loaded(folder), grace_s=0) as made, httpx2.Client(timeout=30) as client:
        client.base_url = httpx2.URL(made.url)
        made.speaker.after = 1
        stream = begin(client, "a")
        made.wait_until(lambda: not made.speaker.go.is_set())
        made.running.stop()
        last = b"".join(stream.iter_raw()).decode().strip().split("\n\n")[-1]
        assert "shutting down" in json.loads(last.removeprefix("data: "))["error"]["message"]
        made.speaker.after = 10**9
        made.speaker.go.set()
        made.thread.join(20)
        assert made.is_free
        assert made.speaker.cancelled == [0]


SERVE = """
import sys, pathlib
from star_jax.sampler import loading
from star_jax.sampler.__main__ import main
from tests import speaking
loading.load = lambda folder, **options: speaking.loaded(pathlib.Path(folder))
sys.exit(main(["serve", sys.argv[1], "--port", "0", "--grace", "5"]))
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_process_with_0(folder: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "http://127.0.0.1:" in line
    url = line.split("http://")[1].split()[0]
    answer = httpx2.post(f"http://{url}/v1/completions", json={"prompt": "a"}, timeout=30)
    assert answer.status_code == 200
    process.send_signal(number)
    rest = process.communicate(timeout=30)[1]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


@pytest.mark.slow
def test_memory_stays_flat(server: Served) -> None:
    """Two thousand requests of every kind leave nothing behind."""

    def some(count: int) -> None:
        with httpx2.Client(base_url=server.url, timeout=30) as client:
            for number in range(count):
                match number % 4:
                    case 0:
                        client.post("completions", json={"prompt": "a", "logprobs": 2})
                    case 1:
                        begin(client, "abc").close()  # leaves at once
                    case 2:
                        ask = {"messages": USER, "stream": True, "max_tokens": 30, "n": 2}
                        assert client.post("chat/completions", json=ask).status_code == 200
                    case _:
                        assert client.post("completions", json={"x": 1}).status_code == 400
                server.speaker.requests.clear()
                server.speaker.cancelled.clear()

    some(200)
    server.wait_until(lambda: server.is_free)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    some(2000)
    server.wait_until(lambda: server.is_free)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 300_000, f"{grown} bytes"  # a request that stays is a kilobyte at least
