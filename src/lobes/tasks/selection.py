"""Which rows of a user's data count, and the task's own names for their columns and labels."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lobes.errors import DataError
from lobes.tasks.columns import (
    Blocks,
    Columns,
    NamedRows,
    TaskData,
    blocks_of,
    class_names,
    column_names,
    is_list,
    is_missing,
    listed,
    read_columns,
)
from lobes.tasks.labels import number_of


@dataclass(frozen=True, slots=True)
class Selection:
    """`columns`, `label_map`, `filter` and `leave_out` of a `lobes.tasks.sources.TaskSource`."""

    columns: Mapping[str, str]
    label_map: Mapping[str, Any]
    filter: Mapping[str, Any]
    leave_out: Mapping[str, Any]

    def column(self, name: str) -> str:
        """The data's name for a column."""
        return self.columns.get(name, name)

    @property
    def tested(self) -> list[str]:
        """The data's names for the columns that decide which rows count."""
        return [self.column(name) for name in (*self.filter, *self.leave_out)]

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """Whether the row, under the data's names, counts."""

        def holds(column: str, wanted: Any) -> bool:
            value = row[self.column(column)]
            asked = {said(one) for one in (wanted if is_list(wanted) else [wanted])}
            return not asked.isdisjoint(map(said, value if is_list(value) else [value]))

        return all(holds(*item) for item in self.filter.items()) and not any(
            holds(*item) for item in self.leave_out.items()
        )


def said(value: Any) -> str:
    """Return a cell's value as text, the same from every kind of file.

    0, 0.0, "0" and "0.0" are one value; a cell with nothing in it, or blanks only, gives "".
    """
    if is_missing(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).casefold()
    text = str(value).strip()
    number = number_of(text)
    if number is not None and math.isfinite(number):
        return str(int(number) if number == int(number) else number)
    return text.casefold() if text.casefold() in ("true", "false") else text


def select(data: TaskData, columns: Columns, selection: Selection, *, by_index: bool) -> TaskData:
    """Return the rows that count, under the task's own names of columns and labels.

    Columns of classes that the data have names for are compared by these, and by the numbers
    where no name is a number; labels become names, unless they stay class indices with `by_index`
    and without a map. A cell with a list holds each of its values, and a map changes each, to
    labels that count once. Columns of labels may be missing. Raises DataError where no row
    is left, and for a label that the map lacks, when the rows are iterated.
    """
    if selection == Selection({}, {}, {}, {}):
        return data
    return Blocks(lambda: _selected(data, columns, selection, by_index))


def _selected(
    data: TaskData, task: Columns, selection: Selection, by_index: bool
) -> Iterator[list[dict[str, Any]]]:
    present: list[str] = []
    read = kept = 0
    by_value = {said(key): label for key, label in selection.label_map.items()}
    for start, block in blocks_of(data):
        if start == 0:
            names = column_names(block)
            present = [name for name in task.labels if selection.column(name) in names]
        own = {name: selection.column(name) for name in (*task.inputs, *present)}
        columns = tuple(dict.fromkeys((*own.values(), *selection.tested)))
        raw = read_columns(block, columns, start)
        rows = _kept_rows(block, raw, own, present, selection, by_index)
        if selection.label_map:
            for number, row in enumerate(rows, kept):
                for name in present:
                    row[name] = _mapped(number, row[name], selection.label_map, by_value)
        read, kept = start + len(block), kept + len(rows)
        if rows:
            yield rows
    if not kept:
        raise DataError(
            f"has {read} rows, none of which the filter keeps; check the values of "
            f"{listed((*selection.filter, *selection.leave_out))}."
        )


def _kept_rows(
    block: TaskData,
    raw: Mapping[str, list[Any]],
    own: Mapping[str, str],
    present: Sequence[str],
    selection: Selection,
    by_index: bool,
) -> list[dict[str, Any]]:
    """The rows of a block that count, with its own labels under the task's names of columns."""
    names = {column: class_names(block, column) for column in raw}
    named = {column: _by_name(names[column], values) for column, values in raw.items()}
    columns = {name: raw[column] for name, column in own.items()}
    keep_index = by_index and not selection.label_map
    if not keep_index:
        columns |= {name: named[own[name]] for name in present}
    tested = {column: _either(names[column], raw[column], named[column]) for column in named}
    rows = [
        {name: values[number] for name, values in columns.items()}
        for number, row in enumerate(zip(*tested.values(), strict=True))
        if selection.keeps(dict(zip(tested, row, strict=True)))
    ]
    classes = {name: names[own[name]] or () for name in present if keep_index}
    return NamedRows(rows, {name: found for name, found in classes.items() if found})


def _mapped(number: int, value: Any, label_map: Mapping[str, Any], by_value: dict[str, Any]) -> Any:
    items = value if is_list(value) else [value]
    for item in items:
        if str(item) not in label_map and said(item) not in by_value:
            raise DataError(
                f"row {number} of those that are kept has the label {item!r}, which label_map "
                f"lacks: it has {listed(label_map)}; add it, or leave such rows out."
            )
    found = (
        label_map[k] if (k := str(item)) in label_map else by_value[said(item)] for item in items
    )
    mapped = list(dict.fromkeys(found))
    return mapped if is_list(value) else mapped[0]


def _by_name(names: Sequence[str] | None, values: list[Any]) -> list[Any]:
    """The values of a column with the names of its classes for their numbers."""
    if names is None:
        return values

    def named(value: Any) -> Any:
        if is_list(value):
            return [named(item) for item in value]
        is_class = isinstance(value, int) and 0 <= value < len(names)
        return names[value] if is_class else value

    return [named(value) for value in values]


def _either(names: Sequence[str] | None, raw: list[Any], named: list[Any]) -> list[Any]:
    """What a filter compares: names, or names and numbers where no name is itself a number."""
    if names is None or any(number_of(name) is not None for name in names):
        return named
    return [
        [*numbers, *others] if is_list(numbers) else [numbers, others]
        for numbers, others in zip(raw, named, strict=True)
    ]
