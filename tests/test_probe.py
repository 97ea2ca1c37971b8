"""The linear probe: against the plain definition, and on features that say something."""

import numpy as np
import pytest
import torch

from lobes.experiments import probe as probe_module
from lobes.experiments.probe import pooled_features, probe, ridge
from lobes.modeling import MultiTaskModel
from lobes.tasks.subsets import hold_out
from tiny_models import tiny_model
from tiny_tasks import mood_task, pair_task, tiny_tokenizer, topic_task, warmth_task


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def plain_ridge(features, targets, penalty):
    """The augmented least-squares problem, on standardized features; the bias is not penalized."""
    n, width = features.shape
    mean, scale = features.mean(axis=0), features.std(axis=0)
    with_bias = np.column_stack([(features - mean) / scale, np.ones(n)]) / np.sqrt(n)
    penalties = np.column_stack([np.sqrt(penalty) * np.eye(width), np.zeros(width)])
    rows = np.vstack([with_bias, penalties])
    wanted = np.vstack([targets / np.sqrt(n), np.zeros((width, targets.shape[1]))])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]

    def outputs(some):
        return (some - mean) / scale @ solution[:-1] + solution[-1]

    return outputs


@pytest.mark.parametrize("n", [7, 103])  # fewer examples than features, and more
def test_ridge_equals_its_definition(generator, monkeypatch, n):
    monkeypatch.setattr(probe_module, "ROWS", 31)
    features = generator.normal(2.0, [0.1, 1, 10, 5, 3, 2, 1, 1, 1, 1, 7], (n, 11)).astype("f4")
    targets = generator.normal(1.0, 2.0, (n, 3))
    new = generator.normal(2.0, 3.0, (5, 11)).astype("f4")
    for found in ridge(features, targets, [1e-3, 1.0, 100.0]):
        expected = plain_ridge(features.astype("f8"), targets, found.penalty)
        np.testing.assert_allclose(found(new), expected(new), rtol=1e-4)


def test_a_large_penalty_leaves_the_mean(generator):
    targets = generator.normal(3.0, 1.0, (29, 2))
    (found,) = ridge(generator.normal(size=(29, 5)), targets, [1e12])
    np.testing.assert_allclose(found(np.zeros((1, 5)))[0], targets.mean(axis=0))


def test_a_feature_that_never_changes_has_no_weight(generator):
    features = generator.normal(size=(31, 3))
    features[:, 1] = 0.1
    (found,) = ridge(features, features[:, :1], [1e-6])
    assert found.weights[1, 0] == 0
    np.testing.assert_allclose(found(features), features[:, :1], atol=1e-4)


def planted(task, generator, noise):
    """Features in which the labels are, and many in which there is nothing."""

    def of(examples):
        if task.is_regression:
            signal = examples.labels[:, None]
        else:
            signal = np.eye(task.n_outputs)[examples.labels]
        nothing = generator.normal(size=(len(signal), 17))
        return np.column_stack([signal + generator.normal(0, noise, signal.shape), nothing])

    part = hold_out(task, 0.2, 0)
    features = {"train": of(part.train), "held_out": of(part.validation)}
    return part, {**features, "validation": of(task.validation)}


@pytest.mark.parametrize("task", [topic_task(), warmth_task()])
def test_the_probe_finds_what_is_there(generator, task):
    part, features = planted(task, generator, noise=0.1)
    penalty, held_out, score = probe(part, features, task.validation.labels, [1e-3, 0.1, 1e6])
    assert penalty in (1e-3, 0.1)
    assert min(held_out, score) > 0.9


def test_the_penalty_is_chosen_by_what_is_held_out(generator):
    task = mood_task()
    part, features = planted(task, generator, noise=1.5)
    penalties = [1e-6, 1e-2, 0.3, 1.0, 3.0]
    each = [probe(part, features, task.validation.labels, [p]) for p in penalties]
    best = max(score for _, score, _ in each)
    largest = max(p for p, score, _ in each if score == best)
    found = probe(part, features, task.validation.labels, penalties)
    assert found == each[penalties.index(largest)]
    assert len({score for _, score, _ in each}) > 1


def test_features_are_what_the_classifiers_read():
    tasks = [mood_task(n_validation=13), pair_task(n_validation=23)]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, dropout=0.5).train()
    found = pooled_features(model, tasks, "validation", "fp32")
    assert model.training
    model.eval()
    for task in tasks:
        for row, texts in zip(found[task.name], task.validation.texts, strict=True):
            inputs = model.tokenizer(*texts, return_tensors="pt")
            with torch.no_grad():
                expected = model.pooled(**inputs)[0].numpy()
            np.testing.assert_allclose(row, expected, atol=1e-5)
