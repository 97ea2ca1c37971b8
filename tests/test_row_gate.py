"""The row gate: which rows get a gradient, what the optimizer may move, and what is left behind."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from lobes.discovery import find_heads
from lobes.errors import HeadError, ModelError
from lobes.heads import HeadLayout, HeadSet
from lobes.training.row_gate import KeptRows, RowGate, learning_rows, owned_parameters
from tiny_models import TINY, tiny_inputs, tiny_model

GATED = [name for name in TINY if name not in {"olmo2", "convbert", "jetmoe"}]


def loss_of(model: nn.Module) -> torch.Tensor:
    """A number that depends on every output of the model."""
    outputs = model(**tiny_inputs(model))
    tensors = [value for value in outputs.values() if isinstance(value, torch.Tensor)]
    generator = torch.Generator().manual_seed(0)
    return sum((t * torch.randn(t.shape, generator=generator)).sum() for t in tensors[:2])  # type: ignore[return-value]


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss_of(model).backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


def rows_of(layout: HeadLayout, heads: HeadSet) -> dict[str, dict[int, set[int]]]:
    """{parameter: {axis: the rows that these heads own}}, straight from the layout."""
    found: dict[str, dict[int, set[int]]] = {}
    for site, head in heads:
        for rows in layout.sites[site].rows:
            own = found.setdefault(rows.parameter, {}).setdefault(rows.axis, set())
            own |= set(rows.rows(head).tolist())
    return found


@pytest.mark.parametrize("name", GATED)
def test_a_gradient_reaches_the_rows_of_its_own_heads_and_is_the_plain_one_there(name: str) -> None:
    model = tiny_model(name).eval()
    layout = find_heads(model)
    heads = HeadSet([(site.index, site.index % site.n_heads) for site in layout.sites])
    plain = gradients(model)
    with RowGate(model, layout, {"a": heads}) as gate, torch.no_grad():
        before = loss_of(model)
        with torch.enable_grad():
            gate.select("a")
            gated = gradients(model)
        assert torch.equal(before, loss_of(model))
    mine, everybodys = rows_of(layout, heads), rows_of(layout, layout.all_heads())
    assert plain.keys() == gated.keys()
    stopped = 0
    for key, gradient in plain.items():
        expected = gradient.clone()
        for axis, owned in everybodys.get(key, {}).items():
            resting = sorted(owned - mine.get(key, {}).get(axis, set()))
            expected.index_fill_(axis, torch.tensor(resting, dtype=torch.int64), 0)
            stopped += len(resting)
        assert torch.equal(gated[key], expected), key
    assert stopped
    assert all(torch.equal(value, plain[key]) for key, value in gradients(model).items())


def test_a_model_whose_heads_share_rows_through_a_norm_is_refused() -> None:
    model = tiny_model("olmo2")
    with pytest.raises(ModelError) as caught:
        RowGate(model, find_heads(model), {"a": HeadSet()})
    said = str(caught.value)
    assert said.startswith(
        "The heads of site 0 (layers.0.self_attn) cannot be trained one by one: "
    )
    assert "norm across heads" in said
    assert said.endswith("train this one without iat.")


def test_heads_that_share_keys_and_values_train_them_when_any_may() -> None:
    model = tiny_model("llama")
    layout = find_heads(model)
    key = next(rows for rows in layout.sites[0].rows if "k_proj" in rows.parameter)
    partner = next(h for h in range(1, layout.sites[0].n_heads) if key.ranges[h] == key.ranges[0])
    length = model.get_parameter(key.parameter).shape[0]
    masks = [
        learning_rows(layout, key.parameter, length, HeadSet([(0, head)])) for head in (0, partner)
    ]
    assert torch.equal(*masks)
    assert 0 < int(masks[0].sum()) < length


def test_rows_that_belong_to_no_head_train_with_the_other_parameters() -> None:
    model = tiny_model("bert")
    layout = find_heads(model)
    name, _ = owned_parameters(layout)[0]
    length = model.get_parameter(name).shape[0]
    nothing = HeadSet()
    assert not learning_rows(layout, name, length, nothing).any()
    assert (
        learning_rows(layout, name, length + 2, nothing).tolist() == [False] * length + [True] * 2
    )
    assert not learning_rows(layout, name, length + 2, nothing, train_other=False).any()


def test_nothing_is_left_behind_also_after_an_exception() -> None:
    model = tiny_model("bert")
    layout = find_heads(model)
    before = [(module, dict(module.__dict__)) for module in model.modules()]
    names, weights = list(model.state_dict()), list(model.parameters())

    def untouched() -> bool:
        return all(module.__dict__.keys() == dict_.keys() for module, dict_ in before)

    def fail_inside() -> None:
        with RowGate(model, layout, {"a": HeadSet()}):
            assert not untouched()
            assert list(model.state_dict()) == names
            assert all(one is other for one, other in zip(model.parameters(), weights, strict=True))
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_inside()
    assert untouched()


def test_a_failing_forward_pass_leaves_the_parameters_where_they_are() -> None:
    model = tiny_model("bert")
    with RowGate(model, find_heads(model), {"a": HeadSet()}):
        query = model.get_submodule("encoder.layer.0.attention.self.query")
        with pytest.raises(RuntimeError):
            query(torch.zeros(1, 1))
        assert "weight" not in query.__dict__
        assert isinstance(query.weight, nn.Parameter)


def test_a_forward_pass_of_its_own_is_put_back() -> None:
    model = tiny_model("bert")
    layout = find_heads(model)
    query = model.get_submodule("encoder.layer.0.attention.self.query")
    plain = query.forward
    calls = []
    query.forward = lambda inputs: calls.append(1) or plain(inputs)
    mine = query.forward
    with RowGate(model, layout, {"a": HeadSet()}):
        loss_of(model)
    assert calls
    assert query.__dict__["forward"] is mine


def test_a_copy_made_inside_uses_its_own_weights() -> None:
    model = tiny_model("bert").eval()
    with RowGate(model, find_heads(model), {"a": HeadSet()}) as gate:
        gate.select("a")
        copy = deepcopy(model)
        with torch.no_grad():
            for parameter in copy.parameters():
                parameter.mul_(1.5)
        inside = loss_of(copy)
        assert not torch.equal(inside, loss_of(model))
    fresh = deepcopy(model)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(1.5)
    assert torch.equal(inside, loss_of(fresh))


def test_heads_that_do_not_exist_are_refused() -> None:
    model = tiny_model("bert")
    with pytest.raises(HeadError, match="Head 0:99 does not exist"):
        RowGate(model, find_heads(model), {"a": HeadSet([(0, 99)])})


@pytest.mark.parametrize("name", ["bert", "gpt2", "gpt_neox", "llama", "modernbert"])
@pytest.mark.parametrize("strict", [True, False])
def test_momentum_moves_resting_rows_unless_they_are_kept(name: str, strict: bool) -> None:
    model = tiny_model(name).eval()
    layout = find_heads(model)
    first = HeadSet([(site.index, 0) for site in layout.sites])
    second = HeadSet([(site.index, site.n_heads - 1) for site in layout.sites])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    loss_of(model).backward()
    optimizer.step()  # fills the momentum of every row
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with RowGate(model, layout, {"a": first, "b": second}) as gate:
        kept = KeptRows(gate)
        for tasks in ({"a"}, {"a", "b"}, {"a"}):
            optimizer.zero_grad()
            for task in sorted(tasks):
                gate.select(task)
                loss_of(model).backward()
            if strict:
                kept.keep(tasks)
            optimizer.step()
            if strict:
                kept.restore()
    mine, everybodys = rows_of(layout, first | second), rows_of(layout, layout.all_heads())
    moved = 0
    for key, axes in everybodys.items():
        for axis, owned in axes.items():
            resting = sorted(owned - mine.get(key, {}).get(axis, set()))
            now, then = (
                state[key].index_select(axis, torch.tensor(resting, dtype=torch.int64))
                for state in (model.state_dict(), before)
            )
            moved += int((now != then).sum())
            trained = sorted(mine.get(key, {}).get(axis, set()))
            now, then = (
                state[key].index_select(axis, torch.tensor(trained, dtype=torch.int64))
                for state in (model.state_dict(), before)
            )
            assert (now != then).any()
    assert (moved == 0) is strict
