"""The figures of a page as SVG and PNG, its tables as CSV and LaTeX: names and contents of files.

Files have the names of the page's figures and tables. `lobes.experiments.reports` writes the files.
PNG needs resvg_py (the extra `figures`), which draws the words with the machine's own fonts.
"""

import importlib
from collections.abc import Iterator
from functools import cache
from types import ModuleType

from lobes.errors import ConfigError, RunError
from lobes.report.page import index as html_index
from lobes.report.sections import Page, figures, tables
from lobes.report.table_files import to_csv, to_latex

DPI = 192  # two pixels for each of a figure's units, which are those of CSS: 96 to the inch


def figure_files(page: Page, *, png: bool = True, dpi: int = DPI) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every figure, as SVG and, with `png`, as PNG at so many `dpi`.

    Raises `ConfigError` for a `dpi` outside 24 to 1200, and `RunError` where PNG cannot be drawn:
    without resvg_py, or without a font.
    """
    if png and not 24 <= dpi <= 1200:
        raise ConfigError(f"Cannot draw PNG figures at {dpi} dpi: expected 24 to 1200.")
    for figure in figures(page):
        text = figure.drawing.document(figure.name)
        yield f"{figure.name}.svg", text.encode("utf-8")
        if png:
            yield f"{figure.name}.png", to_png(text, dpi)


def table_files(page: Page) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every table, as CSV and as LaTeX."""
    for table in tables(page):
        for kind, write in (("csv", to_csv), ("tex", to_latex)):
            yield f"{table.name}.{kind}", write(table).encode("utf-8")


def index_of(page: Page, *, png: bool = True) -> str:
    """A page that shows every figure and lists every table of the files, with their names."""
    return html_index(page, figures(page), tables(page), ("svg", "png") if png else ("svg",))


def to_png(svg: str, dpi: int = DPI) -> bytes:
    """The drawing as PNG. Raises `RunError` without resvg_py, or where no font is installed."""
    return bytes(_resvg().svg_to_bytes(svg_string=svg, zoom=dpi / 96))


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
            f'<text y="15" font-family="sans-serif">{word}</text></svg>'
        )
        for word in ("0", "")
    )
    if bytes(with_word) == bytes(without):
        raise RunError(
            "PNG figures would lack their words, because this machine has no font: install one "
            "(on Debian: apt install fonts-dejavu-core), or write SVG only."
        )
    return library
