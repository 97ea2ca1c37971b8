"""A user's own data as the source of a task: local files, or a data set of the Hugging Face hub."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lobes.errors import ConfigError, DataError
from lobes.tasks.columns import Blocks, TaskData, suggest
from lobes.tasks.delimited import Dialect
from lobes.tasks.formats import read_blocks
from lobes.tasks.images import class_folders, rooted, undecoded
from lobes.tasks.known import KNOWN
from lobes.tasks.selection import Selection, select


def names_of(label: str | Sequence[str]) -> tuple[str, ...]:
    """The names of one or several label columns."""
    return (label,) if isinstance(label, str) else tuple(label)


@dataclass(frozen=True, slots=True)
class OwnSource:
    """Where a user's own task comes from: everything but the names of its splits."""

    dataset: str | None
    config: str | None
    folder: Path
    text: tuple[str, ...]
    image: str | None
    label: tuple[str, ...]
    labels: tuple[str, ...] | None
    selection: Selection
    dialect: Dialect
    fold_labels: bool

    @property
    def columns(self) -> dict[str, Any]:
        """What the examples are in, as `Task` takes it."""
        return {"text": self.text, "image": self.image, "fold_labels": self.fold_labels}

    def read(
        self, where: str, source: str | os.PathLike[str], needs_label: bool = True
    ) -> TaskData:
        """The rows of a file or of a split, with the task's own columns."""
        selection = self.selection
        inputs = self.text if self.image is None else (self.image,)
        wanted = [selection.column(column) for column in inputs]
        wanted += selection.tested
        labels = [selection.column(column) for column in self.label]
        if self.dataset is not None:
            data = load_from_hub(where, self.dataset, self.config, str(source))
            if self.image is not None:
                data = undecoded(data, selection.column(self.image))
        elif self.image is not None and (path := self._path(source)).is_dir():
            data = named(where, lambda: iter([class_folders(path, wanted[0], labels[0])]))
        else:
            path = self._path(source)
            needed, optional = (wanted + labels, []) if needs_label else (wanted, labels)
            data = named(where, lambda: read_blocks(path, needed, optional, self.dialect))
            if self.image is not None:
                found = data
                data = Blocks(lambda: (rooted(each, wanted[0], path.parent) for each in found))
        by_index = self.labels is not None
        return select(where, data, inputs, self.label, selection, by_index=by_index)

    def _path(self, source: str | os.PathLike[str]) -> Path:
        return self.folder / Path(source).expanduser()


def named(where: str, read: Callable[[], Iterator[TaskData]]) -> Blocks:
    """Blocks whose errors begin with `where`."""

    def blocks() -> Iterator[TaskData]:
        try:
            yield from read()
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    return Blocks(blocks)


def own_source(
    name: str,
    train: str | os.PathLike[str] | None,
    dataset: str | None,
    config: str | None,
    text: str | Sequence[str] | None,
    image: str | None,
    label: str | Sequence[str],
    labels: Sequence[str] | None,
    columns: Mapping[str, str] | None,
    label_map: Mapping[str, Any] | None,
    filter: Mapping[str, Any] | None,
    leave_out: Mapping[str, Any] | None,
    folder: str | os.PathLike[str] | None,
    delimiter: str | None,
    quoting: str | None,
    fold_labels: bool,
) -> OwnSource | None:
    """The task's own source; None for a known task, whose data are described already."""
    if dataset is None and config is not None:
        raise ConfigError(
            f"Task {name!r} has config={config!r} but no dataset that it could be of."
        )
    if dataset is None and train is None:
        if name not in KNOWN:
            raise ConfigError(
                f"Task {name!r} has no training data: name a file with train=…, or a data set."
                + suggest(name, KNOWN)
            )
        given = (text, image, labels, columns, label_map, filter, leave_out, delimiter, quoting)
        if any(value is not None for value in given) or label != "label" or fold_labels:
            raise ConfigError(
                f"Task {name!r} is a known task, whose columns and labels are known: name the "
                f"files or the data set to describe data of your own."
            )
        return None
    if text is None and image is None:
        raise ConfigError(
            f"Task {name!r} has no text columns: name one or two with text=…, or a column of "
            f"images with image=…."
        )
    return OwnSource(
        dataset,
        config,
        Path(folder or "."),
        (text,) if isinstance(text, str) else tuple(text or ()),
        image,
        names_of(label),
        None if labels is None else tuple(labels),
        Selection(columns or {}, label_map or {}, filter or {}, leave_out or {}),
        Dialect(delimiter, quoting),
        fold_labels,
    )


def load_from_hub(where: str, dataset: str, config: str | None, split: str) -> TaskData:
    import datasets

    try:
        return datasets.load_dataset(dataset, config, split=split)
    except Exception as error:  # whatever goes wrong inside: the network, the hub, the data
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        of = f" (config {config!r})" if config else ""
        raise DataError(
            f"{where}: Cannot load the split {split!r} of the data set {dataset!r}{of} with the "
            f"library datasets, which says: {reason.rstrip('.')}. Check the names and the "
            f"connection, or name local files instead."
        ) from None
