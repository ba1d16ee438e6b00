"""JetStream's Driver as a scheduler: `serve --driver jetstream`.

It knows one way of drawing for all requests and returns tokens alone, so a request that asks for
anything else is refused: other settings than the engine's, several samples, log-probs, a grammar.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import queue
import threading

import numpy as np

from star_jax.sampler import jetstream
from star_jax.sampler.jetstream.qwen3 import Qwen3Engine
from star_jax.sampler.request import End, Piece, Request

WAIT_S = 0.05  # for something to come, in one step


class Driven:
    def __init__(self, engine: Qwen3Engine) -> None:
        self.engine = engine
        params = engine.load_params()
        self.driver = jetstream.SafeDriver(
            [engine], [engine], [params], [params], interleaved_mode=True
        )
        self._pieces: queue.Queue[Piece | BaseException] = queue.Queue()
        self._open: dict[int, concurrent.futures.Future[None]] = {}
        self._tickets = 0
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that ends does not wait for it.
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        return bool(self._open) or not self._pieces.empty()

    def submit(self, request: Request) -> int:
        self._check(request)
        ticket = self._tickets
        self._tickets += 1
        self._open[ticket] = asyncio.run_coroutine_threadsafe(
            self._serve(ticket, request), self._loop
        )
        return ticket

    def _check(self, request: Request) -> None:
        own = self.engine.settings
        plain = dataclasses.replace(own, max_new_tokens=request.settings.max_new_tokens)
        asked = dataclasses.replace(
            request.settings, seed=own.seed, step=own.step, stop_ids=own.stop_ids
        )
        for field in dataclasses.fields(asked):
            here, there = getattr(plain, field.name), getattr(asked, field.name)
            if here != there:
                raise ValueError(
                    f"JetStream's driver decodes with {field.name} {here!r} alone, got {there!r}; "
                    "serve without --driver jetstream"
                )
        if request.n > 1 or request.grammar is not None:
            what = "a grammar" if request.n == 1 else f"{request.n} samples"
            raise ValueError(f"JetStream's driver makes one free sample, not {what}")
        if len(request.prompt) > self.engine.max_prompt:
            raise ValueError(
                f"{len(request.prompt)} prompt tokens are more than the {self.engine.max_prompt} "
                "that there is room for; shorten the prompt"
            )

    async def _serve(self, ticket: int, request: Request) -> None:
        count, most = 0, request.settings.max_new_tokens
        try:
            stream = jetstream.decode(self.driver, request.prompt.tolist(), most)
            async for ids in stream:
                count += len(ids)
                self._pieces.put(_piece(ticket, ids, None))
            self._pieces.put(_piece(ticket, [], "length" if count >= most else "stop"))
        except asyncio.CancelledError:
            self._pieces.put(_piece(ticket, [], "cancelled"))
            raise
        except Exception as error:  # a driver that failed: `step` raises it where it can be told
            self._pieces.put(error)

    def cancel(self, ticket: int) -> None:
        if (future := self._open.get(ticket)) is not None:
            self._loop.call_soon_threadsafe(future.cancel)

    def step(self) -> list[Piece]:
        pieces: list[Piece] = []
        try:
            found = self._pieces.get(timeout=WAIT_S)
            while True:
                if isinstance(found, BaseException):
                    raise found
                if found.end is not None:
                    self._open.pop(found.ticket, None)
                pieces.append(found)
                found = self._pieces.get_nowait()
        except queue.Empty:
            return pieces

    def close(self) -> None:
        self.driver.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _piece(ticket: int, ids: list[int], end: End | None) -> Piece:
    unknown = np.full(len(ids), np.nan, np.float32)
    none = np.zeros((len(ids), 0))
    return Piece(
        ticket,
        0,
        np.array(ids, np.int32),
        unknown,
        unknown,
        none.astype(np.int32),
        none.astype(np.float32),
        end,
    )
