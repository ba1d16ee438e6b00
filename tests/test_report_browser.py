"""The page about a run in a real browser: nothing overlaps, nothing overflows, nothing is loaded.

The browser's every request goes to a proxy of ours, which knows two pages and writes down what else
it is asked for. A frame of some width holds the page, looks at it, and uses it as a person would.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests import reporting
from tests.reporting import made

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
HOST = "http://page.test"
TEXTS = (
    f"<img src={HOST}/image.png onerror=alert(1)>",
    f"</script><script>fetch('{HOST}/script')</script>",
    f"<style>@import '{HOST}/style';</style>",
    "word" * 400,
)
PROBE = Path(__file__).with_name("report_probe.html")


@contextmanager
def proxy(pages: dict[str, bytes]) -> Iterator[tuple[int, list[str]]]:
    """→ its port, and the addresses that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(502)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def looked_at(page: Path, profile: Path) -> tuple[dict[str, Any], list[str]]:
    """What the probe found, and what the page's host was asked for."""
    pages = {f"{HOST}/": PROBE.read_bytes(), f"{HOST}/report.html": page.read_bytes()}
    with proxy(pages) as (port, asked):
        done = subprocess.run(
            [
                str(BROWSER),
                *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--window-size=1400,1000", f"--user-data-dir={profile}"),
                *(f"--proxy-server=http://127.0.0.1:{port}", "--virtual-time-budget=20000"),
                *("--dump-dom", f"{HOST}/"),
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result is not None
    assert result[1], "the probe did not end"
    return json.loads(html.unescape(result[1])), [path for path in asked if HOST in path]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str], list[dict]]:
    folder = tmp_path_factory.mktemp("browser")
    # A name and a set's name that can't be broken, and a model that speaks in markup.
    run = reporting.write(folder / "run", name="a_name_" * 12, texts=TEXTS)
    _, parsed = made(folder, run)
    answers = parsed.data["rollouts"][0]["answers"]
    return *looked_at(folder / "report.html", folder / "profile"), answers


needs_browser = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome")


@needs_browser
@pytest.mark.slow
def test_nothing_is_loaded_and_nothing_fails(one: tuple) -> None:
    found, asked, _ = one
    assert asked == [f"{HOST}/", f"{HOST}/report.html"]
    assert found["errors"] == []


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize(("name", "width"), [("wide", 1280), ("narrow", 420)])
def test_nothing_overlaps_or_overflows(one: tuple, name: str, width: int) -> None:
    seen = one[0][name]
    assert width - 20 <= seen["width"] <= width
    assert seen["scroll"] == seen["width"]
    assert seen["clashes"] == []


@needs_browser
@pytest.mark.slow
def test_charts_tell_values_and_the_theme_turns(one: tuple) -> None:
    found = one[0]
    first, second, third = found["colours"]
    assert first == third != second
    assert found["tip"][0] == "samples a prompt, k 8"
    assert re.fullmatch(r"before: \d+\.\d %", found["tip"][1])
    assert len(found["tip"]) == 4
    assert found["tip_hidden"]


@needs_browser
@pytest.mark.slow
def test_answers_can_be_looked_through(one: tuple) -> None:
    found, _, answers = one
    calls = [row for row in answers if row["wanted"] == "call"]
    bad = [row for row in calls if row["reward"] < 0]
    assert found["listed"] == {
        "all": len(answers),
        "call": len(calls),
        "call_negative": len(bad),
        "call_negative_5": sum(row["rollout"] == 5 for row in bad),
        "text": 1,
    }
    assert len(answers) > len(calls) > len(bad) > found["listed"]["call_negative_5"]
    assert found["none"] == "None fits."
    assert found["first"][1] == TEXTS[0]
    assert [text.partition(":")[0] for text in found["sides"]] == [
        "before",
        "after-ckd",
        "after-rl",
    ]
    assert found["counts"] == ["1 of 3 shown here, of 6", "2 of 3 shown here, of 6"]


@needs_browser
@pytest.mark.slow
def test_several_runs_fit(tmp_path: Path) -> None:
    names = ("first-of-them", "second-of-them")
    runs = [
        reporting.write(tmp_path / f"{name}{seed}", name=name, seed=seed, rollouts=4)
        for name in names
        for seed in (0, 1)
    ]
    made(tmp_path, *runs)
    found, asked = looked_at(tmp_path / "report.html", tmp_path / "profile")
    assert len(asked) == 2
    for name in ("wide", "narrow"):
        assert found[name]["scroll"] == found[name]["width"]
        assert found[name]["clashes"] == []
