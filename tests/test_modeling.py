"""Task models: what they compute, what they save, and what they refuse."""

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from lobes.errors import ConfigError, LobesError, ModelError
from lobes.modeling import MultiTaskModel, SingleTaskModel, load_task_model
from lobes.modeling import multi_task as modeling
from lobes.modeling.pretrained import load_pruned
from lobes.modeling.safe_loading import quiet
from lobes.tasks.task import Task, TaskSpec
from tiny_models import TINY, tiny_model
from tiny_tasks import mood_task, pair_task, tiny_tokenizer, topic_task, warmth_task

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "bart", "t5")
SENTENCES = ["a merry boat", "the dull star was with the wind and the cloud", "soup", "it was one"]


def specs() -> tuple[TaskSpec, ...]:
    """Tasks of 2, 3 and 1 outputs."""
    return tuple(task(5, 5).spec for task in (mood_task, topic_task, warmth_task))


def task_model(name: str = "bert", **settings: Any) -> MultiTaskModel:
    encoder = tiny_model(name, attention="sdpa" if "sdpa" in TINY[name].attentions else "eager")
    return MultiTaskModel(encoder, tiny_tokenizer(), specs(), **settings).eval()


def inputs_of(texts: list[str] = SENTENCES) -> dict[str, Tensor]:
    return dict(tiny_tokenizer()(texts, padding=True, return_tensors="pt"))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


# What it computes


@pytest.mark.parametrize("name", FAMILIES)
def test_one_pass_gives_every_task_its_logits_whatever_the_padding(name: str) -> None:
    model = task_model(name)
    together = model.logits(**inputs_of())
    assert {task: tuple(x.shape) for task, x in together.items()} == {
        "mood": (4, 2),
        "topic": (4, 3),
        "warmth": (4, 1),
    }
    for row, text in enumerate(SENTENCES):
        alone = model.logits(**inputs_of([text]))
        for task, logits in alone.items():
            torch.testing.assert_close(logits[0], together[task][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["pooler", "first", "mean", "last"])
def test_logits_are_the_classifier_of_the_pooled_states(pooling: str) -> None:
    model = task_model(pooling=pooling)
    inputs = inputs_of(["a merry boat was"] * 3)
    outputs = model.encoder(**inputs)
    states = outputs.last_hidden_state
    plain = {
        "pooler": outputs.pooler_output,
        "first": states[:, 0],
        "last": states[:, -1],
        "mean": states.mean(1),
    }[pooling]
    torch.testing.assert_close(model.pooled(**inputs), plain)
    for task, logits in model.logits(**inputs).items():
        torch.testing.assert_close(logits, model.classifiers[task](plain))
        assert torch.equal(model(**inputs, task=task).logits, logits)


def test_the_loss_is_cross_entropy_or_the_squared_error() -> None:
    model = task_model()
    inputs, classes = inputs_of(), torch.tensor([1, 0, 1, 1])
    logits = model.logits(**inputs)
    loss = model(**inputs, task="mood", labels=classes).loss
    picked = logits["mood"].log_softmax(1)[torch.arange(4), classes]
    torch.testing.assert_close(loss, -picked.mean())
    targets = torch.tensor([0.5, -1.0, 2.0, 0.25])
    loss = model(**inputs, task="warmth", labels=targets).loss
    torch.testing.assert_close(loss, ((logits["warmth"][:, 0] - targets) ** 2).mean())


def test_dropout_comes_before_the_classifiers_in_training_only() -> None:
    model = task_model(dropout=0.5)
    inputs = inputs_of()
    assert torch.equal(model.logits(**inputs)["mood"], model.logits(**inputs)["mood"])
    model.dropout.train()
    assert not torch.equal(model.logits(**inputs)["mood"], model.logits(**inputs)["mood"])


def test_half_precision_gives_float32_logits() -> None:
    model, inputs = task_model(), inputs_of()
    half = copy.deepcopy(model).bfloat16()
    for task, logits in half.logits(**inputs).items():
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, model.logits(**inputs)[task], rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.logits(**inputs)["mood"].dtype == torch.float32
    assert copy.deepcopy(model).double().logits(**inputs)["mood"].dtype == torch.float64


def test_a_task_that_the_model_does_not_have() -> None:
    with pytest.raises(ConfigError, match="no task 'taste'; it has 'mood', 'topic', 'warmth'"):
        task_model()(**inputs_of(), task="taste")
    with pytest.raises(ConfigError, match="say which, with task=NAME"):
        task_model()(**inputs_of(), labels=torch.tensor([0, 1, 0, 1]))


# How it begins


def test_initial_classifiers_depend_on_seed_and_name_alone() -> None:
    state = torch.get_rng_state()
    one, other = task_model(seed=3), task_model(seed=4)
    alone = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), specs()[1:2], seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    weight = one.classifiers["topic"].weight
    assert torch.equal(weight, alone.classifiers["topic"].weight)
    assert not torch.equal(weight, other.classifiers["topic"].weight)
    renamed = dataclasses.replace(specs()[1], name="subject")
    named = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [renamed], seed=3)
    assert not torch.equal(weight, named.classifiers["subject"].weight)
    assert 0.01 < weight.std() < 0.03
    assert not one.classifiers["topic"].bias.any()


def test_the_encoder_keeps_its_modes() -> None:
    encoder = tiny_model("bert").train()
    encoder.pooler.eval()
    MultiTaskModel(encoder, tiny_tokenizer(), specs())
    assert encoder.training
    assert not encoder.pooler.training


@pytest.mark.parametrize(
    ("name", "length"), [("bert", 37), ("roberta", 37), ("gpt2", 37), ("t5", 37)]
)
def test_the_tokenizer_may_set_the_longest_input(name: str, length: int) -> None:
    assert task_model(name).max_length == length


@pytest.mark.parametrize(
    ("name", "length"), [("bert", 64), ("roberta", 62), ("mpnet", 62), ("t5", 512)]
)
def test_the_encoder_may_set_the_longest_input(name: str, length: int) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = int(1e30)
    model = MultiTaskModel(tiny_model(name), tokenizer, specs())
    assert model.max_length == length
    full = torch.full((1, length), 4)
    assert model.logits(input_ids=full, attention_mask=full // 4)["mood"].isfinite().all()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_length": 63}, "max_length = 63 does not fit RobertaModel, which takes 1 to 62"),
        ({"max_length": 0}, "max_length = 0 does not fit"),
        ({"dropout": 1.0}, "dropout is a share from 0 to below 1, not 1"),
        ({"pooling": "max"}, "Unknown pooling 'max'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        task_model("roberta", **settings)


def test_a_pooler_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="DistilBertModel has no pooler of its own"):
        task_model("distilbert", pooling="pooler")


def test_a_task_name_that_torch_needs() -> None:
    spec = TaskSpec("values", ("text",), "label", ("a", "b"), "accuracy")
    with pytest.raises(ConfigError, match=r"cannot be called 'values'.*such as 'values-task'"):
        MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [spec])


def test_a_tokenizer_of_another_model() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(40)])
    tokenizer.add_special_tokens({"pad_token": "[OTHER]"})
    with pytest.raises(ModelError, match="pads with token 71, but the encoder knows only 61"):
        MultiTaskModel(tiny_model("bert"), tokenizer, specs())


# What it saves


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_and_loaded_is_the_same_to_the_bit(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = task_model(name, dropout=0.25, max_length=29)
    model.save_pretrained(tmp_path)
    loaded = MultiTaskModel.from_pretrained(tmp_path).eval()
    plain = transformers.AutoModel.from_pretrained(tmp_path / "encoder")
    capfd.readouterr()
    assert same_weights(model, loaded)
    assert same_weights(model.encoder, plain)
    for task, logits in model.logits(**inputs_of()).items():
        assert torch.equal(logits, loaded.logits(**inputs_of())[task])
    assert (loaded.tasks, loaded.pooling) == (model.tasks, model.pooling)
    assert (loaded.dropout.p, loaded.max_length) == (0.25, 29)
    assert loaded.tokenizer(SENTENCES)["input_ids"] == model.tokenizer(SENTENCES)["input_ids"]
    parts = {path.name for path in tmp_path.iterdir()}
    assert parts == {"encoder", "classifiers.safetensors", "lobes.json"}


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_tied_weights_are_tied_again_after_loading(name: str, tmp_path: Path) -> None:
    task_model(name).save_pretrained(tmp_path)
    encoder = MultiTaskModel.from_pretrained(tmp_path).encoder
    shared = encoder.get_input_embeddings().weight
    assert encoder.encoder.embed_tokens.weight is shared
    assert encoder.decoder.embed_tokens.weight is shared


def test_saving_and_loading_say_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task_model("gpt2").save_pretrained(tmp_path)
    MultiTaskModel.from_pretrained(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_weights_can_be_taken_over_from_a_folder(tmp_path: Path) -> None:
    model = task_model("bart", seed=1)
    model.save_pretrained(tmp_path)
    other = MultiTaskModel(tiny_model("bart", seed=5), tiny_tokenizer(), specs(), seed=2)
    assert not same_weights(model, other)
    other.load_weights(tmp_path)
    assert same_weights(model, other)


@pytest.mark.parametrize("step", ["close_folder", "write_classifiers"])
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_write_is_never_taken_for_a_model(
    step: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = task_model()
    if before:
        model.save_pretrained(tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(modeling, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.save_pretrained(tmp_path)
    if before or step == "close_folder":
        with pytest.raises(ModelError, match=r"not written to the end \(lobes.json is missing\)"):
            MultiTaskModel.from_pretrained(tmp_path, specs())
    else:
        with pytest.raises(ModelError, match="holds no model"):
            MultiTaskModel.from_pretrained(tmp_path, specs())
    model.save_pretrained(tmp_path)
    assert same_weights(model, MultiTaskModel.from_pretrained(tmp_path))


def test_a_plain_encoder_cannot_be_saved(tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model("bert")
            self.config = self.inner.config

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask)

    model = MultiTaskModel(Plain(), tiny_tokenizer(), specs())
    with pytest.raises(ModelError, match="class Plain cannot be saved"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def card(folder: Path, **changes: Any) -> None:
    text = json.loads((folder / "lobes.json").read_text())
    (folder / "lobes.json").write_text(json.dumps({**text, **changes}))


def cut_classifiers(folder: Path) -> None:
    weights = folder / "classifiers.safetensors"
    weights.write_bytes(weights.read_bytes()[:-11])


def swap_encoder(folder: Path) -> None:
    encoder = transformers.BertModel(tiny_model("bert").config)
    weights = {k: v for k, v in encoder.state_dict().items() if "layer.1.output" not in k}
    with quiet():
        encoder.save_pretrained(folder / "encoder", state_dict=weights)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "lobes.json").write_text("{"), "does not describe a saved"),
        (lambda folder: (folder / "lobes.json").write_text("[]"), "does not describe a saved"),
        (lambda folder: card(folder, schema="other"), "does not describe a saved"),
        (lambda folder: card(folder, tasks=[{}]), "does not describe a saved"),
        (lambda folder: card(folder, tasks=[]), "does not describe a saved"),
        (lambda folder: card(folder, dropout=None), "does not describe a saved"),
        (lambda folder: card(folder, version=3), r"saved by a newer lobes \(format 3"),
        (lambda folder: card(folder, version=2), "does not describe a saved"),  # its base
        (lambda folder: card(folder, tasks=[specs()[0].to_dict()]), "not those that its lobes"),
        (cut_classifiers, "classifiers in .* are missing or damaged"),
        (lambda folder: (folder / "classifiers.safetensors").unlink(), "missing or damaged"),
        (lambda folder: (folder / "encoder" / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "encoder" / "model.safetensors").unlink(), "holds no weights"),
        (swap_encoder, "is damaged: encoder.layer.1.output"),
    ],
)
def test_a_damaged_folder_is_refused(
    damage: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    task_model().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=says):
        MultiTaskModel.from_pretrained(tmp_path)


def test_given_tasks_must_be_the_saved_ones(tmp_path: Path) -> None:
    task_model().save_pretrained(tmp_path)
    tasks = [topic_task(), warmth_task(), mood_task()]
    assert MultiTaskModel.from_pretrained(tmp_path, tasks).tasks == specs()
    with pytest.raises(
        ModelError, match="has the tasks 'mood', 'topic', 'warmth', not 'mood': give it"
    ):
        MultiTaskModel.from_pretrained(tmp_path, tasks[2:])
    other = TaskSpec("mood", ("text",), "mood", ("good", "bad"), "accuracy")
    with pytest.raises(ModelError, match=r"task 'mood' has the labels .*'bad', 'good'.*, not"):
        MultiTaskModel.from_pretrained(tmp_path, [other, *tasks[:2]])
    with pytest.raises(ModelError, match="read the pooling 'pooler', not 'mean'"):
        MultiTaskModel.from_pretrained(tmp_path, pooling="mean")
    renamed = TaskSpec("mood", ("review",), "stars", ("bad", "good"), "f1")
    assert MultiTaskModel.from_pretrained(tmp_path, [renamed, *tasks[:2]]).tasks[0] == renamed
    loaded = MultiTaskModel.from_pretrained(tmp_path, dropout=0.0, max_length=13)
    assert (loaded.dropout.p, loaded.max_length) == (0.0, 13)


# New classifiers on somebody's encoder


def saved_encoder(folder: Path, encoder: nn.Module) -> Path:
    with quiet():
        encoder.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    return folder


def test_an_encoder_with_a_trained_pooler(tmp_path: Path) -> None:
    model = MultiTaskModel.from_pretrained(saved_encoder(tmp_path, tiny_model("bert")), specs())
    assert (model.pooling, model.dropout.p) == ("pooler", 0.1)
    assert same_weights(model.encoder, tiny_model("bert"))


def test_an_encoder_whose_pooler_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    encoder = transformers.BertModel(tiny_model("bert").config, add_pooling_layer=False)
    model = MultiTaskModel.from_pretrained(saved_encoder(tmp_path, encoder), specs())
    assert model.pooling == "first"
    model.save_pretrained(tmp_path / "model")
    assert same_weights(model, MultiTaskModel.from_pretrained(tmp_path / "model"))


def test_an_encoder_that_says_how_to_pool(tmp_path: Path) -> None:
    modules = [{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "b.Pooling"}]
    saved_encoder(tmp_path, tiny_model("bert"))
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    assert MultiTaskModel.from_pretrained(tmp_path, specs()).pooling == "mean"
    chosen = MultiTaskModel.from_pretrained(tmp_path, specs(), pooling="last")
    assert chosen.pooling == "last"


def test_an_encoder_needs_tasks(tmp_path: Path) -> None:
    saved_encoder(tmp_path, tiny_model("bert"))
    with pytest.raises(ModelError, match="is an encoder without classifiers: say what they are"):
        MultiTaskModel.from_pretrained(tmp_path)


# Models that were trained elsewhere


def classifier(name: str = "bert", labels: tuple[str, ...] = (), n: int = 3) -> nn.Module:
    config = TINY[name].config()
    config.num_labels = n
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: i for i, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made = transformers.AutoModelForSequenceClassification.from_config(config)
    return made.eval()


@pytest.mark.parametrize("name", ["bert", "distilbert", "gpt2", "bart", "t5"])
def test_a_single_task_model_gives_the_model_s_own_logits(name: str) -> None:
    inner = classifier(name)
    inner.config.pad_token_id = 0
    model = SingleTaskModel(inner, tiny_tokenizer(), topic_task())
    inputs = inputs_of()
    own = {k: v for k, v in inputs.items() if k != "token_type_ids" or name in ("bert", "gpt2")}
    assert torch.equal(model.logits(**inputs)["topic"], inner(**own).logits)


def test_outputs_follow_the_labels_of_the_task() -> None:
    inner = classifier(labels=("SKY", "food", "sea"))
    model = SingleTaskModel(inner, tiny_tokenizer(), topic_task())
    inputs = inputs_of()
    assert topic_task().labels == ("food", "sea", "sky")
    assert torch.equal(model.logits(**inputs)["topic"], inner(**inputs).logits[:, [1, 2, 0]])


def test_a_single_regression_output() -> None:
    model = SingleTaskModel(classifier(n=1), tiny_tokenizer(), warmth_task())
    assert model.logits(**inputs_of())["warmth"].shape == (4, 1)


@pytest.mark.parametrize(
    ("inner", "task", "says"),
    [
        ({"n": 5}, topic_task, "has 5 outputs, but the task 'topic' needs 3"),
        ({"n": 2}, warmth_task, "has 2 outputs, but the task 'warmth' needs 1"),
        (
            {"labels": ("land", "sea", "sky")},
            topic_task,
            "labels are land, sea, sky, those of the task 'topic' are food, sea, sky",
        ),
    ],
)
def test_a_model_of_another_task_is_refused(
    inner: dict[str, Any], task: Callable[[], Task], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        SingleTaskModel(classifier(**inner), tiny_tokenizer(), task())


def test_load_task_model_takes_either_kind(tmp_path: Path) -> None:
    task_model().save_pretrained(tmp_path / "many")
    many = load_task_model(tmp_path / "many", [mood_task(), topic_task(), warmth_task()])
    assert isinstance(many, MultiTaskModel)
    saved_encoder(tmp_path / "one", classifier(labels=("sky", "food", "sea")))
    assert load_task_model(tmp_path / "many", max_length=7).max_length == 7
    one = load_task_model(str(tmp_path / "one"), [topic_task()])
    assert load_task_model(tmp_path / "one", [topic_task()], max_length=7).max_length == 7
    with pytest.raises(ModelError, match="decides what it reads, not pooling = 'mean': leave"):
        load_task_model(tmp_path / "one", [topic_task()], pooling="mean")
    assert isinstance(one, SingleTaskModel)
    expected = classifier()(**inputs_of()).logits[:, [1, 2, 0]]
    torch.testing.assert_close(one.eval().logits(**inputs_of())["topic"], expected)


def test_loaded_models_are_in_evaluation_mode(tmp_path: Path) -> None:
    task_model(dropout=0.5).train().save_pretrained(tmp_path / "many")
    encoder = saved_encoder(tmp_path / "encoder", tiny_model("bert"))
    saved_encoder(tmp_path / "one", classifier(labels=("sky", "food", "sea")))
    for model in (
        load_task_model(tmp_path / "many"),
        MultiTaskModel.from_pretrained(encoder, [mood_task()]),
        load_task_model(tmp_path / "one", [topic_task()]),
    ):
        assert not any(part.training for part in model.modules())


def test_the_folder_of_a_run_is_told_from_its_model(tmp_path: Path) -> None:
    task_model().save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "config.json").write_text('{"schema": "lobes-run"}')
    message = re.escape(f"where it has one, is {str(tmp_path / 'run' / 'model')!r}.")
    for load in (load_task_model, MultiTaskModel.from_pretrained, load_pruned):
        with pytest.raises(ModelError, match=message):
            load(tmp_path / "run")
        with pytest.raises(ModelError, match="There is no folder"):
            load(tmp_path / "none")


def test_load_task_model_refuses_what_was_not_trained(tmp_path: Path) -> None:
    encoder = saved_encoder(tmp_path / "encoder", tiny_model("bert"))
    with pytest.raises(ModelError, match=r"has no trained classifier.*Train it first"):
        load_task_model(encoder, [topic_task()])
    one = saved_encoder(tmp_path / "one", classifier())
    with pytest.raises(ModelError, match="trained for one task; 2 were given"):
        load_task_model(one, [topic_task(), mood_task()])
    with pytest.raises(ModelError, match="trained for one task; 0 were given"):
        load_task_model(one)
    config = json.loads((encoder / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (encoder / "config.json").write_text(json.dumps(config | {"num_labels": 3}))
    with pytest.raises(LobesError, match=r"its checkpoint lacks classifier\.bias"):
        load_task_model(encoder, [topic_task()])


def test_pairs_of_texts_reach_the_encoder_with_their_types() -> None:
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), [pair_task(5, 5)]).eval()
    inputs = dict(tiny_tokenizer()(["a boat"], ["the wind"], return_tensors="pt"))
    with_types = model.logits(**inputs)["same-topic"]
    without = model.logits(**inputs | {"token_type_ids": None})["same-topic"]
    assert not np.allclose(with_types.detach(), without.detach())
