"""Loading what was made elsewhere: safely, quietly, and with one clear sentence where it fails."""

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from transformers.utils import logging as transformers_logging

from lobes.errors import ModelError
from lobes.modeling.pretrained import (
    load_config,
    load_model,
    load_tokenizer,
    sentence_pooling,
    with_padding,
)
from lobes.modeling.safe_loading import quiet
from tiny_models import tiny_model
from tiny_tasks import tiny_tokenizer


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with a tiny encoder and its tokenizer."""
    with quiet():
        tiny_model("bert").save_pretrained(tmp_path / "bert")
        tiny_tokenizer().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def message(call: object, *args: object, **settings: object) -> str:
    """The one sentence that a `ModelError` says; nothing chained to it is shown."""
    with pytest.raises(ModelError) as caught:
        call(*args, **settings)  # type: ignore[operator]
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_loading_says_nothing_and_leaves_the_verbosity(
    bert: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = transformers_logging.get_verbosity(), logging.getLogger("huggingface_hub").level
    bars = transformers_logging.is_progress_bar_enabled()
    model, missing = load_model(bert)
    load_tokenizer(bert)
    after = transformers_logging.get_verbosity(), logging.getLogger("huggingface_hub").level
    assert before == after
    assert transformers_logging.is_progress_bar_enabled() is bars
    assert capfd.readouterr() == ("", "")
    assert missing == frozenset()
    for name, weight in tiny_model("bert").state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_the_folder_of_a_run_is_told_from_that_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"schema": "lobes-run", "version": 1, "config": {}}')
    said = message(load_config, tmp_path)
    assert said == (
        f"{str(tmp_path)!r} is the folder of a run of lobes, not of a model: its trained model, "
        f"where it has one, is {str(tmp_path / 'model')!r}."
    )


def test_missing_weights_are_named_and_start_from_the_seed(tmp_path: Path) -> None:
    encoder = transformers.BertModel(tiny_model("bert").config, add_pooling_layer=False)
    with quiet():
        encoder.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    one, missing = load_model(tmp_path, seed=3)
    same, _ = load_model(tmp_path, seed=3)
    other, _ = load_model(tmp_path, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert missing == {"pooler.dense.weight", "pooler.dense.bias"}
    assert torch.equal(one.pooler.dense.weight, same.pooler.dense.weight)
    assert not torch.equal(one.pooler.dense.weight, other.pooler.dense.weight)


def test_half_precision_weights_are_loaded_in_float32(tmp_path: Path) -> None:
    with quiet():
        tiny_model("bert").bfloat16().save_pretrained(tmp_path)
    assert {weight.dtype for weight in load_model(tmp_path)[0].parameters()} == {torch.float32}


def test_pickled_weights_are_refused(bert: Path) -> None:
    (bert / "model.safetensors").unlink()
    torch.save(tiny_model("bert").state_dict(), bert / "pytorch_model.bin")
    said = message(load_model, bert)
    assert "has no safetensors weights: pickle files (pytorch_model.bin) can run code" in said


def test_a_folder_without_weights(bert: Path) -> None:
    (bert / "model.safetensors").unlink()
    assert "holds no weights: expected a file model.safetensors" in message(load_model, bert)


def test_weights_cut_short(bert: Path) -> None:
    weights = bert / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-97])
    assert "are damaged or cut short" in message(load_model, bert)


def test_weights_of_other_shapes(bert: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    (bert / "config.json").write_text(json.dumps(config | {"intermediate_size": 35}))
    assert "cannot be loaded" in message(load_model, bert)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    assert "holds no model: expected a config.json" in message(load_model, tmp_path)


@pytest.mark.parametrize("text", ['{"model_type": "nonesuch"}', '{"model_ty'])
def test_a_configuration_that_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "cannot be loaded" in message(load_model, tmp_path)
    assert "cannot be loaded" in message(load_config, tmp_path)


def test_code_of_its_own_is_not_run(tmp_path: Path) -> None:
    auto_map = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    (tmp_path / "own.py").write_text("raise SystemExit('this code was run')")
    said = message(load_model, tmp_path)
    assert "comes with Python code of its own" in said
    assert "trust_remote_code=True" in said


@pytest.mark.parametrize("name", ["./nowhere", "/no/where", "a/b/c", Path("nowhere"), ""])
def test_a_folder_that_is_not_there(name: str | Path) -> None:
    said = message(load_model, name)
    assert said.startswith(f"There is no folder {str(name)!r}")
    assert "'bert-base-uncased'" in said


@pytest.mark.parametrize("name", ["bert-nonesuch", "nobody/nothing"])
def test_a_name_without_a_network(name: str) -> None:
    said = message(load_model, name)
    assert f"{name!r} is neither a folder here nor in the download cache" in said
    assert "cannot be reached" in said


def test_a_name_that_cannot_be(tmp_path: Path) -> None:
    assert "There is no model 'a b/c'" in message(load_model, "a b/c")


def test_a_missing_tokenizer_is_said(tmp_path: Path) -> None:
    with quiet():
        tiny_model("bert").save_pretrained(tmp_path)
    said = message(load_tokenizer, tmp_path)
    assert "comes with no tokenizer that can be loaded" in said
    assert "tokenizer.save_pretrained" in said


def test_a_damaged_tokenizer_is_said(bert: Path) -> None:
    (bert / "tokenizer.json").write_text("{")
    assert "no tokenizer that can be loaded" in message(load_tokenizer, bert)


def test_padding_is_added_to_a_copy() -> None:
    tokenizer = tiny_tokenizer(pad_token=None)
    padded = with_padding(tokenizer)
    assert (tokenizer.pad_token, padded.pad_token) == (None, "[SEP]")
    assert with_padding(padded) is padded
    tokenizer.eos_token = None
    assert "neither a padding nor an end-of-text token" in message(with_padding, tokenizer)


OLD, NEW = "pooling_mode_", "pooling_mode"


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({f"{OLD}cls_token": False, f"{OLD}mean_tokens": True}, "mean"),
        ({f"{OLD}cls_token": True, f"{OLD}mean_tokens": False}, "first"),
        ({f"{OLD}lasttoken": True, "include_prompt": True}, "last"),
        ({f"{OLD}max_tokens": True}, None),
        ({f"{OLD}cls_token": True, f"{OLD}mean_tokens": True}, None),
        ({NEW: "cls", "include_prompt": True}, "first"),
        ({NEW: "weightedmean"}, None),
        ({}, None),
    ],
)
def test_sentence_transformers_say_how_they_pool(
    tmp_path: Path, config: dict[str, object], pooling: str | None
) -> None:
    modules = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "st.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "st.models.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert sentence_pooling(tmp_path) == (pooling, "0_Transformer")


@pytest.mark.parametrize("text", [None, "{", "{}", "[1]", "[]", '[{"path": "", "type": "T"}]'])
def test_other_models_say_nothing_about_pooling(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "modules.json").write_text(text)
    assert sentence_pooling(tmp_path) == (None, "")
