"""The losses that tasks are trained with, where they are not the usual ones.

Definitions: docs/method.md#training-losses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lobes.errors import ConfigError, at
from lobes.limits import short
from lobes.tasks.columns import listed, suggest
from lobes.tasks.task import Task
from lobes.training.settings import LossFunction, TrainingLoss, is_function


@dataclass(frozen=True, slots=True)
class TaskLoss:
    """What the loss of a task is multiplied by, and its function; None for the usual one."""

    weight: float = 1.0
    function: LossFunction | None = None


def task_losses(
    losses: Any,
    tasks: Sequence[Task],
    label_smoothing: float = 0.0,
) -> dict[str, TaskLoss]:
    """Return the loss of every task by its name; `label_smoothing` where it has none of its own.

    `losses` are as `MultiTaskTrainer` takes them. A task that is trained alone has the weight 1.
    Raises `ConfigError` for losses of tasks that there are not, and for settings that do not fit a
    task's labels.
    """
    given = _by_task(losses, [task.name for task in tasks])
    found = {}
    for task in tasks:
        settings = given.get(task.name, TrainingLoss())
        if not settings.label_smoothing and settings.function is None:
            settings = replace(settings, label_smoothing=label_smoothing)
        with at(f"Task {task.name!r}"):
            function = _function(settings, task)
        found[task.name] = TaskLoss(settings.weight if len(tasks) > 1 else 1.0, function)
    return found


def _by_task(losses: Any, names: Sequence[str]) -> dict[str, TrainingLoss]:
    if losses is None:
        return {}
    if not isinstance(losses, Mapping):
        raise ConfigError(
            f"losses is {short(losses)}; expected a lobes.TrainingLoss or a function for tasks by "
            f'their names, such as {{{names[0]!r}: lobes.TrainingLoss(class_weights="balanced")}}.'
        )
    found = {}
    for name, each in losses.items():
        if name not in names:
            raise ConfigError(
                f"losses has {short(name)}, which is no task of this training: expected "
                f"{listed(names)}.{suggest(str(name), names)}"
            )
        if not isinstance(each, TrainingLoss):
            if not is_function(each):
                raise ConfigError(
                    f"losses[{name!r}] is {short(each)}; expected a lobes.TrainingLoss, or a "
                    f"function loss(logits, labels) -> [batch]."
                )
            each = TrainingLoss(function=each)
        found[name] = each
    return found


def _function(settings: TrainingLoss, task: Task) -> LossFunction | None:
    """The loss of each example; None for the usual one."""
    if settings.function is not None:
        return partial(_own, settings.function, task.name)
    smoothing = settings.label_smoothing
    if settings.class_weights is None and not smoothing:
        return None
    if task.labels is None:
        what = "class_weights" if settings.class_weights is not None else "label_smoothing"
        raise ConfigError(
            f"has a number for each example, and {what} needs classes: leave it out, or give a "
            f"loss function."
        )
    if task.is_multi_label and smoothing:
        raise ConfigError(
            "has several labels for each example, and label_smoothing needs one: leave it out, or "
            "give a loss function."
        )
    weights = _class_weights(settings.class_weights, task, task.labels)
    return _several(weights) if task.is_multi_label else _one(weights, smoothing)


def _class_weights(
    given: Any, task: Task, names: tuple[str, ...]
) -> Float[np.ndarray, " classes"] | None:
    if given is None:
        return None
    if isinstance(given, str):  # "balanced"
        assert task.train is not None
        return _balanced(task.train.labels, len(names))
    for name in given:
        if name not in names:
            raise ConfigError(
                f"has class_weights for {short(name)}, which is none of its classes: expected "
                f"{listed(names)}.{suggest(str(name), names)}"
            )
    return np.array([given.get(name, 1.0) for name in names], dtype=np.float64)


def _balanced(
    labels: Int[np.ndarray, "examples *classes"], n_classes: int
) -> Float[np.ndarray, " classes"]:
    """Weights with which all classes weigh the same; 1 for a class without examples."""
    n = len(labels)
    if labels.ndim == 2:
        counts = labels.sum(axis=0)
        wanted = n - counts
    else:
        counts = np.bincount(labels, minlength=n_classes)
        wanted = np.full(n_classes, n / np.count_nonzero(counts))
    usable = (counts > 0) & (wanted > 0)
    return np.divide(wanted, counts, out=np.ones(n_classes), where=usable)


def _one(weights: Float[np.ndarray, " classes"] | None, smoothing: float) -> LossFunction:
    """Weighted, smoothed cross-entropy."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            logits,
            labels,
            weight=None if weights is None else logits.new_tensor(weights),
            label_smoothing=smoothing,
            reduction="none",
        )

    return loss


def _several(weights: Float[np.ndarray, " classes"] | None) -> LossFunction:
    """Binary cross-entropy, the mean over the classes, with the terms of labels weighted."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(
            logits,
            labels.to(logits.dtype),
            pos_weight=None if weights is None else logits.new_tensor(weights),
            reduction="none",
        ).mean(1)

    return loss


def _own(function: LossFunction, task: str, logits: Tensor, labels: Tensor) -> Tensor:
    """A function of the user's, checked: what it returns is [batch], with a gradient."""
    found = function(logits, labels)
    wanted = [len(logits)]
    if not isinstance(found, Tensor) or [*found.shape] != wanted or not found.is_floating_point():
        what = f"a {type(found).__name__}"
        if isinstance(found, Tensor):
            what = f"{[*found.shape]} of {str(found.dtype).removeprefix('torch.')}"
        raise ConfigError(
            f"The loss function of task {task!r} returned {what}: expected a tensor {wanted} of "
            f"floating-point numbers, each example's own loss (with torch's losses: "
            f"reduction='none')."
        )
    if torch.is_grad_enabled() and logits.requires_grad and not found.requires_grad:
        raise ConfigError(
            f"The loss function of task {task!r} returned a tensor without a gradient: compute it "
            f"from the logits by torch's operations, without detach, numpy or no_grad."
        )
    return found
