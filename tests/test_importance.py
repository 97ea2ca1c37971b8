"""Importance equals its definition, whatever the batches; and leaves the model as it was."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import lobes
import zoo
from lobes.ablation import ablate, record_contexts
from lobes.discovery import find_heads
from lobes.errors import ConfigError, DataError
from lobes.heads import HeadSet
from lobes.measure.batches import TaskBatches
from lobes.measure.evaluation import evaluate, task_means
from lobes.measure.importance import head_importance
from lobes.modeling import MultiTaskModel, example_losses
from lobes.tasks.task import Task
from tiny_images import image_task, tiny_processor
from tiny_models import TINY, VOCABULARY, tiny_inputs, tiny_model
from tiny_tasks import mood_task, pair_task, tiny_tokenizer, warmth_task


def model_for(name, *tasks):
    return MultiTaskModel(tiny_model(name), tiny_tokenizer(), tasks, pooling="mean").eval()


def one_by_one(model, examples, name):
    """Each example alone: its inputs without padding, its label, and the model's own loss."""
    for texts, label in zip(examples.texts, examples.labels, strict=True):
        inputs = dict(model.tokenizer(*texts, return_tensors="pt"))
        logits = model(**inputs, task=name).logits
        yield inputs, example_losses(logits, torch.tensor([label]), model.spec(name))


def naive_taylor(model, task, aggregate):
    """docs/method.md#importance by autograd, one example at a time, hooks written out."""
    layout = find_heads(model)
    seen = {}
    handles = [
        model.get_submodule(site.projection).register_forward_pre_hook(
            lambda _, args, site=site.index: seen.setdefault(site, []).append(args[0])
        )
        for site in layout.sites
    ]
    totals, tokens = np.zeros(layout.shape), 0
    for inputs, loss in one_by_one(model, task.train, task.name):
        length = inputs["input_ids"].shape[1]
        tokens += length
        for site in layout.sites:
            calls = seen[site.index]
            gradients = torch.autograd.grad(loss.sum(), calls, retain_graph=True)
            terms = sum(
                (c * g).reshape(length, site.n_heads, site.head_dim)
                for c, g in zip(calls, gradients, strict=True)
            )
            for head in range(site.n_heads):
                per_token = terms[:, head].sum(-1)
                whole = per_token.sum()
                value = {"token": per_token.abs().sum(), "sequence": whole.abs(), "signed": -whole}
                totals[site.index, head] += value[aggregate].item()
        seen.clear()
    for handle in handles:
        handle.remove()
    return totals / (tokens if aggregate == "token" else len(task.train))


@pytest.mark.parametrize("aggregate", ["token", "sequence", "signed"])
@pytest.mark.parametrize("name", ["bert", "albert", "gpt2", "llama", "t5"])
def test_taylor_equals_its_definition(name, aggregate):
    task = mood_task(n_train=23)
    model = model_for(name, task)
    found = head_importance(model, task, aggregate=aggregate)
    np.testing.assert_allclose(
        found.values, naive_taylor(model, task, aggregate), rtol=2e-4, atol=1e-9
    )


@pytest.mark.parametrize("make", [pair_task, warmth_task])
def test_taylor_of_pairs_and_of_regression(make):
    task = make(n_train=17)
    model = model_for("bert", task)
    expected = naive_taylor(model, task, "signed")
    np.testing.assert_allclose(
        head_importance(model, task).values, expected, rtol=2e-4, atol=2e-4 * expected.max()
    )


@pytest.mark.parametrize("value", ["zero", "mean"])
def test_single_ablations_are_the_rise_of_the_loss(value):
    task = mood_task(n_train=19)
    model = model_for("bert", task)
    means = task_means(model, task, split="train")["mood"] if value == "mean" else None

    def mean_loss():
        with torch.no_grad():
            return np.mean([loss.item() for _, loss in one_by_one(model, task.train, "mood")])

    base = mean_loss()
    found = head_importance(model, task, method="ablation", value=value)
    for head in find_heads(model).all_heads():
        with ablate(model, HeadSet([head]), value=value, data=means):
            assert found[head] == pytest.approx(mean_loss() - base, rel=1e-3, abs=2e-7)


def test_heads_ablated_throughout_have_no_importance_left():
    task = mood_task(n_train=19)
    model = model_for("bert", task)
    lesion = HeadSet([(0, 1), (1, 2)])
    found = head_importance(model, task, ablated=lesion)
    with ablate(model, lesion):
        expected = naive_taylor(model, task, "signed")
    np.testing.assert_allclose(found.values, expected, rtol=2e-4, atol=2e-4 * expected.max())
    assert found[0, 1] == found[1, 2] == 0


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 400), st.integers(0, 9))
def test_neither_batch_size_nor_order_matters(tokens_per_batch, seed):
    task = mood_task(n_train=29)
    model = model_for("bert", task)
    order = np.random.default_rng(seed).permutation(len(task.train))
    shuffled = Task(
        "mood",
        train=task.train.select(order),
        validation=task.validation,
        text="text",
        label="mood",
        labels=task.labels,
    )
    np.testing.assert_allclose(
        head_importance(model, shuffled, tokens_per_batch=tokens_per_batch).values,
        head_importance(model, task).values,
        rtol=1e-4,
    )


def depends_on_batches(model, task):
    """The largest change of importance and of logits with the size of the batches, by the largest.

    Batches of one example, of a few, and of all together.
    """
    importance = [head_importance(model, task, tokens_per_batch=n).values for n in (1, 50, 5000)]
    logits = [evaluate(model, [task], tokens_per_batch=n).logits[task.name] for n in (1, 50, 5000)]
    return [
        max(np.nanmax(np.abs(one - found[0])) for one in found) / np.nanmax(np.abs(found[0]))
        for found in (importance, logits)
    ]


# They pad to whole windows inside, pool, pool over landmarks, convolve over padding, group keys.
@pytest.mark.parametrize("kind", ["longformer", "funnel", "nystromformer", "convbert", "bigbird"])
def test_batches_do_not_matter_where_a_site_has_other_positions(kind):
    task = mood_task(n_train=11, n_validation=11)
    encoder = zoo.build(kind.replace("bigbird", "big_bird"))
    model = MultiTaskModel(encoder, tiny_tokenizer(), [task], pooling="first").eval()
    assert max(depends_on_batches(model, task)) < 1e-4


@pytest.mark.parametrize("kind", ["swin", "pvt"])
def test_batches_of_pictures_do_not_matter(kind):
    task, encoder = image_task("shape", n_train=11, n_validation=11), zoo.build(kind)
    processor = tiny_processor(encoder.config.image_size)
    model = MultiTaskModel(encoder, None, [task], image_processor=processor, pooling="mean").eval()
    assert max(depends_on_batches(model, task)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in zoo.TYPES[::12] if kind not in zoo.SKIPPED])
def test_batches_matter_to_no_type(kind):
    task = mood_task(n_train=11, n_validation=11)
    try:
        encoder = zoo.build(kind)
        model = MultiTaskModel(encoder, tiny_tokenizer(), [task], pooling="first").eval()
        find_heads(model)
    except Exception as error:
        pytest.skip(str(error))  # not a text encoder whose heads are found
    assert max(depends_on_batches(model, task)) < 1e-3


def test_t_is_the_number_of_real_tokens_at_every_site():
    """Longformer pads to whole windows of 8, so that its sites have other positions."""
    task = mood_task(n_train=11)
    model = MultiTaskModel(zoo.build("longformer"), tiny_tokenizer(), [task], pooling="first")
    steps = TaskBatches(model.eval(), task, "train", None, 0, 5000)
    totals = np.zeros(2)
    with record_contexts(model, gradients=True) as record:
        for step in steps:
            record.clear()
            losses = step.losses()
            for site, gradients in enumerate(record.gradients(losses.sum())):
                product = record.split(site, record.calls[site][0] * gradients[0]).sum(-1)
                totals[site] += product.abs().sum().item()
    found = head_importance(model, task, aggregate="token")
    assert found.settings["tokens"] == steps.tokens
    np.testing.assert_allclose(found.values.sum(1), totals / steps.tokens, rtol=1e-4)


def test_tokens_are_counted_without_a_mask_too():
    encoder = tiny_model("bert").eval()
    batches = [{"input_ids": torch.randint(4, 61, (3, length))} for length in (5, 7)]

    def loss(outputs, batch):
        return outputs.last_hidden_state.sum((1, 2))

    assert head_importance(encoder, batches=batches, loss=loss).settings["tokens"] == 3 * 12
    masked = [{**b, "attention_mask": (b["input_ids"] > 20).long()} for b in batches]
    real = sum(int(batch["attention_mask"].sum()) for batch in masked)
    assert head_importance(encoder, batches=masked, loss=loss).settings["tokens"] == real
    pictures = tiny_model("vit").eval()
    found = head_importance(pictures, batches=[tiny_inputs(pictures)], loss=loss)
    assert "tokens" not in found.settings


def test_layer_normalization_is_applied_on_top():
    task = mood_task(n_train=19)
    model = model_for("bert", task)
    plain, normal = head_importance(model, task), head_importance(model, task, normalize="layer")
    np.testing.assert_allclose(normal.values, plain.normalized().values)
    assert normal.settings["normalize"] == "layer"


def test_a_sample_of_the_examples_is_seeded():
    task = mood_task(n_train=43)
    model = model_for("bert", task)
    one, same, other = (
        head_importance(model, task, max_examples=11, seed=seed).values for seed in (3, 3, 4)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert head_importance(model, task, max_examples=11).settings["examples"] == 11


def test_a_model_of_ones_own_with_batches_and_a_loss():
    task = mood_task(n_train=23)
    model = model_for("bert", task)
    rows = [model.tokenizer(*texts) for texts in task.train.texts]
    batches = []
    for start in (0, 7, 14):
        chunk = slice(start, start + 7 if start < 14 else 23)
        batch = dict(model.tokenizer.pad(rows[chunk], return_tensors="pt"))
        batches.append(batch | {"labels": torch.tensor(task.train.labels[chunk])})

    class Bare(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        @property
        def config(self):
            return model.config

        def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
            return model(input_ids, attention_mask, token_type_ids, task="mood").logits

    def loss(outputs, batch):
        return torch.nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")

    found = head_importance(Bare(), batches=batches, loss=loss)
    np.testing.assert_allclose(found.values, head_importance(model, task).values, rtol=1e-4)
    with pytest.raises(ConfigError, match="each example's own loss"):
        head_importance(Bare(), batches=batches, loss=lambda o, b: loss(o, b).mean())


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_model_with_labels_among_its_inputs_has_the_gradient_of_a_factor(name: str):
    """Models compute a loss of their own from labels, of which they take a view."""
    torch.manual_seed(0)
    config = TINY[name].config()
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    labels = torch.randint(4, VOCABULARY, (3, 5))
    labels[0, 3:] = -100
    batch = {"input_ids": torch.randint(4, VOCABULARY, (3, 7)), "labels": labels}

    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        logits = outputs.logits.transpose(1, 2)
        return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none").sum(1)

    found = head_importance(model, batches=[batch], loss=loss)
    factors = torch.ones(find_heads(model).shape, requires_grad=True)
    with ablate(model, factors=factors):
        loss(model(**batch), batch).mean().backward()
    expected = np.where(np.isnan(found.values), np.nan, -factors.grad.numpy())
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["taylor", "integrated_gradients"])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_neither_vanish_nor_overflow_in_fp16(method: str, size: float, autocast: bool):
    model = tiny_model("bert")
    inputs = tiny_inputs(model)

    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        return size * outputs.last_hidden_state.float().pow(2).mean((1, 2))

    settings = {"batches": [inputs], "loss": loss, "method": method, "aggregate": "token"}
    expected = head_importance(model, **settings).values
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        measured = model if autocast else copy.deepcopy(model).half()
        found = head_importance(measured, **settings).values
    np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.01 * expected.max())


def test_labels_of_several_classes_are_no_tokens_of_a_decoder():
    config = TINY["bart"].config()
    config.num_labels, config.problem_type = 4, "multi_label_classification"
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    tokens = torch.arange(21).view(3, 7) + 4
    tokens[:, -1] = config.eos_token_id
    labels = torch.tensor([[0.0, 1, 0, 1]]).expand(3, 4)

    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        return ((outputs.logits - labels) ** 2).sum(1)

    found, bare = (
        head_importance(model, batches=[{"input_ids": tokens} | more], loss=loss).values
        for more in ({"labels": labels}, {})
    )
    assert np.array_equal(found, bare, equal_nan=True)


@pytest.mark.parametrize("method", ["taylor", "integrated_gradients", "gates"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_importance_is_the_same_in_inference_mode(method: str, precision: str):
    task = mood_task(n_train=7)
    model = model_for("bert", task)
    settings = {"method": method, "precision": precision}
    expected = head_importance(model, task, **settings)
    with torch.inference_mode():
        assert np.array_equal(head_importance(model, task, **settings).values, expected.values)


def test_batches_that_were_made_in_inference_mode_have_gradients():
    task = mood_task(n_train=7)
    model = model_for("bert", task)
    with torch.inference_mode():
        batch = dict(model.tokenizer([text for (text,) in task.train.texts], padding=True))
        batch = {name: torch.tensor(values) for name, values in batch.items()}
        batch["labels"] = torch.tensor(task.train.labels)

    def loss(outputs: Any, batch: Any) -> torch.Tensor:
        logits = outputs.logits["mood"]
        return torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")

    batches = lobes.BatchTask("mood", train=[batch], loss=loss, targets=["labels"])
    found = head_importance(model, batches)
    np.testing.assert_allclose(found.values, head_importance(model, task).values, rtol=1e-4)


def test_padding_is_not_counted_even_where_the_loss_reads_it():
    model = tiny_model("bert").eval()
    tokenizer = tiny_tokenizer()
    batch = dict(tokenizer.pad([tokenizer("the sad boat"), tokenizer("soup")], return_tensors="pt"))
    mask = batch["attention_mask"]
    assert mask.sum() < mask.numel()

    def loss(outputs, batch):
        return (outputs.last_hidden_state**2).sum((1, 2))

    with record_contexts(model, gradients=True) as record:
        gradients = record.gradients(loss(model(**batch), batch).sum())
    expected = [
        (record.split(site, calls[0] * gradients[site][0]).sum(-1).abs() * mask[..., None])
        .sum((0, 1))
        .detach()
        / mask.sum()
        for site, calls in enumerate(record.calls)
    ]
    found = head_importance(model, batches=[batch], loss=loss, aggregate="token")
    np.testing.assert_allclose(found.values, torch.stack(expected).numpy(), rtol=1e-5)


def state(model):
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad is None for parameter in model.parameters()],
        [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()],
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["taylor", "ablation"])
def test_the_model_is_left_as_it_was(method, precision):
    task = mood_task(n_train=13)
    model = model_for("bert", task).train()
    model.encoder.embeddings.requires_grad_(False)
    before, weights = state(model), [p.clone() for p in model.parameters()]
    head_importance(model, task, method=method, precision=precision)
    assert state(model) == before
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), weights, strict=True))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("method", ["taylor", "ablation"])
def test_the_model_is_left_as_it_was_after_a_failure(method, error):
    task = mood_task(n_train=13)
    model = model_for("bert", task).train()
    before = state(model)

    def stop(done, total):
        if done:
            raise error

    with pytest.raises(error):
        head_importance(model, task, method=method, tokens_per_batch=50, progress=stop)
    assert state(model) == before


def test_bf16_ranks_heads_as_fp32_does():
    task = mood_task(n_train=31)
    model = model_for("bert", task)
    full, half = (head_importance(model, task, precision=p).values for p in ("fp32", "bf16"))
    np.testing.assert_allclose(half, full, rtol=0.1, atol=0.02 * full.max())


def test_what_cannot_be_scored_is_refused():
    task = mood_task(n_train=13)
    model = model_for("bert", task)
    for option, value in (("method", "taylr"), ("aggregate", "mean"), ("normalize", "l2")):
        with pytest.raises(ConfigError, match=f"{option} is '{value}'; expected .* or "):
            head_importance(model, task, **{option: value})
    with pytest.raises(ConfigError, match="Give either a task, or batches together with a loss"):
        head_importance(model)
    with pytest.raises(ConfigError, match="not on a BertModel: for any other model give batches"):
        head_importance(model.encoder, task)
    with pytest.raises(DataError, match="not made for task 'warmth': it knows 'mood'"):
        head_importance(model, warmth_task())
    with pytest.raises(DataError, match="not one batch"):
        head_importance(model.encoder, batches=[], loss=lambda o, b: o)


@pytest.mark.parametrize(
    ("method", "aggregate"), [("taylor", "token"), ("taylor", "sequence"), ("ablation", "token")]
)
def test_halves_are_the_scores_of_each_half_of_the_examples(method, aggregate):
    task = mood_task(n_train=19)
    model = model_for("bert", task)
    options = {"method": method, "aggregate": aggregate}
    found = head_importance(model, task, seed=3, tokens_per_batch=50, **options)
    half_of = TaskBatches(model, task, "train", None, 3, None).halves
    assert sorted(np.bincount(half_of)) == [9, 10]
    for half, values in enumerate(found.halves):
        some = task.replace(train=task.train.select(np.flatnonzero(half_of == half)))
        expected = head_importance(model, some, **options).values
        np.testing.assert_allclose(values, expected, rtol=2e-4, atol=1e-8)
    whole = head_importance(model, task, seed=3, **options)
    np.testing.assert_allclose(found.halves, whole.halves, rtol=2e-4, atol=1e-8)
    by_layer = head_importance(model, task, seed=3, normalize="layer", **options).halves
    np.testing.assert_allclose((by_layer**2).sum(axis=2), 1)


def test_halves_of_given_batches_do_not_depend_on_their_size():
    encoder = tiny_model("bert")
    inputs = tiny_inputs(encoder)
    inputs = {name: value.repeat(5, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
    inputs["input_ids"] = (inputs["input_ids"] + torch.arange(10)[:, None]) % 31

    def scores(size):
        cuts = range(0, 10, size)
        batches = [{k: v[i : i + size] for k, v in inputs.items()} for i in cuts]
        return head_importance(
            encoder, batches=batches, loss=lambda o, b: o[0].square().mean((1, 2))
        )

    apart, together = scores(3), scores(10)
    np.testing.assert_allclose(apart.halves, together.halves, rtol=1e-4)
    assert not np.allclose(*apart.halves, rtol=1e-2)
    assert scores(10).reliability == pytest.approx(together.reliability)
    one = {name: value[:1] for name, value in inputs.items()}
    alone = head_importance(encoder, batches=[one], loss=lambda o, b: o[0].square().mean((1, 2)))
    assert alone.halves is None
    assert np.isnan(alone.reliability)
