"""Several labels for one example: how they are read, what is refused, and what is computed."""

import json

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification, BertModel

from data_files import write_table
from lobes.config.study import load_study
from lobes.dissociation import Lesion, LesionMatrix
from lobes.dissociation.statistics import paired_p_value
from lobes.errors import ConfigError, DataError, ModelError
from lobes.experiments.probe import pooled_features, probe
from lobes.experiments.task_listing import describe_task
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate, predictions_of
from lobes.measure.importance import head_importance
from lobes.metrics import METRICS
from lobes.modeling import MultiTaskModel, SingleTaskModel, load_task_model
from lobes.modeling.export_task import export_task
from lobes.modeling.task_model import example_losses
from lobes.tasks.examples import Examples
from lobes.tasks.prompts import Prompt
from lobes.tasks.sources import load_split, load_task
from lobes.tasks.subsets import growing_order, hold_out, subset_sizes
from lobes.tasks.task import Task, TaskSpec
from lobes.training.arguments import training_arguments
from lobes.training.iat import IAT
from lobes.training.trainer import MultiTaskTrainer
from tiny_models import TINY, VOCABULARY, tiny_model
from tiny_tasks import MARKS, MOODS, TOPICS, marks_task, mood_task, tiny_tokenizer, warmth_task

NAMES = ("anger", "fear", "joy")
LISTS = [["joy"], [], ["fear", "anger"], ["joy", "fear"], ["anger"]]
MATRIX = [[0, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 0]]


def rows(*labels):
    return [{"text": f"text {i}", "label": label} for i, label in enumerate(labels)]


def indices(lists):
    return [[NAMES.index(name) for name in names] for names in lists]


def emotions(data=None, **settings):
    data = rows(*LISTS) if data is None else data
    return Task("emotions", **{"train": data, "text": "text", **settings})


# Reading


def of_datasets(lists):
    feature = datasets.List(datasets.ClassLabel(names=list(NAMES)))
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    return datasets.Dataset.from_list(rows(*indices(lists)), features=features)


@pytest.mark.parametrize(
    "data",
    [
        rows(*LISTS),
        rows(*map(tuple, LISTS)),
        rows(*(np.array(names, dtype=object) for names in LISTS)),
        pd.DataFrame(rows(*LISTS)),
        pa.Table.from_pylist(rows(*LISTS)),
        datasets.Dataset.from_list(rows(*LISTS)),
        of_datasets(LISTS),
        of_datasets(LISTS).with_format("torch"),
        Examples(tuple((f"text {i}",) for i in range(5)), np.array(MATRIX)),
    ],
    ids=["list", "tuple", "array", "pandas", "arrow", "names", "classes", "torch", "examples"],
)
@pytest.mark.parametrize("labels", [None, NAMES])
def test_lists_of_labels_are_a_matrix(data, labels):
    task = emotions(data, labels=labels)
    assert task.train.labels.tolist() == MATRIX
    assert task.train.labels.dtype == np.int64
    assert task.train.texts[3] == ("text 3",)
    own = ("0", "1", "2") if isinstance(data, Examples) and labels is None else NAMES
    assert (task.labels, task.n_outputs) == (own, 3)
    assert (task.metric, task.is_multi_label, task.is_regression) == ("f1_micro", True, False)


def test_class_indices_in_lists_mean_the_names_given():
    task = emotions(rows(*indices(LISTS)), labels=NAMES)
    assert task.train.labels.tolist() == MATRIX
    assert emotions(rows(*indices(LISTS))).labels == ("0", "1", "2")
    stars = emotions(rows([5], [1, 5], []), labels=("1", "5"))  # names that are numbers
    assert stars.train.labels.tolist() == [[0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    "cells",
    [
        [0, 1],
        [False, True],
        [0.0, 1.0],
        ["0", "1"],
        ["false", "True"],
        [np.int8(0), np.bool_(True)],
    ],
)
def test_columns_of_yes_and_no_are_named_like_the_labels(cells):
    data = [
        {"text": "a", "toxic": cells[1], "insult": cells[0]},
        {"text": "b", "toxic": cells[0], "insult": cells[0]},
        {"text": "c", "toxic": cells[1], "insult": cells[1]},
    ]
    task = Task("jigsaw", train=data, text="text", label=["toxic", "insult"])
    assert task.labels == task.label == ("toxic", "insult")
    assert task.train.labels.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert task.metric == "f1_micro"
    again = Task("x", train=task.train, text="text", label=task.label, labels=task.labels)
    assert again.spec.labels == task.labels


@pytest.mark.parametrize(
    ("data", "given", "message"),
    [
        (rows(["joy"], "fear"), {}, "row 1 has 'fear' in column 'label', where other rows have"),
        (rows(["joy"], None), {}, "row 1 has None in column 'label', where other rows have lists"),
        (rows(["joy"], ["fear", None]), {}, r"row 1 has no label in column 'label' \(None\)"),
        (rows(["joy"], [["fear"]]), {}, r"row 1 has \[\['fear'\]\] in column 'label': expected a"),
        (rows(["joy"], [], ["fear", 1]), {}, "row 0 has 'joy', row 2 has 1; use one kind"),
        (rows(["joy"], [{}]), {}, r"row 1 has the label \{\} in column 'label', which is a dict"),
        (rows(["a"], ["b", "a", "b"]), {}, "row 1 has the label 'b' twice in column 'label'"),
        (rows([1, 0, 0], [0, 1, 1]), {}, "row 0 has the label 0 twice .* takes a column for each"),
        (rows([1.0, 0.0], [0.0, 1.0]), {}, r"row 0 has \[1.0, 0.0\] .* takes a column for each"),
        (rows([True, False], [False, True]), {}, "row 0 has .* takes a column for each"),
        (rows(["joy"], ["joy", "glee"]), {"labels": NAMES}, "row 1 has the label 'glee' in column"),
        (rows([0], [2]), {"labels": ("a", "b")}, "row 1 has the label 2 .* from 0 to 1"),
        (rows([0], [2]), {}, "has the labels 0, 2 .* without a gap"),
        (rows([], []), {}, "has the same labels in all 2 examples, none; a task needs a label"),
        (rows([1, 0], [0, 1]), {}, "has the same labels in all 2 examples, 1, 0;"),
        (rows(["joy"], []), {"labels": ["joy"]}, "has 1 label names: expected two or more"),
        (rows(["joy"], []), {"metric": "pearson"}, "has several labels for one example in column"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(data, given, message):
    with pytest.raises(DataError, match=f"'emotions'.*{message}"):
        emotions(data, **given)


def test_a_list_for_each_label_can_never_pass_for_indices():
    """Lists of 0 and 1, one for each of k labels: some label would be twice, or none differs."""
    for width in (2, 3, 5):
        generator = np.random.default_rng(width)
        for _ in range(20):
            given = generator.integers(0, 2, (7, width)).tolist()
            with pytest.raises(DataError, match=r"twice|same labels"):
                emotions(rows(*given), labels=tuple("abcde"[:width]))


YES_NO = {"a": [0, 1, 1], "b": [1, 0, 0]}


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({**YES_NO, "b": [1, 2, 0]}, {}, "row 1 has 2 in the label column 'b': expected 0 or 1"),
        ({**YES_NO, "b": [1, 0, None]}, {}, "row 2 has None in the label column 'b'"),
        ({**YES_NO, "b": [1, 0, 0.5]}, {}, "row 2 has 0.5 in the label column 'b'"),
        ({**YES_NO, "a": [-1, 1, 1]}, {}, "row 0 has -1 .*-1 mark hidden answers: use a split"),
        ({**YES_NO, "a": [[1], 1, 1]}, {}, r"row 0 has \[1\] in the label column 'a'"),
        ({"a": [1, 0, 1]}, {}, "has no column 'b'"),
        ({"a": [1, 1, 1], "b": [0, 0, 0]}, {}, "has the same labels in all 3 examples, 'a';"),
        (YES_NO, {"labels": ("b", "a")}, "leave the labels out, they are the names of the columns"),
        (YES_NO, {"label": ("a", "a")}, "the label name 'a' twice"),
        (YES_NO, {"label": ("a",)}, "has 1 label names: expected two or more"),
        (YES_NO, {"label": ("a", "text")}, "takes column 'text' both as text and as label"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(columns, given, message):
    frame = pd.DataFrame({"text": ["x", "y", "z"], **columns}, dtype=object)
    with pytest.raises(DataError, match=f"'t'.*{message}"):
        Task("t", **{"train": frame, "text": "text", "label": ("a", "b"), **given})


def test_both_splits_have_lists_or_neither():
    message = "several labels for one example in one place .* and one label in another"
    with pytest.raises(DataError, match=message):
        emotions(validation=rows("joy", "fear"))
    with pytest.raises(DataError, match=message):
        emotions(Examples((("a",), ("b",)), np.array([0, 1])), label=("a", "b"))
    with pytest.raises(DataError, match="the label 'glee' in column"):
        emotions(validation=rows(["joy"], ["glee"]))
    with pytest.raises(DataError, match=r"says of 2 classes .*, but the task has the 3 labels"):
        emotions(Examples((("a",), ("b",)), np.eye(2, dtype=np.int64)), labels=NAMES)


def test_examples_say_0_or_1_of_each_class():
    with pytest.raises(DataError, match=r"Labels of the shape \[2, 2\] .* whole numbers, 0 or 1"):
        Examples((("a",), ("b",)), np.array([[0, 2], [1, 0]]))


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_a_metric_of_one_label_is_refused(metric):
    with pytest.raises(ConfigError, match=f'{metric!r} cannot judge: use "f1_micro", "f1_macro"'):
        emotions(metric=metric)
    assert emotions(metric="f1_macro").metric == "f1_macro"


@pytest.mark.parametrize("label", ["label", NAMES])
def test_a_spec_survives_json_and_an_old_one_has_one_label(label):
    spec = TaskSpec("emotions", ("text",), label, NAMES, "f1_macro", True)
    values = json.loads(json.dumps(spec.to_dict()))
    assert TaskSpec.from_dict(values) == spec
    plain = TaskSpec("x", ("text",), "label", NAMES, "accuracy")
    assert "is_multi_label" not in plain.to_dict()
    assert not TaskSpec.from_dict(plain.to_dict()).is_multi_label
    assert hash(spec) != hash(plain)


# Files


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("lists", [LISTS, indices(LISTS)], ids=["names", "indices"])
def test_files_with_lists(tmp_path, suffix, lists):
    path = write_table(tmp_path / f"data{suffix}", rows(*lists))
    task = load_task("x", train=path, validation=path, text="text", labels=NAMES)
    assert task.train.labels.tolist() == task.validation.labels.tolist() == MATRIX


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv", ".tsv"])
@pytest.mark.parametrize("kind", [int, bool])
def test_files_with_a_column_for_each_label(tmp_path, suffix, kind):
    data = [
        {"text": f"text {i}", **dict(zip(NAMES, map(kind, row), strict=True))}
        for i, row in enumerate(MATRIX)
    ]
    path = write_table(tmp_path / f"data{suffix}", data)
    task = load_task("x", train=path, validation=path, text="text", label=NAMES)
    assert (task.labels, task.train.labels.tolist()) == (NAMES, MATRIX)


@pytest.mark.parametrize("labels", [None, NAMES])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_lists_in_cells_of_text_are_refused_with_the_way_out(tmp_path, suffix, labels):
    path = write_table(tmp_path / f"data{suffix}", rows(*indices(LISTS)))
    with pytest.raises(DataError, match=r"written as text .* such as '\[2\]': .* JSON"):
        load_task("x", train=path, validation=path, text="text", labels=labels)


def test_columns_can_have_other_names_and_other_cells(tmp_path):
    data = [
        {"text": "a", "Toxic?": "yes", "insult": "no", "lang": "en"},
        {"text": "b", "Toxic?": "no", "insult": "no", "lang": "de"},
        {"text": "c", "Toxic?": "no", "insult": "yes", "lang": "en"},
    ]
    path = write_table(tmp_path / "data.csv", data)
    settings = {
        "text": "text",
        "label": ["toxic", "insult"],
        "columns": {"toxic": "Toxic?"},
        "label_map": {"yes": 1, "no": 0},
        "filter": {"lang": "en"},
    }
    task = load_task("x", train=path, validation=path, **settings)
    assert task.train.labels.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(DataError, match="has the label 'no', which label_map lacks"):
        load_task("x", train=path, validation=path, **{**settings, "label_map": {"yes": 1}})


def test_a_map_joins_labels_and_a_filter_looks_into_lists(tmp_path):
    lists = [["joy", "love"], ["fear"], [], ["love", "fear"], ["boredom"]]
    path = write_table(tmp_path / "data.jsonl", rows(*lists))
    task = load_task(
        "x",
        train=path,
        validation=path,
        text="text",
        label_map={"joy": "good", "love": "good", "fear": "bad"},
        leave_out={"label": "boredom"},
    )
    assert task.labels == ("bad", "good")
    assert task.train.labels.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize("cell", [[[]], [["joy"]], ["joy", {}], ["joy", None], ["glee"]])
def test_a_map_refuses_what_it_lacks_in_a_list(tmp_path, cell):
    path = write_table(tmp_path / "data.jsonl", rows(["joy"], cell))
    with pytest.raises(
        DataError, match=r"row 1 of those that are kept has the label .*, which lab"
    ):
        load_task("x", train=path, validation=path, text="text", label_map={"joy": "good"})


@pytest.mark.parametrize("labels", [None, NAMES, ("rage", "dread", "glee")])
def test_data_of_the_hub_go_by_the_names_of_their_classes(monkeypatch, labels):
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **more: of_datasets(LISTS * 2))
    settings = {"dataset": "o/e", "validation": "validation", "text": "text", "labels": labels}
    task = load_task("x", **settings)
    assert task.train.labels.tolist() == MATRIX * 2
    assert task.labels == (labels or NAMES)
    if labels is None:
        kept = load_task("x", **settings, filter={"label": "joy"})
        assert kept.train.labels.tolist() == [[0, 1], [1, 1]] * 2
        assert kept.labels == ("fear", "joy")


def test_a_test_split_may_hide_its_answers(tmp_path):
    data = [
        {"text": f"text {i}", **dict(zip(NAMES, row, strict=True))} for i, row in enumerate(MATRIX)
    ]
    train = write_table(tmp_path / "train.csv", data)
    hidden = write_table(
        tmp_path / "hidden.csv", [{**row, **dict.fromkeys(NAMES, -1)} for row in data]
    )
    bare = write_table(tmp_path / "bare.csv", [{"text": row["text"]} for row in data])
    settings = {"train": train, "text": "text", "label": NAMES}
    assert load_split("x", "test", test=train, **settings).labels.tolist() == MATRIX
    for path in (hidden, bare):
        assert load_split("x", "test", test=path, **settings).labels is None


# Parts of the data


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=30))
def test_strata_are_the_rarest_labels(chosen):
    labels = np.array(chosen, dtype=np.int64)
    examples = Examples(tuple((str(i),) for i in range(len(labels))), labels)
    often = labels.sum(axis=0)
    for row, stratum in zip(labels, examples.strata(), strict=True):
        own = np.flatnonzero(row)
        assert stratum == (min(own, key=lambda j: (often[j], j)) if len(own) else 4)


def test_strata_of_one_label_are_the_classes():
    task = mood_task()
    np.testing.assert_array_equal(task.train.strata(), task.train.labels)
    assert not warmth_task().train.strata().any()


def yes_or_no(matrix):
    """Rows with a column of 0 and 1 for each of `NAMES`."""
    return [
        {"text": f"t {i}", **dict(zip(NAMES, row, strict=True))} for i, row in enumerate(matrix)
    ]


def many(n=400, seed=0):
    """A task of frequent, rare and no labels at all."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((n, 4)) < (0.5, 0.3, 0.1, 0.02)).astype(np.int64)
    examples = Examples(tuple((f"text {i}",) for i in range(n)), labels)
    return Task("many", train=examples, text="text", labels=tuple("abcd"))


def test_what_is_held_out_has_the_rare_labels_in_their_shares():
    task = many()
    for seed in range(3):
        parted = hold_out(task, 0.25, seed)
        assert parted.spec == task.spec
        assert len(parted.validation) == pytest.approx(100, abs=3)
        assert len(parted.train) + len(parted.validation) == 400
        rare = task.train.labels[:, 3].sum()
        assert parted.validation.labels[:, 3].sum() == pytest.approx(rare / 4, abs=1)


def test_every_beginning_of_the_growing_order_is_a_task():
    task = many()
    order = growing_order(task, 0)
    least, half, whole = subset_sizes(task, [0.001, 0.5, 1.0])
    assert (least, half, whole) == (5, 200, 400)
    first = task.train.select(order[:least])
    assert first.labels.any(axis=0).tolist() == [True] * 4
    assert (first.labels.sum(axis=1) == 0).sum() == 1
    often = task.train.labels.mean(axis=0)
    np.testing.assert_allclose(
        task.train.select(order[:half]).labels.mean(axis=0), often, atol=0.03
    )


def test_a_stratified_sample_keeps_the_share_of_the_rare_labels(tmp_path):
    lists = [
        [name for name, on in zip("abcd", row, strict=True) if on] for row in many().train.labels
    ]
    path = write_table(tmp_path / "data.jsonl", rows(*lists))
    settings = {"train": path, "validation": path, "text": "text", "labels": tuple("abcd")}
    task = load_task("many", **settings, train_size=100, stratified=True)
    rare = sum("d" in names for names in lists)
    assert len(task.train) == 100
    assert task.train.labels[:, 3].sum() == pytest.approx(rare / 4, abs=1)


# What is computed


def test_the_loss_is_binary_cross_entropy_and_0_is_the_border():
    spec = emotions().spec
    logits, labels = torch.tensor([[2.0, -1.0, 0.0]]), torch.tensor([[1, 0, 1]])
    p = torch.sigmoid(logits[0])
    by_hand = -(torch.log(p[0]) + torch.log(1 - p[1]) + torch.log(p[2])) / 3
    torch.testing.assert_close(example_losses(logits, labels, spec), by_hand[None])
    found = predictions_of(np.array([[[0.1, 0.0, -3.0], [5.0, 1e-9, -0.0]]]), spec)
    assert found.tolist() == [[[1, 0, 0], [1, 1, 0]]]
    assert found.dtype.kind == "i"


@pytest.fixture(scope="module")
def model():
    tasks = [marks_task(31, 23), mood_task(29, 19)]
    return MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks).eval()


def test_the_models_own_loss_is_the_mean_over_the_batch(model):
    inputs = dict(
        tiny_tokenizer()(["a merry boat", "the dull star"], padding=True, return_tensors="pt")
    )
    labels = torch.tensor([[1, 1, 0], [0, 0, 1]])
    found = model(**inputs, task="marks", labels=labels)
    wanted = torch.nn.BCEWithLogitsLoss()(found.logits, labels.float())
    torch.testing.assert_close(found.loss, wanted)


def test_scores_under_lesions_are_those_of_the_predictions(model):
    tasks = [marks_task(31, 23), mood_task(29, 19)]
    found = evaluate(model, tasks, [HeadSet(), HeadSet.parse("0:1 1:3")])
    assert found.predictions("marks").shape == (2, 23, 3)
    assert found.labels["marks"].shape == (23, 3)
    probabilities = 1 / (1 + np.exp(-found.logits["marks"]))
    np.testing.assert_array_equal(found.predictions("marks"), probabilities > 0.5)
    by_hand = [METRICS["f1_micro"](found.labels["marks"], p) for p in found.predictions("marks")]
    np.testing.assert_array_equal(found.scores()[:, 0], by_hand)


def test_importance_is_that_of_the_loss(model):
    scores = head_importance(model, marks_task(31, 23), aggregate="token")
    assert scores.values.shape == (2, 5)
    assert (scores.values > 0).all()


def test_a_saved_model_knows_its_task(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    loaded = load_task_model(tmp_path / "model")
    assert loaded.spec("marks").is_multi_label
    assert not loaded.spec("mood").is_multi_label
    one_label = TaskSpec("marks", ("text",), "marks", MARKS, "accuracy")
    with pytest.raises(ModelError, match="'marks' has several labels for each example, unlike"):
        load_task_model(tmp_path / "model", [one_label, mood_task().spec])


def classifier(problem):
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=30,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=34,
        problem_type=problem,
        id2label=dict(enumerate(("sky", "good", "sea"))),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BertForSequenceClassification(config).eval()


def test_a_classification_model_for_several_labels_is_measured():
    inner, task = classifier("multi_label_classification"), marks_task(31, 23)
    with torch.no_grad():
        inner.classifier.bias.copy_(torch.tensor([9.0, -9.0, -9.0]))
    found = evaluate(SingleTaskModel(inner, tiny_tokenizer(), task), [task])
    assert found.predictions("marks")[0].mean(axis=0).tolist() == [0, 0, 1]  # "sky" is the last
    one_label = TaskSpec("marks", ("text",), "marks", MARKS, "accuracy")
    for problem, spec in (
        ("multi_label_classification", one_label),
        ("single_label_classification", task.spec),
    ):
        with pytest.raises(ModelError, match=f"trained for {problem.replace('_', ' ')}, but an"):
            SingleTaskModel(classifier(problem), tiny_tokenizer(), spec)


def test_an_exported_task_is_for_several_labels(model, tmp_path):
    export_task(model, "marks", tmp_path / "marks")
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "marks").eval()
    assert loaded.config.problem_type == "multi_label_classification"
    assert loaded.config.id2label == dict(enumerate(MARKS))
    tokens = tiny_tokenizer()(["a merry boat"], return_tensors="pt")
    torch.testing.assert_close(loaded(**tokens).logits, model.logits(**tokens)["marks"])
    loss = loaded(**tokens, labels=torch.tensor([[1.0, 1.0, 0.0]])).loss
    own = model(**tokens, task="marks", labels=torch.tensor([[1, 1, 0]])).loss
    torch.testing.assert_close(loss, own)


def test_a_prompt_is_answered_with_one_word():
    with pytest.raises(ConfigError, match="'marks' has several labels for one example, but a prom"):
        Prompt("{text}:", ("good", "sea", "sky")).check(marks_task(5, 5).spec)


def trainer_of(folder, tasks, **given):
    """A trainer of a new model whose weights start as usual, so that it learns quickly."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = BertModel(TINY["bert"].config())
    model = MultiTaskModel(encoder, tiny_tokenizer(), tasks, pooling="mean")
    settings = {"batch_size": 7, "learning_rate": 5e-3, "precision": "fp32", "device": "cpu"}
    return MultiTaskTrainer(
        model, training_arguments(folder, steps=500, **settings), tasks=tasks, **given
    )


@pytest.mark.parametrize(
    "iat",
    [
        pytest.param(None, marks=pytest.mark.slow),
        IAT(alpha=0.5, delta=0.2, importance_examples=31),
    ],
)
def test_training_learns_which_labels_a_sentence_has(tmp_path, iat):
    tasks = [marks_task(), mood_task()]
    state = torch.get_rng_state()
    try:
        trainer = trainer_of(tmp_path, tasks, iat=iat)
        before = trainer.evaluate()["eval_marks_f1_micro"]
        trainer.train()
        after = trainer.evaluate()["eval_marks_f1_micro"]
    finally:
        torch.set_rng_state(state)
    losses = [entry["loss"] for entry in trainer.losses if entry["task"] == "marks"]
    assert losses[-1] < losses[0] / 3
    assert before < 0.7
    assert after > 0.9


def test_training_refuses_data_of_another_kind(model, tmp_path):
    labels = np.arange(31) % 3
    other = Task(
        "marks",
        train=Examples(marks_task(31, 23).train.texts, labels),
        validation=Examples(marks_task(31, 31).validation.texts, labels),
        text="text",
        labels=MARKS,
    )
    with pytest.raises(ConfigError, match="'marks' have one label for each example, unlike"):
        MultiTaskTrainer(model, training_arguments(tmp_path, steps=3), tasks=[other, mood_task()])


def test_the_probe_has_a_target_for_each_label(model):
    task = hold_out(marks_task(), 0.25, 0)
    words = {mark: set({**MOODS, **TOPICS}[mark]) for mark in MARKS}

    def features(examples):
        said = [set(text[0].split()) for text in examples.texts]
        return np.array([[bool(each & words[mark]) for mark in MARKS] for each in said], "f4")

    known = {
        "train": features(task.train),
        "held_out": features(task.validation),
        "validation": features(marks_task().validation),
    }
    *_, reported = probe(task, known, marks_task().validation.labels, [1e-3, 1.0])
    assert reported == 1.0
    pooled = pooled_features(model, [marks_task(31, 23)], "train", "fp32")
    assert pooled["marks"].shape == (31, 30)


# Statistics


def matrix(metric="f1_micro", n=97):
    """Two tasks of which each has a lesion that hurts it alone; the first has several labels."""
    generator = np.random.default_rng(5)
    several = generator.integers(0, 2, (n, 3))
    one = generator.integers(0, 2, n)
    spoilt = np.where(generator.random((n, 3)) < 0.5, 1 - several, several)
    lesions = (
        Lesion(HeadSet(), "none"),
        Lesion(HeadSet.parse("0:0"), "task", "several", 0.5),
        Lesion(HeadSet.parse("0:1"), "task", "one", 0.5),
    )
    return LesionMatrix(
        ("several", "one"),
        (metric, "accuracy"),
        {"several": several, "one": one},
        lesions,
        {
            "several": np.array([several, spoilt, several]).astype(np.int8),
            "one": np.array([one, one, np.where(generator.random(n) < 0.5, 1 - one, one)]),
        },
    )


@pytest.mark.parametrize("metric", ["accuracy", "f1_micro", "f1_macro"])
def test_a_lesion_matrix_of_one_and_of_several_labels(metric):
    found = matrix(metric)
    np.testing.assert_allclose(found.base, 1.0)
    labels, spoilt = found.labels["several"], found.predictions["several"][1]
    assert found.scores()[0, 0] == METRICS[metric](labels, spoilt)
    dissociation = found.dissociation(resamples=50)
    wanted = 100 * (1 - METRICS[metric](labels, spoilt))
    assert dissociation.column.values[0] == pytest.approx(wanted)
    low, high = dissociation.column.interval[0]
    assert low < wanted < high
    assert dissociation.pairs[0].p_holm <= 0.05
    assert dissociation.pairs[0].lacks_controls
    assert " 97" in found.summary()


def test_exact_matches_decide_the_paired_test_of_accuracy():
    labels = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [0, 1]])
    better, worse = labels.copy(), 1 - labels
    worse[0] = labels[0]
    generator = np.random.default_rng(0)
    once = {"draws": 10, "generator": generator}
    found = paired_p_value(METRICS["accuracy"], labels, worse, better, **once)
    assert found == pytest.approx(0.5**4)
    half = labels.copy()
    half[:, 0] = 1 - half[:, 0]  # never exactly right, like `worse` but for example 0
    again = paired_p_value(METRICS["accuracy"], labels, half, worse, **once)
    assert again == pytest.approx(0.5)


def test_the_paired_test_exchanges_whole_examples():
    """Under exchange of whole examples, lesions that differ on one example give p about 1/2."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, (29, 3))
    worse = labels.copy()
    worse[0] = 1 - worse[0]
    found = paired_p_value(
        METRICS["f1_micro"], labels, worse, labels, draws=2000, generator=generator
    )
    assert found == pytest.approx(0.5, abs=0.05)


def test_a_lesion_matrix_refuses_what_is_no_matrix_of_classes():
    good = matrix()
    cases = (
        ({"several": good.labels["several"] + 1}, {}, "labels of 'several' are 0 or 1 for each"),
        ({}, {"several": 2 * good.predictions["several"]}, "predictions of 'several' are 0 or 1"),
        ({}, {"several": good.predictions["several"][:, :, 0]}, r"\[lesions, examples, classes\]"),
        ({"one": good.labels["several"][..., None]}, {}, "or 0 or 1 for each of its classes"),
    )
    for labels, predictions, message in cases:
        with pytest.raises(DataError, match=message):
            LesionMatrix(
                good.tasks,
                good.metrics,
                {**good.labels, **labels},
                good.lesions,
                {**good.predictions, **predictions},
            )
    with pytest.raises(DataError, match="expected one label for each of one or more examples\\."):
        LesionMatrix(("several",), ("f1",), good.labels, good.lesions[:1], good.predictions)


# In a study


STUDY = """
model = "model"

[[tasks]]
name = "marks"
train = "marks.jsonl"
text = "text"
label = {label}
"""


def test_a_study_names_columns_and_lobes_tasks_counts_labels(tmp_path):
    data = [
        {"text": f"t {i}", **dict(zip(NAMES, row, strict=True))} for i, row in enumerate(MATRIX * 5)
    ]
    write_table(tmp_path / "marks.jsonl", data)
    (tmp_path / "model").mkdir()
    (tmp_path / "study.toml").write_text(STUDY.format(label=json.dumps(NAMES)), encoding="utf-8")
    study = load_study(tmp_path / "study.toml")
    assert study.tasks[0].label == NAMES
    assert study.to_dict()["tasks"][0]["label"] in (NAMES, list(NAMES))
    described = describe_task("marks", study=study.model_copy(update={"model": None}))
    assert described["multi_label"]
    assert described["label"] == described["labels"] == list(NAMES)
    assert described["sizes"][0]["labels"] == {"anger": 10, "fear": 10, "joy": 10}
    found = {example["text"][0]: example["label"] for example in described["examples"]}
    for text, label in found.items():
        assert label == sorted(LISTS[int(text.split()[1]) % 5])
    json.dumps(described)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ('["anger"]', "label is .* expected the name of the label column, or a list with a column"),
        ('["anger", ""]', "label is .* expected the name of the label column, or a list"),
        ("3", "tasks.marks.label is 3; expected the name of the label column, or a list"),
        ('["anger", "anger"]', 'label is ."anger", "anger".; expected different names'),
    ],
)
def test_a_study_refuses_other_label_columns(tmp_path, label, message):
    (tmp_path / "model").mkdir()
    (tmp_path / "study.toml").write_text(STUDY.format(label=label), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_study(tmp_path / "study.toml")
