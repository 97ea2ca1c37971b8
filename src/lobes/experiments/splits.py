"""Split a task's training data: a part to select weights by, and growing parts to train on.

Both are drawn by a seed, class by class, so that every part has the classes in nearly the same
shares; an example with several labels counts to the rarest of them. The validation data, which
are what is reported, are never touched.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from lobes.errors import DataError
from lobes.tasks.task import Task

# So few examples of a class, or of a regression, can still be divided between two parts.
LEAST = 2


def hold_out(task: Task, share: float, seed: int) -> Task:
    """Return the task with `share` of its training data in the place of its validation data.

    Of every class that share (one example at least, and never all); examples of the same text
    or image, or of the same two texts in either order, are never on both sides. Raises
    `DataError` for a task with too few examples for that.
    """
    assert task.train is not None  # `load_task` makes no task without
    generator = np.random.default_rng([seed, 3, *task.name.encode()])
    chosen = np.zeros(len(task.train), dtype=bool)
    text = task.train.groups()
    # a text with several labels counts to the class of its first example
    _, first, sizes = np.unique(text, return_index=True, return_counts=True)
    for examples in _classes(task):
        groups = np.flatnonzero(np.isin(first, examples))
        if not len(groups):
            continue
        order = groups[generator.permutation(len(groups))][: len(groups) - 1]
        so_far = np.cumsum(sizes[order])
        enough = np.searchsorted(so_far, _rounded(share * int(sizes[groups].sum()))) + 1
        chosen |= np.isin(text, order[:enough])
    held_out = task.train.select(np.flatnonzero(chosen))
    rest = task.train.select(np.flatnonzero(~chosen))
    for part in (held_out, rest):
        if len(np.unique(part.labels, axis=0)) < LEAST:
            raise DataError(
                f"Task {task.name!r}: {len(task.train)} training examples are too few to hold out "
                f"{100 * share:g} % of them for choosing a checkpoint: "
                + (
                    "four or more with different targets are needed."
                    if task.is_regression
                    else f"{LEAST} or more different {_inputs(task)} of {LEAST} or more classes "
                    f"are needed."
                )
            )
    return task.replace(train=rest, validation=held_out)


def growing_order(task: Task, seed: int) -> Int[np.ndarray, " examples"]:
    """Return an order of the training examples whose every beginning keeps the classes' shares.

    The first examples are one of each class, so that none is missing from a beginning of
    `subset_sizes`.
    """
    assert task.train is not None
    generator = np.random.default_rng([seed, 4, *task.name.encode()])
    place = np.empty(len(task.train))
    for examples in _classes(task):
        order = generator.permutation(examples)
        place[order] = (np.arange(len(order)) + 0.5) / len(order)
        place[order[0]] = 0.0
    return np.argsort(place, kind="stable")


def subset_sizes(task: Task, fractions: Sequence[float]) -> list[int]:
    """Return how many training examples each fraction is: at least one of each class."""
    assert task.train is not None
    least = len(_classes(task))
    return [max(least, _rounded(fraction * len(task.train))) for fraction in fractions]


def _inputs(task: Task) -> str:
    return "texts" if task.image is None else "images"


def _rounded(number: float) -> int:
    """The nearest whole number, at least 1; halves go up."""
    return max(1, math.floor(number + 0.5))


def _classes(task: Task) -> list[Int[np.ndarray, " _"]]:
    """The places of each class's training examples; a regression is one class."""
    assert task.train is not None
    strata = task.train.strata()
    return [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
