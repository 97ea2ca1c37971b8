"""The geometry of the charts with two axes: curves with bands or error bars, and scatters.

One small chart shows one task or one measure; many of them stand side by side on one scale each.
Lengths are in the units of the chart's own view box.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from lobes.report import formatting as fmt
from lobes.report.figures import Tick, digits_of, nice_ticks

WIDTH, HEIGHT = 320.0, 214.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 308.0, 10.0, 168.0
_LABEL = 7.0  # the width of a digit under an axis, in view box units

Mark = Literal["circle", "square", "diamond", "none"]


@dataclass(frozen=True)
class Points:
    """One curve or cloud: values at places; nan = undefined.

    `kind` is its CSS class. `lows` and `highs` are drawn as a band or, without `band`, as bars.
    `joined` draws a line through the points; `names` says what each point is, `cloud` draws many
    points as plain dots without names.
    """

    kind: str
    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    names: Sequence[str] = ()
    joined: bool = True
    band: bool = False
    cloud: bool = False
    mark: Mark = "none"


@dataclass(frozen=True)
class NamedPoint:
    """A point of a scatter and what it is."""

    x: float
    y: float
    name: str


@dataclass(frozen=True)
class Series:
    """One curve or cloud as SVG paths; `points` are drawn one by one, with their names."""

    kind: str
    label: str
    line: str
    band: str
    bars: str
    marks: str
    dots: str
    points: tuple[NamedPoint, ...]


@dataclass(frozen=True)
class Chart:
    """A chart with two axes; `zero` is the height of the line at 0 where the scale holds it."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_axis: str
    y_axis: str
    zero: float | None
    series: tuple[Series, ...]
    title: str
    description: str


def chart(
    shown: Sequence[Points],
    title: str,
    *,
    axes: tuple[str, str],
    description: str,
    hold: Sequence[float] = (),
) -> Chart | None:
    """Lay out a chart; None where no point is defined.

    `axes` name x and y, `hold` are values that the y scale must hold.
    """
    pairs = [pair for points in shown for pair in zip(points.xs, points.ys, strict=True)]
    defined = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    if not defined:
        return None
    ends = [y for points in shown for y in (*points.lows, *points.highs) if math.isfinite(y)]
    heights = [*(y for _, y in defined), *ends, *hold]
    x_values = nice_ticks(min(x for x, _ in defined), max(x for x, _ in defined), most=6)
    y_values = nice_ticks(min(heights), max(heights), most=6)
    x = _scale(x_values, _LEFT, _RIGHT)
    y = _scale(y_values, _BOTTOM, _TOP)
    x_ticks, y_ticks = _ticks(x_values, x), _ticks(y_values, y)
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        x_ticks=_apart(x_ticks),
        y_ticks=y_ticks,
        x_axis=axes[0],
        y_axis=axes[1],
        zero=y(0.0) if y_values[0] < 0 < y_values[-1] else None,
        series=tuple(_series(points, x, y) for points in shown),
        title=title,
        description=description,
    )


def in_words(points: Points, show: Callable[[float], str], place: Callable[[float], str]) -> str:
    """One curve for those who do not see it: `own lesion: 100 at 0 %, 84 at 20 %.`"""
    parts = [f"{show(y)} at {place(x)}" for x, y in zip(points.xs, points.ys, strict=True)]
    return f"{points.label}: {', '.join(parts)}."


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    def place(value: float) -> float:
        share = (value - values[0]) / (values[-1] - values[0])
        return round(start + share * (end - start), 1)

    return place


def _ticks(values: Sequence[float], place: Callable[[float], float]) -> tuple[Tick, ...]:
    digits = digits_of(values)

    def label(value: float) -> str:
        return fmt.thousands(value) if digits == 0 and value >= 0 else fmt.fixed(value, digits)

    return tuple(Tick(place(value), label(value)) for value in values)


def _apart(ticks: tuple[Tick, ...]) -> tuple[Tick, ...]:
    """The ticks, every second label left out where long labels would touch."""
    room = min(b.at - a.at for a, b in pairwise(ticks))
    if max(len(tick.label) for tick in ticks) * _LABEL < room:
        return ticks
    return tuple(tick if k % 2 == 0 else Tick(tick.at, "") for k, tick in enumerate(ticks))


def _series(points: Points, x: Callable[[float], float], y: Callable[[float], float]) -> Series:
    places = [
        (k, x(a), y(b))
        for k, (a, b) in enumerate(zip(points.xs, points.ys, strict=True))
        if math.isfinite(a) and math.isfinite(b)
    ]
    spans = [
        (x(a), y(low), y(high))
        for a, low, high in zip(points.xs, points.lows, points.highs, strict=False)
        if math.isfinite(a) and math.isfinite(low) and math.isfinite(high)
    ]
    named = [NamedPoint(a, b, points.names[k]) for k, a, b in places] if points.names else []
    path = "L".join(f"{a:g} {b:g}" for _, a, b in places)
    return Series(
        kind=points.kind,
        label=points.label,
        line=f"M{path}" if points.joined and len(places) > 1 else "",
        band=_band(spans) if points.band else "",
        bars="" if points.band else "".join(_bar(*span) for span in spans),
        marks="" if named or points.cloud else "".join(_mark(points.mark, *p[1:]) for p in places),
        dots="".join(f"M{a:g} {b:g}h0" for _, a, b in places) if points.cloud else "",
        points=tuple(named),
    )


def _band(spans: Sequence[tuple[float, float, float]]) -> str:
    if len(spans) < 2:
        return ""
    upper = "L".join(f"{x:g} {high:g}" for x, _, high in spans)
    lower = "L".join(f"{x:g} {low:g}" for x, low, _ in reversed(spans))
    return f"M{upper}L{lower}z"


def _bar(x: float, low: float, high: float) -> str:
    return f"M{x:g} {low:g}V{high:g}M{x - 4:g} {low:g}h8M{x - 4:g} {high:g}h8"


def _mark(mark: Mark, x: float, y: float) -> str:
    if mark == "circle":
        return f"M{x - 4:g} {y:g}a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"
    if mark == "square":
        return f"M{x - 3.5:g} {y - 3.5:g}h7v7h-7z"
    if mark == "diamond":
        return f"M{x:g} {y - 5.5:g}l5.5 5.5-5.5 5.5-5.5-5.5z"
    return ""
