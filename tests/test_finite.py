"""What is not a number is refused where it is made, with the task and its examples by name."""

import numpy as np
import pytest
import torch

from lobes.ablation import ablate
from lobes.discovery import find_heads
from lobes.dissociation import Lesion, LesionMatrix
from lobes.errors import ConfigError, DataError, HeadError, ModelError
from lobes.experiments.probe import pooled_features
from lobes.heads import HeadSet
from lobes.measure.evaluation import evaluate, predict_logits, predictions_of
from lobes.measure.iap import lesion_matrix
from lobes.measure.importance import head_importance
from lobes.measure.similarity import gradient_similarity, lesion_cka
from lobes.modeling import MultiTaskModel
from lobes.modeling.pooling import pool
from lobes.scores import HeadScores
from lobes.tasks.task import Task
from tiny_models import tiny_inputs, tiny_model
from tiny_tasks import WORDS, mood_task, tiny_tokenizer, topic_task, warmth_task

BROKEN = "gull"  # a word whose embedding is not a number


@pytest.fixture(scope="module")
def tasks():
    return [mood_task(n_train=31, n_validation=43), topic_task(n_train=29, n_validation=41)]


@pytest.fixture(scope="module")
def model(tasks):
    """A model that answers every text with one word in it by what is not a number."""
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()
    with torch.no_grad():
        model.encoder.embeddings.word_embeddings.weight[WORDS.index(BROKEN)] = torch.nan
    return model


def places(task, split="validation"):
    examples = getattr(task, split)
    return [i for i, (text,) in enumerate(examples.texts) if BROKEN in text.split()]


def named(task, split="validation"):
    found = places(task, split)
    return ", ".join(map(str, found[:5])) + (", …" if len(found) > 5 else "")


def refused(call):
    with pytest.raises(ModelError) as caught:
        call()
    return str(caught.value)


def test_logits_are_refused_by_task_and_example(model, tasks):
    alone = tasks[:1]
    assert refused(lambda: evaluate(model, alone, tokens_per_batch=10_000)).startswith(
        f"The logits of task 'mood' are not finite (nan) for examples {named(tasks[0])}: expected "
        f"numbers. Check the model's weights and what these examples hold"
    )
    only = tasks[0].validation.select(places(tasks[0])[:1])
    said = refused(lambda: predict_logits(model, "mood", only))
    assert said.startswith("The logits of task 'mood' are not finite (nan) for example 0: ")


def test_a_lesion_is_named(tasks):
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), tasks, pooling="mean").eval()
    attention = model.encoder.encoder.layer[1].attention.output

    def explode(module, args):
        lesioned = (args[0][..., 6:12] == 0).all()
        return (args[0] / 0 if lesioned else args[0], *args[1:])

    # as a model would that divides by what the lesion takes away
    attention.dense.register_forward_pre_hook(explode)
    said = refused(lambda: evaluate(model, tasks, [HeadSet(), HeadSet([(1, 1)])]))
    assert "The logits of task 'mood' with the heads 1:1 ablated are not finite" in said


def test_importance_is_refused_by_task_and_example(model, tasks):
    for method in ("taylor", "ablation", "gates"):
        said = refused(lambda method=method: head_importance(model, tasks[1], method=method))
        assert said.startswith("The losses of task 'topic' (train data) are not finite (nan) for")
    sample = {"max_examples": 23, "seed": 3, "tokens_per_batch": 10_000}
    chosen = np.random.default_rng(3).choice(29, 23, replace=False)
    first = min(set(chosen) & set(places(tasks[1], "train")))
    assert f" {first}" in refused(lambda: head_importance(model, tasks[1], **sample))


def test_a_loss_of_ones_own_is_refused_by_its_place_in_all_batches():
    encoder = tiny_model("bert")
    batches = [tiny_inputs(encoder, batch=2, seed=seed) for seed in range(3)]
    calls = iter(range(3))

    def loss(outputs, batch):
        values = outputs.last_hidden_state[:, 0, 0]
        return torch.stack([values[0], values[1] * (torch.nan if next(calls) == 2 else 1)])

    said = refused(lambda: head_importance(encoder, batches=batches, loss=loss))
    assert said.startswith("The losses are not finite (nan) for example 5: expected numbers.")


def test_gradients_are_refused_though_the_loss_is_finite():
    encoder = tiny_model("bert")

    def loss(outputs, batch):
        states = outputs.last_hidden_state[:, 0, 0]
        return torch.sqrt(states - states.detach())  # 0, with a slope of infinity

    said = refused(lambda: head_importance(encoder, batches=[tiny_inputs(encoder)], loss=loss))
    assert said.startswith(
        "The gradients at site 0 (encoder.layer.0.attention) are not finite (nan)"
    )


def test_padding_that_is_no_number_does_not_count():
    """Padding may hold infinity where nothing depends on it: 0 times that is no number."""
    encoder, tokenizer = tiny_model("bert"), tiny_tokenizer()
    batch = dict(tokenizer.pad([tokenizer("the sad boat"), tokenizer("soup")], return_tensors="pt"))
    real = batch["attention_mask"][..., None] != 0

    def loss(outputs, batch):
        return torch.where(real, outputs.last_hidden_state, 0).sum((1, 2))

    expected = head_importance(encoder, batches=[batch], loss=loss).values

    def spoil(module, args):
        return (torch.where(real, args[0], -torch.inf), *args[1:])

    # the last site, whose contexts at padding nobody reads
    encoder.encoder.layer[1].attention.output.dense.register_forward_pre_hook(spoil)
    spoiled = head_importance(encoder, batches=[batch], loss=loss).values
    np.testing.assert_allclose(spoiled, expected, rtol=1e-6)
    states = torch.randn(2, 5, 3).masked_fill(~real[:, :5], torch.nan)
    assert pool(states, batch["attention_mask"], "mean").isfinite().all()


def test_a_head_that_is_no_number_is_ablated_to_zero():
    encoder = tiny_model("bert")
    inputs = tiny_inputs(encoder)
    with torch.no_grad(), ablate(encoder, HeadSet([(0, 2)])):
        expected = encoder(**inputs).last_hidden_state
    site = find_heads(encoder).sites[0]

    def spoil(module, args):
        return (args[0].index_fill(-1, torch.arange(12, 18), torch.nan), *args[1:])

    encoder.get_submodule(site.projection).register_forward_pre_hook(spoil)
    with torch.no_grad(), ablate(encoder, HeadSet([(0, 2)])):
        encoder.get_submodule(site.projection)._forward_pre_hooks.move_to_end(
            next(iter(encoder.get_submodule(site.projection)._forward_pre_hooks))
        )
        assert torch.equal(encoder(**inputs).last_hidden_state, expected)


def test_similarities_and_probes_are_refused(model, tasks):
    said = refused(lambda: gradient_similarity(model, tasks))
    assert said.startswith("The losses of task 'mood' (train data) are not finite")
    said = refused(lambda: lesion_cka(model, tasks, [HeadSet()]))
    assert said.startswith("The pooled states of task 'mood' (validation data) are not finite")
    said = refused(lambda: pooled_features(model, tasks, "train", "fp32"))
    assert said.startswith(
        f"The pooled states of task 'mood' (train data) are not finite (nan) for "
        f"examples {named(tasks[0], 'train')}"
    )


def test_an_iap_run_says_no_confident_no(model, tasks):
    """All-NaN logits once gave empty lesions, +0.0 % and p = 1."""
    assert "task 'mood'" in refused(lambda: lesion_matrix(model, tasks, fractions=[0.3]))
    values = np.full((2, 5), np.nan)
    with pytest.raises(HeadError, match="one or more at each site, with NaN only after the last"):
        HeadScores(values)
    with pytest.raises(HeadError, match="one or more at each site"):
        HeadScores(np.array([[1.0, 2.0], [np.nan, np.nan]]))


def test_predictions_are_not_read_off_what_is_no_number():
    logits = np.zeros((2, 7, 2))
    logits[1, 3, 0] = np.nan
    for task in (mood_task(), warmth_task()):
        with pytest.raises(
            ModelError, match=rf"task '{task.name}' are not finite \(nan\) for exam"
        ):
            predictions_of(logits, task.spec)


def test_a_lesion_without_a_head_is_refused(model, tasks):
    for kind in ("task", "random"):
        with pytest.raises(
            ConfigError, match=r"lesion of 'mood' at the fraction 0\.05 has no head"
        ):
            Lesion(HeadSet(), kind, "mood", 0.05)
    with pytest.raises(ConfigError, match=r"0\.05 of 10 heads is not one head: take at least 0\.1"):
        lesion_matrix(model, tasks, fractions=[0.05])


def test_a_matrix_names_the_lesion_and_the_example():
    lesions = (Lesion(HeadSet(), "none"), Lesion(HeadSet([(0, 0)]), "task", "warmth", 0.5))
    predictions = np.zeros((2, 7))
    predictions[1, 4] = np.nan
    with pytest.raises(
        DataError, match=r"\(spearman\): the one of example 4 under lesion 1 is nan"
    ):
        LesionMatrix(
            ("warmth",), ("spearman",), {"warmth": np.arange(7.0)}, lesions, {"warmth": predictions}
        )


def test_data_on_which_controls_would_be_of_one_class_are_refused_first(tasks):
    texts = [{"text": f"the {word}", "label": int(i == 0)} for i, word in enumerate(WORDS[4:24])]
    rare = Task("rare", train=texts, validation=texts, text="text", labels=["no", "yes"])
    both = [rare, tasks[0]]
    model = MultiTaskModel(tiny_model("bert"), tiny_tokenizer(), both, pooling="mean").eval()

    def remember(key, compute):
        raise AssertionError(f"{key} is measured")

    with pytest.raises(ConfigError, match=r"control_examples = 3 takes examples of one class only"):
        lesion_matrix(model, both, control_examples=3, controls=1, remember=remember)
    bare = Task("mood", train=tasks[0].train, text="text", labels=["bad", "good"])
    with pytest.raises(DataError, match="Task 'mood' has no validation data"):
        lesion_matrix(model, [rare, bare], controls=1, remember=remember)
