"""A server of OpenAI's API asked for answers: patience with it, and an end to patience."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from star_jax.evals.running import benchmark, bfcl
from star_jax.evals.running.asking import Answer, Question
from star_jax.evals.running.endpoint import Endpoint, Server
from star_jax.evals.running.prompting import Prompting
from tests import served, speaking

Say = Callable[["Heard"], tuple[int, Any]]


@dataclass(frozen=True)
class Heard:
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    number: int  # of requests before it


@dataclass
class Stub:
    say: Say
    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0


@contextmanager
def stub(say: Say) -> Generator[Stub]:
    found, lock = Stub(say), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {"data": [{"id": "listed"}, {"id": "other"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                heard = Heard(self.path, body, dict(self.headers), len(found.heard))
                found.heard.append(heard)
                found.at_once += 1
                found.most_at_once = max(found.most_at_once, found.at_once)
            status, value = found.say(heard)
            with lock:
                found.at_once -= 1
            self._answer(status, value)

        def _answer(self, status: int, value: Any) -> None:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *words: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def text(said: str) -> tuple[int, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 7}
    return 200, {"choices": [{"text": said, "finish_reason": "stop"}], "usage": usage}


def error(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message}}


def endpoint(url: str, think: bool | None = None, **options: Any) -> Endpoint:
    given = {"at_once": 4, "tries": 3, "pause_s": 0.001, "timeout_s": 10.0, **options}
    server = Server(url=url, **given)
    return Endpoint(server, max_new_tokens=100, temperature=0.5, seed=3, think=think)


def ask(asker: Endpoint, *questions: Question) -> list[Answer]:
    """The answers in the order of the questions."""
    try:
        tickets = [asker.ask(question) for question in questions]
        found: dict[int, Answer] = {}
        while len(found) < len(tickets):
            found.update(asker.step())
        return [found[ticket] for ticket in tickets]
    finally:
        asker.close()


def test_a_text_is_gone_on_with() -> None:
    with stub(lambda heard: text(f"said {heard.body['prompt']}<|im_end|>")) as found:
        questions = [Question(bytes([i] * 8), f"p{i}") for i in range(20)]
        answers = ask(endpoint(found.url, key="secret"), *questions)
    assert [answer.text for answer in answers] == [f"said p{i}" for i in range(20)]
    assert answers[0] == Answer("said p0", 5, 7, "stop")
    assert {heard.path for heard in found.heard} == {"/v1/completions"}
    assert {heard.headers["Authorization"] for heard in found.heard} == {"Bearer secret"}
    body = found.heard[0].body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("listed", 100, 0.5)
    assert len({heard.body["seed"] for heard in found.heard}) == 20, "one for every question"
    assert 1 <= found.most_at_once <= 4


def test_messages_go_to_the_chat_and_calls_come_back_as_text() -> None:
    message = {
        "content": "Well.",
        "reasoning_content": "Hm.",
        "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}],
    }
    choice = {"message": message, "finish_reason": "tool_calls"}
    with stub(lambda heard: (200, {"choices": [choice]})) as found:
        question = Question(b"x" * 8, None, ({"role": "user", "content": "Hi"},), ({"a": 1},))
        (answer,) = ask(endpoint(f"{found.url}/v1/", think=False, model="mine"), question)
    assert answer.text == (
        '<think>\nHm.\n</think>\n\nWell.\n<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n'
        "</tool_call>"
    )
    (heard,) = found.heard
    assert (heard.path, heard.body["model"]) == ("/v1/chat/completions", "mine")
    assert heard.body["messages"] == [{"role": "user", "content": "Hi"}]
    assert heard.body["chat_template_kwargs"] == {"enable_thinking": False}
    assert "Authorization" not in heard.headers


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_is_busy_is_asked_again(status: int) -> None:
    def say(heard: Heard) -> tuple[int, Any]:
        return error(status, "busy") if heard.number < 2 else text("at last")

    with stub(say) as found:
        (answer,) = ask(endpoint(found.url), Question(b"x" * 8, "p"))
    assert (answer.text, len(found.heard)) == ("at last", 3)


def test_too_long_a_prompt_is_lost_after_fewer_and_fewer_tokens() -> None:
    def say(heard: Heard) -> tuple[int, Any]:
        if heard.body["prompt"] == "short" and heard.body["max_tokens"] <= 25:
            return text("fits")
        return error(400, "the maximum context length is 40 tokens")

    with stub(say) as found:
        questions = [Question(b"x" * 8, "short"), Question(b"y" * 8, "long")]
        short, long = ask(endpoint(found.url, at_once=1), *questions)
    assert (short.text, short.lost) == ("fits", "")
    assert long.lost == "the server says: the maximum context length is 40 tokens"
    assert [heard.body["max_tokens"] for heard in found.heard] == [100, 50, 25, 100, 50, 25]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (error(404, "no such model"), "says 404 to /v1/completions: no such model"),
        (error(400, "temperature is odd"), "says 400 to /v1/completions: temperature is odd"),
        (error(401, "context"), "says 401 to /v1/completions: context"),
        (error(503, "busy"), "says 503: busy (tried 3 times): see that the server runs"),
        ((200, b"<html>"), "answers /v1/completions with no JSON object"),
        ((200, {"choices": []}), "its answer holds no choice"),
        ((200, {"choices": [{}]}), "its answer holds no text"),
        ((500, b"x" * 999), "says 500: " + "x" * 200 + "… (tried"),
    ],
)
def test_what_no_other_try_mends_ends_the_run(said: tuple[int, Any], words: str) -> None:
    match = re.escape(words)
    with stub(lambda heard: said) as found, pytest.raises(ValueError, match=match) as raised:
        ask(endpoint(found.url), Question(b"x" * 8, "p"))
    assert str(raised.value).startswith(found.url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("message", [{"content": [1]}, {"tool_calls": [3]}, {"tool_calls": 3}])
def test_a_message_of_another_form(message: Any) -> None:
    question = Question(b"x" * 8, None, ({"role": "user", "content": "Hi"},))
    said = (200, {"choices": [{"message": message}]})
    with stub(lambda heard: said) as found, pytest.raises(ValueError, match="another form than"):
        ask(endpoint(found.url), question)


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ValueError, match=r"can't be asked .*\(tried 3 times\)"):
        endpoint(url)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", ""])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="give it like http"):
        Server(url=url)


def test_a_benchmark_over_a_server_goes_on_where_it_failed(tmp_path: Path) -> None:
    fails = [True]

    def say(heard: Heard) -> tuple[int, Any]:
        if fails[0] and heard.number == 5:
            return error(404, "gone")
        return text(f"{len(heard.body['prompt'])}")

    with stub(say) as found:

        def run(output: str) -> None:
            exam = bfcl.open(None, None, "simple,multi_turn_base", None)
            asker = endpoint(found.url, at_once=1)
            try:
                benchmark.run(exam, asker, Prompting("official"), tmp_path / output, name="m")
            finally:
                asker.close()
                exam.close()

        with pytest.raises(ValueError, match="gone"):
            run("part")
        before = (tmp_path / "part" / "answers.jsonl").read_bytes()
        fails[0] = False
        run("part")
        run("whole")
    whole = (tmp_path / "whole" / "answers.jsonl").read_bytes()
    assert (tmp_path / "part" / "answers.jsonl").read_bytes() == whole
    assert whole.startswith(before)
    assert before


@pytest.mark.parametrize("mode", ["official", "template"])
def test_our_own_server_is_one(tmp_path: Path, mode: Any) -> None:
    loaded = speaking.loaded(tmp_path / "model", max_prompt=20_000)
    speaker: Any = loaded.scheduler
    speaker.max_prompt = 20_000
    said = '<think>\nHm.\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    speaker.script = speaking.says(loaded.tokenizer, said)
    exam = bfcl.open(None, None, "simple,irrelevance", 2)
    with served.serving(loaded) as server:
        asker = endpoint(server.url)
        scores = benchmark.run(exam, asker, Prompting(mode), tmp_path / "out", name="m")
        asker.close()
    assert scores is not None
    assert scores["settings"]["model"] == "tiny"
    assert scores["error_types"] == {
        "irrelevance_error:decoder_success": 2,
        "simple_function_checker:wrong_func_name": 2,
    }
    (first, *_) = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert json.loads(first)["turns"] == [[said]]
