"""Parts of a split, drawn at random: what is held out for validation, and samples of a size."""

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
