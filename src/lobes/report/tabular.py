"""What a table and a figure are, wherever they are shown or written to."""

import re
from typing import NamedTuple

from lobes.report.charts import Chart
from lobes.report.figures import LineChart, StripPlot

Row = tuple[str, ...]

# Past so many tasks, matrices and pairs, which grow with the square of their number, are summarized
# on the page and in the terminal. Exported tables hold them all.
MOST_TASKS = 24
MOST_PAIRS = 200

# What a spreadsheet takes for a formula, also behind letters that it passes over or does not show,
# and the full-width forms that some of them read as the others.
_FORMULA = re.compile(r"[\t\r]|[\s\x00-\x1f\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def spreadsheet_cell(text: str) -> str:
    """Return the text of a CSV or TSV cell so that no spreadsheet takes it for a formula.

    Text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets an apostrophe in
    front, as OWASP advises. Numbers stay numbers, and a sign alone, a common label, stays itself:
    it is no formula.
    """
    is_formula = _FORMULA.match(text) and len(text) > 1 and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


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
