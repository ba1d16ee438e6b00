"""The routes, and what one request goes through."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from star_jax.sampler.loading import Loaded
from star_jax.sampler.reading import Part
from star_jax.sampler.server import answer, asking, body
from star_jax.sampler.server.body import Limits
from star_jax.sampler.server.metrics import Metrics
from star_jax.sampler.server.refusal import Refusal, dump
from star_jax.sampler.server.worker import Open, Worker

logger = logging.getLogger(__name__)
LEFT = 499  # the status of a client that has left, as nginx counts it
STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


@dataclass
class Service:
    """What the requests of a server share."""

    loaded: Loaded
    worker: Worker
    limits: Limits
    api_key: str | None = None
    metrics: Metrics = field(default_factory=Metrics)
    started: int = field(default_factory=lambda: int(time.time()))

    def admit(self, request: HttpRequest) -> None:
        if self.api_key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self.api_key.encode()):
            message = "the API key is missing or wrong: send Authorization: Bearer KEY"
            raise Refusal(401, message, code="invalid_api_key")


def build(service: Service) -> ASGIApp:
    chat = Completions(service, asking.for_chat, answer.Chat)
    text = Completions(service, asking.for_text, answer.Text)
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", text, methods=["POST"]),
            Route("/v1/models", Models(service), methods=["GET"]),
            Route("/v1/models/{name:path}", Models(service), methods=["GET"]),
            Route("/health", Health(service), methods=["GET"]),
            Route("/metrics", Exposition(service), methods=["GET"]),
        ],
        exception_handlers={Refusal: _refused, HTTPException: _unknown, Exception: _fault},
    )
    paths = {route.path for route in app.routes if isinstance(route, Route)}
    return Counted(app, service, paths)


def _json(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(dump(value), status, headers or {"content-type": "application/json"})


async def _refused(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _json(error.status, error.body, error.headers)


async def _unknown(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    message = f"{method} {path} is nothing that is served: see the list of paths in the docs"
    if error.status_code == 405:
        message = f"{path} takes no {method}: use {(error.headers or {}).get('Allow', 'another')}"
    refusal = Refusal(error.status_code, message)
    return _json(refusal.status, refusal.body, {**refusal.headers, **(error.headers or {})})


async def _fault(request: HttpRequest, error: Exception) -> Response:
    refusal = Refusal(500, f"the server has a fault, see its log: {type(error).__name__}")
    return _json(500, refusal.body, refusal.headers)


class Counted:
    """Counts every request by path and status, and its seconds."""

    def __init__(self, app: ASGIApp, service: Service, paths: set[str]) -> None:
        self._app, self._metrics, self._paths = app, service.metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status = LEFT
        begin = time.monotonic()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope["left"] = False  # a stream whose client leaves has sent its status long ago
        try:
            await self._app(scope, receive, watch)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests[path, LEFT if scope["left"] else status] += 1
            self._metrics.seconds[path] += time.monotonic() - begin


class Models:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope)
        self._service.admit(request)
        loaded = self._service.loaded
        model = {
            "id": loaded.name,
            "object": "model",
            "created": self._service.started,
            "owned_by": "star_jax",
            "max_model_len": loaded.max_prompt + loaded.max_new,
        }
        name = request.path_params.get("name")
        if name not in (None, loaded.name):
            message = f"model {name!r} is not served here: use {loaded.name!r}"
            raise Refusal(404, message, "model", "model_not_found")
        made = model if name else {"object": "list", "data": [model]}
        await _json(200, made)(scope, receive, send)


class Health:
    def __init__(self, service: Service) -> None:
        self._worker = service.worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._worker.failure is not None:
            made = _json(503, {"status": "failed", "message": self._worker.failure})
        elif self._worker.is_draining:
            made = _json(503, {"status": "shutting down"})
        else:
            made = _json(200, {"status": "ok"})
        await made(scope, receive, send)


class Exposition:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker = self._service.worker
        text = self._service.metrics.text(
            running=worker.running, waiting=worker.waiting, is_healthy=worker.failure is None
        )
        made = PlainTextResponse(text, media_type="text/plain; version=0.0.4")
        await made(scope, receive, send)


class Completions:
    """POST a body, be answered as one object or as a stream."""

    def __init__(
        self, service: Service, ask: asking.Ask, teller: type[answer.Chat | answer.Text]
    ) -> None:
        self._service, self._ask, self._teller = service, ask, teller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        request = HttpRequest(scope, receive)
        service.admit(request)
        data = await body.read(request, service.limits)
        # A long text takes its time to be read, and others want to be served.
        asked = await asyncio.to_thread(self._read, data)
        del data
        opened = service.worker.submit(asked.requests)
        service.metrics.prompt_tokens += sum(len(one.prompt) for one in asked.requests)
        try:
            work = self._write(asked, opened, scope, send)
            scope["left"] = not await _unless_gone(receive, work)
        finally:
            service.metrics.cancelled += bool(opened.left)
            service.worker.release(opened)

    def _read(self, data: bytes) -> asking.Asked:
        return self._ask(body.decode(data), self._service.loaded, self._service.limits)

    async def _write(self, asked: asking.Asked, opened: Open, scope: Scope, send: Send) -> None:
        telling = Telling(self._service, self._teller, asked, opened)
        await opened.accepted()
        if not asked.is_stream:
            async for _ in telling.heard():
                pass
            await _json(200, telling.whole())(scope, _never, send)
            return
        headers = [(name.encode(), value.encode()) for name, value in STREAM.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for chunk in telling.chunks():
                await _event(send, dump(chunk))
        except Refusal as refusal:  # it is too late for a status
            await _event(send, dump(refusal.body))
        else:
            if asked.wants_usage:
                await _event(send, dump(telling.last()))
            await _event(send, b"[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Telling:
    """The voices of one request, and how they are told."""

    def __init__(
        self,
        service: Service,
        teller: type[answer.Chat | answer.Text],
        asked: asking.Asked,
        opened: Open,
    ) -> None:
        self._opened, self._metrics = opened, service.metrics
        self._n, self._has_heard = asked.n, False
        self._teller = teller(asked, service.loaded.name)
        decode = service.loaded.tokenizer.decode
        count = len(asked.requests) * asked.n
        self._voices = [answer.Voice(asked, at // asked.n, decode) for at in range(count)]
        self._prompt_tokens = sum(len(one.prompt) for one in asked.requests)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        for index in range(len(self._voices)):
            for chunk in self._teller.opening(index):
                yield chunk
        async for index, voice, parts in self.heard():
            for chunk in self._teller.chunks(index, voice, parts):
                yield chunk

    async def heard(self) -> AsyncIterator[tuple[int, answer.Voice, list[Part]]]:
        """What is final, as the pieces come in, until every voice has finished."""
        begin = time.monotonic()
        silent = len(self._voices)
        while silent:
            prompt, piece = await self._opened.piece()
            if not self._has_heard:
                self._has_heard = True
                self._metrics.heard_first(time.monotonic() - begin)
            index = prompt * self._n + piece.sample
            voice = self._voices[index]
            if voice.finish is not None:
                continue
            parts = voice.hear(piece)
            self._metrics.new_tokens += len(piece.tokens)
            yield index, voice, parts
            await asyncio.sleep(0)  # the others, and the news that the client has left
            silent -= voice.finish is not None

    def whole(self) -> dict[str, Any]:
        return self._teller.whole(self._voices, self._usage())

    def last(self) -> dict[str, Any]:
        return self._teller.last(self._usage())

    def _usage(self) -> dict[str, int]:
        new = sum(voice.tokens for voice in self._voices)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": new,
            "total_tokens": self._prompt_tokens + new,
        }


async def _never() -> Message:
    raise AssertionError("an answer reads nothing")


async def _event(send: Send, data: bytes) -> None:
    await send(
        {"type": "http.response.body", "body": b"data: " + data + b"\n\n", "more_body": True}
    )


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work, and stop where the client leaves meanwhile: whether it was done."""
    doing = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            await doing
            return True
        return False
    finally:
        await _end(doing)
        await _end(leaving)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # whoever awaited it has it; nobody else is to be told


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
