"""A real server on loopback in a thread of its own, and raw HTTP to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from star_jax.sampler.loading import Loaded
from star_jax.sampler.server import run
from tests.speaking import Speaker

WAIT_S = 20  # nothing here takes long; a test that hangs is to fail


@dataclass
class Served:
    running: run.Running
    speaker: Speaker
    host: str
    port: int
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Texts and bytes go as they are, anything else as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=WAIT_S)
        try:
            raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            given = {"Content-Type": "application/json"} | {
                name.replace("_", "-"): value for name, value in headers.items()
            }
            connection.request(method, path, raw, given)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.request("POST", path, body, **headers)

    def chat(self, content: str = "Hi", **fields: Any) -> Answer:
        messages = [{"role": "user", "content": content}]
        return self.post("/v1/chat/completions", {"messages": messages, **fields})

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=WAIT_S)

    def gauge(self, name: str) -> float:
        text = self.request("GET", "/metrics").data.decode()
        found = [line.split()[-1] for line in text.splitlines() if line.startswith(name)]
        return sum(float(value) for value in found)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = threading.Event()
        for _ in range(WAIT_S * 100):
            if is_so():
                return
            deadline.wait(0.01)
        raise AssertionError("it never came to be")

    @property
    def is_free(self) -> bool:
        """No slot and no place in the queue is taken, nobody is remembered."""
        worker = self.running.service.worker
        left = worker._opens or worker._tickets or worker._by_ticket
        return not left and self.speaker.held == 0 and not self.speaker._by_ticket


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def message(self) -> str:
        assert set(self.json) == {"error"}, self.data
        assert set(self.json["error"]) == {"message", "type", "param", "code"}
        return self.json["error"]["message"]

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.data.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        *events, last = [line.removeprefix("data: ") for line in lines]
        assert last == "[DONE]"
        return [json.loads(event) for event in events]


@contextmanager
def serving(loaded: Loaded, **options: Any) -> Generator[Served]:
    made = run.Options(port=0, grace_s=options.pop("grace_s", 1), **options)
    listener = run.bind(made)
    host, port = listener.getsockname()[:2]
    running = run.Running(loaded, made, listener)
    ready = threading.Event()
    thread = threading.Thread(target=running.run, args=(ready.set,))
    thread.start()
    assert ready.wait(WAIT_S)
    speaker = loaded.scheduler
    assert isinstance(speaker, Speaker)
    try:
        yield Served(running, speaker, host, port, thread)
    finally:
        speaker.go.set()
        if thread.is_alive():
            running.stop()
        thread.join(WAIT_S)
        assert not thread.is_alive()
