"""Parts of a split, drawn at random: what is held out, samples of a size, and growing parts.

What is held out to choose weights by, and growing parts to train on, are drawn class by class, so
that every part has the classes in nearly the same shares; an example with several labels counts to
the rarest of them. The validation data, which are what is reported, are never touched by that.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from lobes.errors import ConfigError, DataError
from lobes.tasks.examples import Examples
from lobes.tasks.task import Task

# The share of the training data that is held out where a task has no validation data.
HELD_OUT = 0.1


def sampled(
    task: Task,
    *,
    train_size: int | None = None,
    validation_size: int | None = None,
    stratified: bool = False,
    seed: int = 0,
) -> Task:
    """Return a task whose splits have at most so many examples, drawn at random, in their order.

    Without validation data, `HELD_OUT` of the training examples become these. `stratified` draws
    each class in its share. Raises DataError where the training data are too few to hold some
    out, ConfigError for classes of a regression.
    """
    if task.validation is None:
        task = _with_held_out(task, seed)
    if stratified and task.is_regression:
        raise ConfigError(
            f"Task {task.name!r} has stratified=True, but a regression has no classes to draw "
            f"from: leave it out."
        )
    splits: dict[str, Any] = {}
    # the numbers keep the draws of the two splits, and of what is held out (0), independent
    for number, split, size in ((1, "train", train_size), (2, "validation", validation_size)):
        examples = getattr(task, split)
        if examples is not None and size is not None and size < len(examples):
            generator = np.random.default_rng([seed, number])
            splits[split] = examples.select(_drawn(examples, size, stratified, generator))
    return task.replace(**splits)


def _with_held_out(task: Task, seed: int) -> Task:
    train = task.train
    assert train is not None  # only a known task may lack training data, never both
    rest, held_out = _divided(task.name, train, np.random.default_rng([seed, 0]))
    for part, what in ((held_out, "that part"), (rest, "the rest")):
        if task.labels is None or part.labels.ndim > 1 or len(np.unique(part.labels)) > 1:
            continue
        raise DataError(
            f"Task {task.name!r}: holding out {len(held_out)} of {len(train)} training examples "
            f"for validation leaves {what} with the label {task.labels[part.labels[0]]!r} "
            f"only: give validation data, or more training data."
        )
    return task.replace(train=rest, validation=held_out)


def _divided(
    name: str, examples: Examples, generator: np.random.Generator
) -> tuple[Examples, Examples]:
    """Split off a share `HELD_OUT` of the examples, whole groups of equal inputs at a time."""
    group = examples.groups()
    order = generator.permutation(int(group.max()) + 1)
    sizes = np.bincount(group)[order]
    needed = int(np.searchsorted(np.cumsum(sizes), HELD_OUT * len(examples))) + 1
    if needed >= len(order):
        raise DataError(
            f"Task {name!r}: cannot hold out {HELD_OUT:.0%} of {len(examples)} training examples "
            f"with {len(order)} different {'texts' if examples.images is None else 'images'} for "
            f"validation: give validation data."
        )
    held_out = np.isin(group, order[:needed])
    return examples.select(np.flatnonzero(~held_out)), examples.select(np.flatnonzero(held_out))


def _drawn(
    examples: Examples, size: int, stratified: bool, generator: np.random.Generator
) -> Int[np.ndarray, " size"]:
    """The places of `size` of the examples, ascending."""
    if not stratified:
        return np.sort(generator.choice(len(examples), size=size, replace=False))
    order, strata = generator.permutation(len(examples)), examples.strata()
    of_each = [
        order[strata[order] == stratum][:count]
        for stratum, count in enumerate(_shares(strata, size))
    ]
    return np.sort(np.concatenate(of_each))


def _shares(labels: Int[np.ndarray, " examples"], size: int) -> Int[np.ndarray, " classes"]:
    """How many of `size` examples are of each class: its share, by largest remainders."""
    counts = np.bincount(labels)
    exact = counts * size  # in whole numbers, so that equal remainders are equal
    shares: Int[np.ndarray, " classes"] = exact // len(labels)
    rest = np.argsort(-(exact % len(labels)), kind="stable")[: size - int(shares.sum())]
    shares[rest] += 1
    return shares


# For the trainings of an experiment

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
