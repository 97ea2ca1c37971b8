"""The kinds of files: CSV, TSV, JSON, Parquet and Excel, read so that text stays text.

A file's kind is told by its suffix, before which the text of CSV, TSV and JSON may be compressed
(.csv.gz). CSV has a header, commas and, where needed, double quotes; TSV has a header and tabs
(`delimited.py`); JSON has one object on each line, or an array of objects. All are UTF-8, with or
without a byte-order mark. "NA", "null" and "001" are what they say. Damage is named by the line or
the byte. Files are read in blocks of rows, so that none is in memory whole but arrays of JSON and
Excel's.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lobes.errors import DataError
from lobes.tasks.columns import TaskData, check_present, listed
from lobes.tasks.delimited import BLOCK, Dialect, read_delimited
from lobes.tasks.raw_files import check_file, kind_of, open_text, read_text

_LIKE = 'such as {"text": "…", "label": 0}'

Read = Iterator[TaskData]


def read_rows(
    path: Path, wanted: Sequence[str], optional: Sequence[str] = (), dialect: Dialect | None = None
) -> TaskData:
    """All rows of a file, as `Task` takes them: a list of dicts, or a `pyarrow.Table` (Parquet).

    As `read_blocks`, for files that fit into memory.
    """
    found = list(read_blocks(path, wanted, optional, dialect))
    if kind_of(path) == ".parquet":
        import pyarrow

        return pyarrow.concat_tables(found)
    return [row for block in found for row in block]


def read_blocks(
    path: Path, wanted: Sequence[str], optional: Sequence[str] = (), dialect: Dialect | None = None
) -> Read:
    """The rows of a file in blocks, lists of dicts or `pyarrow.Table`s (Parquet).

    Every column `wanted` must be there; of Parquet only those and the `optional` ones are read.
    Cells of CSV and TSV are strings, told apart as the `dialect` says. Raises DataError, with the
    line or the byte, for a file that is missing, empty or damaged.
    """
    read = _READERS.get(kind_of(path))
    if read is None or (path.suffix.lower() == ".gz" and kind_of(path) in BINARY):
        raise DataError(
            f"Cannot tell what kind of file {str(path)!r} is by its suffix {path.suffix!r}: "
            f"expected one of {', '.join(_READERS)}, of text files also with .gz."
        )
    check_file(path)
    if dialect in (None, Dialect()):
        return read(path, tuple(wanted), tuple(optional))
    if not has_text_cells(path):
        raise DataError(
            f"The file {str(path)!r} has no cells between delimiters: leave out the settings "
            f"delimiter and quoting, which are for CSV and TSV."
        )
    return read_delimited(path, tuple(wanted), dialect or Dialect(), tuple(optional))


def has_text_cells(path: Path) -> bool:
    """Whether every cell of such a file is a string, so that numbers must be told from names."""
    return kind_of(path) in (".csv", ".tsv")


def read_json(path: Path, wanted: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> Read:
    """The objects of a file of JSON in blocks, whatever its suffix.

    Either one object on each line, or one array of objects, which is in memory whole.
    """
    check_file(path)
    with open_text(path, "\n") as file:
        first = next((line for line in file if line.strip()), "")
    return _read_array(path) if first.lstrip().startswith("[") else _read_lines(path)


def _read_lines(path: Path) -> Iterator[list[dict[str, Any]]]:
    with open_text(path, "\n") as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        while block := list(islice(lines, BLOCK)):
            yield [_object(path, number, line.removesuffix("\n")) for number, line in block]


def _read_array(path: Path) -> Iterator[list[dict[str, Any]]]:
    rows = _json(path, None, read_text(path))
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"The file {str(path)!r} has a {type(row).__name__} as row {number} (from 0) of "
                f"its array: expected objects, {_LIKE}."
            )
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    row = _json(path, number, line)
    if not isinstance(row, dict):
        raise DataError(
            f"The file {str(path)!r} has a {type(row).__name__} in line {number}: expected "
            f"one object on each line, {_LIKE}."
        )
    return row


def _json(path: Path, number: int | None, text: str) -> Any:
    """What a text says in JSON: that of line `number`, or of the whole file."""
    place = "" if number is None else f" in line {number}"
    try:
        found = json.loads(text)
        if "\\u" in text:  # half a character, which no tokenizer takes
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except json.JSONDecodeError as error:
        reason, place = error.msg, f" in line {number or error.lineno}, column {error.colno}"
    except UnicodeEncodeError as error:
        reason = f"half of a surrogate pair, \\u{ord(error.object[error.start]):04x}"
    except RecursionError:
        reason = "too many brackets in brackets"
    except ValueError:
        reason = "a number with thousands of digits"
    raise DataError(
        f"The file {str(path)!r} has no JSON{place}: {reason}; expected one object on each line, "
        f"or one array of objects."
    )


def _read_by_header(path: Path, wanted: tuple[str, ...], optional: tuple[str, ...]) -> Read:
    return read_delimited(path, wanted, Dialect(), optional)


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


def _read_excel(path: Path, wanted: tuple[str, ...], optional: tuple[str, ...]) -> Read:
    """The rows of the one sheet of a workbook that has any, its first row the header."""
    if importlib.util.find_spec("openpyxl") is None:
        raise DataError(
            f"Reading {str(path)!r} needs openpyxl: pip install 'lobes[excel]', or save the table "
            f"as CSV UTF-8."
        )
    import pandas

    try:
        sheets = pandas.read_excel(
            path, sheet_name=None, header=None, dtype=object, na_filter=False, engine="openpyxl"
        )
    except Exception as error:  # whatever is wrong inside the archive
        reason = next(iter(str(error).splitlines()), "").rstrip(".") or type(error).__name__
        raise DataError(
            f"The file {str(path)!r} is not a whole Excel workbook, or is damaged: {reason}."
        ) from None
    yield rows_of_sheets(
        path, {name: sheet.values.tolist() for name, sheet in sheets.items()}, wanted
    )


def rows_of_sheets(
    path: Path, sheets: Mapping[str, list[list[Any]]], wanted: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The rows under the header of the one sheet that is not empty; empty rows are left out.

    Raises DataError where several sheets hold something, or a wanted column is missing.
    """
    where = f"The file {str(path)!r}"
    filled = {
        name: [row for row in rows if any(cell not in ("", None) for cell in row)]
        for name, rows in sheets.items()
    }
    names = [name for name, rows in filled.items() if rows]
    if len(names) > 1:
        raise DataError(f"{where} has {len(names)} sheets, {listed(names)}: keep one, or use CSV.")
    header, *rows = filled[names[0]] if names else [[]]
    check_present(where, wanted, header)
    return [dict(zip(header, row, strict=True)) for row in rows]


_READERS: dict[str, Callable[[Path, tuple[str, ...], tuple[str, ...]], Read]] = {
    ".csv": _read_by_header,
    ".tsv": _read_by_header,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": _read_parquet,
    ".xlsx": _read_excel,
}

SUFFIXES = tuple(_READERS)

# What gzip would not make smaller, and so is not read through it.
BINARY = (".parquet", ".xlsx")
