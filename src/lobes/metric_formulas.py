"""The formulas of lobes' own metrics, with their chance levels and scalings.

A bootstrap resample of n examples is a vector of n multiplicities, so a metric of many
predictions under many resamples is a few matrix products over weights instead of a loop over
copies. What each metric means, and what is undefined: `metrics.py`. NumPy only.
"""

from collections.abc import Iterator
from math import nan

import numpy as np
from jaxtyping import Bool, Float, Num

from lobes.errors import DataError

Labels = Num[np.ndarray, "examples *classes"]
Predictions = Num[np.ndarray, "rows examples *classes"]
Weights = Num[np.ndarray, "resamples examples"]
Values = Float[np.ndarray, "rows resamples"]

# Below this share of its second moment a variance is rounding error: the values are constant.
_CONSTANT = 1e-12
# Elements of a temporary array: 16 MiB of float64.
_BLOCK = 2_000_000


def blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Yield slices over `n_rows` rows of `width` numbers that fit a temporary array."""
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def exact(labels: Labels, predictions: Predictions) -> Bool[np.ndarray, "rows examples"]:
    """Return which examples have the right class, or exactly the right labels."""
    return (predictions == labels).reshape(*predictions.shape[:2], -1).all(axis=-1)


def accuracy(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """Return the share of examples whose class is right; of several labels, all of them."""
    return exact(labels, predictions) @ weights.T / weights.sum(axis=1)


def f1(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """Return 2 TP / (2 TP + FP + FN) of class 1; 0 where it neither occurs nor is given."""
    _check_binary(labels)
    _check_binary(predictions)
    hits = ((predictions == 1) & (labels == 1)) @ weights.T
    either = (predictions == 1) @ weights.T + weights @ (labels == 1)
    return _ratio(2 * hits, either)


def f1_micro(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """Return 2 ΣTP / (2 ΣTP + ΣFP + ΣFN) over all labels; of one class each, the accuracy."""
    if labels.ndim == 1:
        return accuracy(labels, predictions, weights)
    hits = ((predictions == 1) & (labels == 1)).sum(axis=2) @ weights.T
    either = (predictions == 1).sum(axis=2) @ weights.T + weights @ (labels == 1).sum(axis=1)
    return _ratio(2 * hits, either)


def f1_macro(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """Return the mean over the classes of each one's F1.

    As in scikit-learn, classes that neither occur nor are predicted are left out where each
    example has one class, and count 0 where it may have several.
    """
    one_each = labels.ndim == 1
    classes = np.union1d(labels, predictions) if one_each else np.arange(labels.shape[1])
    total = number = np.zeros((len(predictions), len(weights)))
    for category in classes:
        true = labels == category if one_each else labels[:, category] == 1
        guessed = predictions == category if one_each else predictions[:, :, category] == 1
        either = guessed @ weights.T + weights @ true
        total = total + _ratio(2 * ((guessed & true) @ weights.T), either)
        number = number + (either > 0 if one_each else 1)
    return total / number


def _ratio(above: Values, below: Values) -> Values:
    """The quotient, and 0 where the denominator is 0."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _check_binary(classes: Num[np.ndarray, "..."]) -> None:
    wrong = classes[(classes != 0) & (classes != 1)]
    if wrong.size:
        raise DataError(
            f"f1 needs two classes, 0 and 1 (1 is the positive one), and met class {wrong[0]}. "
            f"For more classes use f1_macro, accuracy or matthews."
        )


def matthews(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """Return the Matthews correlation, for more than two classes R_K (Gorodkin 2004).

    The correlation of the one-hot labels with the one-hot predictions, from the counts of every
    class; 0 where the labels or the predictions are all of one class.
    """
    total = weights.sum(axis=1)
    product = guessed_square = true_square = np.zeros((len(predictions), len(weights)))
    for category in np.union1d(labels, predictions):
        guessed = (predictions == category) @ weights.T
        true = weights @ (labels == category)
        product = product + guessed * true
        guessed_square = guessed_square + guessed**2
        true_square = true_square + true**2
    covariance = (predictions == labels) @ weights.T * total - product
    spread = (total**2 - guessed_square) * (total**2 - true_square)
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0)))


def pearson(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """Return the product-moment correlation, through weighted first and second moments."""
    share = (weights / weights.sum(axis=1, keepdims=True)).T
    x, y = _standardized(labels[None]), _standardized(predictions)
    covariance = (x * y) @ share - (x @ share) * (y @ share)
    correlation = covariance / np.sqrt(_variance(x, share) * _variance(y, share))
    return np.clip(correlation, -1.0, 1.0)


def _standardized(values: Predictions) -> Float[np.ndarray, "rows examples"]:
    """Each row moved to mean 0 and scaled to at most 1: the moments then lose no digits.

    The first value is subtracted before the mean, so that a constant row becomes exactly 0.
    """
    moved = values - values[:, :1].astype(np.float64)
    moved -= moved.mean(axis=1, keepdims=True)
    largest = np.abs(moved).max(axis=1, keepdims=True)
    return moved / np.where(largest > 0, largest, 1.0)


def _variance(
    values: Float[np.ndarray, "rows examples"], share: Float[np.ndarray, "examples resamples"]
) -> Values:
    """The weighted variance of each row; NaN where it is rounding error of a constant."""
    second = values**2 @ share
    variance = second - (values @ share) ** 2
    return np.where(variance > _CONSTANT * second, variance, np.nan)


def spearman(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """Return the Pearson correlation of average ranks, the ranks taken within each resample.

    Ranks of repeated and tied examples are averaged over their multiplicities, so the value is
    that of the sample written out, not an approximation by the ranks of the original sample.
    """
    parts = [
        _spearman_block(labels, predictions, weights[block])
        for block in blocks(len(weights), labels.size)
    ]
    return np.concatenate(parts, axis=1)


def _spearman_block(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    x = _centered_ranks(labels, weights)
    weighted_x = weights * x
    x_square = np.einsum("be,be->b", weighted_x, x)
    values = np.empty((len(predictions), len(weights)))
    for row, prediction in enumerate(predictions):
        y = _centered_ranks(prediction, weights)
        y_square = np.einsum("be,be,be->b", weights, y, y)
        values[row] = np.einsum("be,be->b", weighted_x, y) / np.sqrt(x_square * y_square)
    return np.clip(values, -1.0, 1.0)


def _centered_ranks(values: Labels, weights: Weights) -> Float[np.ndarray, "resamples examples"]:
    """Average ranks of `values` with multiplicities `weights`, less their mean.

    With W(<v) the weight below a value and W(v) its own, the average rank is W(<v) + W(v)/2 + 1/2
    and the mean rank (W + 1)/2. Multiples of 1/2 throughout: a constant gives exactly 0.
    """
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    own = np.add.reduceat(weights[:, order], starts, axis=1)
    up_to = np.cumsum(own, axis=1)
    return (up_to - own / 2 - up_to[:, -1:] / 2)[:, group]


def as_given(values: Labels) -> Labels:
    """Return the values as they are."""
    return values


def standard_scores(values: Labels) -> Labels:
    """Return the values moved to mean 0 and scaled to deviation 1; zeros for a constant."""
    moved = _standardized(values[None])[0]
    deviation = moved.std()
    return moved / deviation if deviation else moved


def average_ranks(values: Labels) -> Labels:
    """Return the ranks of the values, ties averaged, less their mean."""
    return _centered_ranks(values, np.ones((1, values.size)))[0]


def largest_share(labels: Labels) -> float:
    """Return the share of the most frequent class, or set of labels."""
    return float(np.unique(labels, axis=0, return_counts=True)[1].max() / len(labels))


def always_positive(labels: Labels) -> float:
    """Return F1 where every answer is class 1."""
    _check_binary(labels)
    share = float(np.mean(labels == 1))
    return 2 * share / (1 + share)


def best_micro(labels: Labels) -> float:
    """Return the best micro F1 of the same answer for all examples."""
    if labels.ndim == 1:
        return largest_share(labels)
    shares = np.sort((labels == 1).mean(axis=0))[::-1]
    given = np.arange(1, len(shares) + 1)  # the k most frequent labels
    return float(np.max(2 * np.cumsum(shares) / (given + shares.sum())))


def best_macro(labels: Labels) -> float:
    """Return macro F1 of guessing each class in its share; of giving all of several labels."""
    if labels.ndim == 1:
        return 1 / len(np.unique(labels))
    shares = (labels == 1).mean(axis=0)
    return float(np.mean(2 * shares / (1 + shares)))


def mean(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """Return the mean of the predictions, each example's own score; labels are not read."""
    return predictions @ weights.T / weights.sum(axis=1)


def zero(labels: Labels) -> float:
    """Return 0, what guessing brings a correlation to."""
    return 0.0


def no_level(labels: Labels) -> float:
    """Return NaN: a mean of losses or scores has no chance level."""
    return nan
