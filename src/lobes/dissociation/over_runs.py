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

from lobes.dissociation.dscores import FORMULAS, DScoreName, mean_where, shared_tasks
from lobes.dissociation.matrix import LesionMatrix
from lobes.dissociation.pairs import doubly_dissociated, p_against_pairs, pairs_of
from lobes.dissociation.statistics import holm, p_against_controls
from lobes.dissociation.verdict import Evidence, Verdict, specialized
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
    r-th control of each, and `p_controls` is p of the mean against them.
    """

    name: DScoreName
    values: Float[np.ndarray, "runs tasks"]
    means: Float[np.ndarray, " runs"]
    tasks: tuple[RunsEstimate, ...]
    mean: RunsEstimate
    control_means: Float[np.ndarray, " replicates"]
    p_controls: float


@dataclass(frozen=True, slots=True)
class RunsPair:
    """Whether two tasks are doubly dissociated over the runs; effects as in `PairVerdict`.

    `p_holm` tests the effects over runs and examples; `p_controls` and `p_controls_holm` compare
    the smaller of the two with that of the random lesions, all averaged over the runs.
    """

    first: str
    second: str
    effects: tuple[RunsEstimate, RunsEstimate]
    p_holm: float
    p_controls: float
    p_controls_holm: float

    @property
    def is_double_dissociation(self) -> bool:
        """Both effects are positive, and both tests significant at 0.05 after correction."""
        means = [effect.mean for effect in self.effects]
        return doubly_dissociated(means, self.p_holm, self.p_controls_holm)


@dataclass(frozen=True, slots=True, eq=False)
class RunsDissociation:
    """The D-scores of several runs at one fraction, and the verdict on each pair of tasks.

    `above_chance` says of each task whether the models, on average, do it clearly better than
    chance.
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

    @property
    def specialized(self) -> Verdict:
        """The verdict on the claim that heads are specialized, by the `column` D-score."""
        mean = self.column.mean
        return specialized(
            Evidence(
                mean=mean.mean,
                low=mean.low,
                high=mean.high,
                p=self.column.p_controls,
                controls=len(self.column.control_means),
                tasks=len(self.tasks),
                above_chance=sum(self.above_chance),
                runs=self.runs,
            )
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
    Raises `ConfigError` for no runs, or for runs of other tasks or without this fraction.
    """
    _check(matrices)
    tasks = matrices[0].tasks
    chosen = matrices[0].fraction_of(fraction)
    observed = [m.dissociation(chosen, resamples=1, seed=seed, level=level) for m in matrices]
    drawn = [
        matrix.resampled(chosen, resamples, _seeds(matrices, number, seed))
        for number, matrix in enumerate(matrices)
    ]
    found = {}
    for name, formula in FORMULAS.items():
        scores = [getattr(each, name) for each in observed]
        values = np.array([score.values for score in scores])
        defined = shared_tasks(values)
        some = np.array([formula(matrix, base) for base, matrix in drawn])
        estimates = tuple(_estimate(values[:, j], some[:, :, j], level) for j in range(len(tasks)))
        means = mean_where(defined, values)
        n_controls = min(len(score.control_values) for score in scores)
        controls = np.mean(
            [mean_where(defined, score.control_values[:n_controls]) for score in scores], axis=0
        )
        mean = _estimate(means, mean_where(defined, some), level)
        compared = np.mean([mean_where(defined, score.compared[None])[0] for score in scores])
        p = p_against_controls(np.array([compared]), controls[:, None])[0]
        found[name] = RunsDScore(name, values, means, estimates, mean, controls, float(p))
    return RunsDissociation(
        tasks,
        chosen,
        **found,
        pairs=_pairs(matrices, chosen, [matrix for _, matrix in drawn], level),
        level=level,
        runs=len(matrices),
        above_chance=_above_chance(matrices),
    )


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


def _seeds(matrices: Sequence[LesionMatrix], number: int, seed: int) -> dict[str, int]:
    """The seed by which each task's examples are drawn for a run: the first's where they share."""
    first, own = matrices[0], matrices[number]
    return {
        task: seed if np.array_equal(first.labels[task], own.labels[task]) else seed + 7919 * number
        for task in own.tasks
    }


def _estimate(
    observed: Float[np.ndarray, " runs"],
    drawn: Float[np.ndarray, "runs resamples"],
    level: float,
) -> RunsEstimate:
    n, mean = len(observed), float(observed.mean())
    if n < 2 or not math.isfinite(mean):
        return RunsEstimate(mean, math.nan, math.nan, math.nan, math.nan, math.nan)
    over_runs = float(observed.var(ddof=1)) / n
    known = drawn[:, np.isfinite(drawn).all(axis=0)]
    moved = known - known.mean(axis=1, keepdims=True)
    apart = float(moved.var(axis=0, ddof=1).mean()) / n
    over_examples = max(float(moved.mean(axis=0).var()) - apart, 0.0)
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
    tasks = matrices[0].tasks
    scores, some = np.array([m.scores(fraction) for m in matrices]), np.array(drawn)

    def effect(i: int, j: int) -> RunsEstimate:
        """Return how much more task i's own lesion costs it than that of task j."""
        return _estimate(
            scores[:, j, i] - scores[:, i, i], some[:, :, j, i] - some[:, :, i, i], level
        )

    pairs = pairs_of(tasks)
    effects = [(effect(i, j), effect(j, i)) for i, j in pairs]
    corrected = holm(
        np.array([max(a.p, b.p) if a.p == a.p and b.p == b.p else math.nan for a, b in effects])
    )
    against, against_holm = p_against_pairs(*_averaged(matrices, fraction))
    return tuple(
        RunsPair(tasks[i], tasks[j], both, *map(float, found))
        for (i, j), both, *found in zip(
            pairs, effects, corrected, against, against_holm, strict=True
        )
    )


def _averaged(
    matrices: Sequence[LesionMatrix], fraction: float
) -> tuple[Float[np.ndarray, "tasks tasks"], Float[np.ndarray, "replicates tasks tasks"]]:
    """The scores under the tasks' lesions, and under the r-th control of each run, averaged.

    Where controls were measured on some of the examples only, both are on these.
    """
    within = [each if each.sampled is None else each.sampled.matrix for each in matrices]
    controls = [each.control_scores(fraction) for each in within]
    n_controls = min(len(each) for each in controls)
    return (
        np.mean([each.scores(fraction) for each in within], axis=0),
        np.mean([each[:n_controls] for each in controls], axis=0),
    )


def deviation_over_runs(values: Float[np.ndarray, "runs *shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the standard deviation over the runs (n − 1); NaN for one run."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values.std(axis=0, ddof=1))
