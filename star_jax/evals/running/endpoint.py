"""A server of OpenAI's API as an asker: /v1/completions for a text, /v1/chat/completions otherwise.

Requests go out side by side, each in a thread. What a busy or failing server refuses (429, 5xx, a
broken connection) is tried again, a few times and later each time; anything else ends the run with
one sentence, as a wrong address would make every answer wrong. A prompt that leaves too little room
is asked for with fewer and fewer new tokens, and then given up: that entry alone is lost.
"""

from __future__ import annotations

import http.client
import json
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from star_jax.evals.running.asking import Answer, Question, lost

LEAST_TOKENS = 16  # fewer new ones are not worth asking for
LONGEST_WAIT_S = 60.0
WAIT_S = 0.1  # for an answer, in one step
LENGTH_WORDS = ("context", "maximum", "too long", "room", "max_tokens", "tokens")


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where to ask, and how patiently."""

    url: str
    model: str | None = None  # what it calls the model; None: the first that it lists
    key: str | None = None
    at_once: int = 32
    tries: int = 6
    pause_s: float = 1.0  # before the second try; doubled before each later one
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--endpoint is {self.url!r}: give it like http://127.0.0.1:8000")

    def path(self, name: str) -> str:
        base = urlsplit(self.url).path.rstrip("/")
        return f"{base if base.endswith('/v1') else base + '/v1'}/{name}"


Reader = Callable[[Server, Mapping[str, Any]], Answer]


class Refused(ValueError):
    """The server's answer with a status that another try does not mend."""

    def __init__(self, status: int, said: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.said = status, said


class _Again(Exception):
    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def request(
    server: Server, name: str, body: Mapping[str, Any] | None, over: threading.Event
) -> dict[str, Any]:
    """GET (no body) or POST, with tries → the JSON that comes back; ValueError says what failed."""
    for number in range(server.tries):
        try:
            return _once(server, name, body)
        except _Again as again:
            pause = min(server.pause_s * 2**number, LONGEST_WAIT_S)
            if number + 1 == server.tries:
                raise ValueError(
                    f"{server.url}: {again} (tried {server.tries} times): see that the server "
                    "runs, and run the same command to go on"
                ) from again
            if over.wait(min(again.wait_s or pause, LONGEST_WAIT_S)):
                break
    raise ValueError(f"{server.url}: the run is over")


def _once(server: Server, name: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    parts = urlsplit(server.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=server.timeout_s)
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {server.key}"} if server.key else {}
    try:
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, server.path(name), data, headers)
        response = connection.getresponse()
        raw = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _Again(f"can't be asked ({error or type(error).__name__})") from error
    finally:
        connection.close()
    return _read(server, name, response, raw)


def _read(
    server: Server, name: str, response: http.client.HTTPResponse, raw: bytes
) -> dict[str, Any]:
    status, text = response.status, raw.decode(errors="replace")
    if status == 429 or status >= 500:
        wait = response.getheader("Retry-After", "")
        raise _Again(f"says {status}: {_said(text)}", float(wait) if wait.isdecimal() else None)
    if status != 200:
        said = _said(text)
        sentence = f"{server.url}: says {status} to {server.path(name)}: {said}"
        raise Refused(status, said, sentence)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{server.url}: answers {server.path(name)} with no JSON object")
    return value


def _said(text: str) -> str:
    """The message in an error's body, or the start of the body."""
    try:
        value = json.loads(text)
        inner = value.get("error", value)
        text = inner.get("message", text) if isinstance(inner, dict) else str(inner)
    except (ValueError, AttributeError):
        pass
    text = " ".join(str(text).split())
    return text if len(text) <= 200 else text[:200] + "…"


class Endpoint:
    """Asks a server. `max_new_tokens`, `temperature` and `seed` go along with every question."""

    def __init__(
        self, server: Server, *, max_new_tokens: int, temperature: float, seed: int, think: Any
    ) -> None:
        self._server, self._think = server, think
        self._max_new, self._temperature, self._seed = max_new_tokens, temperature, seed
        self._over = threading.Event()
        self.model = server.model or _first_model(server, self._over)
        self._asked: queue.Queue[tuple[int, Question] | None] = queue.Queue()
        self._ended: queue.Queue[tuple[int, Answer | Exception]] = queue.Queue()
        self._tickets = self._tokens = 0
        for _ in range(server.at_once):  # daemons: who stops does not wait for a slow server
            threading.Thread(target=self._work, daemon=True).start()

    @property
    def ahead(self) -> int:
        return 4 * self._server.at_once

    @property
    def about(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "endpoint": self._server.url,
            "max_new_tokens": self._max_new,
            "temperature": self._temperature,
            "seed": self._seed,
        }

    def ask(self, question: Question) -> int:
        ticket = self._tickets
        self._tickets += 1
        self._asked.put((ticket, question))
        return ticket

    def _work(self) -> None:
        while (asked := self._asked.get()) is not None:
            ticket, question = asked
            if self._over.is_set():
                continue
            try:
                self._ended.put((ticket, self._answer(question)))
            except Exception as error:  # told in `step`, where somebody listens
                self._ended.put((ticket, error))

    def _answer(self, question: Question) -> Answer:
        tokens, why = self._max_new, ""
        while tokens >= min(LEAST_TOKENS, self._max_new):
            try:
                return self._try(question, tokens)
            except Refused as refused:
                if not _is_length(refused):
                    raise
                tokens, why = tokens // 2, refused.said
        return lost(f"the server says: {why}")

    def _try(self, question: Question, tokens: int) -> Answer:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": tokens,
            "temperature": self._temperature,
            # Its own for every question, as samples are drawn by identity here.
            "seed": (int.from_bytes(question.name[:4], "little") ^ self._seed) & 0x7FFFFFFF,
        }
        if question.text is not None:
            body["prompt"] = question.text
            return self._heard("completions", body, _completion)
        body["messages"] = list(question.messages)
        if question.tools:
            body["tools"] = list(question.tools)
        if self._think is not None:
            body["chat_template_kwargs"] = {"enable_thinking": self._think}
        return self._heard("chat/completions", body, _chat)

    def _heard(self, name: str, body: Mapping[str, Any], read: Reader) -> Answer:
        found = request(self._server, name, body, self._over)
        try:
            return read(self._server, found)
        except (AttributeError, TypeError, LookupError) as error:
            raise ValueError(
                f"{self._server.url}: its answer has another form than OpenAI's ({error})"
            ) from error

    def step(self) -> list[tuple[int, Answer]]:
        try:
            ticket, found = self._ended.get(timeout=WAIT_S)
        except queue.Empty:
            return []
        if isinstance(found, Exception):
            raise found
        self._tokens += found.tokens
        return [(ticket, found)]

    def take_tokens(self) -> int:
        made, self._tokens = self._tokens, 0
        return made

    def close(self) -> None:
        self._over.set()
        for _ in range(self._server.at_once):
            self._asked.put(None)


def _is_length(refused: Refused) -> bool:
    """A prompt that is too long, and no other mistake."""
    said = refused.said.lower()
    return refused.status in (400, 413, 422) and any(word in said for word in LENGTH_WORDS)


def _first_model(server: Server, over: threading.Event) -> str:
    found = request(server, "models", None, over).get("data")
    if not isinstance(found, list) or not found or not isinstance(found[0].get("id"), str):
        raise ValueError(f"{server.url}: lists no model: name one with --served NAME")
    return found[0]["id"]


def _choice(server: Server, found: Mapping[str, Any]) -> tuple[Mapping[str, Any], int, int, str]:
    choices = found.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError(f"{server.url}: its answer holds no choice: is it an OpenAI-like server?")
    usage = found.get("usage") or {}
    counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    return choices[0], *counts, str(choices[0].get("finish_reason") or "stop")


def _completion(server: Server, found: Mapping[str, Any]) -> Answer:
    choice, prompt_tokens, tokens, end = _choice(server, found)
    text = choice.get("text")
    if not isinstance(text, str):
        raise ValueError(f"{server.url}: its answer holds no text: is it an OpenAI-like server?")
    return Answer(text.removesuffix("<|im_end|>"), prompt_tokens, tokens, end)


def _chat(server: Server, found: Mapping[str, Any]) -> Answer:
    """A message back to the text that a Qwen3 model writes for it."""
    choice, prompt_tokens, tokens, end = _choice(server, found)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError(f"{server.url}: its answer holds no message: is it an OpenAI-like server?")
    thought = (message.get("reasoning_content") or message.get("reasoning") or "").strip("\n")
    opening = f"<think>\n{thought}\n</think>\n\n" if thought else ""
    parts = [message["content"].strip("\n")] if message.get("content") else []
    for call in message.get("tool_calls") or []:
        function = call.get("function", {})
        given = function.get("arguments")
        written = given if isinstance(given, str) else json.dumps(given)
        name = json.dumps(function.get("name"))
        body = f'{{"name": {name}, "arguments": {written or "{}"}}}'
        parts.append(f"<tool_call>\n{body}\n</tool_call>")
    return Answer(opening + "\n".join(parts), prompt_tokens, tokens, end)
