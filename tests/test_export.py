"""Exported tasks: transformers alone gives the model's logits, and what it cannot is refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from lobes import ablate, head_lora, prune
from lobes.errors import ConfigError, LobesError, ModelError, RunError
from lobes.modeling import MultiTaskModel, SingleTaskModel, load_task_model
from lobes.modeling import export_task as export
from lobes.modeling.export_task import export_task
from lobes.modeling.safe_loading import quiet
from lobes.tasks.task import Task
from tiny_models import TINY, tiny_model
from tiny_tasks import mood_task, pair_task, tiny_tokenizer, topic_task, warmth_task

SENTENCES = ["a merry boat", "the dull star was with the wind and the cloud", "soup", "it was one"]
TASKS = (mood_task, topic_task, warmth_task, pair_task)


def task_model(name: str = "bert", pooling: str = "auto", **settings: Any) -> MultiTaskModel:
    """A tiny model with large weights and biases in its classifiers, so that faults show."""
    tokenizer = settings.pop("tokenizer", None) or tiny_tokenizer()
    specs = [task(5, 5).spec for task in TASKS]
    model = MultiTaskModel(tiny_model(name), tokenizer, specs, pooling=pooling, **settings)
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for classifier in model.classifiers.values():
            for parameter in classifier.parameters():
                parameter.normal_(generator=generator)
    return model


def loaded(folder: Path) -> tuple[Any, Any]:
    """The exported model and its tokenizer, by transformers alone."""
    with quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def logits_of(folder: Path, *texts: list[str]) -> Tensor:
    """What a user of transformers gets for the texts, or pairs of texts."""
    model, tokenizer = loaded(folder)
    with torch.no_grad():
        tokens = tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")
        return model(**tokens).logits


def own_logits(model: MultiTaskModel, task: str, *texts: list[str]) -> Tensor:
    tokens = tiny_tokenizer()(
        *texts, padding=True, truncation=True, max_length=model.max_length, return_tensors="pt"
    )
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        return model.logits(**tokens)[task]


# What can be exported

CAN = [
    # one layer after the encoder's own pooler
    ("bert", "pooler"),
    ("albert", "pooler"),
    # two layers, the first of which is the encoder's pooler
    ("roberta", "pooler"),
    ("mpnet", "pooler"),
    # two layers with ReLU or GELU between them
    ("distilbert", "first"),
    ("electra", "first"),
    ("deberta-v2", "first"),
    # one layer without a bias, after a normalization with one
    ("gpt2", "last"),
    ("gpt_neox", "last"),
    ("bloom", "last"),
    ("falcon", "last"),
    ("opt", "last"),
]


@pytest.mark.parametrize(("name", "pooling"), CAN)
def test_transformers_alone_gives_the_same_logits(name: str, pooling: str, tmp_path: Path) -> None:
    model = task_model(name, pooling)
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    for task, texts in (("topic", [SENTENCES]), ("same-topic", [SENTENCES, SENTENCES[::-1]])):
        folder = export_task(model, task, tmp_path / task)
        assert folder == tmp_path / task
        expected = own_logits(model, task, *texts)
        torch.testing.assert_close(logits_of(folder, *texts), expected, rtol=1e-5, atol=1e-5)
        assert expected.std(0).min() > 0.1  # not the same for every text
    after = model.state_dict()
    assert model.config.to_dict() == config
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_labels_are_named_in_the_order_of_the_task(tmp_path: Path) -> None:
    model = task_model()
    config = loaded(export_task(model, "topic", tmp_path / "topic"))[0].config
    assert config.id2label == {0: "food", 1: "sea", 2: "sky"}
    assert config.label2id == {"food": 0, "sea": 1, "sky": 2}
    assert (config.num_labels, config.problem_type) == (3, "single_label_classification")
    with quiet():
        answer = transformers.pipeline("text-classification", str(tmp_path / "topic"))
        told = [line["label"] for line in answer(SENTENCES)]
    best = own_logits(model, "topic", SENTENCES).argmax(1)
    assert told == [("food", "sea", "sky")[i] for i in best]


def test_a_regression_has_one_output(tmp_path: Path) -> None:
    model = task_model()
    folder = export_task(model, "warmth", tmp_path / "warmth")
    config = loaded(folder)[0].config
    assert (config.num_labels, config.problem_type) == (1, "regression")
    torch.testing.assert_close(
        logits_of(folder, SENTENCES), own_logits(model, "warmth", SENTENCES), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("task", [topic_task, warmth_task])
def test_an_exported_model_can_be_measured(task: Callable[[], Task], tmp_path: Path) -> None:
    model, name = task_model("distilbert"), task().name
    folder = export_task(model, name, tmp_path / name)
    again = load_task_model(folder, [task()]).eval()
    assert isinstance(again, SingleTaskModel)
    tokens = tiny_tokenizer()(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = again.logits(**tokens)[name]
    torch.testing.assert_close(logits, own_logits(model, name, SENTENCES), rtol=1e-5, atol=1e-5)


def test_the_tokenizer_cuts_and_pads_as_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    # a class of tokenizers that pads on the left and gives token types
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "padding_side", "left")
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "model_input_names", names)
    tokenizer = tiny_tokenizer()
    del tokenizer.init_kwargs["model_input_names"]
    model = task_model("distilbert", tokenizer=tokenizer, max_length=13)
    saved = loaded(export_task(model, "mood", tmp_path / "mood"))[1]
    tokens = saved([" ".join(SENTENCES), "soup"], padding=True, truncation=True)
    assert [len(ids) for ids in tokens["input_ids"]] == [13, 13]
    assert tokens["attention_mask"][1] == [1] * 3 + [0] * 10
    # DistilBERT takes no token types, so the tokenizer gives none
    assert set(tokens) == {"input_ids", "attention_mask"}
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 37)
    assert tokenizer.model_input_names == names


def test_a_folder_holds_weights_configuration_and_tokenizer_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = task_model("roberta", "pooler").train()
    state = torch.get_rng_state()
    folder = export_task(model, "mood", str(tmp_path / "new" / "mood"))
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in model.modules())
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["mood"]
    assert "mood" not in (folder / "tokenizer_config.json").read_text()  # no path of this machine
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["RobertaForSequenceClassification"]
    assert str(tmp_path) not in json.dumps(config)


def test_other_precisions_are_exported_in_float32(tmp_path: Path) -> None:
    model = task_model().bfloat16()
    folder = export_task(model, "topic", tmp_path / "topic")
    assert {value.dtype for value in loaded(folder)[0].parameters()} == {torch.float32}
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    expected = own_logits(copy.deepcopy(model).float(), "topic", SENTENCES)
    torch.testing.assert_close(logits_of(folder, SENTENCES), expected, rtol=1e-5, atol=1e-5)


def test_a_classifier_without_a_bias_needs_no_place_for_one(tmp_path: Path) -> None:
    model = task_model("llama")
    nn.init.zeros_(model.classifiers["topic"].bias)
    folder = export_task(model, "topic", tmp_path / "topic")
    torch.testing.assert_close(
        logits_of(folder, SENTENCES), own_logits(model, "topic", SENTENCES), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", ["olmo2", "gpt2"])
def test_the_last_token_is_found_by_the_tokenizer_s_padding(name: str, tmp_path: Path) -> None:
    model = task_model(name)
    model.config.pad_token_id = 7 if name == "gpt2" else model.config.pad_token_id
    assert model.config.pad_token_id != model.tokenizer.pad_token_id
    nn.init.zeros_(model.classifiers["topic"].bias)
    folder = export_task(model, "topic", tmp_path / "topic")
    torch.testing.assert_close(
        logits_of(folder, SENTENCES), own_logits(model, "topic", SENTENCES), rtol=1e-5, atol=1e-5
    )


# What is refused

CANNOT = [
    ("bert", "first", r"layers \(classifier\) cannot give a .* \"first\"; .*pooling=pooler`"),
    ("bert", "mean", r"layers \(classifier\) cannot give a .* \"mean\"; .*pooling=pooler`"),
    ("roberta", "first", r"\(classifier.dense, classifier.out_proj\) cannot .*pooling=pooler`"),
    ("distilbert", "mean", r"linear classifier of the pooling \"mean\"; .*pooling=first`"),
    ("gpt2", "mean", r"linear classifier of the pooling \"mean\"; .*pooling=last`"),
    ("modernbert", "first", r"\(head.dense, classifier\) cannot give .* \"first\"; use the model"),
    ("llama", "last", "its layer score has no bias, but the classifier has one; use the model"),
    ("olmo2", "last", "its layer score has no bias, but the classifier has one; use the model"),
    ("llama", "mean", r"\(score\) cannot give .* \"mean\"; use the model as it is"),
    ("bart", "last", r"\(classification_head.dense, .*\) cannot give .*; use the model as it is"),
    ("t5", "last", r"\(classification_head.dense, .*\) cannot give .*; use the model as it is"),
]


@pytest.mark.parametrize(("name", "pooling", "says"), CANNOT)
def test_what_the_class_cannot_express_is_refused(
    name: str, pooling: str, says: str, tmp_path: Path
) -> None:
    start = "^The task 'topic' cannot be exported to [A-Za-z0-9]+ForSequenceClassification: "
    with pytest.raises(ModelError, match=start + ".*" + says) as error:
        export_task(task_model(name, pooling), "topic", tmp_path / "topic")
    assert str(error.value).endswith("with lobes.MultiTaskModel.from_pretrained.")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "pooling"), [("bert", "pooler"), ("distilbert", "first")])
def test_training_as_a_refusal_says_makes_it_possible(
    name: str, pooling: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=f'train with pooling = "{pooling}"'):
        export_task(task_model(name, "last"), "topic", tmp_path / "topic")
    assert export_task(task_model(name, pooling), "topic", tmp_path / "topic").is_dir()


def test_small_weights_hide_nothing(tmp_path: Path) -> None:
    model = task_model("bert", "first")
    with torch.no_grad():
        model.classifiers["topic"].weight.mul_(1e-7)
    with pytest.raises(ModelError, match="cannot give a linear classifier"):
        export_task(model, "topic", tmp_path / "topic")
    model = task_model("llama")
    with torch.no_grad():
        model.classifiers["topic"].bias.mul_(1e-7)
    with pytest.raises(ModelError, match="has no bias, but the classifier has one"):
        export_task(model, "topic", tmp_path / "topic")


def test_a_bias_that_no_shift_of_the_states_gives_is_refused(tmp_path: Path) -> None:
    model = task_model("gpt2")
    with torch.no_grad():  # two logits that always differ by the same
        model.classifiers["mood"].weight[1] = model.classifiers["mood"].weight[0]
    with pytest.raises(ModelError, match="layer score has no bias, but the classifier has one"):
        export_task(model, "mood", tmp_path / "mood")


def test_a_model_whose_training_failed_is_refused(tmp_path: Path) -> None:
    model = task_model()
    with torch.no_grad():
        model.classifiers["mood"].weight[1, 0] = torch.nan
    with pytest.raises(ModelError, match="weights are no longer numbers: train it again"):
        export_task(model, "mood", tmp_path / "mood")


def test_a_padding_token_that_ends_every_text_is_refused(tmp_path: Path) -> None:
    model = task_model("gpt2", tokenizer=tiny_tokenizer(pad_token=None))
    assert model.tokenizer.pad_token == "[SEP]"
    with pytest.raises(ModelError, match=r"by the padding token, .*'\[SEP\]', stands in the texts"):
        export_task(model, "topic", tmp_path / "topic")


def test_more_labels_than_the_layer_between_has_room_for(tmp_path: Path) -> None:
    labels = tuple(f"label{i}" for i in range(16))  # DistilBERT's first layer has 30 outputs
    tasks = [Task("many", text="text", labels=labels), Task("few", text="text", labels=labels[1:])]
    model = MultiTaskModel(tiny_model("distilbert"), tiny_tokenizer(), tasks)
    with pytest.raises(ModelError, match="cannot give a linear classifier"):
        export_task(model, "many", tmp_path / "many")
    folder = export_task(model, "few", tmp_path / "few")
    torch.testing.assert_close(
        logits_of(folder, SENTENCES), own_logits(model, "few", SENTENCES), rtol=1e-5, atol=1e-5
    )


def test_an_encoder_that_lacks_what_its_class_needs(tmp_path: Path) -> None:
    encoder = transformers.BertModel(TINY["bert"].config(), add_pooling_layer=False)
    model = MultiTaskModel(encoder, tiny_tokenizer(), [mood_task(5, 5)])
    with pytest.raises(ModelError, match=r"needs pooler\.dense\.weight.* BertModel has none"):
        export_task(model, "mood", tmp_path / "mood")


def test_an_encoder_without_a_class_of_its_own(tmp_path: Path) -> None:
    config = transformers.CLIPTextConfig(**vars_of_clip())
    with quiet():
        encoder = transformers.CLIPTextModel(config)
    model = MultiTaskModel(encoder, tiny_tokenizer(), [mood_task(5, 5)], pooling="first")
    with pytest.raises(ModelError, match=r"no sequence-classification class .* for CLIPTextModel"):
        export_task(model, "mood", tmp_path / "mood")


def vars_of_clip() -> dict[str, int]:
    return {
        "vocab_size": 61,
        "hidden_size": 30,
        "num_hidden_layers": 1,
        "num_attention_heads": 5,
        "intermediate_size": 34,
        "max_position_embeddings": 64,
    }


def test_only_tasks_of_a_multi_task_model(tmp_path: Path) -> None:
    model = task_model()
    with pytest.raises(ConfigError, match="no task 'taste'; it has 'mood'"):
        export_task(model, "taste", tmp_path / "taste")
    folder = export_task(model, "topic", tmp_path / "topic")
    with pytest.raises(ModelError, match="SingleTaskModel cannot be exported: expected a Multi"):
        export_task(load_task_model(folder, [topic_task()]), "topic", tmp_path / "again")


# Whole or absent


def test_nothing_is_written_over(tmp_path: Path) -> None:
    model = task_model()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        with pytest.raises(RunError, match=f"{name}' exists and is not an empty folder: give"):
            export_task(model, "mood", tmp_path / name)
    assert (tmp_path / "full" / "notes").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert (export_task(model, "mood", tmp_path / "empty") / "config.json").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError("no"), OSError(28, "No space")])
@pytest.mark.parametrize("step", ["_tokenizer_of", "_check_saved"])
def test_what_fails_on_the_way_leaves_nothing(
    error: Any, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    model = task_model()
    (tmp_path / "empty").mkdir()
    expected = RunError if isinstance(error, OSError) else type(error)
    expected = KeyboardInterrupt if error is KeyboardInterrupt else expected
    for name in ("absent", "empty"):
        with monkeypatch.context() as patch:
            patch.setattr(export, step, fail)
            with pytest.raises(expected):
                export_task(model, "mood", tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_what_an_earlier_run_left_behind_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".lobes-tmp-mood").mkdir()
    (tmp_path / ".lobes-tmp-mood" / "model.safetensors").write_text("half")
    export_task(task_model(), "mood", tmp_path / "mood")
    assert [path.name for path in tmp_path.iterdir()] == ["mood"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match=r"could not be written .* choose another folder"):
        export_task(task_model(), "mood", tmp_path / "file" / "mood")


def test_what_was_written_is_compared_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = export.load_model

    def changed(*given: Any, **settings: Any) -> Any:
        model, missing = load(*given, **settings)
        with torch.no_grad():
            model.classifier.bias[0] += 1e-3
        return model, missing

    monkeypatch.setattr(export, "load_model", changed)
    with pytest.raises(LobesError, match="'mood' was not exported: loaded back, the BertFor"):
        export_task(task_model(), "mood", tmp_path / "mood")
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_is_not_one_of_transformers_is_named(tmp_path: Path) -> None:
    model = task_model().eval()
    with ablate(model, "0:1"), pytest.raises(ModelError, match="export it after the block"):
        export_task(model, "mood", tmp_path / "ablated")
    with pytest.raises(ModelError, match="heads of the encoder were removed"):
        export_task(prune(model, "0:1"), "mood", tmp_path / "pruned")
    zeroed = prune(model, "0:1", export="zeroed")
    assert export_task(zeroed, "mood", tmp_path / "zeroed").is_dir()
    adapted = head_lora(model, "0:1")
    with pytest.raises(ModelError, match=r"merge them first \(model.encoder = model.encoder.merge"):
        export_task(adapted, "mood", tmp_path / "adapted")
    with pytest.raises(ModelError, match=r"merge them first \(model.encoder = model.encoder.merge"):
        prune(adapted.eval(), "0:1")
    assert not (tmp_path / "adapted").exists()
