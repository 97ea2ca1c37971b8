"""A table: typed columns and values. What a reader sees is written late, by the column's kind.

A page, a terminal and LaTeX show the same text; CSV holds the values themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from markupsafe import Markup

from lobes.report import formatting as fmt

Kind = Literal[
    "text",
    "number",
    "signed",
    "points",
    "percent",
    "significant",
    "p",
    "count",
    "interval",
    "drawing",
]
Value = str | float | None | tuple[float | None, float | None]
Mark = Literal[
    "own", "lowest", "highest", "beyond", "chip", "good", "warn", "answer", "quiet", "metric"
]
# The marks of the end of a column at which a task's own lesion should be, and their signs.
ENDS: Mapping[Mark, str] = {"lowest": "▾", "highest": "▴"}

# Past so many tasks, matrices and pairs, which grow with the square of their number, are summarized
# on the page and in the terminal. Exported tables hold them all.
MOST_TASKS = 24
MOST_PAIRS = 200
TALL = 15  # a page's table of more rows scrolls by itself


@dataclass(frozen=True)
class Column:
    """What a column holds, and how its values are written.

    Kinds: `number` and `signed` have `digits` decimals (3 unless given), `points` is signed with
    one (D-scores), `percent` is a fraction of 1, `significant` has three significant digits, `p` a
    p-value, `count` an integer; an `interval` is (low, high), each end written as `ends`; a
    `drawing` is markup, for a page only. `unit` stands behind each value.

    A column that is `under` the one before it stands in the same cell of a page and a terminal,
    quieter, with `lead` in front; in files it is a column of its own. `head` is markup for a page's
    heading in place of the title; `strong` is the column that matters most; `right` aligns text as
    numbers.
    """

    title: str
    kind: Kind = "text"
    unit: str = ""
    digits: int | None = None
    ends: Kind = "points"
    under: bool = False
    lead: str = ""
    head: Markup | None = None
    strong: bool = False
    right: bool = False
    in_page: bool = True
    in_terminal: bool = True
    in_files: bool = True

    @property
    def is_text(self) -> bool:
        """Whether the column is aligned as words."""
        return self.kind in ("text", "drawing") and not self.right


@dataclass(frozen=True)
class Cell:
    """A value that needs more than its column says.

    `text` is shown in place of the formatted value; `tint` colors the cell, a loss below 0 and a
    gain above, up to ±10; `note` stands behind the value on a page, quieter; `chip` is a short
    remark behind it everywhere but in files, and `title` is shown when pointed at; `href` links to
    a place in the page (`#id`) or to a page beside it. The mark `chip` turns the value itself into
    one.
    """

    value: Value
    text: str | None = None
    tint: int = 0
    marks: frozenset[Mark] = frozenset()
    note: str = ""
    chip: str = ""
    title: str = ""
    href: str = ""


def marked(value: Value, *marks: Mark) -> Cell:
    """A cell with these marks."""
    return Cell(value, marks=frozenset(marks))


@dataclass(frozen=True)
class Row:
    """The cells of a row, one for each column; `kind` is the class that a page gives the row."""

    cells: tuple[Value | Cell, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table under a name that is unique on its page: an exported file is called after it.

    `look` is how a page lays it out; a `matrix` is exported as a figure, too, and `note` is the
    line under that figure. `terminal` is the title in a terminal, which shows only tables that
    have one.

    Raises `ValueError` where a row has not as many cells as there are columns.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    look: Literal["plain", "tight", "matrix", "claims"] = "tight"
    note: str = ""
    terminal: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"Table {self.name!r} has {len(self.columns)} columns, a row of it "
                    f"{len(row.cells)} cells: {row.cells!r}."
                )


TRACK_HEAD = Markup(
    '<span aria-hidden="true"><span class="key-chance"></span> chance <span class="key-base">'
    '</span> base</span><span class="sr">Figure</span>'
)


def cell_of(cell: Value | Cell) -> Cell:
    """A plain value as a cell."""
    return cell if isinstance(cell, Cell) else Cell(cell)


def text_of(cell: Value | Cell, column: Column) -> str:
    """What a reader sees of a value: `0.812`, `+9.8 to +15.1`, `–` for what is undefined."""
    if isinstance(cell, Cell):
        if cell.text is not None:
            return cell.text
        cell = cell.value
    if isinstance(cell, str):
        return cell
    if isinstance(cell, tuple):
        ends = replace(column, kind=column.ends, unit="")
        text = fmt.interval(
            fmt.number(cell[0]), fmt.number(cell[1]), lambda end: text_of(end, ends)
        )
    else:
        text = _FORMATS[column.kind](fmt.number(cell), column.digits)
    return f"{text}{fmt.GAP}{column.unit}" if column.unit and text != fmt.UNDEFINED else text


def _fixed(value: float, digits: int | None) -> str:
    return fmt.fixed(value, 3 if digits is None else digits)


def _signed(value: float, digits: int | None) -> str:
    return fmt.fixed(value, 3 if digits is None else digits, sign=True)


_FORMATS: Mapping[Kind, Callable[[float, int | None], str]] = {
    "text": _fixed,
    "number": _fixed,
    "signed": _signed,
    "points": lambda value, digits: fmt.points(value),
    "percent": lambda value, digits: fmt.percent(value),
    "significant": lambda value, digits: fmt.significant(value),
    "p": lambda value, digits: fmt.p_value(value),
    "count": lambda value, digits: fmt.thousands(value),
    "interval": lambda value, digits: fmt.UNDEFINED,  # a value that is no pair: undefined
    "drawing": lambda value, digits: "",
}


def end_key(table: Table) -> str:
    """What the signs in a matrix mean, to stand in a sentence: `; ▾: the lowest of its column`."""
    marks = {mark for row in table.rows for cell in row.cells for mark in cell_of(cell).marks}
    return "".join(
        f"; {sign}: the {end} of its column" for end, sign in ENDS.items() if end in marks
    )


def spread(columns: tuple[Column, ...]) -> list[list[int]]:
    """The places of the columns, each with those under it: [[0], [1, 2], [3]]."""
    groups: list[list[int]] = []
    for place, column in enumerate(columns):
        if column.under and groups:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def under_text(row: Row, columns: tuple[Column, ...], places: list[int]) -> str:
    """What stands under a cell: the values of these columns, without what is undefined."""
    texts = [(columns[k].lead, text_of(row.cells[k], columns[k])) for k in places]
    return ", ".join(lead + text for lead, text in texts if text not in ("", fmt.UNDEFINED))


def stacked(title: str, tables: Mapping[str, Table], name: str, terminal: str) -> Table:
    """Tables of the same columns as one, each labeled in a first column called `title`."""
    first = next(iter(tables.values()))
    rows = tuple(
        Row((label if place == 0 else "", *row.cells), row.kind)
        for label, table in tables.items()
        for place, row in enumerate(table.rows)
    )
    return Table(name, terminal, (Column(title), *first.columns), rows, terminal=terminal)
