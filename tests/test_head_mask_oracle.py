"""Against transformers 4.57: its `head_mask` is our ablation, its `prune_heads` our pruning.

tests/gold/head_mask was written by transformers 4.57 itself, in an environment of its own: see
scripts/head_mask_oracle.py. Each type has a tiny model's weights, inputs, random head masks and
the outputs under each of them, and the checkpoint that 4.57 made of the pruned model. 4.57 cannot
prune BART; of T5 it prunes the encoder alone (`T5EncoderModel`), and the decoder by hand.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import lobes
from lobes import HeadLayout, HeadSet

GOLD = Path(__file__).parent / "gold" / "head_mask"
KINDS = ("bart", "bert", "distilbert", "electra", "gpt2", "roberta", "t5", "vit")
PRUNED = tuple(kind for kind in KINDS if kind != "bart")
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@cache
def expected(kind: str) -> dict[str, Tensor]:
    return load_file(GOLD / kind / "expected.safetensors")


def gold_model(kind: str, attention: str = "eager", loader: Any = transformers.AutoModel) -> Any:
    """The model whose weights 4.57 saved, as transformers of today loads it: nothing missing."""
    if kind == "t5" and not transformers.T5Model._supports_sdpa:
        attention = "eager"  # older transformers
    model, info = loader.from_pretrained(
        GOLD / kind / "model", attn_implementation=attention, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


def pruned_model(kind: str) -> Any:
    """What 4.57 pruned: the model, or T5's encoder."""
    loader = transformers.T5EncoderModel if kind == "t5" else transformers.AutoModel
    return gold_model(kind, loader=loader)


def inputs_of(kind: str, model: nn.Module) -> dict[str, Tensor]:
    prefix = "input."
    named = {n.removeprefix(prefix): v for n, v in expected(kind).items() if n.startswith(prefix)}
    if isinstance(model, transformers.T5EncoderModel):
        named.pop("decoder_input_ids")
    return named


@torch.no_grad()
def output_of(kind: str, model: nn.Module) -> Tensor:
    return model(**inputs_of(kind, model)).last_hidden_state


def mask_of_sites(kind: str, layout: HeadLayout) -> list[Tensor]:
    """4.57's masks in the order of the sites: the argument for each, and its layer there."""
    tensors, masks = expected(kind), []
    seen: dict[str, int] = {}
    for site in layout.sites:
        name = "head_mask" if "decoder" not in site.name else "decoder_head_mask"
        name = "cross_attn_head_mask" if site.kind == "cross" else name
        layer = seen[name] = seen.get(name, -1) + 1
        masks.append(tensors[f"mask.{name}"][:, layer])
    assert len(masks) == sum(v.shape[1] for n, v in tensors.items() if n.startswith("mask."))
    return masks


def masked_heads(masks: list[Tensor], number: int) -> HeadSet:
    """The heads that mask `number` sets to 0."""
    return HeadSet(
        (site, head)
        for site, mask in enumerate(masks)
        for head in torch.nonzero(mask[number] == 0).flatten().tolist()
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_ablation_is_the_head_mask_of_transformers_4(kind: str, attention: str) -> None:
    model = gold_model(kind, attention)
    masks = mask_of_sites(kind, lobes.find_heads(model))
    for number, output in enumerate(expected(kind)["output"]):
        heads = masked_heads(masks, number)
        assert bool(heads) == (number > 0)  # the first masks nothing
        with lobes.ablate(model, heads):
            torch.testing.assert_close(output_of(kind, model), output, **TOLERANCE)


def pruned_heads(kind: str) -> dict[int, list[int]]:
    """{layer: heads}, as 4.57 wrote it into the configuration."""
    config = json.loads((GOLD / kind / "pruned" / "config.json").read_text(encoding="utf-8"))
    return {int(layer): heads for layer, heads in config["pruned_heads"].items()}


@pytest.mark.parametrize("kind", PRUNED)
def test_pruning_is_that_of_transformers_4(kind: str) -> None:
    model = pruned_model(kind)
    before = sum(parameter.numel() for parameter in model.parameters())
    heads = HeadSet((layer, head) for layer, row in pruned_heads(kind).items() for head in row)
    smaller = lobes.prune(model, heads)
    torch.testing.assert_close(output_of(kind, smaller), expected(kind)["pruned"], **TOLERANCE)
    assert sum(parameter.numel() for parameter in smaller.parameters()) < before


def test_pruning_the_decoder_of_t5_is_that_of_its_attention() -> None:
    model = gold_model("t5")
    decoder = [
        site.index
        for site in lobes.find_heads(model).sites
        if "decoder" in site.name and site.kind == "self"
    ]
    heads = HeadSet(
        (decoder[layer], head) for layer, row in pruned_heads("t5").items() for head in row
    )
    output = output_of("t5", lobes.prune(model, heads))
    torch.testing.assert_close(output, expected("t5")["pruned_decoder"], **TOLERANCE)


@pytest.mark.parametrize("kind", PRUNED)
def test_what_transformers_4_pruned_loads_again(kind: str) -> None:
    loader = transformers.T5EncoderModel if kind == "t5" else None
    model = lobes.load_pruned(GOLD / kind / "pruned", loader)
    torch.testing.assert_close(output_of(kind, model), expected(kind)["pruned"], **TOLERANCE)
