"""Make a file of AG-Pair from a file of articles with topics (docs/method.md#ag-pair)."""

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from lobes.errors import ConfigError, DataError, RunError
from lobes.files import disk_faults, writing
from lobes.tasks.ag_pair import LABELS, Pairs, ag_pairs
from lobes.tasks.columns import check_texts, listed, read_columns
from lobes.tasks.delimited import Dialect, header_of, read_cells
from lobes.tasks.folders import LABEL_COLUMN
from lobes.tasks.formats import read_rows
from lobes.tasks.known import known_task
from lobes.tasks.raw_files import at_file, kind_of
from lobes.tasks.raw_labels import check_label_values

# What stands between the parts of an article.
JOINT = " - "

# So many pairs are written at a time.
BLOCK = 10_000

Row = tuple[str, str, str]


def make_pairs(
    source: Path,
    target: Path,
    *,
    text: Sequence[str] | None = None,
    topic: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Read the articles in `source`, and write their pairs to `target`.

    `source` is AG's News as it is handed out (a CSV without a header: class, title, description),
    or any file that tasks are read from, with the columns `text` (by default "text"; several are
    joined as in "title - description") and `topic` (by default "label"). `target` gets the
    columns news1, news2 and label, in the order and on the sides that `seed` decides.

    Returns {"articles", "topics": {name: articles}, "pairs", "same", "different", "seed",
    "file"}. Raises `DataError` for a source that cannot be read or has no AG-Pair, `ConfigError`
    for a target of no known kind, and `RunError` where the target is there or cannot be written.
    """
    write = WRITERS.get(target.suffix.lower())
    if write is None:
        raise ConfigError(
            f"Cannot tell what kind of file {str(target)!r} shall be by its suffix "
            f"{target.suffix!r}: expected one of {', '.join(WRITERS)}."
        )
    if os.path.lexists(target):
        raise RunError(f"{target} is there already; choose another name, or remove it first.")
    texts, topics = _read(source, tuple(text or ()), topic)
    try:
        pairs = ag_pairs(texts, topics, seed=seed)
    except DataError as error:
        raise DataError(f"{str(source)!r} has no AG-Pair: {error}") from error
    if target.suffix.lower() == ".tsv":
        _check_no_tabs(source, texts)
    with disk_faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as file:
        write(file, _rows(pairs))
    names, sizes = np.unique(np.asarray(topics), return_counts=True)
    same = int(pairs.is_same.sum())
    return {
        "articles": len(texts),
        "topics": {str(name): int(size) for name, size in zip(names, sizes, strict=True)},
        "pairs": len(pairs),
        "same": same,
        "different": len(pairs) - same,
        "seed": seed,
        "file": str(target),
    }


def _read(source: Path, text: tuple[str, ...], topic: str | None) -> tuple[list[str], list[Any]]:
    """The articles and their topics."""
    columns: tuple[str, ...]
    is_ag_news = not text and topic is None and _is_ag_news(source)
    if is_ag_news:
        label, columns = "class", ("title", "description")
        rows = [
            {label: row[0], columns[0]: row[1], columns[1]: row[2]}
            for block in read_cells(source, range(3), Dialect(), header=LABEL_COLUMN)
            for row in block
        ]
    else:
        label, columns = topic or "label", text or ("text",)
        rows = read_rows(source, (*columns, label))
    with at_file(source):
        found = read_columns(rows, (*columns, label))
        parts = [check_texts(column, found[column]) for column in columns]
        topics, kind = check_label_values(label, found[label])
        if kind == "float":
            raise DataError(
                f"has numbers with a fraction in the column {label!r}: expected topics, as text "
                f"or whole numbers; name their column with --topic."
            )
        if is_ag_news:
            topics = [_topic_of(row, cell) for row, cell in enumerate(topics)]
    return [JOINT.join(article) for article in zip(*parts, strict=True)], topics


def _is_ag_news(source: Path) -> bool:
    """Whether a file is a CSV whose lines are class, title, description, with a header or none."""
    if kind_of(source) != ".csv":
        return False
    cells = [cell.strip() for cell in header_of(source, Dialect())]
    if [cell.casefold() for cell in cells[1:]] == ["title", "description"]:
        return LABEL_COLUMN.fullmatch(cells[0]) is not None
    return len(cells) == 3 and cells[0].isdecimal()


def _topic_of(row: int, cell: str) -> str:
    """The name of one of AG's classes, which are counted from 1."""
    names = known_task("ag").labels or ()
    if cell.strip() not in map(str, range(1, len(names) + 1)):
        raise DataError(
            f"row {row} (from 0) has the class {cell!r}: AG's News has the classes 1 to "
            f"{len(names)}; for another corpus, name its columns with --topic and --text."
        )
    return names[int(cell) - 1]


def _check_no_tabs(source: Path, texts: Sequence[str]) -> None:
    for row, text in enumerate(texts):
        if any(mark in text for mark in "\t\r\n"):
            raise DataError(
                f"{str(source)!r} row {row} (from 0) has a tab or a line break, which a TSV file "
                f"cannot hold: write a file that ends in {listed(set(WRITERS) - {'.tsv'})}."
            )


def _rows(pairs: Pairs) -> Iterator[Row]:
    order = zip(pairs.first.tolist(), pairs.second.tolist(), pairs.is_same.tolist(), strict=True)
    for first, second, is_same in order:
        yield pairs.texts[first], pairs.texts[second], LABELS[0 if is_same else 1]


def _columns() -> tuple[str, ...]:
    task = known_task("ag-pair")
    return (*task.text, task.label)


def _write_csv(file: IO[bytes], rows: Iterator[Row]) -> None:
    lines = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(_columns())
    writer.writerows(rows)
    lines.detach()


def _write_tsv(file: IO[bytes], rows: Iterator[Row]) -> None:
    for row in itertools.chain([_columns()], rows):
        file.write(("\t".join(row) + "\n").encode())


def _write_json_lines(file: IO[bytes], rows: Iterator[Row]) -> None:
    names = _columns()
    for row in rows:
        line = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
        file.write(f"{line}\n".encode())


def _write_parquet(file: IO[bytes], rows: Iterator[Row]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in _columns()])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while block := list(itertools.islice(rows, BLOCK)):
            columns = [pyarrow.array(column) for column in zip(*block, strict=True)]
            writer.write_table(pyarrow.table(columns, schema=schema))


WRITERS: dict[str, Callable[[IO[bytes], Iterator[Row]], None]] = {
    ".csv": _write_csv,
    ".tsv": _write_tsv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
