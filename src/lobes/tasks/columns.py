"""Columns of any supported kind of data as plain lists, with their values checked.

What a cell may hold is decided here: text is text, never a number or nothing; a label is text or
a number. Each refusal names the split, the row (from 0) and the column.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from lobes.errors import DataError

# A datasets.Dataset, a pandas.DataFrame, a pyarrow.Table or a list of dicts. The first three are
# recognised by what they offer, so that none of those libraries need be imported.
TaskData = Any

LabelKind = Literal["text", "whole", "float"]


def read_columns(where: str, data: TaskData, wanted: tuple[str, ...]) -> dict[str, list[Any]]:
    """The wanted columns of any supported kind of data, as lists."""
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return _read_rows(where, data, wanted)
    is_frame = hasattr(data, "iloc") and hasattr(data, "columns")
    is_table = hasattr(data, "column_names") and hasattr(data, "num_rows")
    if isinstance(data, Mapping) or not (is_frame or is_table):
        kind = type(data)
        raise DataError(
            f"{where} is a {kind.__module__}.{kind.__qualname__}: expected a datasets.Dataset, a "
            f"pandas.DataFrame, a pyarrow.Table or a list of dicts, holding one split."
        )
    if not len(data):
        raise DataError(f"{where} has no examples; give it some, or leave the split out.")
    check_present(where, wanted, list(data.columns if is_frame else data.column_names))
    if hasattr(data, "with_format"):  # a Dataset may be set to give tensors
        data = data.with_format(None)
    return {column: _column_list(where, column, data[column]) for column in wanted}


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


def _read_rows(where: str, rows: Sequence[Any], wanted: tuple[str, ...]) -> dict[str, list[Any]]:
    if not len(rows):
        raise DataError(f"{where} has no examples; give it some, or leave the split out.")
    for number, row in enumerate(rows):
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


def check_texts(where: str, column: str, values: list[Any]) -> list[str]:
    if set(map(type, values)) == {str}:
        return values
    for row, value in enumerate(values):
        if _is_missing(value):
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


def check_label_values(where: str, column: str, values: list[Any]) -> tuple[list[Any], LabelKind]:
    """The labels as plain values of one kind, and that kind: "text", "whole" or "float"."""
    kinds: dict[str, int] = {}
    plain: list[Any] = []
    for row, value in enumerate(values):
        if _is_missing(value):
            raise DataError(
                f"{where} row {row} has no label in column {column!r} ({value!r}); correct or "
                f"remove the row."
            )
        kind = _kind_of(value)
        if kind not in ("text", "a whole number", "a number"):
            raise DataError(
                f"{where} row {row} has the label {value!r} in column {column!r}, which is "
                f"{kind}; expected text or a number."
            )
        kinds.setdefault("text" if kind == "text" else "number", row)
        if kind == "a number":
            kinds.setdefault("float", row)
        plain.append(str(value) if kind == "text" else value)
    if "text" in kinds and "number" in kinds:
        texts, numbers = kinds["text"], kinds["number"]
        raise DataError(
            f"{where} mixes text and numbers in the label column {column!r}: row {texts} has "
            f"{values[texts]!r}, row {numbers} has {values[numbers]!r}; use one kind."
        )
    if "text" in kinds:
        return plain, "text"
    if "float" in kinds:
        return [float(value) for value in plain], "float"
    return [int(value) for value in plain], "whole"


def _is_missing(value: Any) -> bool:
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
