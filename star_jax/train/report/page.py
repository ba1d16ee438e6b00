"""The page: one file that holds all it needs, whatever it was made of.

write(folders, out) → out

The style and the script are named to the browser by their hashes and everything else is forbidden,
addresses included: a text of a model that slipped through could not run or load anything. Equal
folders give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from star_jax.train.report import browse, chart, figures, marks, tables, words
from star_jax.train.report.chart import Chart
from star_jax.train.report.figures import Shown
from star_jax.train.report.markup import Html, el, embed, join
from star_jax.train.report.run import LOOPS, Run, collect
from star_jax.version import __version__

GENERATOR = "star_jax report"
BAND = (
    "Where a curve lies in a band, it is the mean of some neighbouring steps, and the band goes "
    "from the least to the most of them."
)


class Section(NamedTuple):
    key: str
    title: str
    body: Html


Charts = dict[str, dict[str, Any]]  # what the script needs of each, by its key


def write(folders: Sequence[Path], out: Path) -> Path:
    """The page of one run, or of several beside each other. ValueError where a folder is no run's,
    or where `out` is something else than such a page."""
    if not folders:
        raise ValueError("report: no run is given: give the folder of one or more")
    out = Path(out)
    _check(out)
    most = browse.most_answers(len(folders))
    text = render([collect(Path(folder), most) for folder in folders])
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    with part.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    part.replace(out)
    return out


def _check(out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"{out}: is a folder: give the name of a file")
    if out.exists():
        with out.open("rb") as file:
            if GENERATOR.encode() not in file.read(2000):
                raise ValueError(f"{out}: is there and is no report: choose another name")


def render(runs: Sequence[Run]) -> str:
    shown = _shown(runs)
    charts: Charts = {}
    sections = [section for section in _sections(shown, charts) if section is not None]
    data = {
        "charts": charts,
        "rollouts": browse.rollouts(runs, shown.labels),
        "conversations": browse.conversations(runs, shown.labels),
    }
    title = words.title(runs)
    style, script = (_asset(name) for name in ("style.css", "page.js"))
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        el("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} · star_jax"),
        el("link", rel="icon", href="data:,"),
        el("style", style),
    )
    toggle = el("button", "light / dark", type="button", id="theme")
    nav = el("nav", *(el("a", part.title, href=f"#{part.key}") for part in sections))
    parts = [el("section", el("h2", part.title), part.body, id=part.key) for part in sections]
    body = el(
        "body",
        el("header", el("p", "star_jax", cls="house"), el("h1", title), toggle),
        nav,
        el("main", *parts),
        el("div", id="tip", role="status", hidden=True),
        el("script", embed(data), type="application/json", id="data"),
        el("script", script),
    )
    return f"<!doctype html>\n{el('html', head, body, lang='en')}\n"


def _shown(runs: Sequence[Run]) -> Shown:
    """Seeds of one name share its colour, unless there is only one name."""
    labels, names = words.labels(runs), list(dict.fromkeys(run.name for run in runs))
    if len(names) == 1:
        return Shown(runs, labels, labels, range(len(runs)))
    own = [run.name for run in runs]
    return Shown(runs, labels, own, [names.index(name) for name in own])


def _asset(name: str) -> Html:
    return Html(resources.files("star_jax.train.report").joinpath(name).read_text(encoding="utf-8"))


def _policy(style: str, script: str) -> str:
    def hashed(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {hashed(style)}; script-src {hashed(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _sections(shown: Shown, charts: Charts) -> Iterator[Section | None]:
    yield _summary(shown)
    yield _marks(shown)
    yield _sampled(shown, charts)
    for name in dict.fromkeys(stage.name for run in shown.runs for stage in run.stages):
        yield _stage(shown, name, charts)
    yield _answers(shown.runs)
    yield _conversations(shown.runs)
    yield _settings(shown)


def _summary(shown: Shown) -> Section:
    parts: list[Html] = []
    if len(shown.runs) > 1:
        parts += [el("p", text, cls="story") for text in words.compared(shown.runs)]
    for run, label in zip(shown.runs, shown.labels, strict=True):
        story = el("p", words.story(run), cls="story")
        notes = _notes(f"{stage.name}: {note}" for stage in run.stages for note in stage.notes)
        inside = [story, notes, tables.stages(run)]
        if len(shown.runs) == 1:
            parts += [part for part in inside if part is not None]
        else:
            parts.append(el("details", el("summary", label), *inside, open=len(shown.runs) < 4))
    return Section("summary", "Summary", join(parts))


def _notes(notes: Iterable[str]) -> Html | None:
    items = [el("li", note) for note in notes]
    return el("ul", *items, cls="notes") if items else None


def _figures(made: Iterable[Chart], charts: Charts, cls: str = "charts") -> Html | None:
    """A grid of charts, whose data go to the script."""
    drawn, told = [], None
    for each in made:
        key = f"c{len(charts)}"
        figure, charts[key] = chart.lines(each, key)
        drawn.append(figure)
        if chart.has_band(each):
            told = el("p", BAND, cls="note")
    return join([told, el("div", *drawn, cls=cls)]) if drawn else None


def _marks(shown: Shown) -> Section | None:
    names = figures.sets(shown.runs)
    if not names:
        return None
    parts: list[Html | None] = []
    for name in names:
        parts.append(el("h3", name, _counts(shown.runs, name)))
        parts.append(marks.measured(name, shown.runs, shown.labels))
    told = (
        "Calls is the share of answers with a call that can be read; it should be high where a "
        "call is due and low where words are. Small numbers are 95 % intervals over prompts, of "
        "means over seeds t-intervals. A change of a share is in points; it is bold where the two "
        "intervals share nothing, which is a careful test, and of a mean where its interval lies "
        "off 0. Blue is better, orange is worse."
    )
    drawn = [chart.spreads(title, "share", rows) for title, rows in figures.exact(shown)]
    grid = el("div", *drawn, cls="charts pairs") if drawn else None
    return Section("marks", "Before and after", join([el("p", told, cls="told"), *parts, grid]))


def _counts(runs: Sequence[Run], name: str) -> Html | None:
    for run in runs:
        for stage in run.measured:
            if name in stage.sets:
                found = stage.sets[name]
                call, text = (
                    "–" if count is None else f"{count:,.0f}"
                    for count in (found.call_rows, found.words_rows)
                )
                return el("small", f"{call} prompts call for a tool, {text} for words")
    return None


def _sampled(shown: Shown, charts: Charts) -> Section | None:
    grid = _figures(figures.passk(shown), charts, "charts pairs")
    table = marks.sampled(shown.runs, shown.labels)
    if table is not None and len(shown.runs) > 1:
        table = el("details", el("summary", "In numbers"), table)
    if grid is None and table is None:
        return None
    told = (
        "pass@k is the share of prompts of which at least one of k samples is exact. Where a curve "
        "starts higher and ends lower than before, answers have become more alike."
    )
    return Section("passk", "Several samples", join([el("p", told, cls="told"), grid, table]))


def _stage(shown: Shown, name: str, charts: Charts) -> Section | None:
    owned = shown.owned(name)
    loop = owned[0].stage.loop
    if loop == "teacher":
        body = [tables.taught(owned), tables.dropped(owned)]
    elif loop in LOOPS:
        rest = _figures(figures.others(owned), charts)
        body = [
            tables.facts(owned),
            _figures(figures.training(owned), charts),
            _figures(figures.rollouts(owned), charts),
            tables.broken(owned),
            None if rest is None else el("details", el("summary", "Every other number"), rest),
        ]
    else:
        return None
    notes = _notes(
        note if len(owned) == 1 else f"{label}: {note}"
        for label, _, _, stage in owned
        for note in stage.notes
    )
    kinds = dict.fromkeys([loop, *(s.preset for _, _, _, s in owned if s.preset is not None)])
    told = ", ".join(kind for kind in kinds if kind != name)
    title = f"{name} ({told})" if told else name
    return Section(f"stage-{_place(shown.runs, name)}", title, join([notes, *body]))


def _place(runs: Sequence[Run], name: str) -> int:
    names = list(dict.fromkeys(stage.name for run in runs for stage in run.stages))
    return names.index(name)


def _answers(runs: Sequence[Run]) -> Section | None:
    total = sum(stage.rollouts.total for run in runs for stage in run.stages)
    held = sum(len(stage.rollouts.answers) for run in runs for stage in run.stages)
    if not held:
        return None
    told = (
        f"{held:,} of {total:,} answers of the rollouts, evenly chosen by their place and not by "
        "what they are worth; all of them are in the stage's rollouts/*.parquet."
    )
    return Section("answers", "Answers of the rollouts", _browser(told, "rollouts"))


def _conversations(runs: Sequence[Run]) -> Section | None:
    total = sum(len(stage.said) for run in runs for stage in run.stages)
    if not total:
        return None
    told = (
        "The same prompt at each evaluation, some of every case, evenly chosen by their place and "
        f"not by what was answered; all {total:,} answers are in the stages' answers.jsonl."
    )
    return Section("conversations", "Answers before and after", _browser(told, "conversations"))


def _browser(told: str, name: str) -> Html:
    without = el("noscript", el("p", "This part needs the page's own script.", cls="note"))
    return join([el("p", told, cls="told"), without, el("div", cls="browser", data_of=name)])


def _settings(shown: Shown) -> Section:
    parts = []
    for run, label in zip(shown.runs, shown.labels, strict=True):
        facts = {"folder": str(run.folder), "star_jax": run.version, **run.machine}
        rows = [el("div", el("dt", name), el("dd", value)) for name, value in facts.items()]
        commands = "\n".join(stage.command for stage in run.stages if stage.command != "–")
        inside = [
            el("dl", *rows, cls="machine"),
            el("h4", "The whole run again"),
            el("pre", run.command, cls="command"),
        ]
        if commands:
            inside += [el("h4", "Its stages, each alone"), el("pre", commands, cls="command")]
        inside += [
            el("details", el("summary", f"{stage.name}: configuration"), el("pre", stage.config))
            for stage in run.stages
            if stage.config
        ]
        if len(shown.runs) > 1:
            parts.append(el("details", el("summary", label), *inside))
        else:
            parts += inside
    return Section("settings", "To do it again", join(parts))
