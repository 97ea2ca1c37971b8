"""The geometry of the figures: numbers in, coordinates out, drawn by the templates as inline SVG.

Every figure carries a title and a description in words, for those who do not see it. Lengths are
in the units of the figure's own view box.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lobes.report import formatting as fmt

# Viridis at equal steps: readable without colour vision, even in lightness, fine on dark and light.
_VIRIDIS = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 73, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (110, 206, 88),
    (181, 222, 43),
    (253, 231, 37),
)
SHADES = 21
MOST_DOTS = 150
_MOST_POINTS = 80
_EQUAL = 1e-9  # what lies closer together differs by rounding only


@dataclass(frozen=True)
class Shade:
    """One step of the colour scale and the text colour that reads best on it, as CSS colours."""

    background: str
    text: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class StripRow:
    """One line of a strip plot: control dots (an SVG path), the observed value, its interval."""

    label: str
    title: str
    y: float
    dots: str
    observed: float | None
    low: float | None
    high: float | None
    is_mean: bool
    on_sample: float | None = None


@dataclass(frozen=True)
class StripPlot:
    """Observed D-scores against those of random lesions, one row for each task and their mean."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    zero: float
    ticks: tuple[Tick, ...]
    rows: tuple[StripRow, ...]
    axis: str
    title: str
    description: str


@dataclass(frozen=True)
class LineChart:
    """One curve over the steps of the training."""

    width: float
    height: float
    line: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float
    right: float
    bottom: float
    title: str
    description: str


@dataclass(frozen=True)
class Strip:
    """What one row of a strip plot shows, in percent; nan = undefined.

    `on_sample` is the value on the very examples that the controls were measured on, where these
    were a sample.
    """

    label: str
    value: float
    low: float
    high: float
    controls: Sequence[float]
    is_mean: bool = False
    on_sample: float = math.nan


def palette() -> tuple[Shade, ...]:
    """The `SHADES` steps of the heat maps' scale, from the lowest to the highest value."""
    steps = []
    for step in range(SHADES):
        place = step / (SHADES - 1) * (len(_VIRIDIS) - 1)
        lower = min(int(place), len(_VIRIDIS) - 2)
        pair = zip(_VIRIDIS[lower], _VIRIDIS[lower + 1], strict=True)
        red, green, blue = (round(a + (b - a) * (place - lower)) for a, b in pair)
        light = luminance(red, green, blue)
        text = "#fff" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000"
        steps.append(Shade(f"#{red:02x}{green:02x}{blue:02x}", text))
    return tuple(steps)


def luminance(red: int, green: int, blue: int) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2)."""
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (red / 255, green / 255, blue / 255)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def strip_plot(
    strips: Sequence[Strip],
    title: str,
    axis: str = "D-score, %",
    in_words: Callable[[Strip], str] | None = None,
) -> StripPlot | None:
    """Lay out a strip plot; None where nothing is defined.

    `axis` names the unit, `in_words` says a row for those who do not see it.
    """
    shown = [value for strip in strips for value in _values(strip)]
    if not any(math.isfinite(strip.value) for strip in strips):
        return None
    labels = [fmt.shorten(strip.label, 17) for strip in strips]
    width, row_height = 420.0, 26.0
    left = 22 + 6.9 * max(len(label) for label in labels)
    right = width - 18
    ticks = nice_ticks(min([0.0, *shown]), max([0.0, *shown]))
    bottom = 10 + row_height * len(strips)

    def x(value: float) -> float:
        return round(left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left), 1)

    rows = [
        _strip_row(strip, label, 10 + row_height * (index + 0.5), x)
        for index, (strip, label) in enumerate(zip(strips, labels, strict=True))
    ]
    digits = digits_of(ticks)
    return StripPlot(
        width=width,
        height=bottom + 40,
        left=round(left, 1),
        right=right,
        bottom=bottom,
        zero=x(0.0),
        ticks=tuple(Tick(x(tick), fmt.fixed(tick, digits)) for tick in ticks),
        rows=tuple(rows),
        axis=axis,
        title=title,
        description=" ".join((in_words or _in_words)(strip) for strip in strips),
    )


def _strip_row(strip: Strip, label: str, y: float, x: Callable[[float], float]) -> StripRow:
    """One row at height `y`; `x` takes a D-score to its place, undefined ones have none."""
    observed, low, high, on_sample = (
        x(value) if math.isfinite(value) else None
        for value in (strip.value, strip.low, strip.high, strip.on_sample)
    )
    return StripRow(
        label=label,
        title=strip.label,
        y=y,
        dots=_dots([x(value) for value in thinned(strip.controls)], y),
        observed=observed,
        low=low,
        high=high,
        is_mean=strip.is_mean,
        on_sample=on_sample,
    )


def line_chart(points: Sequence[tuple[float, float]], title: str) -> LineChart | None:
    """Lay out a curve of (step, value); more than 80 points are averaged in equal groups."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) < 2:
        return None
    groups = _averaged(finite)
    steps, values = [x for x, _ in groups], [y for _, y in groups]
    width, height, left, top = 250.0, 122.0, 40.0, 8.0
    right, bottom = width - 12, height - 20
    y_ticks = nice_ticks(min(values), max(values), most=4)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        return round(left + (step - first) / (last - first or 1) * (right - left), 1)

    def y(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(bottom - share * (bottom - top), 1)

    digits = digits_of(y_ticks)
    return LineChart(
        width=width,
        height=height,
        line="M" + "L".join(f"{x(step):g} {y(value):g}" for step, value in groups),
        x_ticks=tuple(Tick(x(step), fmt.thousands(step)) for step in (first, last)),
        y_ticks=tuple(Tick(y(tick), fmt.fixed(tick, digits)) for tick in y_ticks),
        left=left,
        right=right,
        bottom=bottom,
        title=title,
        description=(
            f"From {fmt.fixed(finite[0][1])} at step {fmt.thousands(finite[0][0])} to "
            f"{fmt.fixed(finite[-1][1])} at step {fmt.thousands(finite[-1][0])}; lowest "
            f"{fmt.fixed(min(y for _, y in finite))}, highest "
            f"{fmt.fixed(max(y for _, y in finite))}."
        ),
    )


def track(base: float, chance: float) -> Markup:
    """A base score beside chance on a track from 0 (or −1) to 1, for a cell of a table.

    Decoration: the row's cells have the same numbers.
    """
    known = [value for value in (base, chance) if math.isfinite(value)]
    start = -1.0 if min(known, default=0.0) < 0 else 0.0
    shapes = ['<path class="grid" d="M0 8H100"/>']
    if len(known) == 2:
        at, level = (round(100 * (value - start) / (1 - start), 1) for value in (base, chance))
        kind = "gain" if at >= level else "lack"
        shapes += [
            f'<path class="{kind}" d="M{level} 8H{at}"/>',
            f'<path class="chance" d="M{level} 2V14"/>',
            f'<circle class="base" cx="{at}" cy="8" r="4.5"/>',
        ]
    box = '<svg viewBox="-6 0 112 16" aria-hidden="true" focusable="false">'
    return Markup(f"{box}{''.join(shapes)}</svg>")


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers in equal steps that enclose [low, high]."""
    if high - low < _EQUAL:
        margin = abs(low) / 10 or 0.5
        low, high = low - margin, high + margin
    size = 10 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50, 100):
        step = factor * size
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [round(step * k, 12) for k in range(first, last + 1)]


def thinned(values: Sequence[float]) -> list[float]:
    """The values, or `MOST_DOTS` evenly spaced quantiles of them where there are more."""
    finite = sorted(value for value in values if math.isfinite(value))
    if len(finite) <= MOST_DOTS:
        return finite
    return [finite[round(k * (len(finite) - 1) / (MOST_DOTS - 1))] for k in range(MOST_DOTS)]


def _values(strip: Strip) -> list[float]:
    everything = [strip.value, strip.low, strip.high, strip.on_sample, *strip.controls]
    return [value for value in everything if math.isfinite(value)]


def _dots(places: Sequence[float], y: float) -> str:
    """Dots as zero-length strokes, spread in height by the golden ratio so that few overlap."""
    return "".join(
        f"M{x:g} {y + ((k * 0.618034) % 1 - 0.5) * 15:.1f}h0" for k, x in enumerate(places)
    )


def digits_of(ticks: Sequence[float]) -> int:
    """The decimals that tell neighbouring ticks apart."""
    return max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))


def _in_words(strip: Strip) -> str:
    text = f"{strip.label}: {fmt.points(strip.value)} %"
    if math.isfinite(strip.low) and math.isfinite(strip.high):
        text += f", interval {fmt.interval(strip.low, strip.high)}"
    if math.isfinite(strip.on_sample):
        text += f", on the controls’ examples {fmt.points(strip.on_sample)} %"
    finite = thinned(strip.controls)
    if finite:
        text += f", random lesions {fmt.interval(finite[0], finite[-1])}"
    return text + "."


def _averaged(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of consecutive groups of points, at most `_MOST_POINTS` of them."""
    groups = min(len(points), _MOST_POINTS)
    edges = [round(k * len(points) / groups) for k in range(groups + 1)]
    means = []
    for start, stop in itertools.pairwise(edges):
        part = points[start:stop]
        means.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return means
