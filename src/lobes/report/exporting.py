"""The figures of a page as SVG, PNG and PDF, its tables as CSV and LaTeX: names and contents.

Files have the names of the page's figures and tables. `lobes.experiments.reports` writes the files.
PNG needs resvg_py and PDF typst (the extra `figures`), which take the machine's own fonts.
"""

import importlib
from collections.abc import Iterator
from functools import cache
from types import ModuleType

from lobes.errors import ConfigError, RunError
from lobes.report.drawing import FONT
from lobes.report.page import index as html_index
from lobes.report.sections import Page, figures, tables
from lobes.report.table_files import to_csv, to_latex

DPI = 192  # two pixels for each of a figure's units, which are those of CSS: 96 to the inch


# A page of the figure's own size, where a CSS pixel is 0.75 pt; without a date, so always the same.
_PDF = b"""#set document(date: none)
#set page(width: auto, height: auto, margin: 0pt)
#image(bytes(sys.inputs.svg), format: "svg")
"""


def figure_files(
    page: Page, *, png: bool = True, pdf: bool = False, dpi: int = DPI
) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every figure: SVG, with `png` PNG at so many `dpi`, with `pdf` PDF.

    Raises `ConfigError` for a `dpi` outside 24 to 1200, and `RunError` where PNG or PDF cannot be
    drawn: without resvg_py or a font, without typst.
    """
    if png and not 24 <= dpi <= 1200:
        raise ConfigError(f"Cannot draw PNG figures at {dpi} dpi: expected 24 to 1200.")
    for figure in figures(page):
        text = figure.drawing.document(figure.name)
        yield f"{figure.name}.svg", text.encode("utf-8")
        if png:
            yield f"{figure.name}.png", to_png(text, dpi)
        if pdf:
            yield f"{figure.name}.pdf", to_pdf(text)


def table_files(page: Page) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every table, as CSV and as LaTeX."""
    for table in tables(page):
        for kind, write in (("csv", to_csv), ("tex", to_latex)):
            yield f"{table.name}.{kind}", write(table).encode("utf-8")


def index_of(page: Page, *, png: bool = True, pdf: bool = False) -> str:
    """A page that shows every figure and lists every table of the files, with their names."""
    kinds = ["svg", *["png"] * png, *["pdf"] * pdf]
    return html_index(page, figures(page), tables(page), kinds)


def to_png(svg: str, dpi: int = DPI) -> bytes:
    """The drawing as PNG. Raises `RunError` without resvg_py, or where no font is installed."""
    return bytes(_resvg().svg_to_bytes(svg_string=svg, zoom=dpi / 96))


def to_pdf(svg: str) -> bytes:
    """The drawing as PDF, words as text, fonts inside. Raises `RunError` without typst."""
    try:
        library = importlib.import_module("typst")
    except ImportError as error:
        raise RunError(
            "PDF figures need typst, which is not installed: pip install 'lobes[figures]', or "
            "leave out --pdf."
        ) from error
    return bytes(library.compile(_PDF, sys_inputs={"svg": svg}))


@cache
def _resvg() -> ModuleType:
    """The library that draws, once it has shown that it finds a font for words."""
    try:
        library = importlib.import_module("resvg_py")
    except ImportError as error:
        raise RunError(
            "PNG figures need resvg_py, which is not installed: pip install 'lobes[figures]', or "
            "write SVG only."
        ) from error
    with_word, without = (
        library.svg_to_bytes(
            svg_string='<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20">'
            f'<text y="15" font-family="{FONT}">{word}</text></svg>'
        )
        for word in ("0", "")
    )
    if bytes(with_word) == bytes(without):
        raise RunError(
            "PNG figures would lack their words, because this machine has no font: install one "
            "(on Debian: apt install fonts-dejavu-core), or write SVG only."
        )
    return library
