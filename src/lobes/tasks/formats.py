"""The kinds of files: CSV, TSV, JSON, Parquet and Excel, read so that text stays text.

A file's kind is told by its suffix. CSV, TSV and JSON may be compressed (.csv.gz). CSV has a
header, commas and, where needed, double quotes; TSV has a header and tabs (`delimited.py`); JSON
has one object on each line, or an array of objects. All are UTF-8, with or without a byte-order
mark. "NA", "null" and "001" stay text. Damage is named by the line or the byte. Files are read in
blocks of rows, so that only arrays of JSON and Excel's files are in memory whole. Each file is
opened once.
"""

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lobes.errors import DataError, first_line
from lobes.tasks.columns import TaskData, check_present, listed
from lobes.tasks.delimited import BLOCK, Dialect, read_delimited
from lobes.tasks.raw_files import at_file, check_file, kind_of, open_text

_LIKE = 'such as {"text": "…", "label": 0}'

Read = Iterator[TaskData]


def read_rows(path: Path, wanted: Sequence[str]) -> TaskData:
    """Return all rows of a file, as `Task` takes them: a list of dicts, or a `pyarrow.Table`.

    As `read_blocks`, for files that fit into memory.
    """
    found = list(read_blocks(path, wanted))
    if kind_of(path) == ".parquet":
        import pyarrow

        return pyarrow.concat_tables(found)
    return [row for block in found for row in block]


def read_blocks(
    path: Path, wanted: Sequence[str], optional: Sequence[str] = (), dialect: Dialect | None = None
) -> Read:
    """Yield the rows of a file in blocks, lists of dicts or `pyarrow.Table`s (Parquet).

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
    if dialect in (None, Dialect()):
        return read(path, wanted, optional=optional)
    check_file(path)
    if not has_text_cells(path):
        raise DataError(
            f"The file {str(path)!r} has no cells between delimiters: leave out the settings "
            f"delimiter and quoting, which are for CSV and TSV."
        )
    return read_delimited(path, wanted, dialect or Dialect(), optional)


def has_text_cells(path: Path) -> bool:
    """Whether every cell of such a file is a string, so that numbers must be told from names."""
    return kind_of(path) in (".csv", ".tsv")


def read_json(path: Path, wanted: Sequence[str] = (), optional: Sequence[str] = ()) -> Read:
    """Yield the objects of a file of JSON in blocks, whatever its suffix.

    Either one object on each line, or one array of objects, which is in memory whole.
    """
    with open_text(path, "\n") as file:
        blank: list[str] = []
        for line in file:
            if line.strip():
                break
            blank.append(line)
        else:
            return
        if line.lstrip().startswith("["):
            yield from _array("".join([*blank, line, file.read()]))
            return
        lines = enumerate(chain([line], file), start=len(blank) + 1)
        filled = ((number, line) for number, line in lines if line.strip())
        while block := list(islice(filled, BLOCK)):
            yield [_object(number, line.removesuffix("\n")) for number, line in block]


def _array(text: str) -> Iterator[list[dict[str, Any]]]:
    rows = _json(None, text)
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"has a {type(row).__name__} as row {number} (from 0) of its array: expected "
                f"objects, {_LIKE}."
            )
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def _object(number: int, line: str) -> dict[str, Any]:
    row = _json(number, line)
    if not isinstance(row, dict):
        raise DataError(
            f"has a {type(row).__name__} in line {number}: expected one object on each line, "
            f"{_LIKE}."
        )
    return row


def _json(number: int | None, text: str) -> Any:
    """What a text says in JSON: that of line `number`, or of the whole file."""
    place = "" if number is None else f" in line {number}"
    cause: Exception
    try:
        found = json.loads(text)
        if "\\u" in text:  # half a surrogate pair, which no tokenizer takes
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except json.JSONDecodeError as error:
        reason, place = error.msg, f" in line {number or error.lineno}, column {error.colno}"
        cause = error
    except UnicodeEncodeError as error:
        reason = f"half of a surrogate pair, \\u{ord(error.object[error.start]):04x}"
        cause = error
    except RecursionError as error:
        reason, cause = "too many brackets in brackets", error
    except ValueError as error:
        reason, cause = "a number with thousands of digits", error
    raise DataError(
        f"has no JSON{place}: {reason}; expected one object on each line, or one array of objects."
    ) from cause


def parquet_columns(path: Path) -> list[str]:
    """Return the columns of a Parquet file; DataError for one that is missing or damaged."""
    import pyarrow
    import pyarrow.parquet

    check_file(path)
    with at_file(path):
        try:
            return list(pyarrow.parquet.read_schema(path).names)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"is not a whole Parquet file, or is damaged: {first_line(error)}."
            ) from error


def _read_parquet(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> Read:
    import pyarrow
    import pyarrow.parquet

    check_file(path)
    with at_file(path):
        try:
            # through a buffer: else a column of a row group is in memory whole
            with pyarrow.parquet.ParquetFile(path, buffer_size=2**20) as file:
                names = file.schema_arrow.names
                check_present(wanted, names)
                present = [name for name in dict.fromkeys((*wanted, *optional)) if name in names]
                yield file.schema_arrow.empty_table().select(present)
                for batch in file.iter_batches(BLOCK, columns=present):
                    table = pyarrow.Table.from_batches([batch])
                    table.validate(full=True)  # damaged pages may decode to offsets out of range
                    yield table
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"is not a whole Parquet file, or is damaged: {first_line(error)}."
            ) from error


def _read_excel(path: Path, wanted: Sequence[str], optional: Sequence[str]) -> Read:
    """The rows of the one sheet of a workbook that has any, its first row the header."""
    check_file(path)
    if importlib.util.find_spec("openpyxl") is None:
        raise DataError(
            f"Reading {str(path)!r} needs openpyxl: pip install 'lobes[excel]', or save the table "
            f"as CSV UTF-8."
        )
    import pandas

    with at_file(path):
        try:
            sheets = pandas.read_excel(
                path, sheet_name=None, header=None, dtype=object, na_filter=False, engine="openpyxl"
            )
        except Exception as error:  # whatever is wrong inside the archive
            raise DataError(
                f"is not a whole Excel workbook, or is damaged: {first_line(error)}."
            ) from error
        yield rows_of_sheets(
            {name: sheet.values.tolist() for name, sheet in sheets.items()}, wanted
        )


def rows_of_sheets(
    sheets: Mapping[str, list[list[Any]]], wanted: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the rows under the header of the one sheet that is not empty, without empty rows.

    Raises DataError where several sheets hold something, or a wanted column is missing.
    """
    filled = {
        name: [row for row in rows if any(cell not in ("", None) for cell in row)]
        for name, rows in sheets.items()
    }
    names = [name for name, rows in filled.items() if rows]
    if len(names) > 1:
        raise DataError(f"has {len(names)} sheets, {listed(names)}: keep one, or use CSV.")
    header, *rows = filled[names[0]] if names else [[]]
    check_present(wanted, header)
    return [dict(zip(header, row, strict=True)) for row in rows]


_READERS: dict[str, Callable[..., Read]] = {
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": _read_parquet,
    ".xlsx": _read_excel,
}

SUFFIXES = tuple(_READERS)

# These are compressed already, and are not read through gzip.
BINARY = (".parquet", ".xlsx")
