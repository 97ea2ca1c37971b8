"""Data sets of the Hugging Face hub, and the known tasks' data from there."""

from collections.abc import Iterator
from typing import Any

from lobes.errors import DataError, first_line
from lobes.tasks.columns import (
    Blocks,
    TaskData,
    blocks_of,
    class_names,
    read_columns,
)
from lobes.tasks.known import HubSource, KnownTask
from lobes.tasks.labels import places_of


def load_from_hub(dataset: str, config: str | None, split: str) -> TaskData:
    """Load one split as a `datasets.Dataset`; DataError with the library's reason."""
    import datasets

    try:
        return datasets.load_dataset(dataset, config, split=split)
    except Exception as error:  # whatever goes wrong inside: the network, the hub, the data
        of = f" (config {config!r})" if config else ""
        raise DataError(
            f"Cannot load the split {split!r} of the data set {dataset!r}{of} with the library "
            f"datasets, which says: {first_line(error)}. Check the names and the connection, or "
            f"name local files instead."
        ) from error


def known_from_hub(task: KnownTask, hub: HubSource, split: str) -> Blocks:
    """The rows of a known task's split, with the task's own columns."""

    def read() -> Iterator[list[dict[str, Any]]]:
        data = load_from_hub(hub.dataset, hub.configs.get(split, hub.config), hub.splits[split])
        return _own_rows(data, task, hub)

    return Blocks(read)


def _own_rows(data: TaskData, task: KnownTask, hub: HubSource) -> Iterator[list[dict[str, Any]]]:
    """The rows of a data set with the task's own columns; rows without a label are left out.

    Class numbers of the hub become the task's label names: by name where the hub has the same
    names in any order, by their places where it has as many others. A hidden split has no labels.
    """
    needed = tuple(dict.fromkeys((*(column for part in hub.text for column in part), hub.label)))
    own = class_names(data, hub.label)
    names: dict[Any, str] = {}
    if own is not None and task.labels is not None:
        places = places_of(own, task.labels)
        names = {i: own[i] if k is None else task.labels[k] for i, k in enumerate(places)}
    # all labels are looked at before the first row is given: in a hidden split none is left out
    hidden = all(
        label in (None, -1, -1.0)
        for start, block in blocks_of(data)
        for label in read_columns(block, (hub.label,), start)[hub.label]
    )
    for start, block in blocks_of(data):
        columns = read_columns(block, needed, start)
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
