"""What a user changes in data of their own: names of columns, labels, and which rows count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lobes.errors import DataError
from lobes.tasks.columns import TaskData, class_names, is_list, listed, read_columns


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
    names = getattr(data, "column_names", None) or list(data[0] if len(data) else ())
    present = [name for name in label if selection.column(name) in names]
    own = {name: selection.column(name) for name in (*text, *present)}
    raw = read_columns(where, data, tuple(dict.fromkeys((*own.values(), *selection.tested))))
    named = {column: _class_names(data, column, values) for column, values in raw.items()}
    kept = [
        number
        for number, row in enumerate(zip(*named.values(), strict=True))
        if selection.keeps(dict(zip(named, row, strict=True)))
    ]
    if not kept:
        raise DataError(
            f"{where} has {len(data)} rows, none of which the filter keeps; check the values of "
            f"{listed((*selection.filter, *selection.leave_out))}."
        )
    columns = {name: raw[column] for name, column in own.items()}
    if selection.label_map or not by_index:
        columns |= {name: named[own[name]] for name in present}
    rows = [{name: values[number] for name, values in columns.items()} for number in kept]
    if selection.label_map:
        for number, row in enumerate(rows):
            for name in present:
                row[name] = _mapped(where, number, row[name], selection.label_map)
    return rows


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
