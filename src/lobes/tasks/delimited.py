"""CSV and TSV: cells of text, with the rules by which quotes are read.

A `Dialect` says which character stands between cells and how quotes are read: "minimal", as CSV
has it and as most programs write (a cell in double quotes, doubled inside), or "none", as GLUE's
TSV files have it (a quote is a character). CSV is read as "minimal". TSV is read as "minimal" where
every quote in the file is such a program's, else as "none".
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lobes.errors import ConfigError, DataError
from lobes.tasks.columns import check_present, listed
from lobes.tasks.raw_files import check_file, kind_of, open_text

# How many rows are read together.
BLOCK = 10_000

Line = tuple[int, list[str]]

# A cell that is wholly in quotes, those inside doubled.
_QUOTED = re.compile(r'"(?:[^"]|"")*"')

_OTHER_MARKS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the cells of a file are told apart; None is what the kind of file says.

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

    def of(self, path: Path) -> tuple[str, str]:
        """The delimiter and the quoting of a file."""
        mark = self.delimiter or ("," if kind_of(path) == ".csv" else "\t")
        if self.quoting is not None:
            return mark, self.quoting
        return mark, "minimal" if mark != "\t" or _is_quoted(path, mark) else "none"


# GLUE's files and all like them.
BARE = Dialect("\t", "none")


def read_delimited(
    path: Path,
    wanted: tuple[str, ...],
    dialect: Dialect,
    optional: tuple[str, ...] = (),
    *,
    ragged: bool = False,
    last: bool = False,
) -> Iterator[list[dict[str, str]]]:
    """The rows of a file with a header, in blocks.

    With `ragged`, lines with too few or too many cells are left out. With `last`, a line may have
    more cells than the header, and its last cell belongs to the last column.
    """
    header: list[str] | None = None
    mark, quoting = dialect.of(path)
    for lines in _lines(path, mark, quoting):
        if header is None:
            header = lines.pop(0)[1]
            present = (column for column in optional if column in header)
            _check_header(path, (*wanted, *present), header, mark)
        rows = []
        for number, cells in lines:
            if last and len(cells) > len(header):
                cells = [*cells[: len(header) - 1], cells[-1]]
            if len(cells) == len(header):
                rows.append(dict(zip(header, cells, strict=True)))
            elif cells and not ragged:  # no cells: a blank line
                raise DataError(
                    f"The file {str(path)!r} has {len(cells)} cells in line {number}, but "
                    f"{len(header)} columns: {listed(header)}{_hint(cells, quoting)}."
                )
        yield rows
    if header is None:
        check_present(f"The file {str(path)!r}", wanted, [])


def _hint(cells: Sequence[str], quoting: str) -> str:
    if quoting == "none" and any(cell.startswith('"') for cell in cells):
        return '; where quotes hold a cell together, set quoting = "minimal"'
    return ""


def read_cells(
    path: Path,
    wanted: Sequence[int],
    dialect: Dialect,
    *,
    header: re.Pattern[str] | None = None,
    named: int = 0,
) -> Iterator[list[dict[int, str]]]:
    """The rows of a file without a header in blocks, cells by their number from 0.

    A first line whose cell number `named` is all `header` is one all the same, and is left out.
    """
    check_file(path)
    is_first = header is not None
    for lines in _lines(path, *dialect.of(path)):
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
                    f"The file {str(path)!r} has {len(cells)} cells in line {number}: expected "
                    f"{max(wanted) + 1} or more, and no header."
                )
        yield rows


def header_of(path: Path, dialect: Dialect) -> list[str]:
    """The cells of the first line of a file."""
    check_file(path)
    first = next(_lines(path, *dialect.of(path), 1), [])
    return next((cells for _, cells in first), [])


def _check_header(path: Path, wanted: tuple[str, ...], header: list[str], mark: str) -> None:
    try:
        check_present(f"The file {str(path)!r}", wanted, header)
    except DataError as error:
        line = header[0] if len(header) == 1 else ""
        other = next((each for each in _OTHER_MARKS if each in line and each != mark), None)
        if other is None:
            raise
        shown = "\\t" if other == "\t" else other
        raise DataError(
            f"{str(error).split(' Did you mean ')[0]} The columns seem to have "
            f'{_OTHER_MARKS[other]} between them: set delimiter = "{shown}".'
        ) from None


def _is_quoted(path: Path, mark: str) -> bool:
    """Whether every quote in a file is one that a program put there to mark a cell.

    So it is where the names of all columns are in quotes; or where each cell with a quote is wholly
    in quotes with those inside doubled, and there are such inside, without which a program that
    quotes where it must would have written none.
    """
    reason = False
    with open_text(path, "") as file:
        for number, line in enumerate(file):
            if '"' not in line:
                continue
            cells = line.rstrip("\r\n").split(mark)
            quoted = [_QUOTED.fullmatch(cell) is not None for cell in cells]
            if number == 0 and all(quoted):
                return True
            if any(
                '"' in cell for cell, is_quoted in zip(cells, quoted, strict=True) if not is_quoted
            ):
                return False
            reason = reason or any('""' in cell[1:-1] for cell in cells)
    return reason


def _lines(path: Path, mark: str, quoting: str, size: int = BLOCK) -> Iterator[list[Line]]:
    """The lines of a file in blocks of (number of the line, cells); DataError for damage."""
    with open_text(path, "") as file:
        lines = csv.reader(
            file,
            delimiter=mark,
            quoting=csv.QUOTE_MINIMAL if quoting == "minimal" else csv.QUOTE_NONE,
            strict=True,
        )
        while block := _next_lines(path, lines, size):
            yield block


def _next_lines(path: Path, lines: Any, size: int) -> list[Line]:
    limit = csv.field_size_limit(2**31 - 1)  # texts may be long
    try:
        return [(lines.line_num, cells) for cells in islice(lines, size)]
    except csv.Error as error:
        raise DataError(
            f"The file {str(path)!r} cannot be read at line {lines.line_num}: {error}."
        ) from None
    finally:
        csv.field_size_limit(limit)
