"""A figure as shapes, written as SVG: inline in a page, or as a document that stands alone.

What a style looks like is declared once, in `STYLES`: as CSS rules for a page, whose variables
follow light and dark, and as plain attributes with the colors of print for a document. Lengths are
in the units of the figure's own view box.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from lobes.report import colors

FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
BACKGROUND = "#ffffff"
_MARGIN = 8.0
_LINE = 18.0  # the height of a line of the key under a figure

# What each style declares; of two that declare the same, the later one here wins. A value that
# names a variable of report.css is its color; `color` is what `currentColor` stands for.
STYLES: dict[str, dict[str, str]] = {
    "text": {"fill": "ink", "font-size": "12"},
    "tick": {"fill": "quiet", "text-anchor": "middle"},
    "start": {"text-anchor": "start"},
    "end": {"text-anchor": "end"},
    "middle": {"text-anchor": "middle"},
    "tiny": {"font-size": "10"},
    "small": {"font-size": "11"},
    "bold": {"font-weight": "bold"},
    "accent": {"color": "accent"},
    "loss": {"color": "loss"},
    "gain": {"color": "gain"},
    "quiet": {"color": "quiet"},
    "ink": {"color": "ink"},
    "grid": {"fill": "none", "stroke": "rule"},
    "zero": {"stroke": "quiet"},
    "level": {"stroke": "quiet", "stroke-dasharray": "2 4"},
    "band": {"fill": "dot", "fill-opacity": "0.22"},
    "curve": {
        "fill": "none",
        "stroke": "currentColor",
        "stroke-width": "2",
        "stroke-linejoin": "round",
    },
    "interval": {"fill": "none", "stroke": "currentColor", "stroke-width": "2"},
    "bars": {"fill": "none", "stroke": "currentColor", "stroke-width": "1.5"},
    "marks": {"fill": "currentColor", "stroke": "paper"},
    "sample": {"fill": "card", "stroke": "currentColor", "stroke-width": "1.5"},
    "observed": {"fill": "currentColor", "stroke": "card", "stroke-width": "1.5"},
    "cloud": {
        "fill": "none",
        "stroke": "currentColor",
        "stroke-width": "5",
        "stroke-linecap": "round",
        "stroke-opacity": "0.55",
    },
    "dots": {
        "fill": "none",
        "stroke": "dot",
        "stroke-width": "5",
        "stroke-linecap": "round",
        "stroke-opacity": "0.5",
    },
    "faint": {"fill-opacity": "0.75"},
    "dashed": {"stroke-dasharray": "7 4"},
    "short": {"stroke-dasharray": "3 4"},
    "dotted": {"stroke-dasharray": "2 4"},
    "frame": {"fill": "none", "stroke": "ink", "stroke-width": "2"},
    "ring": {"fill": "none", "stroke": "#ffffff", "stroke-width": "2"},
    "ring-edge": {"fill": "none", "stroke": "#000000"},
    "halo": {"fill": "none", "stroke": "#ffffff", "stroke-width": "3.5"},
    "outline": {"fill": "none", "stroke": "#d6006c", "stroke-width": "2"},
}


@dataclass(frozen=True)
class Path:
    """A path of these styles; `title` says what it is, `fill` is a color of its own."""

    styles: str
    data: str
    title: str = ""
    fill: str = ""

    def inside(self) -> str:
        return _title(self.title)

    def attributes(self) -> dict[str, str]:
        return {"d": self.data, **({"fill": self.fill} if self.fill else {})}


@dataclass(frozen=True)
class Text:
    """Words at a place; `title` are the words in full where they are cut, `turned` upright ones."""

    styles: str
    x: float
    y: float
    text: str
    title: str = ""
    fill: str = ""
    turned: bool = False

    def inside(self) -> str:
        return f"{escape(self.text)}{_title(self.title if self.title != self.text else '')}"

    def attributes(self) -> dict[str, str]:
        place = {"x": plain(self.x), "y": plain(self.y)}
        if self.turned:
            place["transform"] = f"rotate(-90 {place['x']} {place['y']}) translate(0 4)"
        return place | ({"fill": self.fill} if self.fill else {})

    def reach(self) -> tuple[float, float]:
        """From where to where the words reach, about."""
        if self.turned:
            return self.x, self.x
        styles = _declared(self)
        room = width_of(self.text, float(styles["font-size"]))
        before = {"end": room, "middle": room / 2}.get(styles.get("text-anchor", ""), 0.0)
        return self.x - before, self.x - before + room


Shape = Path | Text


@dataclass(frozen=True)
class Drawing:
    """A figure; `kind` is the class that gives it its size on a page.

    `title` and `description` are for those who do not see it. A document, which stands without the
    words of a page, also shows `above`, what the heights mean, and the `keys`: for each curve what
    it looks like at (0, 0), and its name.
    """

    kind: str
    width: float
    height: float
    title: str
    description: str
    shapes: tuple[Shape, ...]
    above: str = ""
    keys: tuple[tuple[tuple[Path, ...], str], ...] = ()

    def paths(self, style: str) -> list[str]:
        """The data of the paths of a style, in their order."""
        return [
            shape.data
            for shape in self.shapes
            if isinstance(shape, Path) and style in shape.styles.split()
        ]

    def texts(self, style: str = "") -> list[Text]:
        """The words of a style, or all, in their order."""
        found = [shape for shape in self.shapes if isinstance(shape, Text)]
        return [text for text in found if not style or style in text.styles.split()]

    def svg(self, name: str) -> Markup:
        """The figure inline; `name` is unique on its page."""
        box = f"0 0 {plain(self.width)} {plain(self.height)}"
        opening = f'<svg class="{self.kind}" viewBox="{box}" {_labeled(name)}>'
        inside = "".join(_element(shape, _classes(shape)) for shape in self.shapes)
        return Markup(f"{opening}\n{self._words(name)}\n{inside}\n</svg>")

    def document(self, name: str) -> str:
        """The figure as an SVG document with nothing but plain attributes."""
        keys = list(self._keys()) if len(self.keys) > 1 else []
        title = [Text("tick start small", 0, -8, self.above)] if self.above else []
        shapes = [*self.shapes, *keys, *title]
        reaches = [shape.reach() for shape in shapes if isinstance(shape, Text)]
        start = min([0.0, *(low for low, _ in reaches)])
        end = max([self.width, *(high for _, high in reaches)])
        above, below = _MARGIN + _LINE * len(title), _LINE * len(self.keys) * bool(keys)
        width = math.ceil(end - start + 2 * _MARGIN)
        height = math.ceil(self.height + below + above + _MARGIN)
        x, y = plain(start - _MARGIN), plain(-above)
        lines = [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="{x} {y} {width} {height}" font-family="{FONT}" {_labeled(name)}>',
            self._words(name),
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{BACKGROUND}"/>',
            *(_element(shape, _printed(shape)) for shape in shapes),
            "</svg>\n",
        ]
        return re.sub("[\ufffe\uffff]", "\ufffd", "\n".join(lines))  # not allowed in XML

    def _words(self, name: str) -> str:
        return (
            f'<title id="{name}-title">{escape(self.title)}</title>\n'
            f'<desc id="{name}-text">{escape(self.description)}</desc>'
        )

    def _keys(self) -> Iterator[Shape]:
        for place, (paths, label) in enumerate(self.keys):
            y = self.height + _LINE * (place + 0.5)
            for path in paths:
                yield Path(path.styles, moved(path.data, 52, y))
            yield Text("tick start small", 88, y + 4, label)


def css() -> str:
    """The rules of the styles, for figures in a page."""
    return "".join(
        f"svg {'' if name == 'text' else '.'}{name} {{ {'; '.join(_rules(declared))} }}\n"
        for name, declared in STYLES.items()
    )


def _rules(declared: dict[str, str]) -> Iterator[str]:
    for key, value in declared.items():
        if key == "font-size":
            yield f"{key}: {value}px"
        elif value in ("loss", "gain"):
            yield f"{key}: rgb(var(--{value}))"
        else:
            yield f"{key}: {f'var(--{value})' if value in colors.PRINT else value}"


def _declared(shape: Shape) -> dict[str, str]:
    """What the styles of a shape declare together."""
    names = {*shape.styles.split(), *(("text",) if isinstance(shape, Text) else ())}
    found: dict[str, str] = {}
    for name, declared in STYLES.items():
        if name in names:
            found |= declared
    return found


def _printed(shape: Shape) -> dict[str, str]:
    found = _declared(shape)
    color = found.pop("color", "")
    for key, value in found.items():
        value = color if value == "currentColor" else value
        found[key] = colors.printed(value) if value in colors.PRINT else value
    return found


def _classes(shape: Shape) -> dict[str, str]:
    return {"class": shape.styles} if shape.styles else {}


def _element(shape: Shape, look: dict[str, str]) -> str:
    tag = "path" if isinstance(shape, Path) else "text"
    attributes = "".join(f' {k}="{v}"' for k, v in (look | shape.attributes()).items())
    inside = shape.inside()
    return f"<{tag}{attributes}>{inside}</{tag}>" if inside else f"<{tag}{attributes}/>"


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _labeled(name: str) -> str:
    return f'role="img" aria-labelledby="{name}-title {name}-text"'


def moved(data: str, x: float, y: float) -> str:
    """Path data whose absolute commands are M, L and H, moved by (x, y)."""

    def place(found: re.Match[str]) -> str:
        right = plain(float(found[2]) + x)
        return f"{found[1]}{right}" + (f" {plain(float(found[3]) + y)}" if found[3] else "")

    return re.sub(r"([MLH])(-?[\d.]+)(?: (-?[\d.]+))?", place, data)


def width_of(text: str, size: float) -> float:
    """About how wide a text is in letters of this size; in most fonts it is a little less."""
    return size * sum(map(_em, text))


def _em(letter: str) -> float:
    if letter in "MWmw@%—…" or letter > "\u2e7f":
        return 1.0
    if letter in "fijlrt.,:;|!'()[] -":
        return 0.4
    return 0.75 if letter.isupper() else 0.6


def plain(value: float) -> str:
    """A coordinate: `12`, `3.5`."""
    return f"{value:.6g}"


def joined(points: Sequence[tuple[float, float]]) -> str:
    """The points as path data, joined by lines."""
    return "M" + "L".join(f"{plain(x)} {plain(y)}" for x, y in points)
