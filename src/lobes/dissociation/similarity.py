"""Similarity of tasks, and whether less similar tasks dissociate more.

Definitions: docs/method.md#task-similarity.

Four measures of two tasks: the rank correlation of their importance maps, the overlap of their
most important heads, the cosine of their gradients, and linear CKA (Kornblith et al. 2019) of what
the encoder makes of the same texts under the two tasks' lesions. The last two need the model:
`lobes.measure.similarity` measures them. NumPy and SciPy only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from lobes.dissociation.dscores import column
from lobes.dissociation.matrix import LesionMatrix
from lobes.dissociation.over_runs import estimate_over_runs, seeds_of_runs
from lobes.dissociation.statistics import TIE, holm, percentile_interval
from lobes.heads import HeadSet
from lobes.scores import HeadScores

# With fewer tasks there are so few pairs that no correlation over them says anything.
LEAST_TASKS = 4
# Up to so many tasks all orders are tried, 5,040 of them; beyond, as many at random.
MOST_FOR_ALL_ORDERS = 7

Table = Float[np.ndarray, "tasks tasks"]


def importance_correlation(scores: Sequence[HeadScores]) -> Table:
    """Return Spearman's correlation of every two tasks' importance; NaN if one is constant."""
    known = ~np.isnan(scores[0].values)
    ranks = np.array([stats.rankdata(one.values[known]) for one in scores])
    moved = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((moved**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(moved @ moved.T / np.outer(norms, norms), -1.0, 1.0)


def corrected_for_noise(correlations: Table, reliabilities: Sequence[float]) -> Table:
    """Return ρ_ij / √(r_i r_j) within ±1: the correlation of importance without its noise.

    `reliabilities` are the tasks' `HeadScores.reliability`. NaN where one is not above 0; the
    correlations as they are where one is unknown (NaN).
    """
    reliable = np.array(reliabilities, dtype=np.float64)
    if np.isnan(reliable).any():
        return correlations
    roots = np.sqrt(np.where(reliable > 0, reliable, np.nan))
    corrected = np.clip(correlations / np.outer(roots, roots), -1.0, 1.0)
    np.fill_diagonal(corrected, np.diagonal(correlations))
    return corrected


def shared_heads(lesions: Sequence[HeadSet]) -> Int[np.ndarray, "tasks tasks"]:
    """Return how many heads every two sets share; the diagonal says how many each has."""
    heads = {head: place for place, head in enumerate({h for lesion in lesions for h in lesion})}
    held = np.zeros((len(lesions), len(heads)))
    for row, lesion in zip(held, lesions, strict=True):
        row[[heads[head] for head in lesion]] = 1
    return (held @ held.T).astype(np.int64)  # as floats: much faster than a product of integers


def overlap(lesions: Sequence[HeadSet]) -> Table:
    """Return the Jaccard index |A ∩ B| / |A ∪ B| of every two sets; NaN for two empty ones."""
    shared = shared_heads(lesions)
    sizes = np.diagonal(shared)
    with np.errstate(invalid="ignore"):
        return shared / (sizes[:, None] + sizes - shared)


def overlap_by_chance(n_heads: int, total: int) -> float:
    """Return the overlap of two random sets of `n_heads` of `total` heads.

    They share n²/N heads on average, of 2n − n²/N in either.
    """
    share = n_heads / total
    return share / (2 - share)


def mean_overlap(groups: Sequence[Sequence[HeadSet]]) -> float:
    """The mean Jaccard index of every two sets of the same group; NaN where there are no two."""
    tables = [overlap(group) for group in groups]
    values = np.concatenate([table[np.triu_indices(len(table), 1)] for table in tables])
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else math.nan


def linear_cka(
    first: Float[np.ndarray, "examples _"], second: Float[np.ndarray, "examples _"]
) -> float:
    """Return linear CKA, ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centered X and Y (Kornblith et al. 2019).

    The same whatever rotation or scale either has; NaN where one is constant.
    """
    x = (first - first.mean(axis=0)).astype(np.float64)
    y = (second - second.mean(axis=0)).astype(np.float64)
    below = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return float(np.linalg.norm(y.T @ x) ** 2 / below) if below else math.nan


def pair_d_scores(
    matrix: Float[np.ndarray, "*batch tasks tasks"], base: Float[np.ndarray, "*batch tasks"]
) -> Float[np.ndarray, "*batch tasks tasks"]:
    """Return the mean `column` D-score of every two tasks alone, in percent; NaN on the diagonal.

    For tasks i and j: the mean of 100 · (M[j][i] − M[i][i]) / B[i] and of the same with i and j
    exchanged.
    """
    n_tasks = matrix.shape[-1]
    found = np.full(matrix.shape, np.nan)
    for i, j in combinations(range(n_tasks), 2):
        both = [i, j]
        value = column(matrix[..., both, :][..., both], base[..., both]).mean(axis=-1)
        found[..., i, j] = found[..., j, i] = value
    return found


@dataclass(frozen=True, slots=True)
class SimilarityTrend:
    """How a measure of similarity goes with the D-scores of pairs of tasks.

    `correlation` is Spearman's over the pairs, negative where less alike tasks dissociate more,
    with its `interval` under resampled examples; `p` is one-sided, for a negative correlation, by
    exchanging tasks (Mantel 1967), `p_holm` the same corrected for the number of measures that are
    defined. All NaN where `note` says why.
    """

    measure: str
    correlation: float
    interval: tuple[float, float]
    p: float
    note: str | None = None
    p_holm: float = math.nan


def similarity_trend(
    measure: str,
    similarity: Table,
    observed: Table,
    resampled: Float[np.ndarray, "resamples tasks tasks"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> SimilarityTrend:
    """Return the correlation of a similarity with the D-scores `observed` of pairs of tasks.

    `resampled` are the D-scores on resampled examples: how sure the correlation is for these
    tasks. Pairs that share a task are not independent, so p comes from exchanging tasks: of all
    n! ways to say which task is which (of 5,040 at random with more than 7 tasks), the share with
    a correlation as low as this.
    """
    note = _undefined(measure, similarity, observed)
    if note:
        return SimilarityTrend(measure, math.nan, (math.nan, math.nan), math.nan, note)
    correlation = float(_over_pairs(similarity, observed))
    drawn = _over_pairs(similarity, resampled)[:, None]
    low, high = percentile_interval(drawn, level)[0] if len(drawn) else (math.nan, math.nan)
    p = _by_exchanging([similarity], [observed], correlation, seed)
    return SimilarityTrend(measure, correlation, (float(low), float(high)), p)


def _undefined(measure: str, similarity: Table, observed: Table) -> str:
    """Why there is no correlation; empty where there is one."""
    n_tasks = len(similarity)
    above = np.triu_indices(n_tasks, 1)
    if n_tasks < LEAST_TASKS:
        return (
            f"{n_tasks} tasks make {len(above[0])} pair{'s' * (n_tasks > 2)}, too few for a "
            f"correlation: it takes {LEAST_TASKS} tasks or more."
        )
    alike, apart = similarity[above], observed[above]
    if np.isnan(alike).any() or np.isnan(apart).any():
        lacking = "D-score" if np.isnan(apart).any() else f"value of {measure}"
        return f"Some pair of tasks has no {lacking}."
    if np.ptp(alike) <= TIE or np.ptp(apart) <= TIE:
        return "All pairs of tasks have the same value."
    return ""


def _over_pairs(
    similarity: Table, d_scores: Float[np.ndarray, "*batch tasks tasks"]
) -> Float[np.ndarray, "*batch"]:
    """Spearman's correlation over the pairs of tasks; NaN where one is NaN, or all are equal."""
    rows, columns = np.triu_indices(len(similarity), 1)
    alike = stats.rankdata(similarity[rows, columns])
    apart = stats.rankdata(d_scores[..., rows, columns], axis=-1)
    alike, apart = (each - each.mean(axis=-1, keepdims=True) for each in (alike, apart))
    with np.errstate(invalid="ignore"):
        return np.asarray(apart @ alike / np.sqrt((alike**2).sum() * (apart**2).sum(axis=-1)))


def _by_exchanging(
    similarities: Sequence[Table], observed: Sequence[Table], correlation: float, seed: int
) -> float:
    """The share of ways to say which task is which with a mean correlation as low as this."""
    orders = _orders(len(observed[0]), seed)
    exchanged = [
        _over_pairs(scores, np.array([table[np.ix_(order, order)] for order in orders]))
        for table, scores in zip(similarities, observed, strict=True)
    ]
    return float((np.mean(exchanged, axis=0) <= correlation + TIE).mean())


def trends(
    matrix: LesionMatrix,
    measures: Mapping[str, Table],
    fraction: float | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Table, list[SimilarityTrend]]:
    """Return the D-scores of all pairs of tasks at one fraction, and the trend of each measure.

    p is corrected for the number of measures (Holm).
    """
    chosen = matrix.fraction_of(fraction)
    observed = pair_d_scores(matrix.oriented(matrix.scores(chosen)), matrix.divisors(level))
    divisors, scores = matrix.drawn(chosen, resamples, seed, level)
    drawn = pair_d_scores(scores, divisors)
    found = [
        similarity_trend(name, table, observed, drawn, level=level, seed=seed)
        for name, table in measures.items()
    ]
    return observed, _corrected(found)


def trends_over_runs(
    matrices: Sequence[LesionMatrix],
    measures: Sequence[Mapping[str, Table]],
    fraction: float,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[list[Table], dict[str, np.ndarray], list[SimilarityTrend]]:
    """Return each run's D-scores of all pairs of tasks, its correlations, and the mean trends.

    `measures` are each run's, of the same names. The correlation is the mean over the runs, with
    an interval over runs and examples as D-scores have (`over_runs`); none for one run. For p the
    tasks are exchanged in all runs alike. Where a run has no correlation, there is none.
    """
    observed, drawn = [], []
    for number, matrix in enumerate(matrices):
        oriented = matrix.oriented(matrix.scores(fraction))
        observed.append(pair_d_scores(oriented, matrix.divisors(level)))
        seeds = seeds_of_runs(matrices, number, seed)
        divisors, scores = matrix.drawn(fraction, resamples, seeds, level)
        drawn.append(pair_d_scores(scores, divisors))
    correlations, found = {}, []
    for name in measures[0]:
        tables = [each[name] for each in measures]
        notes = [_undefined(name, *both) for both in zip(tables, observed, strict=True)]
        note = next(filter(None, notes), "")
        if note:
            correlations[name] = np.full(len(matrices), math.nan)
            undefined = (math.nan, math.nan)
            found.append(SimilarityTrend(name, math.nan, undefined, math.nan, note))
            continue
        own = np.array([_over_pairs(*both) for both in zip(tables, observed, strict=True)])
        some = np.array([_over_pairs(*both) for both in zip(tables, drawn, strict=True)])
        mean = estimate_over_runs(own, some, level)
        p = _by_exchanging(tables, observed, mean.mean, seed)
        correlations[name] = own
        low, high = np.clip([mean.low, mean.high], -1, 1).tolist()
        found.append(SimilarityTrend(name, mean.mean, (low, high), p))
    return observed, correlations, _corrected(found)


def _corrected(found: Sequence[SimilarityTrend]) -> list[SimilarityTrend]:
    """The trends with p corrected for the number of measures that are defined (Holm)."""
    p_values = np.array([trend.p for trend in found])
    tested = np.isfinite(p_values)
    corrected = np.full(len(found), math.nan)
    corrected[tested] = holm(p_values[tested])
    return [replace(trend, p_holm=float(p)) for trend, p in zip(found, corrected, strict=True)]


def _orders(n_tasks: int, seed: int) -> list[tuple[int, ...]]:
    """Ways to say which task is which, the true one first."""
    if n_tasks <= MOST_FOR_ALL_ORDERS:
        return list(permutations(range(n_tasks)))
    generator = np.random.default_rng(seed)
    number = math.factorial(MOST_FOR_ALL_ORDERS) - 1
    drawn = [tuple(generator.permutation(n_tasks).tolist()) for _ in range(number)]
    return [tuple(range(n_tasks)), *drawn]
