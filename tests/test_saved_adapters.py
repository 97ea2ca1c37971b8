"""A MultiTaskModel whose encoder has adapters: trained, saved beside its base model, loaded."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

from lobes import IAT, MultiTaskModel, MultiTaskTrainer, find_heads, head_lora, load_task_model
from lobes.errors import ConfigError, ModelError
from lobes.heads import HeadSet
from lobes.training.arguments import training_arguments
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

TASKS = (mood_task(), topic_task())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_model("bert").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def model_on(base: Path, heads: str = "0:1,2 1:0", **more: Any) -> MultiTaskModel:
    model = MultiTaskModel.from_pretrained(base, TASKS, pooling="mean")
    return head_lora(model, heads, r=2, **more)


def logits(model: Any) -> dict[str, Tensor]:
    model.eval()
    with torch.no_grad():
        return model.logits(**model.example())


def trainer(model: MultiTaskModel, folder: Path, steps: int, **more: Any) -> MultiTaskTrainer:
    options = {"save_every": more.pop("save_every", None)}
    args = training_arguments(
        folder,
        steps=steps,
        batch_size=8,
        learning_rate=3e-3,
        weight_decay=0.1,
        precision="fp32",
        device="cpu",
        **options,
    )
    return MultiTaskTrainer(model, args, tasks=TASKS, **more)


def test_adapters_and_classifiers_are_saved_beside_one_base(base: Path, tmp_path: Path) -> None:
    model = model_on(base)
    trainer(model, tmp_path / "run", 4).train()
    model.save_pretrained(tmp_path / "saved")
    files = {path.name for path in (tmp_path / "saved" / "encoder").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files
    assert "model.safetensors" not in files
    loaded = load_task_model(tmp_path / "saved")
    expected = logits(model)
    for task, values in logits(loaded).items():
        assert torch.equal(values, expected[task])
    # peft and transformers know nothing of lobes' folder
    plain = transformers.AutoModel.from_pretrained(base)
    alone = peft.PeftModel.from_pretrained(plain, tmp_path / "saved" / "encoder").eval()
    inputs = {name: value for name, value in model.example().items() if name != "token_type_ids"}
    with torch.no_grad():
        states, own = alone(**inputs), model.encoder(**inputs)
    assert torch.equal(states.last_hidden_state, own.last_hidden_state)


def test_a_loaded_model_trains_the_same_heads(base: Path, tmp_path: Path) -> None:
    model_on(base).save_pretrained(tmp_path / "saved")
    loaded: Any = load_task_model(tmp_path / "saved", TASKS)
    trainer(loaded, tmp_path / "run", 3).train()
    before = tiny_model("bert")
    for name, weight in loaded.encoder.merge_and_unload().named_parameters():
        changed = (weight != before.get_parameter(name)).nonzero()
        if name.endswith("layer.0.attention.self.query.weight"):
            assert set(changed[:, 0].tolist()) == set(range(6, 18))
        if name.endswith("layer.1.attention.output.dense.weight"):
            assert set(changed[:, 1].tolist()) == set(range(6))


def test_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    model_on(base).save_pretrained(tmp_path / "saved")
    tiny_model("bert", seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="belong to another base model"):
        load_task_model(tmp_path / "saved", base=tmp_path / "other")
    moved = tmp_path / "moved"
    tiny_model("bert").save_pretrained(moved)
    assert load_task_model(tmp_path / "saved", base=moved).config.hidden_size == 30
    half = load_task_model(tmp_path / "saved", base=moved, dtype=torch.bfloat16)
    assert half.encoder.get_base_model().dtype == torch.bfloat16
    card = tmp_path / "saved" / "lobes.json"
    content = json.loads(card.read_text())
    del content["base"]["weights"]
    card.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="does not describe a saved MultiTaskModel"):
        load_task_model(tmp_path / "saved")


def test_a_base_without_a_name_or_other_trained_weights_are_refused(
    base: Path, tmp_path: Path
) -> None:
    unnamed = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), TASKS)
    with pytest.raises(ModelError, match="their base model has no name to be loaded by"):
        head_lora(unnamed, "0:1").save_pretrained(tmp_path / "saved")
    model = model_on(base)
    model.encoder.get_base_model().embeddings.requires_grad_(True)
    with pytest.raises(ModelError, match=r"embeddings.*is no part of an adapter"):
        model.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize("task_type", [None, "FEATURE_EXTRACTION"])
def test_an_encoder_with_adapters_reads_what_its_base_model_reads(
    base: Path, task_type: str | None
) -> None:
    plain = MultiTaskModel.from_pretrained(base, TASKS, pooling="mean")
    adapted = model_on(base, task_type=task_type)
    assert type(adapted.encoder).__name__.endswith("FeatureExtraction") == bool(task_type)
    inputs = plain.example() | {"token_type_ids": torch.ones(1, 7, dtype=torch.int64)}
    inputs = {name: value[:, :7] for name, value in inputs.items()}
    with torch.no_grad():
        found, expected = (each.eval().pooled(**inputs) for each in (adapted, plain))
        others = {**inputs, "token_type_ids": inputs["token_type_ids"] * 0}
        assert torch.equal(found, expected)
        assert not torch.equal(found, plain.pooled(**others))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_model.safetensors", b"{}"),
        ("adapter_config.json", b"{"),
        ("adapter_config.json", b'{"peft_type": "NOTHING"}'),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": 3, "target_modules": ["key"]}'),
    ],
)
def test_damaged_adapters_are_one_sentence(
    base: Path, tmp_path: Path, file: str, content: bytes
) -> None:
    model = model_on(base)
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "encoder" / file).write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be loaded .* copy the whole folder"):
        load_task_model(tmp_path / "saved")
    if file.startswith("adapter_model"):
        with pytest.raises(ModelError, match=r"cannot be loaded .* copy the whole folder"):
            model.load_weights(tmp_path / "saved")


def test_adapters_are_not_trained_in_shards(base: Path, tmp_path: Path) -> None:
    options = {"steps": 2, "batch_size": 8, "precision": "fp32", "device": "cpu", "fsdp": True}
    args = training_arguments(tmp_path, **options)
    with pytest.raises(ConfigError, match="fsdp is set, but the encoder has adapters"):
        MultiTaskTrainer(model_on(base), args, tasks=TASKS)


def test_a_killed_training_of_adapters_goes_on_to_the_same_weights(
    base: Path, tmp_path: Path
) -> None:
    iat = IAT(alpha=0.4, delta=0.5, importance_examples=11)
    whole = model_on(base, "0:0,1,2,3,4 1:0,1,2,3,4")
    trainer(whole, tmp_path / "whole", 6, iat=iat).train()

    class Kill(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    given = {"iat": iat, "save_every": 4}
    part = trainer(model_on(base, "0:0,1,2,3,4 1:0,1,2,3,4"), tmp_path / "part", 6, **given)
    part.add_callback(Kill())
    with pytest.raises(KeyboardInterrupt):
        part.train()
    again = model_on(base, "0:0,1,2,3,4 1:0,1,2,3,4")
    trainer(again, tmp_path / "part", 6, **given).train(resume_from_checkpoint=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_in_the_phase_a_task_trains_the_adapter_rows_of_its_own_heads(
    base: Path, tmp_path: Path
) -> None:
    model = model_on(base, "0:0,1,2,3,4 1:0,1,2,3,4", target_modules=["query", "key", "value"])
    moved = []

    class Rows(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.before = {name: value.clone() for name, value in model.state_dict().items()}

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if not work._iat.active:
                return
            (task,) = work._seen
            heads = HeadSet.parse(work.iat_record["heads"][task])
            changed = set()
            for name, value in model.state_dict().items():
                differs = value != self.before[name]
                if name.startswith("classifiers.") or not differs.any():
                    continue
                assert ".lora_B." in name
                site = int(name.split("layer.")[1][0])
                rows = differs.reshape(5, 6, -1).any(2).any(1)
                changed |= {(site, head) for head in rows.nonzero().flatten().tolist()}
            assert changed == set(heads)
            moved.append(task)

    iat = IAT(alpha=0.4, delta=0.6, importance_examples=11)
    work = trainer(model, tmp_path, 7, iat=iat, callbacks=[Rows()])
    work.train()
    assert set(moved) == {"mood", "topic"}
    assert find_heads(model).total == 10
