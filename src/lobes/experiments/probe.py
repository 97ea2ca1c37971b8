"""Fit a linear probe: ridge regression on an encoder's pooled output, in closed form.

    minimize  1/n · Σ_x | W z(x) + b − y(x) |²  +  penalty · | W |²

z are the features, standardized on the training data; y is +1 for the right class (or for each
label that the example has) and −1 for the others, or the target of a regression; the bias b is
not penalized. The penalty is the one with
the best main metric on held-out data, the largest of equals.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import cho_factor, cho_solve

from lobes.measure.evaluation import predictions_of
from lobes.measure.measuring import measuring
from lobes.measure.workload import check_finite, prepare
from lobes.metrics import get_metric
from lobes.modeling import MultiTaskModel
from lobes.tasks.task import Task

ROWS = 8192  # features that are in memory in float64 at once


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """A solution: `weights` [width, outputs] and `bias` [outputs], for features as they are."""

    penalty: float
    weights: Float[np.ndarray, "width outputs"]
    bias: Float[np.ndarray, " outputs"]

    def __call__(
        self, features: Float[np.ndarray, "examples width"]
    ) -> Float[np.ndarray, "examples outputs"]:
        """The outputs for some examples."""
        return features @ self.weights + self.bias


def ridge(
    features: Float[np.ndarray, "examples width"],
    targets: Float[np.ndarray, "examples outputs"],
    penalties: Sequence[float],
) -> list[Ridge]:
    """Return the closed-form solution for every penalty (above 0), computed in float64."""
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    # a feature that never changes says nothing: it gets the weight 0
    scale = np.where(scale > 1e-12 * np.maximum(1.0, np.abs(mean)), scale, np.inf)
    middle = targets.mean(axis=0)
    width = features.shape[1]
    square, cross = np.zeros((width, width)), np.zeros((width, targets.shape[1]))
    for start in range(0, len(features), ROWS):
        block = (features[start : start + ROWS] - mean) / scale
        square += block.T @ block
        cross += block.T @ (targets[start : start + ROWS] - middle)
    solved = []
    for penalty in penalties:
        factor = cho_factor(square / len(features) + penalty * np.eye(width))
        weights = cho_solve(factor, cross / len(features)) / scale[:, None]
        solved.append(Ridge(penalty, weights, middle - mean @ weights))
    return solved


def pooled_features(
    model: MultiTaskModel, tasks: Sequence[Task], split: str, precision: str
) -> dict[str, Float[np.ndarray, "_ _"]]:
    """Return what the classifiers of every task read, [examples, width], in evaluation mode."""
    work = prepare(model, tasks, split=split)
    pooled: np.ndarray | None = None
    with measuring(model, precision) as measured, torch.no_grad():
        for batch in work.batches:
            values = measured.pooled(**work.collate(batch, measured)).float().cpu().numpy()
            if pooled is None:
                pooled = np.empty((len(work.inputs), values.shape[1]), np.float32)
            pooled[batch] = values
    assert pooled is not None  # a task has examples
    found = {name: pooled[work.places[name]][work.examples[name]] for name in work.places}
    for name, values in found.items():
        examples = np.arange(len(values))
        check_finite(values, examples, f"The pooled states of task {name!r} ({split} data)")
    return found


def probe(
    task: Task,
    features: Mapping[str, Float[np.ndarray, "_ _"]],
    labels: np.ndarray,
    penalties: Sequence[float],
) -> tuple[float, float, float]:
    """Return (penalty, held-out score, reported score) of the best probe of one task.

    `features` are those of "train", "held_out" and "validation". `task` has the training data,
    and in the place of its validation data those held out; `labels` are the reported ones.
    """
    assert task.train is not None
    assert task.validation is not None
    solved = ridge(features["train"], probe_targets(task), penalties)
    scores = list(_scores(task, solved, features["held_out"], task.validation.labels))
    # not-a-number comes last, the largest penalty first
    best = max(
        range(len(solved)), key=lambda i: (np.nan_to_num(scores[i], nan=-np.inf), penalties[i])
    )
    (reported,) = _scores(task, [solved[best]], features["validation"], labels)
    return solved[best].penalty, scores[best], reported


def probe_targets(task: Task) -> Float[np.ndarray, "examples outputs"]:
    assert task.train is not None
    if task.is_regression:
        return task.train.labels[:, None].astype(np.float64)
    if task.is_multi_label:
        return 2.0 * task.train.labels - 1.0
    return np.where(task.train.labels[:, None] == np.arange(task.n_outputs), 1.0, -1.0)


def _scores(
    task: Task, solved: Sequence[Ridge], features: np.ndarray, labels: np.ndarray
) -> Iterator[float]:
    for solution in solved:
        predictions = predictions_of(solution(features), task.spec)
        yield float(get_metric(task.metric)(labels, predictions))
