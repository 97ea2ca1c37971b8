"""What docs/images.md shows is true: its Python runs, and so does its study."""

import re
from pathlib import Path

import numpy as np
import pytest
import transformers

from lobes.config.study import load_study, override
from plain_results import run_study
from tiny_images import image_rows, save_picture, tiny_processor
from tiny_models import tiny_model

PAGE = (Path(__file__).parents[1] / "docs" / "images.md").read_text(encoding="utf-8")
HUB_NAME = "google/vit-base-patch16-224-in21k"


def block(language):
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    assert HUB_NAME in code
    return code.replace(HUB_NAME, "model")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that the page's study is in, with a tiny model in it."""
    tiny_model("vit").save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    lines = ["photo,weather"]
    for number, row in enumerate(image_rows(90, np.random.default_rng(2))):
        split = "train" if number < 60 else "validation"
        place = f"photos/{split}/{('cat', 'dog')[row['shape']]}/{number}.jpg"
        save_picture(row["image"], tmp_path / place)
        lines.append(f"{place},{('rain', 'sun')[number % 2]}")
    (tmp_path / "weather.csv").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_example_runs(folder, capsys):
    names = {}
    exec(block("python"), names)
    assert len(names["task"].train) == 60
    assert capsys.readouterr().out.count(":") > 0  # the heads


def test_the_study_runs(folder):
    (folder / "study.toml").write_text(block("toml"))
    study = override(load_study("study.toml"), "training.epochs=", "training.steps=4")
    results = run_study(override(study, "iap.controls=1", "iap.resamples=10"))
    assert [task["labels"] for task in results["tasks"]] == [["cat", "dog"], ["rain", "sun"]]


def test_the_encoders_it_names_exist():
    for name in ("ViT", "DeiT", "Beit", "Dinov2", "Swin", "CLIPVision", "SiglipVision", "ViTMAE"):
        assert hasattr(transformers, f"{name}Model")
