"""The terminal chat: what it shows, what it remembers, and that nothing ends it but its user."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from star_jax import chat
from star_jax.chat import Call
from star_jax.sampler import __main__ as command
from star_jax.sampler import loading, talk
from star_jax.sampler.loading import Loaded
from star_jax.sampler.request import Settings
from tests import speaking

TOOL = {"name": "weather", "description": "How it is.", "parameters": {"type": "object"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Genève", "days": 3}}\n</tool_call>'


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return speaking.loaded(tmp_path / "model")


def speaker(loaded: Loaded) -> speaking.Speaker:
    assert isinstance(loaded.scheduler, speaking.Speaker)
    return loaded.scheduler


def said(loaded: Loaded, *texts: str) -> None:
    """One text a reply, the last of them for ever."""
    tokenizer = loaded.tokenizer
    spoken = [tokenizer.encode([text])[0] + [tokenizer.end_of_turn] for text in texts]
    speaker(loaded).script = lambda request, sample: spoken.pop(0) if spoken[1:] else spoken[0]


def hold(loaded: Loaded, lines: list[Any], **options: Any) -> tuple[talk.Talk, str]:
    """A conversation of these lines → what it remembers, all that it wrote."""
    waiting: Iterator[Any] = iter(lines)
    out = io.StringIO()

    def read_line(prompt: str) -> str:
        out.write(prompt)
        line = next(waiting, EOFError())
        if isinstance(line, BaseException):
            raise line
        out.write(f"{line}\n")
        return line

    options = {"tools": [TOOL]} | options
    made = talk.Talk(
        loaded, Settings(max_new_tokens=200, seed=1), read_line=read_line, out=out, **options
    )
    made.run()
    assert speaker(loaded).held == 0
    return made, out.getvalue()


def prompts(loaded: Loaded) -> list[str]:
    return [loaded.tokenizer.decode(one.prompt) for one in speaker(loaded).requests]


def test_a_call_and_its_result(loaded: Loaded) -> None:
    said(loaded, f"<think>\nI look.\n</think>\n\nOne moment.\n{CALL}", "It rains.", "Bye.")
    made, shown = hold(loaded, ["How is Genève?", '{"rain": true}', "Thanks"])
    assert shown == (
        "tiny, 1 tools; /help tells the commands\n"
        "> How is Genève?\n"
        "I look.\n"
        "One moment.\n"
        '  weather(city="Genève", days=3)\n'
        '  result of weather> {"rain": true}\n'
        "It rains.\n"
        "> Thanks\n"
        "Bye.\n"
        "> \n"
    )
    call = {"name": "weather", "arguments": {"city": "Genève", "days": 3}}
    assert made.messages == [
        {"role": "user", "content": "How is Genève?"},
        {
            "role": "assistant",
            "content": "One moment.",
            "reasoning_content": "I look.",
            "tool_calls": [call],
        },
        {"role": "tool", "content": '{"rain": true}'},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Bye."},
    ]
    expected = chat.render(made.messages[:3], [TOOL], add_generation_prompt=True)
    assert prompts(loaded)[1] == expected
    steps = [one.settings.step for one in speaker(loaded).requests]
    assert steps == [0, 1, 2], "turns differ under one seed"


def test_commands(loaded: Loaded) -> None:
    said(loaded, "Yes.")
    lines = ["/tools", "/help", "/think off", "Hi", "/think", "/reset", "/result x", "", "/x", "Ho"]
    made, shown = hold(loaded, [*lines, "/quit", "never"])
    assert "  weather  How it is.\n" in shown
    assert talk.HELP in shown
    assert "(reasoning is off)" in shown
    assert "(/think is no command: /help tells them)" in shown
    assert "(there is no call to answer" in shown
    assert "(/x is no command" in shown
    assert made.messages[0] == {"role": "user", "content": "Ho"}
    assert "never" not in shown
    assert all(prompt.endswith("<think>\n\n</think>\n\n") for prompt in prompts(loaded))
    assert "Hi" not in prompts(loaded)[1]


def test_two_calls_are_answered_one_by_one(loaded: Loaded) -> None:
    said(loaded, CALL + CALL, "Done.")
    made, shown = hold(loaded, ["Go", "", "/tools", "/result one", "two"])
    assert [one["content"] for one in made.messages[2:]] == ["one", "two", "Done."]
    assert shown.count("  result of weather> ") == 4


@pytest.mark.parametrize("end", ["/reset", "/quit", EOFError(), KeyboardInterrupt()])
def test_a_call_that_nobody_answers(loaded: Loaded, end: Any) -> None:
    said(loaded, CALL, "Hello.")
    made, _ = hold(loaded, ["Go", end, "Hi"])
    if end == "/reset" or isinstance(end, KeyboardInterrupt):
        assert [one["content"] for one in made.messages] == ["Hi", "Hello."]


def test_ctrl_c_at_the_prompt_goes_on(loaded: Loaded) -> None:
    said(loaded, "Hello.")
    made, shown = hold(loaded, [KeyboardInterrupt(), "Hi"])
    assert "(Ctrl-D ends)" in shown
    assert made.messages[1]["content"] == "Hello."


def test_ctrl_c_stops_the_reply_alone(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    said(loaded, "abcdefghijkl <tool_call>", "Hello.")
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    step = speaker(loaded).step
    count = iter(range(100))

    def interrupted() -> Any:
        if next(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step()

    monkeypatch.setattr(speaker(loaded), "step", interrupted)
    made, shown = hold(loaded, ["Go", "Hi"])
    assert "abcdefghi (stopped)\n" in shown
    assert [one["content"] for one in made.messages] == ["Go", "abcdefghi", "Hi", "Hello."]
    assert speaker(loaded).cancelled == [0]
    assert signal.getsignal(signal.SIGINT) is before


def test_too_long_a_conversation(tmp_path: Path) -> None:
    made = speaking.loaded(tmp_path / "model", max_prompt=60)
    said(made, "Hello.")
    held, shown = hold(made, ["x" * 80, "Hi"], tools=[])
    assert "tokens, there is room for 60: /reset begins anew; the question is forgotten)" in shown
    assert [one["content"] for one in held.messages] == ["Hi", "Hello."]


def test_a_reply_that_is_cut(loaded: Loaded) -> None:
    said(loaded, "x" * 300)
    assert f"{'x' * 200} (cut: --max-new-tokens)\n" in hold(loaded, ["Go"])[1]


def test_a_model_can_not_move_the_cursor(loaded: Loaded) -> None:
    said(loaded, 'a\x1b[2Jb\x07 <tool_call>{"name": "f\x9b", "arguments": {}}</tool_call>')
    shown = hold(loaded, ["Go", "ok"])[1]
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown


def test_spelling() -> None:
    call = Call("f", {"a": "ö", "b": [1, None], "c": {"d": True}})
    assert talk.spell(call) == 'f(a="ö", b=[1, null], c={"d": true})'


WORDS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", CALL, "a", "\n", "�"),
        "<|im_start|>",
        '<tool_call>{"name": "a\\"b", "arguments": {"x": 1e999}}</tool_call>',
    ]
)


@given(st.lists(WORDS, max_size=8).map("".join), st.lists(st.text(max_size=9), max_size=4))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nothing_that_is_said_ends_it(tmp_path: Path, text: str, lines: list[str]) -> None:
    made = speaking.loaded(tmp_path / "model")
    replies = iter([text, text, *["So."] * 1000])
    tokenizer = made.tokenizer
    speaker(made).script = lambda request, sample: [
        *tokenizer.encode([next(replies)])[0],
        tokenizer.end_of_turn,
    ]
    held, _ = hold(made, ["Go", *lines, "x", "x"])
    if held.messages:
        chat.render(held.messages, [TOOL])


def test_noise(loaded: Loaded) -> None:
    made, _ = hold(loaded, ["Go"] * 5)
    assert len(made.messages) == 10


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[", "is not JSON"),
        ("3", "tools: is a number"),
        ("{}", "tools is missing"),
        ('[{"description": "x"}]', r"tools\[0\].name: is missing"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_files_of_tools_that_are_none(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "tools.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"tools.json: {sentence}"):
        talk.read_tools(path)


def test_files_of_tools(tmp_path: Path) -> None:
    path = tmp_path / "tools.json"
    with pytest.raises(ValueError, match="can't be read"):
        talk.read_tools(path)
    for content in ([TOOL], {"tools": [TOOL]}):
        path.write_text(json.dumps(content))
        assert talk.read_tools(path) == [TOOL]


RUN = """
import sys, pathlib
from star_jax.sampler import loading
from star_jax.sampler.__main__ import main
from tests import speaking
made = speaking.loaded(pathlib.Path(sys.argv[1]), tokens=1)
if sys.argv[2]:
    made.scheduler.script = speaking.says(made.tokenizer, sys.argv[2])
loading.load = lambda folder, **options: made
sys.exit(main(["chat", sys.argv[1], "--temperature", "0"]))
"""


def test_a_pipe(tmp_path: Path) -> None:
    """Letters that the terminal lacks are written as something else."""
    process = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path), "Grüße 🙂"],
        input=b"Hi\n\xff\n",
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=60,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.count(b"Gr??e ?\n") == 2


def test_a_terminal(tmp_path: Path) -> None:
    """Ctrl-C stops a reply that would go on for ever, Ctrl-D ends the program."""
    main, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path), "x" * 100_000],
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    shown = b""

    def until(mark: bytes) -> None:
        nonlocal shown
        while mark not in shown:
            shown += os.read(main, 65536)
        shown = shown[shown.index(mark) + len(mark) :]

    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        until(b"> ")
        os.write(main, b"Hi\n")
        until(b"xxxx")
        process.send_signal(signal.SIGINT)
        until(b"(stopped)")
        until(b"> ")
        os.write(main, b"\x04")
        assert process.wait(60) == 0
    finally:
        killer.cancel()
        process.kill()
        process.wait()
        os.close(main)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = speaking.loaded(tmp_path / "model", max_new=50)
    said(made, "Hello.")
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(loading, "load", lambda folder, **options: asked.append(options) or made)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\n"))
    assert command.main(["chat", "model", "--think", "off", "--seed", "3", "--stop", "x"]) == 0
    assert "Hello.\n" in capsys.readouterr().out
    found = speaker(made).requests[0].settings
    assert (found.seed, found.stop, found.max_new_tokens) == (3, ("x",), 50)
    wanted = {"dtype": "bfloat16", "slots": 1, "max_prompt": 4096, "max_new": 1024}
    assert asked == [{**wanted, "tensor": 1, "small_cache": False, "warm_up": False}]
    assert command.main(["chat", "model", "--tools", "nothing.json"]) == 2
    assert "nothing.json: can't be read" in capsys.readouterr().err
