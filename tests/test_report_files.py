"""The page about a run is safe with any text, tells what it can't read, and is written whole."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from star_jax.train import report
from star_jax.train.report import markup, page, samples
from tests import reporting
from tests.reporting import Page, change, clean, cut, made

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>fetch('https://evil.example/x')</script>",
    "\"' onload=alert(1) <img src=http://evil.example/p.png> &amp; &lt;",
    "a half \ud800 and \udfff of a pair, \x00 and \x1b[31m and \u202e",
    "long " * 200_000,
    "<!-- <style> ]]> \u2028 \u2029",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reporting.write(tmp_path_factory.mktemp("run") / "run")


# Texts that nobody vouches for


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    folder = tmp_path_factory.mktemp("hostile")
    run = reporting.write(folder / "run", name="<b>&\"' name", texts=HOSTILE)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["machine"]["cpu"] = HOSTILE[1]
    manifest["stages"][4]["command"] = HOSTILE[2]
    manifest["stages"][4]["name"] = HOSTILE[0]
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "4-rl" / "config.yaml").write_text(f"a: '{HOSTILE[1]}'\n")
    change(run / "1-teacher" / "report.json", {"dropped": {HOSTILE[1]: 3}})
    return made(folder, run)


def test_texts_are_texts(hostile: tuple[str, Page], run: Path, tmp_path: Path) -> None:
    text, found = hostile
    assert [tag for tag, _ in found.tags].count("script") == 2
    _, tame = made(tmp_path, run)
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in tame.tags}
    assert not any(key.startswith("on") for _, attrs in found.tags for key in attrs)
    assert "alert(1)</script>" not in text
    answers = found.data["rollouts"][0]["answers"]
    assert [answers[i]["generation"] for i in (0, 1, 2)] == list(HOSTILE[:3])
    said = {each for case in found.data["conversations"][0]["cases"] for each in _texts(case)}
    assert HOSTILE[1] in said
    assert HOSTILE[1] in clean(found.texts["settings"])
    assert found.table("stage-1", HOSTILE[1])[1] == "3 (0 %)"


def _texts(case: dict[str, Any]) -> list[str]:
    return [answer["text"] for answer in case["answers"] if answer]


def test_what_cant_be_shown_is_named(hostile: tuple[str, Page]) -> None:
    _, found = hostile
    shown = found.data["rollouts"][0]["answers"][3]["generation"]
    assert shown == r"a half \ud800 and \udfff of a pair, \x00 and \x1b[31m and " + "\u202e"
    assert markup.shown(HOSTILE[3], 1000) == shown
    assert markup.escaped("\x00\ud800<") == "\\x00\\ud800&lt;"


def test_long_texts_are_cut_with_a_note(hostile: tuple[str, Page]) -> None:
    text, found = hostile
    shown = found.data["rollouts"][0]["answers"][4]["generation"]
    assert len(shown) < samples.ANSWER + 100
    left_out = int(re.search(r"\[… ([\d,]+) characters left out …\]", shown)[1].replace(",", ""))
    assert left_out + samples.ANSWER - 1_000_000 in (0, 1)
    assert shown.startswith("long long")
    assert shown.endswith("long long ")
    assert len(text) < 2_000_000


def test_nothing_outside_is_referred_to(hostile: tuple[str, Page]) -> None:
    """Not in a tag, and not even as a text that a program could take for an address."""
    text, found = hostile
    assert not re.search("https?://", text, re.IGNORECASE)
    assert "://" not in text
    for tag, attrs in found.tags:
        assert not {"src", "srcset", "action", "formaction", "data", "poster", "style"} & set(attrs)
        href = attrs.get("href")
        assert href is None or href.startswith("#") or (tag, href) == ("link", "data:,")
    (style,) = found.inside["style"]
    assert "url(" not in style
    assert "@import" not in style
    code = found.inside["script"][1]
    for word in ("fetch(", "XMLHttpRequest", "import(", "innerHTML", "eval(", "document.write"):
        assert word not in code


def test_only_the_pages_own_script_may_run(hostile: tuple[str, Page]) -> None:
    _, found = hostile
    (policy,) = [
        attrs["content"]
        for tag, attrs in found.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == "'none'"
    for name, content in (
        ("script-src", found.inside["script"][1]),
        ("style-src", found.inside["style"][0]),
    ):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[name] == f"'sha256-{digest}'"


# Folders that are not whole


def test_half_a_last_line_is_passed_over(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    before = report.collect(run)
    for name in ("2-ckd/metrics.jsonl", "2-ckd/pace.jsonl", "3-after-ckd/answers.jsonl"):
        cut(run / name, 20)
    after = report.collect(run)
    assert after.stages[2].metrics == before.stages[2].metrics[:-1]
    assert after.stages[2].pace == before.stages[2].pace[:-1]
    assert after.stages[3].said == before.stages[3].said[:-1]
    assert all(stage.notes == () for stage in after.stages)


def test_what_cant_be_read_is_told(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    metrics = run / "2-ckd" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join([*lines[:3], "[1]\n", "\xff{\n", *lines[3:]]))
    cut(run / "4-rl" / "rollouts" / "000002.parquet", 200)
    (run / "3-after-ckd" / "marks.json").write_text('{"sets": ')
    (run / "5-after-rl" / "marks.json").write_text("[]")
    (run / "1-teacher" / "report.json").unlink()
    _, found = made(tmp_path, run)
    told = clean(found.texts["summary"])
    assert "ckd: metrics.jsonl: 2 lines are no JSON object and passed over: 4, 5." in told
    assert "rl: 000002.parquet can't be read" in told
    assert "after-ckd: marks.json can't be read" in told
    assert "after-rl: marks.json is no JSON object. after-rl: There are no marks yet." in told
    assert "teacher: There is no report.json yet." in told
    read = report.collect(run)
    assert len(read.stages[2].metrics) == 300
    assert [tally.rollout for tally in read.stages[4].rollouts.tallies] == [0, 1, 3, 4, 5]
    assert "measured once (before)" in told


def test_a_stage_may_hold_nothing(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    for path in run.glob("*/*"):
        if path.is_file():
            path.unlink()
    for path in run.glob("*/rollouts/*"):
        path.unlink()
    _, found = made(tmp_path, run)
    told = clean(found.texts["summary"])
    assert "Nothing has been measured." in told
    assert "ckd: No step has been logged yet." in told
    assert found.table("stage-1", "tiny-star, seed 0")[1:] == ["–"] * 12
    assert "marks" not in found.texts


def test_a_stages_folder_may_be_missing(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run", states={"rl": "waiting"})
    change(run / "manifest.json", {"machine": None, "version": None})
    (run / "6-export").rmdir()
    _, found = made(tmp_path, run)
    assert "export: 6-export is not there." in clean(found.texts["summary"])
    assert " rl: " not in clean(found.texts["summary"])


def test_keys_may_be_missing(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    some = {"marks": {"call_exact": 0.5, "words_exact": "nan"}, "passk": {"call": {"1": None}}}
    (run / "5-after-rl" / "marks.json").write_text(json.dumps({"sets": {"seen": some, "x": 3}}))
    reporting.lines(run / "5-after-rl" / "answers.jsonl", [{"set": "seen", "text": None}, {}])
    reporting.lines(run / "2-ckd" / "metrics.jsonl", [{"step": 1}, {"loss/total_nats": 3}])
    schema = pa.table({"drawn_at": [0], "reward": [float("nan")], "calls": ["no JSON"]})
    pq.write_table(schema, run / "4-rl" / "rollouts" / "000000.parquet")
    (run / "manifest.json").write_text(
        json.dumps(json.loads((run / "manifest.json").read_text()) | {"name": None, "seed": None})
    )
    _, found = made(tmp_path, run)
    assert found.table("marks", "after-rl")[1:4] == ["–", "50.0 %", "–"]
    assert found.table("marks", "after-rl")[6] == "–"
    first = found.data["rollouts"][0]["answers"][0]
    assert (first["reward"], first["calls"], first["prompt"]) == (None, "no JSON", "")


def test_numbers_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    rows = [{"step": i, "loss/total_nats": 1.0 * i} for i in range(1, 9)]
    rows[3]["loss/total_nats"] = "nan"
    reporting.lines(run / "2-ckd" / "metrics.jsonl", rows)
    text, _ = made(tmp_path, run)
    assert "1 values are not finite and leave gaps." in text
    path = re.search(r'<b>Loss: training|<b>Loss</b>.*?<path d="(.*?)"', text)[1]
    assert path.count("M") == 2
    assert path.count("L") == 5


def test_the_folder_of_one_loop_is_a_run(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    alone = run / "2-ckd"
    (alone / "run.json").write_text('{"loop": "ckd"}')
    assert report.collect(alone).stages[0].metrics == report.collect(run).stages[2].metrics
    text, _ = made(tmp_path, alone)
    assert "<h1>2-ckd</h1>" in text


# The file


def test_equal_folders_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        reporting.write(Path("run"))
        assert report.command(["run"]) == 0
        pages.append((tmp_path / name / "run" / "report.html").read_bytes())
        assert report.command(["run"]) == 0  # over its own page
    assert pages[0] == pages[1]


def test_the_command_says_where_the_page_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.command([str(run), str(run)]) == 0
    assert capsys.readouterr().out == "report.html: written\n"
    assert report.command([str(run), "--output", "deep/er/x.html"]) == 0
    assert (tmp_path / "deep" / "er" / "x.html").read_text().startswith("<!doctype html>")
    assert list(tmp_path.glob("**/.*")) == []


def refusals(folder: Path) -> dict[str, str]:
    """A folder that is no run → what is said."""
    for name, text in (
        ("torn", '{"name": '),
        ("listed", "[]"),
        ("staged", '{"stages": [1]}'),
    ):
        (folder / name).mkdir()
        (folder / name / "manifest.json").write_text(text)
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    return {
        "absent": "is no folder: give the folder of a run",
        "file": "is no folder: give the folder of a run",
        "empty": "holds no manifest.json: give the folder of a run",
        "torn": "manifest.json: is no JSON (Expecting value: line 1 column 10 (char 9)): restore",
        "listed": "manifest.json: is no JSON object: restore the file",
        "staged": "manifest.json: stages: is no list of objects: restore the file",
    }


def test_mistakes_are_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, told in refusals(tmp_path).items():
        assert report.command([str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert told in said
        assert said.startswith("star_jax.train: ")
        assert said.count("\n") == 1
    with pytest.raises(ValueError, match="no run is given"):
        report.write([], tmp_path / "out.html")


def test_what_a_user_made_is_not_written_over(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    assert report.command([str(run), "--output", str(notes)]) == 2
    assert "is there and is no report: choose another name" in capsys.readouterr().err
    assert notes.read_text() == "mine"
    assert report.command([str(run), "--output", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_a_failed_write_leaves_the_page_before(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _ = made(tmp_path, run)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.os, "fsync", full)
    assert report.command([str(run), "--output", str(tmp_path / "report.html")]) == 2
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text
