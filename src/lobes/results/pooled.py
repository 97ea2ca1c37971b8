"""`runs.json`: several runs of one study taken together."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from lobes.dissociation import verdict
from lobes.dissociation.over_runs import deviation_over_runs
from lobes.dissociation.statistics import n_reached
from lobes.dissociation.verdict import LESS_ALIKE, MORE_SPECIALIZED, SPECIALIZED
from lobes.metrics import Standing
from lobes.results.base import (
    Count,
    Lesioning,
    Matrices,
    Matrix,
    Number,
    P,
    Record,
    Results,
    Share,
    TaskRecord,
    Vector,
    expect_count,
    expect_shape,
    expect_share,
)
from lobes.results.beside_lesions import Trend
from lobes.results.fractions import OverFractions, expect_fractions


class PooledRun(Record):
    """One of the runs."""

    name: str
    """Its folder's name."""
    model: str
    """Its model."""
    seed: int | None
    """The seed of its training."""
    steps: Count | None
    """The steps of its training; null for a model that was trained elsewhere."""
    iat_steps: Count | None = None
    """The last of these that were IAT; null without IAT."""
    created: str
    """When its results were written."""
    lobes: str
    """The version of lobes that wrote them."""


class PooledEstimate(Record):
    """A mean over runs, with an interval over runs and examples."""

    mean: Number
    """The mean."""
    low: Number
    """The lower end of its interval; null with one run."""
    high: Number
    """The upper end."""
    p: P
    """One-sided: that the mean is above 0."""
    over_runs: Number
    """The part of the mean's variance that the runs make."""
    over_examples: Number
    """The part that the validation examples make."""

    @property
    def share_of_runs(self) -> float:
        """The runs' share of the variance; NaN where it is undefined or 0."""
        total = self.over_runs + self.over_examples
        return self.over_runs / total if total > 0 else float("nan")


class PooledDScore(Record):
    """One definition's D-scores over the runs, in percent."""

    values: Matrix
    """Run by task."""
    means: Vector
    """Each run's mean over its tasks."""
    tasks: tuple[PooledEstimate, ...]
    """Each task's mean over the runs."""
    mean: PooledEstimate
    """The model's."""
    control_means: Vector
    """The r-th exchange of heads of every run, averaged over the runs."""
    standardized: Number
    """How far the mean lies above these, in their standard deviations."""
    p_controls: P
    """The mean against these."""
    random_means: Vector
    """The r-th random lesion of every run, averaged over the runs."""
    random_p: P
    """The mean against these."""

    @property
    def reached(self) -> int:
        """How many of these are at least as large as the mean."""
        return n_reached(self.p_controls, len(self.control_means))


class PooledDissociation(Record):
    """The D-scores by all three definitions."""

    row: PooledDScore
    """The published code's."""
    column: PooledDScore
    """The headline."""
    relative: PooledDScore
    """As `row`, each task on its own scale."""

    @property
    def by_definition(self) -> dict[str, PooledDScore]:
        """The D-scores by definition, the headline's first."""
        return {"column": self.column, "row": self.row, "relative": self.relative}


class PooledPair(Record):
    """What two tasks each lose by their own lesion more than by the other's, over the runs."""

    first: str
    """The first task."""
    second: str
    """The second task."""
    effects: tuple[PooledEstimate, PooledEstimate]
    """The first task's loss, then the second's, in units of each one's metric."""
    p_holm: P
    """The larger p of the two, corrected for the number of pairs (Holm)."""
    p_controls: P
    """The smaller effect against that with heads exchanged between these two tasks, averaged over
    the runs; null where some run has no such exchanges."""
    p_controls_holm: P
    """The same, corrected for the number of pairs (Holm)."""
    double_dissociation: bool
    """Both effects are positive, both corrected p at most 0.05, and both tasks above chance."""


class PooledFraction(Record):
    """One fraction of lesioned heads that all runs have."""

    fraction: Share
    """The share of all heads in each task's lesion."""
    n_controls: Count
    """How often the tasks' heads were exchanged, in the run with fewest exchanges."""
    n_pair_controls: Count
    """How often the heads of every two tasks were exchanged between these two, likewise."""
    n_random: Count
    """The number of random lesions, of the run with fewest."""
    exchangeable: Count
    """The number of heads that can be exchanged, of the run with fewest."""
    scores: Matrices
    """The lesion matrix of each run."""
    dissociation: PooledDissociation
    """The D-scores."""
    pairs: tuple[PooledPair, ...]
    """Every pair of tasks."""

    @model_validator(mode="after")
    def _fits(self) -> "PooledFraction":
        for score in self.dissociation.by_definition.values():
            expect_count(self.n_controls, score.control_means, "n_controls", "control_means")
            expect_count(self.n_random, score.random_means, "n_random", "random_means")
            expect_share(score.p_controls, self.n_controls, "p_controls")
            expect_share(score.random_p, self.n_random, "random_p")
        # 0 where the heads of some pair cannot be exchanged; those of others still can
        for pair in self.pairs if self.n_pair_controls else ():
            expect_share(pair.p_controls, self.n_pair_controls, "p_controls")
        return self

    @property
    def mean_scores(self) -> np.ndarray:
        """The lesion matrix [lesions, tasks], mean over the runs."""
        return self.scores.mean(axis=0)

    @property
    def score_deviations(self) -> np.ndarray:
        """Its standard deviation over the runs."""
        return deviation_over_runs(self.scores)


class PooledGrowth(Record):
    """The column D-scores of the runs before and after their trainings, in percent.

    Each run's means are over its tasks with a D-score at both ends.
    """

    fraction: Share
    """The fraction of lesioned heads."""
    before: Vector
    """Each run's mean over its tasks before the training, with linear probes."""
    after: Vector
    """The same after it."""
    intervals: Matrix
    """The interval of each run's change under resampled examples: run by end."""
    change: PooledEstimate
    """The mean change over the runs."""
    values: Matrix | None = None
    """Each run's change of each task, null without a D-score at one of the ends: run by task."""

    @property
    def changes(self) -> np.ndarray:
        """Each run's change [runs]."""
        return self.after - self.before


class PooledMeasure(Record):
    """One measure of how alike every two tasks are, over the runs."""

    name: str
    """The measure."""
    values: Matrix
    """The similarity of every two tasks, mean over the runs."""
    corrected: bool
    """Whether it is corrected for the noise of the importance, in every run."""
    correlations: Vector
    """Each run's correlation with its D-scores of pairs."""
    trend: Trend
    """Their mean, its interval over runs and examples, and p by exchanging tasks in all alike."""


class PooledSimilarity(Record):
    """How alike the tasks are, beside how far each pair dissociates, over the runs."""

    fraction: Share
    """The fraction of the D-scores."""
    pair_d_scores: Matrix
    """The mean column D-score of every two tasks by themselves, in percent, over the runs."""
    measures: tuple[PooledMeasure, ...] = Field(min_length=1)
    """The measures of similarity that all runs have."""

    @property
    def evidence(self) -> tuple[verdict.Trend, ...]:
        """The trends as what decides claim 2 (`verdict.less_alike`)."""
        return tuple(each.trend.of(each.name) for each in self.measures)


class PooledResults(Results):
    """Several runs of one study: other seeds, or other models, on the same tasks."""

    FILE: ClassVar[str] = "runs.json"
    NOUN: ClassVar[str] = "a summary of runs"
    RUN: ClassVar[str] = "summary of runs"

    schema_: Literal["lobes-runs"] = Field("lobes-runs", alias="schema")
    """The name of the schema."""
    level: Share
    """The level of all intervals."""
    resamples: Count
    """The number of bootstrap resamples."""
    runs: tuple[PooledRun, ...] = Field(min_length=1)
    """The runs."""
    lesioning: Lesioning
    """What a lesion did to heads, in every run."""
    tasks: tuple[TaskRecord, ...] = Field(min_length=2)
    """The tasks, in the order of every table."""
    base: Matrix
    """The score with nothing ablated: run by task."""
    base_intervals: Matrices
    """Its intervals."""
    fractions: tuple[PooledFraction, ...] = Field(min_length=1)
    """What the runs say together at each fraction, ascending."""
    over_fractions: OverFractions
    """The test that the verdict follows."""
    growth: PooledGrowth | None = None
    """How the D-scores changed over the trainings; null where not all runs measured it alike."""
    similarity: PooledSimilarity | None = None
    """How alike the tasks are; null where not all runs measured it alike."""
    unlike: tuple[str, ...] = ()
    """What some runs measured in another way than others, and what this means for the answers."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names."""
        return tuple(task.name for task in self.tasks)

    @property
    def largest(self) -> PooledFraction:
        """The largest fraction, whose lesions are shown."""
        return self.fractions[-1]

    @property
    def strongest(self) -> PooledFraction:
        """The fraction whose D-score stands out most, which the verdict speaks of."""
        found = self.over_fractions.strongest
        return next(each for each in self.fractions if each.fraction == found)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the runs' models, each once, in the order of the runs."""
        return tuple(dict.fromkeys(run.model for run in self.runs))

    @property
    def mean_base(self) -> np.ndarray:
        """The score with nothing ablated [tasks], mean over the runs."""
        return self.base.mean(axis=0)

    @property
    def base_deviations(self) -> np.ndarray:
        """Its standard deviation over the runs."""
        return deviation_over_runs(self.base)

    @property
    def divisors(self) -> np.ndarray:
        """The mean base scores [tasks], NaN where nothing may be divided by that of some run."""
        lows = self.base_intervals[:, :, 0]
        return np.mean(
            [
                [
                    task.divisor(score, low)
                    for task, score, low in zip(self.tasks, scores, ends, strict=True)
                ]
                for scores, ends in zip(self.base.tolist(), lows.tolist(), strict=True)
            ],
            axis=0,
        )

    @property
    def standings(self) -> dict[str, Standing]:
        """Where the mean base score of each task lies in relation to chance."""
        means = zip(self.tasks, self.mean_base.tolist(), strict=True)
        return {task.name: task.standing(mean) for task, mean in means}

    @model_validator(mode="after")
    def _fits(self) -> "PooledResults":
        self.verdict_on(SPECIALIZED)
        if self.growth is not None:
            self.verdict_on(MORE_SPECIALIZED)
            for values in (self.growth.before, self.growth.after):
                expect_shape(values, (len(self.runs),), "growth")
            expect_shape(self.growth.intervals, (len(self.runs), 2), "intervals")
            if self.growth.values is not None:
                expect_shape(self.growth.values, (len(self.runs), len(self.tasks)), "values")
        runs, n = len(self.runs), len(self.tasks)
        if self.similarity is not None:
            self.verdict_on(LESS_ALIKE)
            expect_shape(self.similarity.pair_d_scores, (n, n), "pair_d_scores")
            for measure in self.similarity.measures:
                expect_shape(measure.values, (n, n), "similarity")
                expect_shape(measure.correlations, (runs,), "correlations")
        if len(set(self.names)) < n:
            raise ValueError("two tasks have the same name")
        expect_fractions([entry.fraction for entry in self.fractions], self.over_fractions)
        expect_share(self.over_fractions.p, self.largest.n_controls, "over_fractions.p")
        expect_shape(self.base, (runs, n), "base")
        expect_shape(self.base_intervals, (runs, n, 2), "base_intervals")
        for entry in self.fractions:
            expect_shape(entry.scores, (runs, n, n), "scores")
            for score in entry.dissociation.by_definition.values():
                expect_shape(score.values, (runs, n), "values")
                expect_shape(score.means, (runs,), "means")
                if len(score.tasks) != n:
                    raise ValueError(f"there are {len(score.tasks)} estimates, expected {n}")
        return self
