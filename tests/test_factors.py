"""Factors of heads in `ablate`: between ablated and left alone, with gradients."""

import numpy as np
import pytest
import torch

import lobes
from lobes.discovery import find_heads
from lobes.errors import ConfigError, HeadError
from lobes.heads import HeadSet
from tiny_models import tiny_inputs, tiny_model

HEADS = HeadSet.parse("0:1 1:0,3")


@pytest.fixture(scope="module")
def model():
    return tiny_model("bert")


@pytest.fixture(scope="module")
def batch(model):
    return tiny_inputs(model)


@pytest.fixture(scope="module")
def layout(model):
    return find_heads(model)


def outputs(model, batch, *args, **kwargs):
    with torch.no_grad(), lobes.ablate(model, *args, **kwargs):
        return model(**batch).last_hidden_state


def table_of(layout, heads):
    table = torch.ones(layout.shape)
    for head in heads:
        table[head] = 0
    return table


@pytest.mark.parametrize("value", ["zero", "mean", "resample"])
def test_zero_is_ablation_and_one_leaves_a_head_alone_to_the_bit(model, batch, layout, value):
    more = {} if value == "zero" else {"data": [batch] if value == "mean" else batch}
    more |= {"value": value}
    plain = model(**batch).last_hidden_state
    ablated = outputs(model, batch, HEADS, **more)
    table = table_of(layout, HEADS)
    forms = [
        table,
        table.numpy(),
        table.numpy().astype(np.int64),
        table.clone().requires_grad_(),
        dict.fromkeys(HEADS, 0),
        lobes.HeadScores(table.numpy()),
        torch.stack([table] * len(plain)),
        [dict.fromkeys(HEADS, 0.0)] * len(plain),
    ]
    for factors in forms:
        assert torch.equal(outputs(model, batch, factors=factors, **more), ablated)
    assert torch.equal(outputs(model, batch, factors=torch.ones(layout.shape), **more), plain)


def test_a_factor_multiplies_the_context_of_its_head(model, batch, layout):
    with lobes.record_contexts(model) as record:
        model(**batch)
    whole = record.contexts(0)
    with lobes.ablate(model, factors={(0, 1): 0.25, (0, 3): 2}), lobes.record_contexts(model) as r:
        model(**batch)
    expected = whole.clone()
    expected[..., 1, :] *= 0.25
    expected[..., 3, :] *= 2
    torch.testing.assert_close(r.contexts(0), expected)
    means = lobes.mean_contexts(model, [batch])
    mixed = {"factors": {(0, 1): 0.25}, "value": "mean", "data": means}
    with lobes.ablate(model, **mixed), lobes.record_contexts(model) as record:
        model(**batch)
    mean = 0.25 * whole[..., 1, :] + 0.75 * means.values[0][1].float()
    torch.testing.assert_close(record.contexts(0)[..., 1, :], mean)


def test_each_example_may_have_factors_of_its_own(model, batch, layout):
    tables = torch.rand(2, *layout.shape, generator=torch.Generator().manual_seed(0))
    together = outputs(model, batch, factors=tables)
    for number, table in enumerate(tables):
        alone = {name: values[number : number + 1] for name, values in batch.items()}
        torch.testing.assert_close(
            together[number : number + 1], outputs(model, alone, factors=table)
        )
    with pytest.raises(HeadError, match="3 head sets were given for a batch of 2 examples"):
        outputs(model, batch, factors=torch.zeros(3, *layout.shape))


def test_gradients_flow_into_factors_also_at_zero_and_one(model, batch, layout):
    start = torch.ones(layout.shape, dtype=torch.float64)
    start[0, 1], start[1, 2] = 0, 0.5
    factors = start.clone().requires_grad_()

    def total(factors):
        with lobes.ablate(model, factors=factors):
            return model(**batch).last_hidden_state[:, 0].double().square().sum()

    (found,) = torch.autograd.grad(total(factors), factors)
    for head in [(0, 1), (1, 2), (1, 4)]:
        step = torch.zeros(layout.shape, dtype=torch.float64)
        step[head] = 1e-3
        with torch.no_grad():
            slope = (total(start + step) - total(start - step)) / 2e-3
        assert found[head].item() == pytest.approx(slope.item(), rel=2e-2)


def test_factors_that_learn_are_read_at_each_run(model, batch, layout):
    factors = torch.ones(layout.shape, requires_grad=True)
    with lobes.ablate(model, factors=factors):
        first = model(**batch).last_hidden_state
        first.square().sum().backward()
        with torch.no_grad():
            factors.zero_()
        second = model(**batch).last_hidden_state
        second.square().sum().backward()
    assert torch.equal(second, outputs(model, batch, layout.all_heads()))
    assert torch.equal(first, model(**batch).last_hidden_state)


def test_what_are_no_factors_is_refused_with_the_reason(model, batch, layout):
    wrong = [
        ({(0, 9): 0.5}, "Head 0:9 does not exist"),
        ({(0, 1): float("nan")}, "The factor of head 0:1 is nan: expected a finite number"),
        ({(0, 1): "a"}, "'a' is no factor of head 0:1"),
        ({(0, 1): torch.ones(2)}, "holds one floating-point number"),
        (
            np.ones((2, 4)),
            r"Factors of the shape \[2, 4\] do not fit this model: expected \[2, 5\]",
        ),
        ("0:1", "'0:1' is no set of factors"),
        ({(0, 1): "0.5"}, "'0.5' is no factor of head 0:1"),
        ({(0, 1): 10**400}, "is no factor of head 0:1"),
        (
            np.ones((2, 5), dtype=bool),
            "Factors of booleans may mean by True that a head is ablated",
        ),
        (torch.ones(2, 5).to_sparse(), "is no set of factors"),
        (torch.ones(0, 2, 5), r"Factors of the shape \[0, 2, 5\] do not fit"),
    ]
    for factors, words in wrong:
        with pytest.raises(HeadError, match=words):
            outputs(model, batch, factors=factors)
    with pytest.raises(ConfigError, match="Both heads and factors"):
        outputs(model, batch, "0:1", factors={(0, 1): 0})


def test_a_run_in_inference_mode_leaves_nothing_that_training_stumbles_over():
    model = tiny_model("bert").bfloat16()  # of another precision than the factors
    batch = tiny_inputs(model)
    for value in ("zero", "mean"):
        more = {} if value == "zero" else {"value": value, "data": [batch]}
        with lobes.ablate(model, factors={(0, 1): 0.5}, **more):
            with torch.inference_mode():
                expected = model(**batch).last_hidden_state
            found = model(**batch).last_hidden_state
            assert torch.equal(found, expected)
            found.sum().backward()
