"""The known tasks in a local folder: find the file of a split, and read its rows.

Two layouts are known. A file `TASK/SPLIT.SUFFIX`, such as `sst2/train.parquet`, holds the task's
own columns in any of the kinds that `formats.py` reads; one word may stand before the suffix, as
in `train.sample500.parquet`. The other layout is that of the original downloads, unpacked: GLUE's
folders of TSV files, AG's News as CSV, SNLI as JSON lines and so on (`known.py` describes each).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lobes.errors import DataError
from lobes.tasks.columns import Blocks, listed, suggest
from lobes.tasks.delimited import BARE, Dialect, header_of, read_cells, read_delimited
from lobes.tasks.formats import SUFFIXES, has_text_cells, read_blocks, read_json
from lobes.tasks.known import Column, Download, KnownTask
from lobes.tasks.labels import number_of
from lobes.tasks.raw_files import kind_of, read_text, stem_of

# The names that users give to the column of labels when they add a header to a file without one.
LABEL_COLUMN = re.compile(
    r"\W*(class|label|topic|category|rating|stars?|polarity|sentiment|score)s?[ _]?(index|id)?\W*",
    re.IGNORECASE,
)


def find_split(folder: Path, task: KnownTask, split: str) -> tuple[Path, Download | None] | None:
    """Return the file of a split, and the original download that it is of, if it is of one.

    None where the folder has no such file.

    Raises DataError where `folder` is no folder, or where several files could be meant.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r} with the data of {task.name!r}.")
    found = _own_files(folder / task.name, split)
    for download in task.downloads:
        for name in (*download.folders, task.name):
            path = folder / name / download.files.get(split, "")
            if download.by_folder:
                if split in download.files and path.is_dir():
                    return path, download
            elif path.is_file() and not (path in found and _has_own_columns(path, task, split)):
                return path, download
    if len(found) > 1:
        raise DataError(
            f"{str(folder / task.name)!r} has {len(found)} files for {split}: "
            f"{listed(path.name for path in found)}; keep one, or name it with train=… and "
            f"validation=…."
        )
    return (found[0], None) if found else None


def read_known_folder(folder: Path, task: KnownTask, split: str) -> Blocks | None:
    """Return the rows of a split with the task's own columns; None where no file has them.

    Labels are label names or class indices, numbers for regression; a split without labels has no
    column of them. Raises DataError for what cannot be read, here or when the rows are iterated.
    """
    found = find_split(folder, task, split)
    if found is None:
        return None
    path, download = found
    if download is not None and download.by_folder:
        return Blocks(lambda: _read_by_folder(path, task, download))
    if download is not None:
        return Blocks(lambda: _read_download(path, task, split, download))
    wanted = task.text if split in task.hidden else (*task.text, task.label)
    return Blocks(lambda: read_blocks(path, wanted, (task.label,)))


def missing(folder: Path, task: KnownTask, split: str) -> str:
    """The message for a split of which the folder has no file."""
    places = [f"{task.name}/{split}.parquet (or {', '.join(SUFFIXES[:3])})"]
    places += [
        f"{download.folders[0]}/{download.files[split]}"
        for download in task.downloads
        if split in download.files
    ]
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    hint = "" if task.name in names else suggest(task.name, names)
    return f"{str(folder)!r} has no file for {split}: expected {' or '.join(places)}.{hint}"


def _own_files(folder: Path, split: str) -> list[Path]:
    """The files SPLIT.SUFFIX; those with one more word in the name only where there is none.

    MNLI's matched split may leave the word "matched" out.
    """
    if not folder.is_dir():
        return []
    stems = (split, split.removesuffix("_matched"))
    files = [path for path in sorted(folder.iterdir()) if kind_of(path) in SUFFIXES]
    plain = [path for path in files if stem_of(path) in stems]
    return plain or [path for path in files if Path(stem_of(path)).stem in stems]


def _has_own_columns(path: Path, task: KnownTask, split: str) -> bool:
    """Whether a file whose name is that of a download has a header with the task's own columns."""
    wanted = set(task.text) if split in task.hidden else {*task.text, task.label}
    if has_text_cells(path):
        return wanted <= set(header_of(path, Dialect()))
    return all(wanted <= set(row) for row in next(read_json(path), [])[:1])


def _read_download(
    path: Path, task: KnownTask, split: str, download: Download
) -> Iterator[list[dict[str, Any]]]:
    text = download.text
    if download.test_text and split not in download.headless:
        text = download.test_text
    columns: list[Column] = [column for part in text for column in part]
    wanted = columns if split.startswith("test") else [*columns, download.label]
    labeled = split not in task.hidden
    first = 0
    for rows in _raw_rows(path, wanted, download, headless=split in download.headless):
        for number, row in enumerate(rows, first):
            _check_row(path, number, row, (*wanted, *(download.only or ())[:1]))
        if first == 0:
            labeled = labeled and all(download.label in row for row in rows)
        first += len(rows)
        if download.only:
            column, value = download.only
            rows = [row for row in rows if row[column] == value]
        own = []
        for row in rows:
            label = row.get(download.label)
            if labeled and download.no_label is not None and label == download.no_label:
                continue
            parts = [_joined([row[column] for column in part]) for part in text]
            example = dict(zip(task.text, parts, strict=True))
            own.append(
                {**example, task.label: _label(label, task, download)} if labeled else example
            )
        yield own


def _read_by_folder(
    path: Path, task: KnownTask, download: Download
) -> Iterator[list[dict[str, Any]]]:
    """One example for each file, label by label, in the order of the files' names."""
    for folder, label in download.by_folder.items():
        files = sorted((path / folder).glob("*.txt"))
        if not files:
            raise DataError(
                f"There is no text file in {str(path / folder)!r}, which holds the examples "
                f"labeled {label!r}: unpack the download again."
            )
        yield [{task.text[0]: read_text(file), task.label: label} for file in files]


def _raw_rows(
    path: Path, wanted: list[Column], download: Download, *, headless: bool
) -> Iterator[list[dict[Any, Any]]]:
    names = [column for column in wanted if isinstance(column, str)]
    if not has_text_cells(path):
        return read_json(path)
    dialect = Dialect() if kind_of(path) == ".csv" else BARE
    if headless:
        places = [column for column in wanted if isinstance(column, int)]
        named = download.label if isinstance(download.label, int) else 0
        return read_cells(path, places, dialect, header=LABEL_COLUMN, named=named)
    return read_delimited(
        path, tuple(names), dialect, ragged=download.ragged, last=download.label_last
    )


def _check_row(path: Path, number: int, row: Mapping[Any, Any], wanted: Sequence[Column]) -> None:
    for column in wanted:
        if column not in row:
            raise DataError(
                f"The file {str(path)!r} has no {column!r} in row {number} (from 0); its columns "
                f"are {listed(row)}."
            )


def _joined(parts: list[Any]) -> Any:
    """The parts of a text as one, without empty ones; a single cell stays what it is."""
    return parts[0] if len(parts) == 1 else " ".join(part for part in parts if part)


def _label(cell: Any, task: KnownTask, download: Download) -> Any:
    """The task's own name for a label, a number for regression, or the cell as it is."""
    if not isinstance(cell, str):
        return cell
    if task.labels is None:
        number = number_of(cell)
        return cell if number is None else float(number)
    cell = download.spelling.get(cell, cell)
    if cell.isascii() and cell.isdigit() and len(cell) < 5 and cell not in task.labels:
        index = int(cell) - download.first_class
        return task.labels[index] if 0 <= index < len(task.labels) else cell
    return cell
