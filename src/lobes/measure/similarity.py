"""Similarity of tasks by gradients and by CKA, which need the model.

Definitions: docs/method.md#task-similarity.

`dissociation/similarity.py` has those that need importance only, and the trend over pairs.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lobes.ablation import ablate
from lobes.discovery import find_heads
from lobes.dissociation.similarity import linear_cka
from lobes.errors import ConfigError
from lobes.heads import Heads
from lobes.measure.batches import TaskBatches
from lobes.measure.measuring import measuring
from lobes.measure.workload import check_finite
from lobes.modeling import MultiTaskModel, TaskModel
from lobes.progress import Progress, counted
from lobes.tasks.task import Task


def gradient_similarity(
    model: TaskModel,
    tasks: Sequence[Task],
    *,
    split: str = "train",
    max_examples: int | None = None,
    seed: int = 0,
    tokens_per_batch: int | None = None,
    progress: Progress | None = None,
) -> Float[np.ndarray, "tasks tasks"]:
    """Return the cosine of every two tasks' mean gradients on the parameters that they share.

    Those are all but the classifiers. The model is in evaluation mode, in the precision that it
    was loaded in; one gradient is held for each task. NaN where a gradient is 0. Raises as
    `head_importance` does.
    """
    gradients: list[list[Tensor]] = []
    with measuring(model, "fp32", gradients=True) as measured:
        shared = [
            parameter
            for name, parameter in measured.named_parameters()
            if not name.startswith("classifiers.") and parameter.is_floating_point()
        ]
        try:
            for parameter in shared:
                parameter.requires_grad_(True)
            for task in counted(tasks, progress):
                batches = TaskBatches(measured, task, split, max_examples, seed, tokens_per_batch)
                gradients.append(_mean_gradient(batches, shared))
        finally:
            for parameter in shared:
                parameter.requires_grad_(False)
    products = np.array([[_product(one, other) for other in gradients] for one in gradients])
    norms = np.sqrt(np.diag(products))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(products / np.outer(norms, norms), -1.0, 1.0)


def _mean_gradient(batches: TaskBatches, shared: Sequence[nn.Parameter]) -> list[Tensor]:
    """The gradient of the mean loss, on the CPU in float32."""
    totals = [torch.zeros(parameter.shape) for parameter in shared]
    examples = 0
    for batch in batches:
        with torch.enable_grad():
            losses = batch.losses()
            batch.check(losses, "The losses")
            found = torch.autograd.grad(losses.sum(), shared, allow_unused=True)
        if not all(bool(each.isfinite().all()) for each in found if each is not None):
            batch.check(torch.full_like(losses, torch.nan), "The gradients of a batch")
        examples += len(losses)
        for total, gradient in zip(totals, found, strict=True):
            if gradient is not None:
                total += gradient.float().cpu()
    return [total / examples for total in totals]


def _product(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(one, other, strict=True))


def lesion_cka(
    model: MultiTaskModel,
    tasks: Sequence[Task],
    lesions: Sequence[Heads],
    *,
    split: str = "validation",
    max_examples: int | None = None,
    seed: int = 0,
    precision: str = "fp32",
    progress: Progress | None = None,
) -> Float[np.ndarray, "lesions lesions"]:
    """Return linear CKA of the pooled outputs under every two lesions, on the same examples.

    The examples are those of all tasks, or `max_examples` of each at random (`seed`). 1 where the
    encoder makes the same of them, but for rotation and scale, whichever lesion it has. Raises
    `ConfigError` for a model without an encoder of its own, `HeadError` for unknown heads.
    """
    if not isinstance(model, MultiTaskModel):
        raise ConfigError(
            f"CKA compares what the classifiers of a MultiTaskModel read; a "
            f"{type(model).__name__} has none."
        )
    layout = find_heads(model)
    found = []
    for lesion in counted(lesions, progress):
        with measuring(model, precision) as measured, ablate(measured, lesion, layout=layout):
            parts: list[Any] = [
                _pooled(measured, task, split, max_examples, seed) for task in tasks
            ]
        found.append(np.concatenate(parts))
    return np.array([[linear_cka(one, other) for other in found] for one in found])


def _pooled(
    model: MultiTaskModel, task: Task, split: str, max_examples: int | None, seed: int
) -> Float[np.ndarray, "examples width"]:
    batches = TaskBatches(model, task, split, max_examples, seed, None)
    rows: np.ndarray | None = None
    with torch.no_grad():
        for batch, inputs in batches.batches_with_inputs():
            values = model.pooled(**inputs).float().cpu().numpy()
            rows = np.empty((len(batches.labels), values.shape[1]), "f4") if rows is None else rows
            rows[batch] = values
            check_finite(values, batches.places[batch], f"The pooled states{batches.of}")
    assert rows is not None  # a task has examples
    return rows
