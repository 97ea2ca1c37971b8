"""What a user changes in data of their own: names of columns, labels, and which rows count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lobes.errors import DataError
from lobes.tasks.columns import TaskData, listed, read_columns


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
            values = [wanted] if isinstance(wanted, str) or not _is_list(wanted) else wanted
            return str(row[self.column(column)]) in map(str, values)

        return all(holds(*item) for item in self.filter.items()) and not any(
            holds(*item) for item in self.leave_out.items()
        )


def select(
    where: str,
    data: TaskData,
    text: Sequence[str],
    label: str,
    selection: Selection,
    *,
    by_index: bool,
) -> TaskData:
    """The rows that count, under the task's own names of columns and labels.

    Columns that are classes of a `datasets.Dataset` are compared by the names of the classes, and
    so are labels, unless they stay class indices with `by_index` and without a map. A column of
    labels may be missing. Raises DataError where no row is left, and for a label that the map
    lacks.
    """
    if selection == Selection({}, {}, {}, {}):
        return data
    names = getattr(data, "column_names", None) or list(data[0] if len(data) else ())
    own = {name: selection.column(name) for name in (*text, label)}
    if own[label] not in names:
        own.pop(label)
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
    if label in own and (selection.label_map or not by_index):
        columns[label] = named[own[label]]
    rows = [{name: values[number] for name, values in columns.items()} for number in kept]
    if selection.label_map:
        for number, row in enumerate(rows):
            if label in row:
                row[label] = _mapped(where, number, row[label], selection.label_map)
    return rows


def _mapped(where: str, number: int, value: Any, label_map: Mapping[str, Any]) -> Any:
    if str(value) not in label_map:
        raise DataError(
            f"{where} row {number} of those that are kept has the label {value!r}, which "
            f"label_map lacks: it has {listed(label_map)}; add it, or leave such rows out."
        )
    return label_map[str(value)]


def _class_names(data: TaskData, column: str, values: list[Any]) -> list[Any]:
    feature = (getattr(data, "features", None) or {}).get(column)
    names = getattr(feature, "names", None)
    if names is None:
        return values
    return [names[value] if isinstance(value, int) and value >= 0 else value for value in values]


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence)
