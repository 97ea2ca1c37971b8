"""A figure of a page as a drawing that stands alone: in a browser, in Inkscape, in a paper.

The page's own stylesheet stays the only one. Its rules for figures are worked out here, with the
colours of the printed page, and written into the drawing as plain attributes: no class, no CSS
variable and no reference to anything outside is left.
"""

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple
from xml.etree import ElementTree

from lobes.report.charts import Chart, Series
from lobes.report.figures import LineChart
from lobes.report.grids import Grid, width_of
from lobes.report.learning import LearningCurves
from lobes.report.page import macro, own_text

FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
BACKGROUND = "#ffffff"
_MARGIN = 8.0
_LINE = 18.0  # the height of a line of the key under a chart
_ATTRIBUTES = frozenset(
    {
        *("fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray"),
        *("stroke-linecap", "stroke-linejoin", "text-anchor", "font-size", "font-weight"),
    }
)
_COMPOUND = re.compile(r"([a-z]*)((?:\.[\w-]+)*)")
_DECLARED = re.compile(r"([\w-]+)\s*:\s*([^;]+)")


class _Part(NamedTuple):
    """An element, or what a selector asks of one: a tag ("" for any) and classes."""

    tag: str
    classes: frozenset[str]


class _Rule(NamedTuple):
    """A selector, from the outermost part inwards, and what it declares."""

    path: tuple[_Part, ...]
    declared: Mapping[str, str]

    @property
    def weight(self) -> tuple[int, int]:
        """The specificity: classes first, then tags."""
        return sum(len(p.classes) for p in self.path), sum(bool(p.tag) for p in self.path)


def drawing(macro_name: str, geometry: object, name: str, kind: str = "") -> str:
    """The figure as an SVG document; the arguments are those of `tabular.Figure`."""
    arguments = (geometry, name, kind) if kind else (geometry, name)
    template = "grids.html" if isinstance(geometry, Grid) else "figures.html"
    text = macro(template, macro_name, *arguments)
    root = ElementTree.fromstring(re.sub("[\ufffe\uffff]", "\ufffd", text))  # not allowed in XML
    series = geometry.series if isinstance(geometry, Chart) else ()
    axis = _y_axis(geometry)
    left, top, width, height = (float(part) for part in root.get("viewBox", "").split())
    below = _add_key(root, series, height) if len(series) > 1 else 0.0
    if axis:
        ElementTree.SubElement(root, "text", {"class": "tick start", "y": "-8"}).text = axis
    above = _MARGIN + _LINE * bool(axis)
    _inline(root, (), dict(_variables()))
    start, end = _reach(root, left, left + width)
    size = math.ceil(end - start + 2 * _MARGIN), math.ceil(height + below + above + _MARGIN)
    box = (start - _MARGIN, top - above, *size)
    shape = dict(zip(("x", "y", "width", "height"), map(_plain, box), strict=True))
    ground = ElementTree.Element("rect", {**shape, "fill": BACKGROUND})
    root.insert(sum(child.tag in ("title", "desc") for child in root), ground)
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "width": shape["width"],
        "height": shape["height"],
        "viewBox": " ".join(shape.values()),
        "font-family": FONT,
        **{key: root.attrib[key] for key in ("role", "aria-labelledby") if key in root.attrib},
    }
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text.strip()}\n'


def _reach(root: ElementTree.Element, start: float, end: float) -> tuple[float, float]:
    """From where to where a figure's words reach, at least from `start` to `end`."""
    for text in root.iter("text"):
        if "transform" in text.attrib:
            continue
        room = width_of(text.text or "", float(text.get("font-size", "12")))
        before = {"end": room, "middle": room / 2}.get(text.get("text-anchor", "start"), 0.0)
        x = float(text.get("x", "0"))
        start, end = min(start, x - before), max(end, x - before + room)
    return start, end


def _y_axis(geometry: object) -> str:
    """What the heights of a chart mean, which a page says above it."""
    if isinstance(geometry, Chart):
        return geometry.y_axis
    return geometry.title if isinstance(geometry, LineChart | LearningCurves) else ""


def _add_key(root: ElementTree.Element, series: tuple[Series, ...], height: float) -> float:
    """Add a line for each series: how it is drawn, and its name. Returns the room it takes."""
    for place, one in enumerate(series):
        y = height + _LINE * (place + 0.5)
        group = ElementTree.SubElement(root, "g", {"class": one.kind})
        if one.band:
            path = f"M52 {_plain(y - 5)}h28v10h-28z"
            ElementTree.SubElement(group, "path", {"class": "band", "d": path})
        if one.line:
            ElementTree.SubElement(group, "path", {"class": "curve", "d": f"M52 {_plain(y)}h28"})
        mark = re.match(r"M([\d.]+) ([\d.]+)(\D[^M]*)", one.marks)
        if mark:
            # the first mark of the curve, moved to the key
            x = 66 + (0 if mark[3].startswith("l") else -4 if mark[3].startswith("a") else -3.5)
            lift = {"l": -5.5, "a": 0.0}.get(mark[3][0], -3.5)
            path = f"M{_plain(x)} {_plain(y + lift)}{mark[3]}"
            ElementTree.SubElement(group, "path", {"class": "marks", "d": path})
        label = {"class": "tick start", "x": "88", "y": _plain(y + 4)}
        ElementTree.SubElement(root, "text", label).text = one.label
    return _LINE * len(series)


def _inline(
    element: ElementTree.Element, outside: tuple[_Part, ...], variables: dict[str, str]
) -> None:
    """Write the styles of an element and of all in it as attributes; those that are there stay."""
    lineage = (*outside, _Part(element.tag, frozenset((element.get("class") or "").split())))
    declared = _declared(lineage)
    variables = variables | {key: value for key, value in declared.items() if key[:2] == "--"}
    for key, value in declared.items():
        if key in _ATTRIBUTES and key not in element.attrib:
            element.set(key, _resolved(value, variables))
    element.attrib.pop("class", None)
    for child in element:
        _inline(child, lineage, variables)


@cache
def _declared(lineage: tuple[_Part, ...]) -> dict[str, str]:
    """What the stylesheet says of the innermost of these elements."""
    found: dict[str, str] = {}
    for rule in _rules():
        if _matches(rule, lineage):
            found |= rule.declared
    return found


def _matches(rule: _Rule, lineage: tuple[_Part, ...]) -> bool:
    *above, last = rule.path
    if not _is(last, lineage[-1]):
        return False
    rest = iter(reversed(lineage[:-1]))
    return all(any(_is(part, element) for element in rest) for part in reversed(above))


def _is(part: _Part, element: _Part) -> bool:
    return part.tag in ("", element.tag) and part.classes <= element.classes


def _resolved(value: str, variables: Mapping[str, str]) -> str:
    """A value without variables: colours as `#rrggbb`, lengths as plain numbers."""
    while "var(" in value:
        value = re.sub(r"var\((--[\w-]+)\)", lambda name: variables[name[1]], value)
    value = re.sub(r"(?<![\d.])\.(?=\d)", "0.", value)
    colour = re.fullmatch(r"rgb\((\d+) (\d+) (\d+)\)", value)
    if colour:
        return "#{:02x}{:02x}{:02x}".format(*map(int, colour.groups()))
    return value.removesuffix("px")


@cache
def _rules() -> tuple[_Rule, ...]:
    """The rules of the stylesheet that can speak of a figure, the weightiest last."""
    rules = []
    for selectors, body in _blocks(own_text("report.css")):
        declared = {key: value.strip() for key, value in _DECLARED.findall(body)}
        if "font" in declared:  # of `12px a family`, the size; the family is the drawing's own
            declared["font-size"] = declared.pop("font").split()[0]
        for selector in selectors.split(","):
            parts = [_COMPOUND.fullmatch(part) for part in selector.split()]
            if parts and all(parts):
                path = tuple(_Part(p[1], frozenset(p[2].split(".")[1:])) for p in parts if p)
                rules.append(_Rule(path, declared))
    return tuple(sorted(rules, key=lambda rule: rule.weight))


@cache
def _variables() -> tuple[tuple[str, str], ...]:
    """The variables of the printed page: its light colours, on white."""
    found: dict[str, str] = {}
    style = own_text("report.css")
    inside = next(body for name, body in _blocks(style) if name == "@media print")
    for text in (style, inside):
        root = next(body for name, body in _blocks(text) if name == ":root")
        found |= {key: value.strip() for key, value in _DECLARED.findall(root) if key[:2] == "--"}
    return tuple(found.items())


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """The outermost blocks of a stylesheet: what stands before the braces, and between them."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    depth, start, opened = 0, 0, 0
    for place, letter in enumerate(text):
        if letter == "{":
            depth += 1
            opened = place if depth == 1 else opened
        elif letter == "}":
            depth -= 1
            if depth == 0:
                yield text[start:opened].strip(), text[opened + 1 : place]
                start = place + 1


def _plain(value: float) -> str:
    return f"{value:.6g}"
