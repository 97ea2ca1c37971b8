"""A task: its name, its labelled texts or images, its label names and its metric.

Everything a user hands in is checked here, once, so that no other file has to: what leaves this
file is text that is text, images that are images, and labels that are class indices or finite
numbers.
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
)
from lobes.tasks.images import Picture, read_pictures, undecoded
from lobes.texts import Texts, TextsWriter, number_equal, number_texts


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """One split of a task: texts or images, and labels, checked.

    `texts[i]` has one string for each text column (`Texts`, or a tuple), and none where
    `images[i]` is the example's picture. `labels` are class indices (int64), or targets (float64)
    for regression; where an example may have several labels they are a matrix (int64) of 0 and 1
    for each class. The array is read-only.
    """

    texts: Sequence[tuple[str, ...]]
    labels: Int[np.ndarray, "examples *classes"] | Float[np.ndarray, " examples"]
    images: tuple[Picture, ...] | None = None

    def __post_init__(self) -> None:
        if self.images is not None and len(self.images) != len(self.texts):
            raise DataError(
                f"{len(self.images)} images and {len(self.texts)} texts: expected as many, each "
                f"text ()."
            )
        if len(self.texts) != len(self.labels):
            raise DataError(
                f"{len(self.texts)} texts and {len(self.labels)} labels: expected one label for "
                f"each text."
            )
        whole = np.issubdtype(self.labels.dtype, np.integer)
        if self.labels.ndim > 1 and not (whole and np.isin(self.labels, (0, 1)).all()):
            raise DataError(
                f"Labels of the shape {list(self.labels.shape)} say of each example and each "
                f"class whether it has it: expected whole numbers, 0 or 1."
            )
        labels = np.array(self.labels, dtype=np.int64 if whole else np.float64)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Iterable[int] | Int[np.ndarray, " selected"]) -> "Examples":
        """The examples at `indices`, in that order."""
        places = np.array(indices if isinstance(indices, np.ndarray) else list(indices), np.int64)
        images = None if self.images is None else tuple(self.images[i] for i in places)
        if isinstance(self.texts, Texts):
            return Examples(self.texts.select(places), self.labels[places], images)
        return Examples(tuple(self.texts[i] for i in places), self.labels[places], images)

    def numbered(self) -> Int[np.ndarray, " examples"]:
        """A number for each example, the same for equal texts or images, from 0 in their order."""
        if self.images is None:
            return number_texts(self.texts)
        return number_equal(picture.digest for picture in self.images)

    def strata(self) -> Int[np.ndarray, " examples"]:
        """The class of each example, to draw class by class; a regression is one class.

        An example with several labels counts to the rarest of them, the first of equals, and one
        without to a class of its own.
        """
        if self.labels.ndim == 1:
            whole = self.labels.dtype.kind == "i"
            return self.labels if whole else np.zeros(len(self), dtype=np.int64)
        order = np.argsort(self.labels.sum(axis=0), kind="stable")
        none = np.ones((len(self), 1), dtype=np.int64)
        rarest = np.hstack([self.labels[:, order], none]).argmax(axis=1)
        return np.append(order, len(order))[rarest]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task without its data: what models and results keep of it.

    `text` are the text columns, one or two; or it is empty, and `image` the image column. `labels`
    are the class names in the order of the class indices, or None for regression.
    `is_multi_label`: an example may have any number of them; `label` may then name a column for
    each. Raises DataError for a name, columns or labels that cannot be, and ConfigError for a
    metric that does not exist or does not fit.
    """

    name: str
    text: tuple[str, ...]
    label: str | tuple[str, ...]
    labels: tuple[str, ...] | None
    metric: str
    is_multi_label: bool = False
    image: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_columns(self.name, self.text, self.label, self.image)
        if self.labels is not None:
            _check_labels(self.name, self.labels)
        if not isinstance(self.label, str):
            _check_label_columns(self.name, self.label, self.labels)
            object.__setattr__(self, "is_multi_label", True)
        _check_metric(self)

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers on a scale rather than classes."""
        return self.labels is None

    @property
    def n_outputs(self) -> int:
        """How many numbers the classifier gives for each example: one for each label, or 1."""
        return 1 if self.labels is None else len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for JSON; `from_dict` reads them.

        "is_multi_label" is there only where it is true, "image" where there is such a column: most
        tasks are as they always were.
        """
        values = asdict(self)
        if not self.is_multi_label:
            del values["is_multi_label"]
        if self.image is None:
            del values["image"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TaskSpec":
        """Read what `to_dict` wrote, also after a trip through JSON (lists for tuples)."""
        label, labels = values["label"], values["labels"]
        return cls(
            name=values["name"],
            text=tuple(values["text"]),
            label=label if isinstance(label, str) else tuple(label),
            labels=None if labels is None else tuple(labels),
            metric=values["metric"],
            is_multi_label=bool(values.get("is_multi_label", False)),
            image=values.get("image"),
        )


@dataclass(frozen=True, slots=True, init=False, eq=False)
class Task:
    """A named task with its labelled texts or images.

    `train` and `validation` are a `datasets.Dataset`, a `pandas.DataFrame`, a `pyarrow.Table`, a
    list of dicts, `Blocks` of such, or `Examples`. `text` names one column, or two for pairs of
    texts; or `image` names a column of pictures: paths, encoded bytes, what `datasets.Image` gives,
    PIL images or arrays [height, width] or [height, width, 3] of uint8.

    `labels` are the class names in order. Text labels must be among them. Whole numbers (also
    1.0) are indices into them, unless every name is itself a whole number, as in ("1", "2", "3"):
    then a number is matched with the name that says it. With `labels=None` they are taken from
    the training data (without any, from the validation data): the names of a `ClassLabel`
    feature; text labels, sorted; whole numbers as "0" to "k-1"; other numbers mean regression.

    An example may have any number of labels where the column holds lists of label names or of
    class indices ([] for none), or where `label` names two or more columns of 0 and 1 (or true and
    false), whose names are then the label names.

    `metric` is the name of one of `lobes.metrics.METRICS`; None means "accuracy" for classes,
    "f1_micro" for several labels and "spearman" for regression. A metric for regression makes the
    task one, whatever the numbers.

    Raises DataError for data that cannot be used, naming task, split and row (from 0), and
    ConfigError for a metric that does not exist or does not fit, and for images without Pillow.
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
        text: str | Sequence[str] = (),
        image: str | None = None,
        label: str | Sequence[str] = "label",
        labels: Sequence[str] | None = None,
        metric: str | None = None,
    ) -> None:
        _check_name(name)
        text = (text,) if isinstance(text, str) else tuple(text)
        label = label if isinstance(label, str) else tuple(label)
        _check_columns(name, text, label, image)
        names = None if labels is None else tuple(labels)
        if names is None and not isinstance(label, str):
            names = label
        if names is not None:
            _check_labels(name, names)
        if not isinstance(label, str):
            _check_label_columns(name, label, names)
        splits = {
            split: _read_split(f"Task {name!r}: {split}", data, text, label, image)
            for split, data in (("train", train), ("validation", validation))
            if data is not None
        }
        if names is None:
            names = _infer_labels(name, splits, metric)
        several = _has_several(name, label, splits)
        usual = "spearman" if names is None else "f1_micro" if several else "accuracy"
        spec = TaskSpec(
            name, text, label, names, metric or usual, several and names is not None, image
        )
        object.__setattr__(self, "spec", spec)
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
        """The names of the text columns, one or two; none where there is an image column."""
        return self.spec.text

    @property
    def image(self) -> str | None:
        """The name of the image column; None for a task of texts."""
        return self.spec.image

    @property
    def label(self) -> str | tuple[str, ...]:
        """The name of the label column, or of the column of each label."""
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
    def is_multi_label(self) -> bool:
        """Whether an example may have any number of the labels."""
        return self.spec.is_multi_label

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
    where: str,
    data: TaskData,
    text: tuple[str, ...],
    label: str | tuple[str, ...],
    labels: tuple[str, ...] | None,
    image: str | None = None,
) -> Examples:
    """One split read with the labels of a task that is there, be it of one class only.

    `where` begins the messages; the rest is as for `Task`. Raises DataError for data that cannot
    be used.
    """
    return _read_split(where, data, text, label, image).read(labels)


def read_texts(where: str, data: TaskData, text: tuple[str, ...]) -> Texts:
    """The texts of a split without labels, which may be empty. Raises as `read_examples` does."""
    writer = TextsWriter(len(text))
    for start, block in blocks_of(data):
        columns = read_columns(where, block, text, start)
        writer.append([check_texts(where, column, columns[column], start) for column in text])
    return writer.finish()


def with_data(task: Task, train: Examples | None, validation: Examples | None) -> Task:
    """The same task with other data."""
    return Task(
        task.name,
        train=train,
        validation=validation,
        text=task.text,
        image=task.image,
        label=task.label,
        labels=task.labels,
        metric=task.metric,
    )


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
    """One split as handed in: texts and images are checked, labels not yet class indices."""

    where: str
    column: str | tuple[str, ...]
    texts: Sequence[tuple[str, ...]]
    values: list[Any]  # a label each, or a tuple of labels each
    kind: LabelKind | Literal["index"]  # index: of Examples, which are class indices already
    feature_names: tuple[str, ...] | None = None
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

    def _indices(self, names: tuple[str, ...]) -> Int[np.ndarray, "examples *classes"]:
        known: dict[Any, int] = {value: index for index, value in enumerate(names)}
        if self.kind != "text":
            by_value = self.kind != "index" and all(map(_is_whole_name, names))
            known = {(int(value) if by_value else i): i for i, value in enumerate(names)}
        width = len(self.feature_names or names)
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

    def _outside(
        self, row: int, value: Any, names: tuple[str, ...], known: Mapping[Any, int]
    ) -> str:
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


def _read_split(
    where: str,
    data: TaskData,
    text: tuple[str, ...],
    label: str | tuple[str, ...],
    image: str | None,
) -> _RawSplit:
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
        names = class_names(block, own[0])
    several = not isinstance(label, str) or any(map(is_list, labels[label]))
    kind: LabelKind = "text"
    if not isinstance(label, str):
        found, names = check_label_columns(where, labels), label
    else:
        check = check_label_lists if several else check_label_values
        found, kind = check(where, label, labels[label])
    # last, since every file is read
    images = None if image is None else read_pictures(where, image, cells)
    texts = writer.finish() if images is None else ((),) * len(images)
    return _RawSplit(where, label, texts, found, kind, names, several, images)


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
) -> _RawSplit:
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
        return _RawSplit(where, label, data.texts, found, "index", names, True, data.images)
    kind: Literal["index", "float"]
    kind = "index" if np.issubdtype(data.labels.dtype, np.integer) else "float"
    return _RawSplit(where, label, data.texts, data.labels.tolist(), kind, images=data.images)


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
    different = sorted(set(raw.items))
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


def _has_several(name: str, label: str | tuple[str, ...], splits: Mapping[str, _RawSplit]) -> bool:
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


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise DataError(
            f"{name!r} cannot be a task's name: use letters, digits, '-' and '_' only, since "
            f"files are named after it."
        )


def _check_columns(
    name: str, text: tuple[str, ...], label: str | tuple[str, ...], image: str | None
) -> None:
    if image is not None:
        if text:
            raise DataError(
                f"Task {name!r} has the text columns {listed(text)} and the image column "
                f"{image!r}: expected one of the two kinds."
            )
        if image in ((label,) if isinstance(label, str) else label):
            raise DataError(f"Task {name!r} takes column {image!r} both as image and as label.")
        return
    if not 1 <= len(text) <= 2:
        raise DataError(
            f"Task {name!r} has {len(text)} text columns: expected one, or two for pairs of texts."
        )
    for column in (label,) if isinstance(label, str) else label:
        if column in text:
            raise DataError(f"Task {name!r} takes column {column!r} both as text and as label.")


def _check_label_columns(name: str, label: tuple[str, ...], labels: tuple[str, ...] | None) -> None:
    if labels != label:
        raise DataError(
            f"Task {name!r} has the labels {listed(labels or ())} and a column for each of "
            f"{listed(label)}: leave the labels out, they are the names of the columns."
        )


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


def _check_metric(spec: TaskSpec) -> None:
    name, metric, labels = spec.name, get_metric(spec.metric), spec.labels
    if metric.for_regression != (labels is None):
        kind = "regression" if labels is None else "classes"
        wanted = '"spearman"' if labels is None else '"accuracy"'
        raise ConfigError(
            f"Task {name!r} has {kind}, which the metric {metric.name!r} cannot judge: use "
            f"{wanted}, or another metric for {kind}."
        )
    if spec.is_multi_label and not metric.for_multi_label:
        raise ConfigError(
            f"Task {name!r} has several labels for one example, which the metric "
            f'{metric.name!r} cannot judge: use "f1_micro", "f1_macro" or "accuracy".'
        )
    if metric.name == "f1" and labels is not None and len(labels) != 2:
        raise ConfigError(
            f"Task {name!r} has {len(labels)} classes, but the metric 'f1' is for two: use "
            f'"f1_macro", "accuracy" or "matthews".'
        )


def _is_whole_name(name: str) -> bool:
    return re.fullmatch(r"-?\d+", name) is not None
