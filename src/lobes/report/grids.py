"""The maps and matrices of a page, which are tables there, as figures.

A grid has a cell for each head of a site, or for each task under each lesion. Colors are those of
the printed page.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lobes.heads import HeadSet
from lobes.report import colors, maps
from lobes.report import formatting as fmt
from lobes.report.drawing import Drawing, Path, Shape, Text, plain, width_of
from lobes.report.tables import Column, Row, Table, cell_of, spread, text_of, under_text

_SIZE = 11.0  # of the letters of names and notes
_INK = "#111111"


class _Look(NamedTuple):
    """What a cell shows: its text and colors, and its marks.

    `ring` marks a lesioned head, `frame` a task under its own lesion, `low` and `high` the lowest
    and the highest score of a column, where that is what its own lesion should be. `under` stands
    under the text, smaller: an interval.
    """

    text: str
    fill: str
    ink: str = _INK
    ring: bool = False
    frame: bool = False
    low: bool = False
    high: bool = False
    under: str = ""


class _Cells(NamedTuple):
    """The size of a cell, and the style of its text."""

    step: float
    rise: float
    style: str


_HEADS = _Cells(25.0, 25.0, "middle tiny")


def heat_grid(
    found: maps.HeatMap,
    sites: Sequence[maps.SiteLabel],
    fraction: int | None,
    title: str,
    lesion: str = "",
) -> Drawing:
    """A task's importance map; `fraction` is the index of the lesion whose heads get a ring.

    `lesion` names it, `30 % lesioned`.
    """
    shades = colors.palette()

    def look(cell: maps.HeatCell) -> _Look:
        shade, ring = shades[cell.shade], fraction is not None and fraction in cell.lesioned
        return _Look(cell.text, shade.background, shade.text, ring=ring)

    rows = [[look(cell) if cell else None for cell in row] for row in found.rows]
    ring = f"; ring: among the {lesion}" if fraction is not None else ""
    note = f"Rows: sites; columns: heads. 100 = {found.largest}{ring}"
    text = (
        f"A row is a site, a column a head; in percent of the largest importance, {found.largest}."
    )
    return _grid(rows, _sites(sites), _columns(rows), _HEADS, (title, text, note))


def all_maps(
    found: maps.HeatMaps, rings: Sequence[HeadSet], title: str, description: str
) -> Drawing:
    """The maps of several tasks side by side, without numbers; `rings` outlines heads of each.

    Maps of many sites have small cells: what follows a figure is to stand near its beginning.
    """
    n_rows, n_columns = len(found.maps[0].rows), len(found.maps[0].rows[0])
    step = min(max(min(190 / n_columns, 260 / n_rows), 4.0), 16.0)
    beside = min(len(found.maps), 2 if len(found.maps) <= 4 else 3)
    if len(found.maps) * (step * n_columns + 22) <= 424:  # as wide as two maps of large cells
        beside = len(found.maps)
    names = [str(site.number) for site in found.sites]
    left, across = 8 + width_of(names[-1], 10), step * n_columns + 22
    down = step * n_rows + 40
    every = -(-14 // int(step))  # as many rows share a number as its letters are high
    shapes: list[Shape] = []
    for place, (one, heads) in enumerate(zip(found.maps, rings, strict=True)):
        x = left + across * (place % beside)
        y = 18 + down * (place // beside)
        name = fmt.shorten(one.task, max(4, int(step * n_columns / 7)))
        shapes.append(Text("small bold start", round(x, 1), round(y - 6, 1), name, one.task))
        if place % beside == 0:
            shapes += [
                Text(
                    "tiny tick end", round(x - 5, 1), round(y + step * (k + 0.5) + 3.5, 1), names[k]
                )
                for k in range(0, n_rows, every)
            ]
        shapes += [
            Text(
                "tiny tick",
                round(x + step * (k + 0.5), 1),
                round(y + step * n_rows + 11, 1),
                str(k),
            )
            for k in range(0, n_columns, every)
        ]
        shapes += _squares(one, heads, x, y, step)
    width = left + across * beside - 20
    height = 18 + down * -(-len(found.maps) // beside) - 20
    return Drawing("allmaps", round(width, 1), round(height, 1), title, description, tuple(shapes))


def _squares(
    found: maps.HeatMap, rings: HeadSet, x: float, y: float, step: float
) -> Iterator[Shape]:
    """The cells of a small map, those of one color in one path, and the outlines."""
    by_shade: dict[int, list[str]] = {}
    outlined = []
    size = plain(round(step - 1, 2))
    for site, row in enumerate(found.rows):
        for head, cell in enumerate(row):
            if cell is not None:
                corner = f"M{plain(round(x + step * head, 1))} {plain(round(y + step * site, 1))}"
                box = f"{corner}h{size}v{size}h-{size}z"
                by_shade.setdefault(cell.shade, []).append(box)
                outlined += [box] * ((site, head) in rings)
    shades = colors.palette()
    for shade, boxes in sorted(by_shade.items()):
        yield Path("", "".join(boxes), fill=shades[shade].background)
    if outlined:
        yield Path("halo", "".join(outlined))
        yield Path("outline", "".join(outlined))


def count_grid(found: maps.CountMap, sites: Sequence[maps.SiteLabel]) -> Drawing:
    """How many tasks, or seeds, trained each head."""
    rows = [
        [_Look(cell.text, colors.tinted(cell.tint)) if cell else None for cell in row]
        for row in found.rows
    ]
    note = "Rows: sites; columns: heads."
    return _grid(rows, _sites(sites), _columns(rows), _HEADS, (found.title, note, note))


def _sites(sites: Sequence[maps.SiteLabel]) -> list[str]:
    return [f"{site.number} {site.short}".strip() for site in sites]


def _columns(rows: Sequence[Sequence[_Look | None]]) -> list[str]:
    return [str(head) for head in range(len(rows[0]))]


def table_grid(table: Table) -> Drawing:
    """A table with the look of a matrix; its first column names the rows."""
    groups = spread(table.columns)[1:]
    cells = [[_look_of(row, table.columns, group) for group in groups] for row in table.rows]
    names = [text_of(row.cells[0], table.columns[0]) for row in table.rows]
    titles = [table.columns[group[0]].title for group in groups]
    return _matrix(cells, names, titles, table.caption, table.note)


def _look_of(row: Row, columns: tuple[Column, ...], group: list[int]) -> _Look:
    """A cell of a matrix with what stands under it."""
    place, *under = group
    cell = cell_of(row.cells[place])
    return _Look(
        text_of(cell, columns[place]),
        colors.tinted(cell.tint),
        frame="own" in cell.marks,
        low="lowest" in cell.marks,
        high="highest" in cell.marks,
        under=under_text(row, columns, under),
    )


def _matrix(
    cells: Sequence[Sequence[_Look]],
    names: Sequence[str],
    columns: Sequence[str],
    title: str,
    note: str,
) -> Drawing:
    longest = max(
        max(18 + width_of(cell.text, 12), 10 + width_of(cell.under, 10))
        for row in cells
        for cell in row
    )
    rise = 44.0 if any(cell.under for row in cells for cell in row) else 32.0
    size = _Cells(max(64.0, longest), rise, "middle")
    return _grid(cells, names, columns, size, (title, note, note))


def _grid(
    rows: Sequence[Sequence[_Look | None]],
    names: Sequence[str],
    columns: Sequence[str],
    size: _Cells,
    words: tuple[str, str, str],
) -> Drawing:
    """Cells in rows and columns under their names; `words` are title, description and note."""
    title, description, note = words
    short = [fmt.shorten(name, 26) for name in names]
    heads = [fmt.shorten(name, 24) for name in columns]
    left = round(14 + max(width_of(name, _SIZE) for name in short), 1)
    longest = max(width_of(name, _SIZE) for name in heads)
    steep = longest > size.step - 4  # the names of the columns stand upright
    top = 10 + (longest if steep else 14)
    height = round(top + size.rise * len(rows) + (24 if note else 4), 1)
    shapes: list[Shape] = []
    for k, (head, name) in enumerate(zip(heads, columns, strict=True)):
        style = "start small" if steep else "middle small"
        x = round(left + (k + 0.5) * size.step, 1)
        shapes.append(Text(style, x, round(top - 7, 1), head, name, turned=steep))
    for k, (cut, name) in enumerate(zip(short, names, strict=True)):
        y = round(top + (k + 0.5) * size.rise + 4, 1)
        shapes.append(Text("end small", round(left - 8, 1), y, cut, name))
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            if cell is not None:
                x, y = left + column * size.step, top + row * size.rise
                shapes += _square(cell, round(x, 1), round(y, 1), size)
    if note:
        shapes.append(Text("tick start small", 0, height - 5, note))
    return Drawing(
        kind="grids",
        width=round(max(left + size.step * len(columns), width_of(note, _SIZE)), 1),
        height=height,
        title=title,
        description=description,
        shapes=tuple(shapes),
    )


def _square(cell: _Look, x: float, y: float, size: _Cells) -> list[Shape]:
    """A cell with its marks and its text."""

    def box(inset: float) -> str:
        width, height = plain(size.step - 2 * inset), plain(size.rise - 2 * inset)
        return f"M{plain(x + inset)} {plain(y + inset)}h{width}v{height}h-{width}z"

    shapes: list[Shape] = [Path("", box(0.5), fill=cell.fill)]
    if cell.ring:
        shapes += [Path("ring-edge", box(1)), Path("ring", box(2.5))]
    if cell.frame:
        shapes.append(Path("frame", box(1.5)))
    if cell.low or cell.high:
        top, tip = (4, 6) if cell.low else (10, -6)
        place = f"M{plain(x + size.step - 12)} {plain(y + top)}"
        shapes.append(Path("", f"{place}h8l-4 {tip}z", fill=_INK))
    middle, baseline = x + size.step / 2, y + size.rise / 2 + (-2 if cell.under else 4)
    style = f"{size.style} bold" if cell.frame else size.style
    shapes.append(Text(style, middle, baseline, cell.text, fill=cell.ink))
    if cell.under:
        shapes.append(Text("middle tiny", middle, baseline + 14, cell.under, fill=cell.ink))
    return shapes
