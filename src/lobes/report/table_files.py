"""A table as a file: CSV holds the values at full precision, LaTeX what the page shows."""

import csv
import io
import math
import re
from collections.abc import Sequence

from lobes.report import formatting as fmt
from lobes.report.tables import ENDS, Cell, Column, Kind, Row, Table, Value, cell_of, text_of

# What a spreadsheet takes for a formula, also behind letters that it passes over or does not show,
# and the full-width forms that some of them read as the others.
_FORMULA = re.compile(r"[\t\r]|[\s\x00-\x1f\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_THIN = "\u202f"
_LATEX = dict(
    line.split(maxsplit=1)
    for line in r"""
\ \textbackslash{}
~ \textasciitilde{}
^ \textasciicircum{}
| \textbar{}
` \textasciigrave{}
" ''
< $<$
> $>$
% \%
& \&
_ \_
# \#
$ \$
{ \{
} \}
− $-$
– --
— ---
‘ `
’ '
“ ``
” ''
… \dots{}
· $\cdot$
× $\times$
± $\pm$
√ $\surd$
° $^\circ$
≤ $\leq$
≥ $\geq$
≠ $\neq$
← $\leftarrow$
→ $\rightarrow$
↑ $\uparrow$
↓ $\downarrow$
ⁿ $^n$
""".strip().splitlines()
) | {fmt.GAP: "~", _THIN: r"\,", "\n": " ", "\t": " "}


def spreadsheet_cell(text: str) -> str:
    """Return the text of a CSV or TSV cell so that no spreadsheet takes it for a formula.

    Text that begins with `=`, `+`, `-`, `@`, a tab or a carriage return gets an apostrophe in
    front, as OWASP advises. Numbers stay numbers, and a sign alone, a common label, stays itself:
    it is no formula.
    """
    is_formula = _FORMULA.match(text) and len(text) > 1 and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def to_csv(table: Table) -> str:
    """The table by RFC 4180: every value as it was computed, what is undefined empty.

    A column of intervals becomes two, `… low` and `… high`; a unit stands in the title, `D (%)`. A
    title that stands over several columns is put behind that of the column it belongs to: `First
    p`. Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    places = _places(table)
    out = io.StringIO()
    writer = csv.writer(out)
    header = _unique([name for place in places for name in _names(table.columns, place)])
    writer.writerow([spreadsheet_cell(name) for name in header])
    for row in table.rows:
        cells = [text for place in places for text in _plain(row.cells[place], table, place)]
        writer.writerow([spreadsheet_cell(text) for text in cells])
    return out.getvalue()


def _places(table: Table) -> list[int]:
    return [
        place
        for place, column in enumerate(table.columns)
        if column.in_files and column.kind != "drawing"
    ]


def _names(columns: Sequence[Column], place: int) -> list[str]:
    """The titles of the one or two columns of a file that a column becomes."""
    column, titles = columns[place], [column.title for column in columns]
    name, unique = column.title, [title for title in titles if titles.count(title) == 1]
    before = [title for title in titles[:place] if title in unique]
    if name not in unique and before:
        name = f"{before[-1]} {name}"
    kind = _ends(column)
    unit = column.unit or ("%" if kind == "percent" else "")
    parts = [" low", " high"] if column.kind == "interval" else [""]
    return [_words(f"{name}{part}{f' ({unit})' if unit else ''}") for part in parts]


def _ends(column: Column) -> Kind:
    return column.ends if column.kind == "interval" else column.kind


def _unique(names: Sequence[str]) -> list[str]:
    """The names, a number behind those that came before."""
    counts = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name} {n + 1}" if n else name for name, n in zip(names, counts, strict=True)]


def _plain(cell: Value | Cell, table: Table, place: int) -> list[str]:
    """A value as the one or two texts that stand for it in a file."""
    column = table.columns[place]
    value = cell.value if isinstance(cell, Cell) else cell
    if isinstance(value, tuple):
        return [_number(end, column) for end in value]
    text = _words(value) if isinstance(value, str) else _number(value, column)
    return [text, ""] if column.kind == "interval" else [text]


def _number(value: float | None, column: Column) -> str:
    number = fmt.number(value)
    if not math.isfinite(number):
        return ""
    kind = _ends(column)
    if kind == "percent":
        number = float(f"{100 * number:.14g}")  # 7 %, not 7.000000000000001 %
    return str(round(number)) if number.is_integer() and kind == "count" else repr(number + 0.0)


def _words(text: str) -> str:
    """Text without the page's gaps: those that bind, and those between thousands."""
    if text == fmt.UNDEFINED:
        return ""
    plain = re.sub(rf"(?<=\d){_THIN}(?=\d)", "", text.replace(fmt.GAP, " "))
    return re.sub(r"−(?=\d)", "-", plain)


def to_latex(table: Table) -> str:
    r"""The table as a booktabs `tabular` for `\input`; its caption is a comment on the first line.

    Bold are a task under its own lesion and what a page marks as significant; underlined is the
    score that it marks as the lowest or the highest of its column. Everything is escaped. pdflatex,
    xelatex and lualatex read it; a letter that pdflatex lacks stands as its number, [U+4E2D].
    """
    places = _places(table)
    columns = [table.columns[place] for place in places]
    lines = [
        f"% {' '.join(table.caption.split())}",
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{''.join('l' if column.is_text else 'r' for column in columns)}}}",
        r"\toprule",
        latex_row([column.title for column in columns]),
        r"\midrule",
        *(_latex_cells(row, table, places) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cells(row: Row, table: Table, places: Sequence[int]) -> str:
    cells = []
    for place in places:
        cell = cell_of(row.cells[place])
        text = latex(text_of(cell, table.columns[place]))
        if text and ENDS.keys() & cell.marks:
            text = rf"\underline{{{text}}}"
        if text and {"own", "beyond"} & cell.marks:
            text = rf"\textbf{{{text}}}"
        cells.append(text)
    return _joined(cells)


def latex_row(cells: Sequence[str]) -> str:
    r"""A row of a `tabular` with its `\\`, every cell escaped."""
    return _joined([latex(cell) for cell in cells])


def _joined(cells: Sequence[str]) -> str:
    first, *rest = cells
    if first[:1] in ("[", "*"):
        first = f"{{}}{first}"  # after \\ and \toprule these would be read as their argument
    return rf"{' & '.join([first, *rest])} \\"


def latex(text: str) -> str:
    """The text as LaTeX shows it."""
    return "".join(_LATEX.get(letter) or _letter(letter) for letter in text)


def _letter(letter: str) -> str:
    # Latin-1 and Latin Extended-A have what T1 and inputenc know; the rest stops pdflatex
    if " " <= letter <= "~" or ("À" <= letter <= "ſ" and letter not in "ŉſĿŀĦħŦŧĸ"):
        return letter
    return f"[U+{ord(letter):04X}]"
