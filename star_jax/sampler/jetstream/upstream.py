"""google-jetstream 0.2.2, imported alone and repaired. No other module imports it.

    is_installed, require()     whether it can be used here, or a sentence that says why not
    engine_api(), orchestrator()    its two modules

Importing it would bring TensorFlow along (through seqio, for two names in annotations), set the
root logger to DEBUG and give it a handler. What is repaired in its modules:

* a thread that fails kills the whole process (SIGKILL): here it logs, and SafeDriver does the rest;
* detokenizing threads are no daemons, and keep a process alive for ever;
* `delete_pytree` calls `jax.tree_map`, which JAX no longer has;
* a request's channel posts to its event loop after that was closed, which kills a thread;
* `logging.info` of an unconfigured root logger configures it.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.metadata
import importlib.util
import logging
import sys
import threading
import types
from collections.abc import Callable, Generator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

VERSION = "0.2.2"
# Its requirements that are really used, module → distribution. The others are seqio (TensorFlow),
# pytest, coverage and the like.
NEEDS = {
    "tiktoken": "tiktoken",
    "grpc": "grpcio",
    "shortuuid": "shortuuid",
    "prometheus_client": "prometheus-client",
}
HOW = f"pip install --no-deps google-jetstream=={VERSION} && pip install {' '.join(NEEDS.values())}"

_log = logging.getLogger("jetstream")


def problem() -> str | None:
    """Why JetStream can't be used here, in a sentence that says what to do; None where it can."""
    spec = importlib.util.find_spec("jetstream")
    if spec is None:
        return f"google-jetstream is not installed: {HOW}"
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not any((place / "engine" / "engine_api.py").is_file() for place in places):
        where = spec.origin or next(iter(places), "?")
        return (
            f"{where}: this module jetstream is another project than google-jetstream and stands "
            f"in its place: pip uninstall jetstream && {HOW}"
        )
    try:
        version = importlib.metadata.version("google-jetstream")
    except importlib.metadata.PackageNotFoundError:
        version = "of unknown version"
    if version != VERSION:
        return f"google-jetstream is {version}, its repairs are for {VERSION}: {HOW}"
    if absent := [name for module, name in NEEDS.items() if not importlib.util.find_spec(module)]:
        return f"google-jetstream lacks {', '.join(absent)}: pip install {' '.join(absent)}"
    return None


is_installed: bool = problem() is None


def require() -> None:
    """ModuleNotFoundError, one sentence, where JetStream can't be used."""
    if why := problem():
        raise ModuleNotFoundError(why, name="jetstream")


@functools.cache
def engine_api() -> Any:
    """`jetstream.engine.engine_api`."""
    require()
    with _without_seqio(), _root_logger_kept():
        module: Any = importlib.import_module("jetstream.engine.engine_api")
        module.token_utils.logging = _log
    return module


@functools.cache
def orchestrator() -> Any:
    """`jetstream.core.orchestrator`, repaired."""
    engine_api()
    with _without_seqio(), _root_logger_kept():
        module: Any = importlib.import_module("jetstream.core.orchestrator")
    module.logging = _log
    module.delete_pytree = _delete
    module.JetThread = Thread
    module.async_multifuture = types.SimpleNamespace(AsyncMultifuture=Channel)
    return module


@contextmanager
def _without_seqio() -> Generator[None]:
    """A stand-in while JetStream is imported; one that is installed is left to do its work."""
    if importlib.util.find_spec("seqio") is not None:
        yield
        return
    package, vocabularies = types.ModuleType("seqio"), types.ModuleType("seqio.vocabularies")
    for name in ("Vocabulary", "SentencePieceVocabulary"):
        setattr(vocabularies, name, type(name, (), {}))
    stands = {"seqio": package, "seqio.vocabularies": vocabularies}
    sys.modules.update(stands)
    try:
        yield
    finally:
        for name in stands:
            del sys.modules[name]


@contextmanager
def _root_logger_kept() -> Generator[None]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


def _delete(tree: Any) -> None:
    """Frees the arrays of a prefix, as the driver does once it is inserted."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.delete()


class Thread(threading.Thread):
    """A driver's thread: a daemon, and its failure is a record in the log."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "daemon": True})

    def run(self) -> None:
        try:
            super().run()
        except Exception:
            _log.exception("thread %s of the driver failed", self.name)


class Channel:
    """From a driver's thread to the coroutine that waits for one request's tokens.

    It is made inside the event loop. Whatever the thread posts after the end, or after the loop
    was closed, is dropped: nobody is there to read it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[Any, Exception | None]] = asyncio.Queue()
        self._lock = threading.Lock()
        self._end: Exception | None = None
        self.on_end: Callable[[bool], None] | None = None  # called once, with "was cancelled"

    def add_result(self, result: Any) -> None:
        if not self.done():
            self._post(result, None)

    def close(self) -> None:
        self.set_exception(StopAsyncIteration())

    def cancel(self, _: Any = None) -> None:
        self.set_exception(futures.CancelledError(), cancelled=True)

    def set_exception(self, error: Exception, cancelled: bool = False) -> None:
        """The first end counts: it is delivered after the results that came before it."""
        with self._lock:
            if self._end is not None:
                return
            self._end = error
        if self.on_end is not None:
            self.on_end(cancelled)
        self._post(None, error)

    def cancelled(self) -> bool:
        return isinstance(self._end, futures.CancelledError)

    def done(self) -> bool:
        return self._end is not None

    def _post(self, result: Any, end: Exception | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (result, end))
        except RuntimeError:
            if not self._loop.is_closed():
                raise

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> Any:
        result, end = await self._queue.get()
        if end is not None:
            self._queue.put_nowait((None, end))  # whoever asks again gets the same answer
            raise end
        return result
