"""What `lobes tasks` says: plain values of the known tasks, and of one task with its data."""

import json

import pytest

from lobes.config.study import load_study, override
from lobes.errors import DataError
from lobes.experiments.loading import load_tasks
from lobes.experiments.task_listing import describe_task, known_tasks
from tiny_study import write_study
from tiny_tasks import tiny_tokenizer


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder with SST-2 in small, without a test split."""
    monkeypatch.delenv("LOBES_DATA", raising=False)
    folder = tmp_path / "shelf" / "sst2"
    folder.mkdir(parents=True)
    rows = [f"{'word ' * n}end\t{n % 2}" for n in range(1, 12)]
    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]), encoding="utf-8")
    (folder / "validation.tsv").write_text("\n".join(["sentence\tlabel", *rows[:4]]), "utf-8")
    return folder.parent


def test_the_list_is_plain_and_whole():
    tasks = json.loads(json.dumps(known_tasks()))
    assert len(tasks) == 35
    assert tasks[2] == {
        "name": "mrpc",
        "text": ["sentence1", "sentence2"],
        "label": "label",
        "multi_label": False,
        "labels": ["not_equivalent", "equivalent"],
        "metrics": ["f1", "accuracy"],
        "splits": ["train", "validation", "test"],
        "hub": "nyu-mll/glue",
        "config": "mrpc",
    }


def test_a_known_task_with_its_sizes_and_examples(shelf):
    found = json.loads(json.dumps(describe_task("sst2", data_dir=str(shelf))))
    train, validation, test = found["sizes"]
    labels = {"negative": 5, "positive": 6}
    assert train == {"split": "train", "examples": 11, "labels": labels, "tokens": None}
    assert (validation["examples"], test["split"]) == (4, "test")
    assert "has no file for test: expected sst2/test.parquet" in test["missing"]
    assert len(found["examples"]) == 3
    assert all(example["label"] in labels for example in found["examples"])
    assert found["model"] is None


def test_lengths_are_those_of_the_tokenizer(shelf, tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")
    train = describe_task("sst2", data_dir=str(shelf), model=model)["sizes"][0]
    # n words, "end", [CLS] and [SEP], for n from 1 to 11
    assert train["tokens"] == {
        "measured": 11,
        "shortest": 4,
        "median": 9,
        "percentile_95": 14,
        "longest": 14,
        "cut": None,
    }


def test_a_task_of_a_study(tmp_path):
    study = override(load_study(write_study(tmp_path)), "max_length=9")
    found = describe_task("mood", study=study)
    assert found["labels"] == ["bad", "good"]
    assert [size["split"] for size in found["sizes"]] == ["train", "validation"]
    tokens = found["sizes"][0]["tokens"]
    assert 5 <= tokens["shortest"] < tokens["median"] < tokens["longest"] <= 15
    assert 0 < tokens["cut"] < 1
    whole = override(study, f"max_length={tokens['longest']}")
    assert describe_task("mood", study=whole)["sizes"][0]["tokens"]["cut"] == 0
    with pytest.raises(DataError) as error:
        describe_task("moot", study=study)
    assert str(error.value) == (
        "'moot' is neither a task of the study nor a known task; the study has 'mood', 'topic'. "
        "Did you mean 'mood'?"
    )


def test_a_task_that_is_nowhere(shelf):
    with pytest.raises(DataError, match=r"'rte': train: .* has no file for train: expected rte/tr"):
        describe_task("rte", data_dir=str(shelf))
    with pytest.raises(DataError, match=r"'ret' is not a known task\. Did you mean 'rte'\?"):
        describe_task("ret", data_dir=str(shelf))


def test_a_study_of_known_tasks_reads_them_from_its_folder(shelf, tmp_path):
    (tmp_path / "model").mkdir()
    path = tmp_path / "study.toml"
    path.write_text('model = "model"\ndata_dir = "shelf"\ntasks = ["sst2"]', encoding="utf-8")
    (task,) = load_tasks(
        load_study(path, ["tasks.sst2.train_size=7", "tasks.sst2.stratified=true"])
    )
    assert task.labels == ("negative", "positive")
    assert sorted(task.train.labels.tolist()) == [0, 0, 0, 1, 1, 1, 1]
    (shelf / "sst2" / "train.tsv").unlink()
    with pytest.raises(DataError) as error:
        load_tasks(load_study(path))
    assert str(error.value) == (
        f"Task 'sst2' has no training data in '{shelf}': name it with train=…, or measure a model "
        f'that is trained with iap.importance_split="validation".'
    )
    trained = load_study(path, ["training.enabled=false", "iap.importance_split=validation"])
    assert load_tasks(trained)[0].train is None
