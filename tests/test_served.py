"""`serve` and `generate` as processes of their own, with a tiny random model behind them."""

from __future__ import annotations

import concurrent.futures
import json
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import world

SIZES = ["--dtype", "float32", "--max-prompt", "1024", "--max-new", "64", "--slots", "16"]
SAMPLER = "star_jax.sampler"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return world.environment(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("world")
    world.student(made / "student")
    world.write_rows(made / "rows.jsonl", world.rows(40, "r"))
    return made


@pytest.fixture
def client(served: tuple[str, subprocess.Popen[str]]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def served(folder: Path, env: dict[str, str]) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", SAMPLER, "serve", "student", "--port", "0", *SIZES]
    process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = next(line for line in process.stderr if "answers at" in line)
    yield said.split()[-1], process
    process.terminate()
    assert process.wait(world.LIMIT_S) == 0
    process.stderr.close()


def ask(client: openai.OpenAI, number: int) -> int:
    made = client.chat.completions.create(
        model="student",
        messages=[{"role": "user", "content": f"hello {number % 50}"}],
        max_tokens=1 + number % 12,
        seed=number % 50,
    )
    assert made.usage is not None
    return made.usage.completion_tokens


def leave(url: str, number: int) -> None:
    """A client that is killed while it is answered."""
    host, port = re.findall(r"//(.*):(\d+)", url)[0]
    body = json.dumps(
        {
            "model": "student",
            "messages": [{"role": "user", "content": f"bye {number}"}],
            "max_tokens": 60,
            "stream": number % 2 == 0,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        if number % 3 == 0:
            connection.recv(100)


def metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        text = answer.read().decode()
    return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def resident(process: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read there")
def test_two_thousand_requests_leave_nothing_behind(
    served: tuple[str, subprocess.Popen[str]], client: openai.OpenAI
) -> None:
    url, process = served
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        before = list(pool.map(lambda i: ask(client, i), range(500)))
        early = resident(process)
        list(pool.map(lambda i: leave(url, i), range(100)))
        after = list(pool.map(lambda i: ask(client, i), range(2000)))
    assert after[:500] == before  # the same seeds, the same samples
    with pytest.raises(openai.BadRequestError, match="1100 tokens"):
        client.completions.create(model="student", prompt=[1] * 1100, max_tokens=4)
    with urllib.request.urlopen(f"{url}/health") as answer:
        assert json.load(answer)["status"] == "ok"
    names = re.findall(r"^# TYPE (\S+) gauge", _text(url), re.MULTILINE)
    assert names
    for name in names:
        if "running" in name or "waiting" in name:
            assert metric(url, name) == 0, name
    assert resident(process) - early < 40, "megabytes"


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_random_model_is_made_to_call_a_tool(client: openai.OpenAI, stream: bool) -> None:
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    city = {"type": "string", "enum": ["Oslo", "Bern"]}
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    given: dict[str, Any] = {
        "model": "student",
        "messages": [{"role": "user", "content": "rain in Oslo?"}],
        "tools": [{"type": "function", "function": {"name": "rain", "parameters": parameters}}],
        "tool_choice": {"type": "function", "function": {"name": "rain"}},
        "max_tokens": 64,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    calls = []
    for seed in range(4):
        if stream:
            pieces = list(client.chat.completions.create(**given, seed=seed, stream=True))
            found = [call for one in pieces for call in one.choices[0].delta.tool_calls or []]
        else:
            made = client.chat.completions.create(**given, seed=seed)
            found = made.choices[0].message.tool_calls or []
        calls += [(call.function.name, json.loads(call.function.arguments)) for call in found]
    assert calls, "none of four fitted into 64 tokens"
    assert all(name == "rain" and given["city"] in ("Oslo", "Bern") for name, given in calls)


def _text(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_a_file_of_samples_survives_kills(folder: Path, env: dict[str, str]) -> None:
    def words(out: str) -> list[str]:
        how = ["--n", "3", "--seed", "4", "--max-new-tokens", "40"]
        return ["generate", "rows.jsonl", out, "--model", "student", *how, *SIZES]

    whole, killed = folder / "whole.jsonl", folder / "killed.jsonl"
    assert world.start(folder, words(whole.name), env, SAMPLER).wait() == 0
    rng = random.Random(0)
    for at in sorted(rng.sample(range(2, 35), 2)):
        going = world.start(folder, words(killed.name), env, SAMPLER)
        going.until(lambda at=at: killed.exists() and killed.read_bytes().count(b"\n") >= at)
        going.process.send_signal(signal.SIGKILL)
        assert going.wait() == -signal.SIGKILL
    assert world.start(folder, words(killed.name), env, SAMPLER).wait() == 0
    assert killed.read_bytes() == whole.read_bytes()
    rows: list[dict[str, Any]] = [json.loads(line) for line in whole.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(40)]
    assert {len(row["samples"]) for row in rows} == {3}
