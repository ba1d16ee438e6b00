"""The one thread that owns a scheduler: requests in, pieces out to the event loop.

    submit → Open; `await open.accepted()`, `await open.piece()` …; release, whatever has happened

A scheduler that fails takes its thread along: all who wait hear of it, and so do all who come.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from star_jax.sampler.request import Piece, Request, Scheduler
from star_jax.sampler.server.refusal import Refusal

logger = logging.getLogger(__name__)
DRAINING = "the server is shutting down: ask another one, or later"
# None: accepted. A piece, and of which of the prompts it is.
Item = tuple[int, Piece] | Refusal | None


class Open:
    """Prompts of one client that are being answered. Belongs to the event loop."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = tuple(requests)
        self.started: set[int] = set()  # the prompts that a token has come of
        self.left = Counter({index: one.n for index, one in enumerate(requests)})  # open samples
        self._arrived: asyncio.Queue[Item] = asyncio.Queue()

    async def accepted(self) -> None:
        """Once the scheduler has taken all of them; Refusal where it has not."""
        if isinstance(item := await self._arrived.get(), Refusal):
            raise item

    async def piece(self) -> tuple[int, Piece]:
        """The next piece, and of which prompt it is."""
        item = await self._arrived.get()
        if isinstance(item, Refusal):
            raise item
        assert item is not None, "a request is accepted once"
        return item

    def put(self, item: Item) -> None:
        if isinstance(item, tuple):
            index, piece = item
            self.started.add(index)
            if piece.end is not None:
                self.left -= Counter([index])
        self._arrived.put_nowait(item)


class Worker:
    """Starts its thread with `start`, in a running event loop, and ends it with `close`."""

    def __init__(self, scheduler: Scheduler, *, max_waiting: int) -> None:
        self._scheduler = scheduler
        self._max_waiting = max_waiting
        self._commands: queue.SimpleQueue[tuple[str, Open] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._opens: set[Open] = set()  # the loop's
        self._by_ticket: dict[int, _Ticket] = {}  # the thread's, as is the next
        self._tickets: dict[Open, set[int]] = {}
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failure: str | None = None
        self.is_draining = False

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self, wait_s: float = 5) -> None:
        """A step that takes longer than that is left to end with the process."""
        self._commands.put(None)
        self._thread.join(wait_s)

    @property
    def waiting(self) -> int:
        """Prompts that no token has come of yet."""
        return sum(len(one.requests) - len(one.started) for one in self._opens)

    @property
    def running(self) -> int:
        return sum(len(one.started & set(one.left)) for one in self._opens)

    def submit(self, requests: Sequence[Request]) -> Open:
        if self.is_draining:
            raise Refusal(503, DRAINING, code="shutting_down")
        if len(requests) > self._max_waiting:
            message = f"prompt is a list of {len(requests)}: give at most {self._max_waiting}"
            raise Refusal(400, message, "prompt")
        if (waiting := self.waiting) + len(requests) > self._max_waiting:
            message = (
                f"{waiting} prompts are waiting already, and {self._max_waiting} may: "
                "try again in a moment"
            )
            raise Refusal(429, message, code="too_many_waiting")
        opened = Open(requests)
        with self._lock:
            if self.failure is not None:
                raise Refusal(503, self.failure, code="sampler_failed")
            self._commands.put(("submit", opened))
        self._opens.add(opened)
        return opened

    def release(self, opened: Open) -> None:
        """Nobody listens any more: what is still being decoded of it is cancelled."""
        self._opens.discard(opened)
        if opened.left and self.failure is None:
            self._commands.put(("cancel", opened))

    def abort(self) -> None:
        """Every open request is told that there is no more time."""
        self.is_draining = True
        for opened in self._opens:
            opened.put(Refusal(503, DRAINING, code="shutting_down"))

    # What follows runs in the thread.

    def _run(self) -> None:
        try:
            while self._obey():
                if self._scheduler.is_busy:
                    self._share(self._scheduler.step())
        except Exception as error:  # whatever it is, it is logged and told to all who wait
            logger.exception("the sampler has failed")
            self._fail(f"the sampler has failed and must be restarted: {error!r}")

    def _obey(self) -> bool:
        """Do what was asked for; wait for it where there is nothing else to do."""
        while True:
            try:
                command = self._commands.get(block=not self._scheduler.is_busy)
            except queue.Empty:
                return True
            match command:
                case None:
                    return False
                case ("submit", opened):
                    self._submit(opened)
                case (_, opened):
                    self._cancel(opened)

    def _submit(self, opened: Open) -> None:
        tickets = self._tickets[opened] = set()
        answer: Refusal | None = None
        try:
            for index, request in enumerate(opened.requests):
                ticket = self._scheduler.submit(request)
                tickets.add(ticket)
                self._by_ticket[ticket] = _Ticket(opened, index, request.n)
        except ValueError as error:  # a request that can't be served here
            self._cancel(opened)
            answer = Refusal(400, str(error))
        self._tell([(opened, answer)])

    def _cancel(self, opened: Open) -> None:
        for ticket in self._tickets.pop(opened, ()):
            del self._by_ticket[ticket]
            self._scheduler.cancel(ticket)

    def _share(self, pieces: Sequence[Piece]) -> None:
        items: list[tuple[Open, Item]] = []
        for piece in pieces:
            found = self._by_ticket.get(piece.ticket)
            if found is None:  # cancelled
                continue
            items.append((found.opened, (found.index, piece)))
            found.left -= piece.end is not None
            if found.left == 0:
                self._forget(piece.ticket, found.opened)
        self._tell(items)

    def _forget(self, ticket: int, opened: Open) -> None:
        del self._by_ticket[ticket]
        self._tickets[opened].discard(ticket)
        if not self._tickets[opened]:
            del self._tickets[opened]

    def _tell(self, items: list[tuple[Open, Item]]) -> None:
        assert self._loop is not None
        if items and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_hand_out, items)

    def _fail(self, message: str) -> None:
        with self._lock:  # whoever comes later finds the failure
            self.failure = message
        opens = set(self._tickets)
        while not self._commands.empty():
            if (command := self._commands.get()) is not None:
                opens.add(command[1])
        self._by_ticket, self._tickets = {}, {}
        self._tell([(one, Refusal(500, message, code="sampler_failed")) for one in opens])


@dataclass
class _Ticket:
    """Whose prompt a ticket is, and how many of its samples have not ended."""

    opened: Open
    index: int
    left: int


def _hand_out(items: list[tuple[Open, Item]]) -> None:
    for opened, item in items:
        opened.put(item)
