"""The kinds of files: CSV, TSV, JSON lines and Parquet, read so that text stays text.

A file's kind is told by its suffix. CSV has a header, commas and, where needed, double quotes; TSV
has a header and tabs, and a quote in it is an ordinary character; JSON lines has one object on
each line. All three are UTF-8, with or without a byte-order mark. "NA", "null" and "001" are what
they say. Damage is named by the line or the byte.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lobes.errors import DataError
from lobes.tasks.columns import TaskData, check_present, listed, suggest


def read_rows(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> TaskData:
    """The rows of a file, as `Task` takes them: a list of dicts, or a `pyarrow.Table` (Parquet).

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


def read_cells(
    path: Path, wanted: Sequence[int], *, delimiter: str, ragged: bool = False
) -> list[dict[int, str]]:
    """The rows of a CSV or TSV file without a header, cells by their number from 0."""
    check_file(path)
    rows = []
    with _lines(path, delimiter) as lines:
        for number, cells in lines:
            if len(cells) > max(wanted):
                rows.append(dict(enumerate(cells)))
            elif cells and not ragged:
                raise DataError(
                    f"The file {str(path)!r} has {len(cells)} cells in line {number}: expected "
                    f"{max(wanted) + 1} or more, and no header."
                )
    return rows


def read_ragged(path: Path, wanted: Sequence[str], *, delimiter: str) -> list[dict[str, str]]:
    """As `read_rows` for CSV and TSV, but lines with too few or too many cells are left out."""
    check_file(path)
    return _delimited(path, tuple(wanted), delimiter, ragged=True)


def has_text_cells(path: Path) -> bool:
    """Whether every cell of such a file is a string, so that numbers must be told from names."""
    return path.suffix.lower() in (".csv", ".tsv")


def header_of(path: Path) -> list[str]:
    """The cells of the first line of a CSV or TSV file."""
    check_file(path)
    with _lines(path, _delimiter(path)) as lines:
        return next((cells for _, cells in lines), [])


def read_labels(
    rows: list[dict[str, Any]], label: str, labels: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Rows of strings with the labels read as numbers, where all of them are numbers.

    Labels stay text where one of them is a label name as it stands. An empty cell is no label.
    Raises DataError for cells that are lists written as text.
    """
    cells = [row[label] for row in rows]
    if (
        set(cells).isdisjoint(labels or ())
        and cells
        and all(re.fullmatch(r"\s*\[.*\]\s*", cell, re.S) for cell in cells)
    ):
        raise DataError(
            f"the column {label!r} has lists, such as {cells[0]!r}, but a cell of CSV or TSV is "
            f"text: give each label a column of 0 and 1, with label=(…), or use JSON lines."
        )
    read: Callable[[str], object] = str
    if set(cells).isdisjoint(labels or ()):
        filled = [cell.strip() for cell in cells if cell.strip()]
        if all(re.fullmatch(r"[+-]?(0|[1-9]\d*)", cell) for cell in filled):
            read = int
        elif all(map(_is_number, filled)):
            read = float
    return [{**row, label: read(row[label]) if row[label].strip() else None} for row in rows]


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
) -> list[dict[str, Any]]:
    """The objects of a file with one JSON object on each line, whatever its suffix."""
    check_file(path)
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _json(path, number, line)
        if not isinstance(row, dict):
            raise DataError(
                f"The file {str(path)!r} has a {type(row).__name__} in line {number}: expected "
                f'one object on each line, such as {{"text": "…", "label": 0}}.'
            )
        rows.append(row)
    return rows


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
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        source = "UTF-16" if wide else "WINDOWS-1252"
        raise DataError(
            f"The file {str(path)!r} is not UTF-8: byte 0x{data[error.start]:02x} at offset "
            f"{error.start}, line {line}; convert it, for example with: "
            f"iconv -f {source} -t UTF-8."
        ) from None


def _delimiter(path: Path) -> str:
    return "," if path.suffix.lower() == ".csv" else "\t"


@contextmanager
def _lines(path: Path, delimiter: str) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """The lines of a CSV or TSV file as (number of the line, cells); DataError for damage."""
    text = read_text(path)
    lines = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE,
        strict=True,
    )
    limit = csv.field_size_limit(max(len(text), 1))  # texts may be long
    try:
        yield ((lines.line_num, cells) for cells in lines)
    except csv.Error as error:
        raise DataError(
            f"The file {str(path)!r} cannot be read at line {lines.line_num}: {error}."
        ) from None
    finally:
        csv.field_size_limit(limit)


def _delimited(
    path: Path, wanted: tuple[str, ...], delimiter: str, *, ragged: bool = False
) -> list[dict[str, str]]:
    rows = []
    with _lines(path, delimiter) as lines:
        _, header = next(lines, (0, []))
        check_present(f"The file {str(path)!r}", wanted, header)
        for number, cells in lines:
            if len(cells) == len(header):
                rows.append(dict(zip(header, cells, strict=True)))
            elif cells and not ragged:  # no cells: a blank line
                raise DataError(
                    f"The file {str(path)!r} has {len(cells)} cells in line {number}, but "
                    f"{len(header)} columns: {listed(header)}."
                )
    return rows


def _read_delimited(
    path: Path, wanted: tuple[str, ...], optional: tuple[str, ...]
) -> list[dict[str, str]]:
    return _delimited(path, wanted, _delimiter(path))


def _read_parquet(path: Path, wanted: tuple[str, ...], optional: tuple[str, ...]) -> TaskData:
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        check_present(f"The file {str(path)!r}", wanted, names)
        present = [name for name in dict.fromkeys((*wanted, *optional)) if name in names]
        table = pyarrow.parquet.read_table(path, columns=present)
        table.validate(full=True)
        return table
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError(
            f"The file {str(path)!r} is not a whole Parquet file, or is damaged: {reason}."
        ) from None


_READERS: dict[str, Callable[[Path, tuple[str, ...], tuple[str, ...]], TaskData]] = {
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_lines,
    ".parquet": _read_parquet,
}

SUFFIXES = tuple(_READERS)
