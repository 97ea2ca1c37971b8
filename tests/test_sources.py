"""Files and the hub as sources of tasks: strings stay strings, damage is named by its place."""

import csv
import gzip
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_files import write_table
from lobes.errors import ConfigError, DataError, LobesError
from lobes.tasks.formats import read_rows
from lobes.tasks.sources import TaskSource, load_split, load_task

TEXTS = ("NA", "null", "001", 'say "so", twice', "naïve – 東京", "  blanks kept ", "1.5", "True")
LABELS = tuple(i % 2 for i in range(len(TEXTS)))


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def numbered(n: int, *, start: int = 0) -> pd.DataFrame:
    return pd.DataFrame(
        {"text": [f"text {i + start}" for i in range(n)], "label": [0, 1] * (n // 2)}
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])
def test_text_is_what_it_says_in_every_kind_of_file(tmp_path, suffix):
    frame = pd.DataFrame({"id": range(8), "text": TEXTS, "label": LABELS})
    path = write_table(tmp_path / f"data{suffix}", frame)
    task = load_task("x", train=path, validation=path, text="text")
    assert task.train.texts == tuple((text,) for text in TEXTS)
    assert task.train.labels.tolist() == list(LABELS)
    assert task.labels == ("0", "1")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_with_and_without_byte_order_mark(tmp_path, mark, end):
    content = f"text,label{end}é,b{end}{end}b,a{end}".encode()
    path = save(tmp_path / "data.csv", mark + content)
    task = load_task("x", train=path, validation=path, text="text")
    assert task.train.texts == (("é",), ("b",))
    assert task.labels == ("a", "b")


def test_a_cell_of_csv_may_hold_a_line_break(tmp_path):
    path = save(tmp_path / "data.csv", 'text,label\n"two\nlines",0\nb,1\n')
    task = load_task("x", train=path, validation=path, text="text")
    assert task.train.texts == (("two\nlines",), ("b",))


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_text_may_be_longer_than_the_csv_library_takes_by_default(tmp_path, suffix):
    text, mark = "long " * 50_000, "," if suffix == "csv" else "\t"
    path = save(tmp_path / f"data.{suffix}", f"text{mark}label\n{text}{mark}0\nb{mark}1\n")
    before = csv.field_size_limit()
    task = load_task("x", train=path, validation=path, text="text")
    assert task.train.texts[0] == (text,)
    assert csv.field_size_limit() == before


def test_a_quote_in_tsv_is_a_character(tmp_path):
    path = save(tmp_path / "data.tsv", 'text\tlabel\n"Begun, never closed\t0\n5" tall\t1\n')
    task = load_task("x", train=path, validation=path, text="text")
    assert task.train.texts == (('"Begun, never closed',), ('5" tall',))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=2, max_size=13))
@example(["a\u2028b", "c\x85d\x1c", "\r", "\n\ufeff"])
def test_any_text_survives_csv_and_json_lines(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("round-trip")
    rows = [{"text": f"x{text}", "label": "ab"[i % 2]} for i, text in enumerate(texts)]
    with (folder / "data.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "data.jsonl").write_bytes(lines.encode())
    for name in ("data.csv", "data.jsonl"):
        task = load_task("x", train=folder / name, validation=folder / name, text="text")
        assert [text for (text,) in task.train.texts] == [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("cells", "labels", "names", "values"),
    [
        (("1", "0", "1"), None, ("0", "1"), [1, 0, 1]),
        (("1.0", "0.0", "1"), ("no", "yes"), ("no", "yes"), [1, 0, 1]),
        (("0.5", "2", "-1e-1"), None, None, [0.5, 2.0, -0.1]),
        (("001", "002", "001"), None, ("001", "002"), [0, 1, 0]),
        (("1", "2", "1"), ("2", "1"), ("2", "1"), [1, 0, 1]),
        (("2.0", "1.0", "1.0"), ("1.0", "2.0"), ("1.0", "2.0"), [1, 0, 0]),
        (("1", "b", "1"), None, ("1", "b"), [0, 1, 0]),
        (("NA", "null", "NA"), None, ("NA", "null"), [0, 1, 0]),
    ],
)
def test_labels_of_csv_are_numbers_where_all_of_them_are(tmp_path, cells, labels, names, values):
    content = "text,label\n" + "".join(f"text {i},{cell}\n" for i, cell in enumerate(cells))
    path = save(tmp_path / "data.csv", content)
    task = load_task("x", train=path, validation=path, text="text", labels=labels)
    assert task.labels == names
    assert task.train.labels.tolist() == values


OPENED: list[str] = []
sys.addaudithook(lambda event, args: OPENED.append(str(args[0])) if event == "open" else None)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".csv.gz"])
def test_each_file_is_opened_once(tmp_path, suffix):
    frame = numbered(40)
    content = {
        ".csv": frame.to_csv(index=False),
        ".tsv": frame.to_csv(index=False, sep="\t", quoting=csv.QUOTE_ALL),
        ".jsonl": frame.to_json(orient="records", lines=True),
        ".json": "\n" + frame.to_json(orient="records"),
        ".csv.gz": gzip.compress(frame.to_csv(index=False).encode()),
    }[suffix]
    train, test = (save(tmp_path / f"{name}{suffix}", content) for name in ("train", "test"))
    source = TaskSource("x", train=train, test=test, text="text", filter={"label": [0, 1]})
    OPENED.clear()
    task = load_task(source, train_size=5)
    assert [OPENED.count(str(path)) for path in (train, test)] == [1, 0]
    task.replace(name="y", train=task.train.select([4, 3, 2, 1]))
    assert len(load_split(source, "train")) == 40
    assert [OPENED.count(str(path)) for path in (train, test)] == [2, 0]
    assert load_split(source, "test").labels.tolist() == [0, 1] * 20  # the names are those of train
    assert [OPENED.count(str(path)) for path in (train, test)] == [3, 1]


def test_a_source_is_the_same_as_its_fields(tmp_path):
    path = write_table(tmp_path / "train.tsv", numbered(40))
    given = {"text": "text", "train": path.name, "folder": tmp_path}
    source = TaskSource("x", **given)
    assert load_task(source).train.texts == load_task("x", **given).train.texts
    assert load_split(source, "train").texts == load_split("x", "train", **given).texts
    other = load_task(source, labels=("no", "yes"))
    assert other.labels == ("no", "yes")
    for changes, message in (
        ({"text": ("a", "b", "c")}, "Task 'x' has 3 text columns: expected one, or two"),
        ({"label": "text"}, "Task 'x' takes column 'text' both as text and as label."),
        ({"delimiter": ", "}, "The delimiter is ', ': expected one character"),
    ):
        with pytest.raises(LobesError, match=message):
            load_task(source, **changes)


def test_files_are_found_from_the_given_folder(tmp_path):
    write_table(tmp_path / "train.csv", numbered(6))
    task = load_task("x", train="train.csv", validation="train.csv", text="text", folder=tmp_path)
    assert len(task.train) == 6


def test_without_validation_a_tenth_is_held_out(tmp_path):
    path = write_table(tmp_path / "train.parquet", numbered(200))
    task = load_task("x", train=path, text="text")
    assert (len(task.train), len(task.validation)) == (180, 20)
    assert not set(task.train.texts) & set(task.validation.texts)
    assert len(set(task.train.texts) | set(task.validation.texts)) == 200
    again = load_task("y", train=path, text="text")
    other = load_task("x", train=path, text="text", seed=1)
    assert again.validation.texts == task.validation.texts
    assert other.validation.texts != task.validation.texts


def test_equal_texts_are_held_out_together(tmp_path):
    frame = numbered(200)
    frame["text"] = [f"text {i % 17}" for i in range(200)]
    task = load_task("x", train=write_table(tmp_path / "train.csv", frame), text="text")
    assert not set(task.train.texts) & set(task.validation.texts)
    assert 20 <= len(task.validation) < 20 + 12


def test_samples_are_drawn_in_order_and_alike_for_tasks_over_the_same_rows(tmp_path):
    frame = numbered(100)
    frame["other"] = [i % 3 for i in range(100)]
    path = write_table(tmp_path / "train.csv", frame)
    sizes = {"train_size": 53, "validation_size": 31}
    first = load_task("x", train=path, validation=path, text="text", **sizes)
    second = load_task("y", train=path, validation=path, text="text", label="other", **sizes)
    assert (len(first.train), len(first.validation)) == (53, 31)
    assert first.train.texts == second.train.texts
    numbers = [int(text.split()[1]) for (text,) in first.train.texts]
    assert numbers == sorted(numbers)
    assert numbers != list(range(53))
    assert [n % 2 for n in numbers] == first.train.labels.tolist()
    more = load_task("x", train=path, validation=path, text="text", train_size=1000)
    assert len(more.train) == 100


def test_a_hub_data_set_gives_its_splits(monkeypatch):
    asked = []

    def load_dataset(name, config, *, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_pandas(numbered(20))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = load_task("x", dataset="group/name", config="small", validation="dev", text="text")
    assert asked == [("group/name", "small", "train"), ("group/name", "small", "dev")]
    assert (len(task.train), len(task.validation)) == (20, 20)
    held_out = load_task("x", dataset="group/name", train="half", text="text")
    assert asked[2:] == [("group/name", None, "half")]
    assert (len(held_out.train), len(held_out.validation)) == (18, 2)


def test_a_hub_that_cannot_be_reached_is_one_sentence():
    with pytest.raises(DataError) as error:
        load_task("x", dataset="nobody/nothing-at-all", text="text")
    message = str(error.value)
    assert message.startswith(
        "Task 'x': train: Cannot load the split 'train' of the data set 'nobody/nothing-at-all' "
        "with the library datasets, which says: "
    )
    assert message.endswith("Check the names and the connection, or name local files instead.")
    assert "\n" not in message
    assert error.value.__cause__ is not None  # the library's own error, for --debug


GOOD = b"text,label\na,0\nb,1\n"

DAMAGED = {
    "missing file": (
        "neer.csv",
        None,
        "There is no file 'neer.csv' in '{folder}'. Did you mean 'near.csv'?",
    ),
    "missing folder": (
        "nowhere/data.csv",
        None,
        "There is no file '{folder}/nowhere/data.csv', nor the folder '{folder}/nowhere'.",
    ),
    "unknown suffix": (
        "data.xls",
        GOOD,
        "Cannot tell what kind of file '{path}' is by its suffix '.xls': expected one of .csv, "
        ".tsv, .jsonl, .ndjson, .json, .parquet, .xlsx, of text files also with .gz.",
    ),
    "empty file": ("data.csv", b"", "The file '{path}' is empty."),
    "empty Parquet": ("data.parquet", b"", "The file '{path}' is empty."),
    "latin-1": (
        "data.csv",
        "text,label\nabc,0\ncafé,1\n".encode("latin-1"),
        "The file '{path}' is not UTF-8: byte 0xe9 at offset 20, line 3; convert it, for example "
        "with: iconv -f WINDOWS-1252 -t UTF-8.",
    ),
    "UTF-16": (
        "data.tsv",
        "text\tlabel\n".encode("utf-16"),
        "The file '{path}' is not UTF-8: byte 0xff at offset 0, line 1; convert it, for example "
        "with: iconv -f UTF-16 -t UTF-8.",
    ),
    "too many cells": (
        "data.csv",
        b'text,label\n"a\nb",0\nc,1\nd,e,1\n',
        "The file '{path}' has 3 cells in line 5, but 2 columns: 'text', 'label'; put a cell that "
        "holds ',' in double quotes.",
    ),
    "too few cells": (
        "data.tsv",
        b"text\tlabel\na\t0\nb\n",
        "The file '{path}' has 1 cells in line 3, but 2 columns: 'text', 'label'.",
    ),
    "open quote": (
        "data.csv",
        b'text,label\na,0\n"b,1\n',
        "The file '{path}' cannot be read at line 3: unexpected end of data.",
    ),
    "stray quote": (
        "data.csv",
        b'text,label\n"a" b,0\n',
        "The file '{path}' cannot be read at line 2: ',' expected after '\"'.",
    ),
    "missing column": (
        "data.csv",
        b"txt,label\na,0\n",
        "The file '{path}' has no column 'text'; its columns are 'txt', 'label'. Did you mean "
        "'txt'?",
    ),
    "column twice": (
        "data.csv",
        b"text,label,label\na,0,1\n",
        "The file '{path}' has the column 'label' twice; rename one of them.",
    ),
    "broken JSON": (
        "data.jsonl",
        b'{"text": "a", "label": 0}\n\n{"text": "b", "label"\n',
        "The file '{path}' has no JSON in line 3, column 22: Expecting ':' delimiter; expected "
        "one object on each line, or one array of objects.",
    ),
    "an array of numbers": (
        "data.json",
        b'\n[{"text": "a", "label": 0},\n 1]',
        "The file '{path}' has a int as row 1 (from 0) of its array: expected objects, such as "
        '{{"text": "…", "label": 0}}.',
    ),
    "a broken array": (
        "data.json",
        b'[{"text": "a", "label": 0},\n {"text": }]',
        "The file '{path}' has no JSON in line 2, column 11: Expecting value; expected one object "
        "on each line, or one array of objects.",
    ),
    "a number in a line": (
        "data.jsonl",
        b'{"text": "a", "label": 0}\n1',
        "The file '{path}' has a int in line 2: expected one object on each line, such as "
        '{{"text": "…", "label": 0}}.',
    ),
    "gzip without its suffix": (
        "data.csv",
        gzip.compress(GOOD),
        "The file '{path}' is not UTF-8 but gzip: end its name in .gz.",
    ),
    "no gzip": (
        "data.csv.gz",
        GOOD,
        "The file '{path}' is not a whole gzip file, or is damaged: Not a gzipped file (b'te').",
    ),
    "gzip cut short": (
        "data.jsonl.gz",
        gzip.compress(GOOD)[:-9],
        "The file '{path}' is not a whole gzip file, or is damaged: Compressed file ended before "
        "the end-of-stream marker was reached.",
    ),
    "gzip of Parquet": (
        "data.parquet.gz",
        GOOD,
        "Cannot tell what kind of file '{path}' is by its suffix '.gz': expected one of .csv, "
        ".tsv, .jsonl, .ndjson, .json, .parquet, .xlsx, of text files also with .gz.",
    ),
    "a blank line where the header should be": (
        "data.csv",
        b"\ntext,label\n",
        "The file '{path}' has no column 'text'; its columns are .",
    ),
    "semicolons": (
        "data.csv",
        b"text;label\na;0\n",
        "The file '{path}' has no column 'text'; its columns are 'text;label'. The columns seem to "
        'have semicolons between them: set delimiter = ";".',
    ),
    "semicolons, and a name that is nearly the line": (
        "data.csv",
        b"text;l\na;0\n",
        "The file '{path}' has no column 'text'; its columns are 'text;l'. The columns seem to "
        'have semicolons between them: set delimiter = ";".',
    ),
    "tabs in a CSV": (
        "data.csv",
        b"text\tlabel\na\t0\n",
        "The file '{path}' has no column 'text'; its columns are 'text\\tlabel'. The columns seem "
        'to have tabs between them: set delimiter = "\\t".',
    ),
    "a line break in quotes of TSV": (
        "data.tsv",
        b'text\tlabel\n"a\nb"\t0\n',
        "The file '{path}' has 1 cells in line 2, but 2 columns: 'text', 'label'; where quotes "
        'hold a cell together, set quoting = "minimal".',
    ),
    "truncated Parquet": (
        "data.parquet",
        b"PAR1" + b"\x00" * 61,
        "The file '{path}' is not a whole Parquet file, or is damaged: Parquet magic bytes not "
        "found in footer. Either the file is corrupted or this is not a parquet file.",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_by_name_and_place(tmp_path, case):
    name, content, message = DAMAGED[case]
    save(tmp_path / "near.csv", GOOD)
    path = tmp_path / name
    if content is not None:
        save(path, content)
    with pytest.raises(DataError) as error:
        load_task("x", train=path, text="text")
    expected = message.format(
        path=path, folder=path.parent if case != "missing folder" else tmp_path
    )
    assert str(error.value) == f"Task 'x': train: {expected}"


@pytest.mark.parametrize("kept", [7, 200, -9])
def test_parquet_cut_anywhere_is_refused(tmp_path, kept):
    path = write_table(tmp_path / "data.parquet", numbered(2000))
    save(path, path.read_bytes()[:kept])
    with pytest.raises(DataError, match="is not a whole Parquet file, or is damaged: "):
        load_task("x", train=path, text="text")


def test_parquet_with_damaged_pages_is_refused(tmp_path):
    path = tmp_path / "data.parquet"
    pq.write_table(pa.Table.from_pandas(numbered(20_000)), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = b"\x55" * (
        len(content) // 2 - len(content) // 4
    )
    save(path, bytes(content))
    with pytest.raises(DataError, match="is not a whole Parquet file, or is damaged: "):
        load_task("x", train=path, text="text")


def test_only_the_named_columns_of_parquet_are_read(tmp_path):
    table = pa.Table.from_pandas(numbered(4)).append_column("image", pa.array([b"x" * 9] * 4))
    pq.write_table(table, tmp_path / "data.parquet")
    assert read_rows(tmp_path / "data.parquet", ["text"]).column_names == ["text"]


def test_a_folder_is_no_file(tmp_path):
    folder = tmp_path / "data.csv"
    folder.mkdir()
    with pytest.raises(DataError) as error:
        load_task("x", train=folder, text="text")
    assert str(error.value) == f"Task 'x': train: '{folder}' is a folder: name a file in it."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,label\n", "train has no examples; give it some, or leave the split out."),
        (
            b"text,label\na,0\nb,\n",
            "train row 1 has no label in column 'label' (''); correct or remove the row, or leave "
            'such rows out with leave_out = {label = ""} in the study.',
        ),
        (
            b"text,label\na,0\n,1\n",
            "train row 1 has an empty text in 'text'; correct or remove it.",
        ),
        (
            b"text,label\na,0\nb,nan\nc,1\n",
            "train row 1 has no label in column 'label' ('nan'); correct or remove the row, or "
            'leave such rows out with leave_out = {label = ""} in the study.',
        ),
    ],
    ids=["header only", "no label", "no text", "nan label"],
)
def test_a_readable_file_is_checked_as_any_data(tmp_path, content, message):
    path = save(tmp_path / "data.csv", content)
    with pytest.raises(DataError) as error:
        load_task("x", train=path, text="text")
    assert str(error.value) == f"Task 'x': {message}"


def test_too_few_texts_cannot_be_held_out(tmp_path):
    path = save(tmp_path / "data.csv", b"text,label\na,0\na,1\n")
    with pytest.raises(DataError) as error:
        load_task("x", train=path, text="text")
    assert str(error.value) == (
        "Task 'x': cannot hold out 10% of 2 training examples with 1 different texts for "
        "validation: give validation data."
    )


@pytest.mark.parametrize(
    ("labels", "numbers", "part"),
    [
        (["good", "bad"] * 5, "1 of 10", "that part"),
        ([*["good"] * 19, "bad"], "2 of 20", "the rest"),
    ],
)
def test_a_part_with_one_class_cannot_be_held_out(tmp_path, labels, numbers, part):
    lines = [f"text {i},{label}" for i, label in enumerate(labels)]
    path = save(tmp_path / "data.csv", "\n".join(["text,label", *lines]).encode())
    messages = set()
    for seed in range(53):
        try:
            load_task("x", train=path, text="text", seed=seed)
        except DataError as error:
            messages.add(str(error))
    assert (
        f"Task 'x': holding out {numbers} training examples for validation leaves {part} with the "
        f"label 'good' only: give validation data, or more training data."
    ) in messages


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Task 'x' has no training data: name a file with train=…, or a data set."),
        (
            {"train": "a.csv", "config": "small"},
            "Task 'x' has config='small' but no dataset that it could be of.",
        ),
        (
            {"train": "data.csv", "validation": "data.csv", "train_size": 0},
            "Task 'x' has train_size=0: a sample has at least 1 example.",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(tmp_path, arguments, message):
    write_table(tmp_path / "data.csv", numbered(6))
    with pytest.raises(ConfigError) as error:
        load_task("x", text="text", folder=tmp_path, **arguments)
    assert str(error.value) == message


def test_no_global_random_state_is_touched(tmp_path):
    path = write_table(tmp_path / "data.csv", numbered(60))
    before = np.random.get_state()[1].copy()
    load_task("x", train=path, text="text", train_size=31)
    assert np.array_equal(before, np.random.get_state()[1])


def test_gzip_of_bytes_that_are_no_text_and_damaged_is_refused(tmp_path):
    """Where a file stops being text is looked for in the file again, which may fail anew."""
    path = save(tmp_path / "data.csv.gz", gzip.compress(b"text,label\ncaf\xe9,0\n" * 1000)[:-6])
    with pytest.raises(DataError, match=r"is not a whole gzip file, or is damaged: |is not UTF-8"):
        load_task("x", train=path, text="text")
