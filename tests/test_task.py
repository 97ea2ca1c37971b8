"""Tasks: what is accepted, and the sentence with which everything else is refused."""

import json
import pickle
from dataclasses import FrozenInstanceError

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lobes.errors import ConfigError, DataError, LobesError
from lobes.tasks.columns import Blocks
from lobes.tasks.examples import Examples
from lobes.tasks.task import Task, TaskSpec, as_tasks

ROWS = [
    {"sentence": "a fine day", "label": "good"},
    {"sentence": "a dull day", "label": "bad"},
    {"sentence": "a sad day", "label": "bad"},
]


def rows(*labels: object) -> list[dict[str, object]]:
    return [{"sentence": f"day {i}", "label": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        pd.DataFrame,
        pa.Table.from_pylist,
        datasets.Dataset.from_list,
    ],
    ids=["list", "tuple", "pandas", "arrow", "datasets"],
)
def test_every_kind_of_data_gives_the_same_task(convert):
    task = Task("mood", train=convert(ROWS), text="sentence")
    assert task.train.texts == (("a fine day",), ("a dull day",), ("a sad day",))
    assert task.train.labels.tolist() == [1, 0, 0]
    assert task.train.labels.dtype == np.int64
    assert task.labels == ("bad", "good")
    assert (task.metric, task.n_outputs, task.is_regression) == ("accuracy", 2, False)
    assert task.validation is None


def test_a_data_set_that_gives_tensors_is_read_all_the_same():
    data = datasets.Dataset.from_list(rows(2, 0, 1)).with_format("torch")
    assert Task("x", train=data, text="sentence").train.labels.tolist() == [2, 0, 1]


def test_pairs_of_texts_keep_the_order_of_the_columns():
    data = [{"b": "two", "a": "one", "y": 0}, {"b": "four", "a": "three", "y": 1}]
    task = Task("pair", train=data, text=("a", "b"), label="y")
    assert task.train.texts == (("one", "two"), ("three", "four"))
    assert (task.name, task.text, task.label) == ("pair", ("a", "b"), "y")


@pytest.mark.parametrize(
    ("labels", "names", "given"),
    [
        ((2, 0, 1), ("0", "1", "2"), None),
        ((True, False), ("False", "True"), None),
        ((True, False), ("1", "0"), ("1", "0")),
        ((1.0, 0.0), ("no", "yes"), ("no", "yes")),
        ((3, 1, 2), ("1", "2", "3"), ("1", "2", "3")),
        ((0, 1), ("1", "0"), ("1", "0")),
        (("b", "a"), ("b", "a"), ("b", "a")),
        (("NA", "null"), ("NA", "null"), None),
        ((np.int64(1), np.int8(0)), ("0", "1"), None),
    ],
)
def test_labels_become_class_indices(labels, names, given):
    task = Task("x", train=rows(*labels), text="sentence", labels=given)
    assert task.labels == names
    expected = (
        [names.index(str(v) if str(v) in names else str(int(v))) for v in labels]
        if (given is None or given[0] not in ("no", "yes"))
        else [int(v) for v in labels]
    )
    assert task.train.labels.tolist() == expected


def test_names_of_a_class_label_feature_are_kept():
    data = datasets.Dataset.from_list(rows(0, 1, 1)).cast_column(
        "label", datasets.ClassLabel(names=["spam", "ham", "neither"])
    )
    task = Task("x", train=data, text="sentence")
    assert task.labels == ("spam", "ham", "neither")
    assert task.train.labels.tolist() == [0, 1, 1]


def test_fractions_mean_regression():
    task = Task("x", train=rows(0.5, 2, 3.0), text="sentence")
    assert (task.labels, task.metric, task.n_outputs) == (None, "spearman", 1)
    assert task.train.labels.dtype == np.float64
    assert task.train.labels.tolist() == [0.5, 2.0, 3.0]


def test_a_metric_for_regression_makes_whole_numbers_targets():
    task = Task("x", train=rows(1, 5, 5), text="sentence", metric="pearson")
    assert task.is_regression
    assert task.train.labels.tolist() == [1.0, 5.0, 5.0]


def test_whole_floats_are_classes_where_the_metric_says_so():
    task = Task("x", train=rows(1.0, 0.0), text="sentence", metric="matthews")
    assert task.labels == ("0", "1")


def test_validation_alone_gives_the_label_names():
    assert Task("x", validation=ROWS, text="sentence").labels == ("bad", "good")


def test_examples_are_taken_as_they_are():
    examples = Examples((("one",), ("two",), ("three",)), np.array([1, 0, 1], dtype=np.int32))
    task = Task("x", train=examples, text="sentence", labels=("1", "0"))
    assert task.train.texts is examples.texts
    assert task.train.labels.tolist() == [1, 0, 1]
    regression = Examples((("one",), ("two",)), np.array([0.5, 1.0], dtype=np.float32))
    assert Task("x", train=regression, text="sentence").is_regression


def test_a_copy_has_other_examples_another_name_or_metric_and_the_same_data():
    task = Task("x", train=ROWS * 3, validation=ROWS, text="sentence")
    copy = task.replace(name="y", metric="matthews")
    assert (copy.name, copy.metric, copy.labels) == ("y", "matthews", task.labels)
    assert copy.train is task.train
    assert copy.validation is task.validation
    few = task.train.select([4, 2, 0])
    cut = task.replace(train=few, validation=None)
    assert cut.train is few
    assert cut.validation is None
    assert cut.spec == task.spec
    assert (task.name, len(task.train), task.metric) == ("x", 9, "accuracy")


def test_a_copy_refuses_what_the_task_cannot_have():
    task = Task("x", train=ROWS * 3, validation=ROWS, text="sentence")
    for changes, message in (
        ({"name": "a b"}, "'a b' cannot be a task's name"),
        ({"metric": "spearman"}, "Task 'x' has classes, which the metric 'spearman' cannot judge"),
        ({"train": task.train.select([])}, "Task 'x': train has no examples; give it some"),
        (
            {"validation": task.train.select([0, 3])},
            "Task 'x': validation has one class only: all 2 examples have the label 'good'",
        ),
        (
            {"train": Examples((("a",), ("b",)), np.array([0, 2]))},
            r"Task 'x': train has labels of int64 in the shape \[2\], from 0 to 2: expected "
            r"indices of 'bad', 'good', from 0 to 1.",
        ),
        (
            {"train": Examples((("a",), ("b",)), np.array([0.5, 1.0]))},
            "train has labels of float64 .* expected indices of 'bad', 'good'",
        ),
        (
            {"train": Examples((("a", "b"), ("b", "a")), np.array([0, 1]))},
            "train has examples without one text for each of 'sentence'",
        ),
    ):
        with pytest.raises(LobesError, match=message):
            task.replace(**changes)
    several = Task("m", train=[{"t": "a", "label": [1]}, {"t": "b", "label": [0, 1]}], text="t")
    with pytest.raises(DataError, match=r"same labels in all 2 examples, '1'; a task needs"):
        several.replace(train=several.train.select([0, 0]))
    with pytest.raises(DataError, match="expected a matrix with a column of 0 and 1 for each of"):
        several.replace(train=Examples((("a",), ("b",)), np.array([0, 1])))
    targets = Task("r", train=rows(0.5, 1.5), text="sentence")
    assert len(targets.replace(train=targets.train.select([1, 1])).train) == 2
    with pytest.raises(DataError, match="expected targets, which are floats"):
        targets.replace(train=Examples((("a",), ("b",)), np.array([0, 1])))


def test_an_error_of_rows_that_are_read_lazily_begins_with_the_split():
    def blocks():
        yield rows(0, 1)
        raise DataError("The file 'b.csv' is empty.")

    with pytest.raises(DataError, match=r"^Task 'x': validation: The file 'b.csv' is empty.$"):
        Task("x", train=ROWS, validation=Blocks(blocks), text="sentence")


def test_select_keeps_the_given_order():
    chosen = Task("x", train=ROWS, text="sentence").train.select([2, 0])
    assert chosen.texts == (("a sad day",), ("a fine day",))
    assert chosen.labels.tolist() == [0, 1]
    assert len(chosen.select(np.array([], dtype=np.int64))) == 0


def test_tasks_and_examples_are_frozen():
    task = Task("x", train=ROWS, text="sentence")
    with pytest.raises(FrozenInstanceError):
        task.metric = None
    with pytest.raises(ValueError, match="read-only"):
        task.train.labels[0] = 1


def test_a_task_survives_pickling():
    task = Task("x", train=ROWS, text="sentence")
    again = pickle.loads(pickle.dumps(task))
    assert again.spec == task.spec
    assert again.train.texts == task.train.texts


def test_the_repr_gives_sizes_and_no_data():
    assert repr(Task("x", train=ROWS, text="sentence")) == (
        "Task('x', train: 3, validation: none, labels=('bad', 'good'), metric='accuracy')"
    )


def test_a_task_without_data_needs_its_labels():
    task = Task("x", text="sentence", labels=("a", "b"))
    assert (task.train, task.validation, task.n_outputs) == (None, None, 2)
    with pytest.raises(DataError) as error:
        Task("x", text="sentence")
    assert str(error.value) == (
        "Task 'x' has neither data nor labels: give one of train, validation or labels, for "
        'example labels=("negative", "positive").'
    )


@pytest.mark.parametrize("labels", [("a", "b"), None])
def test_a_spec_survives_json(labels):
    metric = "spearman" if labels is None else "f1"
    spec = TaskSpec("x", ("a", "b"), "label", labels, metric)
    assert TaskSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


LISTED = "its columns are 'sentence', 'label'."

REFUSED = {
    "missing text column": (
        {"train": ROWS, "text": "sentense"},
        f"Task 'x': train has no column 'sentense'; {LISTED} Did you mean 'sentence'?",
    ),
    "missing label column": (
        {"train": pd.DataFrame(ROWS), "label": "class"},
        f"Task 'x': train has no column 'class'; {LISTED}",
    ),
    "one row without a column": (
        {"train": [*ROWS, {"sentence": "no label here"}]},
        "Task 'x': train row 3 has no column 'label'; its columns are 'sentence'.",
    ),
    "a column twice": (
        {"train": pd.DataFrame([["a", "b", 0]], columns=["sentence", "sentence", "label"])},
        "Task 'x': train has the column 'sentence' twice; rename one of them.",
    ),
    "unknown label": (
        {"train": rows("a", "b"), "validation": rows("a", "b", "bb"), "labels": ("a", "b")},
        "Task 'x': validation row 2 has the label 'bb' in column 'label', which is not one of "
        "the labels 'a', 'b'. Did you mean 'b'?",
    ),
    "label that training never shows": (
        {"train": rows("a", "b"), "validation": rows("a", "c")},
        "Task 'x': validation row 1 has the label 'c' in column 'label', which is not one of "
        "the labels 'a', 'b'.",
    ),
    "numbers beside text": (
        {"train": rows("a", "b"), "validation": rows(1, 0)},
        "Task 'x': validation has labels that are not text in column 'label', such as 1, and "
        "train has text, such as 'a': write the labels of all splits alike, or name the classes in "
        "the order of their numbers with labels=(…).",
    ),
    "truths beside text": (
        {"train": rows("a", "b"), "validation": rows(True, False)},
        "Task 'x': validation has labels that are not text in column 'label', such as True, "
        "and train has text, such as 'a': write the labels of all splits alike, or name the "
        "classes in the order of their numbers with labels=(…).",
    ),
    "numbers as text beside text": (
        {"train": rows("a", "b"), "validation": rows("1", "0")},
        "Task 'x': validation row 0 has the label '1' in column 'label', which is not one of the "
        "labels 'a', 'b'. If 0 to 1 stand for these names, say so with labels=(…), in the order of "
        "the numbers.",
    ),
    "index out of range": (
        {"train": rows(0, 1, 2), "labels": ("a", "b")},
        "Task 'x': train row 2 has the label 2 in column 'label', which is not a class: expected "
        "a whole number from 0 to 1, for the labels 'a', 'b'.",
    ),
    "hidden label": (
        {"train": rows(0, 1), "validation": rows(-1, -1)},
        "Task 'x': validation row 0 has the label -1 in column 'label', which is not a class: "
        "expected a whole number from 0 to 1, for the labels '0', '1'. Labels of -1 mark hidden "
        "answers: use a split with labels, or leave such rows out with leave_out = {label = -1} in "
        "the study.",
    ),
    "number that no name says": (
        {"train": rows(1, 2, 0), "labels": ("1", "2")},
        "Task 'x': train row 2 has the label 0 in column 'label', which is not one of the labels "
        "'1', '2'.",
    ),
    "class with a fraction": (
        {"train": rows(0, 1, 0.5), "labels": ("a", "b")},
        "Task 'x': train row 2 has the label 0.5 in column 'label', which is not a class: "
        "expected a whole number from 0 to 1, for the labels 'a', 'b'.",
    ),
    "gap between indices": (
        {"train": rows(1, 2, 1)},
        "Task 'x': train has the labels 1, 2 in column 'label'; without label names they must be "
        "0 to 1 without a gap: give the names with labels=(…).",
    ),
    "classes or targets": (
        {"train": rows(1.0, 2.0)},
        "Task 'x': train has whole numbers stored as floats in the label column 'label' (row 0: "
        "1.0), which could be classes or targets: give labels=(…) for classes, or "
        'metric="spearman" for regression.',
    ),
    "targets with a metric for classes": (
        {"train": rows(1.0, 0.5), "metric": "accuracy"},
        "Task 'x': train has the label 0.5 in column 'label', but the metric 'accuracy' is for "
        'classes: use metric="spearman" for regression, or another column.',
    ),
    "text for regression": (
        {"train": ROWS, "metric": "spearman"},
        "Task 'x': train has text labels in column 'label' (row 0: 'good'), but a regression "
        'task needs numbers; use a metric for classes, such as "accuracy", or another label '
        "column.",
    ),
    "empty list": (
        {"train": []},
        "Task 'x': train has no examples; give it some, or leave the split out.",
    ),
    "empty frame": (
        {"train": ROWS, "validation": pd.DataFrame(ROWS)[:0]},
        "Task 'x': validation has no examples; give it some, or leave the split out.",
    ),
    "empty examples": (
        {"train": Examples((), np.array([], dtype=np.int64)), "labels": ("a", "b")},
        "Task 'x': train has no examples; give it some, or leave the split out.",
    ),
    "one class in train": (
        {"train": rows("a", "a", "a")},
        "Task 'x': train has one class only: all 3 examples have the label 'a'; a task needs two "
        "classes or more in each split.",
    ),
    "one class in validation": (
        {"train": rows(0, 1), "validation": rows(1, 1)},
        "Task 'x': validation has one class only: all 2 examples have the label 1; a task needs "
        "two classes or more in each split.",
    ),
    "label None": (
        {"train": rows("a", None, "b")},
        "Task 'x': train row 1 has no label in column 'label' (None); correct or remove the row, "
        'or leave such rows out with leave_out = {label = ""} in the study.',
    ),
    "label NaN": (
        {"train": pd.DataFrame(rows(0.0, 1.0, float("nan"))), "labels": ("a", "b")},
        "Task 'x': train row 2 has no label in column 'label' (nan); correct or remove the row, "
        'or leave such rows out with leave_out = {label = ""} in the study.',
    ),
    "label NA": (
        {"train": rows(0, 1, pd.NA)},
        "Task 'x': train row 2 has no label in column 'label' (<NA>); correct or remove the row, "
        'or leave such rows out with leave_out = {label = ""} in the study.',
    ),
    "labels of two kinds": (
        {"train": rows("a", "b", 1)},
        "Task 'x': train mixes text and numbers in the label column 'label': row 0 has 'a', row 2 "
        "has 1; use one kind.",
    ),
    "label of another kind": (
        {"train": rows(0, [1])},
        "Task 'x': train row 0 has 0 in column 'label', where other rows have lists of labels: "
        "expected a list in each, [] for no label.",
    ),
    "infinite target": (
        {"train": rows(0.5, float("inf"))},
        "Task 'x': train row 1 has the target inf: targets are finite numbers; correct or remove "
        "the row.",
    ),
    "text None": (
        {"train": [*ROWS, {"sentence": None, "label": "bad"}]},
        "Task 'x': train row 3 has no text in column 'sentence' (None); correct or remove the row.",
    ),
    "text NaN": (
        {"train": pd.DataFrame([*ROWS, {"sentence": float("nan"), "label": "bad"}])},
        "Task 'x': train row 3 has no text in column 'sentence' (nan); correct or remove the row.",
    ),
    "text of numbers": (
        {"train": rows("a", "b"), "text": "n", "validation": None},
        "Task 'x': train has no column 'n'; its columns are 'sentence', 'label'.",
    ),
    "numbers for text": (
        {"train": [{"sentence": 7.5, "label": 0}, {"sentence": 1.5, "label": 1}]},
        "Task 'x': train row 0 has 7.5 in the text column 'sentence', which is a number and not "
        "text; name another column, or turn it into text.",
    ),
    "blank text": (
        {"train": [*ROWS, {"sentence": " \n", "label": "bad"}]},
        "Task 'x': train row 3 has an empty text in 'sentence'; correct or remove it.",
    ),
    "unsupported data": (
        {"train": {"sentence": ["a"], "label": [0]}},
        "Task 'x': train is a dict: expected a datasets.Dataset, a pandas or polars DataFrame, a "
        "pyarrow.Table or a list of dicts, holding one split. Columns become rows with "
        "pandas.DataFrame(data).",
    ),
    "streaming data": (
        {"train": datasets.Dataset.from_list(ROWS).to_iterable_dataset()},
        "Task 'x': train is a datasets.iterable_dataset.IterableDataset: expected a "
        "datasets.Dataset, a pandas or polars DataFrame, a pyarrow.Table or a list of dicts, "
        "holding one split. Rows that are streamed become a list with list(data).",
    ),
    "rows that are no dicts": (
        {"train": [("a", 0)]},
        "Task 'x': train row 0 is a tuple: expected a dict with the columns 'sentence', 'label'.",
    ),
    "bad name": (
        {"name": "my task", "train": ROWS},
        "'my task' cannot be a task's name: use letters, digits, '-' and '_' only, since files "
        "are named after it.",
    ),
    "label name twice": (
        {"train": ROWS, "labels": ("good", "bad", "good")},
        "Task 'x' has the label name 'good' twice.",
    ),
    "label name that is no text": (
        {"train": ROWS, "labels": ("good", "")},
        "Task 'x' has the label name '': names are text, such as "
        'labels=("negative", "positive").',
    ),
    "one label name": (
        {"train": ROWS, "labels": ("good",)},
        "Task 'x' has 1 label names: expected two or more, or None for regression.",
    ),
    "three text columns": (
        {"train": ROWS, "text": ("a", "b", "c")},
        "Task 'x' has 3 text columns: expected one, or two for pairs of texts.",
    ),
    "label as text": (
        {"train": ROWS, "text": ("sentence", "label")},
        "Task 'x' takes column 'label' both as text and as label.",
    ),
    "examples of another width": (
        {"train": Examples((("a",), ("b",)), np.array([0, 1])), "text": ("a", "b")},
        "Task 'x': train has examples without one text for each of 'a', 'b'.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(case):
    arguments, message = REFUSED[case]
    with pytest.raises(DataError) as error:
        Task(**{"name": "x", "text": "sentence", **arguments})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"metric": "acuracy"},
            "'acuracy' is not a metric: choose one of accuracy, f1, f1_micro, f1_macro, greedy, "
            "matthews, spearman, pearson. Did you mean 'accuracy'?",
        ),
        (
            {"metric": "spearman", "labels": ("bad", "good")},
            "Task 'x' has classes, which the metric 'spearman' cannot judge: use \"accuracy\", or "
            "another metric for classes.",
        ),
        (
            {"metric": "f1", "labels": ("bad", "good", "neither")},
            "Task 'x' has 3 classes, but the metric 'f1' is for two: use \"f1_macro\", "
            '"accuracy" or "matthews".',
        ),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ConfigError) as error:
        Task("x", train=ROWS, text="sentence", **arguments)
    assert str(error.value) == message


def test_a_spec_for_regression_refuses_a_metric_for_classes():
    with pytest.raises(ConfigError, match="has regression, which the metric 'accuracy' cannot"):
        TaskSpec("x", ("a",), "label", None, "accuracy")


def test_examples_need_a_label_for_each_text():
    with pytest.raises(DataError, match=r"^1 texts and 2 labels: expected one label for each"):
        Examples((("a",),), np.array([0, 1]))


def test_task_names_differ():
    task = Task("x", train=ROWS, text="sentence")
    other = Task("y", train=ROWS, text="sentence")
    assert as_tasks([task, other]) == (task, other)
    assert as_tasks(task) == (task,)
    with pytest.raises(DataError) as error:
        as_tasks([task, other, task])
    assert str(error.value) == (
        "Two tasks are called 'x': give each its own name, since results are kept by name."
    )
    with pytest.raises(DataError, match=r"^No task was given: expected one or more"):
        as_tasks([])


class Frame:
    """What a polars.DataFrame, a DuckDB relation and others offer: a stream of Arrow data."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def test_any_table_that_speaks_arrow_and_any_rows_that_come_one_by_one_are_read():
    rows = [
        {"text": f"text {number}", "label": ("bad", "fine", "good")[number % 3]}
        for number in range(11)
    ]
    table = pa.Table.from_pylist(rows)
    columns = {"text": pa.large_string(), "label": pa.dictionary(pa.int32(), pa.large_string())}
    typed = table.cast(pa.schema(columns))  # as polars exports a String and a Categorical
    given = [
        Frame(table),
        Frame(typed),
        Frame(pa.chunked_array([table.to_struct_array().chunk(0)])),
        pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=3)),
        (row for row in rows),
        map(dict, rows),
    ]
    expected = Task("x", train=rows, text="text")
    for data in given:
        task = Task("x", train=data, text="text")
        assert [*task.train.texts] == [*expected.train.texts]
        assert task.labels == ("bad", "fine", "good")
        np.testing.assert_array_equal(task.train.labels, expected.train.labels)


def test_what_arrow_cannot_read_as_a_table_is_refused_with_the_reason():
    with pytest.raises(DataError, match="train is a Frame that Arrow cannot read: "):
        Task("x", train=Frame(pa.chunked_array([[1, 2, 3]])), text="text")
