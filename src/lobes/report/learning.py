"""The geometry of the learning curves: score against training size, a curve for each start.

Sizes stand on a logarithmic axis. The scale of the scores follows the single seeds, not the
intervals: over two seeds an interval can be wider than any score, and it is then cut at the edge
of the figure; the table beside it has the numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lobes.report import formatting as fmt
from lobes.report.figures import Tick, digits_of, nice_ticks

WIDTH, HEIGHT = 640.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 520.0, 12.0, 290.0
_TICK_ROOM = 46.0  # the least distance of two labels under the axis
_LABEL_ROOM = 16.0  # the least distance of two names beside the curves
_DODGE = 6.0  # curves stand this far apart, so that their intervals do not hide each other


@dataclass(frozen=True)
class Curve:
    """One start's line, intervals and markers, as SVG paths; `kind` is its CSS class."""

    kind: str
    label: str
    label_y: float
    line: str
    intervals: str
    marks: str


@dataclass(frozen=True)
class LearningCurves:
    """Curves over the training sizes; `chance` is the height of the chance level."""

    width: float
    height: float
    left: float
    right: float
    bottom: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    chance: float | None
    chance_label: float
    curves: tuple[Curve, ...]
    title: str
    description: str


@dataclass(frozen=True)
class Start:
    """What one curve shows: the mean and interval at each size, nan = undefined."""

    kind: str
    label: str
    means: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]


def learning_curves(
    starts: Sequence[Start],
    sizes: Sequence[float],
    seeds: Sequence[float],
    chance: float,
    title: str,
) -> LearningCurves | None:
    """Lay out the curves; None where nothing is defined.

    `seeds` are all single scores, from which the scale is made.
    """
    shown = [value for start in starts for value in start.means] + [*seeds, chance]
    shown = [value for value in shown if math.isfinite(value)]
    if not any(math.isfinite(value) for start in starts for value in start.means):
        return None
    ticks = nice_ticks(min(shown), max(shown))
    x, y = _x_scale(sizes), _y_scale(ticks)
    level = y(chance) if math.isfinite(chance) else None
    ends = [_end(start, y) for start in starts]
    places = _spread([*ends, math.nan if level is None else level])
    middle = (len(starts) - 1) / 2
    curves = [
        _curve(start, [x(s) + (k - middle) * _DODGE for s in sizes], y, ticks, places[k])
        for k, start in enumerate(starts)
    ]
    decimals = digits_of(ticks)
    return LearningCurves(
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        bottom=_BOTTOM,
        x_ticks=_x_ticks(sizes, x),
        y_ticks=tuple(Tick(y(tick), fmt.fixed(tick, decimals)) for tick in ticks),
        chance=level,
        chance_label=places[-1],
        curves=tuple(curves),
        title=title,
        description=" ".join(_in_words(start, sizes) for start in starts),
    )


def _x_scale(sizes: Sequence[float]) -> Callable[[float], float]:
    logs = [math.log10(max(size, 1)) for size in sizes]
    first, last = min(logs), max(logs)
    inner = _LEFT + 24, _RIGHT - 24

    def x(size: float) -> float:
        if last == first:
            return sum(inner) / 2
        share = (math.log10(max(size, 1)) - first) / (last - first)
        return round(inner[0] + share * (inner[1] - inner[0]), 1)

    return x


def _y_scale(ticks: Sequence[float]) -> Callable[[float], float]:
    def y(value: float) -> float:
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return round(_BOTTOM - share * (_BOTTOM - _TOP), 1)

    return y


def _x_ticks(sizes: Sequence[float], x: Callable[[float], float]) -> tuple[Tick, ...]:
    """A tick for each size; where two would touch, only one of them has its label."""
    ticks: list[Tick] = []
    for size in sorted(set(sizes), reverse=True):
        at = x(size)
        room = not any(tick.label and tick.at - at < _TICK_ROOM for tick in ticks)
        ticks.append(Tick(at, fmt.thousands(size) if room else ""))
    return tuple(reversed(ticks))


def _curve(
    start: Start,
    places: Sequence[float],
    y: Callable[[float], float],
    ticks: Sequence[float],
    label_y: float,
) -> Curve:
    line, intervals, marks, drawing = [], [], [], False
    ends = zip(places, start.means, start.lows, start.highs, strict=True)
    for x, mean, low, high in ends:
        if not math.isfinite(mean):
            drawing = False
            continue
        line.append(f"{'L' if drawing else 'M'}{x:g} {y(mean):g}")
        marks.append(_MARKS[start.kind](x, y(mean)))
        drawing = True
        if math.isfinite(low) and math.isfinite(high):
            intervals.append(_interval(x, low, high, y, ticks))
    return Curve(
        kind=start.kind,
        label=start.label,
        label_y=label_y,
        line="".join(line),
        intervals="".join(intervals),
        marks="".join(marks),
    )


def _interval(
    x: float, low: float, high: float, y: Callable[[float], float], ticks: Sequence[float]
) -> str:
    """A bar with a cap at each end that lies inside the figure."""
    lowest, highest = max(low, ticks[0]), min(high, ticks[-1])
    path = f"M{x:g} {y(lowest):g}V{y(highest):g}"
    for end, inside in ((low, low >= ticks[0]), (high, high <= ticks[-1])):
        if inside:
            path += f"M{x - 3:g} {y(end):g}h6"
    return path


def _circle(x: float, y: float) -> str:
    return f"M{x - 4.5:g} {y:g}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0z"


def _square(x: float, y: float) -> str:
    return f"M{x - 4:g} {y - 4:g}h8v8h-8z"


def _diamond(x: float, y: float) -> str:
    return f"M{x:g} {y - 6:g}l6 6-6 6-6-6z"


_MARKS = {"pretrained": _circle, "multi": _square, "iat": _diamond}


def _end(start: Start, y: Callable[[float], float]) -> float:
    """The height of a curve's last point; nan without any."""
    defined = [value for value in start.means if math.isfinite(value)]
    return y(defined[-1]) if defined else math.nan


def _spread(heights: Sequence[float]) -> list[float]:
    """Baselines for names at these heights, moved apart so that none overlaps; nan → the bottom."""
    order = sorted(range(len(heights)), key=lambda k: (math.isnan(heights[k]), heights[k]))
    places = [_BOTTOM if math.isnan(heights[k]) else heights[k] + 4 for k in order]
    for above, below in pairwise(range(len(places))):
        places[below] = max(places[below], places[above] + _LABEL_ROOM)
    excess = max(0.0, places[-1] - (_BOTTOM + 4))
    places[-1] -= excess
    for below, above in pairwise(reversed(range(len(places)))):
        places[above] = min(places[above], places[below] - _LABEL_ROOM)
    spread = [0.0] * len(heights)
    for k, place in zip(order, places, strict=True):
        spread[k] = round(place, 1)
    return spread


def _in_words(start: Start, sizes: Sequence[float]) -> str:
    parts = [
        f"{fmt.fixed(mean)} with {fmt.thousands(size)}"
        for size, mean in zip(sizes, start.means, strict=True)
    ]
    return f"{start.label}: {', '.join(parts)}."
