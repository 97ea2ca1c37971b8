"""What `results.json` says of one fraction of lesioned heads: scores, D-scores, pairs of tasks."""

from collections.abc import Sequence

import numpy as np
from pydantic import model_validator

from lobes.dissociation.statistics import n_reached
from lobes.heads import HeadSet
from lobes.results.base import (
    Count,
    Heads,
    Interval,
    Matrices,
    Matrix,
    Number,
    P,
    Ps,
    Record,
    Share,
    Vector,
    expect_count,
    expect_shape,
    expect_share,
)


class DScore(Record):
    """One definition's D-score of every task and of the model, in percent."""

    values: Vector
    """Each task's; null where it is undefined."""
    mean: Number
    """The mean over the tasks whose value is defined: the model's."""
    interval: Matrix
    """Each task's bootstrap interval over the validation examples: low, high."""
    mean_interval: Interval
    """The model's."""
    control_values: Matrix
    """The same score with the tasks' heads exchanged: replicate by task."""
    control_means: Vector
    """Their means over the tasks that `mean` is over."""
    p_values: Ps
    """(1 + number of exchanges with a score at least as large) / (1 + number of exchanges). Of
    single tasks these describe, and do not test."""
    mean_p: P
    """The model's, which is a test."""
    standardized: Vector
    """(D − mean of the exchanges) / their standard deviation."""
    mean_standardized: Number
    """The model's."""
    compared: Vector
    """What these are compared with: the score on the examples of the other lesions."""
    compared_mean: Number
    """The model's."""
    random_values: Matrix
    """The same score of the random lesions: replicate by task."""
    random_means: Vector
    """Their means over the tasks that `mean` is over."""
    random_p: P
    """The model's p against random lesions."""
    random_standardized: Number
    """(D − mean of the random lesions) / their standard deviation: the model's."""
    note: str | None = None
    """What is undefined, and why."""

    @property
    def reached(self) -> int:
        """How many exchanges dissociate at least as much, undefined ones included, as p counts."""
        return n_reached(self.mean_p, len(self.control_means))

    @model_validator(mode="after")
    def _fits(self) -> "DScore":
        n = len(self.values)
        expect_shape(self.interval, (n, 2), "interval")
        for kind in ("control", "random"):
            if not getattr(self, f"{kind}_values").size:
                object.__setattr__(self, f"{kind}_values", np.empty((0, n)))
            shape = len(getattr(self, f"{kind}_means")), n
            expect_shape(getattr(self, f"{kind}_values"), shape, f"{kind}_values")
        for name in ("p_values", "standardized", "compared"):
            expect_shape(getattr(self, name), (n,), name)
        expect_share(self.mean_p, len(self.control_means), "mean_p")
        expect_share(self.random_p, len(self.random_means), "random_p")
        return self


class Dissociation(Record):
    """The D-scores by all three definitions."""

    row: DScore
    """The published code's: one lesion, the other tasks' raw scores."""
    column: DScore
    """The headline: one task, the other tasks' lesions."""
    relative: DScore
    """As `row`, each task on its own scale."""

    @property
    def by_definition(self) -> dict[str, DScore]:
        """The D-scores by definition, the headline's first."""
        return {"column": self.column, "row": self.row, "relative": self.relative}


class Pair(Record):
    """What two tasks each lose by their own lesion more than by the other's."""

    first: str
    """The first task."""
    second: str
    """The second task."""
    effects: Interval
    """The first task's loss, then the second's, in units of each one's metric."""
    effect_intervals: tuple[Interval, Interval]
    """Their bootstrap intervals."""
    relative_effects: Interval
    """The effects in percent of the base scores; null where nothing may be divided by these."""
    p_values: tuple[P, P]
    """One-sided paired tests over the examples."""
    p_holm: P
    """The larger of them, corrected for the number of pairs (Holm)."""
    p_controls: P
    """The smaller effect against that with heads exchanged between these two tasks; null where
    too few exchanges were asked for to call a pair."""
    p_controls_holm: P
    """The same, corrected for the number of pairs (Holm)."""
    compared_effects: Interval
    """The effects on the examples of the exchanges; null without any."""
    control_effects: Matrix
    """The effects with heads exchanged between these two tasks: replicate by task."""
    double_dissociation: bool
    """Both effects are positive, both corrected p at most 0.05, and both tasks above chance."""

    @model_validator(mode="after")
    def _fits(self) -> "Pair":
        if not self.control_effects.size:
            object.__setattr__(self, "control_effects", np.empty((0, 2)))
        expect_shape(self.control_effects, (-1, 2), "control_effects")
        expect_share(self.p_controls, len(self.control_effects), "p_controls")
        return self


class Fraction(Record):
    """Everything that belongs to one fraction of lesioned heads."""

    fraction: Share
    """The share of all heads in each task's lesion."""
    n_heads: Count
    """The number of heads in each task's lesion."""
    lesions: dict[str, Heads]
    """The heads of each task's lesion; tasks without a lesion of their own are left out."""
    n_controls: Count
    """How often the tasks' heads were exchanged."""
    n_pair_controls: Count
    """How often the heads of every two tasks were exchanged between these two."""
    exchangeable: Count
    """The number of heads in the lesions of some tasks and not of all: these can be exchanged."""
    n_random: Count
    """The number of random lesions for each task's lesion."""
    matched: str
    """Whether random lesions have as many heads "site" by site, or in "total"."""
    scores: Matrix
    """The lesion matrix: row i is the lesion of task i, column j the score of task j."""
    score_intervals: Matrices | None = None
    """The bootstrap interval of each of these scores over the validation examples: low, high; null
    in a file that was written before they were stored."""
    control_scores: Matrices
    """The same of each exchange of heads."""
    random_scores: Matrices
    """The same of each replicate of random lesions."""
    dissociation: Dissociation | None
    """The D-scores; null for one task, or where some task has no lesion."""
    pairs: tuple[Pair, ...]
    """Every pair of tasks, where there are D-scores."""

    @model_validator(mode="after")
    def _fits(self) -> "Fraction":
        expect_count(self.n_controls, self.control_scores, "n_controls", "control_scores")
        expect_count(self.n_random, self.random_scores, "n_random", "random_scores")
        sizes = [len(heads) for heads in self.lesions.values()]
        if self.n_heads != max(sizes, default=self.n_heads):
            raise ValueError(f"n_heads is {self.n_heads:,}, but lesions have up to {max(sizes):,}")
        every = {head for heads in self.lesions.values() for head in heads}
        if self.exchangeable > len(every):
            raise ValueError(
                f"exchangeable is {self.exchangeable:,}, but the lesions have {len(every):,} heads"
            )
        for pair in self.pairs:
            if self.n_pair_controls > len(pair.control_effects):
                expect_count(
                    self.n_pair_controls, pair.control_effects, "n_pair_controls", "control_effects"
                )
        for score in self.dissociation.by_definition.values() if self.dissociation else ():
            expect_count(self.n_controls, score.control_means, "n_controls", "control_means")
            expect_count(self.n_random, score.random_means, "n_random", "random_means")
        return self

    def lesion_of(self, task: str) -> HeadSet:
        """The heads lesioned for a task; none where it has no lesion of its own."""
        return self.lesions.get(task, HeadSet())


class OverFractions(Record):
    """The test of the D-scores at all fractions together."""

    standardized: Vector
    """How far the mean `column` D-score of each fraction lies above its exchanges, in their
    standard deviations."""
    p: P
    """That of the largest of these, against the same of each exchange."""
    strongest: Share
    """The fraction whose D-score stands out most."""


def expect_fractions(fractions: Sequence[float], over: OverFractions | None) -> None:
    """Raise `ValueError` where fractions do not ascend, or the test is not over these."""
    if list(fractions) != sorted(set(fractions)):
        raise ValueError("the fractions are not in ascending order")
    if over is not None:
        if over.strongest not in fractions:
            raise ValueError("the fraction that stands out most was not measured")
        expect_shape(over.standardized, (len(fractions),), "standardized")
