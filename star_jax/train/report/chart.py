"""Charts as inline SVG: curves over steps, and values with their intervals.

lines(Chart, key) → the figure, and what the page's script needs to name values under the pointer
spreads(title, unit, rows) → the figure

Colours are classes of style.css; from the fifth on a curve is dashed too, so that no two look alike
to anybody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from star_jax.train.report.aggregate import Mark
from star_jax.train.report.markup import PERCENT, Html, el, in_unit, join

WIDTH, HEIGHT = 380, 214
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 8, 34
MOST = 240  # points that a curve of this width can show
COLOURS = 8
FEW = 30  # points up to which each is marked
ROW, ROW_LEFT = 26, 128  # of the charts with a row a value

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    label: str
    points: Points
    colour: int
    dashed: bool = False
    group: str | None = None  # what the legend calls it and others that look like it


@dataclass(frozen=True, kw_only=True)
class Chart:
    title: str
    unit: str
    lines: tuple[Line, ...]
    x: str = "step"
    low: float | None = None  # the ends of y, where data do not decide
    high: float | None = None
    doubling: bool = False  # x is shown as powers of two: 1, 2, 4, …


@dataclass(frozen=True, kw_only=True)
class Spread:
    label: str
    mark: Mark | None
    colour: int


def step(low: float, high: float, about: int) -> float:
    """1, 2, 2.5 or 5 times a power of ten, that cuts the range into about so many parts."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    return next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= raw * 0.999)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers within the range."""
    size = step(low, high, about)
    first, last = math.ceil(low / size - 1e-9), math.floor(high / size + 1e-9)
    return [i * size for i in range(first, last + 1)]


def named(value: float, size: float, unit: str) -> str:
    """A tick's label, with the digits that tell it from its neighbours."""
    if unit == "share":
        value, size = 100 * value, 100 * size
    sign, most = ("−" if value < -size / 2 else ""), abs(value)
    if not 1e-3 <= size < 1e4:
        return sign + _short(most, size) if sign or most > size / 2 else "0"
    digits = max(0, -math.floor(math.log10(size) + 1e-9))
    if not math.isclose(round(size, digits), size):  # 0.25, 2.5
        digits += 1
    return f"{sign}{most:,.{digits}f}" + (PERCENT if unit == "share" else "")


def _short(value: float, size: float) -> str:
    for letter, power in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if size >= power:
            return f"{value / power:,.4g}{letter}"
    return f"{value:.3g}".replace("e-0", "e−")


@dataclass(frozen=True)
class Scale:
    """A range of values on a range of places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _range(chart: Chart) -> tuple[float, float]:
    """The ends of y: round numbers around the data, from 0 where that is near."""
    values = [y for line in chart.lines for _, y in line.points if math.isfinite(y)] or [0.0]
    low = min(values) if chart.low is None else min(chart.low, *values)
    high = max(values) if chart.high is None else max(chart.high, *values)
    if 0 <= low < 0.6 * high:
        low = 0.0
    if high - low < 1e-9 * max(abs(high), abs(low), 1e-6):
        low, high = (0.0, 1.0) if high == 0 else sorted((0.0, 1.25 * high))
    size = step(low, high, 4)
    least, most = math.floor(low / size + 1e-6) * size, math.ceil(high / size - 1e-6) * size
    # Nothing is drawn where no share can be.
    return least, 1.0 if chart.unit == "share" and max(values) <= 1 < most else most


def thin(points: Points) -> tuple[Points, list[tuple[float, float, float]]]:
    """At most MOST points, each the mean of some, and (x, least, most) of what each stands for."""
    if len(points) <= MOST:
        return points, []
    found, band = [], []
    for i in range(MOST):
        some = points[i * len(points) // MOST : (i + 1) * len(points) // MOST]
        x = some[len(some) // 2][0]
        finite = [y for _, y in some if math.isfinite(y)]
        found.append((x, math.fsum(finite) / len(finite) if finite else math.nan))
        if finite:
            band.append((x, min(finite), max(finite)))
    return tuple(found), band


def lines(chart: Chart, key: str) -> tuple[Html, dict[str, Any]]:
    xs = [x for line in chart.lines for x, _ in line.points] or [0.0]
    first, last = min(xs), max(xs)
    if first == last:
        first, last = first - 0.5, last + 0.5
    elif 0 < first < 0.05 * last:  # step 1
        first = 0.0
    across = Scale(first, last, LEFT, WIDTH - RIGHT)
    up = Scale(*_range(chart), HEIGHT - BOTTOM, TOP)
    drawn = [thin(line.points) for line in chart.lines]
    curves = [
        piece
        for line, (points, band) in zip(chart.lines, drawn, strict=True)
        for piece in _curve(line, points, band, across, up)
    ]
    svg = el(
        "svg",
        *_axes(chart, across, up),
        *curves,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=_said(chart),
    )
    data = {
        "box": [LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM],
        "range": [first, last, up.low, up.high],
        "unit": chart.unit,
        "x": chart.x,
        "doubling": chart.doubling,
        "lines": [
            {
                "label": line.label,
                "colour": line.colour % COLOURS,
                "points": [[_rounded(x), _rounded(y)] for x, y in points if math.isfinite(y)],
            }
            for line, (points, _) in zip(chart.lines, drawn, strict=True)
        ],
    }
    return _figure(chart.title, chart.unit, chart.lines, svg, _lost(chart), key), data


def has_band(chart: Chart) -> bool:
    return any(len(line.points) > MOST for line in chart.lines)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _lost(chart: Chart) -> str:
    count = sum(not math.isfinite(y) for line in chart.lines for _, y in line.points)
    return f"{count} values are not finite and leave gaps." if count else ""


def _said(chart: Chart) -> str:
    """For who can't see it: where each curve begins and ends."""
    parts = []
    for line in chart.lines:
        finite = [y for _, y in line.points if math.isfinite(y)]
        if finite:
            ends = f"{in_unit(finite[0], chart.unit)} to {in_unit(finite[-1], chart.unit)}"
            parts.append(f"{line.label} from {ends}")
    return f"{chart.title}: {', '.join(parts) or 'no finite value'}"


def _figure(
    title: str, unit: str, entries: Sequence[Line], svg: Html, note: str, key: str | None
) -> Html:
    legend = None
    if len(entries) > 1:
        looks = {(line.group or line.label, _style(line)): line for line in entries}
        parts = [el("span", _swatch(line), label) for (label, _), line in looks.items()]
        legend = el("span", *parts, cls="legend")
    shown = "" if unit in ("", "share") else f", {unit}"
    named = el("span", el("b", title), el("span", shown, cls="unit") if shown else None)
    caption = el("figcaption", named, legend)
    return el(
        "figure",
        caption,
        el("div", svg, cls="plot"),
        el("p", note, cls="note") if note else None,
        data_chart=key,
    )


def _swatch(line: Line) -> Html:
    bar = el("line", x1=0, y1=5, x2=18, y2=5, cls=_style(line))
    return el("svg", bar, viewBox="0 0 18 10", cls="swatch", aria_hidden="true")


def _style(line: Line) -> str:
    dash = " dash" if line.dashed or line.colour % COLOURS >= COLOURS // 2 else ""
    return f"curve c{line.colour % COLOURS}{dash}"


def _axes(chart: Chart, across: Scale, up: Scale) -> Iterator[Html]:
    size = step(up.low, up.high, 4)
    for value in ticks(up.low, up.high, 4):
        y = f"{up(value):.1f}"
        is_zero = abs(value) < size * 1e-6 and up.low < 0
        yield el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, cls="zero" if is_zero else "grid")
        label = named(value, size, chart.unit)
        yield el("text", label, x=LEFT - 7, y=f"{up(value) + 3.6:.1f}", cls="tick end")
    for value, label in _x_ticks(chart, across):
        x = f"{across(value):.1f}"
        bottom = HEIGHT - BOTTOM
        yield el("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, cls="axis")
        yield el("text", label, x=x, y=bottom + 16, cls="tick middle")
    bottom = HEIGHT - BOTTOM
    yield el("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, cls="axis")
    yield el("text", chart.x, x=WIDTH - RIGHT, y=HEIGHT - 3, cls="tick end")


def _x_ticks(chart: Chart, across: Scale) -> list[tuple[float, str]]:
    if chart.doubling:
        places = sorted({x for line in chart.lines for x, _ in line.points})
        return [(x, f"{2**x:g}") for x in places]
    size = step(across.low, across.high, 5)
    whole = [x for x in ticks(across.low, across.high, 5) if float(x).is_integer()]
    return [(x, named(x, max(size, 1), "")) for x in whole]


def _curve(
    line: Line, points: Points, band: list[tuple[float, float, float]], across: Scale, up: Scale
) -> Iterator[Html]:
    colour = f"c{line.colour % COLOURS}"
    if band:
        edge = [f"{across(x):.1f},{up(most):.1f}" for x, _, most in band]
        edge += [f"{across(x):.1f},{up(least):.1f}" for x, least, _ in reversed(band)]
        yield el("polygon", points=" ".join(edge), cls=f"band {colour}")
    path, is_pen_down = [], False
    for x, y in points:
        if math.isfinite(y):
            path.append(f"{'L' if is_pen_down else 'M'}{across(x):.1f} {up(y):.1f}")
        is_pen_down = math.isfinite(y)
    yield el("path", d="".join(path), cls=_style(line))
    if len(points) <= FEW:
        for x, y in points:
            if math.isfinite(y):
                yield el("circle", cx=f"{across(x):.1f}", cy=f"{up(y):.1f}", r=2.4, cls=colour)


def spreads(title: str, unit: str, rows: Sequence[Spread]) -> Html:
    """A row a value, with a bar as wide as its interval; of shares, from 0 to 1."""
    ends = [end for row in rows if row.mark for end in row.mark if end is not None]
    low, high = (0.0, 1.0) if unit == "share" else (min(ends, default=0.0), max(ends, default=1.0))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    across = Scale(min(low, *ends, low), max(high, *ends, high), ROW_LEFT, WIDTH - 18)
    size, bottom = step(across.low, across.high, 4), TOP + ROW * len(rows)
    drawn: list[Html] = []
    for value in ticks(across.low, across.high, 4):
        x = f"{across(value):.1f}"
        drawn.append(el("line", x1=x, x2=x, y1=TOP, y2=bottom, cls="grid"))
        label = named(value, size, unit)
        drawn.append(el("text", label, x=x, y=bottom + 15, cls="tick middle"))
    for i, row in enumerate(rows):
        drawn.append(_spread(row, TOP + ROW * (i + 0.5), across, unit))
    said = ", ".join(f"{row.label} {_told(row.mark, unit)}" for row in rows)
    svg = el(
        "svg",
        *drawn,
        viewBox=f"0 0 {WIDTH} {bottom + 20}",
        role="img",
        aria_label=f"{title}: {said}",
    )
    return _figure(title, unit, (), svg, "", None)


def _told(mark: Mark | None, unit: str) -> str:
    if mark is None:
        return "–"
    if mark.low is None:
        return in_unit(mark.value, unit)
    ends = f"{in_unit(mark.low, unit)} to {in_unit(mark.high, unit)}"
    return f"{in_unit(mark.value, unit)} ({ends})"


def _spread(row: Spread, y: float, across: Scale, unit: str) -> Html:
    name = row.label if len(row.label) <= 20 else f"{row.label[:19]}…"
    parts = [el("text", name, x=ROW_LEFT - 10, y=f"{y + 3.8:.1f}", cls="tick end")]
    if row.mark is not None:
        value, low, high = row.mark
        if low is not None and high is not None:
            ends = {"x1": f"{across(low):.1f}", "x2": f"{across(high):.1f}"}
            parts.append(el("line", **ends, y1=y, y2=y, cls=f"whisker c{row.colour % COLOURS}"))
        dot = {"cx": f"{across(value):.1f}", "cy": y, "r": 4.2}
        parts.append(el("circle", **dot, cls=f"c{row.colour % COLOURS}"))
    return el("g", el("title", f"{row.label}: {_told(row.mark, unit)}"), join(parts))
