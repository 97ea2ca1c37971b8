"""Integrated gradients equal their definition, and sum up to the loss between their two ends."""

import numpy as np
import pytest
import torch

from lobes.ablation import ablate, record_contexts
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError
from lobes.measure.importance import head_importance
from lobes.modeling import MultiTaskModel, example_losses
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer


def model_for(name, task):
    return MultiTaskModel(tiny_model(name), tiny_tokenizer(), [task], pooling="mean").eval()


def loss_with(model, task, inputs, label, contexts):
    """The loss of one example where every site reads `contexts`, as leaves of the graph."""
    layout, waiting = find_heads(model), [list(calls) for calls in contexts]
    handles = [
        model.get_submodule(site.projection).register_forward_pre_hook(
            lambda _, args, site=site.index: (waiting[site].pop(0), *args[1:])
        )
        for site in layout.sites
    ]
    logits = model(**inputs, task=task.name).logits
    for handle in handles:
        handle.remove()
    return example_losses(logits, torch.tensor([label]), model.spec(task.name)).sum()


def examples_of(model, task):
    for texts, label in zip(task.train.texts, task.train.labels, strict=True):
        inputs = dict(model.tokenizer(*texts, return_tensors="pt"))
        with record_contexts(model) as record, torch.no_grad():
            model(**inputs, task=task.name)
        yield inputs, label, [list(calls) for calls in record.calls]


def plain_terms(model, task, steps, start):
    """docs/method.md#integrated-gradients, [positions, heads] of every site, example by example."""
    layout = find_heads(model)
    for inputs, label, contexts in examples_of(model, task):
        ways = [[c - zero for c in calls] for calls, zero in zip(contexts, start, strict=True)]
        mean = [[torch.zeros_like(c) for c in calls] for calls in contexts]
        for k in range(1, steps + 1):
            points = [
                [(zero + (k - 0.5) / steps * way).requires_grad_() for way in site]
                for zero, site in zip(start, ways, strict=True)
            ]
            loss = loss_with(model, task, inputs, label, points)
            flat = [point for site in points for point in site]
            found = iter(torch.autograd.grad(loss, flat))
            mean = [[m + next(found) / steps for m in calls] for calls in mean]
        yield [
            sum(w * m for w, m in zip(way, each, strict=True))
            .reshape(-1, site.n_heads, site.head_dim)
            .sum(-1)
            .detach()
            .numpy()
            for site, way, each in zip(layout.sites, ways, mean, strict=True)
        ]


@pytest.mark.parametrize(
    ("name", "aggregate", "value"),
    [("bert", "token", "zero"), ("albert", "sequence", "mean"), ("gpt2", "token", "mean")],
)
def test_equal_their_definition(name, aggregate, value):
    task = mood_task(n_train=11)
    model = model_for(name, task)
    every = [contexts for *_, contexts in examples_of(model, task)]
    start = [
        torch.cat([call.flatten(0, -2) for contexts in every for call in contexts[site]]).mean(0)
        * (value == "mean")
        for site in range(len(every[0]))
    ]
    totals, tokens = 0.0, 0
    for terms in plain_terms(model, task, 3, start):
        tokens += len(terms[0])
        by_token = [np.abs(site).sum(0) for site in terms]
        totals += np.array(
            by_token if aggregate == "token" else [np.abs(site.sum(0)) for site in terms]
        )
    found = head_importance(
        model,
        task,
        method="integrated_gradients",
        steps=3,
        value=value,
        aggregate=aggregate,
        tokens_per_batch=50,
    )
    expected = totals / (tokens if aggregate == "token" else len(task.train))
    np.testing.assert_allclose(found.values, expected, rtol=5e-4, atol=1e-8)
    assert found.halves.shape == (2, *found.values.shape)


def test_of_one_example_sum_up_to_the_loss_between_both_ends():
    """Signed, over all heads and positions, they are L(c) − L(0) (completeness)."""
    task = mood_task(n_train=5)
    model = model_for("bert", task)
    with torch.no_grad():
        for classifier in model.classifiers.values():  # a loss that is not nearly linear
            classifier.weight.mul_(40)
    zeros = [torch.zeros(site.width) for site in find_heads(model).sites]
    for (inputs, label, contexts), terms in zip(
        examples_of(model, task), plain_terms(model, task, 200, zeros), strict=True
    ):
        nothing = [[torch.zeros_like(call) for call in calls] for calls in contexts]
        ends = [loss_with(model, task, inputs, label, each).item() for each in (nothing, contexts)]
        summed = sum(site.sum() for site in terms)
        assert summed == pytest.approx(ends[1] - ends[0], rel=1e-2)
        with ablate(model, find_heads(model).all_heads()):
            logits = model(**inputs, task="mood").logits
        gone = example_losses(logits, torch.tensor([label]), model.spec("mood")).item()
        assert gone == pytest.approx(ends[0], rel=1e-5)


def test_heads_ablated_throughout_have_no_importance():
    task = mood_task(n_train=7)
    model = model_for("bert", task)
    for value in ("zero", "mean"):
        found = head_importance(
            model,
            task,
            method="integrated_gradients",
            aggregate="token",
            value=value,
            ablated="0:1 1:2",
        )
        assert found[0, 1] == found[1, 2] == 0
        assert found[0, 0] > 0


def test_what_cannot_be_is_refused():
    task = mood_task(n_train=7)
    model = model_for("bert", task)
    with pytest.raises(ConfigError, match="steps is 0; expected a number of steps on the path"):
        head_importance(model, task, method="integrated_gradients", steps=0)
    with pytest.raises(ConfigError, match='value is \'noise\'; expected "zero" or "mean"'):
        head_importance(model, task, method="integrated_gradients", value="noise")
    batches = ({"input_ids": torch.tensor([[3, 5, 2]])} for _ in range(2))
    with pytest.raises(DataError, match=r"passed over only once, .* give a list of batches"):
        head_importance(
            model.encoder,
            batches=batches,
            loss=lambda outputs, _: outputs[0].square().mean((1, 2)),
            method="integrated_gradients",
            value="mean",
        )
