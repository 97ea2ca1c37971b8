"""Task metrics: what they measure, their range and chance level, and a fast weighted form.

`Metric.weighted` scores many predictions under many bootstrap resamples (`metric_formulas.py`), and
`Metric.__call__` is its special case with all weights 1: a metric has one definition. NumPy only.

Labels are [examples]: class indices, or real numbers for a regression. Of a task with several
labels for one example they are [examples, classes], 0 or 1 for each.

Undefined values never warn. Every metric is NaN without examples, and a correlation with a
constant is NaN; F1 and Matthews are 0 where their denominator is 0 (one class only), as in
scikit-learn. A row of predictions that holds NaN or infinity has the value NaN.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from math import inf, isfinite, isnan, sqrt
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Num

from lobes import metric_formulas as formulas
from lobes.errors import ConfigError, DataError, first_line
from lobes.metric_formulas import Labels, Predictions, Values, Weights

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


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of predictions against labels.

    `low` and `high` bound its values, of which more is better. Classification metrics read class
    indices, regression metrics real numbers; those that are `for_multi_label` also read 0 or 1 for
    each class, [examples, classes]. A metric without bounds (`is_unbounded`) has no chance level
    and no zero: its D-scores are in units of the spread of the examples' values.
    """

    name: str
    low: float
    high: float
    formula: Callable[[Labels, Predictions, Weights], Values] = field(repr=False)
    chance_level: Callable[[Labels], float] = field(repr=False)
    scaling: Callable[[Labels], Labels] = field(default=formulas.as_given, repr=False)
    for_regression: bool = False
    for_multi_label: bool = False
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

        It is near chance within a tenth of the way from chance to perfect, or within two standard
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


def is_metric(name: str) -> bool:
    """Return whether `name` is among `metric_names()`; packages are asked last."""
    return name in METRICS or name in metric_names()


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


def _shown(array: np.ndarray) -> str:
    return str(array.size if array.ndim == 1 else list(array.shape))


def _by_name(*metrics: Metric) -> Mapping[str, Metric]:
    return MappingProxyType({metric.name: metric for metric in metrics})


METRICS = _by_name(
    Metric("accuracy", 0.0, 1.0, formulas.accuracy, formulas.largest_share, for_multi_label=True),
    Metric("f1", 0.0, 1.0, formulas.f1, formulas.always_positive),
    Metric("f1_micro", 0.0, 1.0, formulas.f1_micro, formulas.best_micro, for_multi_label=True),
    Metric("f1_macro", 0.0, 1.0, formulas.f1_macro, formulas.best_macro, for_multi_label=True),
    # Accuracy where no guess is right by chance: whether greedy decoding gives a text.
    Metric("greedy", 0.0, 1.0, formulas.accuracy, formulas.zero),
    Metric("matthews", -1.0, 1.0, formulas.matthews, formulas.zero),
    Metric(
        "spearman",
        -1.0,
        1.0,
        formulas.spearman,
        formulas.zero,
        formulas.average_ranks,
        for_regression=True,
    ),
    Metric(
        "pearson",
        -1.0,
        1.0,
        formulas.pearson,
        formulas.zero,
        formulas.standard_scores,
        for_regression=True,
    ),
)

# Those that users have declared in this process, by name: `custom_metrics.py`.
DECLARED: dict[str, Metric] = {}

# Means of numbers that the examples have themselves: of a loss or a score of a `lobes.BatchTask`, a
# loss negated as in scikit-learn's "neg_…" metrics, so that more is better of every metric; and of
# values from 0 to 1 of generated texts (`lobes.harness_task`).
MEANS = _by_name(
    Metric("neg_mean_loss", -inf, inf, formulas.mean, formulas.no_level, for_regression=True),
    Metric("mean_score", -inf, inf, formulas.mean, formulas.no_level, for_regression=True),
    Metric("generated", 0.0, 1.0, formulas.mean, formulas.zero, for_regression=True),
)
