"""Statistics over training seeds: means with intervals, and paired differences.

A seed is one whole training, so these intervals hold what the bootstrap over examples cannot:
how much another training would differ. Two methods that ran with the same seeds are compared
seed by seed. Definitions: docs/method.md#differences-over-seeds. NumPy and SciPy only.

An undefined score is NaN and makes everything computed from it NaN: leaving out the seed in which
a method failed would flatter the method.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from lobes.dissociation.statistics import TIE, holm
from lobes.dissociation.verdict import is_significant
from lobes.errors import ConfigError


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the interval [low, high] around it; NaN stands for what is undefined.

    One seed alone has no interval.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean difference between two ways to train, paired by seed, and its p (two-sided)."""

    p: float

    @property
    def is_better(self) -> bool:
        """The first way is better, at the level of the verdicts."""
        return is_significant(self.p) and self.mean > 0

    @property
    def is_worse(self) -> bool:
        """The first way is worse, at the level of the verdicts."""
        return is_significant(self.p) and self.mean < 0


@dataclass(frozen=True)
class CorrectedDifference(Difference):
    """One of several differences that are tested together: `p_holm` is p after Holm's method."""

    p_holm: float


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
) -> Difference:
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
        return Difference(found.mean, found.low, found.high, math.nan)
    if np.ptp(differences) <= TIE:
        nothing = abs(found.mean) <= TIE
        point = 0.0 if nothing else found.mean
        return Difference(point, point, point, 1.0 if nothing else 2 / 2**differences.size)
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Difference(found.mean, found.low, found.high, p)


def paired_differences(
    first: Float[np.ndarray, "seeds columns"],
    second: Float[np.ndarray, "seeds columns"],
    level: float = 0.95,
) -> tuple[CorrectedDifference, ...]:
    """Return the paired difference in each column, p also corrected for their number (Holm)."""
    found = [paired_difference(a, b, level) for a, b in zip(first.T, second.T, strict=True)]
    corrected = holm(np.array([each.p for each in found], dtype=np.float64))
    return tuple(
        CorrectedDifference(each.mean, each.low, each.high, each.p, float(p))
        for each, p in zip(found, corrected, strict=True)
    )
