"""Load tasks from local files, from data sets of the Hugging Face hub, or by a known name.

A `TaskSource` says where the data are and what they mean. They go one way, and each step calls
the next one only:

    TaskSource
      -> rows in blocks        `formats.py` (files), `hub.py`, `folders.py` (known tasks),
                               `images.py` (folders of pictures)
      -> rows that count,      `selection.py`: the filter, the task's own names of columns and
         named as the task's   labels
      -> columns, checked      `reading.py`, with `columns.py` and `raw_labels.py`
      -> class indices         `reading.py`, with `labels.py`
      -> Task                  `task.py`
      -> held out, drawn       `subsets.py`

Rows are read while `reading.read_split` iterates them, inside the block that puts the task and
the split before a message. Each file is opened once, with two exceptions: a file that is not UTF-8
is read again to find the place, and `load_split` without label names reads the training data, too.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lobes.errors import ConfigError, DataError, at
from lobes.metrics import Metric, get_metric, name_of
from lobes.tasks.arguments import known_arguments, names_of
from lobes.tasks.columns import Blocks, Columns, TaskData, suggest
from lobes.tasks.delimited import Dialect
from lobes.tasks.examples import Examples
from lobes.tasks.folders import missing, read_known_folder
from lobes.tasks.formats import read_blocks
from lobes.tasks.hub import known_from_hub, load_from_hub
from lobes.tasks.images import Picture, class_folders, rooted
from lobes.tasks.known import KNOWN, known_task
from lobes.tasks.reading import infer_labels, read_split, settle
from lobes.tasks.selection import Selection, select
from lobes.tasks.subsets import sampled
from lobes.tasks.task import Task

# The environment variable that names the folder of the known tasks' data.
DATA_VARIABLE = "LOBES_DATA"

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Where the data of a task are, and what they mean.

    `train`, `validation` and `test` are files (relative to `folder`), for images also folders
    with a folder of pictures for each class, or with `dataset` the names of splits, of which
    `train` is "train" unless given. `config` is one of the configurations of the data set.
    `columns` leads from the names that `text`, `label` and the rest go by to those of the data,
    `label_map` from the labels of the data (as text) to the task's (with a column for each label,
    from what these hold to 0 and 1). Rows are kept where every column of `filter` holds the value
    given, or one of several, and dropped where some column of `leave_out` does; "" stands for an
    empty cell. `delimiter` and `quoting` ("minimal", or "none" where a quote is a character) say
    how cells of CSV and TSV are told apart (`delimited.py`). The rest is as for `Task`.

    With neither `train` nor `dataset` the name is that of a known task. Its data are in
    `data_dir` (without it, in the folder that the environment variable LOBES_DATA names), and
    then nothing is asked of the network; without either they are on the hub. `validation` is the
    name of another of its splits. Where the folder has no training data, the task has none.

    Raises ConfigError for settings that do not fit together.
    """

    name: str
    _: KW_ONLY
    train: PathLike | None = None
    validation: PathLike | None = None
    test: PathLike | None = None
    dataset: str | None = None
    config: str | None = None
    text: str | Sequence[str] | None = None
    image: str | None = None
    label: str | Sequence[str] = "label"
    labels: Sequence[str] | None = None
    metric: str | Metric | None = None
    columns: Mapping[str, str] | None = None
    label_map: Mapping[str, Any] | None = None
    filter: Mapping[str, Any] | None = None
    leave_out: Mapping[str, Any] | None = None
    delimiter: str | None = None
    quoting: str | None = None
    fold_labels: bool = False
    folder: PathLike | None = None
    data_dir: PathLike | None = None

    def __post_init__(self) -> None:
        Dialect(self.delimiter, self.quoting)
        with at(f"Task {self.name!r}"):
            object.__setattr__(self, "metric", name_of(self.metric))
            if self.dataset is None and self.config is not None:
                raise ConfigError(f"has config={self.config!r} but no dataset that it could be of.")
            if self.is_known:
                self._check_known()
            elif self.text is None and self.image is None:
                raise ConfigError(
                    "has no text columns: name one or two with text=…, or a column of images with "
                    "image=…."
                )
            _ = self.own_columns  # checked here, before anything is read

    def _check_known(self) -> None:
        if self.name not in KNOWN:
            raise ConfigError(
                "has no training data: name a file with train=…, or a data set."
                + suggest(self.name, KNOWN)
            )
        names = ("text", "image", "labels", "columns", "label_map", "filter", "leave_out")
        given = any(getattr(self, each) is not None for each in (*names, "delimiter", "quoting"))
        if given or self.label != "label" or self.fold_labels:
            raise ConfigError(
                "is a known task, whose columns and labels are known: name the files or the data "
                "set to describe data of your own."
            )

    @property
    def is_known(self) -> bool:
        """Whether the data are those of a known task, and none of the user's own."""
        return self.dataset is None and self.train is None

    @property
    def own_columns(self) -> Columns:
        """The task's own names of its columns; `columns` leads from them to those of the data."""
        if self.is_known:
            return Columns(known_task(self.name).text, known_task(self.name).label)
        label = self.label if isinstance(self.label, str) else names_of("label", self.label)
        return Columns(names_of("text", self.text), label, self.image)

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The label names, as far as they can be told without the data."""
        if self.is_known:
            return known_task(self.name).labels
        label = self.own_columns.label
        if self.labels is None:
            return None if isinstance(label, str) else label
        return tuple(self.labels)

    @property
    def data_folder(self) -> Path | None:
        """The folder of the known tasks' data; None for the hub."""
        given = self.data_dir or os.environ.get(DATA_VARIABLE)
        return Path(given).expanduser() if given else None


@known_arguments("load_task", TaskSource)
def load_task(
    source: TaskSource | str,
    *,
    train_size: int | None = None,
    validation_size: int | None = None,
    stratified: bool = False,
    seed: int = 0,
    **settings: Any,
) -> Task:
    """Load a task from its source, or from its name and the other fields of a `TaskSource`.

    Without validation data, 10 % of the training examples are held out for it, drawn with `seed`;
    examples of the same text or image, or of the same two texts in either order, are never on both
    sides. `train_size` and `validation_size` then draw that many examples, with `seed`, from a
    larger split, in its order; two tasks over the same rows keep the same rows, unless
    `stratified` draws each class in its share (an example with several labels counts to the
    rarest).

    Raises DataError for files and data sets that cannot be read or used, and ConfigError for
    settings that do not fit together.
    """
    source = _source_of(source, settings)
    sizes = {"train_size": train_size, "validation_size": validation_size}
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ConfigError(
                f"Task {source.name!r} has {name}={size}: a sample has at least 1 example."
            )
    return sampled(load_published(source), **sizes, stratified=stratified, seed=seed)


def load_published(source: TaskSource) -> Task:
    """Load a task with its splits as they are published: nothing is held out, nothing drawn.

    Raises as `load_task` does.
    """
    columns, known = source.own_columns, KNOWN[source.name] if source.is_known else None
    validation = "validation" if known is None else str(source.validation or known.validation)
    data: dict[str, TaskData] = {"train": _rows(source, "train", required=False)}
    if known or source.validation is not None:
        data["validation"] = _rows(source, validation)
    return Task(
        source.name,
        **data,
        text=columns.text,
        image=columns.image,
        label=columns.label,
        labels=known.labels if known else source.labels,
        metric=source.metric or (known.metric if known else None),
        fold_labels=source.fold_labels,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One split as it is published: texts or images, and labels unless they are hidden."""

    texts: Sequence[tuple[str, ...]]
    labels: Int[np.ndarray, "examples *classes"] | Float[np.ndarray, " examples"] | None
    images: tuple[Picture, ...] | None = None

    @classmethod
    def of(cls, examples: Examples) -> "Split":
        """A split with the labels of its examples."""
        return cls(examples.texts, examples.labels, examples.images)

    def __len__(self) -> int:
        return len(self.texts)


@known_arguments("load_split", TaskSource)
def load_split(source: TaskSource | str, split: str, **settings: Any) -> Split:
    """Load one whole split of a task, with labels or without; arguments as for `load_task`.

    Of a known task any of its splits ("validation" and "test" are MNLI's matched ones). Of one's
    own, "train", "validation" and "test" are the files or splits of these names, and with
    `dataset` any other name is that of a split. Label names that are not given are those of the
    training data. Raises as `load_task` does.
    """
    source = _source_of(source, settings)
    columns, names = source.own_columns, source.label_names
    place = f"Task {source.name!r}: {split}"
    raw = read_split(place, _rows(source, split, needs_labels=False), columns, needs_labels=False)
    if raw.labels is None:
        return Split(raw.texts, None, raw.images)
    fold = source.fold_labels
    metric = name_of(source.metric)
    is_regression = metric is not None and get_metric(metric).for_regression
    if names is None and not (source.is_known or is_regression):
        train = raw
        if split != "train":
            train = read_split(f"Task {source.name!r}: train", _rows(source, "train"), columns)
        splits = settle({"train": train}, None, fold_labels=fold)
        names = infer_labels(source.name, splits, metric)
    raw = settle({split: raw}, names, fold_labels=fold)[split]
    return Split.of(raw.examples(names, needs_two_classes=False))


def _source_of(source: TaskSource | str, settings: Mapping[str, Any]) -> TaskSource:
    if isinstance(source, TaskSource):
        return replace(source, **settings)
    return TaskSource(source, **settings)


def _rows(
    source: TaskSource, split: str, *, needs_labels: bool = True, required: bool = True
) -> TaskData:
    """The rows of a split under the task's own names; None where a known task's folder has none.

    DataError where it is `required` then.
    """
    if not source.is_known:
        given = {"train": source.train, "validation": source.validation, "test": source.test}
        if given.get(split) is None and source.dataset is None:
            raise ConfigError(
                f"Task {source.name!r} names no file for the split {split!r}: give it one with "
                f"train=…, validation=… or test=…."
            )
        return _own_rows(source, given.get(split) or split, needs_labels)
    task = KNOWN[source.name]
    split = task.split(split)
    with at(f"Task {task.name!r}: {split}"):
        if source.data_folder is not None:
            rows = read_known_folder(source.data_folder, task, split)
            if rows is None and required:
                raise DataError(missing(source.data_folder, task, split))
            return rows
        if task.hub is None:
            raise DataError(
                f"The data are not on the hub: name the folder that has them with data_dir, or "
                f"with the environment variable {DATA_VARIABLE}."
            )
        return known_from_hub(task, task.hub, split)


def _own_rows(source: TaskSource, given: PathLike, needs_labels: bool) -> TaskData:
    """The rows of a user's file, folder of pictures or split of a data set that count."""
    columns = source.own_columns
    selection = Selection(
        source.columns or {}, source.label_map or {}, source.filter or {}, source.leave_out or {}
    )
    inputs = [selection.column(column) for column in columns.inputs]
    labels = [selection.column(column) for column in columns.labels]
    path = Path(source.folder or ".") / Path(given).expanduser()

    def read() -> Iterator[TaskData]:
        if source.dataset is not None:
            yield load_from_hub(source.dataset, source.config, str(given))
        elif columns.image is not None and path.is_dir():
            yield class_folders(path, inputs[0], labels[0])
        else:
            wanted = [*inputs, *selection.tested, *(labels if needs_labels else ())]
            dialect = Dialect(source.delimiter, source.quoting)
            for block in read_blocks(path, wanted, labels, dialect):
                yield block if columns.image is None else rooted(block, inputs[0], path.parent)

    return select(Blocks(read), columns, selection, by_index=source.labels is not None)
