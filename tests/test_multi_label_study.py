"""Studies with one task of several labels, one of classes and one regression, to their reports."""

import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from lobes.config.study import load_study, override
from lobes.experiments.open_model import export_run
from lobes.experiments.predict import predict_run
from plain_results import compare_study, read_comparison, read_results, run_study, transfer_study
from run_pages import run_html, run_page, table_of
from tiny_models import tiny_model
from tiny_study import timeless
from tiny_tasks import MARKS, marks_task, mood_task, tiny_tokenizer, warmth_task

STUDY = """
model = "model"
output = "{output}"
precision = "fp32"
max_length = 31

[[tasks]]
name = "marks"
train = "marks.train.jsonl"
validation = "marks.validation.jsonl"
text = "text"
labels = ["good", "sea", "sky"]

[[tasks]]
name = "mood"
train = "mood.train.jsonl"
validation = "mood.validation.jsonl"
text = "text"
labels = ["bad", "good"]
metric = "f1_macro"

[[tasks]]
name = "warmth"
train = "warmth.train.jsonl"
validation = "warmth.validation.jsonl"
text = "text"

[training]
steps = 23
batch_size = 7
learning_rate = 3e-3

[iat]
delta = 0.3
importance_examples = 31

[iap]
fractions = [0.2, 0.5]
controls = 2
importance_examples = 41
resamples = 20

[compare]
seeds = 1
methods = ["multi", "iat", "probe"]
evaluations = 2
held_out = 0.2

[transfer]
fractions = [0.05]
seeds = 1
steps = 3

[transfer.task]
name = "signs"
train = "signs.csv"
text = "text"
label = ["good", "sea", "sky"]
metric = "f1_macro"
"""


def write_data(folder):
    """The model, the tasks as files, `study.toml`."""
    tiny_model("bert").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for task in (marks_task(), mood_task(), warmth_task()):
        for split in ("train", "validation"):
            examples = getattr(task, split)
            labels = [
                [MARKS[i] for i in np.flatnonzero(label)] if np.ndim(label) else label.item()
                for label in examples.labels
            ]
            rows = [
                {"text": text[0], "label": label}
                for text, label in zip(examples.texts, labels, strict=True)
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{task.name}.{split}.jsonl").write_text(lines, encoding="utf-8")
    signs = marks_task(seed=1).train
    lines = [
        f"{text[0]},{','.join(map(str, label))}"
        for text, label in zip(signs.texts, signs.labels.tolist(), strict=True)
    ]
    (folder / "signs.csv").write_text("\n".join([f"text,{','.join(MARKS)}", *lines]), "utf-8")
    (folder / "study.toml").write_text(STUDY.replace("{output}", str(folder / "run")), "utf-8")
    return folder / "study.toml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study's file, after its run has gone to the end in the folder `run` beside it."""
    path = write_data(tmp_path_factory.mktemp("study"))
    run_study(load_study(path))
    return path


@pytest.fixture(scope="module")
def results(finished):
    return read_results(finished.parent / "run")


def test_results_say_what_the_tasks_are(results):
    assert [task["multi_label"] for task in results["tasks"]] == [True, False, False]
    assert [task["metric"] for task in results["tasks"]] == ["f1_micro", "f1_macro", "spearman"]
    assert results["tasks"][0]["labels"] == list(MARKS)
    assert results["tasks"][1]["chance"] == 0.5
    assert 0.4 < results["tasks"][0]["chance"] < 0.7
    for entry in results["fractions"]:
        assert np.isfinite(entry["scores"]).all()
        assert np.shape(entry["scores"]) == (3, 3)


def test_every_score_follows_from_the_predictions_that_are_kept(finished, results):
    rows = pq.read_table(finished.parent / "run" / "predictions.parquet").to_pandas()
    marks = rows[rows["task"] == "marks"]
    assert marks["label"].isna().all()
    assert rows[rows["task"] == "mood"]["labels"].isna().all()

    def matrix(lists):
        return np.array([[int(j in found) for j in range(3)] for found in lists])

    def score(part):
        return f1_score(matrix(part["labels"]), matrix(part["predictions"]), average="micro")

    base = marks[marks["kind"] == "none"]
    np.testing.assert_array_equal(matrix(base["labels"]), marks_task().validation.labels)
    assert score(base) == pytest.approx(results["tasks"][0]["base"])
    for entry in results["fractions"]:
        for i, task in enumerate(results["tasks"]):
            chosen = (marks["kind"] == "task") & (marks["lesioned_task"] == task["name"])
            part = marks[chosen & (marks["fraction"] == entry["fraction"])]
            assert len(part) == 59
            assert score(part) == pytest.approx(entry["scores"][i][0])


def test_the_report_names_labels_and_classes(results):
    base = table_of(run_page(results), "base")
    assert [row.cells[1].note for row in base.rows] == [
        " · 3 labels, any number each",
        " · 2 classes",
        " · regression",
    ]
    page = run_html(results)
    assert "f1_micro</bdi><span" in page
    assert "3 labels, any number each" in page


@pytest.mark.slow
def test_an_interrupted_study_ends_with_the_same_numbers(finished, results, tmp_path):
    study = override(load_study(finished), f"output={tmp_path / 'run'}")
    stages = set()

    def interrupt(stage, done, total):
        if stage not in stages and done:
            stages.add(stage)
            raise KeyboardInterrupt

    while True:
        try:
            found = run_study(study, progress=interrupt)
            break
        except KeyboardInterrupt:
            pass
    assert {"training", "lesions", "importance of marks"} <= stages
    found, expected = timeless(found), timeless(results)
    for each in (found, expected):
        del each["training"]["iat"]["seconds"]
    assert found == expected


def test_a_task_of_a_run_is_exported(finished, tmp_path):
    folder = export_run(finished.parent / "run", "marks", tmp_path / "marks")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["problem_type"] == "multi_label_classification"


def test_predictions_of_a_split_are_lists_of_labels(finished, results, tmp_path):
    found = predict_run(finished.parent / "run", tmp_path / "to", split="validation")
    assert found["predictions"][0]["score"] == pytest.approx(results["tasks"][0]["base"])
    table = pd.read_csv(tmp_path / "to" / "marks.validation.tsv", sep="\t", quoting=3)
    assert [*table.columns] == ["index", "label", "prediction", *(f"p_{mark}" for mark in MARKS)]
    lists = {name: [json.loads(cell) for cell in table[name]] for name in ("label", "prediction")}
    for place, row in enumerate(marks_task().validation.labels):
        assert lists["label"][place] == [MARKS[i] for i in np.flatnonzero(row)]
        likely = [mark for mark in MARKS if table[f"p_{mark}"][place] > 0.5]
        assert lists["prediction"][place] == likely


@pytest.mark.slow
def test_every_way_to_train_is_compared(finished, tmp_path):
    study = override(load_study(finished), f"output={tmp_path / 'run'}", "training.steps=5")
    compare_study(study)
    found = read_comparison(tmp_path / "run")
    assert found["tasks"][0]["multi_label"]
    assert found["tasks"][0]["n_held_out"] == pytest.approx(0.2 * 103, abs=2)
    for method in found["scores"].values():
        assert np.isfinite(np.array(method, dtype=float)).all()


def test_a_task_of_label_columns_is_transferred_to(finished, tmp_path):
    study = override(load_study(finished), f"output={tmp_path / 'run'}", "training.steps=5")
    found = transfer_study(study)
    assert found["task"]["labels"] == list(MARKS)
    assert found["task"]["multi_label"]
    assert found["sizes"][0] == 5
