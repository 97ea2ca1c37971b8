"""Evaluation under many lesions equals one plain pass for each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lobes.ablation import ablate, mean_contexts
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError, HeadError
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate, task_means
from lobes.measure.resampling import partners_of
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


# Other values than zero in the place of contexts


@pytest.fixture(scope="module")
def few():
    return [mood_task(n_validation=9), pair_task(n_validation=6)]


def alone(model, task, texts, replaced=None):
    """One text without padding: its logits, and each site's contexts [length, heads, head_dim].

    `replaced` is {(site, head): contexts [length, head_dim]}, put in by hooks of our own.
    """
    layout, seen, handles = find_heads(model), {}, []

    def hook_of(site):
        def hook(module, args):
            seen[site.index] = args[0][0].unflatten(-1, (site.n_heads, -1)).clone()
            changed = seen[site.index].clone()
            for (where, head), contexts in (replaced or {}).items():
                if where == site.index:
                    changed[:, head] = contexts
            return changed.flatten(1)[None], *args[1:]

        return hook

    for site in layout.sites:
        module = model.get_submodule(site.projection)
        handles.append(module.register_forward_pre_hook(hook_of(site)))
    inputs = model.tokenizer(*texts, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs, task=task.name).logits[0]
    for handle in handles:
        handle.remove()
    return logits, [seen[site.index] for site in layout.sites]


def plainly_replaced(model, task, lesion, value, seed=0):
    """The logits of a task's examples under a lesion, by the definition, one after the other."""
    texts = list(task.validation.texts)
    contexts = {row: alone(model, task, row)[1] for row in texts}
    sites = range(len(contexts[texts[0]]))
    means = [torch.cat([contexts[row][site] for row in texts]).mean(0) for site in sites]
    distinct = list(dict.fromkeys(texts))
    lengths = np.array([len(contexts[row][0]) for row in distinct])
    partners = partners_of(lengths, seed)
    rows = []
    for row in texts:
        other = contexts[distinct[partners[distinct.index(row)]]]
        replaced = {}
        for site, head in lesion:
            here = means[site][head].repeat(len(contexts[row][site]), 1)
            if value == "resample":
                common = min(len(here), len(other[site]))
                here[:common] = other[site][:common, head]
            replaced[site, head] = here
        rows.append(alone(model, task, row, replaced)[0])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart"])
@pytest.mark.parametrize("value", ["mean", "resample"])
def test_other_values_equal_their_definition(name, value, few):
    model = model_for(name, few)
    found = evaluate(model, few, LESIONS, value=value, seed=3, tokens_per_batch=60)
    zero = evaluate(model, few, LESIONS[1:2]).logits
    for task in few:
        for index, lesion in enumerate(LESIONS):
            expected = plainly_replaced(model, task, lesion, value, seed=3)
            np.testing.assert_allclose(found.logits[task.name][index], expected, atol=2e-5)
        assert not np.allclose(found.logits[task.name][1], zero[task.name][0], atol=1e-4)
    for module in model.modules():
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
        assert "forward" not in module.__dict__


@pytest.mark.parametrize("value", ["mean", "resample"])
def test_other_values_share_layers_to_the_bit_and_depend_on_no_batch(value, few):
    model = model_for("gpt2", few)
    one = evaluate(model, few, LESIONS, value=value)
    other = evaluate(model, few, LESIONS, value=value, share_layers=False)
    small = evaluate(model, few[:1], LESIONS, value=value, tokens_per_batch=1)
    for task in few:
        assert np.array_equal(one.logits[task.name], other.logits[task.name])
    mood = few[0].name
    np.testing.assert_allclose(small.logits[mood], one.logits[mood], atol=1e-5)


@pytest.mark.parametrize("value", ["mean", "resample"])
def test_a_task_has_means_and_partners_of_its_own(value):
    """Another task over the same texts does not change them, nor a choice of its examples."""
    mood = mood_task(n_validation=9)
    texts = [{"text": row[0], "topic": i % 3} for i, row in enumerate(mood.validation.texts[:5])]
    topic = Task(
        "topic", train=topic_task().train, validation=texts, text="text", label="topic",
        labels=("food", "sea", "sky"),
    )  # fmt: skip
    model = model_for("bert", [mood, topic])
    together = evaluate(model, [mood, topic], LESIONS, value=value)
    for task in (mood, topic):
        only = evaluate(model, task, LESIONS, value=value)
        assert np.array_equal(together.logits[task.name], only.logits[task.name])
    chosen = np.array([1, 2, 6])
    some = mood.replace(validation=mood.validation.select(chosen))
    found = evaluate(model, some, LESIONS, value=value, reference=[topic, mood]).logits["mood"]
    np.testing.assert_allclose(found, together.logits["mood"][:, chosen], atol=1e-5)
    means = task_means(model, mood)
    again = evaluate(model, some, LESIONS, value=value, reference=mood, means=means)
    np.testing.assert_allclose(again.logits["mood"], found, atol=1e-5)
    with pytest.raises(ConfigError, match="reference has no task 'mood'"):
        evaluate(model, some, value=value, reference=topic)
    if value == "resample":
        with pytest.raises(DataError, match="examples that the reference does not hold"):
            evaluate(model, mood, value=value, reference=some)


def test_the_means_of_a_task_are_those_over_its_real_positions(few):
    model, task = model_for("gpt2", few), few[1]
    plain = mean_contexts(
        model,
        [
            {**model.tokenizer(*row, return_tensors="pt"), "task": task.name}
            for row in task.validation.texts
        ],
    )
    for one, other in zip(task_means(model, task)[task.name].values, plain.values, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=23), st.integers(0, 99), st.booleans())
def test_partners_are_other_examples_of_about_the_same_length(lengths, seed, alike):
    lengths = np.array(lengths)
    partners = partners_of(lengths, seed, alike=alike)
    assert np.array_equal(partners, partners_of(lengths, seed, alike=alike))
    assert (partners != np.arange(len(lengths))).all()
    alone = partners < 0
    used = np.sort(partners[~alone])
    assert np.array_equal(used, np.flatnonzero(~alone))  # everyone's contexts are used once
    if alike:
        assert (lengths[partners[~alone]] == lengths[~alone]).all()
        assert all((lengths == length).sum() == 1 for length in lengths[alone])
    else:
        assert alone.any() == (len(lengths) == 1)
        between = [
            ((lengths > min(pair)) & (lengths < max(pair))).sum()
            for pair in zip(lengths, lengths[partners], strict=True)
        ]
        assert max(between) <= 1


def test_values_that_do_not_exist_are_refused(few):
    model = model_for("bert", few)
    with pytest.raises(ConfigError, match="value is 'noise'; expected"):
        evaluate(model, few, value="noise")
    with pytest.raises(ConfigError, match="seed is -1; expected"):
        evaluate(model, few, value="resample", seed=-1)
