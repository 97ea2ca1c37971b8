"""The maps and matrices of a page, which are tables there, as figures.

A grid has a cell for each head of a site, or for each task under each lesion. Colours are those of
the printed page. Lengths are in the units of the figure's own view box.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lobes.report import figures, maps
from lobes.report import formatting as fmt
from lobes.report.maps import TINTS
from lobes.report.tables import Table, cell_of, text_of

if TYPE_CHECKING:
    from lobes.report.parts import CountMap, HeatCell, HeatMap, MatrixCell, MatrixRow, SiteLabel

_LOSS, _GAIN = (196, 97, 15), (59, 95, 192)  # as --loss and --gain of report.css in print
_STEP = 0.055  # how much one tint adds, as in page.html
_SIZE = 11.0  # of the letters of names and notes, as in grids.html
MATRIX = "Rows: whose heads are ablated. Columns: the task that is measured."


class _Look(NamedTuple):
    """What a cell shows, wherever it stands; the fields are those of `Square`."""

    text: str
    fill: str
    ink: str = "#111111"
    ring: bool = False
    frame: bool = False
    low: bool = False


@dataclass(frozen=True)
class Square:
    """A cell: its place, its text, its colours, its marks.

    `ring` marks a lesioned head, `frame` a task under its own lesion, `low` the lowest score of a
    column.
    """

    x: float
    y: float
    text: str
    fill: str
    ink: str
    ring: bool = False
    frame: bool = False
    low: bool = False


@dataclass(frozen=True)
class Label:
    """The name of a row or a column; `whole` is the uncut name where it was cut."""

    x: float
    y: float
    text: str
    whole: str


@dataclass(frozen=True)
class Grid:
    """A map or a matrix; `steep` says that the names of the columns stand upright.

    `note` is the line under it; `step` and `rise` are the width and height of a cell.
    """

    width: float
    height: float
    step: float
    rise: float
    left: float
    size: float
    columns: tuple[Label, ...]
    steep: bool
    rows: tuple[Label, ...]
    squares: tuple[Square, ...]
    note: str
    title: str
    description: str


def heat_grid(
    found: "HeatMap | maps.HeatMap",
    sites: "Sequence[SiteLabel] | Sequence[maps.SiteLabel]",
    fraction: int | None,
    title: str,
    label: str = "",
) -> Grid:
    """A task's importance map; `fraction` is the index of the lesion whose heads get a ring."""
    shades = figures.palette()

    def look(cell: "HeatCell | maps.HeatCell") -> _Look:
        shade, ring = shades[cell.shade], fraction is not None and fraction in cell.lesioned
        return _Look(cell.text, shade.background, shade.text, ring=ring)

    rows = [[look(cell) if cell else None for cell in row] for row in found.rows]
    ring = f"; ring: among the {label} lesioned" if fraction is not None else ""
    note = f"Rows: sites; columns: heads. 100 = {found.largest}{ring}"
    text = (
        f"A row is a site, a column a head; in percent of the largest importance, {found.largest}."
    )
    names = [f"{site.number} {site.short}".strip() for site in sites]
    columns = [str(head) for head in range(len(found.rows[0]))]
    return _grid(rows, names, columns, (25.0, 25.0, 10.0), title, text, note)


def count_grid(
    found: "CountMap | maps.CountMap", sites: "Sequence[SiteLabel] | Sequence[maps.SiteLabel]"
) -> Grid:
    """How many tasks, or seeds, trained each head."""
    rows = [
        [_Look(cell.text, _tinted(cell.tint)) if cell else None for cell in row]
        for row in found.rows
    ]
    names = [f"{site.number} {site.short}".strip() for site in sites]
    columns = [str(head) for head in range(len(found.rows[0]))]
    note = "Rows: sites; columns: heads."
    return _grid(rows, names, columns, (25.0, 25.0, 10.0), found.title, note, note)


def matrix_grid(
    rows: "Sequence[MatrixRow]", tasks: Sequence[str], title: str, note: str = MATRIX
) -> Grid:
    """A matrix with a column for each task; `note` says what rows and columns are."""

    def look(cell: "MatrixCell") -> _Look:
        return _Look(cell.text, _tinted(cell.tint), frame=cell.own, low=cell.lowest)

    cells = [[look(cell) for cell in row.cells] for row in rows]
    return _matrix(cells, [row.label for row in rows], tasks, title, note)


def table_grid(table: Table) -> Grid:
    """A table with the look of a matrix; its first column names the rows."""
    first, *columns = table.columns
    cells = []
    for row in table.rows:
        line = []
        for column, value in zip(columns, row.cells[1:], strict=True):
            cell = cell_of(value)
            text, marks = text_of(cell, column), cell.marks
            fill = _tinted(cell.tint)
            line.append(_Look(text, fill, frame="own" in marks, low="lowest" in marks))
        cells.append(line)
    names = [text_of(row.cells[0], first) for row in table.rows]
    titles = [column.title for column in columns]
    return _matrix(cells, names, titles, table.caption, table.note or MATRIX)


def _matrix(
    cells: Sequence[Sequence[_Look]],
    names: Sequence[str],
    columns: Sequence[str],
    title: str,
    note: str,
) -> Grid:
    longest = max(width_of(cell.text, 12) for row in cells for cell in row)
    size = (max(64.0, 18 + longest), 32.0, 12.0)
    return _grid(cells, names, columns, size, title, note, note)


def width_of(text: str, size: float) -> float:
    """About how wide a text is in letters of this size; in most fonts it is a little less."""
    return size * sum(map(_em, text))


def _em(letter: str) -> float:
    if letter in "MWmw@%—…" or letter > "\u2e7f":
        return 1.0
    if letter in "fijlrt.,:;|!'()[] -":
        return 0.4
    return 0.75 if letter.isupper() else 0.6


def _tinted(tint: int) -> str:
    """The colour of a tint on white: a loss below 0, a gain above."""
    share = min(abs(tint), TINTS) * _STEP
    end = _LOSS if tint < 0 else _GAIN
    return "#{:02x}{:02x}{:02x}".format(*(round(255 + (part - 255) * share) for part in end))


def _grid(
    rows: Sequence[Sequence[_Look | None]],
    names: Sequence[str],
    columns: Sequence[str],
    size: tuple[float, float, float],
    title: str,
    description: str,
    note: str,
) -> Grid:
    step, rise, letters = size
    short = [fmt.shorten(name, 26) for name in names]
    left = 14 + max(width_of(name, _SIZE) for name in short)
    heads = [fmt.shorten(name, 24) for name in columns]
    longest = max(width_of(name, _SIZE) for name in heads)
    steep = longest > step - 4
    top = 10 + (longest if steep else 14)
    squares = [
        Square(round(left + column * step, 1), round(top + row * rise, 1), **cell._asdict())
        for row, cells in enumerate(rows)
        for column, cell in enumerate(cells)
        if cell is not None
    ]
    return Grid(
        width=round(max(left + step * len(columns), width_of(note, _SIZE)), 1),
        height=round(top + rise * len(rows) + (24 if note else 4), 1),
        step=step,
        rise=rise,
        left=round(left, 1),
        size=letters,
        columns=tuple(
            Label(round(left + (k + 0.5) * step, 1), round(top - 7, 1), head, name)
            for k, (head, name) in enumerate(zip(heads, columns, strict=True))
        ),
        steep=steep,
        rows=tuple(
            Label(round(left - 8, 1), round(top + (k + 0.5) * rise + 4, 1), cut, name)
            for k, (cut, name) in enumerate(zip(short, names, strict=True))
        ),
        squares=tuple(squares),
        note=note,
        title=title,
        description=description,
    )
