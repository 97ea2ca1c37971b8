"""Task metrics: what they measure, their range and chance level, and a fast weighted form.

A bootstrap resample of n examples is a vector of n multiplicities, so a metric of many
predictions under many resamples is a few matrix products over weights instead of a loop over
copies. `Metric.weighted` is that form and `Metric.__call__` is its special case with all weights
1: a metric has one definition. NumPy only.

Labels are [examples]: class indices, or real numbers for a regression. Of a task with several
labels for one example they are [examples, classes], 0 or 1 for each.

Undefined values never warn. Every metric is NaN without examples, and a correlation with a
constant is NaN; F1 and Matthews are 0 where their denominator is 0 (one class only), as in
scikit-learn. A row of predictions that holds NaN or infinity has the value NaN.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from math import inf, isfinite, isnan, nan, sqrt
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Num

from lobes.errors import ConfigError, DataError, first_line

Labels = Num[np.ndarray, "examples *classes"]
Predictions = Num[np.ndarray, "rows examples *classes"]
Weights = Num[np.ndarray, "resamples examples"]
Values = Float[np.ndarray, "rows resamples"]

# Where a score lies: clearly above chance, not told from chance, or clearly below it.
Standing = Literal["above", "near", "below"]

# The entry points under which packages declare metrics of their own.
GROUP = "lobes.metrics"
OF_ONES_OWN = (
    "One of your own is declared by lobes.custom_metric in the same program, or by an installed "
    "package (docs/method.md#metrics-of-your-own)."
)

# A score below this share of its metric's range is never divided by.
NEAR_ZERO = 0.05
# A score this share of the way from chance to perfect, or less, is near chance.
NEAR_CHANCE = 0.1
# Below this share of its second moment a variance is rounding error: the values are constant.
_CONSTANT = 1e-12
# Elements of a temporary array: 16 MiB of float64.
_BLOCK = 2_000_000


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of predictions against labels.

    `low` and `high` bound its values. `ratio_safe` is False where chance alone can bring it to 0
    or below (the correlations): a ratio to such a score needs care (docs/method.md#d-scores).
    Classification metrics read class indices, regression metrics real numbers; those that are
    `for_multi_label` also read 0 or 1 for each class, [examples, classes]. A metric without bounds
    (`is_unbounded`) has no chance level and no zero: its D-scores are in units of the spread of the
    examples' values.
    """

    name: str
    low: float
    high: float
    higher_is_better: bool
    for_regression: bool
    for_multi_label: bool
    ratio_safe: bool
    formula: Callable[[Labels, Predictions, Weights], Values] = field(repr=False)
    chance_level: Callable[[Labels], float] = field(repr=False)
    scaling: Callable[[Labels], Labels] = field(repr=False)
    # what tells a metric of the user's own from others of its name; "" for those of lobes
    fingerprint: str = field(default="", repr=False)

    @property
    def own_range(self) -> tuple[float, float] | None:
        """The range of a metric that the user declared (`custom_metric`); None for another."""
        return (self.low, self.high) if self.fingerprint else None

    @property
    def is_unbounded(self) -> bool:
        """Whether the metric has no range: the mean of losses or scores that a user defines."""
        return not isfinite(self.span)

    @property
    def span(self) -> float:
        """The length of the metric's range, `high - low`."""
        return self.high - self.low

    def __call__(
        self, labels: Num[np.ndarray, "*labeled"], predictions: Num[np.ndarray, "*predicted"]
    ) -> float:
        """The metric of `predictions` against `labels`, of one shape; NaN where it is undefined.

        Raises `DataError` for shapes that differ, for labels [examples, classes] where the metric
        judges one label for each example, and for `f1` with more than two classes.
        """
        if labels.shape != predictions.shape:
            raise DataError(
                f"{self.name} compares one prediction with each label, but got "
                f"{_shown(predictions)} predictions for {_shown(labels)} labels."
            )
        return float(self.weighted(labels, predictions[None], np.ones((1, len(labels))))[0, 0])

    def weighted(
        self,
        labels: Num[np.ndarray, "examples *classes"],
        predictions: Num[np.ndarray, "rows examples *classes"],
        weights: Num[np.ndarray, "resamples examples"],
    ) -> Float[np.ndarray, "rows resamples"]:
        """Return the metric of every row of predictions under every vector of multiplicities.

        With whole-number weights, `[k, b]` equals the metric of row k on the sample in which
        example e occurs `weights[b, e]` times. NaN where it is undefined. Raises `DataError` for
        labels or predictions that are not finite.
        """
        self._check_shape(labels)
        weights = np.asarray(weights, dtype=np.float64)
        self._check_finite("label", labels[None])
        self._check_finite("prediction", predictions)
        total = weights.sum(axis=1)
        if not len(predictions) or not total.any():
            return np.full((len(predictions), len(weights)), np.nan)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            values = self.formula(labels, predictions, weights)
        values[:, total == 0] = np.nan
        return values

    def chance(self, labels: Num[np.ndarray, "examples *classes"]) -> float:
        """Return the score of the best predictor that does not look at its input.

        Accuracy: the share of the most frequent class, or set of labels. F1: that of always
        answering "positive". Matthews and the correlations: 0. Micro F1: accuracy's; with several
        labels that of always giving the k most frequent ones, for the best k. Macro F1: of k
        classes 1/k, from guessing each in its share (always the same one gives less); with several
        labels that of always giving all. NaN for a metric without bounds.
        """
        self._check_shape(labels)
        return self.chance_level(labels) if labels.size else float("nan")

    def standing(self, score: float, chance: float, examples: int | float) -> Standing:
        """Return where a score on so many examples lies in relation to the chance level.

        It is near chance within a tenth of the way from chance to perfect, and within two standard
        errors of chance: √((c − low) (high − c) / n), which is √(c (1 − c) / n) for a share and
        1 / √n for a correlation, and the most that a mean of values in the range can have. An
        undefined score (NaN) is near chance, too: it shows nothing. A metric without bounds has no
        chance level, so any score is above it.
        """
        if self.is_unbounded and isfinite(score):
            return "above"
        way = self.high - chance
        if not (isfinite(score) and way > 0):
            return "near"
        error = sqrt(max((chance - self.low) * (self.high - chance), 0.0))
        noise = 2 * error / sqrt(examples) if examples > 0 else 0.0
        beyond = max(NEAR_CHANCE * way, noise)
        if score - chance < beyond:
            return "below" if chance - score >= beyond else "near"
        return "above"

    def is_divisor(self, score: float, low: float | None, zero: float = 0.0) -> bool:
        """Return whether a base score, measured from `zero`, may be divided by.

        `low` is the lower end of the score's own bootstrap interval: it must lie above `zero`, and
        the score by 5 % of the metric's range or more. `low` is None where no interval is known (in
        results of older versions); NaN, an undefined interval, allows no ratio.
        """
        far = score - zero >= NEAR_ZERO * self.span
        return bool(far and (low is None or (not isnan(low) and low > zero)))

    def on_common_scale(
        self, predictions: Num[np.ndarray, "examples *classes"]
    ) -> Num[np.ndarray, "examples *classes"]:
        """Return the predictions without what the metric ignores, so that two models' can be mixed.

        Class indices as they are; standard scores for Pearson, centered average ranks for Spearman.
        The metric is the same before and after. A constant becomes 0.
        """
        return self.scaling(predictions)

    def _check_finite(self, what: str, values: Num[np.ndarray, "rows examples *classes"]) -> None:
        finite = np.isfinite(values)
        if not finite.all():
            place = np.unravel_index(finite.argmin(), values.shape)
            raise DataError(
                f"{self.name} compares finite numbers, but the {what} of example {place[1]} is "
                f"{values[place]:g}: a model that answers so is broken, or was not run on it."
            )

    def _check_shape(self, labels: Labels) -> None:
        if labels.ndim > 1 and not self.for_multi_label:
            wanted = [metric.name for metric in METRICS.values() if metric.for_multi_label]
            raise DataError(
                f"{self.name} judges one label for each example, but got labels of the shape "
                f"{list(labels.shape)}: for several labels use {' or '.join(wanted)}."
            )


def get_metric(name: str, *, own: bool = True) -> Metric:
    """Return the metric called `name`: one of lobes, a declared one, or one of a package.

    A package's is loaded from the entry point of this name in the group `lobes.metrics`, which runs
    code of that installed package only. `own=False` knows those of lobes alone. Raises
    `ConfigError` with the known names if there is none, and where a package's cannot be loaded.
    """
    for known in (METRICS, MEANS, DECLARED if own else {}):
        if isinstance(name, str) and name in known:
            return known[name]
    for entry in entry_points(group=GROUP) if own else ():
        if entry.name == name:
            DECLARED[name] = _loaded(entry)
            return DECLARED[name]
    names = metric_names()
    near = difflib.get_close_matches(str(name), names, n=1)
    raise ConfigError(
        f"{name!r} is not a metric: choose one of {', '.join(names)}."
        + (f" Did you mean {near[0]!r}?" if near else f" {OF_ONES_OWN}")
    )


def name_of(metric: Any) -> Any:
    """Return a metric's name; `ConfigError` where another one has taken it since."""
    if not isinstance(metric, Metric):
        return metric
    if get_metric(metric.name) is not metric:
        raise ConfigError(
            f"Another metric has been declared under the name {metric.name!r} since: give the "
            f"newer one, or choose another name."
        )
    return metric.name


def metric_names() -> tuple[str, ...]:
    """Return the names that `get_metric` knows for tasks; what packages declare is not loaded."""
    packaged = sorted(entry.name for entry in entry_points(group=GROUP))
    return tuple(dict.fromkeys([*METRICS, *DECLARED, *packaged]))


def _loaded(entry: EntryPoint) -> Metric:
    place = f"The package {entry.dist.name if entry.dist else '?'} declares the metric {entry.name}"
    try:
        found = entry.load()
    except Exception as error:  # whatever the package's code raises
        raise ConfigError(
            f"{place}, which cannot be loaded from {entry.value}: {first_line(error)}."
        ) from error
    if not isinstance(found, Metric) or found.name != entry.name:
        raise ConfigError(
            f"{place}, but {entry.value} is no metric of that name: expected what "
            f"lobes.custom_metric({entry.name!r}, …) returns."
        )
    return found


def blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Yield slices over `n_rows` rows of `width` numbers that fit a temporary array."""
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def exact(labels: Labels, predictions: Predictions) -> Bool[np.ndarray, "rows examples"]:
    """Return which examples have the right class, or exactly the right labels."""
    return (predictions == labels).reshape(*predictions.shape[:2], -1).all(axis=-1)


def _shown(array: np.ndarray) -> str:
    return str(array.size if array.ndim == 1 else list(array.shape))


def _accuracy(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """The share of examples whose class is right; of several labels, all of them."""
    return exact(labels, predictions) @ weights.T / weights.sum(axis=1)


def _f1(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """2 TP / (2 TP + FP + FN) of class 1; 0 where no example has, and none is given, class 1."""
    _check_binary(labels)
    _check_binary(predictions)
    hits = ((predictions == 1) & (labels == 1)) @ weights.T
    either = (predictions == 1) @ weights.T + weights @ (labels == 1)
    return _ratio(2 * hits, either)


def _f1_micro(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """F1 of all labels together, 2 ΣTP / (2 ΣTP + ΣFP + ΣFN); of one class each, the accuracy."""
    if labels.ndim == 1:
        return _accuracy(labels, predictions, weights)
    hits = ((predictions == 1) & (labels == 1)).sum(axis=2) @ weights.T
    either = (predictions == 1).sum(axis=2) @ weights.T + weights @ (labels == 1).sum(axis=1)
    return _ratio(2 * hits, either)


def _f1_macro(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """The mean over the classes of each one's F1.

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


def _matthews(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """The Matthews correlation, for more than two classes R_K (Gorodkin 2004).

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


def _pearson(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """The product-moment correlation, through weighted first and second moments."""
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


def _spearman(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """The Pearson correlation of average ranks, the ranks taken within each resample.

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


def _as_given(values: Labels) -> Labels:
    return values


def _standard_scores(values: Labels) -> Labels:
    moved = _standardized(values[None])[0]
    deviation = moved.std()
    return moved / deviation if deviation else moved


def _average_ranks(values: Labels) -> Labels:
    return _centered_ranks(values, np.ones((1, values.size)))[0]


def _largest_share(labels: Labels) -> float:
    return float(np.unique(labels, axis=0, return_counts=True)[1].max() / len(labels))


def _always_positive(labels: Labels) -> float:
    _check_binary(labels)
    share = float(np.mean(labels == 1))
    return 2 * share / (1 + share)


def _best_micro(labels: Labels) -> float:
    if labels.ndim == 1:
        return _largest_share(labels)
    shares = np.sort((labels == 1).mean(axis=0))[::-1]
    given = np.arange(1, len(shares) + 1)  # the k most frequent labels
    return float(np.max(2 * np.cumsum(shares) / (given + shares.sum())))


def _best_macro(labels: Labels) -> float:
    if labels.ndim == 1:
        return 1 / len(np.unique(labels))
    shares = (labels == 1).mean(axis=0)
    return float(np.mean(2 * shares / (1 + shares)))


def _mean(labels: Labels, predictions: Predictions, weights: Weights) -> Values:
    """The mean of the predictions, which are each example's own score; labels are not read."""
    return predictions @ weights.T / weights.sum(axis=1)


def _zero(labels: Labels) -> float:
    return 0.0


def _no_level(labels: Labels) -> float:
    return nan


def _share(
    name: str,
    formula: Callable[[Labels, Predictions, Weights], Values],
    chance_level: Callable[[Labels], float],
    *,
    for_multi_label: bool,
) -> Metric:
    """A metric of classes from 0 to 1, which no guessing brings to 0."""
    return Metric(
        name, 0.0, 1.0, True, False, for_multi_label, True, formula, chance_level, _as_given
    )


def _correlation(
    name: str,
    formula: Callable[[Labels, Predictions, Weights], Values],
    scaling: Callable[[Labels], Labels],
    *,
    for_regression: bool,
) -> Metric:
    """A metric from -1 to 1 that is 0 by chance."""
    return Metric(name, -1.0, 1.0, True, for_regression, False, False, formula, _zero, scaling)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            _share("accuracy", _accuracy, _largest_share, for_multi_label=True),
            _share("f1", _f1, _always_positive, for_multi_label=False),
            _share("f1_micro", _f1_micro, _best_micro, for_multi_label=True),
            _share("f1_macro", _f1_macro, _best_macro, for_multi_label=True),
            # Accuracy where no guess is right by chance: whether greedy decoding gives a text.
            _share("greedy", _accuracy, _zero, for_multi_label=False),
            _correlation("matthews", _matthews, _as_given, for_regression=False),
            _correlation("spearman", _spearman, _average_ranks, for_regression=True),
            _correlation("pearson", _pearson, _standard_scores, for_regression=True),
        )
    }
)

# Those that users have declared in this process, by name: `custom_metrics.py`.
DECLARED: dict[str, Metric] = {}

# Means of numbers that the examples have themselves: of a loss or a score of a `lobes.BatchTask`, a
# loss negated as in scikit-learn's "neg_…" metrics, so that more is better of every metric; and of
# values from 0 to 1 of generated texts (`lobes.harness_task`).
MEANS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                "neg_mean_loss", -inf, inf, True, True, False, False, _mean, _no_level, _as_given
            ),
            Metric("mean_score", -inf, inf, True, True, False, False, _mean, _no_level, _as_given),
            Metric("generated", 0.0, 1.0, True, True, False, True, _mean, _zero, _as_given),
        )
    }
)
