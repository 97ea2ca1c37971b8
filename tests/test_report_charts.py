"""Where things stand in figures: on the scales of their ticks, without what is undefined."""

import io
import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobes.report import axes, charts, colors, drawing
from lobes.report.charts import Points, Start, chart, learning_curves
from lobes.report.drawing import Drawing, Path, Text
from pages import as_number

SCORES = st.integers(0, 1000).map(lambda n: n / 1000)


def points(ys, **more):
    return charts.Points("own", "own", list(range(len(ys))), ys, **more)


def drawn(*shown, hold=()):
    return charts.chart(shown, "t", axes=("x", "y"), description="d", hold=hold)


def start(kind, means, reach=0.02):
    lows, highs = [m - reach for m in means], [m + reach for m in means]
    return Start(kind, kind, means, lows, highs)


def x_ticks(figure):
    """{label: place} under the frame."""
    under = [t for t in figure.texts("tick") if not {"end", "start"} & {*t.styles.split()}]
    height = min(text.y for text in under)
    return {text.text: text.x for text in under if text.y == height}


def y_ticks(figure):
    """{label: place} beside the frame."""
    return {text.text: text.y - 4 for text in figure.texts("end")}


def places(data):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", data)]


def heights(data):
    """The ends of the upright lines of a path."""
    return [float(y) for pair in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", data) for y in pair]


# --- charts --------------------------------------------------------------------------------------


def test_a_chart_of_nothing_defined_is_none():
    assert drawn(points([math.nan, math.nan])) is None
    assert drawn() is None


def test_undefined_points_are_left_out_of_lines_bands_and_bars():
    lows, highs = [0.0, math.nan, 2.0], [2.0, math.nan, 4.0]
    figure = drawn(points([1.0, math.nan, 3.0], lows=lows, highs=highs, band=True))
    assert figure.paths("curve")[0].count("L") == 1
    assert figure.paths("band")[0].count("L") == 3
    assert figure.paths("bars") == []
    figure = drawn(points([1.0, math.nan, 3.0], lows=lows, highs=highs, mark="circle"))
    assert figure.paths("bars")[0].count("V") == 2
    assert figure.paths("marks")[0].count("z") == 2
    assert figure.paths("band") == []


def test_a_chart_holds_its_intervals_and_what_it_must_hold():
    figure = drawn(points([5.0, 6.0], lows=[2.0, 2.5], highs=[9.0, 8.0]), hold=(-1.0,))
    labels = [as_number(label) for label in y_ticks(figure)]
    assert min(labels) <= -1.0
    assert max(labels) >= 9.0
    assert places(figure.paths("zero")[0])[0][1] == y_ticks(figure)["0"]
    ends = y_ticks(figure).values()
    assert all(min(ends) <= y <= max(ends) for y in heights(figure.paths("bars")[0]))


def test_the_axes_fill_the_chart():
    figure = drawn(points([5.0, 6.0, 9.0]))
    lines = [places(data)[0] for data in figure.paths("grid")]
    left = min(x for x, _ in lines)
    assert min(x_ticks(figure).values()) == left == 48
    assert max(x_ticks(figure).values()) == 308
    assert (max(y_ticks(figure).values()), min(y_ticks(figure).values())) == (168, 10)


def test_long_labels_under_an_axis_do_not_touch():
    figure = drawn(charts.Points("own", "own", [0.0, 123456.0], [0.0, 1.0]))
    for before, after in itertools.pairwise(x_ticks(figure).items()):
        half = (len(before[0]) + len(after[0])) / 2 * 7
        assert after[1] - before[1] >= half


def test_line_chart_averages_long_curves_and_refuses_a_single_point():
    figure = charts.line_chart([(step, 2.0) for step in range(1, 1009)], "loss", "loss")
    (line,) = figure.paths("loss")
    assert line.count("L") == 79
    assert len({y for _, y in places(line)}) == 1
    assert charts.line_chart([(1, 2.0), (2, math.nan)], "loss") is None


def test_a_strip_plot_puts_values_where_the_axis_says():
    strips = [
        charts.Strip("all", 4.0, 2.0, 6.0, [0.0, 1.0], True, on_sample=5.0),
        charts.Strip("a", -1.0, math.nan, math.nan, [math.nan]),
    ]
    figure = charts.strip_plot(strips, "title")
    ticks = {as_number(label): x for label, x in x_ticks(figure).items()}
    zero, unit = ticks[0.0], (ticks[2.0] - ticks[0.0]) / 2
    observed = [places(data)[0][0] for data in figure.paths("observed")]
    assert observed == pytest.approx([zero + 4 * unit, zero - unit], abs=0.3)
    assert places(figure.paths("sample")[0])[0][0] == pytest.approx(zero + 5 * unit, abs=0.3)
    assert places(figure.paths("zero")[0])[0][0] == zero
    dots = [x for x, _ in places(figure.paths("dots")[0])]
    assert dots == pytest.approx([zero, zero + unit], abs=0.11)
    assert figure.description == (
        "all: +4.0 %, interval +2.0 to +6.0, on the controls’ examples +5.0 %, exchanged heads "
        "0.0 to +1.0. a: −1.0 %."
    )
    assert charts.strip_plot([charts.Strip("a", math.nan, 1, 2, [3.0])], "title") is None


# --- learning curves -----------------------------------------------------------------------------


def test_curves_stand_on_the_scales_of_their_ticks():
    starts = [start(k, [0.5, 0.6, 0.8]) for k in ("pretrained", "multi", "iat")]
    figure = learning_curves(starts, [10, 100, 1000], [0.5, 0.8], 0.5, "title")
    x, y = x_ticks(figure), y_ticks(figure)
    line = places(figure.paths("curve")[1])  # the middle one stands in its place
    assert [place for place, _ in line] == [x["10"], x["100"], x["1\u202f000"]]
    assert x["100"] == pytest.approx((x["10"] + x["1\u202f000"]) / 2, abs=0.11)
    unit = (y["0.5"] - y["0.8"]) / 3
    assert [height for _, height in line] == pytest.approx(
        [y["0.5"], y["0.5"] - unit, y["0.8"]], abs=0.11
    )
    assert places(figure.paths("level")[0])[0][1] == y["0.5"]
    assert figure.description.startswith("pretrained: 0.500 with 10, 0.600 with 100, 0.800 with 1")
    left, _, right = (places(curve)[0][0] for curve in figure.paths("curve"))
    assert left < x["10"] < right
    shapes = [re.sub(r"[\d.]+", "", marks) for marks in figure.paths("marks")]
    assert len({*shapes}) == 6  # those of the curves, and one beside each name
    ends = {re.sub(r"[\d.]+", "", marks.split("z")[0]) for marks in figure.paths("marks")}
    assert len(ends) == 3


def test_an_interval_wider_than_the_figure_is_cut_without_a_cap():
    figure = learning_curves([start("iat", [0.5, 0.6], reach=5)], [1, 10], [0.4, 0.7], 0.5, "t")
    (bars,) = figure.paths("bars")
    assert set(heights(bars)) == {min(y_ticks(figure).values()), max(y_ticks(figure).values())}
    assert "h6" not in bars
    inside = learning_curves([start("iat", [0.5, 0.6])], [1, 10], [0.4, 0.7], 0.5, "t")
    assert inside.paths("bars")[0].count("h6") == 4


def test_an_undefined_point_breaks_the_line():
    figure = learning_curves(
        [start("iat", [0.5, math.nan, 0.7, 0.8])], [1, 10, 100, 1000], [], math.nan, "t"
    )
    (curve,) = figure.paths("curve")
    assert (curve.count("M"), curve.count("L")) == (2, 1)
    assert figure.paths("level") == []
    assert learning_curves([start("iat", [math.nan])], [1], [], 0.5, "t") is None


def test_labels_under_the_axis_do_not_touch():
    figure = learning_curves([start("iat", [0.5] * 4)], [900, 950, 1000, 10], [], 0.4, "t")
    assert list(x_ticks(figure)) == ["10", "1\u202f000"]


@given(st.lists(st.tuples(SCORES, SCORES), min_size=3, max_size=3), SCORES)
def test_names_beside_the_curves_never_overlap_and_keep_their_order(means, chance):
    kinds = ("pretrained", "multi", "iat")
    starts = [start(kind, values) for kind, values in zip(kinds, means, strict=True)]
    figure = learning_curves(starts, [1, 10], [], chance, "t")
    if figure is None:
        return
    names = {text.text: text.y for text in figure.texts("start")}
    beside = sorted(names.values())
    assert all(b - a >= 15.9 for a, b in itertools.pairwise(beside))
    assert beside[-1] <= 290 + 4.1
    ends = [
        (next(v for v in reversed(values) if math.isfinite(v)), kind)
        for kind, values in zip(kinds, means, strict=True)
        if any(map(math.isfinite, values))
    ]
    for (high, above), (low, below) in itertools.pairwise(sorted(ends, reverse=True)):
        assert names[above] < names[below] or high - low < 0.01


# --- axes, colors, SVG ---------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.integers(3, 9))
def test_ticks_enclose_their_range_in_equal_round_steps(a, b, most):
    low, high = min(a, b), max(a, b)
    if 0 < high - low < 1e-6:
        return
    ticks = axes.nice_ticks(low, high, most)
    step = ticks[1] - ticks[0]
    slack = 1e-6 * max(1.0, step)
    assert 2 <= len(ticks) <= most
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert all(y - x == pytest.approx(step, rel=1e-6) for x, y in itertools.pairwise(ticks))


@pytest.mark.parametrize("value", [0.0, 5e-324, -1e-13, 1e-9, 2e-9, 1.0])
def test_equal_values_have_an_axis_whatever_their_size(value):
    figure = drawn(points([value, value]))
    assert len({text.y for text in figure.texts("end")}) > 1


def test_palette_is_readable_and_grows_lighter():
    shades = colors.palette()
    parts = [[int(shade.background[k : k + 2], 16) for k in (1, 3, 5)] for shade in shades]
    light = [colors.luminance(*shade) for shade in parts]
    assert len(light) == colors.SHADES
    assert all(a < b for a, b in itertools.pairwise(light))
    for value, shade in zip(light, shades, strict=True):
        other = {"#fff": 1.0, "#000": 0.0}[shade.text]
        contrast = (max(value, other) + 0.05) / (min(value, other) + 0.05)
        assert contrast >= 4.5


SHAPES = (
    Path("curve loss dashed", "M0 0H9", "a <b>"),
    Path("", "M1 1h2", fill="#123456"),
    Text("tick end small", 3.25, 4, "x & y", "x & y & z"),
    Text("start", 3, 4, "up", turned=True),
)
KEYS = (((Path("curve accent", "M0 0H28"),), "one"), ((Path("marks loss", "M10 0h4"),), "two"))


def test_a_page_has_classes_and_a_document_what_they_declare():
    figure = Drawing("chart", 10, 20, "T", "D", SHAPES, "above", KEYS)
    inline = ElementTree.fromstring(figure.svg("n"))
    assert [e.get("class") for e in inline.iter() if e.tag in ("path", "text")] == [
        "curve loss dashed", None, "tick end small", "start"
    ]  # fmt: skip
    found = list(ElementTree.parse(io.StringIO(figure.document("n"))).iter())
    paths = [e.attrib for e in found if e.tag.endswith("}path")]
    assert paths[0] == {
        "d": "M0 0H9",
        "fill": "none",
        "stroke": "#c4610f",
        "stroke-width": "2",
        "stroke-linejoin": "round",
        "stroke-dasharray": "7 4",
    }
    assert paths[1] == {"d": "M1 1h2", "fill": "#123456"}
    assert [path["d"] for path in paths[2:]] == ["M52 29H80", "M62 47h4"]
    assert (paths[3]["fill"], paths[3]["stroke"]) == ("#c4610f", "#fff")
    texts = [e for e in found if e.tag.endswith("}text")]
    assert texts[0].attrib == {
        "x": "3.25", "y": "4", "fill": "#444", "font-size": "11", "text-anchor": "end"
    }  # fmt: skip
    assert texts[1].get("transform") == "rotate(-90 3 4) translate(0 4)"
    assert [text.text for text in texts] == ["x & y", "up", "one", "two", "above"]
    titles = [e.text for e in found if e.tag.endswith("}title")]
    assert titles == ["T", "a <b>", "x & y & z"]


def test_every_style_has_a_rule_for_the_page_with_its_variables():
    rules = drawing.css().splitlines()
    assert "svg text { fill: var(--ink); font-size: 12px }" in rules
    assert "svg .loss { color: rgb(var(--loss)) }" in rules
    assert "svg .dashed { stroke-dasharray: 7 4 }" in rules
    assert len(rules) == len(drawing.STYLES)
    assert "--loss: 196 97 15;" in colors.css()
    assert colors.printed("loss") == "#c4610f"
    assert colors.tinted(0) == "#ffffff"


def test_a_few_points_have_their_names_beside_them_without_overlaps():
    def named(xs, ys, names):
        points = Points("pairs", "pairs", xs, ys, names=names, joined=False)
        drawn = chart([points], "title", axes=("x", "y"), description="words.")
        return [text for text in drawn.texts("tiny") if text.title]

    found = named([0.0, 1.0, 1.0], [0.0, 1.0, 1.001], ["left, low", "right, high", "hidden"])
    assert [text.title for text in found] == ["left, low", "right, high"]
    assert "start" in found[0].styles
    assert "end" in found[1].styles  # or it would reach out of the frame
    many = [float(k) for k in range(17)]
    assert named(many, many, [f"pair {k}" for k in range(17)]) == []
