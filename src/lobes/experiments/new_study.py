"""Write a study file for data: columns, labels and metric are read off the data themselves."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lobes.config.keys import set_value
from lobes.config.study import load_study
from lobes.errors import ConfigError, DataError
from lobes.files import near_path, writing
from lobes.limits import LONGEST_NAME, check_path
from lobes.tasks.columns import listed, suggest
from lobes.tasks.delimited import Dialect, header_of, likely_delimiter
from lobes.tasks.formats import has_text_cells, parquet_columns, read_blocks
from lobes.tasks.known import KNOWN
from lobes.tasks.labels import number_of
from lobes.tasks.raw_files import check_file, kind_of
from lobes.tasks.sources import load_task

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ROWS = 10_000  # that are looked at
MOST_CLASSES = 50
MOST_WORDS = 12  # in the name of a column
HEADED = (".csv", ".tsv", ".xlsx")  # files whose first row should name the columns

# What a column of labels, and two columns of a pair of texts, are often called.
LABELS = ("label", "labels", "class", "target", "category", "score", "rating", "y")
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "answer"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("title", "text"),
)
# Letters of scripts without blanks between words, which have about two each: Thai to Khmer, Chinese
# and Japanese.
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
_SPLITS = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True)
class Found:
    """A task that the data suggest: its `[[tasks]]` table, and why it is so.

    `columns` are the names of all columns of its file, in their order.
    """

    table: dict[str, Any]
    why: str
    columns: tuple[str, ...] = ()


def new_study(
    data: Sequence[str],
    to: Path,
    *,
    model: str = MODEL,
    text: Sequence[str] | None = None,
    label: Sequence[str] | None = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Write a study of these files and known tasks to `to`, and return what it says.

    A file beside `x.train.csv` that is called alike (`x.validation.csv`, `x-test.csv`) is taken
    for that split. `text` and `label` name the columns where the data do not tell; each column of
    labels makes a task. `settings` change keys of its tasks: `tasks.mood.fold_labels=true`. Raises
    `ConfigError` where the file exists, and `DataError` for data that cannot be used; then nothing
    is written.
    """
    if os.path.lexists(to):
        raise ConfigError(f"{to} exists: name another file with --to, or remove it first.")
    for item in data:
        _check(item)
    found = [one for item in _training_data(data) for one in _tasks(item, to, text, label)]
    _give_names(found)
    _set(found, settings)
    content = _toml(found, to.stem, model)
    with writing(to) as file:
        file.write(content.encode())
    try:
        metrics = _try(to)
    except BaseException:
        to.unlink(missing_ok=True)
        raise
    tasks = [
        {**one.table, "why": one.why}
        | ({"columns": list(one.columns)} if one.columns else {})
        | ({"measured_by": metrics[name]} if (name := one.table["name"]) in metrics else {})
        for one in found
    ]
    return {"study": str(to), "model": model, "tasks": tasks}


def _try(study_file: Path) -> dict[str, str]:
    """Load a study's own tasks, and return the metric of each.

    Raises `DataError` where one cannot be loaded, with what to do about it.
    """
    study, metrics = load_study(study_file), dict[str, str]()
    for task in study.tasks:
        if task.is_known:
            continue
        try:
            metrics[task.name] = load_task(task.source(study.data_dir)).metric
        except DataError as error:
            beside = [Path(file).name for file in (task.validation, task.test) if file]
            also = f" Read as other splits of {task.name}: {', '.join(beside)}." if beside else ""
            # in place: a new error would hide the traceback and the cause of this one
            error.args = (
                f"{error}{also} No study was written: change the data, or give `lobes init` a "
                f"setting of the task with --set tasks.{task.name}.KEY=VALUE.",
            )
            raise
    return metrics


def _set(found: Sequence[Found], settings: Sequence[str]) -> None:
    """Change keys of the tasks' tables."""
    data = {"tasks": [one.table for one in found]}
    for setting in settings:
        if not setting.startswith("tasks."):
            raise ConfigError(
                f"Cannot set {setting!r} here: expected a key of a task, for example "
                f"tasks.{found[0].table['name']}.max_length=64. Change others in the study."
            )
        set_value(data, setting)


def _check(item: str) -> None:
    """Raise `DataError`, or `ConfigError` for its path, unless this is a known task or a file."""
    if item in KNOWN:
        return
    check_path("The file of data", item)
    path = Path(item)
    if not os.path.exists(path):
        raise DataError(
            f"There is no file {item!r}, and no known task of that name."
            f"{near_path(path) or suggest(item, KNOWN) or ' `lobes tasks` lists those.'}"
        )
    if path.is_dir():
        raise DataError(f"{str(path)!r} is a folder: name the files of training data in it.")
    if item != item.encode(errors="replace").decode():
        raise DataError(f"The name of {item!r} is not UTF-8, which a study is: rename the file.")
    check_file(path)


def _give_names(found: Sequence[Found]) -> None:
    """Name the tasks; a number tells those apart whose names differ in what a name may not have."""
    twice = [name for name, n in Counter(one.table["name"] for one in found).items() if n > 1]
    if twice:
        raise ConfigError(
            f"Two tasks would be called {twice[0]!r}: write studies of their own for the files, "
            f"and give the tasks other names there."
        )
    taken = set[str]()
    for one in found:
        name = plain = _name(one.table["name"])
        number = 1
        while name in taken:
            number += 1
            name = f"{plain[: LONGEST_NAME - 9]}-{number}"
        taken.add(name)
        one.table["name"] = name


def _training_data(data: Sequence[str]) -> Iterator[str]:
    """What was named, without the files of other splits whose training data are there too."""
    others = {str(path) for item in data if item not in KNOWN for path in _splits(item).values()}
    yield from (item for item in data if item not in others)


def _splits(train: str) -> dict[str, Path]:
    """The files of other splits beside a file of training data, by their names."""
    path, found = Path(train), dict[str, Path]()
    stem, ending = _stem(path), path.name.removeprefix(path.name.partition(".")[0])
    ending = ending.removeprefix(".train")
    for split, words in _SPLITS.items():
        for word in words:
            alike = [path.name.replace("train", word)] if "train" in path.name else []
            for name in [*alike, *(f"{stem}{mark}{word}{ending}" for mark in ".-_")]:
                if os.path.isfile(path.with_name(name)):
                    found.setdefault(split, path.with_name(name))
    return found


def _tasks(
    item: str, to: Path, text: Sequence[str] | None, label: Sequence[str] | None
) -> list[Found]:
    """The tasks of a file, or a known task."""
    if item in KNOWN:
        return [Found({"name": item}, "a known task")]
    path = Path(item)
    delimiter = likely_delimiter(path) if has_text_cells(path) else None
    rows = _rows(path, Dialect(delimiter))
    names = header_of(path, Dialect(delimiter)) if has_text_cells(path) else list(rows[0])
    if kind_of(path) in HEADED and not (text and label):
        _check_names(item, names, rows)
    texts = list(text or _text_columns(rows, path, label or ()))
    labels = list(label or _label_columns(rows, path, texts))
    for name in (*texts, *labels):
        if name not in rows[0]:
            raise DataError(
                f"{item} has no column {name!r}: it has {', '.join(map(repr, rows[0]))}."
            )
    given = {split: _relative(other, to) for split, other in _splits(item).items()}
    several = len(labels) > 1
    found = []
    for column in labels:
        table: dict[str, Any] = {"name": column if several else _stem(path)}
        table |= {"train": _relative(path, to), **given}
        if delimiter is not None:
            table["delimiter"] = delimiter
        table["text"] = texts[0] if len(texts) == 1 else texts
        if column != "label":
            table["label"] = column
        metric, why = _metric([row[column] for row in rows])
        if metric is not None:
            table["metric"] = metric
        found.append(Found(table, why, tuple(names)))
    return found


def _check_names(item: str, names: Sequence[str], rows: list[dict[str, Any]]) -> None:
    """Raise `DataError` where the names of the columns seem to be the cells of a first example.

    They do where one is empty (but the first, which pandas leaves empty over row numbers), stands
    there twice, is as long as a text, or is one of the few values of its own column.
    """
    twice = [name for name, n in Counter(names).items() if n > 1]
    data = [name for name in names[1:] if not str(name).strip()] + twice
    data += [name for name in names if len(str(name).split()) > MOST_WORDS]
    few = [name for name in names if name in rows[0] and _is_label(rows, name)]
    data += [name for name in few if any(row[name] == name for row in rows)]
    if data:
        raise DataError(
            f"The first row of {item}, {listed(names)}, seems to be data and no header (see "
            f"{data[0]!r}): put a row with the names of the columns first. If it is the header, "
            f"name its columns with --text and --label."
        )


def _rows(path: Path, dialect: Dialect) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    # of Parquet only the columns that are named are read
    wanted = parquet_columns(path) if kind_of(path) == ".parquet" else []
    for block in read_blocks(path, wanted, dialect=dialect):
        some: Any = block.to_pylist() if hasattr(block, "to_pylist") else block
        rows += islice(some, ROWS - len(rows))
        if len(rows) >= ROWS:
            break
    columns = dict.fromkeys(name for row in rows for name in row)
    if not columns:
        raise DataError(f"{path} has no rows: expected a header and examples under it.")
    return [{name: row.get(name) for name in columns} for row in rows]  # JSON may leave some out


def _words(rows: list[dict[str, Any]], column: str) -> float:
    """The mean number of words in a column; 0 unless it holds text only."""
    cells = [row.get(column) for row in rows]
    texts = [cell for cell in cells if isinstance(cell, str)]
    if len(texts) < len(cells):
        return 0.0
    lengths = [max(len(text.split()), len(_UNSPACED.findall(text)) / 2) for text in texts]
    return sum(lengths) / len(lengths)


def _text_columns(rows: list[dict[str, Any]], path: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """A pair of columns with names that are known as one, or the column with the most words."""
    words = {name: _words(rows, name) for name in rows[0] if name not in labels}
    for pair in PAIRS:
        if all(words.get(name, 0) > 1 for name in pair):
            return pair
    best = max(words, key=lambda name: words[name], default=None)
    if best is None or words[best] <= 1:
        raise DataError(
            f"{path} has no column with texts of several words: name one with --text. It has "
            f"{', '.join(map(repr, rows[0]))}."
        )
    return (best,)


def _label_columns(rows: list[dict[str, Any]], path: Path, texts: Sequence[str]) -> tuple[str, ...]:
    """The column that is called like one of labels, or every column with a few values."""
    others = [name for name in rows[0] if name not in texts]
    few = [name for name in others if _is_label(rows, name)]
    named = [name for name in few if name in LABELS]
    if named or few:
        return tuple(few if len(named) != 1 else named)
    numbers = [name for name in others if _are_numbers([row.get(name) for row in rows])]
    known = [name for name in others if name in LABELS] or numbers
    if len(known) == 1:
        return (known[0],)
    raise DataError(
        f"{path} has no column with a few values that repeat: name that of the labels with "
        f"--label. It has {', '.join(map(repr, rows[0]))}."
    )


def _are_numbers(cells: list[Any]) -> bool:
    """Whether a column holds numbers, not all of which are whole."""
    numbers = [cell if isinstance(cell, int | float) else number_of(str(cell)) for cell in cells]
    known = [float(number) for number in numbers if number is not None]
    return len(known) == len(cells) and any(number != int(number) for number in known)


def _is_label(rows: list[dict[str, Any]], column: str) -> bool:
    """Whether a column holds a few values, each of several rows."""
    cells = [row.get(column) for row in rows]
    if any(isinstance(cell, list | dict | bytes) or cell in (None, "") for cell in cells):
        return False
    return 2 <= len(set(cells)) <= min(MOST_CLASSES, len(cells) // 2)


def _metric(cells: list[Any]) -> tuple[str | None, str]:
    """The metric that the study should name for labels, if any, and what was seen."""
    if _are_numbers(cells):
        return None, "numbers: a regression, measured by Spearman's correlation"
    if any(isinstance(cell, list) for cell in cells):
        return None, "lists of labels: any number of classes for each example"
    counts = Counter(map(str, cells))
    share = counts.most_common(1)[0][1] / len(cells)
    classes = f"{len(counts)} classes"
    if share > 0.8:
        return "f1_macro", f"{classes}, of which one has {100 * share:.0f} % of the examples"
    return None, f"{classes}, the largest with {100 * share:.0f} % of the examples"


def _stem(path: Path) -> str:
    stem = path.name.partition(".")[0]
    return re.sub(r"[._-]?train(ing)?$", "", stem) or path.resolve().parent.name


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:LONGEST_NAME] or "task"


def _relative(path: Path, to: Path) -> str:
    return Path(os.path.relpath(path, to.parent)).as_posix()


def _toml(found: Sequence[Found], name: str, model: str) -> str:
    """The study's text: what was found, and the settings that are changed first."""
    lines = [
        "# Written by `lobes init`. docs/study.md describes every setting.",
        f"model = {_value(model)}",
        f"output = {_value(f'runs/{name}')}",
        "",
    ]
    for task in found:
        lines += ["[[tasks]]", f"# {task.why}"]
        lines += [f"{key} = {_value(value)}" for key, value in task.table.items()]
        lines.append("")
    lines += [
        "[training]",
        "steps = 1000",
        "batch_size = 32",
        "learning_rate = 2e-5",
        "",
        "[iap]",
        "fractions = [0.2, 0.3, 0.4]  # shares of all heads that are ablated together",
        "controls = 100               # how often the heads are dealt out to the tasks again",
        "",
    ]
    return "\n".join(lines)


def _value(value: Any) -> str:
    """A value as TOML, which has tables of its own and escapes one character more than JSON."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_value(str(key))} = {_value(v)}' for key, v in value.items())}}}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
