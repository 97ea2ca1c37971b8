"""One HTML page that needs nothing but itself: style, script and figures are in the page.

A content security policy forbids every load from elsewhere, and every script but the page's own.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lobes.files import check_replaceable, disk_faults, writing
from lobes.report import axes, colors, drawing, maps
from lobes.report import formatting as fmt
from lobes.report.maps import HeatMaps
from lobes.report.sections import Block, Figure, Html, Page, blocks_of
from lobes.report.tables import (
    ENDS,
    TALL,
    Cell,
    Column,
    Row,
    Table,
    cell_of,
    spread,
    text_of,
    under_text,
)


def html(page: Page) -> str:
    """The whole page as one file."""
    blocks = list(blocks_of(page))
    code = own_text(page.script) if page.script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return (
        _environment()
        .get_template("document.html")
        .render(
            page=page,
            has_maps=any(isinstance(block, HeatMaps) for block in blocks),
            style=Markup(own_text("report.css") + drawing.css() + colors.css()),
            styles=[Markup(b.style) for b in blocks if isinstance(b, Html) and b.style],
            script=Markup(code),
            script_hash=f"sha256-{digest}",
        )
    )


def index(
    page: Page, figures: Sequence[Figure], tables: Sequence[Table], kinds: Sequence[str]
) -> str:
    """The list of an export's files: `figures/NAME.svg` and so on, `tables/NAME.csv`."""
    style = Markup(own_text("report.css"))
    template = _environment().get_template("index.html")
    return template.render(
        page=page, figures=figures, tables=tables, kinds=kinds, style=style, script=""
    )


def macro(template: str, name: str, *arguments: object) -> str:
    """What one macro of a template draws."""
    return str(getattr(_environment().get_template(template).module, name)(*arguments))


def own_text(name: str) -> str:
    """One of the template folder's own files, as it is."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lobes.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "draw": draw,
        "curve_key": axes.key,
        "palette": colors.palette(),
        "ends": ENDS,
        "tints": colors.TINTS,
        "width_of": maps.width_of,
        "cell_of": cell_of,
        "text_of": text_of,
        "thousands": fmt.thousands,
        "spread": spread,
        "page_under": _under,
        "is_tall": lambda table: table.look == "tight" and len(table.rows) > TALL,
        "table_class": _table_class,
        "column_class": _column_class,
        "cell_class": _cell_class,
    }
    return environment


def draw(block: Block, level: int = 3) -> Markup:
    """A block as markup, by the macro of its kind; headings in it begin at `level`."""
    blocks = _environment().get_template("blocks.html").module
    return Markup(getattr(blocks, type(block).__name__)(block, level))


def _table_class(table: Table) -> str:
    if table.look == "matrix":
        return "matrix many" if len(spread(table.columns)) > 6 else "matrix"
    return "plain" if table.look == "plain" else f"plain {table.look}"


def _column_class(column: Column, table: Table) -> str:
    if table.look == "matrix":
        return ""
    return "" if column.is_text else "n"


def _cell_class(cell: Cell, column: Column, table: Table) -> str:
    tint = f"{'loss' if cell.tint < 0 else 'gain'}{abs(cell.tint)}" if cell.tint else ""
    marks = [mark for mark in ("beyond", "own", "quiet", "metric") if mark in cell.marks]
    drawing = "track" if column.kind == "drawing" else ""
    strong = "strong" if column.strong else ""
    return " ".join(filter(None, (_column_class(column, table), tint, strong, drawing, *marks)))


def _under(row: Row, columns: tuple[Column, ...], places: list[int]) -> str:
    return under_text(row, columns, [place for place in places if columns[place].in_page])


def is_page(path: Path) -> bool:
    """Whether a file is a page of lobes; `RunError` where it cannot be read."""
    with disk_faults(path), open(path, "rb") as file:
        return b'<meta name="generator" content="lobes ' in file.read(2_000)


def write_page(page: str, html_path: str | Path) -> Path:
    """Write the page in one step and return where it is.

    A reader of `html_path` sees the old page or the new one, never half of it. Raises `RunError`
    when it cannot be written.
    """
    target = Path(html_path)
    check_replaceable(target)
    with disk_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as file:
        file.write(page.encode())
    return target
