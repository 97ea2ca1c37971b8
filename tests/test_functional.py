"""Heads of torch's own multi-head attention, whose projection is applied inside one function."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import lobes.discovery
from lobes.ablation import ablate, record_contexts
from lobes.discovery import find_heads
from lobes.errors import HeadError, ModelError
from lobes.heads import HeadSet
from lobes.measure.importance import head_importance
from lobes.replay import Replay
from lobes.sites import OwnedRows
from lobes.training.row_gate import RowGate

WIDTH, HEADS, BATCH, LENGTH = 12, 4, 3, 7
EMPTY = HeadSet()


def encoder(batch_first: bool = True, **settings: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 17, batch_first=batch_first, **settings)
    return noisy(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False))


def noisy(model: nn.Module) -> nn.Module:
    """The model with random parameters, the same at each call, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def translator() -> nn.Module:
    return noisy(nn.Transformer(WIDTH, HEADS, 1, 2, 17, batch_first=True))


def siglip() -> nn.Module:
    config = transformers.SiglipVisionConfig(
        hidden_size=WIDTH, intermediate_size=17, num_hidden_layers=1, num_attention_heads=HEADS,
        image_size=12, patch_size=4,
    )  # fmt: skip
    return noisy(transformers.AutoModel.from_config(config))


def wavlm() -> nn.Module:
    config = transformers.WavLMConfig(
        hidden_size=20, num_hidden_layers=2, num_attention_heads=5, intermediate_size=22,
        conv_dim=(10,), conv_stride=(200,), conv_kernel=(8,), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    return noisy(transformers.AutoModel.from_config(config))


class Pointed(nn.Module):
    """Attention with positions added to queries and keys only, over a memory of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.itself = nn.MultiheadAttention(WIDTH, HEADS, bias=False)
        self.memory = nn.MultiheadAttention(WIDTH, HEADS, kdim=11, vdim=13, add_bias_kv=True)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        y = x + 1
        x = x + self.itself(y, y, x)[0]
        return x + self.memory(x, keys, values)[0]


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Tensor], int]] = {
    # a model, a batch of 3, the axis of the batch in its output
    "encoder": (encoder, {"src": noise(BATCH, LENGTH, WIDTH)}, 0),
    "norm first": (lambda: encoder(norm_first=True), {"src": noise(BATCH, LENGTH, WIDTH)}, 0),
    "transposed": (lambda: encoder(False), {"src": noise(LENGTH, BATCH, WIDTH)}, 1),
    "translator": (
        translator,
        {"src": noise(BATCH, LENGTH, WIDTH), "tgt": noise(BATCH, 11, WIDTH)},
        0,
    ),
    "siglip": (siglip, {"pixel_values": noise(BATCH, 3, 12, 12)}, 0),
    "wavlm": (wavlm, {"input_values": noise(BATCH, 400)}, 0),
    "pointed": (
        lambda: noisy(Pointed()),
        {
            "x": noise(LENGTH, BATCH, WIDTH),
            "keys": noise(11, BATCH, 11),
            "values": noise(11, BATCH, 13),
        },
        1,
    ),
}


def run(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    output = model(**inputs)
    if isinstance(output, Tensor):
        return output
    return output.pooler_output if "pooler_output" in output else output.last_hidden_state


def without_columns(model: nn.Module, heads: HeadSet) -> nn.Module:
    """A copy whose output projections do not read these heads: the plain way for a whole batch."""
    copy = deepcopy(model)
    for index, head in heads:
        site = find_heads(model).sites[index]
        weight = copy.get_submodule(site.projection).weight
        with torch.no_grad():
            weight[:, head * site.head_dim : (head + 1) * site.head_dim] = 0
    return copy


def test_sites_of_a_transformer():
    layout = find_heads(translator(), example_inputs=MODELS["translator"][1])
    assert [(site.name, site.n_heads, site.head_dim, site.kind) for site in layout.sites] == [
        ("encoder.layers.0.self_attn", 4, 3, "self"),
        ("decoder.layers.0.self_attn", 4, 3, "self"),
        ("decoder.layers.0.multihead_attn", 4, 3, "cross"),
        ("decoder.layers.1.self_attn", 4, 3, "self"),
        ("decoder.layers.1.multihead_attn", 4, 3, "cross"),
    ]
    rows = tuple(tuple((a + 3 * h, a + 3 * h + 3) for a in (0, 12, 24)) for h in range(4))
    for site in layout.sites:
        assert site.projection == f"{site.name}.out_proj"
        assert site.rows == tuple(
            OwnedRows(f"{site.name}.in_proj_{part}", 0, rows) for part in ("weight", "bias")
        )
        assert (site.prunable, site.gateable) == (True, True)


def test_rows_where_queries_and_values_come_from_different_places():
    first, second = find_heads(noisy(Pointed()), example_inputs=MODELS["pointed"][1]).sites
    assert (first.kind, second.kind) == ("self", "cross")
    assert {rows.parameter: rows.ranges[1] for rows in first.rows} == {
        "itself.in_proj_weight": ((3, 6), (15, 18), (27, 30))
    }
    weights = {rows.parameter: rows.ranges[1] for rows in second.rows if "weight" in rows.parameter}
    assert weights == {f"memory.{part}_proj_weight": ((3, 6),) for part in "qkv"}


def test_weights_that_another_module_applies_cannot_be_gated_or_cut():
    for site in find_heads(wavlm()).sites:
        assert not site.gateable
        assert not site.prunable
        assert "is applied by another module than the one that holds it" in site.gate_reason


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_ablating_equals_a_projection_that_does_not_read_the_heads(name: str, gradients: bool):
    make, inputs, axis = MODELS[name]
    model = make()
    layout = find_heads(model, example_inputs=inputs)
    every = list(layout.all_heads())
    sets = [HeadSet(every[::2]), EMPTY, HeadSet([every[1], every[-1]])]
    with torch.set_grad_enabled(gradients):
        before = run(model, inputs)
        with ablate(model, sets):
            together = run(model, inputs)
        for row, heads in enumerate(sets):
            expected = run(without_columns(model, heads), inputs).select(axis, row)
            torch.testing.assert_close(together.select(axis, row), expected, rtol=0, atol=2e-6)
            with ablate(model, heads):
                alone = run(model, inputs).select(axis, row)
            assert torch.equal(alone, together.select(axis, row)) or not heads
            assert not heads or (alone - before.select(axis, row)).abs().max() > 1e-3
        with ablate(model, [EMPTY] * BATCH):
            assert torch.equal(run(model, inputs), before)
        assert torch.equal(run(model, inputs), before)
    assert_untouched(model)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padding_that_makes_nested_tensors():
    layer = nn.TransformerEncoderLayer(16, 4, 17, batch_first=True)
    model = noisy(nn.TransformerEncoder(layer, 3))
    padding = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    padding[0, 5:] = True
    inputs = {"src": noise(BATCH, LENGTH, 16), "src_key_padding_mask": padding}
    with torch.no_grad():
        before = model(**inputs)
        assert (before[0, 5:] == 0).all()  # what a nested tensor leaves
        sets = [HeadSet([(0, 1)]), EMPTY, HeadSet([(2, 3), (1, 0)])]
        find_heads(model, example_inputs=inputs)
        with ablate(model, sets):
            together = model(**inputs)
        for row, heads in enumerate(sets):
            expected = without_columns(model, heads)(**inputs)[row][~padding[row]]
            torch.testing.assert_close(together[row][~padding[row]], expected, rtol=0, atol=2e-6)
        assert torch.equal(model(**inputs), before)
    assert_untouched(model)


def test_one_example_without_a_batch():
    model, inputs = encoder(), {"src": noise(LENGTH, WIDTH)}
    layout = find_heads(model, example_inputs={"src": noise(BATCH, LENGTH, WIDTH)})
    with torch.no_grad(), ablate(model, HeadSet([(1, 2)])):
        alone = model(**inputs)
        batched = model(inputs["src"][None])[0]
    torch.testing.assert_close(alone, batched, rtol=0, atol=1e-6)
    with ablate(model, [EMPTY, HeadSet([(0, 0)])]), pytest.raises(HeadError, match="have 1 rows"):
        model(**inputs)
    assert find_heads(model, example_inputs=inputs) == layout
    assert_untouched(model)


@pytest.mark.parametrize("name", MODELS)
def test_recorded_contexts_and_their_gradients(name: str):
    make, inputs, _ = MODELS[name]
    model = make().requires_grad_(False)
    layout = find_heads(model, example_inputs=inputs)
    heads = HeadSet((site.index, 1) for site in layout.sites)
    with ablate(model, heads), record_contexts(model, gradients=True) as record:
        output = run(model, inputs)
    gradients = record.gradients((output * noise(*output.shape)).sum())
    for site in layout.sites:
        contexts = record.contexts(site.index)
        assert contexts.shape[0] == BATCH
        assert contexts.shape[2:] == (site.n_heads, site.head_dim)
        assert (contexts[:, :, 1] == 0).all()
        assert (contexts[:, :, 0] != 0).all(-1).all()
        slopes = record.split(site.index, gradients[site.index][0])
        assert (slopes != 0).any(-1).any(1).all()
    assert_untouched(model)


@pytest.mark.parametrize("name", ["encoder", "transposed", "wavlm"])
def test_importance_and_replay(name: str):
    make, inputs, axis = MODELS[name]
    model = make()
    layout = find_heads(model, example_inputs=inputs)

    def loss(outputs: Any, batch: Any) -> Tensor:
        states = outputs if isinstance(outputs, Tensor) else outputs[0]
        return (states * noise(*states.shape)).movedim(axis, 0).flatten(1).sum(1)

    taylor = head_importance(model, batches=[inputs], loss=loss, aggregate="sequence")
    exact = head_importance(model, batches=[inputs], loss=loss, method="ablation")
    assert (taylor.values > 0).all()
    with torch.no_grad():
        base = loss(model(**inputs), inputs).mean()
        lesion = HeadSet([(1, 3)])
        with ablate(model, lesion):
            risen = loss(model(**inputs), inputs).mean()
        assert exact[1, 3] == pytest.approx(float(risen - base), rel=1e-3, abs=1e-4)
        assert Replay(model, layout, lambda: run(model, inputs)).sharing
    assert_untouched(model)


def test_the_heads_of_a_copy_are_reached_by_the_same_layout():
    model, inputs = encoder(), MODELS["encoder"][1]
    layout = find_heads(model, example_inputs=inputs)
    copy = deepcopy(model)
    with torch.no_grad(), ablate(copy, HeadSet([(0, 0)]), layout=layout):
        ablated = copy(**inputs)
        assert not torch.equal(ablated, model(**inputs))
    lobes.discovery._known.clear()
    with ablate(model, layout.all_heads(), layout=layout):
        assert find_heads(model, example_inputs=inputs) == layout


def test_only_the_selected_heads_rows_train():
    model, inputs = encoder(dropout=0.0).train(), MODELS["encoder"][1]
    layout = find_heads(model, example_inputs=inputs)
    with RowGate(model, layout, {"a": HeadSet([(0, 1)])}) as gate:
        gate.select("a")
        (model(**inputs) * noise(BATCH, LENGTH, WIDTH)).sum().backward()
    for index in range(2):
        gradient = model.layers[index].self_attn.in_proj_weight.grad
        trained = {int(row) for row in torch.nonzero(gradient.any(1))}
        assert trained == ({*range(3, 6), *range(15, 18), *range(27, 30)} if index == 0 else set())


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_nothing_is_left_behind(error: BaseException):
    class Bomb(nn.Module):
        def forward(self, *_: Any, **__: Any) -> Tensor:
            raise error

    model, inputs = encoder(), MODELS["encoder"][1]
    layout = find_heads(model, example_inputs=inputs)
    model.layers[1].linear1 = Bomb()
    with (
        pytest.raises(type(error)),
        ablate(model, layout.all_heads(), layout=layout),
        record_contexts(model, layout=layout, gradients=True),
    ):
        model(**inputs)
    assert_untouched(model)


def test_a_projection_held_elsewhere_is_refused():
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, 3 * WIDTH)
            self.parts = nn.ModuleDict({"out": nn.Linear(WIDTH, WIDTH)})

        def forward(self, x: Tensor) -> Tensor:
            out = self.parts["out"]
            return nn.functional.multi_head_attention_forward(
                x, x, x, WIDTH, HEADS, self.inner.weight, self.inner.bias, None, None, False, 0.0,
                out.weight, out.bias,
            )[0]  # fmt: skip

    with pytest.raises(ModelError, match=r"calls torch's multi_head_attention_forward with an out"):
        find_heads(Apart(), example_inputs={"x": noise(LENGTH, BATCH, WIDTH)})


def assert_untouched(model: nn.Module) -> None:
    for module in model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert "forward" not in module.__dict__
        assert "_lobes_opened" not in module.__dict__
        if isinstance(module, nn.TransformerEncoder):
            assert module.use_nested_tensor == module.enable_nested_tensor
    assert not torch.overrides._get_current_function_mode_stack()
