"""Tasks that are batches with a loss or a score of their own, on models that lobes never saw."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import lobes
from lobes import BatchTask
from lobes.dissociation.over_runs import dissociation_over_runs
from lobes.errors import ConfigError, DataError, HeadError, ModelError
from lobes.heads import HeadSet

FEATURES, HEADS, SITES, LENGTH = 2, 3, 3, 7


class Reader(nn.Module):
    """Plain torch: heads that read one of two features each, and a sum of what they read.

    The first channels of an input are features. `reads[site][head]` is the feature of a head;
    output f is the sum of the heads of feature f, and the inputs are such that it is the answer.
    """

    reads = ((0, 1, 0), (1, 0, 1), (0, 1, 0))

    def __init__(self) -> None:
        super().__init__()
        width = FEATURES + SITES * HEADS + 1  # a multiple of the number of heads
        self.layers = nn.ModuleList(
            nn.MultiheadAttention(width, HEADS, batch_first=True) for _ in range(SITES)
        )
        noise = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for index, layer in enumerate(self.layers):
                size = width // HEADS
                for parameter in layer.parameters():
                    parameter.zero_()
                layer.in_proj_weight[: 2 * width] = 0.01 * torch.randn(
                    2 * width, width, generator=noise
                )
                for head, feature in enumerate(self.reads[index]):
                    layer.in_proj_weight[2 * width + size * head, feature] = 1.0
                    channel = FEATURES + index * HEADS + head
                    layer.out_proj.weight[channel, size * head] = 1.0
        self.width = width

    def forward(self, signals: torch.Tensor) -> torch.Tensor:
        hidden = signals
        for layer in self.layers:
            hidden = hidden + layer(hidden, hidden, hidden, need_weights=False)[0]
        written = hidden[:, 0, FEATURES:-1].unflatten(1, (SITES, HEADS))
        reads = torch.tensor(self.reads)
        return torch.stack([(written * (reads == f)).sum((1, 2)) for f in range(FEATURES)], 1)


@pytest.fixture(scope="module")
def reader():
    return Reader().eval()


def signals(seed, *sizes):
    """Batches of inputs, each with what a reader says of them, and some noise, as the answer."""
    generator = torch.Generator().manual_seed(seed)
    model, batches = Reader().eval(), []
    for size in sizes:
        inputs = torch.zeros(size, LENGTH, model.width)
        inputs[..., :FEATURES] = torch.randn(size, LENGTH, FEATURES, generator=generator)
        inputs[..., :FEATURES] += torch.randn(size, 1, FEATURES, generator=generator)
        with torch.no_grad():
            answers = model(inputs)
        noise = torch.randn(answers.shape, generator=generator)
        batches.append({"signals": inputs, "answer": answers + noise})
    return batches


def error_of(feature):
    return lambda outputs, batch: (outputs[:, feature] - batch["answer"][:, feature]) ** 2


def feature_task(name, feature, seed=0, **more):
    parts = {"train": signals(seed, 19, 13), "validation": signals(seed + 1, 23, 17)}
    return BatchTask(name, targets=["answer"], **{"loss": error_of(feature), **parts, **more})


@pytest.fixture(scope="module")
def matrix(reader):
    tasks = [feature_task("first", 0), feature_task("second", 1, seed=5)]
    return lobes.lesion_matrix(
        reader, tasks, fractions=[0.5], controls=19, random=2, matched="total"
    )


def test_planted_specialization_of_a_plain_torch_model_is_found(matrix):
    own = HeadSet.parse("0:0,2 1:1 2:0,2"), HeadSet.parse("0:1 1:0,2 2:1")
    found = [matrix.lesion(task).heads for task in matrix.tasks]
    assert [len(heads) for heads in found] == [4, 4]
    assert found[0] <= own[0]
    assert found[1] == own[1]
    found = matrix.dissociation()
    assert found.column.mean > 50
    assert found.specialized.answer == "yes"
    assert found.above_chance == (True, True)


def test_scores_are_the_negated_mean_losses_under_the_lesion(matrix, reader):
    assert matrix.metrics == ("neg_mean_loss",) * 2
    heads = matrix.lesion("first").heads
    for j, task in enumerate(matrix.tasks):
        losses = []
        for batch in signals(1 if j == 0 else 6, 23, 17):
            with torch.no_grad(), lobes.ablate(reader, heads):
                losses.append(error_of(j)(reader(batch["signals"]), batch))
        assert matrix.scores()[0, j] == pytest.approx(-torch.cat(losses).mean().item(), rel=1e-5)
        assert matrix.predictions[task].shape[1] == 40


def test_a_d_score_is_the_change_in_units_of_the_spread_whatever_the_scale(matrix, reader):
    spreads = [np.std(matrix.predictions[task][0], ddof=1) for task in matrix.tasks]
    changes = (matrix.scores() - matrix.base) / spreads
    own, other = np.diagonal(changes), np.array([changes[1, 0], changes[0, 1]])
    np.testing.assert_allclose(matrix.dissociation().column.values, 100 * (other - own))
    np.testing.assert_allclose(
        matrix.dissociation().relative.values, 100 * ([changes[0, 1], changes[1, 0]] - own)
    )
    # a loss in other units, with another zero, and as a score
    scaled = [
        feature_task(task, j, seed=5 * j, score=lambda o, b, j=j: 7 - 30 * error_of(j)(o, b))
        for j, task in enumerate(matrix.tasks)
    ]
    other = lobes.lesion_matrix(
        reader, scaled, fractions=[0.5], controls=19, random=2, matched="total"
    )
    assert other.metrics == ("mean_score",) * 2
    for name in ("column", "row", "relative"):
        one, two = (getattr(each.dissociation(), name) for each in (matrix, other))
        np.testing.assert_allclose(one.values, two.values, rtol=1e-4)
        np.testing.assert_allclose(one.interval, two.interval, rtol=1e-4)
        assert one.mean_p == two.mean_p


def test_runs_are_pooled_in_the_same_unit(matrix):
    pooled, alone = dissociation_over_runs([matrix, matrix]).column, matrix.dissociation().column
    for task, value, interval in zip(pooled.tasks, alone.values, alone.interval, strict=True):
        assert task.mean == pytest.approx(value)
        assert (task.low, task.high) == pytest.approx(interval, rel=0.2)


def test_the_same_task_on_other_data_is_not_dissociated(reader):
    tasks = [feature_task("one", 0), feature_task("other", 0, seed=5)]
    found = lobes.lesion_matrix(reader, tasks, fractions=[0.5], controls=19).dissociation()
    assert found.specialized.answer != "yes"


def test_report_and_results_of_batch_tasks(matrix, tmp_path):
    page = matrix.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "neg_mean_loss" in page
    assert "a number for each example" in page
    assert "standard deviation" in page
    assert "near chance" not in page
    assert "interval of the base score includes" not in page
    assert "of base" not in page
    assert "% of the SD" in page
    assert "Change from the base score in percent of the standard deviation" in page
    assert " / B<sub>" not in page
    assert "M<sub>ii</sub>) / s<sub>i</sub>" in page
    assert "neg_mean_loss" in matrix.summary()
    assert {"first", "second"} <= {*matrix.to_frame()["task"]}


def two_kinds_of_text(seed):
    """Batches of token ids for a causal language model: one kind low ids, the other high."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(3, 20, (5, 11), generator=generator)
    high = torch.randint(20, 37, (3, 11), generator=generator)
    return [[{"input_ids": ids, "attention_mask": torch.ones_like(ids)}] for ids in (low, high)]


def language_loss(outputs, batch):
    logits, ids = outputs.logits[:, :-1], batch["input_ids"][:, 1:]
    return nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none").mean(1)


@pytest.mark.parametrize("value", ["zero", "mean", "resample"])
def test_a_causal_language_model_as_it_is(value):
    config = GPT2Config(
        vocab_size=37,
        n_embd=15,
        n_layer=2,
        n_head=5,
        n_positions=13,
        bos_token_id=1,
        eos_token_id=1,
    )
    model = GPT2LMHeadModel(config).eval()
    parts = zip(two_kinds_of_text(0), two_kinds_of_text(1), strict=True)
    tasks = [
        BatchTask(name, loss=language_loss, train=train, validation=validation)
        for name, (train, validation) in zip(("low", "high"), parts, strict=True)
    ]
    lesions = [HeadSet(), HeadSet([(0, 1)]), HeadSet([(1, 0), (0, 1)])]
    found = lobes.evaluate(model, tasks, lesions, value=value, precision="fp32")
    assert found.logits["low"].shape == (3, 5, 1)
    batch = tasks[0].validation[0]
    data = None if value == "zero" else [batch] if value == "mean" else batch
    for number, heads in enumerate(lesions):
        with torch.no_grad(), lobes.ablate(model, heads, value=value, data=data):
            losses = language_loss(model(**batch), batch)
        np.testing.assert_allclose(found.predictions("low")[number], -losses, rtol=1e-5)
    measured = lobes.lesion_matrix(model, tasks, fractions=[0.5], controls=3, value=value)
    np.testing.assert_allclose(measured.base, found.scores()[0])


def test_importance_of_a_batch_task_is_that_of_its_batches(reader):
    task = feature_task("first", 0)
    layout = lobes.find_heads(reader, example_inputs={"signals": signals(0, 2)[0]["signals"]})
    wrapped = [{"signals": batch["signals"]} for batch in task.train]
    answers = iter(batch["answer"] for batch in task.train)
    scores = lobes.head_importance(
        reader,
        batches=wrapped,
        loss=lambda outputs, _: error_of(0)(outputs, {"answer": next(answers)}),
        layout=layout,
    )
    found = lobes.head_importance(reader, task)
    np.testing.assert_array_equal(found.values, scores.values)
    assert found.settings["task"] == "first"


def test_an_entry_that_the_model_does_not_read_is_named(reader):
    task = feature_task("one", 0)
    lacking = BatchTask("one", loss=task.loss, train=task.train, validation=task.validation)
    says = "Task 'one': A batch has the entry 'answer', which Reader does not read: it reads "
    says += "'signals'. Name what only loss and score read, as in targets=['answer']."
    for measure in (lobes.head_importance, lobes.evaluate, lobes.lesion_matrix):
        with pytest.raises(ConfigError) as caught:
            measure(reader, lacking)
        assert str(caught.value) == says


def test_what_is_no_batch_task_is_refused_with_the_reason(reader):
    batches = signals(0, 5, 5)
    with pytest.raises(DataError, match=r"Task 'one' has the same batches in train and validation"):
        BatchTask("one", loss=error_of(0), train=batches, validation=batches)
    with pytest.raises(DataError, match=r"train=batches\[::2\]"):
        BatchTask("one", loss=error_of(0), train=batches, validation=batches[1:])
    with pytest.raises(DataError, match="has no batch in train"):
        BatchTask("one", loss=error_of(0), train=[])
    with pytest.raises(DataError, match="target 'label', which a batch of train lacks: it has"):
        BatchTask("one", loss=error_of(0), train=batches, targets="label")
    one = feature_task("one", 0)
    with pytest.raises(ConfigError, match="control_examples = 11 takes some of the examples"):
        lobes.lesion_matrix(reader, [one], control_examples=11)
    with pytest.raises(ConfigError, match="tokens_per_batch = 53 is for tasks of texts"):
        lobes.lesion_matrix(reader, [one], tokens_per_batch=53)
    with pytest.raises(DataError, match="'one' has no train data"):
        lobes.lesion_matrix(reader, [feature_task("one", 0, train=None)])
    mean = feature_task("one", 0, loss=lambda o, b: error_of(0)(o, b).mean())
    with pytest.raises(ConfigError, match=r"loss function returned \[\]: expected a tensor"):
        lobes.lesion_matrix(reader, [mean])
    cut = feature_task("one", 0, loss=lambda o, b: error_of(0)(o, b).detach())
    with pytest.raises(ConfigError, match="loss function returned a tensor without a gradient"):
        lobes.head_importance(reader, cut)
    nan = feature_task("one", 0, score=lambda o, b: error_of(0)(o, b) / 0 * 0)
    with pytest.raises(ModelError, match="values of task 'one' are not finite"):
        lobes.lesion_matrix(reader, [nan])
    with pytest.raises(ConfigError, match="the metric 'mean_score' is that of a"):
        lobes.Task("a", train=[{"text": "a", "label": 0.5}], text="text", metric="mean_score")
    with pytest.raises(HeadError, match="does not exist"):
        lobes.evaluate(reader, one, ["5:1"])


def test_batches_in_the_same_memory_are_not_taken_for_several():
    first, second = signals(0, 5, 5)

    def refilled():
        for batch in (first, second):
            for name, value in batch.items():
                first[name].copy_(value)
            yield dict(first)

    make = partial(BatchTask, "one", loss=error_of(0), targets=["answer"])
    for batches in (refilled(), [second, second]):
        with pytest.raises(DataError, match="has the same batch twice in train"):
            make(train=batches)
    with pytest.raises(DataError, match="has the same batches in train and validation"):
        make(train=[first], validation=[dict(first)])


def test_a_loss_gives_one_real_number_for_each_example(reader):
    one = partial(feature_task, "one", 0)
    for found in (
        lambda o, b: (o - b["answer"]).flatten(),  # two for each
        lambda o, b: error_of(0)(o, b)[:1],
        lambda o, b: error_of(0)(o, b) + 1j,
    ):
        with pytest.raises(ConfigError, match=r"score function returned .*: expected a tensor"):
            lobes.evaluate(reader, one(score=found))
        with pytest.raises(ConfigError, match=r"loss function returned .*: expected a tensor"):
            lobes.lesion_matrix(reader, [one(loss=found)])
    with pytest.raises(ConfigError, match="loss function returned a tensor without a gradient"):
        lobes.lesion_matrix(reader, [one(loss=lambda o, b: error_of(0)(o, b) < 1)])
    right = lobes.evaluate(reader, one(score=lambda o, b: error_of(0)(o, b) < 1)).scores()
    assert 0 < right[0, 0] < 1


def test_a_score_may_change_its_batch(reader):
    def popped(outputs, batch):
        return -((outputs[:, 0] - batch.pop("answer")[:, 0]) ** 2)

    plain, changing = feature_task("one", 0), feature_task("one", 0, score=popped)
    lesions = ["0:0", "0:1"]
    expected = lobes.evaluate(reader, plain, lesions).scores()
    np.testing.assert_array_equal(lobes.evaluate(reader, changing, lesions).scores(), expected)


def test_a_loader_that_shuffles_is_read_once(reader):
    batches = signals(0, 5, 3)
    shuffled = iter(batches)
    task = BatchTask("one", loss=error_of(0), targets=["answer"], validation=shuffled)
    assert len(task.validation) == 2
    assert repr(task) == "BatchTask(one, neg_mean_loss, 2 batches of validation)"
    first, second = (lobes.evaluate(reader, task).scores() for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("loaded", [torch.float32, torch.bfloat16])
def test_targets_are_not_rounded_to_the_precision_of_the_model(loaded):
    config = GPT2Config(vocab_size=31, n_embd=12, n_layer=2, n_head=3, n_positions=8)
    model = GPT2LMHeadModel(config).eval().to(loaded)
    targets, seen = torch.tensor([1001.25, 3.14159]), []

    def loss(outputs, batch):
        seen.append(batch["target"])
        return (outputs.logits[:, -1, 0] - batch["target"]) ** 2

    ids = torch.arange(12).view(2, 6) + 4
    parts = ({"input_ids": ids[:, columns], "target": targets} for columns in (..., slice(5)))
    train, validation = parts
    task = BatchTask("far", train=[train], validation=[validation], loss=loss, targets=["target"])
    lobes.head_importance(model, task, precision="bf16")
    lobes.evaluate(model, task, precision="bf16")
    assert all(torch.equal(each, targets) for each in seen)
