"""A task: its name, its labelled texts, its label names and its metric.

Everything a user hands in is checked here, once, so that no other file has to: what leaves this
file is text that is text and labels that are class indices or finite numbers.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from lobes.errors import ConfigError, DataError
from lobes.metrics import get_metric
from lobes.tasks.columns import (
    LabelKind,
    TaskData,
    check_label_values,
    check_texts,
    listed,
    read_columns,
    suggest,
)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """One split of a task: texts and labels, checked.

    `texts[i]` has one string for each text column. `labels` are class indices (int64), or targets
    (float64) for regression; the array is read-only.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: Int[np.ndarray, " examples"] | Float[np.ndarray, " examples"]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise DataError(
                f"{len(self.texts)} texts and {len(self.labels)} labels: expected one label for "
                f"each text."
            )
        whole = np.issubdtype(self.labels.dtype, np.integer)
        labels = np.array(self.labels, dtype=np.int64 if whole else np.float64)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Iterable[int] | Int[np.ndarray, " selected"]) -> "Examples":
        """The examples at `indices`, in that order."""
        places = [int(i) for i in indices]
        return Examples(tuple(self.texts[i] for i in places), self.labels[places])


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task without its data: what models and results keep of it.

    `labels` are the class names in the order of the class indices, or None for regression. Raises
    DataError for a name or labels that cannot be, and ConfigError for a metric that does not exist
    or does not fit.
    """

    name: str
    text: tuple[str, ...]
    label: str
    labels: tuple[str, ...] | None
    metric: str

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_columns(self.name, self.text, self.label)
        if self.labels is not None:
            _check_labels(self.name, self.labels)
        _check_metric(self.name, self.metric, self.labels)

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers on a scale rather than classes."""
        return self.labels is None

    @property
    def n_outputs(self) -> int:
        """How many numbers the classifier gives for each example: one for each label, or 1."""
        return 1 if self.labels is None else len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """The five fields as plain values, for JSON; `from_dict` reads them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TaskSpec":
        """Read what `to_dict` wrote, also after a trip through JSON (lists for tuples)."""
        labels = values["labels"]
        return cls(
            name=values["name"],
            text=tuple(values["text"]),
            label=values["label"],
            labels=None if labels is None else tuple(labels),
            metric=values["metric"],
        )


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Task:
    """A named task with its labelled texts.

    `train` and `validation` are a `datasets.Dataset`, a `pandas.DataFrame`, a `pyarrow.Table`, a
    list of dicts, or `Examples`. `text` names one column, or two for pairs of texts.

    `labels` are the class names in order. Text labels must be among them. Whole numbers (also
    1.0) are indices into them, unless every name is itself a whole number, as in ("1", "2", "3"):
    then a number is matched with the name that says it. With `labels=None` they are taken from
    the training data (without any, from the validation data): the names of a `ClassLabel`
    feature; text labels, sorted; whole numbers as "0" to "k-1"; other numbers mean regression.

    `metric` is the name of one of `lobes.metrics.METRICS`; None means "accuracy" for classes and
    "spearman" for regression. A metric for regression makes the task one, whatever the numbers.

    Raises DataError for data that cannot be used, naming task, split and row (from 0), and
    ConfigError for a metric that does not exist or does not fit.
    """

    spec: TaskSpec
    train: Examples | None
    validation: Examples | None

    def __init__(
        self,
        name: str,
        *,
        train: TaskData = None,
        validation: TaskData = None,
        text: str | Sequence[str],
        label: str = "label",
        labels: Sequence[str] | None = None,
        metric: str | None = None,
    ) -> None:
        _check_name(name)
        text = (text,) if isinstance(text, str) else tuple(text)
        _check_columns(name, text, label)
        names = None if labels is None else tuple(labels)
        if names is not None:
            _check_labels(name, names)
        splits = {
            split: _read_split(f"Task {name!r}: {split}", data, text, label)
            for split, data in (("train", train), ("validation", validation))
            if data is not None
        }
        if names is None:
            names = _infer_labels(name, splits, metric)
        metric = metric or ("spearman" if names is None else "accuracy")
        object.__setattr__(self, "spec", TaskSpec(name, text, label, names, metric))
        for split in ("train", "validation"):
            raw = splits.get(split)
            examples = None if raw is None else raw.examples(names)
            object.__setattr__(self, split, examples)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.spec.name

    @property
    def text(self) -> tuple[str, ...]:
        """The names of the text columns, one or two."""
        return self.spec.text

    @property
    def label(self) -> str:
        """The name of the label column."""
        return self.spec.label

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The class names in the order of the class indices; None for regression."""
        return self.spec.labels

    @property
    def metric(self) -> str:
        """The name of the main metric."""
        return self.spec.metric

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers on a scale rather than classes."""
        return self.spec.is_regression

    @property
    def n_outputs(self) -> int:
        """How many numbers the classifier gives for each example."""
        return self.spec.n_outputs

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{split}: {'none' if examples is None else len(examples)}"
            for split, examples in (("train", self.train), ("validation", self.validation))
        )
        return f"Task({self.name!r}, {sizes}, labels={self.labels}, metric={self.metric!r})"


def read_examples(
    where: str, data: TaskData, text: tuple[str, ...], label: str, labels: tuple[str, ...] | None
) -> Examples:
    """One split read with the labels of a task that is there, be it of one class only.

    `where` begins the messages; the rest is as for `Task`. Raises DataError for data that cannot
    be used.
    """
    return _read_split(where, data, text, label).read(labels)


def check_task_names(tasks: Sequence[Task] | Sequence[TaskSpec]) -> None:
    """Raise DataError where there is no task, or where two have the same name."""
    names = [task.name for task in tasks]
    if not names:
        raise DataError("No task was given: expected one or more.")
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"Two tasks are called {name!r}: give each its own name, since results are kept "
                f"by name."
            )


@dataclass(frozen=True, slots=True, eq=False)
class _RawSplit:
    """One split as handed in: texts are checked, labels are not yet class indices."""

    where: str
    column: str
    texts: tuple[tuple[str, ...], ...]
    values: list[Any]
    kind: LabelKind | Literal["index"]  # index: of Examples, which are class indices already
    feature_names: tuple[str, ...] | None = None

    def examples(self, names: tuple[str, ...] | None) -> Examples:
        """The checked split: targets where `names` is None, else indices into `names`."""
        examples = self.read(names)
        if names is not None:
            self.check_two_classes()
        return examples

    def read(self, names: tuple[str, ...] | None) -> Examples:
        """The same, though all examples may have the same label."""
        return Examples(self.texts, self._targets() if names is None else self._indices(names))

    def check_two_classes(self) -> None:
        """Raise DataError where all examples have the same label."""
        if len(set(self.values)) == 1:
            raise DataError(
                f"{self.where} has one class only: all {len(self.values)} examples have the label "
                f"{self.values[0]!r}; a task needs two classes or more in each split."
            )

    def _targets(self) -> Float[np.ndarray, " examples"]:
        if self.kind == "text":
            raise DataError(
                f"{self.where} has text labels in column {self.column!r} (row 0: "
                f"{self.values[0]!r}), but a regression task needs numbers; use a metric for "
                f'classes, such as "accuracy", or another label column.'
            )
        targets = np.array(self.values, dtype=np.float64)
        for row in np.flatnonzero(~np.isfinite(targets)):
            raise DataError(
                f"{self.where} row {row} has the target {targets[row]}: targets are finite "
                f"numbers; correct or remove the row."
            )
        return targets

    def _indices(self, names: tuple[str, ...]) -> Int[np.ndarray, " examples"]:
        known: dict[Any, int] = {value: index for index, value in enumerate(names)}
        if self.kind != "text":
            by_value = self.kind != "index" and all(map(_is_whole_name, names))
            known = {(int(value) if by_value else i): i for i, value in enumerate(names)}
        indices = [known.get(value) for value in self.values]
        for row, index in enumerate(indices):
            if index is None:
                raise DataError(self._outside(row, names, known))
        return np.array(indices, dtype=np.int64)

    def _outside(self, row: int, names: tuple[str, ...], known: Mapping[Any, int]) -> str:
        value = self.values[row]
        start = f"{self.where} row {row} has the label {value!r} in column {self.column!r}, "
        if self.kind == "text":
            return (
                start + f"which is not one of the labels {listed(names)}." + suggest(value, names)
            )
        hint = " Labels of -1 mark hidden answers: use a split with labels." if value == -1 else ""
        if list(known) == list(range(len(names))):
            return start + (
                f"which is not a class: expected a whole number from 0 to {len(names) - 1}, for "
                f"the labels {listed(names)}.{hint}"
            )
        return start + f"which is not one of the labels {listed(names)}.{hint}"


def _read_split(where: str, data: TaskData, text: tuple[str, ...], label: str) -> _RawSplit:
    if isinstance(data, Examples):
        return _read_examples(where, data, text, label)
    columns = read_columns(where, data, (*text, label))
    texts = [check_texts(where, column, columns[column]) for column in text]
    rows = tuple(zip(*texts, strict=True))
    for row, example in enumerate(rows):
        if not any(part.strip() for part in example):
            raise DataError(
                f"{where} row {row} has an empty text in {listed(text)}; correct or remove it."
            )
    values, kind = check_label_values(where, label, columns[label])
    feature = getattr(data, "features", None)
    names = getattr(feature[label], "names", None) if isinstance(feature, Mapping) else None
    return _RawSplit(where, label, rows, values, kind, None if names is None else tuple(names))


def _read_examples(where: str, data: Examples, text: tuple[str, ...], label: str) -> _RawSplit:
    if not len(data):
        raise DataError(f"{where} has no examples; give it some, or leave the split out.")
    if any(len(example) != len(text) for example in data.texts):
        raise DataError(f"{where} has examples without one text for each of {listed(text)}.")
    whole = np.issubdtype(data.labels.dtype, np.integer)
    return _RawSplit(where, label, data.texts, data.labels.tolist(), "index" if whole else "float")


def _infer_labels(
    name: str, splits: Mapping[str, _RawSplit], metric: str | None
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
    if raw.feature_names is not None and raw.kind != "text":
        return raw.feature_names
    if raw.kind == "float" and not _are_classes(raw, metric):
        return None
    raw.check_two_classes()
    different = sorted(set(raw.values))
    if raw.kind == "text":
        return tuple(different)
    if different != list(range(len(different))):
        raise DataError(
            f"{raw.where} has the labels {listed(different)} in column {raw.column!r}; without "
            f"label names they must be 0 to {len(different) - 1} without a gap: give the names "
            f"with labels=(…)."
        )
    return tuple(str(int(value)) for value in different)


def _are_classes(raw: _RawSplit, metric: str | None) -> bool:
    """Whether numbers stored as floats are classes: only if whole, and if the metric says so."""
    fraction = next((value for value in raw.values if not value.is_integer()), None)
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


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise DataError(
            f"{name!r} cannot be a task's name: use letters, digits, '-' and '_' only, since "
            f"files are named after it."
        )


def _check_columns(name: str, text: tuple[str, ...], label: str) -> None:
    if not 1 <= len(text) <= 2:
        raise DataError(
            f"Task {name!r} has {len(text)} text columns: expected one, or two for pairs of texts."
        )
    if label in text:
        raise DataError(f"Task {name!r} takes column {label!r} both as text and as label.")


def _check_labels(name: str, labels: tuple[str, ...]) -> None:
    for label in labels:
        if not isinstance(label, str) or not label:
            raise DataError(
                f"Task {name!r} has the label name {label!r}: names are text, such as "
                f'labels=("negative", "positive").'
            )
        if labels.count(label) > 1:
            raise DataError(f"Task {name!r} has the label name {label!r} twice.")
    if len(labels) < 2:
        raise DataError(
            f"Task {name!r} has {len(labels)} label names: expected two or more, or None for "
            f"regression."
        )


def _check_metric(name: str, metric: str, labels: tuple[str, ...] | None) -> None:
    if get_metric(metric).for_regression != (labels is None):
        kind = "regression" if labels is None else "classes"
        wanted = '"spearman"' if labels is None else '"accuracy"'
        raise ConfigError(
            f"Task {name!r} has {kind}, which the metric {metric!r} cannot judge: use {wanted}, "
            f"or another metric for {kind}."
        )
    if metric == "f1" and labels is not None and len(labels) != 2:
        raise ConfigError(
            f"Task {name!r} has {len(labels)} classes, but the metric 'f1' is for two: use "
            f'"accuracy" or "matthews".'
        )


def _is_whole_name(name: str) -> bool:
    return re.fullmatch(r"-?\d+", name) is not None
