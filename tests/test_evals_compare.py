"""pass@k of several models, and runs compared: what differs is told, and what is noise."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from star_jax import world as rows_of
from star_jax.evals import __main__ as command
from star_jax.evals.passk import pass_at_k
from star_jax.evals.running import benchmark, bfcl, comparing, curves, exploring, passk, scoring
from star_jax.evals.running.prompting import Prompting
from star_jax.evals.running.tables import Span, Table, text
from star_jax.world import files
from tests import world
from tests.asked import Scripted


def lines(rates: Sequence[float], nats: float, samples: int = 8, seed: int = 0) -> list[Any]:
    """A prompt for every rate; the even ones want a call."""
    rng = random.Random(seed)
    made = []
    for number, rate in enumerate(rates):
        counts = {"think": 3 + number % 3, "name": 2 * (number % 2), "other": 4}
        sums = {
            name: [count * nats * rng.uniform(0.5, 1.5), count] for name, count in counts.items()
        }
        zero = {name: [0.0, 0] for name in ("key", "value", "reply")}
        made.append(
            {
                "id": f"r{number}",
                "entry": f"e{number}",
                "wanted": "words" if number % 2 else "call",
                "right": [rng.random() < rate for _ in range(samples)],
                "nats": {**sums, **zero},
                "stopped": [True] * samples,
                "texts": [""] * samples,
            }
        )
    return made


def test_entropy_is_the_ratio_and_prompts_pull_on_it() -> None:
    made = lines([0.5] * 300, 2.0)
    for name in ("all", "think", "name"):
        kinds = ("think", "name", "other") if name == "all" else (name,)
        total = sum(line["nats"][kind][0] for line in made for kind in kinds)
        count = sum(line["nats"][kind][1] for line in made for kind in kinds)
        values = curves.entropy_values(made, name)
        assert values is not None
        assert values.mean() == pytest.approx(total / count)
        # Leaving a prompt out moves the ratio about as far as its value says.
        for out in (0, 7):
            rest = [line for i, line in enumerate(made) if i != out]
            without = curves.entropy_values(rest, name)
            assert without is not None
            expected = (values.sum() - values[out]) / (len(values) - 1)
            moved = abs(expected - values.mean())
            assert moved > 1e-5 or name == "name"
            assert without.mean() == pytest.approx(expected, abs=0.02 * moved + 1e-12)
    assert curves.entropy_values(made, "value") is None


def test_numbers_of_one_model() -> None:
    made = lines([0.2] * 20, 1.5)
    found = curves.numbers(made, (1, 8))
    right = [sum(line["right"]) for line in made]
    assert found["all"]["pass"]["8"]["value"] == pytest.approx(pass_at_k(right, 8, 8).mean())
    assert found["all"]["mean"]["value"] == pytest.approx(np.mean(right) / 8)
    assert (found["call"]["prompts"], found["words"]["prompts"]) == (10, 10)
    assert "name" not in found["call"]["entropy"], "no token of this class"
    assert found["words"]["tokens"]["name"] == 20
    low, value, high = (found["all"]["pass"]["1"][name] for name in ("low", "value", "high"))
    assert low < value < high


def plan(tmp_path: Path, **changes: Any) -> passk.Plan:
    given = {"data": Path("rows.jsonl"), "output": tmp_path, "samples": 8, "ks": (1, 8), **changes}
    return passk.Plan(**given)


def scored(made: passk.Plan, models: dict[str, Path]) -> dict[str, Any]:
    return curves.score(passk.lines(made, models), made.ks, made.settings)


def write_lines(folder: Path, **models: Any) -> None:
    folder.mkdir(exist_ok=True)
    for name, made in models.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((0.3, 0.02), "higher pass@8 holds, by 0."),
        ((0.02, 0.3), "higher pass@8 does not hold, it is lower by 0."),
        ((0.1, 0.1), "which is within noise; "),
        ((0.0, 0.0), "higher pass@8 does not show, they come out level; "),
    ],
)
def test_the_claim_says_what_the_samples_say(
    tmp_path: Path, rates: tuple[float, float], words: str
) -> None:
    one, two = (
        lines([rate] * 60, nats, seed=s)
        for s, (rate, nats) in enumerate(zip(rates, (2, 1), strict=True))
    )
    write_lines(tmp_path, sft=two, my_ckd=one)
    scores = scored(plan(tmp_path), {"sft": tmp_path, "my_ckd": tmp_path})
    (claim,) = scores["claims"]
    assert "with my_ckd for CKD and sft for SFT" in claim
    assert words in claim
    assert "higher entropy holds, by 0.98" in claim
    pairs = {(row["a"], row["b"]) for row in scores["comparisons"]}
    assert pairs == {("sft", "my_ckd"), ("my_ckd", "sft")}
    exploring.write(tmp_path, scores)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    assert escape(claim) in (tmp_path / "scores.html").read_text()
    shown = "\n".join(map(text, exploring.tables(scores)))
    assert "my_ckd against sft, all prompts" in shown
    assert "no entropy" not in shown


def test_roles() -> None:
    assert curves.roles(["a", "b", "c"]) == [("a", "b"), ("a", "c")]
    assert curves.roles(["SFT", "fkl", "CKD-2"]) == [("CKD-2", "SFT")]
    assert curves.roles(["a"]) == []


def test_another_temperature_gives_no_entropy(tmp_path: Path) -> None:
    write_lines(tmp_path, m=lines([0.5] * 4, 1.0))
    scores = scored(plan(tmp_path, temperature=0.7), {"m": tmp_path})
    shown = "\n".join(map(text, exploring.tables(scores)))
    assert "Sampled at temperature 0.7" in shown
    assert scores["claims"] == scores["comparisons"] == []


def answered(
    folder: Path, share: float, seed: int = 0, categories: str = "live", **about: Any
) -> Path:
    """A run of the miniature whose answers are right by luck."""
    rng = random.Random(seed)
    exam = bfcl.open(None, None, categories, about.pop("limit", None))
    asker = Scripted(lambda question: "No.")
    prompting = Prompting("official", **about)
    benchmark.run(exam, asker, prompting, folder, name="m")
    path = folder / "answers.jsonl"
    made = [{**line, "valid": rng.random() < share} for line in scoring.read_lines(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in made))
    return folder


def compare(capsys: pytest.CaptureFixture[str], *given: Any) -> tuple[int, str, str]:
    status = command.main(["compare", *map(str, given)])
    said = capsys.readouterr()
    return status, said.out, said.err.splitlines()[-1] if said.err else ""


def test_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = answered(tmp_path / "good", 0.95)
    bad = answered(tmp_path / "bad", 0.1, 1)
    other = answered(tmp_path / "other", 0.1, 2, think=False)
    capsys.readouterr()
    status, out, _ = compare(capsys, bad, good, other, "--output", tmp_path / "out")
    assert status == 0
    assert "Not only the models differ: think is None, None, False." in out
    assert "live: good is better than bad by 0." in out
    assert "bad against other, averages" in out
    made = json.loads((tmp_path / "out" / "comparison.json").read_text())
    verdicts = {(row["b"], row["what"]): row["verdict"] for row in made["comparisons"]}
    assert verdicts["good", "live"] == "worse", "bad is"
    assert verdicts["other", "live"] == "noise"
    assert verdicts["good", "live_simple"] == "noise", "five entries say little"
    row = next(row for row in made["comparisons"] if row["what"] == "live")
    values = {
        name: np.mean(
            [line["valid"] for line in scoring.read_lines(tmp_path / name / "answers.jsonl")]
        )
        for name in ("good", "bad")
    }
    assert row["difference"]["value"] == pytest.approx(values["bad"] - values["good"])
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "bad against good, averages" in page


def test_different_entries_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = answered(tmp_path / "whole", 0.5)
    fewer = answered(tmp_path / "fewer", 0.5, limit=3)
    half = answered(tmp_path / "half", 0.5, categories="live_simple")
    reworded = answered(tmp_path / "reworded", 0.5)
    scores = json.loads((reworded / "scores.json").read_text())
    scores["entries"]["live_simple"] = "other"
    (reworded / "scores.json").write_text(json.dumps(scores))
    write_lines(tmp_path / "pk", m=lines([0.5] * 4, 1.0))
    exploring.write(tmp_path / "pk", scored(plan(tmp_path / "pk"), {"m": tmp_path}))
    capsys.readouterr()
    for given, words in (
        ([whole, fewer], "(only whole has live_simple_3 of live_simple)"),
        ([half, whole], "(half has none of live_multiple)"),
        ([whole, reworded], "(those of live_simple are worded or judged otherwise)"),
        ([whole, tmp_path / "pk"], "whole is of bfcl v3, pk of passk"),
        ([whole], "one run alone can't be compared"),
        ([whole, tmp_path], "holds neither scores.json nor marks.json"),
    ):
        status, out, err = compare(capsys, *given)
        assert (status, out) == (2, ""), given
        assert err.startswith("star_jax.evals: ")
        assert words in err


def evaluation(folder: Path, share: float, label: str = "x") -> Path:
    folder.mkdir()
    rng = random.Random(folder.name)
    made = []
    for number in range(40):
        right = rng.random() < share
        made.append(
            {
                "set": "seen",
                "id": f"r{number}",
                "wanted": "call" if number % 2 else "words",
                "label": label,
                "exact": right,
                "reward": float(right) - 0.5,
            }
        )
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in made))
    (folder / "marks.json").write_text("{}")
    return folder


def test_evaluations_of_a_training_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = evaluation(tmp_path / "a", 0.9), evaluation(tmp_path / "b", 0.2)
    other = evaluation(tmp_path / "other", 0.2, "y")
    status, out, _ = compare(capsys, a, b)
    assert status == 0
    for name in ("seen: exact", "seen: reward", "seen, call due: exact", "seen, words due: exact"):
        assert name in out
    (row,) = [r for r in comparing.compared(*map(one, (a, b))) if r["what"] == "seen: exact"]
    assert (row["verdict"], row["wins"] + row["losses"] + row["ties"]) == ("better", 40)
    assert compare(capsys, a, other)[0] == 2


def one(folder: Path) -> comparing.Run:
    (run,) = comparing.read(folder)
    return run


def test_tables_line_up() -> None:
    rows = (("a", Span(0.5, 0.25, 1.0), 3), ("long name", Span(None), 12))
    shown = text(Table("Title", ("what", "%", "of"), rows, "A note.")).splitlines()
    assert shown == [
        "Title",
        "  what          %  95 % interval  of",
        "  a          50.0  25.0 to 100.0   3",
        "  long name     –                 12",
        "  A note.",
    ]
    assert text(Table("Nothing", ("a",), ())) == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("bfcl --model nope", "nope: there is no such folder: give a model's folder"),
        ("bfcl --model . --version v4", "the bundled miniature is of v3: give --data"),
        ("bfcl --model . --data nope", "nope: there is no such folder"),
        ("bfcl --model . --categories web_search_base", "is none of BFCL v3"),
        ("bfcl --model . --prompt star --think off", "--prompt star opens <think> itself"),
        ("bfcl --model . --system nope", "No such file or directory: 'nope'"),
        ("bfcl --endpoint 127.0.0.1", "--endpoint is '127.0.0.1': give it like http"),
        ("acebench --model . --language zh", "the bundled miniature is in English: give --data"),
        ("acebench --model . --language zh --data .", "there is no such file"),
        ("acebench --model . --categories agent", "--categories: 'agent' is none of ACEBench's"),
        ("acebench --model . --categories ,", "--categories is ',': name one at least"),
        ("passk --model a x=a x=b --data r", "--model: x is there twice"),
        ("passk --model a/b= --data r", "write NAME=DIR, with no / in the name"),
        ("passk --model a --data r --samples 4 --k 8", "--k: 8 needs as many samples"),
        ("passk --model a --data r", "a/config.json: no such file"),
        ("compare nope other", "nope: holds neither scores.json nor marks.json"),
    ],
)
def test_mistakes_are_one_sentence(
    given: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(given.split()) == 2
    found = capsys.readouterr()
    assert found.out == ""
    last = found.err.splitlines()[-1]
    assert said in last
    assert last.startswith("star_jax.evals: ")
    assert len([line for line in found.err.splitlines() if "without --system" not in line]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_new_tokens": 2000}, r"rows.jsonl:1: the prompt has \d+ tokens, .* 48 beside 2000"),
        ({"max_new_tokens": 2048}, "the context of .* is 2048: ask for fewer"),
        ({"max_new_tokens": 90, "context": 90}, "the context of .* is 90: ask for fewer"),
    ],
)
def test_rows_without_room(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    student = world.student(tmp_path / "student", max_position_embeddings=2048)
    rows = files.write(tmp_path / "rows.jsonl", rows_of.rows("seen", 0, 3), "messages")
    given = plan(tmp_path / "out", data=tmp_path / "rows.jsonl")
    assert rows == len(passk.read(dataclasses.replace(given, max_new_tokens=4), student)) == 3
    with pytest.raises(ValueError, match=words):
        passk.read(dataclasses.replace(given, **changes), student)


@pytest.mark.parametrize(
    "given",
    [
        "bfcl",
        "bfcl --model a --endpoint b",
        "bfcl --model a --limit 0",
        "bfcl --model a --temperature nan",
        "passk --model a --data r --k 1,x",
        "passk --model a --data r --k 0",
    ],
)
def test_flags_that_are_none(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        command.main(given.split())
    assert raised.value.code == 2
