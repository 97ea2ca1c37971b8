"""Data of any supported kind, read block by block as columns: plain lists of checked values.

What a cell may hold is decided here: text is text, never a number or nothing. What a cell of
labels may hold is in `raw_labels.py`. Messages name the row (from 0) and the column; the task and
the split are put before them where the split is read (`reading.read_split`).
"""

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from lobes.errors import DataError, at, first_line

# A datasets.Dataset, a pandas or polars DataFrame, a pyarrow.Table or other Arrow data, or dicts.
# Libraries' types are recognized by what they offer, so that none of those need be imported.
TaskData = Any

# How many rows of a data set or a table become Python values at a time: enough that a call for
# each block costs nothing, few enough that a block of long texts takes some 10 MB.
_BLOCK = 10_000


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a task: one or two of text or one of images, and those of the labels.

    Raises DataError for columns that do not fit together.
    """

    text: tuple[str, ...]
    label: str | tuple[str, ...]
    image: str | None = None

    def __post_init__(self) -> None:
        if self.image is not None and self.text:
            raise DataError(
                f"has the text columns {listed(self.text)} and the image column {self.image!r}: "
                f"expected one of the two kinds."
            )
        if self.image is None and not 1 <= len(self.text) <= 2:
            raise DataError(
                f"has {len(self.text)} text columns: expected one, or two for pairs of texts."
            )
        for column in self.labels:
            if column in self.inputs:
                kind = "text" if self.image is None else "image"
                raise DataError(f"takes column {column!r} both as {kind} and as label.")

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns of what the model sees."""
        return self.text if self.image is None else (self.image,)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns of labels, one or several."""
        return (self.label,) if isinstance(self.label, str) else self.label


class Blocks:
    """Rows in blocks, each of a kind that `Task` takes, so that they are never in memory together.

    `read` returns the blocks in order; it is called anew for each iteration.
    """

    def __init__(self, read: Callable[[], Iterator[TaskData]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[TaskData]:
        return self._read()


NO_EXAMPLES = "has no examples; give it some, or leave the split out."


class NamedRows(list[dict[str, Any]]):
    """Rows as dicts, with the names of the classes that are numbers in their columns."""

    def __init__(
        self, rows: Iterable[dict[str, Any]], classes: Mapping[str, tuple[str, ...]]
    ) -> None:
        super().__init__(rows)
        self.classes = classes


def blocks_of(data: TaskData) -> Iterator[tuple[int, TaskData]]:
    """Yield data of any supported kind in blocks, each with the number of its first row.

    Data without rows, or of no supported kind, are one block.
    """
    if not isinstance(data, Blocks):
        yield from _cut(_whole(data))
        return
    first = 0
    for part in data:
        for start, block in _cut(part):
            if len(block):
                yield first + start, block
        first += len(part)
    if not first:
        yield 0, []


def _whole(data: TaskData) -> TaskData:
    """The rows of an iterator as a list, and those of any table of Arrow as a `pyarrow.Table`."""
    if isinstance(data, Iterator) and not hasattr(data, "__arrow_c_stream__"):
        return list(data)
    known = isinstance(data, Sequence) or hasattr(data, "iloc") or hasattr(data, "num_rows")
    if known or not hasattr(data, "__arrow_c_stream__"):
        return data
    import pyarrow

    try:  # polars, DuckDB, nanoarrow, a RecordBatchReader: the Arrow PyCapsule interface
        return pyarrow.table(data)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"is a {type(data).__name__} that Arrow cannot read: {first_line(error)}."
        ) from error


def _cut(data: TaskData) -> Iterator[tuple[int, TaskData]]:
    number = getattr(data, "num_rows", None)
    if not isinstance(number, int) or number <= _BLOCK:
        yield 0, data
        return
    for start in range(0, number, _BLOCK):
        stop = min(start + _BLOCK, number)
        if hasattr(data, "slice"):  # a Table
            yield start, data.slice(start, stop - start)
        else:  # a Dataset
            yield start, data.select(range(start, stop))


def column_names(data: TaskData) -> list[str]:
    """The names of the columns; those of the first row of a list of dicts."""
    names = getattr(data, "column_names", None) or (data[0] if len(data) else ())
    return list(names)


def read_columns(data: TaskData, wanted: Sequence[str], start: int = 0) -> dict[str, list[Any]]:
    """Return the wanted columns of any supported kind of data as lists.

    `start` is the number of the first row, for the messages. Columns of `datasets.Image` give
    bytes and paths, not pixels. Raises DataError for other kinds of data, no rows and missing
    columns.
    """
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _read_rows(data, wanted, start)
    is_frame = hasattr(data, "iloc") and hasattr(data, "columns")
    is_table = hasattr(data, "column_names") and hasattr(data, "num_rows")
    if isinstance(data, Mapping) or not (is_frame or is_table):
        kind = type(data)
        name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
        raise DataError(
            f"is a {name}: expected a datasets.Dataset, a pandas or polars DataFrame, a "
            f"pyarrow.Table or a list of dicts, holding one split." + _how_to_read(data)
        )
    if not len(data):
        raise DataError(NO_EXAMPLES)
    check_present(wanted, list(data.columns if is_frame else data.column_names))
    if hasattr(data, "with_format"):  # a Dataset may be set to give tensors
        data = _undecoded(data.with_format(None), wanted)
    return {column: _column_list(column, data[column]) for column in wanted}


def _undecoded(data: TaskData, columns: Sequence[str]) -> TaskData:
    """A Dataset whose image columns give bytes and paths, so that no pixels are made here."""
    for column in columns:
        feature = data.features.get(column)
        if type(feature).__name__ == "Image":
            data = data.cast_column(column, type(feature)(decode=False))
    return data


def _how_to_read(data: Any) -> str:
    """The hint for what is often given in the place of rows: a path, several splits, columns."""
    if isinstance(data, str | os.PathLike):
        return " Files are read by lobes.tasks.sources.load_task."
    if isinstance(data, Mapping) and any(hasattr(value, "num_rows") for value in data.values()):
        return f" Give one of its splits, such as data[{next(iter(data))!r}]."
    if isinstance(data, Mapping):
        return " Columns become rows with pandas.DataFrame(data)."
    if hasattr(data, "collect"):  # a polars.LazyFrame
        return " Give its rows, data.collect()."
    if hasattr(data, "__iter__"):
        return " Rows that are streamed become a list with list(data)."
    return ""


def _column_list(name: str, column: Any) -> list[Any]:
    try:
        for method in ("to_pylist", "tolist"):
            if hasattr(column, method):
                return list(getattr(column, method)())
        return list(column)
    except (ValueError, OverflowError) as error:  # bytes that are no text, dates out of range
        raise DataError(
            f"has a value in column {name!r} that cannot be read: {first_line(error)}."
        ) from error


def _read_rows(rows: Sequence[Any], wanted: Sequence[str], start: int) -> dict[str, list[Any]]:
    if not len(rows):
        raise DataError(NO_EXAMPLES)
    needed = set(wanted)
    for number, row in enumerate(rows, start):
        if not isinstance(row, Mapping):
            raise DataError(
                f"row {number} is a {type(row).__name__}: expected a dict with the columns "
                f"{listed(wanted)}."
            )
        if not row.keys() >= needed:
            with at(f"row {number}") if number else nullcontext():
                check_present(wanted, list(row))
    return {column: [row[column] for row in rows] for column in wanted}


def check_present(wanted: Iterable[str], present: Sequence[Any]) -> None:
    """Raise DataError for a wanted column that is not present, or is there twice."""
    for column in wanted:
        if present.count(column) > 1:
            raise DataError(f"has the column {column!r} twice; rename one of them.")
        if column not in present:
            names = [str(name) for name in present]
            raise DataError(
                f"has no column {column!r}; its columns are {listed(names)}."
                + suggest(column, names)
            )


def check_texts(column: str, values: list[Any], start: int = 0) -> list[str]:
    """Return the values as strings; `start` is the number of the first row, for the messages."""
    if set(map(type, values)) == {str}:
        return values
    for row, value in enumerate(values, start):
        if is_missing(value):
            raise DataError(
                f"row {row} has no text in column {column!r} ({value!r}); correct or remove the "
                f"row."
            )
        if not isinstance(value, str):
            raise DataError(
                f"row {row} has {value!r} in the text column {column!r}, which is "
                f"{kind_of_cell(value)} and not text; name another column, or turn it into text."
            )
    return [str(value) for value in values]


def class_names(data: TaskData, column: str) -> tuple[str, ...] | None:
    """The names that the data give to the classes in a column, or in its lists; None for none.

    A `datasets.Dataset` has them, and so have the Parquet files and Arrow tables made from it.
    """
    if isinstance(data, NamedRows):
        return data.classes.get(column)
    feature = (getattr(data, "features", None) or {}).get(column)
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names is None:
        names = _names_in_metadata(data, column)
    return None if names is None else tuple(names)


def _names_in_metadata(data: TaskData, column: str) -> list[str] | None:
    """The names of classes that `datasets` keeps in the metadata of Arrow tables."""
    metadata = getattr(getattr(data, "schema", None), "metadata", None) or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        if isinstance(feature, list):  # as early versions of datasets wrote lists
            (feature,) = feature
        feature = feature.get("feature", feature)
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None  # another program's metadata, or damaged: the classes stay numbers
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_named else None


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, or a mark for "missing" of numpy or pandas."""
    # pandas' own marks for "missing" answer no comparison; they are known by their type.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def is_list(value: Any) -> bool:
    """Whether a cell holds several values."""
    return isinstance(value, list | tuple | np.ndarray)


def kind_of_cell(value: Any) -> str:
    """What a cell holds, in words: "text", "a whole number", "a number" or "a TYPE"."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | int | np.integer | np.bool_):
        return "a whole number"
    if isinstance(value, float | np.floating):
        return "a number"
    return f"a {type(value).__name__}"


def listed(names: Iterable[Any], limit: int = 20) -> str:
    """The names in quotes with commas between them; beyond `limit`, how many more there are."""
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def suggest(given: str, names: Iterable[str]) -> str:
    """The question whether the nearest of the names was meant; "" where none is near."""
    near = difflib.get_close_matches(given, list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
