"""Contexts that hold more than attention are told of, and ablation takes all of them away."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from lobes.ablation import ablate
from lobes.cli.tables import show_heads
from lobes.discovery import find_heads
from lobes.experiments.open_model import describe_heads
from lobes.heads import HeadSet
from tiny_models import tiny_model

HEADS, SIZE = 5, 3
WIDTH = HEADS * SIZE


class Block(nn.Module):
    """Attention, with something beside it: nothing, the query (MViT v2), a local term (CSWin)."""

    def __init__(self, beside: str, *, kernel: bool) -> None:
        super().__init__()
        self.beside, self.kernel = beside, kernel
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.local = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        query, key, value = (
            one.unflatten(-1, (HEADS, SIZE)).transpose(1, 2)
            for one in self.qkv(states).chunk(3, -1)
        )
        if self.kernel:
            contexts = F.scaled_dot_product_attention(query, key, value)
        else:
            contexts = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        if self.beside == "query":
            contexts = contexts + query
        contexts = contexts.transpose(1, 2).flatten(2)
        if self.beside == "local":
            values = value.transpose(1, 2).flatten(2)
            contexts = contexts + self.local(values.transpose(1, 2)).transpose(1, 2)
        return self.out(contexts)


class Model(nn.Module):
    def __init__(self, beside: str, kernel: bool) -> None:
        super().__init__()
        self.plain, self.block = Block("", kernel=kernel), Block(beside, kernel=kernel)

    def forward(self, states: Tensor) -> Tensor:
        return self.block(states + self.plain(states))


class Silenced(TorchFunctionMode):
    """All attention of one head in the second block is 0."""

    def __init__(self, head: int) -> None:
        super().__init__()
        self.head, self.seen = head, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (F.scaled_dot_product_attention, Tensor.softmax):
            self.seen += 1
            if self.seen == 2:
                output[:, self.head] = 0
        return output


@pytest.mark.parametrize("beside", ["", "query", "local"])
@pytest.mark.parametrize("kernel", [True, False])
def test_a_site_says_whether_its_contexts_are_attention_alone(beside: str, kernel: bool):
    torch.manual_seed(0)
    model, states = Model(beside, kernel).eval(), torch.randn(2, 7, WIDTH)
    layout = find_heads(model, example_inputs={"states": states})
    assert [bool(site.beside_attention) for site in layout.sites] == [False, bool(beside)]
    with torch.no_grad():
        with Silenced(1):
            silenced = model(states)
        with ablate(model, {1: [1]}, layout=layout):
            ablated = model(states)
        masked = model.block.out.register_forward_pre_hook(
            lambda _, args: (args[0].index_fill(-1, torch.arange(SIZE, 2 * SIZE), 0),)
        )
        assert torch.equal(model(states), ablated)  # the whole context, whatever is in it
        masked.remove()
    assert torch.allclose(silenced, ablated, atol=1e-6) == (not beside)


def test_the_command_line_tells_of_it(capsys: pytest.CaptureFixture[str]):
    states = torch.randn(2, 7, WIDTH)
    layout = find_heads(Model("query", True), example_inputs={"states": states})
    show_heads(layout, "model")
    said = " ".join(capsys.readouterr().out.split())
    assert "ablating also takes away what is beside attention" in said
    first, second = describe_heads(layout)["sites"]
    assert first["beside_attention"] == ""
    assert "what reaches block.out is not 0 where all attention is" in second["beside_attention"]


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "swin", "squeezebert", "siglip"])
def test_ordinary_models_have_nothing_beside_attention(name: str):
    model = tiny_model("siglip_vision_model" if name == "siglip" else name)
    assert not any(site.beside_attention for site in find_heads(model).sites)


# Parameters at a clamp.


def swin_v2(scales: list[float]) -> nn.Module:
    from transformers import Swinv2Config, Swinv2Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Swinv2Config(
            image_size=16, patch_size=2, window_size=4, embed_dim=20, depths=[1], num_heads=[5]
        )
        model = Swinv2Model(config).eval()
    attention = model.encoder.layers[0].blocks[0].attention.self
    attention.logit_scale.data.copy_(torch.tensor(scales).view(5, 1, 1))
    return model


@pytest.mark.parametrize("scales", [[2.3, 2.3, 4.7, 2.3, 2.3], [4.7] * 5])
def test_a_parameter_at_its_clamp_is_a_heads_own_as_elsewhere(scales: list[float]):
    """Swin v2 clamps each head's `logit_scale` at log(100), where its gradient is 0."""
    model = swin_v2(scales)
    before = {name: one.clone() for name, one in model.named_parameters()}
    layout = find_heads(model)
    assert layout == find_heads(swin_v2([2.3] * 5))
    assert any("logit_scale" in rows.parameter for rows in layout.sites[0].rows)
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())


@pytest.mark.slow
def test_heads_with_a_parameter_at_its_clamp_are_pruned():
    from lobes.pruning import prune

    model = swin_v2([2.3, 2.3, 4.7, 2.3, 4.7])
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
    lesion = HeadSet([(0, 0), (0, 2)])
    with torch.no_grad():
        with ablate(model, lesion):
            expected = model(**inputs).last_hidden_state
        smaller = prune(model, lesion)(**inputs).last_hidden_state
    torch.testing.assert_close(smaller, expected, rtol=1e-5, atol=1e-5)
