"""Where tasks come from: local files, data sets of the Hugging Face hub, and the known tasks.

A task of one's own names its files, or its data set on the hub, and their columns. A known task
(`known.py`) needs its name only, and comes from a local folder or from the hub.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lobes.errors import ConfigError, DataError
from lobes.metrics import get_metric
from lobes.tasks.arguments import known_arguments
from lobes.tasks.columns import (
    Blocks,
    TaskData,
    blocks_of,
    class_names,
    column_names,
    is_list,
    is_missing,
    read_columns,
)
from lobes.tasks.examples import Examples
from lobes.tasks.folders import missing, read_split
from lobes.tasks.formats import read_rows
from lobes.tasks.images import Picture, read_pictures
from lobes.tasks.known import KnownTask, known_task
from lobes.tasks.labels import places_of
from lobes.tasks.own import load_from_hub, named, names_of, own_source
from lobes.tasks.reading import read_texts
from lobes.tasks.task import Task, read_examples

__all__ = ["HELD_OUT", "Split", "load_split", "load_task", "read_rows"]

# The share of the training data that is held out where a task has no validation data.
HELD_OUT = 0.1

# The environment variable that names the folder of the known tasks' data.
DATA_VARIABLE = "LOBES_DATA"


@known_arguments("load_task")
def load_task(
    name: str,
    *,
    train: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    config: str | None = None,
    text: str | Sequence[str] | None = None,
    image: str | None = None,
    label: str | Sequence[str] = "label",
    labels: Sequence[str] | None = None,
    metric: str | None = None,
    train_size: int | None = None,
    validation_size: int | None = None,
    stratified: bool = False,
    columns: Mapping[str, str] | None = None,
    label_map: Mapping[str, Any] | None = None,
    filter: Mapping[str, Any] | None = None,
    leave_out: Mapping[str, Any] | None = None,
    delimiter: str | None = None,
    quoting: str | None = None,
    fold_labels: bool = False,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Task:
    """Load a task from files, with `dataset` from the hub, or by its known name.

    `train` and `validation` are files (relative to `folder`), for images also folders with a
    folder of pictures for each class, or with `dataset` the names of
    splits, of which `train` is "train" unless given. `config` is one of the configurations of
    the data set. `columns` leads from the names that `text`, `label` and the rest go by to those
    of the data, `label_map` from the labels of the data (as text) to the task's (with a column for
    each label, from what these hold to 0 and 1). Rows are kept
    where every column of `filter` holds the value given, or one of several, and dropped where
    some column of `leave_out` does; "" stands for an empty cell. `delimiter` and `quoting`
    ("minimal", or "none" where a quote is a character) say how cells of CSV and TSV are told
    apart (`delimited.py`). The rest is as for `Task`.

    With neither `train` nor `dataset` the name is that of a known task. Its data are in
    `data_dir` (without it, in the folder that the environment variable LOBES_DATA names), and
    then nothing is asked of the network; without either they are on the hub. `validation` is the
    name of another of its splits. Where the folder has no training data, the task has none.

    Without `validation`, 10 % of the training examples are held out for it, drawn with `seed`;
    examples of the same text or image, or of the same two texts in either order, are never on both
    sides. `train_size` and `validation_size`
    then draw that many examples, with `seed`, from a larger split, in its order; two tasks over
    the same rows keep the same rows, unless `stratified` draws each class in its share (an example
    with several labels counts to the rarest).

    Raises DataError for files and data sets that cannot be read or used, and ConfigError for
    settings that do not fit together.
    """
    for size, value in (("train_size", train_size), ("validation_size", validation_size)):
        if value is not None and value < 1:
            raise ConfigError(f"Task {name!r} has {size}={value}: a sample has at least 1 example.")
    own = own_source(
        name,
        train,
        dataset,
        config,
        text,
        image,
        label,
        labels,
        columns,
        label_map,
        filter,
        leave_out,
        folder,
        delimiter,
        quoting,
        fold_labels,
    )
    if own is None:
        task = _load_known(known_task(name), metric, validation, data_dir)
    else:
        given = {"train": train or "train", "validation": validation}
        data: dict[str, Any] = {
            split: own.read(f"Task {name!r}: {split}", source)
            for split, source in given.items()
            if source is not None
        }
        task = Task(name, **data, **own.columns, label=label, labels=labels, metric=metric)
    return _sampled(task, train_size, validation_size, stratified, seed)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One split as it is published: texts or images, and labels unless they are hidden."""

    texts: Sequence[tuple[str, ...]]
    labels: Int[np.ndarray, "examples *classes"] | Float[np.ndarray, " examples"] | None
    images: tuple[Picture, ...] | None = None

    def __len__(self) -> int:
        return len(self.texts)


@known_arguments("load_split")
def load_split(
    name: str,
    split: str,
    *,
    train: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    config: str | None = None,
    text: str | Sequence[str] | None = None,
    image: str | None = None,
    label: str | Sequence[str] = "label",
    labels: Sequence[str] | None = None,
    metric: str | None = None,
    columns: Mapping[str, str] | None = None,
    label_map: Mapping[str, Any] | None = None,
    filter: Mapping[str, Any] | None = None,
    leave_out: Mapping[str, Any] | None = None,
    delimiter: str | None = None,
    quoting: str | None = None,
    fold_labels: bool = False,
    folder: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Split:
    """One whole split of a task, with labels or without; the settings are those of `load_task`.

    Of a known task any of its splits ("validation" and "test" are MNLI's matched ones). Of one's
    own, "train", "validation" and "test" are the files or splits of these names, and with
    `dataset` any other name is that of a split. Label names that are not given are those of the
    training data. Raises as `load_task` does.
    """
    own = own_source(
        name,
        train,
        dataset,
        config,
        text,
        image,
        label,
        labels,
        columns,
        label_map,
        filter,
        leave_out,
        folder,
        delimiter,
        quoting,
        fold_labels,
    )
    where = f"Task {name!r}: {split}"
    if own is None:
        known = known_task(name)
        data = _read_known(known, _split_of(known, split), data_dir)
        if data is None:
            raise DataError(f"{where}: {missing(_data_folder(data_dir) or Path(), known, split)}")
        columns_of_text, label, names = known.text, known.label, known.labels
    else:
        source = {"train": train, "validation": validation, "test": test}.get(split)
        if source is None and dataset is None:
            raise ConfigError(
                f"Task {name!r} names no file for the split {split!r}: give it one with train=…, "
                f"validation=… or test=…."
            )
        data = own.read(where, source or split, needs_label=False)
        columns_of_text, names = own.text, own.labels
    if not _has_labels(where, data, names_of(label)):
        if image is not None:
            cells = [
                cell
                for start, block in blocks_of(data)
                for cell in read_columns(where, block, (image,), start)[image]
            ]
            pictures = read_pictures(where, image, cells)
            return Split(((),) * len(pictures), None, pictures)
        return Split(read_texts(where, data, columns_of_text), None)
    if own is not None and names is None and not _is_regression(metric):
        rows = own.read(f"Task {name!r}: train", train or "train")
        names = Task(name, train=rows, **own.columns, label=label, metric=metric).labels
    label = label if isinstance(label, str) else tuple(label)
    examples = read_examples(
        where, data, columns_of_text, label, names, image, fold_labels=fold_labels
    )
    return Split(examples.texts, examples.labels, examples.images)


def _is_regression(metric: str | None) -> bool:
    return metric is not None and get_metric(metric).for_regression


def _has_labels(where: str, data: TaskData, label: tuple[str, ...]) -> bool:
    """Whether the columns of labels are there and hold more than the mark of hidden ones, -1."""
    for start, block in blocks_of(data):
        if start == 0 and not set(label) <= set(column_names(block)):
            return False
        columns = read_columns(where, block, label, start).values()
        values = [value for column in columns for value in column]
        if any(is_list(value) or not _is_hidden(value) for value in values):
            return True
    return False


def _is_hidden(value: Any) -> bool:
    return is_missing(value) or str(value).strip() in ("", "-1", "-1.0")


def _load_known(
    task: KnownTask,
    metric: str | None,
    validation: str | os.PathLike[str] | None,
    data_dir: str | os.PathLike[str] | None,
) -> Task:
    second = _split_of(task, str(validation or task.validation))
    data: dict[str, Any] = {
        "train": _read_known(task, "train", data_dir),
        "validation": _read_known(task, second, data_dir),
    }
    if data["validation"] is None:
        folder = _data_folder(data_dir) or Path()
        raise DataError(f"Task {task.name!r}: {missing(folder, task, second)}")
    return Task(
        task.name,
        **data,
        text=task.text,
        label=task.label,
        labels=task.labels,
        metric=metric or task.metric,
    )


def _split_of(task: KnownTask, split: str) -> str:
    """The task's split called `split`; the first word of its name is enough."""
    found = [known for known in task.splits if known == split or known.startswith(f"{split}_")]
    if not found:
        raise DataError(
            f"Task {task.name!r} has no split {split!r}: expected one of {', '.join(task.splits)}."
        )
    return found[0]


def _data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder of the known tasks' data; None for the hub."""
    given = data_dir or os.environ.get(DATA_VARIABLE)
    return Path(given).expanduser() if given else None


def _read_known(
    task: KnownTask, split: str, data_dir: str | os.PathLike[str] | None
) -> TaskData | None:
    """A split of a known task with its own columns; None where the local folder lacks it."""
    where = f"Task {task.name!r}: {split}"
    folder = _data_folder(data_dir)
    if folder is not None:
        try:
            found = read_split(folder, task, split)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        return None if found is None else named(where, found)
    if task.hub is None:
        raise DataError(
            f"{where}: the data are not on the hub: name the folder that has them with data_dir, "
            f"or with the environment variable {DATA_VARIABLE}."
        )
    config = task.hub.configs.get(split, task.hub.config)
    data = load_from_hub(where, task.hub.dataset, config, task.hub.splits[split])
    return Blocks(lambda: _from_hub(where, data, task))


def _from_hub(where: str, data: TaskData, task: KnownTask) -> Iterator[list[dict[str, Any]]]:
    """A split of the hub's data set with the task's own columns; rows without a label left out.

    Class numbers of the hub become the task's label names: by name where the hub has the same
    names in any order, by their places where it has as many others. A hidden split has no labels.
    """
    assert task.hub is not None
    hub = task.hub
    needed = dict.fromkeys((*(column for part in hub.text for column in part), hub.label))
    own = class_names(data, hub.label)
    names: dict[Any, str] = {}
    if own is not None and task.labels is not None:
        places = places_of(where, own, task.labels, tell=False)
        names = {i: own[i] if k is None else task.labels[k] for i, k in enumerate(places)}
    hidden = all(
        label in (None, -1, -1.0)
        for start, block in blocks_of(data)
        for label in read_columns(where, block, (hub.label,), start)[hub.label]
    )
    for start, block in blocks_of(data):
        columns = read_columns(where, block, tuple(needed), start)
        labels = [names.get(label, label) for label in columns[hub.label]]
        texts = [
            [" ".join(part for part in parts if part) for parts in zip(*group, strict=True)]
            for group in ([columns[column] for column in part] for part in hub.text)
        ]
        rows = [dict(zip(task.text, parts, strict=True)) for parts in zip(*texts, strict=True)]
        if not hidden:
            rows = [
                {**row, task.label: label}
                for row, label in zip(rows, labels, strict=True)
                if label not in (None, -1, "-")
            ]
        yield rows


def _sampled(
    task: Task, train_size: int | None, validation_size: int | None, stratified: bool, seed: int
) -> Task:
    """The task with its validation data held out if it has none, and its splits cut to size."""
    train, validation = task.train, task.validation
    if validation is None:
        assert train is not None  # a task of one's own has training data
        train, validation = _hold_out(task.name, train, np.random.default_rng([seed, 0]))
        _check_classes(task, train, validation)
    if stratified and task.is_regression:
        raise ConfigError(
            f"Task {task.name!r} has stratified=True, but a regression has no classes to draw "
            f"from: leave it out."
        )

    def drawn(examples: Examples, size: int | None, number: int) -> Examples:
        generator = np.random.default_rng([seed, number])
        return _draw(examples, size, stratified, generator)

    return Task(
        task.name,
        train=None if train is None else drawn(train, train_size, 1),
        validation=drawn(validation, validation_size, 2),
        text=task.text,
        image=task.image,
        label=task.label,
        labels=task.labels,
        metric=task.metric,
    )


def _check_classes(task: Task, rest: Examples, held_out: Examples) -> None:
    """Refuse two parts of the training data one of which has a single class."""
    for part, what in ((held_out, "that part"), (rest, "the rest")):
        if task.labels is None or part.labels.ndim > 1 or len(np.unique(part.labels)) > 1:
            continue
        raise DataError(
            f"Task {task.name!r}: holding out {len(held_out)} of {len(rest) + len(held_out)} "
            f"training examples for validation leaves {what} with the label "
            f"{task.labels[part.labels[0]]!r} only: give validation data, or more training data."
        )


def _draw(
    examples: Examples, size: int | None, stratified: bool, generator: np.random.Generator
) -> Examples:
    if size is None or size >= len(examples):
        return examples
    if not stratified:
        chosen = generator.choice(len(examples), size=size, replace=False)
        return examples.select(np.sort(chosen))
    order, strata = generator.permutation(len(examples)), examples.strata()
    of_each = [
        order[strata[order] == stratum][:count]
        for stratum, count in enumerate(_shares(strata, size))
    ]
    return examples.select(np.sort(np.concatenate(of_each)))


def _shares(labels: Int[np.ndarray, " examples"], size: int) -> Int[np.ndarray, " classes"]:
    """How many of `size` examples are of each class: its share, by largest remainders."""
    counts = np.bincount(labels)
    exact = counts * size
    shares: Int[np.ndarray, " classes"] = exact // len(labels)
    rest = np.argsort(-(exact % len(labels)), kind="stable")[: size - int(shares.sum())]
    shares[rest] += 1
    return shares


def _hold_out(
    name: str, examples: Examples, generator: np.random.Generator
) -> tuple[Examples, Examples]:
    """Split off a share `HELD_OUT` of the examples, whole groups of equal inputs at a time."""
    group = examples.groups()
    order = generator.permutation(int(group.max()) + 1)
    sizes = np.bincount(group)[order]
    needed = int(np.searchsorted(np.cumsum(sizes), HELD_OUT * len(examples))) + 1
    if needed >= len(order):
        raise DataError(
            f"Task {name!r}: cannot hold out {HELD_OUT:.0%} of {len(examples)} training examples "
            f"with {len(order)} different {'texts' if examples.images is None else 'images'} for "
            f"validation: give validation data."
        )
    held_out = np.isin(group, order[:needed])
    return examples.select(np.flatnonzero(~held_out)), examples.select(np.flatnonzero(held_out))
