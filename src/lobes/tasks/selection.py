"""What a user changes in data of their own: names of columns, labels, and which rows count."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lobes.errors import DataError
from lobes.tasks.columns import (
    Blocks,
    TaskData,
    blocks_of,
    class_names,
    column_names,
    is_list,
    listed,
    read_columns,
)


@dataclass(frozen=True, slots=True)
class Selection:
    """`columns`, `label_map`, `filter` and `leave_out` of `lobes.tasks.sources.load_task`."""

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
            wanted = {str(one) for one in (wanted if is_list(wanted) else [wanted])}
            return not wanted.isdisjoint(map(str, value if is_list(value) else [value]))

        return all(holds(*item) for item in self.filter.items()) and not any(
            holds(*item) for item in self.leave_out.items()
        )


def select(
    where: str,
    data: TaskData,
    text: Sequence[str],
    label: Sequence[str],
    selection: Selection,
    *,
    by_index: bool,
) -> TaskData:
    """The rows that count, under the task's own names of columns and labels.

    Columns that are classes of a `datasets.Dataset` are compared by the names of the classes, and
    so are labels, unless they stay class indices with `by_index` and without a map. A cell with a
    list holds each of its values, and a map changes each, to labels that count once. Columns of
    labels may be missing. Raises DataError where no row is left, and for a label that the map
    lacks.
    """
    if selection == Selection({}, {}, {}, {}):
        return data
    return Blocks(lambda: _selected(where, data, text, label, selection, by_index))


def _selected(
    where: str,
    data: TaskData,
    text: Sequence[str],
    label: Sequence[str],
    selection: Selection,
    by_index: bool,
) -> Iterator[list[dict[str, Any]]]:
    present: list[str] = []
    read = kept = 0
    for start, block in blocks_of(data):
        if start == 0:
            names = column_names(block)
            present = [name for name in label if selection.column(name) in names]
        own = {name: selection.column(name) for name in (*text, *present)}
        columns = tuple(dict.fromkeys((*own.values(), *selection.tested)))
        raw = read_columns(where, block, columns, start)
        rows = _kept_rows(block, raw, own, present, selection, by_index)
        if selection.label_map:
            for number, row in enumerate(rows, kept):
                for name in present:
                    row[name] = _mapped(where, number, row[name], selection.label_map)
        read, kept = start + len(block), kept + len(rows)
        if rows:
            yield rows
    if not kept:
        raise DataError(
            f"{where} has {read} rows, none of which the filter keeps; check the values of "
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
    named = {column: _class_names(block, column, values) for column, values in raw.items()}
    columns = {name: raw[column] for name, column in own.items()}
    if selection.label_map or not by_index:
        columns |= {name: named[own[name]] for name in present}
    return [
        {name: values[number] for name, values in columns.items()}
        for number, row in enumerate(zip(*named.values(), strict=True))
        if selection.keeps(dict(zip(named, row, strict=True)))
    ]


def _mapped(where: str, number: int, value: Any, label_map: Mapping[str, Any]) -> Any:
    items = value if is_list(value) else [value]
    for item in items:
        if str(item) not in label_map:
            raise DataError(
                f"{where} row {number} of those that are kept has the label {item!r}, which "
                f"label_map lacks: it has {listed(label_map)}; add it, or leave such rows out."
            )
    mapped = list(dict.fromkeys(label_map[str(item)] for item in items))
    return mapped if is_list(value) else mapped[0]


def _class_names(data: TaskData, column: str, values: list[Any]) -> list[Any]:
    names = class_names(data, column)
    if names is None:
        return values

    def named(value: Any) -> Any:
        if is_list(value):
            return [named(item) for item in value]
        return names[value] if isinstance(value, int) and value >= 0 else value

    return [named(value) for value in values]
