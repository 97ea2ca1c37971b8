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
    where: str, data: TaskData, text: Sequence[str], label: str, selection: Selection
) -> TaskData:
    """The rows that count, under the task's own names of columns and labels.

    Labels and tested columns that are classes of a `datasets.Dataset` go by their names. Raises
    DataError where no row is left, and for a label that the map lacks.
    """
    if selection == Selection({}, {}, {}, {}):
        return data
    names = getattr(data, "column_names", None) or list(data[0] if len(data) else ())
    own = {selection.column(name): name for name in (*text, label)}
    present = dict.fromkeys(
        column for column in (*own, *selection.tested) if column in names or column != label
    )
    if selection.column(label) not in names:
        present.pop(selection.column(label), None)
        own.pop(selection.column(label))
    columns = read_columns(where, data, tuple(present))
    for column in {selection.column(label), *selection.tested} & set(columns):
        columns[column] = _class_names(data, column, columns[column])
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    kept = [row for row in rows if selection.keeps(row)]
    if not kept:
        raise DataError(
            f"{where} has {len(rows)} rows, none of which the filter keeps; check the values of "
            f"{listed((*selection.filter, *selection.leave_out))}."
        )
    renamed = [{own[column]: row[column] for column in own} for row in kept]
    if selection.label_map:
        for number, row in enumerate(renamed):
            if label in row:
                row[label] = _mapped(where, number, row[label], selection.label_map)
    return renamed


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
