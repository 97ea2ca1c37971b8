"""What the README shows is true: its Python runs, and so does its study."""

import csv
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lobes.cli import app
from lobes.study.demo_data import fetch
from tiny_tasks import mood_task, pair_task

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"


def block(language: str, words: str = "") -> str:
    """The README's first block of code in a language that contains these words."""
    found = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    return next(code for code in found if words in code)


@pytest.fixture(scope="module")
def model():
    """The demo's model stands in for the same model on the hub."""
    return str(fetch().model)


def test_the_python_example_runs(model, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exec(block("python").replace(HUB_NAME, model), {})
    assert "column D-score" in capsys.readouterr().out


def test_the_pruning_example_runs(model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(block("python", "lobes.prune").replace(HUB_NAME, model), names)
    sizes = [
        sum(weight.numel() for weight in names[one].parameters()) for one in ("model", "smaller")
    ]
    assert sizes[0] - sizes[1] == 3 * 32 * (4 * 384 + 3)  # of three heads of size 32


def test_the_study_runs(model, tmp_path):
    mood, pair = mood_task(), pair_task()
    with (tmp_path / "mood.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["sentence", "label"])
        rows.writerows(
            [texts[0], mood.labels[label]]
            for texts, label in zip(mood.train.texts, mood.train.labels, strict=True)
        )
    with (tmp_path / "answered.jsonl").open("w") as file:
        for (question, answer), label in zip(pair.train.texts, pair.train.labels, strict=True):
            row = {"question": question, "answer": answer, "label": int(label)}
            file.write(json.dumps(row) + "\n")
    (tmp_path / "study.toml").write_text(block("toml").replace(HUB_NAME, model))
    arguments = ["run", tmp_path / "study.toml", "--output", tmp_path / "run", "--quiet"]
    for setting in ("training.steps=2", "training.batch_size=4", "iap.controls=1"):
        arguments += ["--set", setting]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "report.html").exists()


def test_every_command_shown_exists():
    shown = set(re.findall(r"^lobes ([\w-]+)", README, re.M))
    assert shown == {
        "run",
        "iap",
        "heads",
        "report",
        "export",
        "compare",
        "transfer",
        "prune",
        "tasks",
        "predict",
        "ag-pair",
    }
    for command in shown:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", README):
        assert f"\n{target}:" in makefile
