"""The geometry of charts with two axes: what stands where, what is left out, what must fit."""

import itertools
import math
import re

from lobes.report import charts
from pages import as_number


def points(ys, **more):
    return charts.Points("own", "own", list(range(len(ys))), ys, **more)


def drawn(*shown, hold=()):
    return charts.chart(shown, "t", axes=("x", "y"), description="d", hold=hold)


def test_a_chart_of_nothing_defined_is_none():
    assert drawn(points([math.nan, math.nan])) is None
    assert drawn() is None


def test_undefined_points_are_left_out_of_lines_bands_and_bars():
    lows, highs = [0.0, math.nan, 2.0], [2.0, math.nan, 4.0]
    (series,) = drawn(points([1.0, math.nan, 3.0], lows=lows, highs=highs, band=True)).series
    assert series.line.count("L") == 1
    assert series.band.count("L") == 3
    assert series.bars == ""
    (series,) = drawn(points([1.0, math.nan, 3.0], lows=lows, highs=highs, mark="circle")).series
    assert series.bars.count("V") == 2
    assert series.marks.count("z") == 2
    assert series.band == ""


def test_a_chart_holds_its_intervals_and_what_it_must_hold():
    chart = drawn(points([5.0, 6.0], lows=[2.0, 2.5], highs=[9.0, 8.0]), hold=(-1.0,))
    labels = [as_number(tick.label) for tick in chart.y_ticks]
    assert min(labels) <= -1.0
    assert max(labels) >= 9.0
    zero = {tick.label: tick.at for tick in chart.y_ticks}["0"]
    assert chart.zero == zero
    places = re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", chart.series[0].bars)
    assert all(chart.top <= float(y) <= chart.bottom for pair in places for y in pair)


def test_the_axes_fill_the_chart():
    chart = drawn(points([5.0, 6.0, 9.0]))
    assert (chart.x_ticks[0].at, chart.x_ticks[-1].at) == (chart.left, chart.right)
    assert (chart.y_ticks[0].at, chart.y_ticks[-1].at) == (chart.bottom, chart.top)


def test_long_labels_under_an_axis_do_not_touch():
    chart = drawn(charts.Points("own", "own", [0.0, 123456.0], [0.0, 1.0]))
    shown = [tick for tick in chart.x_ticks if tick.label]
    for before, after in itertools.pairwise(shown):
        half = (len(before.label) + len(after.label)) / 2 * 7
        assert after.at - before.at >= half
