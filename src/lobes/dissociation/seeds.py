"""Statistics over training seeds: intervals, paired differences, and the summaries of a study.

A seed is one whole training, so these intervals hold what the bootstrap over examples cannot:
how much another training would differ. Two methods that ran with the same seeds are compared
seed by seed. Definitions: docs/method.md#differences-over-seeds. NumPy and SciPy only.

An undefined score is NaN and makes everything computed from it NaN: leaving out the seed in which
a method failed would flatter the method. In the summaries, which go into JSON, NaN is None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from lobes.dissociation.dscores import mean_where, shared_tasks
from lobes.dissociation.statistics import TIE, holm
from lobes.errors import ConfigError

# Which methods are compared, where both were run: (first, second), the difference first − second.
COMPARED_METHODS = (("iat", "multi"), ("multi", "single"), ("iat", "single"))
COMPARED_STARTS = (("iat", "multi"), ("multi", "pretrained"), ("iat", "pretrained"))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, the interval [low, high] around it, and for a difference its p-value.

    NaN stands for what is undefined; `p` is None where nothing is tested.
    """

    mean: float
    low: float
    high: float
    p: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Return `{"mean", "low", "high"}` and, if something is tested, `"p"`; None for NaN."""
        fields = {"mean": self.mean, "low": self.low, "high": self.high}
        if self.p is not None:
            fields["p"] = self.p
        return {name: _defined(value) for name, value in fields.items()}


def mean_interval(values: Float[np.ndarray, " seeds"], level: float = 0.95) -> Estimate:
    """Return the mean over seeds with Student's t interval; one seed alone has no interval (NaN).

    Raises `ConfigError` without any seed, or for a level that is not between 0 and 1.
    """
    if not values.size:
        raise ConfigError("A mean over seeds needs at least one seed: none was given.")
    if not 0 < level < 1:
        raise ConfigError(f"The level of an interval lies between 0 and 1, not at {level:g}.")
    mean = float(values.mean())
    if values.size == 1:
        return Estimate(mean, math.nan, math.nan)
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    reach = float(stats.t.ppf((1 + level) / 2, values.size - 1)) * error
    return Estimate(mean, mean - reach, mean + reach)


def paired_difference(
    first: Float[np.ndarray, " seeds"], second: Float[np.ndarray, " seeds"], level: float = 0.95
) -> Estimate:
    """Return the mean of first − second over seeds, its t interval and two-sided paired p.

    With one seed neither interval nor p exist (both NaN). Where all differences are equal, up to
    rounding, the t-test divides by 0: the interval is then that one point, p is 1 for differences
    of 0, and otherwise 2 / 2ⁿ, what the sign test gives when all n seeds agree. This is larger than
    the 0 that the t-test tends to: a few scores that happen to be equal are no proof.

    Raises `ConfigError` as `mean_interval` does.
    """
    differences = first - second
    found = mean_interval(differences, level)
    if differences.size == 1 or math.isnan(found.mean):
        return Estimate(found.mean, found.low, found.high, math.nan)
    if np.ptp(differences) <= TIE:
        nothing = abs(found.mean) <= TIE
        point = 0.0 if nothing else found.mean
        return Estimate(point, point, point, 1.0 if nothing else 2 / 2**differences.size)
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Estimate(found.mean, found.low, found.high, p)


def summarize_comparison(
    scores: Mapping[str, Float[np.ndarray, "_ _"]],
    seconds: Mapping[str, Float[np.ndarray, " _"]],
    d_scores: Sequence[Mapping[str, Any]] = (),
    level: float = 0.95,
) -> dict[str, Any]:
    """Return the `summary` of a `comparison.json`.

    `scores` are {method: [seeds, tasks]}, `seconds` {method: [seeds]}, `d_scores` the entries of
    the same name in `comparison.json`: fraction, definition, and [seeds, tasks] for "multi" and
    for "iat". Differences are first − second, paired by seed; p is corrected over the tasks (Holm).
    """
    return {
        "methods": {
            method: {
                **_estimates(values, values.mean(axis=1), level),
                "seconds": mean_interval(seconds[method], level).to_dict(),
            }
            for method, values in scores.items()
        },
        "differences": [
            {"first": first, "second": second} | _differences(scores[first], scores[second], level)
            for first, second in COMPARED_METHODS
            if first in scores and second in scores
        ],
        "d_scores": [_d_score_summary(entry, level) for entry in d_scores],
    }


def summarize_transfer(
    scores: Mapping[str, Float[np.ndarray, "_ _"]], level: float = 0.95
) -> dict[str, Any]:
    """Return the `summary` of a `transfer.json`; `scores` are {start: [seeds, fractions]}.

    Differences are first − second, paired by seed; p is corrected over the fractions (Holm).
    """
    return {
        "starts": {start: _each(values, level) for start, values in scores.items()},
        "differences": [
            {
                "first": first,
                "second": second,
                "fractions": _each_difference(scores[first], scores[second], level),
            }
            for first, second in COMPARED_STARTS
            if first in scores and second in scores
        ],
    }


def _d_score_summary(entry: Mapping[str, Any], level: float) -> dict[str, Any]:
    """One definition at one fraction.

    As in a study of one model, the mean over tasks leaves out a task without a D-score: here one
    that has none in some seed of either method, so that the same tasks stand on both sides.
    """
    multi, iat = (np.array(entry[method], dtype=np.float64) for method in ("multi", "iat"))
    defined = shared_tasks(multi, iat)
    means = [mean_where(defined, values) for values in (multi, iat)]
    return {
        "fraction": entry["fraction"],
        "definition": entry["definition"],
        "multi": _estimates(multi, means[0], level),
        "iat": _estimates(iat, means[1], level),
        "difference": {
            "tasks": _each_difference(iat, multi, level),
            "mean": paired_difference(means[1], means[0], level).to_dict(),
        },
    }


def _estimates(
    values: Float[np.ndarray, "seeds tasks"], means: Float[np.ndarray, " seeds"], level: float
) -> dict[str, Any]:
    """Each task's estimate, and that of the `means` over tasks."""
    return {"tasks": _each(values, level), "mean": mean_interval(means, level).to_dict()}


def _differences(
    first: Float[np.ndarray, "seeds tasks"], second: Float[np.ndarray, "seeds tasks"], level: float
) -> dict[str, Any]:
    means = paired_difference(first.mean(axis=1), second.mean(axis=1), level)
    return {"tasks": _each_difference(first, second, level), "mean": means.to_dict()}


def _each(values: Float[np.ndarray, "seeds columns"], level: float) -> list[dict[str, Any]]:
    return [mean_interval(column, level).to_dict() for column in values.T]


def _each_difference(
    first: Float[np.ndarray, "seeds columns"],
    second: Float[np.ndarray, "seeds columns"],
    level: float,
) -> list[dict[str, Any]]:
    """The paired difference in each column, p also corrected for the number of columns."""
    found = [paired_difference(a, b, level) for a, b in zip(first.T, second.T, strict=True)]
    corrected = holm(np.array([each.p for each in found], dtype=np.float64))
    return [
        {**each.to_dict(), "p_holm": _defined(p)} for each, p in zip(found, corrected, strict=True)
    ]


def _defined(value: float) -> float | None:
    """A plain float for JSON; None for NaN."""
    return None if math.isnan(value) else float(value)
