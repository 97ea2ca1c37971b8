"""LoRA on chosen heads: peft's own numbers, and nothing of other heads."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from lobes import HeadSet, ablate, find_heads, head_lora
from lobes.errors import ConfigError, HeadError, LobesError, ModelError
from tiny_models import tiny_inputs, tiny_model

# separate, fused and transposed projections, groups of heads, cross-attention
NAMES = ("bert", "gpt2", "gpt_neox", "llama", "t5", "bart")
HEADS = {name: HeadSet.parse("0:1,3 1:0") for name in NAMES} | {
    "llama": HeadSet.parse("0:0,1 1:2"),  # a whole group of two, and half of one
    "t5": HeadSet.parse("0:1 3:2"),
    "bart": HeadSet.parse("0:1 3:2"),
}


def adapted(name: str, **more: Any) -> Any:
    """A tiny model with random adapters on its heads."""
    return head_lora(tiny_model(name), HEADS[name], r=3, **{"init_lora_weights": False} | more)


def outputs(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


def train(model: nn.Module, steps: int = 5) -> None:
    """AdamW with momentum and weight decay, on a loss that every output has a part in."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.03, weight_decay=0.1)
    inputs = tiny_inputs(model, batch=3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs)[0].square().mean().backward()
        optimizer.step()


@pytest.fixture(scope="module", params=NAMES)
def trained(request: Any) -> tuple[str, Any]:
    model = adapted(request.param, init_lora_weights=True)
    train(model)
    return request.param, model


def test_only_rows_and_columns_of_the_heads_change(trained: tuple[str, Any]) -> None:
    name, model = trained
    base, layout = tiny_model(name), find_heads(tiny_model(name))
    merged = copy.deepcopy(model).merge_and_unload()
    before = dict(base.named_parameters())
    may_change = {parameter: torch.zeros_like(value) for parameter, value in before.items()}
    for site, heads in HEADS[name].by_site().items():
        for head in heads:
            for rows in layout[site].rows:
                own = set(rows.rows(head).tolist())
                for other in set(range(layout[site].n_heads)) - set(heads):
                    own -= set(rows.rows(other).tolist())
                if rows.parameter.endswith("weight") and own:
                    index = torch.tensor(sorted(own))
                    may_change[rows.parameter].index_fill_(rows.axis, index, 1)
            path, size = f"{layout[site].projection}.weight", layout[site].head_dim
            columns = torch.arange(head * size, (head + 1) * size)
            may_change[path].index_fill_(0 if name == "gpt2" else 1, columns, 1)
    for parameter, weight in merged.named_parameters():
        changed = weight != before[parameter]
        assert not (changed & (may_change[parameter] == 0)).any(), parameter
        # every weight that may change has changed: each has a gradient
        assert changed.sum() >= 0.9 * may_change[parameter].sum(), parameter


def test_saved_adapters_are_those_of_peft(trained: tuple[str, Any], tmp_path: Path) -> None:
    name, model = trained
    inputs = tiny_inputs(model)
    expected = outputs(model, inputs)
    assert not torch.equal(expected, outputs(tiny_model(name), inputs))
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model(name), tmp_path)
    assert not any("lobes" in type(module).__module__ for module in loaded.modules())
    torch.testing.assert_close(outputs(loaded, inputs), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs(loaded.merge_and_unload(), inputs), expected)
    merged = copy.deepcopy(model).merge_and_unload()
    torch.testing.assert_close(outputs(merged, inputs), expected)


@pytest.mark.parametrize("name", NAMES)
def test_ablating_its_heads_takes_the_adapter_away(name: str) -> None:
    model, base = adapted(name), tiny_model(name)
    inputs = tiny_inputs(base)
    with ablate(model, HEADS[name]), ablate(base, HEADS[name]):
        found, expected = outputs(model, inputs), outputs(base, inputs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    others = find_heads(base).all_heads() - HEADS[name]
    with ablate(model, others), ablate(base, others):
        assert not torch.allclose(outputs(model, inputs), outputs(base, inputs), atol=1e-3)


def test_a_new_adapter_changes_nothing_and_is_that_of_its_seed() -> None:
    base, inputs = tiny_model("bert"), tiny_inputs(tiny_model("bert"))
    state = torch.random.get_rng_state()
    model = head_lora(tiny_model("bert"), "0:1 1:2")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(outputs(model, inputs), outputs(base, inputs))
    same, other = (head_lora(tiny_model("bert"), "0:1 1:2", seed=seed) for seed in (0, 1))
    name = "base_model.model.encoder.layer.0.attention.self.query.lora_A.default.weight"
    weights = [dict(each.named_parameters())[name] for each in (model, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_rows_that_heads_share_change_for_all_of_them_or_on_request() -> None:
    def keys(**more: Any) -> Any:
        model = head_lora(tiny_model("llama"), "0:0", init_lora_weights=False, **more)
        merged, base = model.merge_and_unload(), tiny_model("llama")
        path = "layers.0.self_attn.k_proj.weight"
        change = merged.get_parameter(path) != base.get_parameter(path)
        return change.reshape(3, 4, -1).any(2).any(1).tolist()

    assert keys() == [False, False, False]
    assert keys(shared_rows=True) == [True, False, False]


def test_projections_are_chosen_by_their_names(tmp_path: Path) -> None:
    model = head_lora(tiny_model("llama"), "0:0,1", target_modules=["q_proj", "0.self_attn.v_proj"])
    assert sorted(model.targeted_module_names) == [
        "layers.0.self_attn.q_proj",
        "layers.0.self_attn.v_proj",
    ]


def test_a_loaded_adapter_goes_on_within_its_heads(tmp_path: Path) -> None:
    first = adapted("bert")
    first.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(tiny_model("bert"), tmp_path, is_trainable=True)
    with pytest.raises(ModelError, match="changes rows or columns of other heads already"):
        head_lora(copy.deepcopy(loaded), "0:1 1:0")
    model = head_lora(loaded, HEADS["bert"])
    assert torch.equal(outputs(model, tiny_inputs(model)), outputs(first, tiny_inputs(model)))
    train(model)
    base, inputs = tiny_model("bert"), tiny_inputs(model)
    with ablate(model, HEADS["bert"]), ablate(base, HEADS["bert"]):
        torch.testing.assert_close(outputs(model, inputs), outputs(base, inputs))


def test_what_a_kept_adapter_cannot_do_is_said(tmp_path: Path) -> None:
    adapted("bert").save_pretrained(tmp_path)
    used = peft.PeftModel.from_pretrained(tiny_model("bert"), tmp_path)
    with pytest.raises(ModelError, match=r"does not train: load it with .*is_trainable=True"):
        head_lora(used, HEADS["bert"])
    first_site = head_lora(tiny_model("bert"), "0:1", r=3)
    with pytest.raises(ConfigError, match="an adapter already, whose r is 3 and not 5"):
        head_lora(first_site, "0:1", r=5)
    with pytest.raises(ModelError, match="is on no projection of site 1"):
        head_lora(first_site, "0:1 1:2", r=3)
    assert head_lora(first_site, "0:1") is first_site


@pytest.mark.parametrize(
    ("name", "heads", "more", "error", "words"),
    [
        ("bert", "", {}, ConfigError, "empty"),
        ("bert", "0:9", {}, HeadError, "Head 0:9 does not exist"),
        ("bert", "0:1", {"r": 0}, ConfigError, "r is 0; expected a rank from 1"),
        ("bert", "0:1", {"alpha": -1}, ConfigError, "alpha is -1; expected a number above 0"),
        ("bert", "0:1", {"dropout": 1}, ConfigError, "dropout is 1; expected"),
        ("bert", "0:1", {"use_dora": True}, ConfigError, "use_dora is no option of head_lora"),
        ("bert", "0:1", {"lora_alpha": 16}, ConfigError, "lora_alpha is called alpha"),
        ("bert", "0:1", {"init_lora_weights": "pissa"}, ConfigError, "weights of the base model"),
        ("bert", "0:1", {"target_modules": ["q"]}, ConfigError, "query, key, value, dense"),
        ("bert", "0:1", {"target_modules": []}, ConfigError, "target_modules is \\[\\]; expected"),
        ("bert", "0:1", {"task_type": "NO"}, ConfigError, "peft does not take .*Invalid task type"),
        ("olmo2", "0:1", {}, ModelError, r"\(layers.0.self_attn\).*a norm across heads"),
        ("bitnet", "0:1", {}, ModelError, "attn_sub_norm is a BitNetRMSNorm, and no linear"),
        ("squeezebert", "0:1", {}, ModelError, "is a Conv1d, and no linear layer"),
        ("siglip_vision_model", "1:1", {}, ModelError, "is a MultiheadAttention, and no linear"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    name: str, heads: str, more: Any, error: type[LobesError], words: str
) -> None:
    model = tiny_model(name)
    with pytest.raises(error, match=words):
        head_lora(model, heads, **more)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_without_peft_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match=r"needs peft.*pip install 'lobes\[lora\]'"):
        head_lora(tiny_model("bert"), "0:1")


def test_a_model_in_a_block_gets_no_adapters():
    model = tiny_model("bert")
    with ablate(model, "0:1"), pytest.raises(ModelError, match="call head_lora before the block"):
        head_lora(model, "0:1")
    assert not any("lora" in name for name, _ in model.named_parameters())
