"""How tasks are trained with other losses than the usual ones, and what that leaves alone."""

import copy
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lobes import IAT, MultiTaskModel, MultiTaskTrainer, TrainingLoss, head_importance
from lobes.config.study import StudyConfig, load_study
from lobes.errors import ConfigError, RunError
from lobes.experiments.run import run_study
from lobes.experiments.same_study import what_differs
from lobes.experiments.training import study_trainer
from lobes.training.arguments import training_arguments
from lobes.training.losses import task_losses
from tiny_models import tiny_model
from tiny_study import QUICK, write_study
from tiny_tasks import marks_task, mood_task, tiny_tokenizer, topic_task, warmth_task

TASKS = (mood_task(23, 11), topic_task(19, 11), warmth_task(17, 11), marks_task(29, 11))


@pytest.fixture(autouse=True)
def random_states() -> Any:
    """Training uses the global random states; give them back."""
    states = np.random.get_state(), torch.get_rng_state()
    yield
    np.random.set_state(states[0])
    torch.set_rng_state(states[1])


def new_model(tasks: Any = TASKS) -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(tiny_model("bert", attention="sdpa"), tiny_tokenizer(), tasks)


def trained(folder: Path, losses: Any, tasks: Any = TASKS, **settings: Any) -> MultiTaskTrainer:
    others = {name: settings.pop(name, None) for name in ("iat", "weighting")}
    usual = {"steps": 5, "batch_size": 7, "learning_rate": 3e-3, "precision": "fp32"}
    args = training_arguments(folder, **{**usual, "device": "cpu", "log_every": 1, **settings})
    trainer = MultiTaskTrainer(
        new_model(tasks), args, tasks=tasks, losses=losses, sampling="round_robin", **others
    )
    trainer.train()
    return trainer


def same(first: MultiTaskTrainer, second: MultiTaskTrainer) -> bool:
    other = second.model.state_dict()
    return all(torch.equal(value, other[name]) for name, value in first.model.state_dict().items())


def losses_of(settings: TrainingLoss, task: Any, logits: Tensor, labels: Tensor) -> Tensor:
    function = task_losses({task.name: settings}, [task])[task.name].function
    assert function is not None
    return function(logits, labels)


def test_class_weights_and_smoothing_are_their_formulas() -> None:
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    labels, logs = torch.tensor([0, 2, 2, 1, 0]), logits.log_softmax(1)
    found = losses_of(TrainingLoss(class_weights={"sea": 3, "sky": 0.5}), TASKS[1], logits, labels)
    weights = torch.tensor([1, 3, 0.5])
    own = logs[torch.arange(5), labels]
    torch.testing.assert_close(found, -weights[labels] * own)
    found = losses_of(TrainingLoss(label_smoothing=0.25), TASKS[1], logits, labels)
    torch.testing.assert_close(found, -0.75 * own - 0.25 * logs.mean(1))
    marks = torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 0]])
    found = losses_of(TrainingLoss(class_weights={"sky": 2}), TASKS[3], logits, marks)
    yes, no = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
    each = -marks * yes * torch.tensor([1, 1, 2]) - (1 - marks) * no
    torch.testing.assert_close(found, each.mean(1))


def test_balanced_weights_make_all_classes_weigh_the_same() -> None:
    task = topic_task(41, 11)
    labels = torch.tensor(task.train.labels)
    balanced = TrainingLoss(class_weights="balanced")
    found = losses_of(balanced, task, torch.zeros(41, 3), labels)
    by_class = torch.zeros(3).index_add(0, labels, found)
    torch.testing.assert_close(by_class, by_class.mean().expand(3))
    torch.testing.assert_close(found.mean(), torch.log(torch.tensor(3.0)))
    seen = task.train.select(np.flatnonzero(task.train.labels != 1))  # no example of a class
    found = losses_of(balanced, task.replace(train=seen), torch.zeros(3, 3), torch.arange(3))
    assert found[1].item() == pytest.approx(np.log(3))
    marks = marks_task(43, 11)
    given = torch.tensor(marks.train.labels)
    found = losses_of(balanced, marks, torch.zeros(43, 3), given)
    positive = given.sum(0)
    weighed = (given * ((43 - positive) / positive) + 1 - given).mean(1) * np.log(2)
    torch.testing.assert_close(found, weighed.float())


def test_the_usual_losses_written_out_train_the_same_to_the_bit(tmp_path: Path) -> None:
    usual = trained(tmp_path, None)
    functions = {
        "mood": lambda logits, labels: nn.functional.cross_entropy(
            logits, labels, reduction="none"
        ),
        "topic": TrainingLoss(class_weights={"sea": 1.0}),
        "warmth": lambda logits, labels: (logits[:, 0] - labels) ** 2,
    }
    assert same(usual, trained(tmp_path, functions))
    assert not same(usual, trained(tmp_path, {"topic": TrainingLoss(class_weights={"sea": 5})}))


def test_smoothing_is_that_of_the_arguments_of_the_trainer(tmp_path: Path) -> None:
    tasks = TASKS[:2]
    own = {task.name: TrainingLoss(label_smoothing=0.3) for task in tasks}
    by_arguments = trained(tmp_path, None, tasks, label_smoothing_factor=0.3)
    assert same(trained(tmp_path, own, tasks), by_arguments)
    assert not same(trained(tmp_path, None, tasks), by_arguments)


def test_under_fsdp_a_function_reaches_every_classifier_too() -> None:
    model = new_model(TASKS[:2])
    model.reaches_all = True
    given: Any = {"task": "mood", "labels": torch.tensor([1])}
    model(**model.example(), **given, loss_function=lambda z, y: z[:, 1]).loss.backward()
    assert model.classifiers["mood"].weight.grad.any()
    assert not model.classifiers["topic"].weight.grad.any()  # zero, and not None


def test_a_weight_multiplies_a_tasks_gradient_and_not_the_recorded_loss(tmp_path: Path) -> None:
    tasks, double = TASKS[:2], {"mood": TrainingLoss(weight=2.0)}
    trainer = trained(tmp_path, double, tasks, steps=1)
    plain = trained(tmp_path, None, tasks, steps=1)
    assert trainer.losses == plain.losses
    batch = {**trainer.data.collate([0, 1, 2]), "task": "mood"}
    trainer.model.eval()
    with torch.no_grad():
        twice = trainer.compute_loss(trainer.model, dict(batch))
        once = trainer.model(**{k: v for k, v in batch.items() if k != "examples"}).loss
    assert twice.item() == pytest.approx(2 * once.item())
    alone = trained(tmp_path, double, TASKS[:1])
    assert same(alone, trained(tmp_path, None, TASKS[:1]))


def test_weights_of_losses_reach_trainings_that_weigh_the_tasks(tmp_path: Path) -> None:
    tasks, twice = TASKS[:2], {"mood": TrainingLoss(weight=2.0)}
    given = trained(tmp_path, None, tasks, weighting=[2.0, 1.0])
    assert same(given, trained(tmp_path, twice, tasks, weighting="sum"))
    assert same(given, trained(tmp_path, None, tasks, weighting={"topic": 1, "mood": 2}))


def test_importance_is_of_the_usual_loss_whatever_a_task_is_trained_with(tmp_path: Path) -> None:
    tasks = TASKS[:2]
    losses = {"mood": TrainingLoss(class_weights={"bad": 100.0}, weight=7.0)}
    iat = IAT(delta=0.4, importance_examples=None)
    folder = tmp_path / "checkpoints"
    trainer = trained(folder, losses, tasks, iat=iat, save_every=3, save_total_limit=9)
    before = MultiTaskModel.from_pretrained(folder / "checkpoint-3")
    wanted = head_importance(before, tasks[0], aggregate="token").values
    np.testing.assert_allclose(trainer.iat_record["importance"]["mood"], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"mod": TrainingLoss()}, "losses has 'mod'.*'marks'. Did you mean 'mood'"),
        (["balanced"], r"losses is \['balanced'\]; expected a lobes.TrainingLoss or a function"),
        ({"mood": TrainingLoss}, r"losses\['mood'\] is <class .*; expected a lobes.TrainingLoss"),
        ({"mood": 3}, r"losses\['mood'\] is 3; expected .* a function loss\(logits, labels\)"),
        (
            {"mood": TrainingLoss(class_weights={"god": 2.0})},
            "Task 'mood' has class_weights for 'god', .* Did you mean 'good'",
        ),
        (
            {"warmth": TrainingLoss(class_weights="balanced")},
            "Task 'warmth' has a number for each example, and class_weights needs classes",
        ),
        (
            {"warmth": TrainingLoss(label_smoothing=0.1)},
            "Task 'warmth' has a number for each example, and label_smoothing needs classes",
        ),
        (
            {"marks": TrainingLoss(label_smoothing=0.1)},
            "Task 'marks' has several labels for each example, and label_smoothing needs one",
        ),
    ],
)
def test_losses_that_do_not_fit_the_tasks(losses: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task_losses(losses, TASKS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": "balance"}, """expected {"class name": weight} or "balanced"."""),
        ({"function": nn.CrossEntropyLoss}, r"function is a function loss\(logits, labels\)"),
        ({"class_weights": {"bad": 0}}, r"class_weights\['bad'\] is 0; expected a number above 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; expected a share from 0 and below 1"),
        ({"weight": -2}, "weight is -2; expected a number above 0"),
        (
            {"function": lambda logits, labels: logits, "label_smoothing": 0.1},
            "a function of its own and class_weights or label_smoothing",
        ),
    ],
)
def test_settings_of_a_loss_that_cannot_be(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingLoss(**settings)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda logits, labels: logits.mean(),
            r"returned \[\] of float32: expected a tensor \[7\]",
        ),
        (
            lambda logits, labels: 3.0,
            r"returned a float: expected a tensor \[7\] of floating-point",
        ),
        (lambda logits, labels: labels, r"returned \[7\] of int64: expected a tensor \[7\]"),
        (lambda logits, labels: logits.detach()[:, 0], "without a gradient"),
    ],
)
def test_functions_that_give_no_loss_of_each_example(
    tmp_path: Path, function: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"loss function of task 'mood'.*{message}"):
        trained(tmp_path, {"mood": function}, TASKS[:1])


@pytest.mark.parametrize("weighting", ["famo", "uncertainty"])
def test_weights_that_are_learned_need_losses_of_0_and_more(tmp_path: Path, weighting: str) -> None:
    pytest.importorskip("torchjd")
    functions = {"mood": lambda logits, labels: -1 - logits[:, 0] ** 2}
    with pytest.raises(ConfigError, match=r"of task 'mood' gives -1.* takes losses of 0 and more"):
        trained(tmp_path, functions, TASKS[:2], weighting=weighting)


def test_a_loss_that_is_no_number_names_the_function(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"'mood' is nan on .* and its loss function"):
        trained(tmp_path, {"mood": lambda logits, labels: logits[:, 0] * torch.nan}, TASKS[:1])


def test_a_loss_can_be_copied_and_sent() -> None:
    given = {"bad": 2.0}
    loss = TrainingLoss(class_weights=given)
    given["bad"] = 3.0
    assert loss.class_weights == {"bad": 2.0}
    assert pickle.loads(pickle.dumps(loss)) == copy.deepcopy(loss) == loss
    assert asdict(loss)["class_weights"] == {"bad": 2.0}


def test_a_name_of_a_weighting_that_is_nearly_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'weighting is .PCGrad.; .* Did you mean "pcgrad"\?'):
        trained(tmp_path, None, weighting="PCGrad")
    with pytest.raises(ConfigError, match="weighting lacks a weight for 'topic'"):
        trained(tmp_path, None, TASKS[:2], weighting={"mood": 1.0})
    with pytest.raises(ConfigError, match=r"weighting has a weight for 'modo'.*mean 'mood'"):
        trained(tmp_path, None, TASKS[:2], weighting={"modo": 1.0})


LOSSES = (
    "tasks.mood.class_weights={bad = 3}",
    "tasks.mood.label_smoothing=0.1",
    "tasks.topic.class_weights=balanced",
    "tasks.topic.weight=2",
)


def test_a_study_trains_with_the_losses_of_its_tasks(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path), [*QUICK, *LOSSES])
    assert study.losses == {
        "mood": TrainingLoss(class_weights={"bad": 3.0}, label_smoothing=0.1),
        "topic": TrainingLoss(class_weights="balanced", weight=2.0),
    }
    assert StudyConfig.from_dict(study.to_dict()) == study
    tasks = (mood_task(23, 11), topic_task(19, 11))
    trainer = study_trainer(study, tmp_path / "unused", new_model(tasks), tasks)
    assert trainer._task_losses["topic"].weight == 2
    logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    found = trainer._task_losses["mood"].function(logits, labels)
    wanted = nn.functional.cross_entropy(
        logits, labels, torch.tensor([3.0, 1.0]), label_smoothing=0.1, reduction="none"
    )
    torch.testing.assert_close(found, wanted)


def test_another_loss_is_another_study_where_a_model_is_trained(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    plain, other = load_study(path).to_dict(), load_study(path, LOSSES).to_dict()
    changed = [
        "tasks.mood.class_weights",
        "tasks.mood.label_smoothing",
        "tasks.topic.class_weights",
        "tasks.topic.weight",
    ]
    for command in ("run", "compare"):
        assert what_differs(plain, other, command) == changed
    plain["training"]["enabled"] = other["training"]["enabled"] = False
    assert what_differs(plain, other, "run") == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "tasks.mood.class_weights=balance",
            'tasks.mood.class_weights is "balance"; expected "balanced", or a table of weights',
        ),
        ("tasks.mood.class_weights={bad = -1}", 'expected "balanced", or a table of weights'),
        ("tasks.mood.label_smoothing=2", "label_smoothing is 2; expected a share from 0 and below"),
        ("tasks.mood.weight=0", "tasks.mood.weight is 0; expected a number above 0"),
        (
            'transfer.task={name="new", train="mood.train.csv", text="sentence", weight=2}',
            "transfer.task.weight is 2.0, but the task is trained alone",
        ),
        (
            "tasks=[{name='mood', train='x', text='t', prompt='{t}', words=['a','b'], weight=2}]",
            "tasks.mood.weight is there, but tasks.mood.prompt makes it a prompted task",
        ),
    ],
)
def test_losses_that_a_study_cannot_have(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write_study(tmp_path), [setting])


def test_a_class_that_a_study_misspells_is_found_before_the_training(tmp_path: Path) -> None:
    settings = [*QUICK, "tasks.mood.class_weights={god = 3}"]
    with pytest.raises(ConfigError, match="Task 'mood' has class_weights for 'god'"):
        run_study(load_study(write_study(tmp_path), settings))
    assert not (tmp_path / "run" / "config.json").exists()
