"""A study small enough for tests: a random model's folder, two tasks as files, a study file."""

import csv
import json
import logging
from pathlib import Path

import pytest

from lobes.tasks.examples import Examples
from lobes.tasks.task import Task
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

STUDY = """
model = "model"
output = "{output}"
precision = "fp32"
max_length = 31

[[tasks]]
name = "mood"
train = "mood.train.csv"
validation = "mood.validation.csv"
text = "sentence"
labels = ["bad", "good"]

[[tasks]]
name = "topic"
train = "topic.train.jsonl"
validation = "topic.validation.jsonl"
text = "sentence"
labels = ["food", "sea", "sky"]

[training]
steps = 23
batch_size = 7
learning_rate = 3e-3
save_every = 5

[iap]
fractions = [0.2, 0.5]
controls = 3
importance_examples = 41
agreement_examples = 20
similarity_examples = 20
resamples = 50
"""

# Of this study as little as there can be, for tests that run all of it.
QUICK = (
    "training.steps=5",
    "training.save_every=2",
    "iap.fractions=[0.5]",
    "iap.controls=2",
    "iap.importance_examples=7",
    "iap.agreement_examples=3",
    "iap.similarity_examples=3",
    "iap.resamples=11",
)


def write_study(folder: Path, *, output: Path | str | None = None) -> Path:
    """Write the model, the data and `study.toml`; return the path of the study file.

    The run goes to `run` beside it, unless `output` says otherwise.
    """
    folder.mkdir(exist_ok=True)
    model = tiny_model("bert")
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for task, ending in ((mood_task(), "csv"), (topic_task(), "jsonl")):
        for split in ("train", "validation"):
            _write(task, getattr(task, split), folder / f"{task.name}.{split}.{ending}")
    path = folder / "study.toml"
    path.write_text(STUDY.replace("{output}", str(output or folder / "run")), encoding="utf-8")
    return path


def _write(task: Task, examples: Examples, path: Path) -> None:
    rows = [
        {"sentence": text[0], "label": task.labels[label]}
        for text, label in zip(examples.texts, examples.labels, strict=True)
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, ["sentence", "label"])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def timeless(results: dict) -> dict:
    """Results without what two runs of the same study may differ in: times and places."""
    copy = json.loads(json.dumps(results))
    for key in ("created", "times"):
        del copy[key]
    for entry in (*copy["importance"], copy["training"] or {"seconds": 0}):
        del entry["seconds"]
    del copy["config"]["output"]
    return copy


@pytest.fixture
def as_before():
    """Put back the logging of `lobes`, which its command line sets up for itself."""
    logger = logging.getLogger("lobes")
    handlers, propagate = list(logger.handlers), logger.propagate
    root = list(logging.getLogger().handlers)
    yield
    logger.handlers, logger.propagate = handlers, propagate
    logging.getLogger().handlers = root
