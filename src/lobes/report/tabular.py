"""What a table and a figure are, wherever they are shown or written to."""

from typing import NamedTuple

from lobes.report.charts import Chart
from lobes.report.figures import LineChart, StripPlot
from lobes.report.tables import MOST_PAIRS, MOST_TASKS

__all__ = ["MOST_PAIRS", "MOST_TASKS", "Figure", "Row", "Table"]

Row = tuple[str, ...]


class Table(NamedTuple):
    """A table as text; the first `left` columns are words, the others numbers."""

    name: str
    caption: str
    header: Row
    rows: tuple[Row, ...]
    left: int = 1


class Figure(NamedTuple):
    """A figure: its geometry, and the macro of `templates/figures.html` that draws it.

    `kind` is the macro's third argument where it takes one (`line`).
    """

    name: str
    title: str
    geometry: StripPlot | LineChart | Chart
    macro: str
    kind: str = ""
