"""Where tasks come from: local files, and data sets of the Hugging Face hub.

A file's kind is told by its suffix. CSV has a header, commas and, where needed, double quotes; TSV
has a header and tabs, and a quote in it is an ordinary character; JSON lines has one object on
each line. All three are UTF-8, with or without a byte-order mark. Text stays text: "NA", "null"
and "001" are what they say.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lobes.errors import ConfigError, DataError
from lobes.tasks.columns import TaskData, check_present, listed, suggest
from lobes.tasks.task import Examples, Task

# The share of the training data that is held out where a task has no validation data.
HELD_OUT = 0.1


def load_task(
    name: str,
    *,
    train: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    config: str | None = None,
    text: str | Sequence[str],
    label: str = "label",
    labels: Sequence[str] | None = None,
    metric: str | None = None,
    train_size: int | None = None,
    validation_size: int | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Task:
    """Load a task from files, or with `dataset` from the hub.

    `train` and `validation` are files (relative to `folder`), or with `dataset` the names of
    splits, of which `train` is "train" unless given. `config` is one of the configurations of
    the data set. The rest is as for `Task`.

    Without `validation`, 10 % of the training examples are held out for it, drawn with `seed`;
    examples of the same text are never on both sides. `train_size` and `validation_size` then
    draw that many examples, with `seed`, from a larger split, in its order; two tasks over the
    same rows keep the same rows.

    Raises DataError for files and data sets that cannot be read or used, and ConfigError for
    settings that do not fit together.
    """
    if dataset is None and train is None:
        raise ConfigError(
            f"Task {name!r} has no training data: name a file with train=…, or a data set."
        )
    if dataset is None and config is not None:
        raise ConfigError(
            f"Task {name!r} has config={config!r} but no dataset that it could be of."
        )
    for size, value in (("train_size", train_size), ("validation_size", validation_size)):
        if value is not None and value < 1:
            raise ConfigError(f"Task {name!r} has {size}={value}: a sample has at least 1 example.")
    columns = (text,) if isinstance(text, str) else tuple(text)
    given = {"train": train or "train", "validation": validation}
    data = {
        split: _load(name, split, source, dataset, config, (*columns, label), folder)
        for split, source in given.items()
        if source is not None
    }
    for split, rows in data.items():
        if dataset is None and Path(given[split] or "").suffix.lower() in _TEXT_CELLS:
            data[split] = _read_labels(rows, label, labels)
    task = Task(name, **data, text=columns, label=label, labels=labels, metric=metric)
    return _sampled(task, train_size, validation_size, seed)


def read_rows(path: Path, wanted: Sequence[str]) -> TaskData:
    """The rows of a file, as `Task` takes them: a list of dicts, or a `pyarrow.Table` (Parquet).

    Of Parquet only the columns `wanted` are read. Cells of CSV and TSV are strings. Raises
    DataError, with the line or the byte, for a file that is missing, empty or damaged.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DataError(
            f"Cannot tell what kind of file {str(path)!r} is by its suffix {path.suffix!r}: "
            f"expected one of {', '.join(_READERS)}."
        )
    _check_file(path)
    return read(path, tuple(wanted))


def _load(
    name: str,
    split: str,
    source: str | os.PathLike[str],
    dataset: str | None,
    config: str | None,
    wanted: tuple[str, ...],
    folder: str | os.PathLike[str] | None,
) -> TaskData:
    where = f"Task {name!r}: {split}"
    try:
        if dataset is not None:
            return _load_from_hub(dataset, config, str(source))
        return read_rows(Path(folder or ".") / Path(source).expanduser(), wanted)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _load_from_hub(dataset: str, config: str | None, split: str) -> TaskData:
    import datasets

    try:
        return datasets.load_dataset(dataset, config, split=split)
    except Exception as error:  # whatever goes wrong inside: the network, the hub, the data
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        of = f" (config {config!r})" if config else ""
        raise DataError(
            f"Cannot load the split {split!r} of the data set {dataset!r}{of} with the library "
            f"datasets, which says: {reason.rstrip('.')}. Check the names and the connection, or "
            f"name local files instead."
        ) from None


def _sampled(task: Task, train_size: int | None, validation_size: int | None, seed: int) -> Task:
    """The task with its validation data held out if it has none, and its splits cut to size."""
    train, validation = task.train, task.validation
    assert train is not None  # `load_task` has made the task with it
    if validation is None:
        train, validation = _hold_out(task.name, train, np.random.default_rng([seed, 0]))
    return Task(
        task.name,
        train=_draw(train, train_size, np.random.default_rng([seed, 1])),
        validation=_draw(validation, validation_size, np.random.default_rng([seed, 2])),
        text=task.text,
        label=task.label,
        labels=task.labels,
        metric=task.metric,
    )


def _draw(examples: Examples, size: int | None, generator: np.random.Generator) -> Examples:
    if size is None or size >= len(examples):
        return examples
    return examples.select(np.sort(generator.choice(len(examples), size=size, replace=False)))


def _hold_out(
    name: str, examples: Examples, generator: np.random.Generator
) -> tuple[Examples, Examples]:
    """Split off a share `HELD_OUT` of the examples, whole groups of equal texts at a time."""
    group_of: dict[tuple[str, ...], int] = {}
    group = np.array([group_of.setdefault(text, len(group_of)) for text in examples.texts])
    order = generator.permutation(len(group_of))
    sizes = np.bincount(group)[order]
    needed = int(np.searchsorted(np.cumsum(sizes), HELD_OUT * len(examples))) + 1
    if needed >= len(order):
        raise DataError(
            f"Task {name!r}: cannot hold out {HELD_OUT:.0%} of {len(examples)} training examples "
            f"with {len(order)} different texts for validation: give validation data."
        )
    held_out = np.isin(group, order[:needed])
    return examples.select(np.flatnonzero(~held_out)), examples.select(np.flatnonzero(held_out))


def _read_labels(
    rows: list[dict[str, Any]], label: str, labels: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Rows of strings with the labels read as numbers, where all of them are numbers.

    Labels stay text where one of them is a label name as it stands. An empty cell is no label.
    """
    cells = [row[label] for row in rows]
    read: Callable[[str], object] = str
    if set(cells).isdisjoint(labels or ()):
        filled = [cell.strip() for cell in cells if cell.strip()]
        if all(re.fullmatch(r"[+-]?(0|[1-9]\d*)", cell) for cell in filled):
            read = int
        elif all(map(_is_number, filled)):
            read = float
    return [{**row, label: read(row[label]) if row[label].strip() else None} for row in rows]


def _is_number(cell: str) -> bool:
    # Leading zeros are kept: "001" is a name, not the number 1.
    if re.match(r"[+-]?0\d", cell):
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder: name a file in it.")
    if not path.exists():
        if not path.parent.is_dir():
            raise DataError(f"There is no file {str(path)!r}, nor the folder {str(path.parent)!r}.")
        names = [other.name for other in path.parent.iterdir() if other.is_file()]
        raise DataError(
            f"There is no file {path.name!r} in {str(path.parent)!r}." + suggest(path.name, names)
        )
    try:
        empty = path.stat().st_size == 0
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    if empty:
        raise DataError(f"The file {str(path)!r} is empty.")


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        source = "UTF-16" if wide else "WINDOWS-1252"
        raise DataError(
            f"The file {str(path)!r} is not UTF-8: byte 0x{data[error.start]:02x} at offset "
            f"{error.start}, line {line}; convert it, for example with: "
            f"iconv -f {source} -t UTF-8."
        ) from None


def _read_csv(path: Path, wanted: tuple[str, ...]) -> list[dict[str, str]]:
    return _delimited(path, wanted, delimiter=",", quotes=True)


def _read_tsv(path: Path, wanted: tuple[str, ...]) -> list[dict[str, str]]:
    return _delimited(path, wanted, delimiter="\t", quotes=False)


def _delimited(
    path: Path, wanted: tuple[str, ...], *, delimiter: str, quotes: bool
) -> list[dict[str, str]]:
    lines = csv.reader(
        io.StringIO(_read_text(path), newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        header = next(lines, [])
        check_present(f"The file {str(path)!r}", wanted, header)
        rows = []
        for cells in lines:
            if len(cells) != len(header):
                if not cells:  # a blank line
                    continue
                raise DataError(
                    f"The file {str(path)!r} has {len(cells)} cells in line {lines.line_num}, but "
                    f"{len(header)} columns: {listed(header)}."
                )
            rows.append(dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"The file {str(path)!r} cannot be read at line {lines.line_num}: {error}."
        ) from None
    return rows


def _read_json_lines(path: Path, wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"The file {str(path)!r} has no JSON in line {number}, column {error.colno}: "
                f"{error.msg}; expected one object on each line."
            ) from None
        if not isinstance(row, dict):
            raise DataError(
                f"The file {str(path)!r} has a {type(row).__name__} in line {number}: expected "
                f'one object on each line, such as {{"text": "…", "label": 0}}.'
            )
        rows.append(row)
    return rows


def _read_parquet(path: Path, wanted: tuple[str, ...]) -> TaskData:
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        check_present(f"The file {str(path)!r}", wanted, names)
        return pyarrow.parquet.read_table(path, columns=list(dict.fromkeys(wanted)))
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"The file {str(path)!r} is not a whole Parquet file, or is damaged: {reason}."
        ) from None


_READERS: dict[str, Callable[[Path, tuple[str, ...]], TaskData]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json_lines,
    ".parquet": _read_parquet,
}

# The kinds of files in which every cell is a string, so that numbers must be told from names.
_TEXT_CELLS = (".csv", ".tsv")
