"""Evaluation under many lesions equals one plain pass for each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lobes.ablation import ablate
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError, HeadError
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate
from lobes.metrics import get_metric
from lobes.modeling import MultiTaskModel
from lobes.tasks.task import Task
from tiny_models import tiny_model
from tiny_tasks import mood_task, pair_task, tiny_tokenizer, topic_task, warmth_task

LESIONS = (HeadSet(), HeadSet([(0, 1)]), HeadSet([(1, 0), (1, 2)]), HeadSet([(0, 0), (1, 1)]))


@pytest.fixture(scope="module")
def tasks():
    return [mood_task(n_validation=23), pair_task(n_validation=13), warmth_task(n_validation=17)]


def model_for(name, tasks):
    return MultiTaskModel(tiny_model(name), tiny_tokenizer(), tasks, pooling="mean").eval()


def plain_logits(model, task, lesion):
    """One example after the other, without padding."""
    with torch.no_grad(), ablate(model, lesion):
        rows = [
            model(**model.tokenizer(*texts, return_tensors="pt"), task=task.name).logits[0]
            for texts in task.validation.texts
        ]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "bart"])
@pytest.mark.parametrize("share_layers", [True, False])
def test_logits_equal_plain_passes(name, share_layers, tasks):
    model = model_for(name, tasks)
    found = evaluate(model, tasks, LESIONS, tokens_per_batch=97, share_layers=share_layers)
    for task in tasks:
        assert found.logits[task.name].shape[:2] == (len(LESIONS), len(task.validation))
        for index, lesion in enumerate(LESIONS):
            np.testing.assert_allclose(
                found.logits[task.name][index], plain_logits(model, task, lesion), atol=2e-5
            )


def test_sharing_layers_changes_no_bit(tasks):
    model = model_for("bert", tasks)
    one, other = (evaluate(model, tasks, LESIONS, share_layers=share) for share in (True, False))
    for task in tasks:
        assert np.array_equal(one.logits[task.name], other.logits[task.name])


def test_fp32_is_repeatable_to_the_bit(tasks):
    model = model_for("bert", tasks)
    one, other = evaluate(model, tasks, LESIONS), evaluate(model, tasks, LESIONS)
    for task in tasks:
        assert np.array_equal(one.logits[task.name], other.logits[task.name])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 500))
def test_the_size_of_the_batches_does_not_matter(tasks, tokens_per_batch):
    model = model_for("bert", tasks)
    found = evaluate(model, tasks, LESIONS[:2], tokens_per_batch=tokens_per_batch)
    expected = evaluate(model, tasks, LESIONS[:2])
    for task in tasks:
        np.testing.assert_allclose(found.logits[task.name], expected.logits[task.name], atol=1e-5)


def test_scores_are_the_metrics_of_the_predictions(tasks):
    model = model_for("bert", tasks)
    found = evaluate(model, tasks, LESIONS)
    scores = found.scores()
    assert scores.shape == (len(LESIONS), len(tasks))
    for column, task in enumerate(tasks):
        for row in range(len(LESIONS)):
            predictions = found.predictions(task.name)[row]
            expected = get_metric(task.metric)(task.validation.labels, predictions)
            assert scores[row, column] == expected


def test_tasks_over_the_same_sentences_share_their_passes():
    mood = mood_task(n_validation=31)
    # In another order, and the first of them twice: each example must get its own logits back.
    order = [*reversed(mood.validation.texts), mood.validation.texts[0]]
    texts = [{"text": row[0], "topic": i % 3} for i, row in enumerate(order)]
    topic = Task(
        "topic", train=topic_task().train, validation=texts, text="text", label="topic",
        labels=("food", "sea", "sky"),
    )  # fmt: skip
    model = model_for("bert", [mood, topic])
    rows = 0

    def count(module, args, kwargs):
        nonlocal rows
        rows += kwargs["input_ids"].shape[0]

    handle = model.encoder.register_forward_pre_hook(count, with_kwargs=True)
    together = evaluate(model, [mood, topic])
    handle.remove()
    distinct = len(set(mood.validation.texts))
    # Two rows more: the runs that trace the model and try sharing out, on two examples each.
    assert rows <= distinct + 2 * (2 + 2 * find_heads(model).shape[0])
    for task in (mood, topic):
        alone = evaluate(model, [task])
        np.testing.assert_allclose(together.logits[task.name], alone.logits[task.name], atol=1e-5)


def test_bf16_agrees_and_leaves_the_weights_alone(tasks):
    model = model_for("bert", tasks).train()
    before = [parameter.clone() for parameter in model.parameters()]
    half = evaluate(model, tasks, LESIONS, precision="bf16")
    full = evaluate(model, tasks, LESIONS)
    assert model.training
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    for task in tasks:
        np.testing.assert_allclose(half.logits[task.name], full.logits[task.name], atol=0.1)
        assert not np.array_equal(half.logits[task.name], full.logits[task.name])


def test_what_cannot_be_evaluated_is_refused(tasks):
    model = model_for("bert", tasks)
    with pytest.raises(HeadError, match="Head 9:0 does not exist"):
        evaluate(model, tasks, [HeadSet([(9, 0)])])
    with pytest.raises(DataError, match="not made for task 'topic': it knows 'mood', 'same-topic'"):
        evaluate(model, [topic_task()])
    with pytest.raises(ConfigError, match="A split is"):
        evaluate(model, tasks, split="test")
    bare = Task("mood", validation=tasks[0].validation, text="text", label="mood",
                labels=tasks[0].labels)  # fmt: skip
    with pytest.raises(DataError, match="'mood' has no train data"):
        evaluate(model, [bare], split="train")
    with pytest.raises(DataError, match="mood"):
        evaluate(model, [tasks[0], tasks[0]])
