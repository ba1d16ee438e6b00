"""JetStream's Driver, made safe, and its orchestrator, called in process.

    prompts → DecodeRequest → LLMOrchestrator.Decode → SafeDriver's threads → Engine → tokens

What JetStream leaves out stays out: its answers carry neither log-probs nor the token that ended a
sample, and its requests neither temperature nor seed. Our own scheduler over the engine has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any, NoReturn, Self

import jax.numpy as jnp
import numpy as np

from star_jax.sampler.jetstream import upstream

_log = logging.getLogger(__name__)
_upstream: Any = upstream.orchestrator()
_BUCKETS = tuple(2**power for power in range(4, 16))  # lengths that prompts are padded to
_PAUSE = 0.02  # s, between two attempts to wake the threads that have to end
# The Driver looks for a free slot and then asserts that one is taken. Where the last request ends
# in between, nothing is wrong: there is nothing to decode.
_IDLE = "At this point we must have some requests"


class Tokenizer(_upstream.tokenizer_api.Tokenizer):
    """What the Driver has to know of a tokenizer: the ids that end a sample, and how to write text.

    A text answer is written token by token, so a character that is split over tokens comes out as
    U+FFFD: who needs the text asks with token ids, gets token ids, and decodes them together.
    """

    def __init__(
        self,
        *,
        eos_ids: Collection[int],
        pad_id: int,
        decode: Callable[[list[int]], str],
        encode: Callable[[str], Sequence[int]] | None = None,  # needed for text requests alone
    ) -> None:
        self._eos_ids, self._pad_id = frozenset(eos_ids), pad_id
        self._decode, self._encode = decode, encode
        if not self._eos_ids:
            raise ValueError("eos_ids is empty: give the ids that end a sample")

    def ids(self, text: str) -> list[int]:
        if self._encode is None:
            raise ValueError("this tokenizer only decodes: send token ids, or give it `encode`")
        return list(self._encode(text))

    def encode(self, s: str, **kwargs: Any) -> tuple[Any, int]:
        limit = kwargs.get("max_prefill_length") or _BUCKETS[-1]
        return _pad(self.ids(s), limit, self._pad_id, kwargs.get("jax_padding", True))

    def decode(self, token_ids: list[int], **_: Any) -> str:
        return self._decode(token_ids)

    @property
    def pad_id(self) -> int:
        return self._pad_id

    @property
    def eos_id(self) -> int:
        return min(self._eos_ids)

    @property
    def bos_id(self) -> NoReturn:
        # JetStream's own Driver would put it before every prompt.
        raise NotImplementedError("Qwen3 has no token that begins a text: use SafeDriver")

    @property
    def stop_tokens(self) -> set[int]:
        return set(self._eos_ids)


def _pad(ids: Sequence[int], limit: int, pad_id: int, on_device: bool) -> tuple[Any, int]:
    """A prompt, padded to the next bucket (the last one is `limit`), and its length."""
    tokens = np.asarray(ids, np.int32)
    if len(tokens) > limit:
        raise ValueError(f"the prompt has {len(tokens)} tokens, the engine takes {limit}")
    bucket = next((size for size in _BUCKETS if len(tokens) <= size <= limit), limit)
    padded = np.pad(tokens, (0, bucket - len(tokens)), constant_values=pad_id)
    return (jnp.asarray(padded) if on_device else padded), len(tokens)


class SafeDriver(_upstream.Driver):
    """A Driver whose failures reach those who wait for it.

    An engine that raises ends every open request with a RuntimeError that names the cause, and
    later requests are refused with it. `stop` always returns. Prompts are taken as they are:
    nothing is put before them, and one that is too long is refused. A request that nobody waits
    for any more gives its slot back at the next step.
    """

    def __init__(
        self,
        prefill_engines: Sequence[Any],
        generate_engines: Sequence[Any],  # the same ones, if interleaved_mode
        prefill_params: Sequence[Any],
        generate_params: Sequence[Any],
        *,
        interleaved_mode: bool = False,
        **options: Any,
    ) -> None:
        if not (prefill_engines and generate_engines):
            raise ValueError("a driver needs an engine that prefills and one that generates")
        self.failure: Exception | None = None
        self._lock = threading.RLock()
        self._open: dict[int, Any] = {}
        self._runner: asyncio.Runner | None = None
        self._running = threading.Lock()
        super().__init__(  # starts the threads
            list(prefill_engines),
            list(generate_engines),
            list(prefill_params),
            list(generate_params),
            interleaved_mode=interleaved_mode,
            **options,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Requests.

    def place_request_on_prefill_queue(self, request: Any) -> None:
        """ValueError where it can't be served, RuntimeError where nothing is any more."""
        self._check(request)
        with self._lock:
            if self.failure is not None:
                raise _told(self.failure)
            self._open[id(request)] = request
            request.return_channel.on_end = lambda cancelled: self._ended(request, cancelled)
            super().place_request_on_prefill_queue(request)

    def _check(self, request: Any) -> None:
        engine = self._prefill_engines[0]
        if isinstance(request.prefill_content, str):
            tokenizer = engine.build_tokenizer(engine.get_tokenizer())
            request.prefill_content = tokenizer.ids(request.prefill_content)
        length = len(request.prefill_content or ())
        limit = min(engine.max_prefill_length for engine in self._prefill_engines)
        if not 1 <= length <= limit:
            raise ValueError(f"the prompt has {length} tokens, this engine takes 1 to {limit}")
        if request.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {request.max_tokens}")

    def _ended(self, request: Any, cancelled: bool) -> None:
        if cancelled:
            request.max_tokens = 0  # the next step finds it longer than that
        with self._lock:
            self._open.pop(id(request), None)

    def _process_prefill_content(
        self, request: Any, tokenizer: Any, is_bos: bool, max_prefill_length: int
    ) -> tuple[Any, int]:
        """JetStream's own needs a BOS token and one of twelve `max_prefill_length`."""
        content = request.prefill_content
        return _pad(content, max_prefill_length, tokenizer.pad_id, self._jax_padding)

    # Threads.

    def _prefill_thread(self, idx: int) -> None:
        self._watch(super()._prefill_thread, idx)

    def _transfer_thread(self, idx: int) -> None:
        self._watch(super()._transfer_thread, idx)

    def _generate_thread(self, idx: int) -> None:
        self._watch(self._generate, idx)

    def _detokenize_thread(self, idx: int) -> None:
        self._watch(super()._detokenize_thread, idx)

    def _generate(self, idx: int) -> None:
        while self.live:
            try:
                return super()._generate_thread(idx)
            except AssertionError as error:
                if not str(error).startswith(_IDLE):
                    raise
        return None

    def _watch(self, work: Callable[[int], None], idx: int) -> None:
        try:
            work(idx)
        except Exception as error:
            is_first = self._fail(error)
            _log.exception("thread %s of the driver failed", threading.current_thread().name)
            if is_first:
                self._wake(lambda: True)

    def _fail(self, cause: Exception) -> bool:
        """Ends all requests; whether this was the first reason to."""
        with self._lock:
            is_first = self.failure is None
            if self.failure is None:
                self.failure = cause
            open_requests = list(self._open.values())
        self.live = False
        for request in open_requests:
            request.return_channel.set_exception(_told(cause))
        return is_first

    def _wake(self, may_wait: Callable[[], bool]) -> list[threading.Thread]:
        """Unblocks the other threads until they have ended → those that have not."""
        backlogs = [
            self._prefill_backlog,
            *self._transfer_backlogs,
            *self._generate_backlogs.values(),
            *self._detokenize_backlogs,
        ]
        others = [thread for thread in self._all_threads if thread != threading.current_thread()]
        while (alive := [thread for thread in others if thread.is_alive()]) and may_wait():
            # By turns: one that waits to put needs the room that an end would take at once.
            for backlog in backlogs:
                _empty(backlog)
            alive[0].join(_PAUSE)
            for backlog in backlogs:
                with contextlib.suppress(queue.Full):  # whoever waits to get finds something
                    backlog.put_nowait(None)
            alive[0].join(_PAUSE)
        return alive

    def stop(self, timeout: float = 60.0) -> None:
        """Ends open requests and all threads; one that is inside the engine is waited for."""
        self._fail(_Stopped("it was stopped"))
        until = time.monotonic() + timeout
        for thread in self._wake(lambda: time.monotonic() < until):
            _log.error("thread %s is still inside the engine after %g s", thread.name, timeout)
        with self._running:
            if self._runner is not None:
                self._runner.close()
                self._runner = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs a coroutine on the one event loop that this driver keeps."""
        with self._running:
            self._runner = self._runner or asyncio.Runner()
            return self._runner.run(work)


class _Stopped(Exception):
    """Nothing failed: the driver's owner has stopped it."""


def _told(cause: Exception) -> RuntimeError:
    what = "" if isinstance(cause, _Stopped) else f"an engine raised {type(cause).__name__}: "
    error = RuntimeError(f"the JetStream driver serves no more requests: {what}{cause}")
    error.__cause__ = cause
    return error


def _empty(backlog: queue.Queue[Any]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            backlog.get_nowait()


def orchestrator(driver: SafeDriver) -> Any:
    """JetStream's LLMOrchestrator over a driver."""
    return _upstream.LLMOrchestrator(driver)


class _Call:
    """What the orchestrator has to know of its caller: when it is gone."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    async def abort(self, code: object, details: str) -> NoReturn:
        raise RuntimeError(details)

    def close(self) -> None:
        for callback in self._callbacks:
            callback(self)


async def decode(
    driver: SafeDriver, prompt: Sequence[int], max_tokens: int
) -> AsyncIterator[list[int]]:
    """The tokens of one prompt as they come, without the one that ended them.

    Who leaves early frees the slot. Of several samples in a slot, the first is told.
    """
    messages = _upstream.jetstream_pb2.DecodeRequest
    content = messages.TokenContent(token_ids=[int(i) for i in prompt])
    request = messages(token_content=content, max_tokens=max_tokens)
    call = _Call()
    try:
        async with contextlib.aclosing(orchestrator(driver).Decode(request, call)) as responses:
            async for response in responses:
                if ids := list(response.stream_content.samples[0].token_ids):
                    yield ids
    finally:
        call.close()


def serve_tokens(
    driver: SafeDriver, prompts: Sequence[Sequence[int]], max_tokens: int | Sequence[int]
) -> list[list[int]]:
    """The tokens of many prompts, all asked for at once, without those that ended them.

    All run to their end before the first error, if there is one, is raised.
    """
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else list(max_tokens)

    async def one(prompt: Sequence[int], limit: int) -> list[int]:
        return [i async for ids in decode(driver, prompt, limit) for i in ids]

    async def all_of_them() -> list[list[int] | BaseException]:
        works = [one(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
        return await asyncio.gather(*works, return_exceptions=True)

    made: list[list[int]] = []
    for found in driver.run(all_of_them()):
        if isinstance(found, BaseException):
            raise found
        made.append(found)
    return made
