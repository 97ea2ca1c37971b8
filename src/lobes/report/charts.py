"""The figures of a page: strip plots, curves, charts with two axes, learning curves.

Numbers come in, a `Drawing` goes out. All of them share the axes, the ticks and the marks; each
carries a title and a description in words, for those who do not see it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

from markupsafe import Markup

from lobes.report import formatting as fmt
from lobes.report.axes import KINDS, Axis, Frame, MarkShape, apart, mark, sample
from lobes.report.drawing import Drawing, Path, Shape, Text, joined, plain, width_of

MOST_DOTS = 150
_MOST_POINTS = 80
MOST_NAMED = 15  # points of a cloud
_NAME_ROOM = 16.0  # the least distance of two names beside the curves
_DODGE = 6.0  # learning curves stand this far apart, so that their intervals stay apart, too

# --- strip plots


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

    def defined(self) -> list[float]:
        """Every number that is drawn."""
        everything = [self.value, self.low, self.high, self.on_sample, *self.controls]
        return [value for value in everything if math.isfinite(value)]


def strip_plot(
    strips: Sequence[Strip],
    title: str,
    axis: str = "D-score, %",
    in_words: Callable[[Strip], str] | None = None,
) -> Drawing | None:
    """Observed values against those of other lesions, a row each; None where nothing is defined.

    `axis` names the unit, `in_words` says a row for those who do not see it.
    """
    if not any(math.isfinite(strip.value) for strip in strips):
        return None
    labels = [fmt.shorten(strip.label, 17) for strip in strips]
    width, rise, top = 420.0, 26.0, 10.0
    left, right = round(22 + 6.9 * max(map(len, labels)), 1), width - 18
    bottom = top + rise * len(strips)
    x = Axis.around([0.0, *(value for strip in strips for value in strip.defined())], left, right)
    shapes: list[Shape] = []
    for at, label in x.ticks():
        shapes.append(Path("grid", f"M{plain(at)} 6V{plain(bottom)}"))
        shapes.append(Text("tick", at, bottom + 17, label))
    shapes.append(Path("zero", f"M{plain(x.at(0.0))} 6V{plain(bottom)}"))
    shapes.append(Text("tick", (left + right) / 2, bottom + 34, axis))
    for place, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        y = top + rise * (place + 0.5)
        name = "end bold" if strip.is_mean else "end"
        shapes.append(Text(name, left - 12, y + 4, label, strip.label))
        shapes += _strip(strip, x, y)
    return Drawing(
        kind="strip",
        width=width,
        height=bottom + 40,
        title=title,
        description=" ".join((in_words or _in_words)(strip) for strip in strips),
        shapes=tuple(shapes),
    )


def _strip(strip: Strip, x: Axis, y: float) -> list[Shape]:
    """The controls' dots, the interval and the observed value of one row."""
    color, shapes = "ink" if strip.is_mean else "accent", []
    if strip.controls and (dots := thinned(strip.controls)):
        shapes.append(Path("dots", _dots([x.at(value) for value in dots], y)))
    if math.isfinite(strip.on_sample):
        shapes.append(Path(f"sample {color}", mark("diamond", x.at(strip.on_sample), y, 5)))
    if math.isfinite(strip.low) and math.isfinite(strip.high):
        low, high = plain(x.at(strip.low)), plain(x.at(strip.high))
        caps = f"M{low} {plain(y - 4)}v8M{high} {plain(y - 4)}v8"
        shapes.append(Path(f"interval {color}", f"M{low} {plain(y)}H{high}{caps}"))
    if math.isfinite(strip.value):
        shapes.append(Path(f"observed {color}", mark("diamond", x.at(strip.value), y, 5)))
    return list(shapes)


def thinned(values: Sequence[float]) -> list[float]:
    """The values, or `MOST_DOTS` evenly spaced quantiles of them where there are more."""
    finite = sorted(value for value in values if math.isfinite(value))
    if len(finite) <= MOST_DOTS:
        return finite
    return [finite[round(k * (len(finite) - 1) / (MOST_DOTS - 1))] for k in range(MOST_DOTS)]


def _dots(places: Sequence[float], y: float) -> str:
    """Dots as zero-length strokes, spread in height by the golden ratio so that few overlap."""
    return "".join(
        f"M{x:g} {y + ((k * 0.618034) % 1 - 0.5) * 15:.1f}h0" for k, x in enumerate(places)
    )


def _in_words(strip: Strip) -> str:
    text = f"{strip.label}: {fmt.points(strip.value)} %"
    if math.isfinite(strip.low) and math.isfinite(strip.high):
        text += f", interval {fmt.interval(strip.low, strip.high)}"
    if math.isfinite(strip.on_sample):
        text += f", on the controls’ examples {fmt.points(strip.on_sample)} %"
    finite = thinned(strip.controls)
    if finite:
        text += f", exchanged heads {fmt.interval(finite[0], finite[-1])}"
    return text + "."


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


# --- curves over a training


def line_chart(
    points: Sequence[tuple[float, float]], title: str, kind: str = "score"
) -> Drawing | None:
    """A curve of (step, value); more than 80 points are averaged in equal groups.

    None where fewer than two points are defined. `kind` is `loss` or `score`.
    """
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) < 2:
        return None
    groups = _averaged(finite)
    frame = Frame(40.0, 238.0, 8.0, 102.0, "tiny")
    steps, values = [x for x, _ in groups], [y for _, y in finite]
    y = Axis.around([value for _, value in groups], frame.bottom, frame.top, most=4)
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        share = (step - first) / (last - first or 1)
        return round(frame.left + share * (frame.right - frame.left), 1)

    places = [(x(step), y.at(value)) for step, value in groups]
    ends = [
        Text("tick start tiny", frame.left, 117, fmt.thousands(first)),
        Text("tick end tiny", frame.right, 117, f"step {fmt.thousands(last)}"),
    ]
    curve = Path(f"curve {KINDS[kind][0]}", joined(places))
    steps_of = [fmt.thousands(step) for step in (finite[0][0], finite[-1][0])]
    return Drawing(
        kind="line",
        width=250.0,
        height=122.0,
        title=title,
        description=(
            f"From {fmt.fixed(values[0])} at step {steps_of[0]} to {fmt.fixed(values[-1])} at "
            f"step {steps_of[1]}; lowest {fmt.fixed(min(values))}, highest "
            f"{fmt.fixed(max(values))}."
        ),
        shapes=(*frame.heights(y), *ends, curve),
        above=title,
    )


def _averaged(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of consecutive groups of points, at most `_MOST_POINTS` of them."""
    groups = min(len(points), _MOST_POINTS)
    edges = [round(k * len(points) / groups) for k in range(groups + 1)]
    means = []
    for start, stop in pairwise(edges):
        part = points[start:stop]
        means.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return means


# --- charts with two axes


@dataclass(frozen=True)
class Points:
    """One curve or cloud: values at places; nan = undefined.

    `kind` is its color and dashes. `lows` and `highs` are drawn as a band or, without `band`, as
    bars. `joined` draws a line through the points, broken at what is undefined where `breaks`;
    `names` says what each point is, `cloud` draws many points as plain dots without names.
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
    mark: MarkShape = "none"
    breaks: bool = False


def chart(
    shown: Sequence[Points],
    title: str,
    *,
    axes: tuple[str, str],
    description: str,
    hold: Sequence[float] = (),
) -> Drawing | None:
    """Curves with bands or error bars, or a scatter; None where no point is defined.

    `axes` name x and y, `hold` are values that the y scale must hold.
    """
    pairs = [pair for points in shown for pair in zip(points.xs, points.ys, strict=True)]
    defined = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    if not defined:
        return None
    ends = [y for points in shown for y in (*points.lows, *points.highs) if math.isfinite(y)]
    frame = Frame(48.0, 308.0, 10.0, 168.0, "small")
    x = Axis.around([x for x, _ in defined], frame.left, frame.right)
    y = Axis.around([*(y for _, y in defined), *ends, *hold], frame.bottom, frame.top)
    shapes = [*frame.heights(y), *frame.feet(apart(x.ticks()), axes[0])]
    if y.values[0] < 0 < y.values[-1]:
        shapes.append(frame.across(y.at(0.0), "zero"))
    for points in shown:
        shapes += _series(points, x.at, y)
    return Drawing(
        kind="chart",
        width=320.0,
        height=214.0,
        title=title,
        description=description,
        shapes=tuple(shapes),
        above=axes[1],
        keys=tuple((sample(p.kind, p.mark, p.band), p.label) for p in shown),
    )


def in_words(points: Points, show: Callable[[float], str], place: Callable[[float], str]) -> str:
    """One curve for those who do not see it: `own lesion: 100 at 0 %, 84 at 20 %.`"""
    parts = [f"{show(y)} at {place(x)}" for x, y in zip(points.xs, points.ys, strict=True)]
    return f"{points.label}: {', '.join(parts)}."


def _series(points: Points, x: Callable[[float], float], y: Axis, size: float = 4.0) -> list[Shape]:
    """The band or the bars, the line and the marks of one curve or cloud."""
    color, dashes = KINDS[points.kind]
    places = [
        (k, x(a), y.at(b))
        for k, (a, b) in enumerate(zip(points.xs, points.ys, strict=True))
        if math.isfinite(a) and math.isfinite(b)
    ]
    spans = [
        (x(a), low, high)
        for a, low, high in zip(points.xs, points.lows, points.highs, strict=False)
        if math.isfinite(a) and math.isfinite(low) and math.isfinite(high)
    ]
    faint = " faint" if points.names else ""
    found: list[Shape] = [
        Path("band", _band(spans, y) if points.band else ""),
        Path(f"bars {color}", "" if points.band else "".join(_bar(*span, y) for span in spans)),
        Path(f"curve {color} {dashes}".strip(), _line(points, places) if points.joined else ""),
    ]
    if points.cloud:
        found.append(Path(f"cloud {color}", "".join(f"M{a:g} {b:g}h0" for _, a, b in places)))
    elif points.names:
        found += [
            Path(f"marks {color}{faint}", mark("circle", a, b), points.names[k])
            for k, a, b in places
        ]
        found += _named(points, places)
    else:
        marks = "".join(mark(points.mark, a, b, size) for _, a, b in places)
        found.append(Path(f"marks {color}", marks))
    return [shape for shape in found if isinstance(shape, Text) or shape.data]


def _named(points: Points, places: Sequence[tuple[int, float, float]]) -> Iterator[Text]:
    """The names of a few points beside them, without those that would lie over others."""
    taken: list[tuple[float, float, float]] = []
    for k, a, b in places if len(places) <= MOST_NAMED else ():
        name = fmt.shorten(points.names[k], 20)
        room = width_of(name, 10)
        is_left = a > 308 - 8 - room
        start = a - 8 - room if is_left else a + 8
        if start < 48 or any(
            s < start + room and start < e and abs(b - y) < 11 for s, e, y in taken
        ):
            continue
        taken.append((start, start + room, b))
        x = a - 8 if is_left else a + 8
        style = "tick tiny end" if is_left else "tick tiny start"
        yield Text(style, round(x, 1), round(b + 3.5, 1), name, points.names[k])


def _line(points: Points, places: Sequence[tuple[int, float, float]]) -> str:
    """The line through the points; without `breaks` it passes over what is undefined."""
    parts: list[list[tuple[float, float]]] = []
    before = -1
    for k, a, b in places:
        if not parts or (points.breaks and k != before + 1):
            parts.append([])
        parts[-1].append((a, b))
        before = k
    return "".join(joined(part) for part in parts if points.breaks or len(part) > 1)


def _band(spans: Sequence[tuple[float, float, float]], y: Axis) -> str:
    if len(spans) < 2:
        return ""
    upper = [(x, y.at(high)) for x, _, high in spans]
    lower = [(x, y.at(low)) for x, low, _ in reversed(spans)]
    return f"{joined([*upper, *lower])}z"


def _bar(x: float, low: float, high: float, y: Axis) -> str:
    """A bar with a cap at each end that lies inside the frame."""
    path = f"M{plain(x)} {plain(y.at(y.cut(low)))}V{plain(y.at(y.cut(high)))}"
    for end in (low, high):
        if end == y.cut(end):
            path += f"M{plain(x - 3)} {plain(y.at(end))}h6"
    return path


# --- learning curves


@dataclass(frozen=True)
class Start:
    """What one learning curve shows: the mean and interval at each size, nan = undefined."""

    kind: Literal["pretrained", "multi", "iat"]
    label: str
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


_START_MARKS: dict[str, MarkShape] = {
    "pretrained": "circle",
    "multi": "square",
    "iat": "diamond",
}


def learning_curves(
    starts: Sequence[Start],
    sizes: Sequence[float],
    seeds: Sequence[float],
    chance: float,
    title: str,
) -> Drawing | None:
    """Score against the number of training examples, a curve for each start, on a log scale.

    None where nothing is defined. The scale of the scores follows the single `seeds`, not the
    intervals: over two seeds an interval can be wider than any score, and it is then cut at the
    edge of the figure; the table beside it has the numbers.
    """
    if not any(math.isfinite(value) for start in starts for value in start.means):
        return None
    held = [*(value for start in starts for value in start.means), *seeds, chance]
    frame = Frame(52.0, 520.0, 12.0, 290.0)
    y = Axis.around([value for value in held if math.isfinite(value)], frame.bottom, frame.top)
    x = _log_scale(sizes, frame)
    shapes = [*frame.heights(y), *frame.feet(_room(sizes, x), _EXAMPLES)]
    ends = [_end(start, y) for start in starts]
    level = y.at(chance) if math.isfinite(chance) else math.nan
    *places, beside = _spread([*ends, level], frame.bottom)
    if math.isfinite(level):
        shapes.append(frame.across(level, "level"))
        shapes.append(Text("tick start", frame.right + 26, beside, "chance"))
    middle = (len(starts) - 1) / 2
    for k, (start, place) in enumerate(zip(starts, places, strict=True)):
        shift = (k - middle) * _DODGE
        shapes += _series(_points(start, sizes), partial(_shifted, x, shift), y, 4.5)
        sign = mark(_START_MARKS[start.kind], frame.right + 16, place - 4, 4.5)
        shapes.append(Path(f"marks {KINDS[start.kind][0]}", sign))
        shapes.append(Text("start", frame.right + 26, place, start.label))
    return Drawing(
        kind="learning",
        width=640.0,
        height=340.0,
        title=title,
        description=" ".join(_start_in_words(start, sizes) for start in starts),
        shapes=tuple(shapes),
        above=title,
    )


def _points(start: Start, sizes: Sequence[float]) -> Points:
    return Points(
        start.kind,
        start.label,
        sizes,
        start.means,
        start.lows,
        start.highs,
        mark=_START_MARKS[start.kind],
        breaks=True,
    )


def _shifted(x: Callable[[float], float], shift: float, size: float) -> float:
    return x(size) + shift


_EXAMPLES = "training examples of the new task (logarithmic)"


def _log_scale(sizes: Sequence[float], frame: Frame) -> Callable[[float], float]:
    logs = [math.log10(max(size, 1)) for size in sizes]
    first, last = min(logs), max(logs)
    left, right = frame.left + 24, frame.right - 24

    def x(size: float) -> float:
        if last == first:
            return (left + right) / 2
        share = (math.log10(max(size, 1)) - first) / (last - first)
        return round(left + share * (right - left), 1)

    return x


def _room(sizes: Sequence[float], x: Callable[[float], float]) -> list[tuple[float, str]]:
    """A tick for each size; where two labels would touch, only the larger size has its label."""
    ticks: list[tuple[float, str]] = []
    for size in sorted(set(sizes), reverse=True):
        at = x(size)
        room = not any(label and other - at < 46 for other, label in ticks)
        ticks.append((at, fmt.thousands(size) if room else ""))
    return ticks[::-1]


def _end(start: Start, y: Axis) -> float:
    """The height of a curve's last point; nan without any."""
    defined = [value for value in start.means if math.isfinite(value)]
    return y.at(defined[-1]) if defined else math.nan


def _spread(heights: Sequence[float], bottom: float) -> list[float]:
    """Baselines for names at these heights, moved apart so that none overlaps; nan → the bottom."""
    order = sorted(range(len(heights)), key=lambda k: (math.isnan(heights[k]), heights[k]))
    places = [bottom if math.isnan(heights[k]) else heights[k] + 4 for k in order]
    for above, below in pairwise(range(len(places))):
        places[below] = max(places[below], places[above] + _NAME_ROOM)
    places[-1] -= max(0.0, places[-1] - (bottom + 4))
    for below, above in pairwise(reversed(range(len(places)))):
        places[above] = min(places[above], places[below] - _NAME_ROOM)
    spread = [0.0] * len(heights)
    for k, place in zip(order, places, strict=True):
        spread[k] = round(place, 1)
    return spread


def _start_in_words(start: Start, sizes: Sequence[float]) -> str:
    parts = [
        f"{fmt.fixed(mean)} with {fmt.thousands(size)}"
        for size, mean in zip(sizes, start.means, strict=True)
    ]
    return f"{start.label}: {', '.join(parts)}."
