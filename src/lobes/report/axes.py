"""What all figures share: axes with round ticks, the frame around curves, marks, kinds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup

from lobes.report import formatting as fmt
from lobes.report.drawing import Path, Shape, Text, moved, plain

_EQUAL = 1e-9  # what lies closer together differs by rounding only
_LETTER = 7.0  # the width of a digit under an axis

MarkShape = Literal["circle", "square", "diamond", "none"]
# The color and the dashes of each kind of curve or cloud, as styles.
KINDS = {
    "own": ("accent", ""),
    "others": ("loss", "dashed"),
    "random": ("quiet", "dotted"),
    "pairs": ("accent", ""),
    "heads": ("accent", ""),
    "score": ("accent", ""),
    "loss": ("loss", ""),
    "pretrained": ("quiet", "short"),
    "multi": ("gain", "dashed"),
    "iat": ("loss", ""),
}


@dataclass(frozen=True)
class Axis:
    """Round values in equal steps, the first at `start` and the last at `end`."""

    values: tuple[float, ...]
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, *, most: int = 6) -> "Axis":
        """The axis that holds all these values."""
        return cls(tuple(nice_ticks(min(values), max(values), most)), start, end)

    def at(self, value: float) -> float:
        """The place of a value."""
        share = (value - self.values[0]) / (self.values[-1] - self.values[0])
        return round(self.start + share * (self.end - self.start), 1)

    def cut(self, value: float) -> float:
        """The value, or the end of the axis that it lies beyond."""
        return min(max(value, self.values[0]), self.values[-1])

    def ticks(self) -> list[tuple[float, str]]:
        """(place, label) of each value, with the decimals that tell them apart."""
        digits = digits_of(self.values)
        return [(self.at(value), _label(value, digits)) for value in self.values]


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers in equal steps that enclose [low, high]."""
    if high - low < _EQUAL:
        # round numbers have twelve decimals: what is smaller is drawn as 0
        margin = abs(low) / 10 if abs(low) > _EQUAL else 0.5
        low, high = low - margin, high + margin
    size = 10 ** math.floor(math.log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50, 100):
        step = factor * size
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first < most:
            break
    return [round(step * k, 12) for k in range(first, last + 1)]


def digits_of(ticks: Sequence[float]) -> int:
    """The decimals that tell neighboring ticks apart."""
    return max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))


def _label(value: float, digits: int) -> str:
    if digits == 0 and value >= 0:
        return fmt.thousands(value)
    return fmt.fixed(value, digits)


def apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The ticks, every second label left out where long labels would touch."""
    room = min((b[0] - a[0] for a, b in pairwise(ticks)), default=math.inf)
    if max(len(label) for _, label in ticks) * _LETTER < room:
        return list(ticks)
    return [(at, label if k % 2 == 0 else "") for k, (at, label) in enumerate(ticks)]


@dataclass(frozen=True)
class Frame:
    """The rectangle that curves are drawn in; `size` is the style of the words around it."""

    left: float
    right: float
    top: float
    bottom: float
    size: str = ""

    def heights(self, axis: Axis) -> list[Shape]:
        """A line across the frame for each tick of the y axis, and its label."""
        shapes: list[Shape] = []
        for at, label in axis.ticks():
            shapes.append(Path("grid", f"M{plain(self.left)} {plain(at)}H{plain(self.right)}"))
            shapes.append(Text(self._styles("tick end"), self.left - 7, at + 4, label))
        return shapes

    def feet(self, ticks: Sequence[tuple[float, str]], title: str) -> list[Shape]:
        """The ticks under the frame, their labels, and the title of the x axis."""
        shapes: list[Shape] = []
        for at, label in ticks:
            shapes.append(Path("grid", f"M{plain(at)} {plain(self.bottom)}v4"))
            if label:
                shapes.append(Text(self._styles("tick"), at, self.bottom + 18, label))
        middle = (self.left + self.right) / 2
        return [*shapes, Text(self._styles("tick"), middle, self.bottom + 36, title)]

    def across(self, y: float, style: str) -> Path:
        """A line over the whole frame."""
        return Path(style, f"M{plain(self.left)} {plain(y)}H{plain(self.right)}")

    def _styles(self, styles: str) -> str:
        return f"{styles} {self.size}".strip()


def mark(shape: MarkShape, x: float, y: float, size: float = 4.0) -> str:
    """A circle, square or diamond of this radius as path data, all of about the same area."""
    if shape == "circle":
        arc = f"a{plain(size)} {plain(size)} 0 1 0"
        return f"M{plain(x - size)} {plain(y)}{arc} {plain(2 * size)} 0{arc} {plain(-2 * size)} 0z"
    if shape == "square":
        r = size - 0.5
        edge = plain(2 * r)
        return f"M{plain(x - r)} {plain(y - r)}h{edge}v{edge}h-{edge}z"
    if shape == "diamond":
        half = plain(size + 1.5)
        edges = f"l{half} {half}-{half} {half}-{half}-{half}z"
        return f"M{plain(x)} {plain(y - size - 1.5)}{edges}"
    return ""


def key(kind: str, shape: MarkShape | Literal[""] = "", band: bool = False) -> Markup:
    """How a curve is drawn, for a legend on the page; decoration, the charts say it in words."""
    paths = sample(kind, shape or "none", band)
    inside = "".join(f'<path class="{p.styles}" d="{moved(p.data, 0, 6)}"/>' for p in paths)
    opening = '<svg class="chart key" viewBox="0 0 28 12" aria-hidden="true" focusable="false">'
    return Markup(f"{opening}{inside}</svg>")


def sample(kind: str, shape: MarkShape, band: bool) -> tuple[Path, ...]:
    """A short piece of a curve from (0, 0) to (28, 0)."""
    color, dashes = KINDS[kind]
    paths = [Path("band", "M0 -5h28v10h-28z")] if band else []
    paths.append(Path(f"curve {color} {dashes}".strip(), "M0 0H28"))
    return (*paths, *([Path(f"marks {color}", mark(shape, 14, 0))] if shape != "none" else []))
