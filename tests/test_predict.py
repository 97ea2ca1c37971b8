"""`lobes predict`: submission files as GLUE's site takes them, and probabilities for the rest."""

import csv
import logging
import shutil

import numpy as np
import pytest
import torch

from lobes.config.study import load_study
from lobes.errors import ConfigError, DataError, LobesError, RunError
from lobes.experiments.predict import _lines, predict_run
from lobes.measure.evaluation import evaluate, predict_logits
from lobes.modeling import load_task_model
from lobes.tasks.glue import SUBMISSIONS, submission_lines
from lobes.tasks.known import KNOWN
from lobes.tasks.sources import Split, load_split, load_task
from lobes.tasks.task import TaskSpec
from plain_results import run_study
from tiny_models import tiny_model
from tiny_study import write_study
from tiny_tasks import FILLER, mood_task, tiny_tokenizer, topic_task

GLUE_STUDY = """
model = "model"
output = "run"
precision = "fp32"
data_dir = "shelf"
tasks = ["cola", "stsb", "mnli", "scitail"]

[training]
steps = 4
batch_size = 5
"""


def write_shelf(folder) -> None:
    """Four known tasks in small, with test splits of which two have no labels."""
    generator = np.random.default_rng(11)
    for name in ("cola", "stsb", "mnli", "scitail"):
        task = KNOWN[name]
        for split in task.splits:
            if split == "test_diagnostic":
                continue
            names = (*task.text, *(() if split in task.hidden else (task.label,)))
            lines = ["\t".join(names)]
            for row in range(7 if split == "test" else 12):
                cells = [" ".join(generator.choice(FILLER, size=5)) for _ in task.text]
                if split not in task.hidden:
                    cells.append(task.labels[row % 2] if task.labels else str(row % 6))
                lines.append("\t".join(cells))
            path = folder / name / f"{split}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a study of GLUE's tasks and its run, of which only the training is done."""
    folder = tmp_path_factory.mktemp("predict")
    write_shelf(folder / "shelf")
    tiny_model("bert").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "study.toml").write_text(GLUE_STUDY, encoding="utf-8")
    study = load_study(folder / "study.toml")
    run_study(study.model_copy(update={"output": str(folder / "run")}), stages=("train",))
    return folder


def cells_of(path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def test_glue_gets_its_files_and_other_tasks_probabilities(trained, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="lobes"):
        record = predict_run(trained / "run", tmp_path / "out")
    files = ["CoLA.tsv", "STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "scitail.test.tsv"]
    assert [entry["file"] for entry in record["predictions"]] == files
    there = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert there == sorted([*files, "files.json"])
    assert "CoLA.tsv has 7 predictions, but GLUE's site takes 1063" in caplog.text
    assert "AX.tsv" in caplog.text
    model = load_task_model(trained / "run" / "model")
    for entry in record["predictions"]:
        task, split = entry["task"], entry["split"]
        found = load_split(task, split, data_dir=trained / "shelf")
        # each text by itself, straight through the model
        with torch.no_grad():
            rows = [
                model.eval().task_logits(
                    task,
                    **model.tokenizer(*text, return_tensors="pt", truncation=True, max_length=37),
                )[0]
                for text in found.texts
            ]
        logits = torch.stack(rows).double().numpy()
        header, *lines = cells_of(tmp_path / "out" / entry["file"])
        assert [line[0] for line in lines] == [str(i) for i in range(len(found))]
        labels = KNOWN[task].labels
        if task == "scitail":
            assert header == ["index", "label", "prediction", "p_entails", "p_neutral"]
            chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            given = np.array([[float(cell) for cell in line[3:]] for line in lines])
            assert np.allclose(given, chance, atol=1e-5)
            assert [line[1] for line in lines] == [labels[label] for label in found.labels]
            assert [line[2] for line in lines] == [labels[i] for i in logits.argmax(1)]
            hits = sum(line[1] == line[2] for line in lines)
            assert entry["score"] == pytest.approx(hits / len(lines))
            continue
        assert (header, entry["score"]) == (["index", "prediction"], None)
        shown = [line[1] for line in lines]
        if task == "stsb":
            assert shown == [f"{min(max(value, 0), 5):.3f}" for value in logits[:, 0]]
        else:
            best = logits.argmax(1)
            assert shown == [str(i) if task == "cola" else labels[i] for i in best]


def test_a_submission_spells_labels_as_glue_does():
    def second(task, split, value):
        _, line = submission_lines(task, split, np.array([value]))
        return line

    for task in ("cola", "sst2", "mrpc", "qqp", "wnli"):
        assert second(task, "test", 1) == "0\t1"
    for task in ("qnli", "rte"):
        assert second(task, "test", 1) == "0\tnot_entailment"
    for split in ("test_matched", "test_mismatched", "test_diagnostic"):
        assert second("mnli", split, 2) == "0\tcontradiction"
    for value, shown in ((-0.2, "0.000"), (5.7, "5.000"), (2.71828, "2.718"), (-1e-9, "0.000")):
        assert second("stsb", "test", value) == f"0\t{shown}"
    hidden = {(name, split) for name, task in KNOWN.items() for split in task.hidden}
    hidden -= {("cmnli", "test")}  # of another site, CLUE's
    assert hidden | {("mrpc", "test")} == set(SUBMISSIONS)


def test_the_diagnostic_examples_of_mnli(trained, tmp_path):
    shutil.copytree(trained / "shelf", tmp_path / "shelf")
    (tmp_path / "shelf" / "AX").mkdir()
    lines = ["index\tsentence1\tsentence2", "0\tthe one\tthat was", "1\tso it\tby one"]
    (tmp_path / "shelf" / "AX" / "AX.tsv").write_text("\n".join(lines), encoding="utf-8")
    study = load_study(trained / "study.toml", [f"data_dir={tmp_path / 'shelf'}"])
    record = predict_run(trained / "run", tmp_path / "out", tasks=["mnli"], study=study)
    assert [entry["file"] for entry in record["predictions"]] == [
        *("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv")
    ]
    assert len(cells_of(tmp_path / "out" / "AX.tsv")) == 3


def test_another_split_has_probabilities_and_a_score(trained, tmp_path):
    record = predict_run(
        trained / "run", tmp_path, split="validation", tasks=["stsb", "cola", "stsb"]
    )
    stsb, cola = record["predictions"]
    assert (stsb["file"], cola["file"]) == ("stsb.validation.tsv", "cola.validation.tsv")
    header, *lines = cells_of(tmp_path / "stsb.validation.tsv")
    assert header == ["index", "label", "prediction"]
    assert [line[1] for line in lines[:7]] == ["0", "1", "2", "3", "4", "5", "0"]
    model = load_task_model(trained / "run" / "model")
    tasks = [load_task(name, data_dir=trained / "shelf") for name in ("cola", "stsb")]
    scores = evaluate(model, tasks).scores()[0]
    assert [cola["score"], stsb["score"]] == pytest.approx(scores.tolist(), nan_ok=True)


def test_logits_without_labels_equal_those_of_an_evaluation(trained):
    model = load_task_model(trained / "run" / "model").train()
    task = load_task("mnli", data_dir=trained / "shelf")
    steps = []
    logits = predict_logits(
        model,
        "mnli",
        Split(task.validation.texts, None),
        tokens_per_batch=40,
        progress=lambda *step: steps.append(step),
    )
    assert np.allclose(logits, evaluate(model, [task]).logits["mnli"][0], atol=1e-6)
    assert model.training
    assert steps[0] == (0, steps[-1][1])
    assert steps[-1][0] == steps[-1][1] > 1


def test_own_tasks_and_a_test_file_named_later(tmp_path):
    path = write_study(tmp_path)
    run_study(load_study(path), stages=("train",))
    with pytest.raises(DataError, match="No task of the run has test data: add `test = …`"):
        predict_run(tmp_path / "run", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"Task 'mood' names no file for the split 'test'"):
        predict_run(tmp_path / "run", tmp_path / "out", tasks=["mood"])
    assert not (tmp_path / "out").exists()
    texts = [text for (text,) in mood_task().validation.texts[:3]]
    with (tmp_path / "new.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["sentence"], *([text] for text in texts)])
    study = load_study(path, ["tasks.mood.test=new.csv"])
    record = predict_run(tmp_path / "run", tmp_path / "out", tasks=["mood"], study=study)
    assert record["predictions"][0]["score"] is None
    header, *lines = cells_of(tmp_path / "out" / "mood.test.tsv")
    assert header == ["index", "prediction", "p_bad", "p_good"]
    assert len(lines) == 3
    # a test file changes nothing that was trained: the same run goes on
    assert run_study(study, stages=("train",))


def test_a_label_is_no_formula_to_a_spreadsheet():
    spec = TaskSpec("own", ("text",), "label", ("=1+1", "-", "-pos"), "accuracy")
    predictions = np.array([0, 1, 2])
    logits = np.eye(3, dtype=np.float32)[predictions]
    lines = _lines(spec, Split([("a",)] * 3, predictions[::-1]), predictions, logits)
    header, *rows = [line.split("\t") for line in lines]
    assert header == ["index", "label", "prediction", "p_=1+1", "p_-", "p_-pos"]
    assert [row[1:3] for row in rows] == [["'-pos", "'=1+1"], ["-", "-"], ["'=1+1", "'-pos"]]


def test_a_model_that_was_measured_as_it_is(tmp_path):
    path = write_study(tmp_path)
    run_study(load_study(path), stages=("train",))
    shutil.move(tmp_path / "run" / "model", tmp_path / "given")
    settings = ["training.enabled=false", f"model={tmp_path / 'given'}", "iap.controls=0"]
    run_study(load_study(path, settings).model_copy(update={"output": str(tmp_path / "second")}))
    record = predict_run(tmp_path / "second", tmp_path / "out", split="validation")
    assert [entry["task"] for entry in record["predictions"]] == ["mood", "topic"]
    model = load_task_model(tmp_path / "given")
    scores = evaluate(model, [mood_task(), topic_task()]).scores()[0]
    assert [entry["score"] for entry in record["predictions"]] == pytest.approx(scores.tolist())
    # labels are compared in the model's order, whatever order a study has by now
    turned = load_study(path, ['tasks.mood.labels=["good","bad"]'])
    given = {"split": "validation", "tasks": ["mood"], "study": turned}
    again = predict_run(tmp_path / "second", tmp_path / "turned", **given)
    assert again["predictions"][0]["score"] == record["predictions"][0]["score"]


@pytest.mark.parametrize(
    ("settings", "kind", "sentence"),
    [
        (
            {"tasks": ["colla"]},
            ConfigError,
            "The run has no task 'colla'; expected one of 'cola', ",
        ),
        ({"split": "dev"}, DataError, "Task 'cola' has no split 'dev': expected one of train, "),
        ({"split": "test_matched"}, DataError, "Task 'cola' has no split 'test_matched'"),
    ],
)
def test_what_cannot_be_predicted_leaves_nothing(trained, tmp_path, settings, kind, sentence):
    with pytest.raises(LobesError) as error:
        predict_run(trained / "run", tmp_path / "out", **settings)
    assert isinstance(error.value, kind)
    assert str(error.value).startswith(sentence)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run(trained, tmp_path):
    with pytest.raises(RunError, match=r"There is no run in .*: give the folder of a run"):
        predict_run(tmp_path, tmp_path / "out")
    shutil.copytree(trained / "run", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "model")
    with pytest.raises(RunError, match=r"no trained model in .*half yet: finish the run"):
        predict_run(tmp_path / "half", tmp_path / "out")
    (tmp_path / "half" / "config.json").write_text('{"config": {"tasks": 3}}')
    with pytest.raises(RunError, match=r"is damaged: its SHA-256 is not the one in files.json"):
        predict_run(tmp_path / "half", tmp_path / "out")
