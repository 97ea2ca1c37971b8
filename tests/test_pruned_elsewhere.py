"""Pruned models in other tools: transformers by itself, ONNX Runtime, torch's compilers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import zoo
from lobes import HeadSet, ablate, prune
from lobes.pruning.plan import KEY

IDS = torch.tensor([[5, 6, 7, 8, 9, 11, 13], [14, 4, 5, 9, 8, 7, 6]])


@torch.no_grad()
def states(model: Any) -> Tensor:
    return model(input_ids=IDS)[0]


def ablated(model: nn.Module, heads: HeadSet) -> Tensor:
    with ablate(model, heads):
        return states(model)


# Heads that differ from layer to layer, in transformers alone


def _step() -> nn.Module:
    from transformers.models.step3p7.modeling_step3p7 import Step3p7TextModel

    config = zoo.tiny_config("step3p7").text_config
    return zoo.noisy(lambda: Step3p7TextModel._from_config(config, attn_implementation="eager"))


@pytest.mark.skipif("step3p7" not in CONFIG_MAPPING, reason="this transformers has no Step 3.7")
@pytest.mark.parametrize(
    ("kind", "heads", "said"),
    [
        (
            "step3p7",
            "0:0,1 1:2",
            {
                "0": {"num_attention_heads": 2, "num_key_value_heads": 1},
                "1": {"num_attention_heads": 3, "num_key_value_heads": 3},
            },
        ),
        # one number of queries for all layers
        ("gemma4_text", "0:0,1 1:0,2", {"0": {"num_key_value_heads": 1}, "1": {"head_dim": 512}}),
        ("gemma4_text", "0:0,1 1:0,1", {"1": {"head_dim": 512}}),
    ],
)
def test_layers_with_other_numbers_of_heads_load_in_transformers_alone(
    kind: str, heads: str, said: dict[str, Any], tmp_path: Path
) -> None:
    model: Any = _step() if kind == "step3p7" else zoo.build(kind)
    prune(model, heads, export="native").save_pretrained(tmp_path)
    plain = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    assert not hasattr(plain.config, KEY)
    assert plain.config.to_dict()["per_layer_config"] == said
    torch.testing.assert_close(states(plain), ablated(model, HeadSet.parse(heads)))
    assert plain.num_parameters() < model.num_parameters()
