"""Many tasks at once, in the order of their file: each asks until it is over, and becomes a line.

    tasks → answers(tasks, asker) → the same tasks, over, one after the other
    tasks → write(path, …) → OUTPUT/answers.jsonl, which a killed run goes on with

A task is a value: `ask` is what it wants to know until it `is_over`, `told` is what it becomes with
an answer, `line` what is kept of it.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from star_jax.evals.running.asking import Answer, Asker, Question, lost
from star_jax.sampler.output import Output


class Unaskable(Exception):
    """No prompt can be made of what the model said before: the entry is lost, the run goes on."""


class Task(Protocol):
    @property
    def is_over(self) -> bool: ...

    def ask(self) -> Question: ...

    def told(self, answer: Answer) -> Task: ...

    def line(self) -> dict[str, Any]: ...


def answers(
    tasks: Iterator[Task],
    asker: Asker,
    *,
    on_tokens: Callable[[int], None] = lambda count: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Task]:
    """Each task when it is over, in their order. A few times as many are open as are asked at once:
    a long dialogue holds up none of those behind it."""
    order: deque[int] = deque()  # numbers of open tasks
    open_tasks: dict[int, Task] = {}
    asked: dict[int, int] = {}  # by ticket
    count = 0

    def place(number: int, task: Task) -> None:
        while not task.is_over:
            try:
                question = task.ask()
            except Unaskable as error:
                task = task.told(lost(str(error)))
                continue
            asked[asker.ask(question)] = number
            break
        open_tasks[number] = task

    while not should_stop():
        while len(order) < asker.ahead and (task := next(tasks, None)) is not None:
            order.append(count)
            place(count, task)
            count += 1
        if not order:
            return
        for ticket, answer in asker.step():
            number = asked.pop(ticket)
            place(number, open_tasks[number].told(answer))
        on_tokens(asker.take_tokens())
        while order and open_tasks[order[0]].is_over:
            yield open_tasks.pop(order.popleft())


def write(
    path: Path,
    ids: Sequence[str],
    make: Callable[[int], Task],
    asker: Asker,
    made_by: Mapping[str, Any],
    should_stop: Callable[[], bool],
) -> bool:
    """A line for every task, in order, beginning behind those that are there; whether all are.

    `make(i)` is the task of the i-th id, made when its turn comes.
    """
    with Output(path, made_by, ids) as output, Bar(len(ids), output.done) as bar:
        done = output.done
        tasks = (make(number) for number in range(done, len(ids)))
        for task in answers(tasks, asker, on_tokens=bar.tokens, should_stop=should_stop):
            output.append(task.line())
            done += 1
            bar.entry()
        return done == len(ids)


class Bar:
    """Entries, the time that is left, tokens a second; a line every 30 seconds in a log."""

    def __init__(self, total: int, done: int, unit: str = "entry") -> None:
        import tqdm

        is_terminal = sys.stderr.isatty()
        self._bar = tqdm.tqdm(
            total=total,
            initial=done,
            unit=unit,
            file=sys.stderr,
            dynamic_ncols=is_terminal,
            mininterval=0.5 if is_terminal else 30,
        )
        self._begin, self._tokens = time.monotonic(), 0

    def tokens(self, count: int) -> None:
        self._tokens += count
        seconds = max(time.monotonic() - self._begin, 1e-3)
        self._bar.set_postfix_str(f"{self._tokens / seconds:.0f} tok/s", refresh=False)
        self._bar.update(0)

    def entry(self, count: int = 1) -> None:
        self._bar.update(count)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
