"""The kinds of files: CSV, TSV, JSON lines and Parquet, read so that text stays text.

A file's kind is told by its suffix. CSV has a header, commas and, where needed, double quotes; TSV
has a header and tabs, and a quote in it is an ordinary character; JSON lines has one object on
each line. All three are UTF-8, with or without a byte-order mark. "NA", "null" and "001" are what
they say. Damage is named by the line or the byte. Files are read in blocks of rows, so that no
file is in memory whole.
"""

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from lobes.errors import DataError
from lobes.tasks.columns import TaskData, check_present, listed, suggest

# How many rows are read together.
BLOCK = 10_000

Read = Iterator[TaskData]


def read_rows(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> TaskData:
    """All rows of a file, as `Task` takes them: a list of dicts, or a `pyarrow.Table` (Parquet).

    As `read_blocks`, for files that fit into memory.
    """
    found = list(read_blocks(path, wanted, optional))
    if path.suffix.lower() == ".parquet":
        import pyarrow

        return pyarrow.concat_tables(found)
    return [row for block in found for row in block]


def read_blocks(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> Read:
    """The rows of a file in blocks, lists of dicts or `pyarrow.Table`s (Parquet).

    Every column `wanted` must be there; of Parquet only those and the `optional` ones are read.
    Cells of CSV and TSV are strings. Raises DataError, with the line or the byte, for a file that
    is missing, empty or damaged.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"Cannot tell what kind of file {str(path)!r} is by its suffix {path.suffix!r}: "
            f"expected one of {', '.join(_READERS)}."
        )
    check_file(path)
    return read(path, tuple(wanted), tuple(optional))


def read_labelled(
    path: Path,
    wanted: Sequence[str],
    optional: Sequence[str],
    label: str,
    labels: Sequence[str] | None,
) -> Read:
    """As `read_blocks`; the labels of CSV and TSV are numbers where all of them are.

    Labels stay text where one of them is a label name as it stands. An empty cell is no label.
    """
    found = read_blocks(path, wanted, optional)
    header = header_of(path) if has_text_cells(path) else []
    if label not in header:
        yield from found
        return
    check_present(f"The file {str(path)!r}", (*wanted, label), header)
    read = _kind_of_labels(label, _cells_of(path, label), labels or ())
    for block in found:
        for row in block:
            row[label] = read(row[label]) if row[label].strip() else None
        yield block


def _cells_of(path: Path, column: str) -> Iterator[str]:
    """The cells of one column, of the lines that have as many cells as the header."""
    lines = chain.from_iterable(_lines(path, _delimiter(path)))
    _, header = next(lines)
    place = header.index(column)
    return (cells[place] for _, cells in lines if len(cells) == len(header))


def read_cells(path: Path, wanted: Sequence[int], *, delimiter: str, ragged: bool = False) -> Read:
    """The rows of a CSV or TSV file without a header in blocks, cells by their number from 0."""
    check_file(path)
    for lines in _lines(path, delimiter):
        rows = []
        for number, cells in lines:
            if len(cells) > max(wanted):
                rows.append(dict(enumerate(cells)))
            elif cells and not ragged:
                raise DataError(
                    f"The file {str(path)!r} has {len(cells)} cells in line {number}: expected "
                    f"{max(wanted) + 1} or more, and no header."
                )
        yield rows


def read_ragged(path: Path, wanted: Sequence[str], *, delimiter: str) -> Read:
    """As `read_blocks` for CSV and TSV, but lines with too few or too many cells are left out."""
    check_file(path)
    return _delimited(path, tuple(wanted), delimiter, ragged=True)


def has_text_cells(path: Path) -> bool:
    """Whether every cell of such a file is a string, so that numbers must be told from names."""
    return path.suffix.lower() in (".csv", ".tsv")


def header_of(path: Path) -> list[str]:
    """The cells of the first line of a CSV or TSV file."""
    check_file(path)
    first = next(_lines(path, _delimiter(path), 1), [])
    return next((cells for _, cells in first), [])


def _kind_of_labels(
    label: str, cells: Iterator[str], names: Sequence[str]
) -> Callable[[str], object]:
    """What makes labels of cells: int or float where all filled cells are such, else str.

    Raises DataError for cells that are lists written as text.
    """
    whole = fractional = lists = True
    first = None
    for cell in cells:
        if cell in names:
            return str
        first = cell if first is None else first
        filled = cell.strip()
        whole = whole and (not filled or re.fullmatch(r"[+-]?(0|[1-9]\d*)", filled) is not None)
        fractional = fractional and (whole or not filled or _is_number(filled))
        lists = lists and re.fullmatch(r"\[.*\]", filled, re.S) is not None
        if not (whole or fractional or lists):
            return str
    if lists and first is not None:
        raise DataError(
            f"the column {label!r} has lists, such as {first!r}, but a cell of CSV or TSV is "
            f"text: give each label a column of 0 and 1, with label=(…), or use JSON lines."
        )
    return int if whole else float


def _is_number(cell: str) -> bool:
    # Leading zeros are kept: "001" is a name, not the number 1.
    if re.match(r"[+-]?0\d", cell):
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def check_file(path: Path) -> None:
    """Raise DataError where `path` is no file that can be read, or is empty."""
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder: name a file in it.")
    if not path.exists():
        if not path.parent.is_dir():
            raise DataError(f"There is no file {str(path)!r}, nor the folder {str(path.parent)!r}.")
        names = [other.name for other in path.parent.iterdir() if other.is_file()]
        raise DataError(
            f"There is no file {path.name!r} in {str(path.parent)!r}." + suggest(path.name, names)
        )
    try:
        empty = path.stat().st_size == 0
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    if empty:
        raise DataError(f"The file {str(path)!r} is empty.")


def read_json_lines(
    path: Path, wanted: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> Read:
    """The objects of a file with one JSON object on each line, whatever its suffix, in blocks."""
    check_file(path)
    with _open(path, "\n") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        while block := list(islice(lines, BLOCK)):
            yield [_object(path, number, line.removesuffix("\n")) for number, line in block]


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    row = _json(path, number, line)
    if not isinstance(row, dict):
        raise DataError(
            f"The file {str(path)!r} has a {type(row).__name__} in line {number}: expected "
            f'one object on each line, such as {{"text": "…", "label": 0}}.'
        )
    return row


def _json(path: Path, number: int, line: str) -> Any:
    place = ""
    try:
        row = json.loads(line)
        if "\\u" in line:  # half a character, which no tokenizer takes
            json.dumps(row, ensure_ascii=False).encode()
        return row
    except json.JSONDecodeError as error:
        reason, place = error.msg, f", column {error.colno}"
    except UnicodeEncodeError as error:
        reason = f"half of a surrogate pair, \\u{ord(error.object[error.start]):04x}"
    except RecursionError:
        reason = "too many brackets in brackets"
    except ValueError:
        reason = "a number with thousands of digits"
    raise DataError(
        f"The file {str(path)!r} has no JSON in line {number}{place}: {reason}; expected one "
        f"object on each line."
    )


def read_text(path: Path) -> str:
    """A whole file of UTF-8, without its byte-order mark; DataError for what is none."""
    with _open(path, "") as file:
        return file.read()


@contextmanager
def _open(path: Path, newline: str) -> Iterator[TextIO]:
    """The lines of a file in UTF-8, as Python's `newline` ends them."""
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError:
        offset, line, byte, wide = _first_foreign_byte(path)
        source = "UTF-16" if wide else "WINDOWS-1252"
        raise DataError(
            f"The file {str(path)!r} is not UTF-8: byte 0x{byte:02x} at offset {offset}, line "
            f"{line}; convert it, for example with: iconv -f {source} -t UTF-8."
        ) from None


def _first_foreign_byte(path: Path) -> tuple[int, int, int, bool]:
    """Where a file stops being UTF-8: offset, line, byte; and whether it begins as UTF-16 does."""
    offset, line, wide = 0, 1, False
    with path.open("rb") as file:
        for data in iter(lambda: b"".join(file.readlines(2**20)), b""):
            wide = wide or (offset == 0 and data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            try:
                data.decode()
            except UnicodeDecodeError as error:
                line += data.count(b"\n", 0, error.start)
                return offset + error.start, line, data[error.start], wide
            offset, line = offset + len(data), line + data.count(b"\n")
    raise DataError(f"The file {str(path)!r} changed while it was read.")


def _delimiter(path: Path) -> str:
    return "," if path.suffix.lower() == ".csv" else "\t"


def _lines(path: Path, delimiter: str, size: int = BLOCK) -> Iterator[list[tuple[int, list[str]]]]:
    """The lines of a CSV or TSV file in blocks of (number of the line, cells).

    Raises DataError for damage.
    """
    longest = max(path.stat().st_size, 1)  # texts may be long
    with _open(path, "") as file:
        lines = csv.reader(
            file,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
            strict=True,
        )
        while block := _next_lines(path, lines, size, longest):
            yield block


def _next_lines(path: Path, lines: Any, size: int, longest: int) -> list[tuple[int, list[str]]]:
    limit = csv.field_size_limit(longest)
    try:
        return [(lines.line_num, cells) for cells in islice(lines, size)]
    except csv.Error as error:
        raise DataError(
            f"The file {str(path)!r} cannot be read at line {lines.line_num}: {error}."
        ) from None
    finally:
        csv.field_size_limit(limit)


def _delimited(
    path: Path, wanted: tuple[str, ...], delimiter: str, *, ragged: bool = False
) -> Iterator[list[dict[str, str]]]:
    header: list[str] | None = None
    for lines in _lines(path, delimiter):
        if header is None:
            header = lines.pop(0)[1]
            check_present(f"The file {str(path)!r}", wanted, header)
        rows = []
        for number, cells in lines:
            if len(cells) == len(header):
                rows.append(dict(zip(header, cells, strict=True)))
            elif cells and not ragged:  # no cells: a blank line
                raise DataError(
                    f"The file {str(path)!r} has {len(cells)} cells in line {number}, but "
                    f"{len(header)} columns: {listed(header)}."
                )
        yield rows
    if header is None:
        check_present(f"The file {str(path)!r}", wanted, [])


def _read_delimited(
    path: Path, wanted: tuple[str, ...], optional: tuple[str, ...]
) -> Iterator[list[dict[str, str]]]:
    return _delimited(path, wanted, _delimiter(path))


def _read_parquet(path: Path, wanted: tuple[str, ...], optional: tuple[str, ...]) -> Read:
    import pyarrow
    import pyarrow.parquet

    try:
        # through a buffer: else a column of a row group is in memory whole
        with pyarrow.parquet.ParquetFile(path, buffer_size=2**20) as file:
            names = file.schema_arrow.names
            check_present(f"The file {str(path)!r}", wanted, names)
            present = [name for name in dict.fromkeys((*wanted, *optional)) if name in names]
            yield file.schema_arrow.empty_table().select(present)
            for batch in file.iter_batches(BLOCK, columns=present):
                table = pyarrow.Table.from_batches([batch])
                table.validate(full=True)
                yield table
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError(
            f"The file {str(path)!r} is not a whole Parquet file, or is damaged: {reason}."
        ) from None


_READERS: dict[str, Callable[[Path, tuple[str, ...], tuple[str, ...]], Read]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_lines,
    ".parquet": _read_parquet,
}

SUFFIXES = tuple(_READERS)
