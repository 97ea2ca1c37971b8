"""Methods against interference: their weights are TorchJD's, and their steps are what is said."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from lobes.errors import ConfigError, RunError
from lobes.modeling import MultiTaskModel
from lobes.training.arguments import training_arguments
from lobes.training.settings import IAT
from lobes.training.trainer import MultiTaskTrainer
from lobes.training.weighting import (
    CAGRAD_C,
    GramianStep,
    combined,
    gramian,
    shared_parameters,
    weighted_step,
)
from tiny_models import tiny_model
from tiny_tasks import mood_task, tiny_tokenizer, topic_task, warmth_task

torchjd = pytest.importorskip("torchjd")

TASKS = (mood_task(23, 11), topic_task(19, 11), warmth_task(17, 11))
BY_GRAMIAN = ("pcgrad", "mgda", "cagrad", "imtl")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def random_states() -> Any:
    """Training uses the global random states; give them back."""
    states = np.random.get_state(), torch.get_rng_state()
    yield
    np.random.set_state(states[0])
    torch.set_rng_state(states[1])


def needs_solver(weighting: Any) -> None:
    if weighting == "cagrad":
        pytest.importorskip("cvxpy")
        pytest.importorskip("clarabel")


def aggregator(weighting: str) -> Any:
    from torchjd import aggregation

    return {
        "pcgrad": aggregation.PCGrad,
        "mgda": aggregation.MGDA,
        "cagrad": lambda: aggregation.CAGrad(CAGRAD_C),
        "imtl": aggregation.IMTLG,
    }[weighting]()


def new_model(tasks: Any = TASKS, *, dropout: float | None = None) -> MultiTaskModel:
    torch.manual_seed(0)
    model = MultiTaskModel(tiny_model("bert", attention="sdpa"), tiny_tokenizer(), tasks)
    for module in model.modules():
        if isinstance(module, nn.Dropout) and dropout is not None:
            module.p = dropout
    return model


def trainer_of(
    folder: Path, model: MultiTaskModel, weighting: Any, tasks: Any = TASKS, **settings: Any
) -> MultiTaskTrainer:
    others = {"sampling": "round_robin", "callbacks": (), "iat": None}
    others = {name: settings.pop(name, usual) for name, usual in others.items()}
    defaults = {"steps": 3, "batch_size": 13, "learning_rate": 3e-3, "precision": "fp32"}
    args = training_arguments(folder, **{**defaults, "device": "cpu", **settings})
    return MultiTaskTrainer(model, args, tasks=tasks, weighting=weighting, **others)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items())


class Gradients(TrainerCallback):
    """Remembers the weights of the first step, and the gradients before they are clipped."""

    trainer: MultiTaskTrainer

    def on_pre_optimizer_step(self, *_: Any, model: Any = None, **__: Any) -> None:
        if not hasattr(self, "found"):
            self.weights = self.trainer.weighted.mean_weights
            self.found = {
                name: each.grad.clone()
                for name, each in model.named_parameters()
                if each.grad is not None
            }


def left_by(folder: Path, weighting: Any) -> Gradients:
    left = Gradients()
    left.trainer = trainer_of(
        folder, new_model(dropout=0.0), weighting, max_grad_norm=0, callbacks=[left]
    )
    left.trainer.train()
    return left


def one_by_one(trainer: MultiTaskTrainer) -> tuple[list[float], list[dict[str, torch.Tensor]]]:
    """Each task's loss and gradients on the first micro-batches, from a model as it was."""
    model = new_model(dropout=0.0).train()
    losses, gradients = [], []
    for part in next(iter(trainer.get_train_dataloader()))["parts"]:
        model.zero_grad()
        loss = model(**{key: value for key, value in part.items() if key != "examples"}).loss
        loss.backward()
        losses.append(loss.item())
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        gradients.append(found)
    return losses, gradients


def jacobian(gradients: list[dict[str, torch.Tensor]], names: list[str]) -> torch.Tensor:
    return torch.stack(
        [torch.cat([each[name].double().flatten() for name in names]) for each in gradients]
    )


# For fixed gradients


@pytest.mark.parametrize("weighting", BY_GRAMIAN)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_weighted_gradient_is_that_of_torchjd_s_aggregator(weighting: str, seed: int) -> None:
    needs_solver(weighting)
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(5, 17 + 6, generator=generator, dtype=torch.float64)
    gradients = [[row[:17], row[17:].reshape(2, 3)] for row in matrix]
    products = gramian(gradients)
    torch.testing.assert_close(products, matrix @ matrix.T)
    step = weighted_step(weighting, 5, CPU, seed)
    assert isinstance(step, GramianStep)
    found = step._weights(products)
    # what PCGrad draws is the order of the others
    torch.manual_seed(int(np.random.default_rng([seed, 0]).integers(2**63)))
    expected = aggregator(weighting)(matrix)
    torch.testing.assert_close(found @ matrix, expected)
    parts = [combined(each, found.tolist()) for each in zip(*gradients, strict=True)]
    torch.testing.assert_close(torch.cat([part.flatten() for part in parts]), expected)


def test_pcgrad_draws_another_order_in_each_step_and_leaves_the_random_state() -> None:
    angles = torch.arange(5) * 2.4
    products = (lambda rows: rows @ rows.T)(torch.stack([angles.cos(), angles.sin()], dim=1))
    step = weighted_step("pcgrad", 5, CPU)
    before, found = torch.get_rng_state(), []
    for _ in range(3):
        found.append(step._weights(products))
        step._count(found[-1])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_allclose(step.mean_weights, torch.stack(found).mean(dim=0), rtol=1e-6)


def test_a_missing_gradient_is_zero() -> None:
    a, b = torch.tensor([2.0, 3.0]), torch.tensor([5.0])
    assert gramian([[a, None], [None, b]]).tolist() == [[13, 0], [0, 25]]
    assert combined([None, b.clone()], [7.0, 2.0]).tolist() == [10.0]
    assert combined([None, None], [7.0, 2.0]) is None


def test_weights_that_cannot_be_computed_stop_the_training() -> None:
    def failing(products: torch.Tensor) -> torch.Tensor:
        raise ValueError("no solution")

    with pytest.raises(RunError) as caught:
        GramianStep(2, failing, 0)._weights(torch.eye(2))
    assert str(caught.value) == (
        "The weights of the tasks could not be computed at step 1: no solution. Choose another "
        "method, or a lower learning rate."
    )


# In a training


@pytest.mark.parametrize("weighting", BY_GRAMIAN)
def test_a_step_by_the_gramian(tmp_path: Path, weighting: str) -> None:
    """Shared parameters have what TorchJD makes of the Jacobian, classifiers their own task's."""
    needs_solver(weighting)
    left = left_by(tmp_path, weighting)
    _, gradients = one_by_one(left.trainer)
    model, found = left.trainer.model, left.found
    shared = {id(parameter) for parameter in shared_parameters(model)}
    names = [
        name for name, p in model.named_parameters() if id(p) in shared and name in gradients[0]
    ]
    torch.manual_seed(int(np.random.default_rng([0, 0]).integers(2**63)))
    expected = aggregator(weighting)(jacobian(gradients, names))
    torch.testing.assert_close(jacobian([found], names)[0], expected, atol=1e-6, rtol=1e-3)
    for task, own in zip(TASKS, gradients, strict=True):
        for part in ("weight", "bias"):
            name = f"classifiers.{task.name}.{part}"
            torch.testing.assert_close(found[name], own[name])


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [("sum", (1, 1, 1)), ((2.0, 0.5, 0.25), (2, 0.5, 0.25)), ("uncertainty", (0.5, 0.5, 0.5))],
)
def test_a_step_by_the_losses(tmp_path: Path, weighting: Any, expected: Any) -> None:
    left = left_by(tmp_path, weighting)
    _, gradients = one_by_one(left.trainer)
    np.testing.assert_allclose(left.weights, expected)
    for name, value in left.found.items():
        parts = [
            w * each[name] for w, each in zip(expected, gradients, strict=True) if name in each
        ]
        torch.testing.assert_close(value, sum(parts), atol=1e-6, rtol=1e-4)


def test_famo_s_first_step(tmp_path: Path) -> None:
    """Its weights begin in inverse proportion to the losses, and sum to one."""
    left = left_by(tmp_path, "famo")
    losses = np.array(one_by_one(left.trainer)[0])
    np.testing.assert_allclose(left.weights, (1 / losses) / (1 / losses).sum(), rtol=1e-5)


def test_famo_learns_from_the_step_and_not_from_dropout(tmp_path: Path) -> None:
    moved = []
    for rate in (1e-30, 3e-3):
        trainer = trainer_of(tmp_path, new_model(), "famo", learning_rate=rate)
        trainer.train()
        moved.append(trainer.weighted.famo._w.abs().max().item())
        assert len(trainer.losses) == len(TASKS)
    assert moved[0] == 0 < moved[1]


def test_uncertainty_is_learned(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, new_model(), "uncertainty")
    trainer.train()
    spread = trainer.weighted.combine.log_var.detach()
    assert (spread != 0).all()
    assert (trainer.weighted.mean_weights != 0.5).all()


def test_equal_weights_are_the_plain_sum(tmp_path: Path) -> None:
    first, second, third = new_model(), new_model(), new_model()
    trainer_of(tmp_path, first, "sum").train()
    trainer_of(tmp_path, second, [1, 1, 1]).train()
    trainer_of(tmp_path, third, [1, 1, 3]).train()
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(third))


@pytest.mark.parametrize("weighting", ["sum", "pcgrad", "famo", (2.0,)])
def test_one_task_is_trained_as_without_weighting(tmp_path: Path, weighting: Any) -> None:
    plain, weighted = new_model(TASKS[:1]), new_model(TASKS[:1])
    trainer_of(tmp_path, plain, None, TASKS[:1], steps=2).train()
    trainer_of(tmp_path, weighted, weighting, TASKS[:1], steps=2).train()
    assert same(weights(plain), weights(weighted))


@pytest.mark.parametrize("weighting", ["pcgrad", "famo"])
def test_a_training_is_repeatable(tmp_path: Path, weighting: str) -> None:
    """Over more than an epoch; every task is in every step."""
    models = []
    for _ in range(2):
        models.append(new_model())
        trainer = trainer_of(
            tmp_path, models[-1], weighting, steps=7, log_every=1, sampling="proportional"
        )
        trainer.train()
        assert trainer.state.global_step == 7 > len(trainer.sampler) == 6
        logged = [entry["task"] for entry in trainer.losses]
        assert logged == [task.name for task in TASKS] * 7
    assert same(weights(models[0]), weights(models[1]))


# What cannot be


@pytest.mark.parametrize(
    ("weighting", "settings", "says"),
    [
        (
            "pcgard",
            {},
            "weighting is 'pcgard'; expected \"sum\", \"pcgrad\", \"mgda\", \"cagrad\", \"imtl\", "
            "\"famo\" or \"uncertainty\". Did you mean \"pcgrad\"?",
        ),
        (
            [1, 2],
            {},
            "weighting is [1, 2]; expected \"sum\", \"pcgrad\", \"mgda\", \"cagrad\", \"imtl\", "
            "\"famo\" or \"uncertainty\", or a weight for each of the 3 tasks.",
        ),
        (
            [1, 0, 2],
            {},
            "weighting[1] is 0; expected a number above 0 and at most 1,000.",
        ),
        (
            "sum",
            {"iat": IAT()},
            "iat does not go with weighting, whose batches are of every task: leave one of the "
            "two out.",
        ),
        (
            "sum",
            {"accumulate": 2},
            "gradient_accumulation_steps does not go with weighting, which weighs each batch by "
            "itself: set it to 1.",
        ),
        (
            "sum",
            {"save_every": 3},
            "save_strategy does not go with weighting, since checkpoints do not hold what a method "
            "has learned: set it to 'no'.",
        ),
        (
            "sum",
            {"steps": 5, "batch_size": 2},
            "Task 'mood' has 4 examples in the 5 steps of this training, of which each needs "
            "one: take larger batches, or another sampling, such as \"uniform\".",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be(tmp_path: Path, weighting: Any, settings: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer_of(tmp_path, new_model(), weighting, **settings)
    assert str(caught.value) == says


def test_no_checkpoint_is_continued(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer_of(tmp_path, new_model(), "sum").train(resume_from_checkpoint=True)
    assert str(caught.value) == (
        "A training with weighting does not continue from a checkpoint: leave "
        "resume_from_checkpoint out."
    )


@pytest.mark.parametrize("weighting", ["mgda", "famo"])
def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, weighting: str) -> None:
    for module in ("aggregation", "scalarization"):
        monkeypatch.setitem(sys.modules, f"torchjd.{module}", None)
    with pytest.raises(ConfigError) as caught:
        weighted_step(weighting, 3, CPU)
    assert str(caught.value) == (
        f"The method {weighting!r} needs TorchJD, or a solver, which is not installed: pip "
        f"install 'lobes[conflict]', or leave the method out."
    )
    assert weighted_step("sum", 3, CPU) is not None
