"""D-scores over several runs of a study: other seeds, or other models, on the same tasks.

Two things vary: which run it is, and which examples it is measured on. All runs of a study share
their examples, so these vary for all at once. With D_k the score of run k of K, s² its variance
over the runs, V the variance of the mean under resampled examples (the same for all runs) and W
the part of V that differs from run to run, which s² holds already:

    variance of the mean = s² / K + max(V − W / K, 0)

The interval is the mean ± Student's t times the root of that, with the degrees of freedom of
Satterthwaite (1946): K − 1 where the runs differ most, many where the examples do. A bootstrap
that draws runs, then examples, and takes percentiles covers too little with few runs: of true
values 73 to 89 % with three, in simulations with 95 % intervals; this one 93 to 95 %
(`docs/statistics.md`). NumPy and SciPy only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from lobes.dissociation.dscores import (
    FORMULAS,
    DScore,
    DScoreName,
    mean_where,
    shared_tasks,
    standardized,
)
from lobes.dissociation.matrix import LesionMatrix
from lobes.dissociation.over_fractions import OverFractions, joined, most
from lobes.dissociation.pairs import PairEffects, doubly_dissociated, p_of_pairs, pairs_of
from lobes.dissociation.statistics import (
    UNDEFINED_SHARE,
    holm,
    p_against_controls,
    p_over_fractions,
    standing_out,
)
from lobes.dissociation.verdict import Evidence, Verdict, not_above_0, specialized, without_d_score
from lobes.errors import ConfigError
from lobes.metrics import get_metric


@dataclass(frozen=True, slots=True)
class RunsEstimate:
    """A mean over runs with its interval; NaN where it is undefined, as with one run.

    `p` is one-sided: that the mean is above 0 (Student's t with the interval's error).
    `over_runs` and `over_examples` are the two parts of the variance of the mean.
    """

    mean: float
    low: float
    high: float
    p: float
    over_runs: float
    over_examples: float


@dataclass(frozen=True, slots=True, eq=False)
class RunsDScore:
    """One definition's D-score over runs, in percent.

    `values` [runs, tasks] and `means` [runs] are the runs' own; `tasks` the estimates of each
    task and `mean` that of the model. `control_means` [replicates] are means over the runs of the
    r-th exchange of each, `compared` the same mean on their examples, and `p_controls` its p
    against them. `random_means` and `random_p` are the same of the random lesions.
    """

    name: DScoreName
    values: Float[np.ndarray, "runs tasks"]
    means: Float[np.ndarray, " runs"]
    tasks: tuple[RunsEstimate, ...]
    mean: RunsEstimate
    control_means: Float[np.ndarray, " replicates"]
    compared: float
    p_controls: float
    random_means: Float[np.ndarray, " randoms"]
    random_p: float

    @property
    def standardized(self) -> float:
        """(D − mean of the exchanges) / their standard deviation."""
        return float(standardized(np.array([self.compared]), self.control_means[:, None])[0])


@dataclass(frozen=True, slots=True)
class RunsPair:
    """Whether two tasks are doubly dissociated over the runs; effects as in `PairVerdict`.

    `p_holm` tests the effects over runs and examples; `p_controls` and `p_controls_holm` compare
    the smaller of the two with that of `controls` exchanges, all averaged over the runs.
    `above_chance` says whether the models, on average, do each clearly better than chance.
    """

    first: str
    second: str
    effects: tuple[RunsEstimate, RunsEstimate]
    p_holm: float
    p_controls: float
    p_controls_holm: float
    controls: int
    above_chance: tuple[bool, bool]

    @property
    def is_double_dissociation(self) -> bool:
        """Both effects are positive, both tests significant, and both tasks above chance."""
        means = [effect.mean for effect in self.effects]
        return doubly_dissociated(means, self.p_holm, self.p_controls_holm, self.above_chance)


@dataclass(frozen=True, slots=True, eq=False)
class RunsDissociation:
    """The D-scores of several runs at one fraction, and the verdict on each pair of tasks.

    `above_chance` says of each task whether the models, on average, do it clearly better than
    chance; `exchangeable` is the number of heads that can be exchanged, of the run with fewest.
    """

    tasks: tuple[str, ...]
    fraction: float
    row: RunsDScore
    column: RunsDScore
    relative: RunsDScore
    pairs: tuple[RunsPair, ...]
    level: float
    runs: int
    above_chance: tuple[bool, ...]
    exchangeable: int

    @property
    def specialized(self) -> Verdict:
        """The verdict on the claim that heads are specialized, by the `column` D-score."""
        return specialized(self.evidence)

    @property
    def evidence(self) -> Evidence:
        """What decides whether heads are specialized."""
        mean = self.column.mean
        return Evidence(
            mean=mean.mean,
            low=mean.low,
            high=mean.high,
            p=self.column.p_controls,
            controls=len(self.column.control_means),
            tasks=len(self.tasks),
            above_chance=sum(self.above_chance),
            exchangeable=self.exchangeable,
            runs=self.runs,
            without=not_above_0(self.tasks, [task.mean for task in self.column.tasks]),
            undefined=without_d_score(self.tasks, [task.mean for task in self.column.tasks]),
        )


def runs_over_fractions(found: Sequence[RunsDissociation]) -> OverFractions:
    """Return the test over the D-scores of several runs at all of their fractions."""
    n_controls = min(len(each.column.control_means) for each in found)
    observed = np.array([each.column.compared for each in found])
    replicates = np.array([each.column.control_means[:n_controls] for each in found]).T
    standing = standing_out(observed, replicates).tolist()
    p = p_over_fractions(observed, replicates)
    return OverFractions(
        fractions=tuple(each.fraction for each in found),
        standardized=tuple(each.column.standardized for each in found),
        p=p,
        strongest=found[most(standing)].fraction,
        evidence=joined([each.evidence for each in found], standing, p),
    )


def dissociation_over_runs(
    matrices: Sequence[LesionMatrix],
    fraction: float | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> RunsDissociation:
    """Return the D-scores of several runs on the same tasks, pooled as at the head of this file.

    A task's examples are resampled together for all runs where its labels are the same in all, and
    each run for itself elsewhere. A task without a D-score in one run has none over the runs.
    Where a run might stop at a look, only the exchanges up to there are compared, whether or not
    one did, so that p does not depend on which did.
    Raises `ConfigError` for no runs, or for runs of other tasks or without this fraction.
    """
    _check(matrices)
    tasks = matrices[0].tasks
    chosen = matrices[0].fraction_of(fraction)
    look = min((m.look for m in matrices if m.look is not None), default=None)
    observed = [m.dissociation(chosen, resamples=1, seed=seed, level=level) for m in matrices]
    drawn = [
        matrix.drawn(chosen, resamples, seeds_of_runs(matrices, number, seed), level)
        for number, matrix in enumerate(matrices)
    ]
    found = {}
    for name, formula in FORMULAS.items():
        scores = [getattr(each, name) for each in observed]
        values = np.array([score.values for score in scores])
        defined = shared_tasks(values)
        some = np.array([formula(matrix, base) for base, matrix in drawn])
        estimates = tuple(
            estimate_over_runs(values[:, j], some[:, :, j], level) for j in range(len(tasks))
        )
        means = mean_where(defined, values)
        mean = estimate_over_runs(means, mean_where(defined, some), level)
        compared = np.mean([mean_where(defined, score.compared[None])[0] for score in scores])
        exchanged, random = (
            _averaged([mean_where(defined, of(score)) for score in scores])
            for of in (_exchanged, _random)
        )
        exchanged = exchanged[:look]
        p, random_p = (
            float(p_against_controls(np.array([compared]), each[:, None])[0])
            for each in (exchanged, random)
        )
        found[name] = RunsDScore(
            name, values, means, estimates, mean, exchanged, float(compared), p, random, random_p
        )
    return RunsDissociation(
        tasks,
        chosen,
        **found,
        pairs=_pairs(matrices, chosen, [matrix for _, matrix in drawn], level),
        level=level,
        runs=len(matrices),
        above_chance=_above_chance(matrices),
        exchangeable=min(each.exchangeable for each in observed),
    )


def _exchanged(score: DScore) -> np.ndarray:
    return score.control_values


def _random(score: DScore) -> np.ndarray:
    return score.random_values


def _averaged(found: Sequence[np.ndarray]) -> np.ndarray:
    """The r-th replicate of every run, averaged over the runs, for as many as all have."""
    least = min(map(len, found))
    return np.mean([each[:least] for each in found], axis=0)


def _above_chance(matrices: Sequence[LesionMatrix]) -> tuple[bool, ...]:
    """Whether the models, on average, do each task clearly better than chance."""
    first, means = matrices[0], np.mean([matrix.base for matrix in matrices], axis=0)
    rows = zip(first.tasks, first.metrics, means, first.chance, strict=True)
    return tuple(
        get_metric(name).standing(mean, chance, len(first.labels[task])) == "above"
        for task, name, mean, chance in rows
    )


def _check(matrices: Sequence[LesionMatrix]) -> None:
    if not matrices:
        raise ConfigError("No run was given: expected one or more.")
    first = matrices[0]
    for number, matrix in enumerate(matrices):
        if (matrix.tasks, matrix.metrics) != (first.tasks, first.metrics):
            raise ConfigError(
                f"Run {number + 1} has the tasks {', '.join(matrix.tasks)}, the first has "
                f"{', '.join(first.tasks)}: expected runs on the same tasks, in the same order and "
                f"with the same metrics."
            )


def seeds_of_runs(matrices: Sequence[LesionMatrix], number: int, seed: int) -> dict[str, int]:
    """The seed by which each task's examples are drawn for a run: the first's where they share."""
    first, own = matrices[0], matrices[number]
    return {
        task: seed if np.array_equal(first.labels[task], own.labels[task]) else seed + 7919 * number
        for task in own.tasks
    }


def estimate_over_runs(
    observed: Float[np.ndarray, " runs"],
    drawn: Float[np.ndarray, "runs resamples"],
    level: float,
) -> RunsEstimate:
    """Return the mean over runs of what each observed, from the same on resampled examples."""
    n, mean = len(observed), float(observed.mean())
    # as of one run: where its interval is undefined, so is that over the runs
    undefined = np.isnan(drawn).mean(axis=1).max() > UNDEFINED_SHARE
    if n < 2 or undefined or not math.isfinite(mean):
        return RunsEstimate(mean, math.nan, math.nan, math.nan, math.nan, math.nan)
    over_runs = float(observed.var(ddof=1)) / n
    known = drawn[:, np.isfinite(drawn).all(axis=0)]
    moved = known - known.mean(axis=1, keepdims=True)
    apart = float(moved.var(axis=0, ddof=1).mean()) / n
    over_examples = max(float(moved.mean(axis=0).var()) - apart, 0.0)
    return _with_interval(mean, over_runs, over_examples, n, level)


def change_over_runs(
    changes: Float[np.ndarray, " runs"], errors: Float[np.ndarray, " runs"], level: float = 0.95
) -> RunsEstimate:
    """Return the mean over runs of a change that each measured with a standard error of its own.

    The `errors` are those under resampled examples. Of these no more is known than that the same
    examples may move all runs together, in which case the variance they make of the mean is the
    square of the mean error. That is taken, so that the interval is never too narrow for them.
    """
    n, mean = len(changes), float(changes.mean())
    over_examples = float(errors.mean()) ** 2
    if n < 2 or not math.isfinite(mean + over_examples):
        return RunsEstimate(mean, math.nan, math.nan, math.nan, math.nan, math.nan)
    return _with_interval(mean, float(changes.var(ddof=1)) / n, over_examples, n, level)


def _with_interval(
    mean: float, over_runs: float, over_examples: float, n: int, level: float
) -> RunsEstimate:
    """The mean over n runs with the interval that both parts of its variance give."""
    variance = over_runs + over_examples
    if variance == 0:
        return RunsEstimate(mean, mean, mean, math.nan, 0.0, 0.0)
    freedom = (n - 1) * (variance / over_runs) ** 2 if over_runs else math.inf
    error = math.sqrt(variance)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p = float(stats.t.sf(mean / error, freedom))
    return RunsEstimate(mean, mean - reach, mean + reach, p, over_runs, over_examples)


def _pairs(
    matrices: Sequence[LesionMatrix],
    fraction: float,
    drawn: Sequence[Float[np.ndarray, "resamples tasks tasks"]],
    level: float,
) -> tuple[RunsPair, ...]:
    tasks, above_chance = matrices[0].tasks, _above_chance(matrices)
    scores, some = np.array([m.oriented(m.scores(fraction)) for m in matrices]), np.array(drawn)

    def effect(i: int, j: int) -> RunsEstimate:
        """Return how much more task i's own lesion costs it than that of task j."""
        return estimate_over_runs(
            scores[:, j, i] - scores[:, i, i], some[:, :, j, i] - some[:, :, i, i], level
        )

    pairs = pairs_of(tasks)
    effects = [(effect(i, j), effect(j, i)) for i, j in pairs]
    corrected = holm(
        np.array([max(a.p, b.p) if a.p == a.p and b.p == b.p else math.nan for a, b in effects])
    )
    references = [
        PairEffects(
            np.mean([each.observed for each in of_runs], axis=0),
            _averaged([each.replicates for each in of_runs]),
        )
        for pairs_of_runs in zip(*(m.pair_effects(fraction) for m in matrices), strict=True)
        for of_runs in [[each.in_units for each in pairs_of_runs]]
    ]
    against, against_holm = p_of_pairs(references)
    return tuple(
        RunsPair(
            tasks[i],
            tasks[j],
            both,
            p_holm=float(p_holm),
            p_controls=float(p),
            p_controls_holm=float(p_corrected),
            controls=len(reference.replicates),
            above_chance=(above_chance[i], above_chance[j]),
        )
        for (i, j), both, reference, p_holm, p, p_corrected in zip(
            pairs, effects, references, corrected, against, against_holm, strict=True
        )
    )


def deviation_over_runs(values: Float[np.ndarray, "runs *shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the standard deviation over the runs (n − 1); NaN for one run."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values.std(axis=0, ddof=1))
