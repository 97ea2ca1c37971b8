"""What labels mean: the same from every kind of file, by name where the data have names."""

import json
import logging

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_files import write_table
from lobes.errors import DataError
from lobes.tasks.formats import rows_of_sheets
from lobes.tasks.labels import number_of, places_of
from lobes.tasks.sources import load_split, load_task
from lobes.tasks.task import Task

NAMES = ("entailment", "neutral", "contradiction")
TURNED = ("contradiction", "neutral", "entailment")
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".jsonl", ".jsonl.gz", ".json", ".parquet")


def write(path, labels, *, typed):
    """A table of texts and labels; with `typed`, numbers are numbers where the format has them."""
    texts = [f'text {i}, "so"' for i in range(len(labels))]
    frame = pd.DataFrame({"text": texts, "label": labels if typed else list(map(str, labels))})
    return write_table(path, frame)


def what(task):
    return task.labels, task.metric, task.train.labels.tolist(), task.train.texts == TEXTS


TEXTS = tuple((f'text {i}, "so"',) for i in range(5))


@pytest.mark.parametrize("typed", [True, False], ids=["numbers", "text"])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3.4, 2.0, -0.5, 1e-3, 5.0], (None, "spearman", [3.4, 2.0, -0.5, 1e-3, 5.0])),
        ([1, 0, 2, 1, 0], (("0", "1", "2"), "accuracy", [1, 0, 2, 1, 0])),
        ([True, False, True, True, False], (("False", "True"), "accuracy", [1, 0, 1, 1, 0])),
        (["1_1", "1_2", "1_1", "1_2", "1_1"], (("1_1", "1_2"), "accuracy", [0, 1, 0, 1, 0])),
        (["001", "2", "001", "2", "2"], (("001", "2"), "accuracy", [0, 1, 0, 1, 1])),
        (["b", "0", "0", "b", "1"], (("0", "1", "b"), "accuracy", [2, 0, 0, 2, 1])),
        (["९", "२", "९", "२", "२"], (("२", "९"), "accuracy", [1, 0, 1, 0, 0])),
    ],
    ids=["scores", "classes", "yes or no", "underscores", "leading zeros", "mixed", "Devanagari"],
)
def test_a_table_means_the_same_in_every_format(tmp_path, labels, expected, typed):
    rows = [{"text": t, "label": x} for (t,), x in zip(TEXTS, labels, strict=True)]
    if not typed:
        rows = [row | {"label": str(row["label"])} for row in rows]
    for data in (rows, pd.DataFrame(rows), datasets.Dataset.from_list(rows)):
        assert what(Task("x", train=data, text="text")) == (*expected, True)
    for suffix in SUFFIXES:
        path = write(tmp_path / f"data{suffix}", labels, typed=typed)
        task = load_task("x", train=path, validation=path, text="text")
        assert what(task) == (*expected, True), suffix


@pytest.mark.parametrize("labels", [[1.0, 0.0, 1.0], [1, 0, -1], ["a", "b", ""], [2, 3, 2]])
def test_a_table_is_refused_alike_in_every_format(tmp_path, labels):
    said = set()
    for suffix in SUFFIXES:
        path = write(tmp_path / f"data{suffix}", labels, typed=True)
        with pytest.raises(DataError) as error:
            load_task("x", train=path, validation=path, text="text")
        said.add(str(error.value))
    assert len(said) == 1


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        *(("1", 1), (" -2 ", -2), ("+0", 0), ("3.4", 3.4), ("1.", 1.0), (".5", 0.5), ("1e3", 1e3)),
        *(("1_1", None), ("01", None), ("00.5", None), ("0x1", None), ("1,5", None), ("", None)),
        *(("९", None), ("²", None), ("9" * 18, int("9" * 18)), ("9" * 19, None), ("1e999", np.inf)),
    ],
)
def test_the_number_that_a_cell_says(cell, number):
    assert number_of(cell) == number
    assert type(number_of(cell)) is type(number)


def test_no_split_is_read_in_another_way_than_the_first():
    """Numbers in the validation data are names where the training data have names."""
    rows = {"train": "ab0", "validation": "00b"}
    data = {s: [{"text": "x", "label": c} for c in cells] for s, cells in rows.items()}
    data["validation"][2]["label"] = "a"
    task = Task("x", text="text", **data)
    assert task.labels == ("0", "a", "b")
    assert task.validation.labels.tolist() == [0, 0, 1]
    only = Task(
        "x", text="text", train=data["train"], validation=data["train"][2:] * 2 + [data["train"][0]]
    )
    assert only.validation.labels.tolist() == [0, 0, 1]


def features(names, label="label"):
    value = datasets.ClassLabel(names=list(names))
    return datasets.Features({"text": datasets.Value("string"), label: value})


def named(names, values):
    rows = {"text": [f"t{i}" for i in range(len(values))], "label": values}
    return datasets.Dataset.from_dict(rows, features=features(names))


VALUES = [0, 1, 2, 2, 0]


def sources(data, folder, names=""):
    """The same data in memory, as Arrow, as Parquet and as a data set of the hub's library."""
    path = folder / f"data{names}.parquet"
    data.to_parquet(path)
    yield lambda **given: Task("x", train=data, validation=data, text="text", **given)
    yield lambda **given: Task("x", train=pq.read_table(path), text="text", **given)
    yield lambda **given: load_task("x", train=path, validation=path, text="text", **given)
    yield lambda **given: load_task(
        "x", train=path, validation=path, text="text", leave_out={"text": "none"}, **given
    )


def test_names_in_another_order_are_taken_by_name(tmp_path, caplog):
    for load in sources(named(NAMES, VALUES), tmp_path):
        task = load(labels=TURNED)
        assert [task.labels[i] for i in task.train.labels] == [NAMES[i] for i in VALUES]
        spelled = load(labels=("Contradiction", "NEUTRAL", "entailment"))
        assert spelled.train.labels.tolist() == task.train.labels.tolist() == [2, 1, 0, 0, 2]
        assert load().train.labels.tolist() == VALUES or load().labels == tuple(sorted(NAMES))
    assert not caplog.records


def test_other_names_rename_the_classes_and_the_log_says_so(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "lobes"):
        for load in sources(named(NAMES, VALUES), tmp_path):
            caplog.clear()
            task = load(labels=("yes", "maybe", "no"))
            assert task.train.labels.tolist() == VALUES
            assert (
                "Task 'x': train: classes get other names by their order: 'entailment' is now "
                "'yes', 'neutral' is now 'maybe', 'contradiction' is now 'no'."
            ) in caplog.messages


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("yes", "no"), "has 3 classes, which it calls 'entailment', .* has the 2 labels 'yes'"),
        (("no", "neither", "entailment"), "'entailment' is in both, but in another place"),
        (("neutral", "entailment"), "'contradiction', which is not one of the labels 'neutral'"),
    ],
)
def test_names_that_cannot_be_matched_are_refused(tmp_path, labels, message):
    for load in sources(named(NAMES, VALUES), tmp_path):
        with pytest.raises(DataError, match=f"^Task 'x': train.*{message}"):
            load(labels=labels)


def test_a_class_may_be_left_out_by_name(tmp_path):
    path = tmp_path / "data.parquet"
    named(NAMES, VALUES).to_parquet(path)
    for left_out in ("neutral", 1, "1", 1.0):
        task = load_task(
            "x",
            train=path,
            validation=path,
            text="text",
            labels=("contradiction", "entailment"),
            leave_out={"label": left_out},
        )
        assert task.train.labels.tolist() == [1, 0, 0, 1]
        assert load_task(
            "x", train=path, validation=path, text="text", leave_out={"label": left_out}
        ).labels == ("contradiction", "entailment")


def test_splits_whose_own_names_have_different_orders(tmp_path):
    for name, names in (("train", NAMES), ("validation", TURNED)):
        named(names, VALUES).to_parquet(tmp_path / f"{name}.parquet")
    files = {name: tmp_path / f"{name}.parquet" for name in ("train", "validation")}
    for labels in (None, TURNED):
        task = load_task("x", **files, text="text", labels=labels)
        assert [task.labels[i] for i in task.train.labels] == [NAMES[i] for i in VALUES]
        assert [task.labels[i] for i in task.validation.labels] == [TURNED[i] for i in VALUES]
    split = load_split("x", "test", train=files["train"], test=files["validation"], text="text")
    assert split.labels.tolist() == [2, 1, 0, 0, 2]


@pytest.mark.parametrize("kind", ["List", "list"])
def test_names_of_classes_in_lists_of_parquet(tmp_path, kind):
    feature = {"names": list(NAMES), "_type": "ClassLabel"}
    inner = {"feature": feature, "_type": "List"} if kind == "List" else [feature]
    table = pa.table({"text": ["a", "b", "c"], "label": [[0], [0, 1], [2]]})
    info = {"info": {"features": {"label": inner}}}
    path = tmp_path / "data.parquet"
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), path)
    task = load_task("x", train=path, validation=path, text="text", labels=TURNED)
    assert task.train.labels.tolist() == [[0, 0, 1], [0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("metadata", ["{", "[]", '{"info": {"features": {"label": {"names": 1}}}}'])
def test_metadata_of_another_kind_are_left_alone(tmp_path, metadata):
    table = pa.table({"text": ["a", "b"], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet")
    path = tmp_path / "x.parquet"
    assert load_task("x", train=path, validation=path, text="text").labels == ("0", "1")


def test_places_of_names_keep_what_only_punctuation_tells_apart():
    assert places_of(("a-b", "a_b"), ("a_b", "a-b")) == [1, 0]
    assert places_of(("not entailment", "entailment"), ("entailment", "not_entailment")) == [
        1,
        0,
    ]


def spelled(*cells):
    return [{"text": f"t{i}", "label": cell} for i, cell in enumerate(cells)]


def test_labels_that_differ_by_blanks_or_case_are_refused_with_counts():
    data = spelled("pos", "neg", "pos ", "neg", "pos", "POS")
    with pytest.raises(DataError) as error:
        Task("x", train=data, text="text")
    assert str(error.value) == (
        "Task 'x': train has labels in column 'label' that differ by blanks or case only: 'POS' "
        "(1 times), 'pos' (2 times), 'pos ' (1 times); make them one with fold_labels=true "
        "(fold_labels=True in Python), or name them as classes of their own with labels=(…)."
    )
    asked = Task("x", train=data, text="text", labels=("POS", "neg", "pos", "pos "))
    assert asked.train.labels.tolist() == [2, 1, 3, 1, 2, 0]


@pytest.mark.parametrize("labels", [None, ("neg", "pos")])
def test_labels_that_differ_by_blanks_or_case_are_folded_on_request(tmp_path, labels):
    data = spelled("pos", "neg", "pos ", " Neg", "pos", "neg")
    task = Task("x", train=data, validation=data, text="text", labels=labels, fold_labels=True)
    assert task.labels == ("neg", "pos")
    assert task.validation.labels.tolist() == [1, 0, 1, 0, 1, 0]
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, data)))
    given = {"train": path, "text": "text", "labels": labels, "fold_labels": True}
    assert load_task("x", validation=path, **given).train.labels.tolist() == [1, 0, 1, 0, 1, 0]
    assert load_split("x", "test", test=path, **given).labels.tolist() == [1, 0, 1, 0, 1, 0]
    lists = [row | {"label": [row["label"]]} for row in data]
    several = Task("x", train=lists, text="text", label="label", fold_labels=True)
    assert several.train.labels.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0], [0, 1], [1, 0]]


def test_a_label_in_another_case_than_the_tasks_is_refused_with_the_setting():
    with pytest.raises(DataError, match="Only blanks or case differ: make them one with fold_labe"):
        Task("x", train=spelled("pos", "Neg"), text="text", labels=("neg", "pos"))


@pytest.mark.parametrize("missing", [None, "", " ", float("nan"), pd.NA])
def test_rows_without_a_label_can_be_left_out(tmp_path, missing):
    labels = pd.Series([0, 1, 0, missing], dtype=object)
    text = labels.map(lambda cell: "" if missing is pd.NA and cell is missing else cell)
    for suffix in (".csv", ".tsv", ".jsonl"):
        path = write(tmp_path / f"x{suffix}", list(text), typed=True)
        given = {"train": path, "validation": path, "text": "text"}
        with pytest.raises(DataError, match=r"row 3 .*leave_out = {label = \"\"}|mixes|NaN|nan"):
            load_task("x", **given)
        task = load_task("x", **given, labels=["n", "p"], leave_out={"label": ""})
        assert task.train.labels.tolist() == [0, 1, 0]


def test_a_filter_compares_values_and_not_their_spelling(tmp_path):
    frame = pd.DataFrame(
        {"text": list("abcd"), "label": [0, 1, None, 1], "ok": [True, True, True, False]}
    )
    frame.to_parquet(tmp_path / "x.parquet")
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_json(tmp_path / "x.jsonl", orient="records", lines=True)
    for suffix in ("parquet", "csv", "jsonl"):
        path = tmp_path / f"x.{suffix}"
        given = {"train": path, "validation": path, "text": "text", "labels": ["n", "p"]}
        for kept in ([0, 1], ["0", "1"], [0.0, 1.0]):
            assert len(load_task("x", **given, filter={"label": kept}).train) == 3
        for true in ("True", "true", "TRUE"):
            task = load_task("x", **given, filter={"ok": true}, leave_out={"label": ""})
            assert task.train.labels.tolist() == [0, 1]
        task = load_task("x", **given, filter={"label": [0, 1]}, label_map={"0": "p", "1": "n"})
        assert task.train.labels.tolist() == [1, 0, 0]


def test_labels_with_a_decimal_comma_are_refused():
    with pytest.raises(DataError, match=r"decimal comma in column 'label', such as '3,4': write"):
        Task("x", train=spelled("3,4", "2", "1,25"), text="text")


def test_hidden_labels_name_the_cure():
    for cells in ((0, 1, -1), ("0", "1", "-1"), ("a", "b", "-1")):
        labels = None if cells[0] != "a" else ("a", "b")
        with pytest.raises(DataError, match=r"leave_out = {label = -1} in the study"):
            Task("x", train=spelled(*cells), text="text", labels=labels)


def test_sheets_of_a_workbook():
    rows = [["text", "label"], ["a", 0], ["", ""], ["b", 1.5]]
    found = rows_of_sheets({"Sheet1": rows, "Sheet2": [[""]]}, ("text",))
    assert found == [{"text": "a", "label": 0}, {"text": "b", "label": 1.5}]
    with pytest.raises(DataError, match=r"^has 2 sheets, 'a', 'b': keep one, or use CSV"):
        rows_of_sheets({"a": rows, "b": rows}, ("text",))
    with pytest.raises(DataError, match="has no column 'body'; its columns are 'text', 'label'"):
        rows_of_sheets({"a": rows}, ("body",))
    with pytest.raises(DataError, match="has no column 'text'"):
        rows_of_sheets({"a": []}, ("text",))


def test_a_workbook_is_read_as_the_same_csv(tmp_path):
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"text": ["NA", "null", 'say "so"'], "label": [3.4, 2, 0.5]})
    frame.to_excel(tmp_path / "x.xlsx", index=False)
    task = load_task("x", train=tmp_path / "x.xlsx", validation=tmp_path / "x.xlsx", text="text")
    assert task.train.texts == (("NA",), ("null",), ('say "so"',))
    assert task.train.labels.tolist() == [3.4, 2.0, 0.5]
    (tmp_path / "y.xlsx").write_bytes((tmp_path / "x.xlsx").read_bytes()[:700])
    with pytest.raises(DataError, match=r"is not a whole Excel workbook, or is damaged: .*[.]$"):
        load_task("x", train=tmp_path / "y.xlsx", text="text")


def test_a_workbook_without_its_reader_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "x.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError) as error:
        load_task("x", train=tmp_path / "x.xlsx", text="text")
    assert str(error.value) == (
        f"Task 'x': train: Reading '{tmp_path / 'x.xlsx'}' needs openpyxl: pip install "
        f"'lobes[excel]', or save the table as CSV UTF-8."
    )
