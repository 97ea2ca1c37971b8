"""A task: its name, its labeled texts or images, its label names and its metric."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lobes.errors import ConfigError, DataError, at
from lobes.limits import LONGEST_NAME, short
from lobes.metrics import METRICS, Metric, get_metric, name_of
from lobes.tasks.arguments import known_arguments, label_names, names_of
from lobes.tasks.columns import Columns, TaskData, listed
from lobes.tasks.examples import Examples
from lobes.tasks.reading import are_multi_label, infer_labels, read_split, settle


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task without its data, which models and results keep.

    `text` are the text columns, one or two; or it is empty, and `image` the image column. `labels`
    are the class names in the order of the class indices, or None for regression.
    `is_multi_label`: an example may have any number of them; `label` may then name a column for
    each. `source_metric` is the metric's name where the task comes from, which pages show
    (lm-evaluation-harness). Raises DataError for a name, columns or labels that cannot be, and
    ConfigError for a metric that does not exist or does not fit.
    """

    name: str
    text: tuple[str, ...]
    label: str | tuple[str, ...]
    labels: tuple[str, ...] | None
    metric: str
    is_multi_label: bool = False
    image: str | None = None
    source_metric: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        metric = get_metric(self.metric)
        with at(f"Task {self.name!r}"):
            columns = Columns(self.text, self.label, self.image)
            _check_labels(self.labels, columns)
            if not isinstance(self.label, str):
                object.__setattr__(self, "is_multi_label", True)
            _check_metric(metric, self.labels, self.is_multi_label)

    @property
    def spec(self) -> "TaskSpec":
        """The task without its data."""
        return TaskSpec(**{field.name: getattr(self, field.name) for field in fields(TaskSpec)})

    @property
    def columns(self) -> Columns:
        """The columns of text or images, and of labels."""
        return Columns(self.text, self.label, self.image)

    @property
    def is_regression(self) -> bool:
        """Whether the labels are numbers on a scale rather than classes."""
        return self.labels is None

    @property
    def n_outputs(self) -> int:
        """How many numbers the classifier gives for each example: one for each label, or 1."""
        return 1 if self.labels is None else len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON; `from_dict` reads them.

        "is_multi_label" is there only where it is true, and "image" where there is such a column,
        so that the fingerprints of other tasks stay what they were in earlier versions.
        """
        values = asdict(self.spec)
        del values["source_metric"]  # no model that is saved has a task of the harness
        if not self.is_multi_label:
            del values["is_multi_label"]
        if self.image is None:
            del values["image"]
        return values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "TaskSpec":
        """Read what `to_dict` wrote, also after a trip through JSON (lists for tuples)."""
        label, labels = values["label"], values["labels"]
        return TaskSpec(
            name=values["name"],
            text=tuple(values["text"]),
            label=label if isinstance(label, str) else tuple(label),
            labels=None if labels is None else tuple(labels),
            metric=values["metric"],
            is_multi_label=bool(values.get("is_multi_label", False)),
            image=values.get("image"),
        )


# What stands for an argument that is not given where None has a meaning of its own.
_SAME: Any = ...


@dataclass(frozen=True, slots=True, init=False, eq=False, repr=False)
class Task(TaskSpec):
    """A named task with its labeled texts or images.

    `train` and `validation` are a `datasets.Dataset`, a `pandas.DataFrame`, a `polars.DataFrame`, a
    `pyarrow.Table` or anything else that speaks Arrow's stream interface, a list or generator of
    dicts, `Blocks` of such, or `Examples`. `text` names one column, or two for pairs of
    texts; or `image` names a column of pictures: paths, encoded bytes, what `datasets.Image` gives,
    PIL images or arrays [height, width] or [height, width, 3] of uint8.

    `labels` are the class names in order. Text labels must be among them. Whole numbers (also
    1.0) are indices into them, unless every name is itself a whole number, as in ("1", "2", "3"):
    then a number is matched with the name that says it. Data that have names of their own for
    their numbers (a `ClassLabel` feature, also in Parquet; false and true) are matched by name, in
    whatever order; as many other names rename the classes in their order, which the log says.
    With `labels=None` they are taken from the training data (without any, from the validation
    data): the data's own names; "False" and "True"; text labels, sorted; whole numbers as "0" to
    "k-1"; other numbers mean regression. Text that is a number in every row is a number, so that
    a table means the same in every format. `fold_labels` makes names one that differ by blanks or
    case only, which else are refused.

    An example may have any number of labels where the column holds lists of label names or of
    class indices ([] for none), or where `label` names two or more columns of 0 and 1 (or true and
    false), whose names are then the label names.

    `metric` is the name of one of `lobes.metrics.METRICS`, or what `lobes.custom_metric` returned,
    or its name; None means "accuracy" for classes, "f1_micro" for several labels and "spearman" for
    regression. A metric for regression makes the task one, whatever the numbers.

    Raises DataError for data that cannot be used, naming task, split and row (from 0), and
    ConfigError for a metric that does not exist or does not fit, and for images without Pillow.
    """

    train: Examples | None = None
    validation: Examples | None = None

    # not those of the description: two tasks are the same only where their data are
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @known_arguments("Task")
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
        metric: str | Metric | None = None,
        fold_labels: bool = False,
    ) -> None:
        check_name(name)
        with at(f"Task {name!r}"):
            judge: str | None = name_of(metric)
            text = names_of("text", text)
            label = label if isinstance(label, str) else names_of("label", label)
            if image is not None:
                (image,) = names_of("image", image)
            columns = Columns(text, label, image)
            names = label_names(labels)
            if names is None and not isinstance(label, str):
                names = label
            _check_labels(names, columns)
            if metric == "generated":
                raise ConfigError(
                    f"has the metric 'generated', which is that of a text that a model generates: "
                    f"make the task with lobes.harness_task, or choose one of {', '.join(METRICS)}."
                )
        splits = {
            split: read_split(f"Task {name!r}: {split}", data, columns)
            for split, data in (("train", train), ("validation", validation))
            if data is not None
        }
        splits = settle(splits, names, fold_labels=fold_labels)
        if names is None:
            names = infer_labels(name, splits, judge)
        several = are_multi_label(name, label, splits)
        usual = "spearman" if names is None else "f1_micro" if several else "accuracy"
        spec = TaskSpec(
            name, columns.text, label, names, judge or usual, several and names is not None, image
        )
        self._set(
            spec,
            {split: raw.examples(names, needs_two_classes=True) for split, raw in splits.items()},
        )

    def _set(self, spec: TaskSpec, splits: Mapping[str, Examples | None]) -> None:
        for field in fields(TaskSpec):
            object.__setattr__(self, field.name, getattr(spec, field.name))
        for split in ("train", "validation"):
            object.__setattr__(self, split, splits.get(split))

    def replace(
        self,
        *,
        name: str | None = None,
        metric: str | Metric | None = None,
        train: Examples | None = _SAME,
        validation: Examples | None = _SAME,
    ) -> "Task":
        """Return a copy with another name, metric or other examples; no data are read again.

        The examples are some that this task has (`Examples.select`), or others like them.
        Raises DataError for examples that the task cannot have, and where all have one label;
        ConfigError for a metric that does not fit.
        """
        spec = replace(
            self.spec,
            name=self.name if name is None else name,
            metric=name_of(metric) or self.metric,
            source_metric=self.source_metric if metric is None else None,
        )
        splits: dict[str, Any] = {"train": self.train, "validation": self.validation}
        for split, given in (("train", train), ("validation", validation)):
            if given is _SAME:
                continue
            splits[split] = given
            if given is not None:
                with at(f"Task {spec.name!r}: {split}"):
                    if not isinstance(given, Examples):
                        raise DataError(
                            f"is a {type(given).__name__}, not examples; expected some of a "
                            f"task's, such as task.validation.select([0, 1])."
                        )
                    given.check_inputs(spec.columns)
                    given.check_labels(
                        spec.labels,
                        is_multi_label=spec.is_multi_label,
                        may_be_equal=spec.metric == "greedy",
                    )
        return Task.of(spec, **splits)

    @classmethod
    def of(cls, spec: TaskSpec, *, train: Examples | None, validation: Examples | None) -> "Task":
        """Return a task of examples that fit it, with no data to be read."""
        task = object.__new__(cls)
        task._set(spec.spec, {"train": train, "validation": validation})
        return task

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{split}: {'none' if examples is None else len(examples)}"
            for split, examples in (("train", self.train), ("validation", self.validation))
        )
        return f"Task({self.name!r}, {sizes}, labels={self.labels}, metric={self.metric!r})"


def as_tasks(tasks: Any, *also: type) -> tuple[Any, ...]:
    """Return one task, or several, as a tuple; `also` are other classes of tasks.

    Raises DataError for what is no task, where there is none, and where two have the same name.
    """
    kinds = (TaskSpec, *also)
    if isinstance(tasks, kinds):
        return (tasks,)
    if isinstance(tasks, str | bytes | Mapping) or not isinstance(tasks, Iterable):
        raise DataError(f"tasks are a list of lobes.Task, [task], not {short(tasks)}.")
    found = tuple(tasks)
    for task in found:
        if not isinstance(task, kinds):
            raise DataError(f"tasks are a list of lobes.Task, and {short(task)} is none.")
    names = [task.name for task in found]
    if not names:
        raise DataError("No task was given: expected one or more.")
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"Two tasks are called {name!r}: give each its own name, since results are kept "
                f"by name."
            )
    return found


def check_name(name: str) -> None:
    """Raise `DataError` for what cannot be the name of a task, after which files are named."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise DataError(
            f"{name!r} cannot be a task's name: use letters, digits, '-' and '_' only, since "
            f"files are named after it."
        )
    if len(name) > LONGEST_NAME:
        raise DataError(
            f"A task's name has {len(name):,} characters, {short(name)}: use at most "
            f"{LONGEST_NAME}, since files are named after it."
        )


def _check_labels(labels: tuple[str, ...] | None, columns: Columns) -> None:
    for label in labels or ():
        if not isinstance(label, str) or not label.strip():
            raise DataError(
                f"has the label name {label!r}: names are text, such as "
                f'labels=("negative", "positive").'
            )
        if (labels or ()).count(label) > 1:
            raise DataError(f"has the label name {label!r} twice.")
    if labels is not None and len(labels) < 2:
        raise DataError(
            f"has {len(labels)} label names: expected two or more, or None for regression."
        )
    if not isinstance(columns.label, str) and labels != columns.label:
        raise DataError(
            f"has the labels {listed(labels or ())} and a column for each of "
            f"{listed(columns.label)}: leave the labels out, they are the names of the columns."
        )


def _check_metric(metric: Metric, labels: tuple[str, ...] | None, is_multi_label: bool) -> None:
    if metric.is_unbounded:
        raise ConfigError(
            f"has labels, and the metric {metric.name!r} is that of a lobes.BatchTask, which has a "
            f"loss of its own: choose one of {', '.join(METRICS)}."
        )
    if metric.for_regression != (labels is None):
        kind = "regression" if labels is None else "classes"
        wanted = '"spearman"' if labels is None else '"accuracy"'
        raise ConfigError(
            f"has {kind}, which the metric {metric.name!r} cannot judge: use {wanted}, or another "
            f"metric for {kind}."
        )
    if is_multi_label and not metric.for_multi_label:
        raise ConfigError(
            f"has several labels for one example, which the metric {metric.name!r} cannot judge: "
            f'use "f1_micro", "f1_macro" or "accuracy".'
        )
    if metric.name == "f1" and labels is not None and len(labels) != 2:
        raise ConfigError(
            f"has {len(labels)} classes, but the metric 'f1' is for two: use "
            f'"f1_macro", "accuracy" or "matthews".'
        )
