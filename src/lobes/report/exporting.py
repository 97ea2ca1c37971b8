"""The figures of a page as SVG and PNG, its tables as CSV and LaTeX: names and contents of files.

File names are the names of `listing.py`. `lobes.experiments.reports` writes the files.
PNG needs resvg_py (the extra `figures`), which draws the words with the machine's own fonts.
"""

import csv
import importlib
import io
import re
from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType

from lobes.errors import ConfigError, RunError
from lobes.report import table_files as typed
from lobes.report import tables
from lobes.report.formatting import GAP, UNDEFINED
from lobes.report.listing import Shown, figures_of, tables_of
from lobes.report.table_files import latex_row, spreadsheet_cell
from lobes.report.tabular import Row, Table

DPI = 192  # two pixels for each of a figure's units, which are those of CSS: 96 to the inch
_THIN = "\u202f"
_NUMBER = r"[+−-]?\d[\d\u202f]*(?:\.\d+)?(?:e[+−-]?\d+)?"
_GAP = "[\u00a0 ]"
_SPAN = rf"(?P<low>{_NUMBER}){_GAP}to{_GAP}(?P<high>{_NUMBER})"
# `+12.4`, `+12.4 (+9.8 to +15.1; +3.2 % of base), p 0.048`, `30 %`, `+9.8 to +15.1`
_VALUE = re.compile(
    rf"(?P<value>{_NUMBER})(?P<percent>{_GAP}?%)?"
    rf"(?:{_GAP}\({_SPAN}(?:;{_GAP}(?P<share>{_NUMBER}){_GAP}?%{_GAP}of base)?\))?"
    rf"(?:,{_GAP}p{_GAP}(?P<p>.+))?"
)
_INTERVAL = re.compile(_SPAN)
# what a column's cells hold, and how the columns are named that it becomes
_PARTS = {"value": "", "low": " low", "high": " high", "share": " (% of base)", "p": " p"}


def figure_files(report: Shown, *, png: bool = True, dpi: int = DPI) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every figure, as SVG and, with `png`, as PNG at so many `dpi`.

    Raises `ConfigError` for a `dpi` outside 24 to 1200, and `RunError` where PNG cannot be drawn:
    without resvg_py, or without a font.
    """
    if png and not 24 <= dpi <= 1200:
        raise ConfigError(f"Cannot draw PNG figures at {dpi} dpi: expected 24 to 1200.")
    for figure in figures_of(report):
        text = figure.drawing.document(figure.name)
        yield f"{figure.name}.svg", text.encode("utf-8")
        if png:
            yield f"{figure.name}.png", to_png(text, dpi)


def table_files(report: Shown) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of every table, as CSV and as LaTeX."""
    for table in tables_of(report):
        if isinstance(table, tables.Table):
            texts = typed.to_csv(table), typed.to_latex(table)
        else:
            texts = to_csv(table), to_latex(table)
        for kind, text in zip(("csv", "tex"), texts, strict=True):
            yield f"{table.name}.{kind}", text.encode("utf-8")


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


def to_csv(table: Table) -> str:
    """The table by RFC 4180: numbers plain, percent signs and intervals taken apart.

    A column of intervals becomes two, `… low` and `… high`; what is undefined is empty. A title
    that stands over several columns is put behind that of the column it belongs to: `First p`.
    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    columns = [_plain_column(table, place) for place in range(len(table.header))]
    out = io.StringIO()
    writer = csv.writer(out)
    header = _unique([name for names, _ in columns for name in names])
    writer.writerow([spreadsheet_cell(name) for name in header])
    for line in zip(*(cells for _, cells in columns), strict=True):
        writer.writerow([spreadsheet_cell(text) for cell in line for text in cell])
    return out.getvalue()


def _unique(names: Sequence[str]) -> list[str]:
    """The names, a number behind those that came before."""
    counts = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} {n + 1}" if n else name for name, n in zip(names, counts, strict=True)]


def _plain_column(table: Table, place: int) -> tuple[Row, list[Row]]:
    """The names and the cells of the one or more columns that a table's column becomes."""
    name, cells = _name(table.header, place), [row[place] for row in table.rows]
    if place < table.left:
        return (name,), [(_words(cell),) for cell in cells]
    known = [cell for cell in cells if cell not in ("", UNDEFINED)]
    for pattern in (_VALUE, _INTERVAL):
        matches = [pattern.fullmatch(cell) for cell in known]
        found = [match.groupdict() for match in matches if match]
        if not found or len(found) < len(known):
            continue
        units = [bool(match.get("percent")) for match in found]
        if all(units) or not any(units):
            parts = [part for part in _PARTS if any(match.get(part) for match in found)]
            names = tuple(name + _PARTS[part] + " (%)" * all(units) for part in parts)
            values = iter(found)
            blank = ("",) * len(parts)
            return names, [
                _parts(next(values), parts) if cell in known else blank for cell in cells
            ]
    return (name,), [(_cell(cell),) for cell in cells]


def _name(header: Row, place: int) -> str:
    name, unique = header[place], [title for title in header if header.count(title) == 1]
    before = [title for title in header[:place] if title in unique]
    return _plain(name if name in unique or not before else f"{before[-1]} {name}")


def _parts(match: dict[str, str | None], parts: Sequence[str]) -> Row:
    texts = ((part, match[part] or "") for part in parts)
    return tuple(_words(text) if part == "p" else _number(text) for part, text in texts)


def _cell(text: str) -> str:
    """A cell of a column of mixed content."""
    return _number(text) if re.fullmatch(_NUMBER, text) else _plain(text)


def _number(text: str) -> str:
    return text.replace("−", "-").replace(_THIN, "").removeprefix("+")


def _plain(text: str) -> str:
    """Running text with the minus signs that every program reads."""
    return re.sub(r"−(?=\d)", "-", _words(text))


def _words(text: str) -> str:
    """Text without the page's gaps: those that bind, and those between thousands."""
    if text == UNDEFINED:
        return ""
    return re.sub(r"(?<=\d)\u202f(?=\d)", "", text.replace(GAP, " "))


def to_latex(table: Table) -> str:
    r"""The table as a booktabs `tabular` for `\input`; its caption is a comment on the first line.

    Everything is escaped. pdflatex, xelatex and lualatex read it; a letter that pdflatex lacks
    stands as its number, [U+4E2D].
    """
    kinds = "l" * table.left + "r" * (len(table.header) - table.left)
    lines = [
        f"% {' '.join(table.caption.split())}",
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        latex_row(table.header),
        r"\midrule",
        *(latex_row(row) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
