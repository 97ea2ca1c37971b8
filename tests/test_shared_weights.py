"""Weights that several heads' projections share: found in any adapter, and held still by IAT."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from lobes import IAT, MultiTaskModel, MultiTaskTrainer, find_heads
from lobes.heads import HeadSet
from lobes.training.arguments import training_arguments
from lobes.training.shared_weights import shared_weights
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task

peft = pytest.importorskip("peft")
TASKS = (mood_task(), topic_task())


def adapted(kind: str = "bert", targets: Any = ("query", "key", "value"), **more: Any) -> Any:
    encoder = tiny_model(kind)
    settings = {"r": 2, "lora_alpha": 8, "init_lora_weights": False, **more}
    with torch.random.fork_rng(devices=[]):
        config = peft.LoraConfig(target_modules=list(targets), **settings)
        peft.inject_adapter_in_model(config, encoder)
    return MultiTaskModel(encoder, tiny_tokenizer(), TASKS, pooling="mean")


def found(model: MultiTaskModel) -> set[str]:
    """The shared weights of the first block, from its name on."""
    names = shared_weights(model, find_heads(model))
    return {name.split(".0.", 1)[1] for name in names if ".0." in name}


@pytest.mark.parametrize(
    "kind", ["bert", "albert", "deberta-v2", "gpt_neox", "llama", "t5", "bart"]
)
def test_a_model_without_adapters_shares_none(kind: str) -> None:
    model = MultiTaskModel(tiny_model(kind), tiny_tokenizer(), TASKS, pooling="mean")
    assert shared_weights(model, find_heads(model)) == []


@pytest.mark.parametrize("more", [{}, {"use_dora": True}])
def test_the_first_factor_of_lora_is_shared(more: Any) -> None:
    at = "attention.self."
    names = {f"{at}{part}.lora_A.default.weight" for part in ("query", "key", "value")}
    assert found(adapted(**more)) == names
    # in a fused projection, and beside one whose adapter reaches no query, key or value
    fused = {"attn.c_attn.lora_A.default.weight"}
    assert found(adapted("gpt2", ("c_attn", "c_proj"), fan_in_fan_out=True)) == fused


def test_a_prefix_reaches_the_heads_from_outside_their_block() -> None:
    config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=3)
    encoder = peft.get_peft_model(tiny_model("bert"), config)
    model = MultiTaskModel(encoder, tiny_tokenizer(), TASKS, pooling="mean")
    (name,) = shared_weights(model, find_heads(model))
    assert name == "encoder.prompt_encoder.default.embedding.weight"


def effective(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weight that each adapted projection multiplies with."""
    return {
        name: (module.base_layer.weight + module.get_delta_weight("default")).detach().clone()
        for name, module in model.named_modules()
        if isinstance(module, peft.tuners.lora.layer.Linear)
    }


class Rows(TrainerCallback):
    """In the IAT phase, how far each step moved the heads that its task trains, and the others."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.moved: list[tuple[float, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.before = effective(self.trainer._own)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if not self.trainer._iat.active:
            return
        (task,) = self.trainer._seen
        heads = HeadSet.parse(self.trainer.iat_record["heads"][task])
        own = other = 0.0
        for name, weight in effective(self.trainer._own).items():
            change = (weight - self.before[name]).abs().reshape(5, 6, -1).amax((1, 2)).tolist()
            site = int(name.split("layer.")[1][0])
            own = max([own, *(x for h, x in enumerate(change) if (site, h) in heads)])
            other = max([other, *(x for h, x in enumerate(change) if (site, h) not in heads)])
        self.moved.append((own, other))


def test_a_batch_changes_the_effective_rows_of_its_own_heads_only(tmp_path: Path) -> None:
    model, rows = adapted(), Rows()
    args = training_arguments(
        tmp_path, steps=7, batch_size=8, learning_rate=1e-3, precision="fp32", device="cpu"
    )
    iat = IAT(delta=0.6, importance_examples=11)
    rows.trainer = MultiTaskTrainer(model, args, tasks=TASKS, iat=iat, callbacks=[rows])
    rows.trainer.train()
    assert len(rows.moved) == 4
    assert all(own > 1e-5 and other == 0.0 for own, other in rows.moved)
    shared = shared_weights(model, find_heads(model))
    assert len(shared) == 6  # they train again once the phase is over
