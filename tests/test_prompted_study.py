"""A study of prompted tasks, from its file to its results, with no training."""

import json
from pathlib import Path

import pytest

from lobes.config.study import load_study, override
from lobes.errors import ConfigError
from lobes.experiments.loading import load_tasks
from lobes.experiments.run import given_model
from lobes.measure.evaluation import evaluate
from lobes.modeling import PromptedModel
from lobes.tasks.prompts import Prompt
from plain_results import run_study
from tiny_harness import tiny_llama
from tiny_study import timeless
from tiny_tasks import VOCABULARY, mood_task, tiny_tokenizer, topic_task

STUDY = """
model = "model"
output = "{output}"
precision = "fp32"
max_length = 31

[[tasks]]
name = "mood"
train = "mood.train.jsonl"
validation = "mood.validation.jsonl"
text = "text"
labels = ["bad", "good"]
prompt = "with {text} it was"
words = ["dull", "so fine"]

[[tasks]]
name = "topic"
train = "topic.train.jsonl"
validation = "topic.validation.jsonl"
text = "text"
labels = ["food", "sea", "sky"]
prompt = "{text} then that was"
words = ["salt", "wave", "star"]

[training]
enabled = false

[iap]
fractions = [0.25]
controls = 3
importance_examples = 41
resamples = 50
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompted")
    tiny_llama(VOCABULARY).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for task in (mood_task(), topic_task()):
        for split in ("train", "validation"):
            examples = getattr(task, split)
            rows = [
                json.dumps({"text": text, "label": task.labels[label]})
                for (text,), label in zip(examples.texts, examples.labels, strict=True)
            ]
            (folder / f"{task.name}.{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    file = folder / "study.toml"
    file.write_text(STUDY.replace("{output}", str(folder / "run")), encoding="utf-8")
    return file


def test_a_run_measures_the_model_as_it_is(path, tmp_path):
    study = load_study(path)
    results = run_study(study)
    tasks = load_tasks(study)
    prompts = {task.name: Prompt(task.prompt, task.words) for task in study.tasks}
    model = PromptedModel.from_pretrained(study.model, tasks, prompts, max_length=31)
    base = [task["base"] for task in results["tasks"]]
    assert base == evaluate(model, tasks).scores()[0].tolist()
    assert isinstance(given_model(study, tasks), PromptedModel)
    assert results["training"] is None
    assert sum(site["n_heads"] for site in results["model"]["sites"]) == 18
    again = run_study(study.model_copy(update={"output": str(tmp_path / "again")}))
    again["config"]["output"] = results["config"]["output"]
    assert timeless(again) == timeless(results)
    assert (path.parent / "run" / "report.html").is_file()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["training.enabled=true"], "training.enabled is true"),
        (["tasks.mood.prompt="], "tasks.mood.prompt is missing"),
        (["tasks.mood.prompt=", "tasks.mood.words="], "tasks.topic has a prompt"),
        (['tasks.mood.words=["so"]'], "tasks.mood.words"),
    ],
)
def test_settings_that_do_not_go_together(path, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        override(load_study(path), *settings)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ('tasks.mood.prompt="it was"', "has no column"),
        ('tasks.mood.prompt="{sentence} was"', "none of the task's text columns"),
        ('tasks.mood.words=["so","it","one"]', "3 words"),
    ],
)
def test_prompts_that_do_not_fit_stop_a_run_before_it_writes(path, tmp_path, setting, sentence):
    study = override(load_study(path), setting, f'output="{tmp_path / "run"}"')
    with pytest.raises(ConfigError, match=sentence):
        run_study(study)
    assert not (tmp_path / "run" / "measurements").exists()


def test_the_example_is_a_study_of_prompts(tmp_path, monkeypatch):
    monkeypatch.setenv("LOBES_DATA", str(tmp_path))
    study = load_study(Path(__file__).parents[1] / "examples" / "prompted.toml")
    for task in study.tasks:
        prompt = Prompt(task.prompt, task.words)
        assert prompt.columns == task.text
        assert len(prompt.words) == len(task.labels)
