"""A server as a process: its socket, its signals, how it begins and how it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import signal
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from star_jax.sampler.loading import Loaded
from star_jax.sampler.server.app import Service, build
from star_jax.sampler.server.body import Limits
from star_jax.sampler.server.refusal import Refusal, dump
from star_jax.sampler.server.worker import Worker

KEEP_ALIVE_S = 65  # clients keep a connection for a minute
LEAVE_S = 5  # after the grace: for those who are told that there is no more time


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where to listen, and how to end."""

    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    grace_s: float = 30  # after a signal, for what runs
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"--port must be 0 to 65535, got {self.port}")
        if not self.grace_s >= 0:
            raise ValueError(f"--grace must be at least 0 seconds, got {self.grace_s:g}")
        if self.api_key is not None and not (self.api_key and self.api_key.isascii()):
            raise ValueError("--api-key must be some ASCII characters")

    @property
    def warning(self) -> str | None:
        """What whoever starts it should know."""
        if self.api_key is not None or is_loopback(self.host):
            return None
        return (
            f"{self.host} can be reached from other machines and nobody has to say who they are: "
            "pass --api-key, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(options: Options) -> socket.socket:
    """A socket that is ours and does not listen yet: until the server runs, nobody waits for it."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio sets this only on sockets that were made with their protocol's number. Without it
        # an answer on a kept connection waits 40 ms for an acknowledgement that clients hold back.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.bind((options.host, options.port))
    except OSError as error:
        bound.close()
        where = f"{options.host}:{options.port}"
        raise ValueError(f"can't listen on {where} ({error}): choose another --port") from error
    return bound


def url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Protocol(H11Protocol):
    """uvicorn's, with a limit on the time that headers take, and JSON where they make no sense."""

    headers_s: float = 30
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(self.headers_s, self._give_up)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:  # the headers are whole
            self._cancel()
        elif self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(self.headers_s, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def _cancel(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        self._refuse(408, f"no request arrived within {self.headers_s:g} seconds")

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP request that can be read")

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        refusal = Refusal(status, message)
        refusal.is_last = True
        headers = [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=dump(refusal.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """Its signals are handled by `Running`, which ends with 0 where uvicorn raises them again."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.on_ready: Callable[[], None] = lambda: None

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()


class Running:
    """A server from its first to its last moment. `stop` may be called from any thread."""

    def __init__(self, loaded: Loaded, options: Options, bound: socket.socket) -> None:
        self._options, self._bound = options, bound
        self._worker = Worker(loaded.scheduler, max_waiting=options.limits.waiting)
        self.service = Service(loaded, self._worker, options.limits, options.api_key)
        protocol = type("Limited", (Protocol,), {"headers_s": options.limits.body_s})
        self._server = _Server(
            uvicorn.Config(
                build(self.service),
                loop="asyncio",
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=math.ceil(options.grace_s) + LEAVE_S,
            )
        )
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Until `stop`, or until SIGTERM or SIGINT where this is the main thread."""
        asyncio.run(self._run(on_ready))

    async def _run(self, on_ready: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop)
        self._worker.start()
        self._server.on_ready = on_ready
        try:
            await self._server.serve(sockets=[self._bound])
        finally:
            self._worker.close()

    def stop(self) -> None:
        """Accept nothing more, let what runs end within the grace."""
        assert self._loop is not None, "it runs"
        self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        assert self._loop is not None
        if self._server.should_exit:  # told twice: at once
            self._worker.abort()
            return
        self._server.should_exit = True
        self._worker.is_draining = True
        self._loop.call_later(self._options.grace_s, self._worker.abort)
