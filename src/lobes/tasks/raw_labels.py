"""The labels of a split before they are class indices: what their cells may hold, and as what.

`RawLabels` keeps the labels of all examples in one list, whether each example has one label or
any number. A cell is text or a number, or a list of such; or each label has a column of 0 and 1.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from lobes.errors import DataError
from lobes.tasks.columns import is_list, is_missing, kind_of_cell, listed, suggest
from lobes.tasks.labels import TRUTH, folded, number_of, places_of

CellKind = Literal["text", "whole", "float"]

# What a cell of a label's own column may hold, as text in lower case.
_YES_OR_NO = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True, slots=True, eq=False)
class RawLabels:
    """The labels of a split as plain values of one kind.

    `items` are the labels of all examples, one after the other, and `lengths` how many of them
    each example has; None means one each. Of the kind "index" are class indices already.
    `class_names` are the names that the data have for whole numbers.
    """

    column: str | tuple[str, ...]
    items: list[Any]
    kind: CellKind | Literal["index"]
    class_names: tuple[str, ...] | None = None
    lengths: Int[np.ndarray, " examples"] | None = None

    @classmethod
    def of_matrix(
        cls,
        column: str | tuple[str, ...],
        matrix: np.ndarray,
        names: tuple[str, ...],
        kind: Literal["text", "index"],
    ) -> "RawLabels":
        """The labels that `matrix` [examples, classes] of yes and no says the examples have."""
        classes = np.nonzero(matrix)[1].tolist()
        items = [names[each] for each in classes] if kind == "text" else classes
        return cls(column, items, kind, names, np.count_nonzero(matrix, axis=1))

    @property
    def is_multi_label(self) -> bool:
        """Whether an example may have any number of labels."""
        return self.lengths is not None

    @property
    def rows(self) -> Sequence[int]:
        """The row of each item."""
        if self.lengths is None:
            return range(len(self.items))
        return np.repeat(np.arange(len(self.lengths)), self.lengths).tolist()

    def lists(self) -> Iterator[list[Any]]:
        """The labels of each example, where it may have any number."""
        assert self.lengths is not None
        start = 0
        for length in self.lengths.tolist():
            yield self.items[start : start + length]
            start += length

    def with_spellings(self, spelled: Mapping[str, str]) -> "RawLabels":
        """The same with other spellings of its names; those that become equal count once."""
        if self.lengths is None:
            return replace(self, items=[spelled[item] for item in self.items])
        lists = [list(dict.fromkeys(spelled[item] for item in each)) for each in self.lists()]
        items = [item for each in lists for item in each]
        return replace(self, items=items, lengths=np.array([len(each) for each in lists]))

    def with_numbers(self, numbers: Mapping[str, int | float], are_truths: bool) -> "RawLabels":
        """The same with numbers for text; lists hold classes, and so keep text for fractions."""
        items = [numbers[item] for item in self.items]
        whole = all(isinstance(number, int) for number in items)
        if self.is_multi_label and not whole:
            return self
        for row, number in enumerate(items):
            if number != number:
                raise DataError(without_label(row, self.column, self.items[row]))
        names = TRUTH if are_truths else None
        return replace(self, items=items, kind="whole" if whole else "float", class_names=names)

    def check_two_classes(self) -> None:
        """Raise DataError where all examples have the same label, or the same labels."""
        if self.lengths is None and len(set(self.items)) == 1:
            raise one_class(len(self.items), self.items[0])
        if self.lengths is not None and len({frozenset(each) for each in self.lists()}) == 1:
            raise one_class(len(self.lengths), self.items[: self.lengths[0]])

    def targets(self) -> Float[np.ndarray, " examples"]:
        """The labels as targets of a regression; DataError where they are no finite numbers."""
        if self.is_multi_label:
            raise DataError(
                f"has several labels for one example in column {self.column!r}, but a regression "
                f'task needs a number for each; use a metric for classes, such as "f1_micro", or '
                f"another label column."
            )
        if self.kind == "text":
            row = next((i for i, item in enumerate(self.items) if number_of(item) is None), 0)
            raise DataError(
                f"has text labels in column {self.column!r} (row {row}: {self.items[row]!r}), but "
                f"a regression task needs numbers; use a metric for classes, such as "
                f'"accuracy", or another label column.'
            )
        targets = np.array([_as_float(item) for item in self.items], dtype=np.float64)
        for row in np.flatnonzero(~np.isfinite(targets)).tolist():
            raise DataError(
                f"row {row} has the target {targets[row]}: targets are finite numbers; correct or "
                f"remove the row."
            )
        return targets

    def indices(
        self, names: tuple[str, ...], *, told_of: str | None = None
    ) -> Int[np.ndarray, "examples *classes"]:
        """The labels as indices into `names`, or a matrix of 0 and 1 where there may be several.

        `told_of` is as for `lobes.tasks.labels.places_of`. Raises DataError for other labels.
        """
        known = self._classes(names, told_of)
        width = len(self.class_names or names)
        if self.is_multi_label and self.kind == "index" and width != len(names):
            raise DataError(
                f"says of {width} classes whether an example has them, but the task has the "
                f"{len(names)} labels {listed(names)}."
            )
        indices = [known.get(item) for item in self.items]
        if None in indices:
            place = indices.index(None)
            raise DataError(self._outside(self.rows[place], self.items[place], names, known))
        classes = np.array(indices, dtype=np.int64)
        if self.lengths is None:
            return classes
        matrix = np.zeros((len(self.lengths), len(names)), dtype=np.int64)
        matrix[self.rows, classes] = 1
        return matrix

    def _classes(self, names: tuple[str, ...], told_of: str | None) -> dict[Any, int]:
        """What the labels may be, and the class index that each stands for."""
        if self.kind == "text":
            return {name: index for index, name in enumerate(names)}
        if self.kind == "index":
            return {index: index for index in range(len(names))}
        by_value = all(re.fullmatch(r"-?\d+", name) for name in names)
        if self.class_names is not None and not (by_value and self.class_names == TRUTH):
            places = places_of(self.class_names, names, told_of=told_of)
            return {value: place for value, place in enumerate(places) if place is not None}
        return {(int(name) if by_value else index): index for index, name in enumerate(names)}

    def _outside(
        self, row: int, item: Any, names: tuple[str, ...], known: Mapping[Any, int]
    ) -> str:
        start = f"row {row} has the label {item!r} in column {self.column!r}, "
        none = f"which is not one of the labels {listed(names)}."
        hint = about_hidden(item, self.column)
        if self.kind == "text":
            if folded(item) in map(folded, names):
                hint = " Only blanks or case differ: make them one with fold_labels."
            return start + none + (hint or suggest(item, names) or self._numbers_for(names))
        own = self.class_names
        if own is not None and self.kind == "whole" and 0 <= item < len(own):
            return f"{start}{own[item]!r}, {none}"
        if list(known) == list(range(len(names))):
            return start + (
                f"which is not a class: expected a whole number from 0 to {len(names) - 1}, for "
                f"the labels {listed(names)}.{hint}"
            )
        return start + none + hint

    def _numbers_for(self, names: tuple[str, ...]) -> str:
        """What to do where text labels are the numbers of the classes, and these have names."""
        if not set(self.items) <= {str(number) for number in range(len(names))}:
            return ""
        return (
            f" If 0 to {len(names) - 1} stand for these names, say so with labels=(…), in the "
            f"order of the numbers."
        )


def read_labels(
    columns: Mapping[str, list[Any]],
    label: str | tuple[str, ...],
    class_names: tuple[str, ...] | None,
) -> RawLabels:
    """Return the labels in `columns`, which are the one column `label` or those of its names.

    `class_names` are the data's own. Raises DataError for cells that hold no label.
    """
    if not isinstance(label, str):
        return RawLabels.of_matrix(label, _yes_or_no(columns), label, "text")
    values = columns[label]
    if any(map(is_list, values)):
        return _of_lists(label, values, class_names)
    items, kind = check_label_values(label, values)
    if class_names is None and kind == "whole" and {type(v) for v in values} <= {bool, np.bool_}:
        class_names = TRUTH
    return RawLabels(label, items, kind, class_names)


def check_label_values(
    column: str, values: list[Any], rows: Sequence[int] | None = None
) -> tuple[list[Any], CellKind]:
    """Return the labels as plain values of one kind, and that kind.

    `rows` are the rows that the values stand in, where it is not one in each. Raises DataError
    for a cell that holds neither text nor a number, and for labels of both kinds.
    """
    kinds: dict[str, tuple[int, Any]] = {}
    plain: list[Any] = []
    for row, value in zip(rows or range(len(values)), values, strict=True):
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            raise DataError(without_label(row, column, value))
        kind = kind_of_cell(value)
        if kind not in ("text", "a whole number", "a number"):
            raise DataError(
                f"row {row} has the label {value!r} in column {column!r}, which is {kind}; "
                f"expected text or a number."
            )
        kinds.setdefault("text" if kind == "text" else "number", (row, value))
        if kind == "a number":
            kinds.setdefault("float", (row, value))
        plain.append(str(value) if kind == "text" else value)
    if "text" in kinds and "number" in kinds:
        (text_row, text), (number_row, number) = kinds["text"], kinds["number"]
        raise DataError(
            f"mixes text and numbers in the label column {column!r}: row {text_row} has "
            f"{text!r}, row {number_row} has {number!r}; use one kind."
        )
    if "text" in kinds:
        return plain, "text"
    if "float" in kinds:
        return [float(value) for value in plain], "float"
    return [int(value) for value in plain], "whole"


def _of_lists(column: str, values: list[Any], class_names: tuple[str, ...] | None) -> RawLabels:
    """Lists of label names, or of class indices."""
    for row, value in enumerate(values):
        if not is_list(value):
            raise DataError(
                f"row {row} has {value!r} in column {column!r}, where other rows have lists of "
                f"labels: expected a list in each, [] for no label."
            )
    lengths = np.array([len(value) for value in values])
    rows = np.repeat(np.arange(len(values)), lengths).tolist()
    items = [item for value in values for item in value]
    for row, item in zip(rows, items, strict=True):
        # 0.0 and True are no indices: such a list would have a number for each of all labels
        if isinstance(item, bool | np.bool_ | float | np.floating) or is_list(item):
            raise DataError(
                f"row {row} has {list(values[row])!r} in column {column!r}: expected a list of "
                f"label names or of class indices (whole numbers); a number for each label, 0 or "
                f"1, takes a column for each, with label=(…)."
            )
    plain, kind = check_label_values(column, items, rows)
    labels = RawLabels(column, plain, kind, class_names, lengths)
    for row, found in enumerate(labels.lists()):
        if len(set(found)) < len(found):
            twice = next(label for label in found if found.count(label) > 1)
            raise DataError(
                f"row {row} has the label {twice!r} twice in column {column!r}: expected a list "
                f"of different labels; a number for each label, 0 or 1, takes a column for each, "
                f"with label=(…)."
            )
    return labels


def _yes_or_no(columns: Mapping[str, list[Any]]) -> np.ndarray:
    """Columns of 0 and 1, or of true and false, as booleans [examples, columns]."""
    matrix = []
    for column, values in columns.items():
        cells = [_YES_OR_NO.get(str(value).strip().lower()) for value in values]
        if None in cells:
            row = cells.index(None)
            raise DataError(
                f"row {row} has {values[row]!r} in the label column {column!r}: expected 0 or 1, "
                f"or true or false, in each of several label columns."
                + about_hidden(values[row], column)
            )
        matrix.append(cells)
    return np.array(matrix, dtype=bool).T


def about_hidden(value: Any, column: object) -> str:
    """The hint for a label of -1, which data sets use for hidden answers; "" for others."""
    if str(value).strip() not in ("-1", "-1.0"):
        return ""
    return (
        f" Labels of -1 mark hidden answers: use a split with labels, or leave such rows out with "
        f"leave_out = {{{column} = -1}} in the study."
    )


def is_hidden(value: Any) -> bool:
    """Whether a cell of labels is empty, or has the -1 that data sets use for hidden answers."""
    if is_list(value):
        return False
    return is_missing(value) or str(value).strip() in ("", "-1", "-1.0")


def without_label(row: int, column: object, value: Any) -> str:
    """The message for a row whose label is missing."""
    return (
        f"row {row} has no label in column {column!r} ({value!r}); correct or remove the row, or "
        f'leave such rows out with leave_out = {{{column} = ""}} in the study.'
    )


def one_class(number: int, label: Any) -> DataError:
    """The error for `number` examples which all have one label, or the same list of labels."""
    if isinstance(label, list):
        return DataError(
            f"has the same labels in all {number} examples, {listed(label) or 'none'}; a task "
            f"needs a label in each split that some examples have and others have not."
        )
    return DataError(
        f"has one class only: all {number} examples have the label {label!r}; a task needs two "
        f"classes or more in each split."
    )


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 300 digits
        return float("inf") if value > 0 else float("-inf")
