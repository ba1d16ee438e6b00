"""A small chat in a terminal: lines in, the reply and its calls out as they are decoded.

The user answers a call with its result. Nothing that a model writes ends the program: what can't be
said again as a message is kept as text.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from star_jax import chat
from star_jax.chat import Call, Tool
from star_jax.chat.completion import THINK, THINK_END
from star_jax.sampler.loading import Loaded
from star_jax.sampler.reading import Content, Decoder, Part, Reader, Reasoning
from star_jax.sampler.request import Piece, Request, Settings, name_of

HELP = """\
/tools         the tools on offer        /reset    forget the conversation
/think on|off  reasoning before replies  /quit     end, as Ctrl-D does
/result TEXT   a call's result; TEXT alone will do where one is asked for
Ctrl-C stops a reply."""
# Reads one line after a prompt; EOFError at the end.
ReadLine = Callable[[str], str]


def read_tools(path: str | Path) -> list[Tool]:
    """A file's list of tools, alone or under "tools"."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: can't be read ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON ({error}): give a list of tools") from error
    tools = found.get("tools") if isinstance(found, dict) else found
    if tools is None:
        raise ValueError(f"{path}: tools is missing: give a list of tools")
    for fault in chat.check_tools(tools):
        raise ValueError(f"{path}: {fault}")
    return tools


class Quit(Exception):
    """The user has had enough."""


class Talk:
    """A conversation and the terminal that it is held in."""

    def __init__(
        self,
        loaded: Loaded,
        settings: Settings,
        *,
        tools: Sequence[Tool] = (),
        thinking: bool | None = None,
        read_line: ReadLine,
        out: TextIO,
        is_styled: bool = False,
    ) -> None:
        self.messages: list[dict[str, Any]] = []
        self._loaded, self._tools, self._thinking = loaded, list(tools), thinking
        self._settings = dataclasses.replace(settings, stop_ids=loaded.stops)
        self._read_line, self._out, self._is_styled = read_line, out, is_styled
        self._turns = 0

    def run(self) -> None:
        """Until the end of the input, or /quit."""
        self._say(f"{self._loaded.name}, {len(self._tools)} tools; /help tells the commands\n")
        while True:
            try:
                self._turn()
            except (Quit, EOFError):
                self._say("\n")
                return
            except KeyboardInterrupt:
                self._say("\n(Ctrl-D ends)\n")

    def _turn(self) -> None:
        line = self._ask("> ")
        if not line:
            return
        before = len(self.messages)
        self.messages.append({"role": "user", "content": line})
        try:
            while calls := self._reply():
                for call in calls:
                    content = self._result(call)
                    if content is None:  # the conversation was begun anew
                        return
                    self.messages.append({"role": "tool", "content": content})
        except ValueError as error:  # too long, or what the scheduler can't serve
            del self.messages[before:]
            self._say(f"({error}; the question is forgotten)\n")
        except KeyboardInterrupt:  # at a call that is to be answered
            del self.messages[before:]
            raise

    def _result(self, call: Call) -> str | None:
        count = len(self.messages)
        while not (line := self._ask(f"  result of {_clean(call.name)}> ")):
            if len(self.messages) < count:
                return None
        return line

    def _ask(self, prompt: str) -> str:
        """A line that is no command; empty where there is nothing to go on with."""
        line = self._read_line(prompt).strip()
        # A terminal's bytes that are no text are not to end up in a prompt.
        line = line.encode(errors="replace").decode()
        word, _, rest = line.partition(" ")
        if not word.startswith("/"):
            return line
        match word, rest.strip():
            case "/quit", "":
                raise Quit
            case "/reset", "":
                self.messages.clear()
                self._say("(a new conversation)\n")
            case "/tools", "":
                self._list_tools()
            case "/think", "on" | "off" as state:
                self._thinking = state == "on"
                self._say(f"(reasoning is {state})\n")
            case "/result", result if prompt != "> " and result:
                return result
            case "/result", _:
                self._say("(there is no call to answer, or no TEXT behind it)\n")
            case "/help", "":
                self._say(f"{HELP}\n")
            case _:
                self._say(f"({line[:40]} is no command: /help tells them)\n")
        return ""

    def _list_tools(self) -> None:
        for tool in self._tools:
            function = tool.get("function", tool)
            about = function.get("description") or ""
            self._say(f"  {function['name']}  {about}".rstrip() + "\n")
        if not self._tools:
            self._say("(there are none: start with --tools FILE)\n")

    def _reply(self) -> list[Call]:
        """Let the model speak → the calls that it wants answered."""
        text = self._loaded.render(
            self.messages,
            self._tools or None,
            add_generation_prompt=True,
            enable_thinking=self._thinking,
        )
        ids = self._loaded.tokenizer.encode([text])[0]
        if len(ids) > self._loaded.max_prompt:
            raise ValueError(
                f"the conversation has {len(ids)} tokens, there is room for "
                f"{self._loaded.max_prompt}: /reset begins anew"
            )
        # Without this, the same question would be answered by the same words again.
        settings = dataclasses.replace(self._settings, step=self._turns)
        self._turns += 1
        prompt = np.array(ids, np.int32)
        tail = text.rstrip()
        reader = Reader(
            is_open=tail.endswith(THINK),
            is_thought=tail.endswith(THINK_END),
            reads_calls=bool(self._tools),
        )
        parts, why = self._listen(Request(prompt, 1, settings, name_of(prompt)), reader)
        self._say(f"{why}\n")
        calls = [part for part in parts if isinstance(part, Call)]
        self.messages.append(_message(parts))
        return [] if why else calls

    def _listen(self, request: Request, reader: Reader) -> tuple[list[Part], str]:
        """Show what is said → all of it, and why it is not the end of the turn."""
        decoder = Decoder(self._loaded.tokenizer.decode)
        scheduler = self._loaded.scheduler
        parts: list[Part] = []
        with interrupts() as is_interrupted:
            ticket = scheduler.submit(request)
            while not is_interrupted():
                for piece in scheduler.step():
                    if piece.ticket != ticket:  # of one that was stopped
                        continue
                    parts += self._hear(piece, decoder, reader, parts)
                    if piece.end is not None:
                        return parts, " (cut: --max-new-tokens)" if piece.end == "length" else ""
            scheduler.cancel(ticket)
        parts += self._show(reader.feed(decoder.end()) + reader.end(), parts)
        return parts, " (stopped)"

    def _hear(
        self, piece: Piece, decoder: Decoder, reader: Reader, before: list[Part]
    ) -> list[Part]:
        ids = [int(token) for token in piece.tokens]
        found = reader.feed(decoder.feed(ids[:-1] if piece.end == "stop" else ids))
        if piece.end is not None:
            found += reader.feed(decoder.end()) + reader.end()
        return self._show(found, before)

    def _show(self, parts: list[Part], before: list[Part]) -> list[Part]:
        last = before[-1] if before else None
        for part in parts:
            # Reasoning, reply and calls stand apart; bits of one of them do not.
            if last is not None and (type(part) is not type(last) or isinstance(part, Call)):
                self._say("\n")
            match part:
                case Reasoning(text):
                    self._say(f"\x1b[2m{_clean(text)}\x1b[0m" if self._is_styled else _clean(text))
                case Content(text):
                    self._say(_clean(text))
                case _:
                    self._say(f"  {spell(part)}")
            last = part
        return parts

    def _say(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def spell(call: Call) -> str:
    """weather(city="Bern", days=3)"""
    given = (
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in call.arguments.items()
    )
    return _clean(f"{call.name}({', '.join(given)})")


def _clean(text: str) -> str:
    """A model can't move the cursor."""
    return "".join(c if c.isprintable() or c in "\n\t" else "�" for c in text)


def _message(parts: Sequence[Part]) -> dict[str, Any]:
    """What was said, for the conversation to go on with."""
    content = "".join(part.text for part in parts if isinstance(part, Content))
    reasoning = "".join(part.text for part in parts if isinstance(part, Reasoning))
    calls = [part for part in parts if isinstance(part, Call)]
    made: dict[str, Any] = {"role": "assistant", "content": content}
    if reasoning:
        made["reasoning_content"] = reasoning
    if calls:
        made["tool_calls"] = [{"name": one.name, "arguments": one.arguments} for one in calls]
    return made


@contextmanager
def interrupts() -> Generator[Callable[[], bool]]:
    """Ctrl-C is remembered until a step is over: to break one off would leave it half done."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.set())
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, before)
