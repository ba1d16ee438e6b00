"""The page about a run: every part of it, its words, several runs, its charts."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import scipy.stats

from star_jax.train import report
from star_jax.train.report import aggregate, chart, samples, words
from star_jax.train.report.aggregate import Mark
from tests import reporting
from tests.reporting import Page, clean, made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reporting.write(tmp_path_factory.mktemp("run") / "run")


# What is on it


def test_every_part_is_there(run: Path, tmp_path: Path) -> None:
    text, found = made(tmp_path, run)
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        "Summary",
        "Before and after",
        "Several samples",
        "teacher",
        "ckd",
        "rl (sim-rl)",
        "Answers of the rollouts",
        "Answers before and after",
        "To do it again",
    ]
    captions = [clean(each) for each in re.findall("<figcaption><span><b>(.*?)</b>", text)]
    for title in ("Loss", "Reward", "Answers with a call", "Valid format", "Entropy"):
        assert title in captions
    for title in ("KL of the policy", "Tokens held by the clip", "Length of an answer"):
        assert title in captions
    for title in ("Groups whose rewards differ", "Gap of sampler and trainer, mean"):
        assert title in captions
    assert "Groups that are learnt from" in captions
    assert "Broken formats, by kind" in captions
    assert "optim/learning_rate" in captions
    settings = found.texts["settings"]
    assert "python -m star_jax.train rl --output runs/4-rl --seed 0" in settings
    assert "python -m star_jax.train curriculum --seed 0" in settings
    assert "learning_rate: 3.0e-06" in settings
    assert "one, two" in settings
    assert "3.11.9" in settings
    assert {attrs.get("href") for tag, attrs in found.tags if tag == "a"} == {
        f"#{attrs['id']}" for tag, attrs in found.tags if tag == "section"
    }


def test_marks_are_those_of_the_files(run: Path, tmp_path: Path) -> None:
    _, found = made(tmp_path, run)
    marks = json.loads((run / "3-after-ckd" / "marks.json").read_text())["sets"]["seen"]
    row = found.table("marks", "after-ckd")
    names = [
        *(f"call_{name}" for name in ("call_share", "exact", "reward", "valid_share")),
        *(f"words_{name}" for name in ("call_share", "exact", "reward", "valid_share")),
        *("exact", "reward", "valid_share"),
    ]
    for cell, name in zip(row[1:], names, strict=True):
        value, ends = marks["marks"][name], marks["intervals"][name]
        if "reward" in name:
            shown = f"{value:.3f} {ends[0]:.2f} to {ends[1]:.2f}"
        else:
            shown = f"{100 * value:.1f} % {100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
        assert cell == shown.replace("-", "−"), name
    # A share of calls that falls is worse where a call is due, and better where words are.
    change = found.table("marks", "change, first to last")
    assert change[1].startswith("▼")
    assert change[5].startswith("▼")
    by_cell = [attrs.get("class") for tag, attrs in found.tags if tag == "span" if "title" in attrs]
    assert by_cell[0] == "worse"
    assert by_cell[4] == "better"
    assert by_cell[1] == "better clear"


def test_the_teachers_answers_are_counted(run: Path, tmp_path: Path) -> None:
    _, found = made(tmp_path, run)
    row = found.table("stage-1", "tiny-star, seed 0")
    assert row[1:7] == ["2,000", "8,000", "5,521", "812", "211", "5,521"]
    assert row[7:10] == ["5,840", "5,303 (91 %)", "4,010 (69 %)"]
    assert found.table("stage-1", "wrong") == ["wrong", "1,670 (21 %)"]


def test_the_teachers_counts_may_be_together(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    flat = report.collect(run).stages[1].teaching
    assert flat is not None
    assert flat.counts["kept"] == 5521
    assert flat.dropped["wrong"] == 1670
    path = run / "1-teacher" / "report.json"
    path.write_text(json.dumps({"counts": json.loads(path.read_text())}))
    assert report.collect(run).stages[1].teaching == flat


def test_rollouts_are_counted_once(run: Path) -> None:
    """A group that was carried stands in two files, and is an answer of the first."""
    stage = report.collect(run).stages[4]
    files = sorted((run / "4-rl" / "rollouts").iterdir())
    rows = [pq.read_table(path).to_pylist() for path in files]
    assert [len(each) for each in rows] == [20, 24, 24, 24, 24, 24]
    assert stage.rollouts.total == 6 * 20
    for number, (tally, each) in enumerate(zip(stage.rollouts.tallies, rows, strict=True)):
        fresh = [row for row in each if row["drawn_at"] == number]
        assert tally.samples == 20
        assert sum(tally.bad.values()) == sum(row["format"] < 0 for row in fresh)
        assert (tally.groups, tally.kept) == (5, 4)


def test_answers_are_chosen_evenly(run: Path, tmp_path: Path) -> None:
    few = report.collect(run, answers=12).stages[4].rollouts
    assert [row["rollout"] for row in few.answers] == [n for n in range(6) for _ in range(2)]
    assert samples.spread(5, 10) == [0, 1, 2, 3, 4]
    assert samples.spread(100, 4) == [12, 37, 62, 87]
    assert samples.spread(0, 4) == []
    _, found = made(tmp_path, run)
    source = found.data["rollouts"][0]
    assert source["total"] == len(source["answers"]) == 120
    assert "120 of 120 answers" in found.texts["answers"]
    first = source["answers"][1]
    row = pq.read_table(run / "4-rl" / "rollouts" / "000000.parquet").to_pylist()[1]
    for name in ("prompt", "generation", "label", "reward", "why", "advantage", "end", "row_id"):
        assert first[name] == row[name], name


def test_the_same_conversation_after_each_evaluation(run: Path, tmp_path: Path) -> None:
    _, found = made(tmp_path, run)
    (source,) = found.data["conversations"]
    assert source["stages"] == ["before", "after-ckd", "after-rl"]
    groups = {(each["set"], each["case"]) for each in source["cases"]}
    assert groups == {
        (name, case) for name in reporting.SETS for case in ("single", "parallel", "irrelevant")
    }
    by_stage = [
        {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
        for path in sorted(run.glob("*/answers.jsonl"))
    ]
    for each in source["cases"]:
        assert each["prompt"] == by_stage[0][each["id"]]["prompt"]
        told = [(answer["text"], answer["exact"]) for answer in each["answers"]]
        assert told == [(rows[each["id"]]["text"], rows[each["id"]]["exact"]) for rows in by_stage]


def test_conversations_that_all_evaluations_had_come_first(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    for stage in ("0-before", "3-after-ckd"):
        path = run / stage / "answers.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        reporting.lines(path, rows[4:] if stage == "0-before" else rows[:-1])
    _, found = made(tmp_path, run)
    cases = found.data["conversations"][0]["cases"]
    single = [each for each in cases if (each["set"], each["case"]) == ("seen", "single")]
    assert [each["of"] for each in single] == [6, 6]
    assert all(answer is not None for each in cases for answer in each["answers"])


# In words


def story(folder: Path) -> str:
    return words.story(report.collect(folder)).replace("\N{NO-BREAK SPACE}", " ")


def test_the_story_says_what_rose_and_what_may_be_chance(run: Path) -> None:
    told = story(run)
    assert told.startswith("Done: 7 stages in 5 min 50 s. On seen (280 prompts call for a tool, ")
    marks = [
        json.loads((run / name / "marks.json").read_text())["sets"]["seen"]["marks"]["call_exact"]
        for name in ("0-before", "5-after-rl")
    ]
    first, last = (f"{100 * value:.1f} %" for value in marks)
    assert f"where a call is due, exact answers rose clearly from {first} to {last}" in told
    assert "where words are due, exact answers fell from 47.0 % to 35.0 % (may be chance)" in told
    assert "No mark is clearly worse than before." in told
    assert "5,521 of the teacher's 8,000 answers (69 %) were kept." in told
    assert "giving up" not in told


def edit_marks(folder: Path, stage: str, **values: float) -> None:
    path = folder / stage / "marks.json"
    found = json.loads(path.read_text())
    for name, value in values.items():
        found["sets"]["seen"]["marks"][name] = value
        found["sets"]["seen"]["intervals"][name] = [value - 0.02, value + 0.02]
    path.write_text(json.dumps(found))


def test_the_story_says_what_got_worse(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    edit_marks(run, "0-before", words_exact=0.5, words_call_share=0.1, call_call_share=0.99)
    edit_marks(run, "5-after-rl", words_exact=0.3, words_call_share=0.4, call_call_share=0.2)
    told = story(run)
    assert "No mark is clearly worse" not in told
    worse = told.partition("Clearly worse than before: ")[2].partition(". ")[0]
    assert "seen, where a call is due: calls 99.0 % to 20.0 %" in told
    assert "seen, where words are due: calls 10.0 % to 40.0 %" in told
    assert "seen, where words are due: exact 50.0 % to 30.0 %" in told
    assert "where a call is due: exact" not in worse


def test_the_story_tells_of_answers_that_became_alike(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    assert "more alike" not in story(run)
    path = run / "5-after-rl" / "marks.json"
    found = json.loads(path.read_text())
    found["sets"]["seen"]["passk"]["call"] = {"1": 0.5, "2": 0.51, "4": 0.52, "8": 0.53}
    path.write_text(json.dumps(found))
    assert "the best of 8 less often" in story(run)


def test_the_story_tells_of_a_policy_that_gives_up_its_calls(tmp_path: Path) -> None:
    run = reporting.write(tmp_path / "run")
    path = run / "4-rl" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    at = [row for row in rows if "rollout/call_call_share" in row]
    at[-1]["rollout/call_call_share"] = 0.1
    reporting.lines(path, rows)
    assert "the policy was giving up its calls" in story(run)


def test_the_story_of_a_run_under_way(tmp_path: Path) -> None:
    states = dict.fromkeys(("rl", "after-rl", "export"), "waiting")
    told = story(reporting.write(tmp_path / "run", states={"after-ckd": "running"} | states))
    assert "Of 7 stages, 3 done" in told
    assert "after-ckd is running; rl, after-rl and export are waiting." in told
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "manifest.json").write_text('{"name": "x", "seed": 1, "stages": []}')
    assert story(tmp_path / "empty") == "The run has no stage yet. Nothing has been measured."


def test_collect_reads_everything(run: Path) -> None:
    read = report.collect(run)
    assert (read.name, read.seed, read.version) == ("tiny-star", 0, "0.1.0")
    assert [stage.state for stage in read.stages] == ["done"] * 7
    assert read.stages[2].has_model
    assert read.measured[0].sets["seen"].passk["call"].keys() == {1, 2, 4, 8}
    assert read.stages[4].series("rollout/call_reward")[0][0] == 1
    assert len(read.stages[4].series("rollout/call_reward")) == 6


# Several runs


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], str, Page]:
    folder = tmp_path_factory.mktemp("several")
    runs = [reporting.write(folder / f"a{seed}", seed=seed) for seed in range(3)]
    runs.append(reporting.write(folder / "b", name="other", better=-0.1))
    return runs, *made(folder, *runs)


def test_runs_stand_side_by_side(several: tuple[list[Path], str, Page]) -> None:
    _, text, found = several
    assert "<h1>4 runs compared</h1>" in text
    heads = [row[0].strip() for row in found.rows["marks"]]
    one_set = heads[2 : heads.index("change, first to last")]
    own = ["tiny-star, seed 0", "tiny-star, seed 1", "tiny-star, seed 2", "other, seed 0"]
    each = [*own, "tiny-star, mean of\N{NO-BREAK SPACE}3"]
    assert one_set == ["before", *each, "after-ckd", *each, "after-rl", *each]
    # A curve a run, and a chart for each of what one run shows together.
    assert "Answers with a call: where words are due" in text
    (calls,) = [
        figure
        for figure in re.findall("<figure.*?</figure>", text)
        if "<b>Answers with a call: where words are due</b>" in figure
    ]
    assert re.findall('class="curve (c.)', calls.partition("plot")[2]) == ["c0", "c0", "c0", "c1"]
    legend = re.findall("</svg>(.*?)</span>", calls.partition("plot")[0])
    assert legend == ["tiny-star", "other"]
    assert [each["label"] for each in found.data["conversations"]] == own


def test_means_of_seeds_have_t_intervals(several: tuple[list[Path], str, Page]) -> None:
    runs, _, found = several

    def exact(run: Path, stage: str) -> float:
        marks = json.loads((run / stage / "marks.json").read_text())
        return marks["sets"]["seen"]["marks"]["call_exact"]

    values = [exact(run, "0-before") for run in runs[:3]]
    mean, error = scipy.stats.tmean(values), scipy.stats.sem(values)
    low, high = (100 * end for end in scipy.stats.t.interval(0.95, 2, mean, error))
    row = found.table("marks", "tiny-star, mean of 3")
    # The first table is that of `before`.
    assert row[2] == f"{100 * mean:.1f} % {low:.1f} to {high:.1f}"
    told = clean(found.texts["summary"])
    assert "tiny-star" in told
    assert "on average of 3 seeds" in told
    assert "(one seed)" in told


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 29, 200])
def test_quantiles_are_students(degrees: int) -> None:
    expected = scipy.stats.t.ppf(0.975, degrees)
    assert aggregate.quantile(degrees) == pytest.approx(expected, rel=1e-9)


def test_means_of_one_have_no_interval() -> None:
    assert aggregate.mean([0.25]) == Mark(0.25, None, None)


def test_runs_of_one_name_and_seed_are_told_apart(run: Path, tmp_path: Path) -> None:
    twin = reporting.write(tmp_path / "twin")
    read = [report.collect(folder) for folder in (run, twin, twin)]
    labels = words.labels(read)
    assert labels[0] == "tiny-star, seed 0 (run)"
    assert len(set(labels)) == 3
    _, found = made(tmp_path, run, twin)
    assert len(found.data["rollouts"]) == 2


def test_a_stage_that_one_run_lacks(run: Path, tmp_path: Path) -> None:
    lacking = reporting.write(tmp_path / "run", name="short", states={"rl": "waiting"})
    manifest = json.loads((lacking / "manifest.json").read_text())
    manifest["stages"] = [s for s in manifest["stages"] if s["name"] not in ("rl", "after-rl")]
    (lacking / "manifest.json").write_text(json.dumps(manifest))
    _, found = made(tmp_path, run, lacking)
    assert "tiny-star" in found.texts["stage-4"]
    assert "short" not in found.texts["stage-4"]


# Charts


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.13, 0.37), (3e-7, 9e-7), (1, 1000), (-5e8, 7e11), (0.97, 0.99)]
)
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    found = chart.ticks(low, high, 4)
    size = chart.step(low, high, 4)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-6 * size <= tick <= high + 1e-6 * size for tick in found)
    mantissa = size / 10 ** math.floor(math.log10(size) + 1e-9)
    assert any(math.isclose(mantissa, nice) for nice in (1, 2, 2.5, 5))
    labels = [chart.named(tick, size, "") for tick in found]
    assert len(set(labels)) == len(labels)
    read = [_number(label) for label in labels]
    assert read == pytest.approx(found, rel=1e-9, abs=1e-6 * size)


def _number(label: str) -> float:
    text = label.replace("−", "-").replace(",", "")
    powers = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    return float(text[:-1]) * powers[text[-1]] if text[-1] in powers else float(text)


def test_ticks_of_shares_are_percent() -> None:
    assert chart.named(0.25, 0.25, "share") == "25\N{NO-BREAK SPACE}%"
    assert chart.named(0.005, 0.0025, "share") == "0.50\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(
    "values", [[0.0], [2.0, 2.0], [1e-9, 3e-9], [-4.0, 7.0], [1e12, 2e12], [-1.0, -1.0]]
)
def test_every_point_is_inside_the_axes(values: list[float]) -> None:
    points = tuple((float(i), y) for i, y in enumerate(values, start=1))
    line = chart.Line(label="x", points=points, colour=0)
    figure, data = chart.lines(chart.Chart(title="t", unit="", lines=(line,)), "c0")
    left, top, right, bottom = data["box"]
    places = re.findall(r'<circle cx="([\d.-]+)" cy="([\d.-]+)"', figure)
    assert len(places) == len(values)
    for x, y in places:
        assert left <= float(x) <= right
        assert top <= float(y) <= bottom


def test_no_axis_of_shares_goes_over_all() -> None:
    for values, most in (([0.998, 0.998], 1.0), ([0.2, 0.3], 0.3), ([1.2, 1.1], 1.2)):
        line = chart.Line(label="x", points=tuple(enumerate(values)), colour=0)
        _, data = chart.lines(chart.Chart(title="t", unit="share", lines=(line,)), "c0")
        assert data["range"][3] == pytest.approx(most)


def test_long_curves_are_means_within_a_band() -> None:
    points = tuple((float(i), float(i % 2)) for i in range(10 * chart.MOST))
    thin, band = chart.thin(points)
    assert len(thin) == chart.MOST
    assert {y for _, y in thin} == {0.5}
    assert {(least, most) for _, least, most in band} == {(0.0, 1.0)}
    assert chart.thin(points[: chart.MOST]) == (points[: chart.MOST], [])
