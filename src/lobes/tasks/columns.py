"""Columns of any supported kind of data as plain lists, with their values checked.

What a cell may hold is decided here: text is text, never a number or nothing; a label is text or
a number. Each refusal names the split, the row (from 0) and the column.
"""

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lobes.errors import DataError

# A datasets.Dataset, a pandas.DataFrame, a pyarrow.Table or a list of dicts. The first three are
# recognised by what they offer, so that none of those libraries need be imported.
TaskData = Any

LabelKind = Literal["text", "whole", "float"]

# What a cell of a label's own column may hold, as text in small letters.
_YES_OR_NO = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}

# So many rows of a data set or a table become Python's values at a time.
_BLOCK = 10_000


class Blocks:
    """Rows that come in blocks, each of a kind that `Task` takes, and so need no memory together.

    Every iteration begins anew: `read` gives the blocks, in order.
    """

    def __init__(self, read: Callable[[], Iterator[TaskData]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[TaskData]:
        return self._read()


class NamedRows(list[dict[str, Any]]):
    """Rows as dicts, with the names of the classes that are numbers in their columns."""

    def __init__(
        self, rows: Iterable[dict[str, Any]], classes: Mapping[str, tuple[str, ...]]
    ) -> None:
        super().__init__(rows)
        self.classes = classes


def blocks_of(data: TaskData) -> Iterator[tuple[int, TaskData]]:
    """Data of any supported kind in blocks, each with the number of its first row.

    Data without rows, or of no supported kind, are one block.
    """
    if not isinstance(data, Blocks):
        yield from _cut(data)
        return
    first = 0
    for part in data:
        for start, block in _cut(part):
            if len(block):
                yield first + start, block
        first += len(part)
    if not first:
        yield 0, []


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


def read_columns(
    where: str, data: TaskData, wanted: tuple[str, ...], start: int = 0
) -> dict[str, list[Any]]:
    """The wanted columns of any supported kind of data, as lists.

    `start` is the number of the first row, for the messages.
    """
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _read_rows(where, data, wanted, start)
    is_frame = hasattr(data, "iloc") and hasattr(data, "columns")
    is_table = hasattr(data, "column_names") and hasattr(data, "num_rows")
    if isinstance(data, Mapping) or not (is_frame or is_table):
        kind = type(data)
        raise DataError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}: expected a datasets.Dataset, a "
            f"pandas.DataFrame, a pyarrow.Table or a list of dicts, holding one split."
            + _how_to_read(data)
        )
    if not len(data):
        raise DataError(f"{where} has no examples; give it some, or leave the split out.")
    check_present(where, wanted, list(data.columns if is_frame else data.column_names))
    if hasattr(data, "with_format"):  # a Dataset may be set to give tensors
        data = data.with_format(None)
    return {column: _column_list(where, column, data[column]) for column in wanted}


def _how_to_read(data: Any) -> str:
    """What makes rows of data that are none: of a file's name, of several splits, of columns."""
    if isinstance(data, str | os.PathLike):
        return " Files are read by lobes.tasks.sources.load_task."
    if isinstance(data, Mapping) and any(hasattr(value, "num_rows") for value in data.values()):
        return f" Give one of its splits, such as data[{next(iter(data))!r}]."
    if isinstance(data, Mapping):
        return " Columns become rows with pandas.DataFrame(data)."
    return ""


def _column_list(where: str, name: str, column: Any) -> list[Any]:
    try:
        for method in ("to_pylist", "tolist"):
            if hasattr(column, method):
                return list(getattr(column, method)())
        return list(column)
    except (ValueError, OverflowError) as error:  # text that is none, dates beyond the calendar
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError(
            f"{where} has a value in column {name!r} that cannot be read: {reason}."
        ) from None


def _read_rows(
    where: str, rows: Sequence[Any], wanted: tuple[str, ...], start: int
) -> dict[str, list[Any]]:
    if not len(rows):
        raise DataError(f"{where} has no examples; give it some, or leave the split out.")
    for number, row in enumerate(rows, start):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{where} row {number} is a {type(row).__name__}: expected a dict with the "
                f"columns {listed(wanted)}."
            )
        if not row.keys() >= set(wanted):
            check_present(f"{where} row {number}" if number else where, wanted, list(row))
    return {column: [row[column] for row in rows] for column in wanted}


def check_present(where: str, wanted: tuple[str, ...], present: Sequence[Any]) -> None:
    for column in wanted:
        if present.count(column) > 1:
            raise DataError(f"{where} has the column {column!r} twice; rename one of them.")
        if column not in present:
            names = [str(name) for name in present]
            raise DataError(
                f"{where} has no column {column!r}; its columns are {listed(names)}."
                + suggest(column, names)
            )


def check_texts(where: str, column: str, values: list[Any], start: int = 0) -> list[str]:
    """The values as strings; `start` is the number of the first row, for the messages."""
    if set(map(type, values)) == {str}:
        return values
    for row, value in enumerate(values, start):
        if is_missing(value):
            raise DataError(
                f"{where} row {row} has no text in column {column!r} ({value!r}); correct or "
                f"remove the row."
            )
        if not isinstance(value, str):
            raise DataError(
                f"{where} row {row} has {value!r} in the text column {column!r}, which is "
                f"{_kind_of(value)} and not text; name another column, or turn it into text."
            )
    return [str(value) for value in values]


def check_label_values(
    where: str, column: str, values: list[Any], rows: Sequence[int] | None = None
) -> tuple[list[Any], LabelKind]:
    """The labels as plain values of one kind, and that kind: "text", "whole" or "float".

    `rows` are the rows that the values stand in, where it is not one in each.
    """
    kinds: dict[str, tuple[int, Any]] = {}
    plain: list[Any] = []
    for row, value in zip(rows or range(len(values)), values, strict=True):
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            raise DataError(without_label(where, row, column, value))
        kind = _kind_of(value)
        if kind not in ("text", "a whole number", "a number"):
            raise DataError(
                f"{where} row {row} has the label {value!r} in column {column!r}, which is "
                f"{kind}; expected text or a number."
            )
        kinds.setdefault("text" if kind == "text" else "number", (row, value))
        if kind == "a number":
            kinds.setdefault("float", (row, value))
        plain.append(str(value) if kind == "text" else value)
    if "text" in kinds and "number" in kinds:
        (text_row, text), (number_row, number) = kinds["text"], kinds["number"]
        raise DataError(
            f"{where} mixes text and numbers in the label column {column!r}: row {text_row} has "
            f"{text!r}, row {number_row} has {number!r}; use one kind."
        )
    if "text" in kinds:
        return plain, "text"
    if "float" in kinds:
        return [float(value) for value in plain], "float"
    return [int(value) for value in plain], "whole"


def about_hidden(value: Any, column: object) -> str:
    """What to do about a label of -1, which data sets use for hidden answers; "" for others."""
    if str(value).strip() not in ("-1", "-1.0"):
        return ""
    return (
        f" Labels of -1 mark hidden answers: use a split with labels, or leave such rows out with "
        f"leave_out = {{{column} = -1}} in the study."
    )


def without_label(where: str, row: int, column: object, value: Any) -> str:
    """The sentence for a row whose label is missing."""
    return (
        f"{where} row {row} has no label in column {column!r} ({value!r}); correct or remove the "
        f'row, or leave such rows out with leave_out = {{{column} = ""}} in the study.'
    )


def is_list(value: Any) -> bool:
    """Whether a cell holds several values."""
    return isinstance(value, list | tuple | np.ndarray)


def check_label_lists(
    where: str, column: str, values: list[Any]
) -> tuple[list[tuple[Any, ...]], LabelKind]:
    """Lists of labels as tuples of plain values of one kind: "text" or "whole"."""
    for row, value in enumerate(values):
        if not is_list(value):
            raise DataError(
                f"{where} row {row} has {value!r} in column {column!r}, where other rows have "
                f"lists of labels: expected a list in each, [] for no label."
            )
    lengths = [len(value) for value in values]
    rows = np.repeat(np.arange(len(values)), lengths).tolist()
    items = [item for value in values for item in value]
    for row, item in zip(rows, items, strict=True):
        if isinstance(item, bool | np.bool_ | float | np.floating) or is_list(item):
            raise DataError(
                f"{where} row {row} has {list(values[row])!r} in column {column!r}: expected a "
                f"list of label names or of class indices (whole numbers); a number for each "
                f"label, 0 or 1, takes a column for each, with label=(…)."
            )
    plain, kind = check_label_values(where, column, items, rows)
    found = np.split(np.array(plain, dtype=object), np.cumsum(lengths)[:-1])
    lists = [tuple(part) for part in found]
    for row, labels in enumerate(lists):
        for label in labels if len(set(labels)) < len(labels) else ():
            if labels.count(label) > 1:
                raise DataError(
                    f"{where} row {row} has the label {label!r} twice in column {column!r}: "
                    f"expected a list of different labels; a number for each label, 0 or 1, "
                    f"takes a column for each, with label=(…)."
                )
    return lists, kind


def check_label_columns(where: str, columns: Mapping[str, list[Any]]) -> list[tuple[str, ...]]:
    """The columns in which each row has a yes (1 or true), from columns of yes and no."""
    chosen: list[list[bool]] = []
    for column, values in columns.items():
        cells = [_YES_OR_NO.get(str(value).strip().lower()) for value in values]
        for row, cell in enumerate(cells):
            if cell is None:
                raise DataError(
                    f"{where} row {row} has {values[row]!r} in the label column {column!r}: "
                    f"expected 0 or 1, or true or false, in each of several label columns."
                    + about_hidden(values[row], column)
                )
        chosen.append([bool(cell) for cell in cells])
    return [
        tuple(column for column, cell in zip(columns, cells, strict=True) if cell)
        for cells in zip(*chosen, strict=True)
    ]


def class_names(data: TaskData, column: str) -> tuple[str, ...] | None:
    """The names that the data have for the classes in a column, or in its lists.

    A `datasets.Dataset` has them, and so has what it writes to Parquet or hands out as Arrow.
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
        if isinstance(feature, list):  # how lists were once written down
            (feature,) = feature
        feature = feature.get("feature", feature)
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None  # of another program, or damaged: then the numbers are all that is known
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_named else None


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, or a mark for "missing" of numpy or pandas."""
    # pandas' own marks for "missing" answer no comparison; they are known by their type.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _kind_of(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool | int | np.integer | np.bool_):
        return "a whole number"
    if isinstance(value, float | np.floating):
        return "a number"
    return f"a {type(value).__name__}"


def listed(names: Iterable[Any], limit: int = 20) -> str:
    shown = [repr(name) for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


def suggest(given: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(given, list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
