"""The page's plain tables: what the stages did and what a teacher's answers came to."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from star_jax.train.report.figures import Owned, kinds
from star_jax.train.report.markup import Html, duration, el, number, share
from star_jax.train.report.run import Run, Stage


def plain(heads: Sequence[str], rows: Iterable[Sequence[str | Html]], texts: int) -> Html:
    """A table whose first `texts` columns are words, the others numbers."""
    head = el(
        "tr",
        *(
            el("th", title, scope="col", cls=None if i < texts else "n")
            for i, title in enumerate(heads)
        ),
    )
    body = [
        el(
            "tr",
            *(
                el("th", cell, scope="row")
                if i == 0
                else el("td", cell, cls=None if i < texts else "n")
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    return el("div", el("table", el("thead", head), el("tbody", *body)), cls="wide")


# What was done

STATES = {"done": "●", "running": "◐", "waiting": "○", "failed": "✕", "stopped": "◼"}


def stages(run: Run) -> Html:
    rows = [
        (
            stage.name,
            stage.loop if stage.preset is None else f"{stage.loop}, {stage.preset}",
            el(
                "span", f"{STATES.get(stage.state, '·')} {stage.state}", cls=f"state {_word(stage)}"
            ),
            duration(stage.seconds),
            _came_to(stage),
            el("code", stage.output),
        )
        for stage in run.stages
    ]
    heads = ["stage", "what", "state", "time", "came to", "folder"]
    return plain(heads, rows, texts=6)


def _word(stage: Stage) -> str:
    return stage.state if stage.state in STATES else "unknown"


def _came_to(stage: Stage) -> str:
    if stage.rollouts.tallies:
        return f"{_steps(stage)}, {len(stage.rollouts.tallies):,} rollouts"
    if stage.metrics:
        loss = stage.metrics[-1][1].get("loss/total_nats")
        return _steps(stage) + ("" if loss is None else f", loss {number(loss)}")
    if stage.teaching is not None:
        kept, samples = (stage.teaching.counts.get(name) for name in ("kept", "samples"))
        return f"{number(kept)} of {number(samples)} answers kept"
    if stage.sets:
        rows = [found.rows for found in stage.sets.values()]
        return ", ".join(f"{name} ({number(n)})" for name, n in zip(stage.sets, rows, strict=True))
    return "–"


def _steps(stage: Stage) -> str:
    return f"{stage.metrics[-1][0]:,} steps" if stage.metrics else "no step"


def facts(owned: Owned) -> Html:
    """How long a stage took and how fast it was, a row a run."""
    heads = ["run", "state", "time", "steps", "median step", "tokens/s", "peak memory", "model"]
    rows = [
        (
            label,
            stage.state,
            duration(stage.seconds),
            number(stage.metrics[-1][0]) if stage.metrics else "–",
            _median(
                stage, "time/step_s", lambda x: duration(x) if x >= 1 else f"{1000 * x:.0f} ms"
            ),
            _median(stage, "speed/tokens_per_s", lambda x: number(round(x))),
            _peak(stage),
            "saved" if stage.has_model else "–",
        )
        for label, _, _, stage in owned
    ]
    return plain(heads, rows, texts=2)


def _median(stage: Stage, name: str, write: Callable[[float], str]) -> str:
    values = [row[name] for _, row in stage.pace if name in row]
    return write(statistics.median(values)) if values else "–"


def _peak(stage: Stage) -> str:
    values = [row["memory/peak_bytes"] for _, row in stage.pace if "memory/peak_bytes" in row]
    return f"{max(values) / 2**30:.2f} GiB" if values else "–"


TAUGHT = {
    "prompts": "prompts",
    "samples": "answers",
    "kept": "kept",
    "pairs": "pairs",
    "prompts_with_none": "prompts without one",
}


def taught(owned: Owned) -> Html:
    """What a teacher was asked, and how much of it is right."""
    known = set(TAUGHT)
    heads = ["run", *TAUGHT.values(), "rows in train.jsonl"]
    for wanted in ("call", "words"):
        names = [f"{wanted}_{name}" for name in ("samples", "valid", "exact")]
        known |= set(names)
        heads += [f"{wanted}: {name}" for name in ("answers", "valid", "exact")]
    more = sorted({k for _, _, _, s in owned if s.teaching for k in s.teaching.counts} - known)
    rows = []
    for label, _, _, stage in owned:
        teaching = stage.teaching
        counts = teaching.counts if teaching else {}
        cells = [number(counts.get(name)) for name in TAUGHT]
        cells.append(number(teaching.rows if teaching else None))
        for wanted in ("call", "words"):
            asked = counts.get(f"{wanted}_samples")
            cells.append(number(asked))
            cells += [_part(counts.get(f"{wanted}_{name}"), asked) for name in ("valid", "exact")]
        rows.append((label, *cells, *(number(counts.get(name)) for name in more)))
    return plain([*heads, *(name.replace("_", " ") for name in more)], rows, texts=1)


def _part(count: float | None, of: float | None) -> str:
    """Counts, with their share; what is no count already is one."""
    if count is None or not of:
        return number(count)
    return f"{number(count)} ({share(count / of, 0)})"


def dropped(owned: Owned) -> Html | None:
    """Why a teacher's answers were not kept."""
    return _counts(
        "why not kept",
        [(label, dict(s.teaching.dropped) if s.teaching else {}) for label, _, _, s in owned],
        [s.teaching.counts.get("samples") if s.teaching else None for _, _, _, s in owned],
    )


def broken(owned: Owned) -> Html | None:
    """The kinds of broken formats over all rollouts."""
    return _counts(
        "broken format",
        [(label, {kind: float(n) for kind, n in kinds(s).items()}) for label, _, _, s in owned],
        [float(sum(t.samples for t in s.rollouts.tallies)) or None for _, _, _, s in owned],
    )


def _counts(
    title: str, found: Sequence[tuple[str, dict[str, float]]], totals: Sequence[float | None]
) -> Html | None:
    sums: dict[str, float] = {}
    for _, counts in found:
        for kind, count in counts.items():
            sums[kind] = sums.get(kind, 0) + count
    if not sums:
        return None
    names = sorted(sums, key=lambda kind: (-sums[kind], kind))
    rows = [
        (
            name,
            *(
                _part(counts.get(name, 0.0), total)
                for (_, counts), total in zip(found, totals, strict=True)
            ),
        )
        for name in names
    ]
    heads = [title, *(label if len(found) > 1 else "answers" for label, _ in found)]
    return plain(heads, rows, texts=1)
