"""Resampling and tests: what turns stored predictions into intervals and p-values.

General tools, with no lesion in them; `matrix.py` and `at_fraction.py` apply them. Randomness comes
in as a `Generator`. NumPy and SciPy only.
"""

import math
import zlib

import numpy as np
from jaxtyping import Float, Int, Num
from scipy import stats
from scipy.special import bdtrc

from lobes.metric_formulas import blocks, exact
from lobes.metrics import Metric

# How often a score is resampled for its own interval, whatever a D-score's resamples are.
BASE_RESAMPLES = 1000
# Scores (at most 100 in size) closer than this are a tie: they differ by rounding only.
TIE = 1e-9
# An interval leaves out resamples with an undefined score, but not more than this share of them.
UNDEFINED_SHARE = 0.05


def resample_counts(
    n_examples: int, resamples: int, generator: np.random.Generator
) -> Int[np.ndarray, "resamples examples"]:
    """Draw bootstrap resamples of `n_examples` examples, as how often each example is drawn."""
    drawn = generator.integers(n_examples, size=(resamples, n_examples))
    drawn += n_examples * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * n_examples)
    return counts.reshape(resamples, n_examples)


def p_against_controls(
    observed: Float[np.ndarray, " scores"], controls: Float[np.ndarray, "replicates scores"]
) -> Float[np.ndarray, " scores"]:
    """Return the one-sided p (1 + #{control ≥ observed}) / (1 + R); NaN without controls.

    A tie counts against the observation, and so does a control that is undefined.
    """
    if not len(controls):
        return np.full(observed.shape, np.nan)
    reached = ~(controls < observed - TIE)
    return np.where(np.isnan(observed), np.nan, (1 + reached.sum(axis=0)) / (1 + len(controls)))


def p_over_fractions(
    observed: Float[np.ndarray, " fractions"], replicates: Float[np.ndarray, "replicates fractions"]
) -> float:
    """Return one p for scores at several fractions; NaN without a defined score or a replicate.

    Each fraction is standardized by the mean and the standard deviation of the observation *and*
    its replicates, and p compares the largest over the fractions with that of each replicate, whose
    fractions must have been replicated together. The observation is thus treated as one more
    replicate, and p is exact; standardized by the replicates alone it is too small (with 19 of them
    p ≤ 0.05 in 6 to 8 % of the studies without an effect). To leave each score out of its own
    standardization gives the same p. A fraction counts unless its observation is undefined; an
    undefined replicate counts against.
    """
    known = np.isfinite(observed)
    if not known.any() or not len(replicates):
        return math.nan
    moved = _moved(observed[known], replicates[:, known])
    largest = np.where(np.isnan(moved), np.inf, moved).max(axis=1)
    return float(p_against_controls(largest[:1], largest[1:, None])[0])


def standing_out(
    observed: Float[np.ndarray, " fractions"], replicates: Float[np.ndarray, "replicates fractions"]
) -> Float[np.ndarray, " fractions"]:
    """Return how far the score at each fraction stands out, as `p_over_fractions` compares it.

    Its largest is the one that p is of. NaN for an undefined score, without replicates, and where
    all replicates are like the observation.
    """
    found = np.full(observed.shape, np.nan)
    known = np.isfinite(observed)
    if known.any() and len(replicates):
        scores = np.concatenate([observed[None], replicates])[:, known]
        moved = _moved(observed[known], replicates[:, known])[0]
        found[known] = np.where(np.nanstd(scores, axis=0) > TIE, moved, np.nan)
    return found


def _moved(
    observed: Float[np.ndarray, " fractions"], replicates: Float[np.ndarray, "replicates fractions"]
) -> Float[np.ndarray, "rows fractions"]:
    """The observation and its replicates, each fraction standardized by all of them."""
    scores = np.concatenate([observed[None], replicates])
    deviation = np.nanstd(scores, axis=0)
    # where all replicates are the same, rounding is all that there is to standardize
    return (scores - np.nanmean(scores, axis=0)) / np.where(deviation > TIE, deviation, np.inf)


def n_reached(p: float, controls: int) -> int:
    """Return how many of so many controls reach the observed value: p = (1 + n) / (1 + controls).

    Taken back from p, so that a sentence and p agree also where values tie but for rounding; 0
    where p is undefined.
    """
    return round(p * (1 + controls)) - 1 if math.isfinite(p) else 0


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Return p-values corrected for their number (Holm 1979); NaN stays, but counts as a test."""
    known = np.where(np.isnan(p_values), 1.0, p_values)
    order = np.argsort(known, kind="stable")
    steps = known[order] * np.arange(len(known), 0, -1)
    corrected = np.empty_like(known)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return np.where(np.isnan(p_values), np.nan, corrected)


def paired_p_value(
    metric: Metric,
    labels: Num[np.ndarray, "examples *classes"],
    worse: Num[np.ndarray, "examples *classes"],
    better: Num[np.ndarray, "examples *classes"],
    *,
    draws: int,
    generator: np.random.Generator,
) -> float:
    """Return the one-sided p that `better` predicts better than `worse`; NaN if undefined.

    A randomization test: if the two lesions were the same to the task, exchanging the two
    predictions of any example would change nothing. For accuracy it is exact (of the examples
    that only one of the two gets right, a binomial share); otherwise it takes `draws` random
    exchanges and p = (1 + #{difference ≥ observed}) / (1 + draws).

    A lesion may shift or stretch a regression's outputs, which the correlations ignore but a
    mixture of two lesions' outputs would not: they are exchanged on a common scale.
    """
    if metric.name == "accuracy":
        right, other = exact(labels, np.stack([better, worse]))
        wins, losses = int(np.sum(right & ~other)), int(np.sum(other & ~right))
        return float(bdtrc(wins - 1, wins + losses, 0.5)) if wins else 1.0
    observed = metric(labels, better) - metric(labels, worse)
    if math.isnan(observed):
        return float("nan")
    worse, better = metric.on_common_scale(worse), metric.on_common_scale(better)
    # Examples with the same label and predictions are exchanged together: of so many, a binomial
    # number. Classes leave a few such kinds, whatever the number of examples.
    each = np.stack([labels, worse, better], axis=1)
    kinds, counts = np.unique(each, axis=0, return_counts=True)
    sides = kinds[:, 0].repeat(2, axis=0), kinds[:, 1:].reshape(-1, *labels.shape[1:])
    reached = 0
    for block in blocks(draws, kinds[:, 0].size * 2):
        swapped = generator.binomial(counts, 0.5, size=(block.stop - block.start, len(counts)))
        parts = np.stack([swapped, counts - swapped], axis=2).reshape(len(swapped), -1)
        rest = np.stack([counts - swapped, swapped], axis=2).reshape(len(swapped), -1)
        upper = metric.weighted(sides[0], sides[1][None], parts)
        lower = metric.weighted(sides[0], sides[1][None], rest)
        reached += int(np.sum(~(upper - lower < observed - TIE)))
    return (1 + reached) / (1 + draws)


def percentile_interval(
    samples: Float[np.ndarray, "resamples scores"], level: float
) -> Float[np.ndarray, "scores 2"]:
    """Return the central `level` of each column's resamples; NaN if too many are undefined."""
    undefined = np.isnan(samples).mean(axis=0) > UNDEFINED_SHARE
    known = np.where(undefined, 0.0, samples)
    bounds = np.nanquantile(known, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return np.where(undefined, np.nan, bounds).T


def metric_intervals(
    metric: Metric,
    labels: Num[np.ndarray, "examples *classes"],
    predictions: Num[np.ndarray, "lesions examples *classes"],
    level: float,
    generator: np.random.Generator,
) -> Float[np.ndarray, "lesions 2"]:
    """Return the bootstrap percentile interval of the score under each lesion, over the examples.

    A resample's accuracy is a binomial share, whose quantiles are exact; other metrics are
    resampled `BASE_RESAMPLES` times, with the same examples for all lesions.
    """
    if metric.name == "accuracy":
        n, scores = len(labels), np.array([metric(labels, each) for each in predictions])
        low, high = (stats.binom.ppf(end, n, scores) for end in ((1 - level) / 2, (1 + level) / 2))
        return np.stack([low, high], axis=1) / n
    samples = np.empty((BASE_RESAMPLES, len(predictions)))
    for block in blocks(BASE_RESAMPLES, labels.size):
        weights = resample_counts(len(labels), block.stop - block.start, generator)
        samples[block] = metric.weighted(labels, predictions, weights).T
    return percentile_interval(samples, level)


def named_generator(seed: int, *names: str) -> np.random.Generator:
    """Return a random stream that depends on the seed and the names only."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])
