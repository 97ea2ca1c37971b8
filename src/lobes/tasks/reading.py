"""What a user hands in for a split, read: labels of every kind become indices, targets or sets.

Everything is checked here, once, so that no other file has to: what leaves this file is text that
is text, images that are images, and labels that are class indices or finite numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from lobes.data.texts import Texts, TextsWriter
from lobes.errors import DataError
from lobes.metrics import get_metric
from lobes.tasks.columns import (
    LabelKind,
    TaskData,
    about_hidden,
    blocks_of,
    check_label_columns,
    check_label_lists,
    check_label_values,
    check_texts,
    class_names,
    is_list,
    listed,
    read_columns,
    suggest,
    without_label,
)
from lobes.tasks.examples import Examples
from lobes.tasks.images import Picture, read_pictures, undecoded
from lobes.tasks.labels import (
    TRUTH,
    check_spellings,
    folded,
    number_of,
    numbers_in,
    places_of,
    spellings,
)


def read_texts(where: str, data: TaskData, text: tuple[str, ...]) -> Texts:
    """The texts of a split without labels, which may be empty. Raises as `read_examples` does."""
    writer = TextsWriter(len(text))
    for start, block in blocks_of(data):
        columns = read_columns(where, block, text, start)
        writer.append([check_texts(where, column, columns[column], start) for column in text])
    return writer.finish()


_TRUTHS = {bool, np.bool_}


@dataclass(frozen=True, slots=True, eq=False)
class RawSplit:
    """One split as handed in: texts and images are checked, labels not yet class indices."""

    where: str
    column: str | tuple[str, ...]
    texts: Sequence[tuple[str, ...]]
    values: list[Any]  # a label each, or a tuple of labels each
    kind: LabelKind | Literal["index"]  # index: of Examples, which are class indices already
    class_names: tuple[str, ...] | None = None  # those that the data have for whole numbers
    several: bool = False
    images: tuple[Picture, ...] | None = None

    def examples(self, names: tuple[str, ...] | None) -> Examples:
        """The checked split: targets where `names` is None, else indices into `names`."""
        examples = self.read(names)
        if names is not None:
            self.check_two_classes()
        return examples

    @property
    def items(self) -> list[Any]:
        """All labels of all examples, one after the other."""
        return [item for value in self.values for item in value] if self.several else self.values

    def read(self, names: tuple[str, ...] | None) -> Examples:
        """The same, though all examples may have the same label."""
        labels = self._targets() if names is None else self._indices(names)
        return Examples(self.texts, labels, self.images)

    def check_two_classes(self) -> None:
        """Raise DataError where all examples have the same label."""
        if self.several and len(set(map(frozenset, self.values))) == 1:
            raise DataError(
                f"{self.where} has the same labels in all {len(self.values)} examples, "
                f"{listed(self.values[0]) or 'none'}; a task needs a label in each split that "
                f"some examples have and others have not."
            )
        if not self.several and len(set(self.values)) == 1:
            raise DataError(
                f"{self.where} has one class only: all {len(self.values)} examples have the label "
                f"{self.values[0]!r}; a task needs two classes or more in each split."
            )

    def _targets(self) -> Float[np.ndarray, " examples"]:
        if self.several:
            raise DataError(
                f"{self.where} has several labels for one example in column {self.column!r}, but "
                f"a regression task needs a number for each; use a metric for classes, such as "
                f'"f1_micro", or another label column.'
            )
        if self.kind == "text":
            row = next((i for i, v in enumerate(self.values) if number_of(v) is None), 0)
            raise DataError(
                f"{self.where} has text labels in column {self.column!r} (row {row}: "
                f"{self.values[row]!r}), but a regression task needs numbers; use a metric for "
                f'classes, such as "accuracy", or another label column.'
            )
        try:
            targets = np.array(self.values, dtype=np.float64)
        except OverflowError:  # a whole number of more than 300 digits
            targets = np.array([_as_float(value) for value in self.values], dtype=np.float64)
        for row in np.flatnonzero(~np.isfinite(targets)).tolist():
            raise DataError(
                f"{self.where} row {row} has the target {targets[row]}: targets are finite "
                f"numbers; correct or remove the row."
            )
        return targets

    def _indices(self, names: tuple[str, ...]) -> Int[np.ndarray, "examples *classes"]:
        known = self._places(names)
        width = len(self.class_names or names)
        if self.several and self.kind == "index" and width != len(names):
            raise DataError(
                f"{self.where} says of {width} classes whether an example has them, but the task "
                f"has the {len(names)} labels {listed(names)}."
            )
        indices = [known.get(value) for value in self.items]
        lengths = [len(value) if self.several else 1 for value in self.values]
        rows = np.repeat(np.arange(len(self.values)), lengths)
        for row, value, index in zip(rows.tolist(), self.items, indices, strict=True):
            if index is None:
                raise DataError(self._outside(row, value, names, known))
        classes = np.array(indices, dtype=np.int64)
        if not self.several:
            return classes
        matrix = np.zeros((len(self.values), len(names)), dtype=np.int64)
        matrix[rows, classes] = 1
        return matrix

    def _places(self, names: tuple[str, ...]) -> dict[Any, int]:
        """What the labels may be, and the class index that each stands for."""
        if self.kind == "text":
            return {name: index for index, name in enumerate(names)}
        by_value = self.kind != "index" and all(map(_is_whole_name, names))
        own = (
            None
            if self.kind == "index" or (by_value and self.class_names == TRUTH)
            else (self.class_names)
        )
        if own is not None:
            places = places_of(self.where, own, names)
            return {value: place for value, place in enumerate(places) if place is not None}
        return {(int(name) if by_value else index): index for index, name in enumerate(names)}

    def _outside(
        self, row: int, value: Any, names: tuple[str, ...], known: Mapping[Any, int]
    ) -> str:
        start = f"{self.where} row {row} has the label {value!r} in column {self.column!r}, "
        if self.kind == "text":
            sentence = start + f"which is not one of the labels {listed(names)}."
            if folded(value) in map(folded, names):
                return sentence + " Only blanks or case differ: make them one with fold_labels."
            return sentence + (about_hidden(value, self.column) or suggest(value, names))
        hint = about_hidden(value, self.column)
        if (
            self.class_names is not None
            and self.kind == "whole"
            and 0 <= value < len(self.class_names)
        ):
            return start + (
                f"{self.class_names[value]!r}, which is not one of the labels {listed(names)}."
            )
        if list(known) == list(range(len(names))):
            return start + (
                f"which is not a class: expected a whole number from 0 to {len(names) - 1}, for "
                f"the labels {listed(names)}.{hint}"
            )
        return start + f"which is not one of the labels {listed(names)}.{hint}"


def read_split(
    where: str,
    data: TaskData,
    text: tuple[str, ...],
    label: str | tuple[str, ...],
    image: str | None,
) -> RawSplit:
    if isinstance(data, Examples):
        return _read_examples(where, data, text, label, image)
    own = (label,) if isinstance(label, str) else label
    inputs = text if image is None else (image,)
    writer = TextsWriter(len(text))
    labels: dict[str, list[Any]] = {column: [] for column in own}
    cells: list[Any] = []
    same: dict[str, str] = {}  # one string for each label, not for each row
    names = None
    for start, block in blocks_of(data):
        part = block if image is None else undecoded(block, image)
        columns = read_columns(where, part, (*inputs, *own), start)
        if image is None:
            _append_texts(writer, where, text, columns, start)
        else:
            cells += columns[image]
        for column, values in labels.items():
            values += [same.setdefault(v, v) if type(v) is str else v for v in columns[column]]
        names = class_names(block, own[0]) or names
    several = not isinstance(label, str) or any(map(is_list, labels[label]))
    kind: LabelKind = "text"
    if not isinstance(label, str):
        found, names = check_label_columns(where, labels), label
    else:
        check = check_label_lists if several else check_label_values
        found, kind = check(where, label, labels[label])
        if names is None and kind == "whole" and {type(v) for v in labels[label]} <= _TRUTHS:
            names = TRUTH
    # last, since every file is read
    images = None if image is None else read_pictures(where, image, cells)
    texts = writer.finish() if images is None else ((),) * len(images)
    return RawSplit(where, label, texts, found, kind, names, several, images)


def _append_texts(
    writer: TextsWriter,
    where: str,
    text: tuple[str, ...],
    columns: Mapping[str, list[Any]],
    start: int,
) -> None:
    """Check the texts of a block, whose first row is number `start`, and keep them."""
    texts = [check_texts(where, column, columns[column], start) for column in text]
    for row, example in enumerate(zip(*texts, strict=True), start):
        if not any(part.strip() for part in example):
            raise DataError(
                f"{where} row {row} has an empty text in {listed(text)}; correct or remove it."
            )
    writer.append(texts)


def _read_examples(
    where: str,
    data: Examples,
    text: tuple[str, ...],
    label: str | tuple[str, ...],
    image: str | None,
) -> RawSplit:
    if not len(data):
        raise DataError(f"{where} has no examples; give it some, or leave the split out.")
    if (data.images is None) != (image is None):
        has, wanted = ("texts", "image") if data.images is None else ("images", "text")
        raise DataError(f"{where} has {has}, but the task names {wanted} columns; use one kind.")
    if isinstance(data.texts, Texts):
        fits = data.texts.width == len(text)
    else:
        fits = all(len(example) == len(text) for example in data.texts)
    if not fits:
        raise DataError(f"{where} has examples without one text for each of {listed(text)}.")
    if data.labels.ndim > 1:
        names = tuple(map(str, range(data.labels.shape[1])))
        found = [tuple(np.flatnonzero(row).tolist()) for row in data.labels]
        return RawSplit(where, label, data.texts, found, "index", names, True, data.images)
    kind: Literal["index", "float"]
    kind = "index" if np.issubdtype(data.labels.dtype, np.integer) else "float"
    return RawSplit(where, label, data.texts, data.labels.tolist(), kind, images=data.images)


def settled(
    splits: Mapping[str, RawSplit], names: tuple[str, ...] | None, *, fold_labels: bool = False
) -> dict[str, RawSplit]:
    """The splits of a task with text labels as what they mean: numbers, or names.

    Without `names` given, the labels of all splits together decide, so that no two splits are
    read in two ways. With `fold_labels`, names that differ by blanks or case only are one.
    """
    if names is not None and len(splits) > 1:
        return {
            split: settled({split: raw}, names, fold_labels=fold_labels)[split]
            for split, raw in splits.items()
        }
    text = {split: raw for split, raw in splits.items() if raw.kind == "text" and raw.items}
    items = [item for raw in text.values() for item in raw.items]
    if not items or any(not isinstance(raw.column, str) for raw in text.values()):
        return dict(splits)
    first = next(iter(text.values()))
    found = numbers_in(first.where, first.column, items, names or ())
    changed: dict[str, RawSplit] = {}
    if found is None:
        if fold_labels:
            spelled = spellings(items, names)
            changed = {split: _folded(raw, spelled) for split, raw in text.items()}
        return {**splits, **changed}
    numbers, are_truths = found
    start = 0
    for split, raw in text.items():
        stop = start + len(raw.items)
        changed[split] = _numbered(raw, numbers[start:stop], TRUTH if are_truths else None)
        start = stop
    return {**splits, **changed}


def _folded(raw: RawSplit, spelled: Mapping[str, str]) -> RawSplit:
    if not raw.several:
        return replace(raw, values=[spelled[value] for value in raw.values])
    lists = (dict.fromkeys(spelled[item] for item in value) for value in raw.values)
    return replace(raw, values=[tuple(value) for value in lists])


def _numbered(
    raw: RawSplit, numbers: Sequence[int | float], names: tuple[str, ...] | None
) -> RawSplit:
    """The split with numbers for its text labels."""
    if raw.several:
        return (
            raw
            if not all(isinstance(n, int) for n in numbers)
            else replace(
                raw, values=_as_lists(raw.values, numbers), kind="whole", class_names=names
            )
        )
    for row, number in enumerate(numbers):
        if number != number:
            raise DataError(without_label(raw.where, row, raw.column, raw.values[row]))
    kind: LabelKind = "whole" if all(isinstance(n, int) for n in numbers[:1]) else "float"
    return replace(raw, values=list(numbers), kind=kind, class_names=names)


def _as_lists(values: Sequence[tuple[Any, ...]], items: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The items in lists as long as those of `values`."""
    remaining = iter(items)
    return [tuple(next(remaining) for _ in value) for value in values]


def infer_labels(
    name: str, splits: Mapping[str, RawSplit], metric: str | None
) -> tuple[str, ...] | None:
    """The label names that the first split shows, or None for regression."""
    if metric is not None and get_metric(metric).for_regression:
        return None
    if not splits:
        raise DataError(
            f"Task {name!r} has neither data nor labels: give one of train, validation or labels, "
            f'for example labels=("negative", "positive").'
        )
    raw = next(iter(splits.values()))
    if raw.class_names is not None and raw.kind != "text":
        return raw.class_names
    if raw.kind == "float" and not _are_classes(raw, metric):
        return None
    raw.check_two_classes()
    different = sorted(set(raw.items))
    if raw.kind == "text":
        for each in splits.values():
            check_spellings(each.where, each.column, each.items)
        return tuple(different)
    if different != list(range(len(different))):
        raise DataError(
            f"{raw.where} has the labels {listed(different)} in column {raw.column!r}; without "
            f"label names they must be 0 to {len(different) - 1} without a gap: give the names "
            f"with labels=(…).{about_hidden(different[0], raw.column)}"
        )
    return tuple(str(int(value)) for value in different)


def _are_classes(raw: RawSplit, metric: str | None) -> bool:
    """Whether numbers stored as floats are classes: only if whole, and if the metric says so."""
    fraction = next((value for value in raw.items if not value.is_integer()), None)
    if fraction is None and metric is None:
        raise DataError(
            f"{raw.where} has whole numbers stored as floats in the label column {raw.column!r} "
            f"(row 0: {raw.values[0]!r}), which could be classes or targets: give labels=(…) for "
            f'classes, or metric="spearman" for regression.'
        )
    if fraction is not None and metric is not None:
        raise DataError(
            f"{raw.where} has the label {fraction!r} in column {raw.column!r}, but the metric "
            f'{metric!r} is for classes: use metric="spearman" for regression, or another column.'
        )
    return fraction is None


def has_several(name: str, label: str | tuple[str, ...], splits: Mapping[str, RawSplit]) -> bool:
    """Whether an example may have several labels, which must hold for all splits or for none."""
    found = {raw.several for raw in splits.values()}
    if not isinstance(label, str):
        found.add(True)
    if len(found) > 1:
        raise DataError(
            f"Task {name!r} has several labels for one example in one place (a split, or a column "
            f"for each label) and one label in another: expected the same throughout."
        )
    return True in found


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _is_whole_name(name: str) -> bool:
    return re.fullmatch(r"-?\d+", name) is not None
