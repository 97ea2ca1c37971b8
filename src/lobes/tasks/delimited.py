"""CSV and TSV: cells of text, and what quotes mean in them.

A `Dialect` says which character stands between cells and how quotes are read: "minimal", as CSV
has it and as most programs write (a cell in double quotes, doubled inside), or "none", as in
GLUE's TSV files (a quote is a character). CSV is read as "minimal". TSV is read as "minimal" where
a program put every quote of the file there to mark a cell, else as "none".
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

from lobes.errors import ConfigError, DataError
from lobes.tasks.columns import check_present, listed
from lobes.tasks.raw_files import kind_of, open_text

# How many rows are read together.
BLOCK = 2_000

# The number of a row's last line, and its cells.
Row = tuple[int, list[str]]

# A cell that is wholly in quotes, those inside doubled.
_QUOTED = re.compile(r'"(?:[^"]|"")*"')

_OTHER_MARKS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """The delimiter and the quoting of a file; None stands for what its kind suggests.

    Raises ConfigError for a delimiter that is not one character, and another kind of quoting.
    """

    delimiter: str | None = None
    quoting: str | None = None  # "minimal" or "none"

    def __post_init__(self) -> None:
        mark = self.delimiter
        if mark is not None and (not isinstance(mark, str) or len(mark) != 1 or mark in '"\r\n'):
            raise ConfigError(
                f"The delimiter is {mark!r}: expected one character, such as ';' or '\\t'."
            )
        if self.quoting not in (None, "minimal", "none"):
            raise ConfigError(
                f'The quoting is {self.quoting!r}: expected "minimal" (cells in double quotes '
                f'where needed) or "none" (a quote is a character).'
            )

    def reader(self, path: Path, file: TextIOWrapper) -> Any:
        """The `csv.reader` of an open file."""
        mark = self.delimiter or ("," if kind_of(path) == ".csv" else "\t")
        quoting = self.quoting
        if quoting is None and mark == "\t":
            # only the last quote of the file tells whether a quote is a character: two passes
            quoting = "minimal" if _is_quoted(file, mark) else "none"
            file.seek(0)
        return csv.reader(
            file,
            delimiter=mark,
            quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
            strict=True,
        )


# What the kind of a file suggests; and GLUE's files with all like them.
USUAL, BARE = Dialect(), Dialect("\t", "none")


def read_delimited(
    path: Path,
    wanted: Sequence[str],
    dialect: Dialect = USUAL,
    optional: Sequence[str] = (),
    *,
    ragged: bool = False,
    last: bool = False,
) -> Iterator[list[dict[str, str]]]:
    """Yield the rows of a file with a header, in blocks.

    With `ragged`, lines with too few or too many cells are left out. With `last`, a line may have
    more cells than the header, and its last cell belongs to the last column.
    """
    header: list[str] | None = None
    with open_text(path) as file:
        reader = dialect.reader(path, file)
        while lines := _next_rows(reader):
            if header is None:
                header = lines.pop(0)[1]
                present = (column for column in optional if column in header)
                _check_header((*wanted, *present), header, reader.dialect.delimiter)
            rows = []
            for number, cells in lines:
                if last and len(cells) > len(header):
                    cells = [*cells[: len(header) - 1], cells[-1]]
                if len(cells) == len(header):
                    rows.append(dict(zip(header, cells, strict=True)))
                elif cells and not ragged:  # no cells: a blank line
                    hint = _hint(cells, header, reader.dialect.quoting, reader.dialect.delimiter)
                    raise DataError(
                        f"has {len(cells)} cells in line {number}, but {len(header)} columns: "
                        f"{listed(header)}{hint}."
                    )
            yield rows
        if header is None:
            check_present(wanted, [])


def _hint(cells: Sequence[str], header: Sequence[str], quoting: int, delimiter: str) -> str:
    if quoting == csv.QUOTE_NONE:
        quoted = any(cell.startswith('"') for cell in cells)
        return '; where quotes hold a cell together, set quoting = "minimal"' if quoted else ""
    if len(cells) > len(header):
        return f"; put a cell that holds {delimiter!r} in double quotes"
    return ""


def read_cells(
    path: Path,
    wanted: Sequence[int],
    dialect: Dialect,
    *,
    header: re.Pattern[str] | None = None,
    named: int = 0,
) -> Iterator[list[dict[int, str]]]:
    """Yield the rows of a file without a header in blocks, cells by their number from 0.

    A first line whose cell number `named` is all `header` is a header after all, and is left out.
    """
    is_first = header is not None
    with open_text(path) as file:
        reader = dialect.reader(path, file)
        while lines := _next_rows(reader):
            rows = []
            for number, cells in lines:
                if is_first and header is not None and cells:
                    is_first = False
                    if len(cells) > named and header.fullmatch(cells[named]):
                        continue
                if len(cells) > max(wanted):
                    rows.append(dict(enumerate(cells)))
                elif cells:
                    raise DataError(
                        f"has {len(cells)} cells in line {number}: expected {max(wanted) + 1} or "
                        f"more, and no header."
                    )
            yield rows


def header_of(path: Path, dialect: Dialect) -> list[str]:
    """The cells of the first line of a file."""
    with open_text(path) as file:
        first = _next_rows(dialect.reader(path, file), 1)
    return next((cells for _, cells in first), [])


def likely_delimiter(path: Path) -> str | None:
    """The delimiter that a file seems to have, where that is not the one of its kind."""
    return _other_mark(header_of(path, USUAL), "," if kind_of(path) == ".csv" else "\t")


def _other_mark(header: Sequence[str], mark: str) -> str | None:
    """What seems to stand between the columns, where `mark` makes one column of them."""
    line = header[0] if len(header) == 1 else ""
    return next((each for each in _OTHER_MARKS if each in line and each != mark), None)


def _check_header(wanted: Sequence[str], header: list[str], mark: str) -> None:
    try:
        check_present(wanted, header)
    except DataError as error:
        other = _other_mark(header, mark)
        if other is None:
            raise
        shown = "\\t" if other == "\t" else other
        raise DataError(
            f"{str(error).split(' Did you mean ')[0]} The columns seem to have "
            f'{_OTHER_MARKS[other]} between them: set delimiter = "{shown}".'
        ) from error


def _is_quoted(file: TextIOWrapper, mark: str) -> bool:
    """Whether a program put every quote of a file there to mark a cell.

    It did where the names of all columns are in quotes. It also did where each cell with a quote
    is wholly in quotes with those inside doubled, and some cell has such quotes inside: a program
    that quotes only where it must had no other reason to.
    """
    reason = False
    for number, line in enumerate(file):
        if '"' not in line:
            continue
        cells = line.rstrip("\r\n").split(mark)
        quoted = [_QUOTED.fullmatch(cell) is not None for cell in cells]
        if number == 0 and all(quoted):
            return True
        if any('"' in cell for cell, is_quoted in zip(cells, quoted, strict=True) if not is_quoted):
            return False
        reason = reason or any('""' in cell[1:-1] for cell in cells)
    return reason


def _next_rows(rows: Any, size: int = BLOCK) -> list[Row]:
    """The next rows of a `csv.reader`; none at the end of the file."""
    limit = csv.field_size_limit(2**31 - 1)  # texts may be long; the limit is the process's own
    try:
        return [(rows.line_num, cells) for cells in islice(rows, size)]
    except csv.Error as error:
        raise DataError(f"cannot be read at line {rows.line_num}: {error}.") from error
    finally:
        csv.field_size_limit(limit)
