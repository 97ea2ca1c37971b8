"""scripts/pretrain.py: what it learns, and that a killed training continues to the same weights."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from lobes import MultiTaskModel, find_heads
from lobes.tasks.task import TaskSpec

ROOT = Path(__file__).parents[1]
STEPS = 13


@pytest.fixture
def script(monkeypatch):
    """The script as a module, with a model and batches small enough for a test."""
    spec = importlib.util.spec_from_file_location("pretrain", ROOT / "scripts/pretrain.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sizes = {"VOCABULARY": 101, "LENGTH": 17, "HIDDEN": 30, "LAYERS": 2, "HEADS": 3, "BATCH": 7}
    for name, value in {**sizes, "HELD_OUT": 0.1, "SAVE_EVERY": 0.0, "TELL_EVERY": 5}.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with sentences of one task, in which each word decides the next one."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "bdfgk" for b in "aeiou"]
    (folder / "sst2").mkdir()
    for split, number in (("train", 211), ("validation", 11)):
        starts = generator.integers(len(words), size=number)
        texts = [" ".join(words[(s + i) % len(words)] for i in range(9 + s % 4)) for s in starts]
        texts = [f"{text} {number}" for number, text in enumerate(texts)]
        table = pyarrow.table({"sentence": texts, "label": [i % 2 for i in range(number)]})
        pyarrow.parquet.write_table(table, folder / "sst2" / f"{split}.parquet")
    return folder


def run(script, monkeypatch, data: Path, out: Path, steps: int = STEPS) -> dict:
    arguments = ["--minutes", "0", "--steps", str(steps), "--data-dir", str(data), str(out)]
    monkeypatch.setattr("sys.argv", ["pretrain.py", *arguments])
    script.main()
    return json.loads((out / "pretraining.json").read_text())


def test_a_killed_training_continues_to_the_same_weights(script, monkeypatch, data, tmp_path):
    whole = run(script, monkeypatch, data, tmp_path / "whole")
    (tmp_path / "killed").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "whole" / name, tmp_path / "killed" / name)
    loss_of, calls = script.loss_of, []

    def killed(model, *rest):
        calls.append(model.training)
        if sum(calls) > 8:
            raise KeyboardInterrupt
        return loss_of(model, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(script, "loss_of", killed)
        with pytest.raises(KeyboardInterrupt):
            run(script, monkeypatch, data, tmp_path / "killed")
    assert (tmp_path / "killed/checkpoint.pt").exists()
    continued = run(script, monkeypatch, data, tmp_path / "killed")
    for name in ("steps", "tokens", "held_out_loss", "held_out_loss_by_step"):
        assert continued[name] == whole[name], name
    first, second = (load_file(tmp_path / k / "model.safetensors") for k in ("whole", "killed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "killed/checkpoint.pt").exists()


def test_it_learns_and_its_folder_is_a_model_for_lobes(script, monkeypatch, data, tmp_path):
    record = run(script, monkeypatch, data, tmp_path / "out", steps=150)
    assert record["held_out_loss"] < record["held_out_loss_by_step"]["5"] - 0.5
    assert record["tokens"] == 150 * script.BATCH * script.LENGTH
    task = TaskSpec("mood", ("text",), "label", ("bad", "good"), "accuracy")
    model = MultiTaskModel.from_pretrained(tmp_path / "out", [task])
    assert find_heads(model).total == script.LAYERS * script.HEADS
    ids = model.tokenizer("ba be", "bi")
    assert ids["input_ids"][0] == script.CLS
    assert ids["token_type_ids"][-1] == 1


def test_masks_are_drawn_as_for_bert(script):
    blocks = np.random.default_rng(0).integers(5, 101, (400, 17))
    blocks[:, 0], blocks[:, -1] = script.CLS, script.SEP
    inputs, chosen = script.masked(blocks, np.random.default_rng(1))
    assert not chosen[:, [0, -1]].any()
    assert chosen[:, 1:-1].mean() == pytest.approx(0.15, abs=0.02)
    assert (inputs == blocks)[~chosen].all()
    assert (inputs[chosen] == script.MASK).mean() == pytest.approx(0.8, abs=0.05)
    assert (inputs[chosen] == blocks[chosen]).mean() == pytest.approx(0.1, abs=0.05)


def test_a_folder_without_data_is_one_sentence(script, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"^No training data were found: name their folder with"):
        run(script, monkeypatch, tmp_path, tmp_path / "out")
