"""A split as it is handed in becomes checked `Examples`: the last part of the way of its data.

    rows -> `read_split`: texts, images, labels as values
         -> `settle`: are text labels numbers or names? All splits decide together
         -> `infer_labels`: the label names, where none are given
         -> `RawSplit.examples`: labels as class indices or targets

Everything is checked here, once: the texts of `Examples` are text, the images can be opened, and
labels are class indices or finite numbers. Every message begins with the split's place, such as
"Task 'mood': train".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from lobes.data.texts import TextsWriter
from lobes.errors import DataError, at
from lobes.metrics import get_metric
from lobes.tasks.columns import (
    Columns,
    TaskData,
    blocks_of,
    check_texts,
    class_names,
    column_names,
    listed,
    read_columns,
)
from lobes.tasks.examples import Examples
from lobes.tasks.images import Picture, read_pictures
from lobes.tasks.labels import TRUTH, check_spellings, numbers_in, spellings
from lobes.tasks.raw_labels import RawLabels, about_hidden, is_hidden, read_labels


@dataclass(frozen=True, slots=True, eq=False)
class RawSplit:
    """One split as handed in: texts and images are checked, labels not yet class indices.

    `place` begins the messages. `labels` are None where the split has none.
    """

    place: str
    texts: Sequence[tuple[str, ...]]
    images: tuple[Picture, ...] | None
    labels: RawLabels | None

    @property
    def given(self) -> RawLabels:
        """The labels of a split that has some."""
        assert self.labels is not None
        return self.labels

    def examples(self, names: tuple[str, ...] | None, *, needs_two_classes: bool) -> Examples:
        """The checked split: targets where `names` is None, else indices into `names`."""
        with at(self.place):
            if names is None:
                return Examples(self.texts, self.given.targets(), self.images)
            indices = self.given.indices(names, told_of=self.place)
            if needs_two_classes:
                self.given.check_two_classes()
            return Examples(self.texts, indices, self.images)


def read_split(
    place: str, data: TaskData, columns: Columns, *, needs_labels: bool = True
) -> RawSplit:
    """Read the columns of a split in one pass over its rows.

    Without `needs_labels` the split may lack the columns of labels, or hold marks of hidden ones
    only; it then has no labels, and texts may be empty. Raises DataError, which begins with
    `place`, for data that cannot be used.
    """
    with at(place):  # rows that are read lazily are iterated in this block
        if isinstance(data, Examples):
            return _of_examples(place, data, columns)
        return _of_rows(place, data, columns, needs_labels)


def _of_rows(place: str, data: TaskData, columns: Columns, needs_labels: bool) -> RawSplit:
    labels: dict[str, list[Any]] = {column: [] for column in columns.labels}
    cells: list[Any] = []
    writer = TextsWriter(len(columns.text))
    same: dict[str, str] = {}  # one string for each label, not for each row
    names, empty = None, None
    for start, block in blocks_of(data):
        if start == 0 and not needs_labels and not labels.keys() <= set(column_names(block)):
            labels = {}
        found = read_columns(block, (*columns.inputs, *labels), start)
        if columns.image is None:
            texts = [check_texts(column, found[column], start) for column in columns.text]
            empty = _first_empty(texts, start) if empty is None else empty
            writer.append(texts)
        else:
            cells += found[columns.image]
        for column, values in labels.items():
            values += [same.setdefault(v, v) if type(v) is str else v for v in found[column]]
            names = class_names(block, columns.labels[0]) or names
    has_labels = needs_labels or not all(map(is_hidden, chain.from_iterable(labels.values())))
    if has_labels and empty is not None:
        raise DataError(
            f"row {empty} has an empty text in {listed(columns.text)}; correct or remove it."
        )
    raw = read_labels(labels, columns.label, names) if has_labels else None
    if columns.image is None:
        return RawSplit(place, writer.finish(), None, raw)
    # after the labels, since every picture's file is read
    images = read_pictures(place, columns.image, cells)
    return RawSplit(place, ((),) * len(images), images, raw)


def _first_empty(texts: Sequence[Sequence[str]], start: int) -> int | None:
    """The first row all of whose texts are blank, where the first of them is row `start`."""
    for row, example in enumerate(zip(*texts, strict=True), start):
        if not any(part.strip() for part in example):
            return row
    return None


def _of_examples(place: str, data: Examples, columns: Columns) -> RawSplit:
    data.check_inputs(columns)
    if data.labels.ndim > 1:
        names = tuple(map(str, range(data.labels.shape[1])))
        labels = RawLabels.of_matrix(columns.label, data.labels, names, "index")
    else:
        kind: Literal["index", "float"] = "index" if data.labels.dtype.kind == "i" else "float"
        labels = RawLabels(columns.label, data.labels.tolist(), kind)
    return RawSplit(place, data.texts, data.images, labels)


def settle(
    splits: Mapping[str, RawSplit], names: tuple[str, ...] | None, *, fold_labels: bool = False
) -> dict[str, RawSplit]:
    """Return the splits of a task with text labels as what they mean: numbers, or names.

    Without `names` given, the labels of all splits together decide, so that no two splits are
    read in two ways. With `fold_labels`, names that differ by blanks or case only are one.
    """
    groups = [list(splits)] if names is None else [[split] for split in splits]
    found = dict(splits)
    for group in groups:
        found |= _settled({split: splits[split] for split in group}, names, fold_labels)
    return found


def _settled(
    splits: Mapping[str, RawSplit], names: tuple[str, ...] | None, fold_labels: bool
) -> dict[str, RawSplit]:
    """Those of the splits that change."""
    text = {
        split: raw
        for split, raw in splits.items()
        # columns of 0 and 1 have names already, those of the columns
        if raw.given.kind == "text" and raw.given.items and isinstance(raw.given.column, str)
    }
    if not text:
        return {}
    items = [item for raw in text.values() for item in raw.given.items]
    first = next(iter(text.values()))
    with at(first.place):
        found = numbers_in(first.given.column, items, names or ())
    changed = {}
    spelled = spellings(items, names) if found is None and fold_labels else None
    for split, raw in text.items():
        with at(raw.place):
            if found is not None:
                changed[split] = replace(raw, labels=raw.given.with_numbers(*found))
            elif spelled is not None:
                changed[split] = replace(raw, labels=raw.given.with_spellings(spelled))
    return changed


def infer_labels(
    task: str, splits: Mapping[str, RawSplit], metric: str | None
) -> tuple[str, ...] | None:
    """Return the label names that the first split shows, or None for regression."""
    if metric is not None and get_metric(metric).for_regression:
        return None
    if not splits:
        raise DataError(
            f"Task {task!r} has neither data nor labels: give one of train, validation or labels, "
            f'for example labels=("negative", "positive").'
        )
    first = next(iter(splits.values()))
    labels = first.given
    if labels.class_names is not None and labels.kind != "text":
        return labels.class_names
    with at(first.place):
        if labels.kind == "float" and not _are_classes(labels, metric):
            return None
        labels.check_two_classes()
    different = sorted(set(labels.items))
    if labels.kind == "text":
        for raw in splits.values():
            with at(raw.place):
                _check_are_text(raw.given, labels.items[0], next(iter(splits)))
                if raw.given.kind == "text":
                    check_spellings(raw.given.column, raw.given.items)
        return tuple(different)
    if different != list(range(len(different))):
        raise DataError(
            f"{first.place} has the labels {listed(different)} in column {labels.column!r}; "
            f"without label names they must be 0 to {len(different) - 1} without a gap: give the "
            f"names with labels=(…).{about_hidden(different[0], labels.column)}"
        )
    return tuple(str(int(value)) for value in different)


def _check_are_text(labels: RawLabels, text: str, split: str) -> None:
    """Raise `DataError` for numbers and truth values; `split` has text, such as `text`."""
    if labels.kind != "text" and labels.class_names in (None, TRUTH) and labels.items:
        item = labels.items[0] if labels.class_names is None else bool(labels.items[0])
        raise DataError(
            f"has labels that are not text in column {labels.column!r}, such as {item!r}, and "
            f"{split} has text, such as {text!r}: write the labels of all splits alike, or name "
            f"the classes in the order of their numbers with labels=(…)."
        )


def _are_classes(labels: RawLabels, metric: str | None) -> bool:
    """Whether numbers stored as floats are classes: only if whole, and if the metric says so."""
    fraction = next((value for value in labels.items if not value.is_integer()), None)
    if fraction is None and metric is None:
        raise DataError(
            f"has whole numbers stored as floats in the label column {labels.column!r} (row 0: "
            f"{labels.items[0]!r}), which could be classes or targets: give labels=(…) for "
            f'classes, or metric="spearman" for regression.'
        )
    if fraction is not None and metric is not None:
        raise DataError(
            f"has the label {fraction!r} in column {labels.column!r}, but the metric {metric!r} "
            f'is for classes: use metric="spearman" for regression, or another column.'
        )
    return fraction is None


def are_multi_label(
    task: str, label: str | tuple[str, ...], splits: Mapping[str, RawSplit]
) -> bool:
    """Whether an example may have several labels, which must hold for all splits or for none."""
    found = {raw.given.is_multi_label for raw in splits.values()}
    if not isinstance(label, str):
        found.add(True)
    if len(found) > 1:
        raise DataError(
            f"Task {task!r} has several labels for one example in one place (a split, or a column "
            f"for each label) and one label in another: expected the same throughout."
        )
    return True in found
