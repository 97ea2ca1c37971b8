"""What a run measures beside its lesions: agreement, similarity of tasks, growth."""

import math
from typing import Literal

from pydantic import Field, model_validator

from lobes.dissociation import verdict
from lobes.dissociation.dscores import FORMULAS, DScoreName
from lobes.results.base import (
    Correlation,
    Count,
    Interval,
    Matrix,
    Number,
    P,
    Record,
    Share,
    Vector,
)


class Overlap(Record):
    """How far the most important heads agree."""

    fraction: Share
    """The share of heads that is compared."""
    value: P
    """The Jaccard index of the two sets."""


class Estimate(Record):
    """How well one first-order estimate agrees with exact ablation."""

    aggregate: str
    """What its mean is over."""
    normalize: str
    """"layer" where each site's values are divided by their norm."""
    spearman: Correlation
    """The rank correlation over the heads."""


class Agreement(Record):
    """One task's importance against the exact rise of its loss when one head is ablated."""

    task: str
    """The task's name."""
    n_examples: Count
    """The number of examples."""
    spearman: Correlation
    """The rank correlation over the heads."""
    reliability: Correlation
    """How well random halves of the examples agree on the exact rises; null where unknown."""
    overlap: tuple[Overlap, ...]
    """The overlap of the most important heads, at every fraction."""
    values: Matrix
    """The exact rise of the loss, by site and head."""
    estimates: tuple[Estimate, ...]
    """Every first-order estimate, from the same examples."""


class Trend(Record):
    """How a measure of similarity goes with the D-scores of pairs of tasks."""

    correlation: Correlation
    """Spearman's, over the pairs; negative where less alike tasks dissociate more."""
    interval: Interval
    """Its interval under resampled examples."""
    p: P
    """One-sided, for a negative correlation, by exchanging tasks (Mantel 1967)."""
    p_holm: P
    """The same, corrected for the number of measures that are defined (Holm)."""
    note: str | None
    """Why it is undefined."""

    def of(self, measure: str) -> verdict.Trend:
        """The trend of this measure, as what decides claim 2 (`verdict.less_alike`)."""
        note = self.note or ""
        return verdict.Trend(measure, self.correlation, *self.interval, self.p_holm, note)


class Measure(Record):
    """One measure of how alike every two tasks are."""

    name: Literal["importance", "overlap", "gradient", "cka"] | str
    """The measure."""
    values: Matrix
    """The similarity of every two tasks."""
    corrected: bool
    """Whether it is corrected for the noise of the importance."""
    n_examples: Count | None
    """The number of examples of the largest task; null where no run of the model was needed."""
    trend: Trend
    """How it goes with the D-scores."""


class Similarity(Record):
    """How alike the tasks are, beside how far each pair dissociates."""

    fraction: Share
    """The fraction of the D-scores."""
    pair_d_scores: Matrix
    """The mean column D-score of every two tasks by themselves, in percent."""
    measures: tuple[Measure, ...]
    """The measures of similarity."""

    @property
    def evidence(self) -> tuple[verdict.Trend, ...]:
        """The trends as what decides claim 2 (`verdict.less_alike`)."""
        return tuple(each.trend.of(each.name) for each in self.measures)


class GrowthDScore(Record):
    """One definition's D-scores at one step of the training."""

    values: Vector
    """Each task's, in percent."""
    interval: Matrix
    """Each task's interval."""
    mean: Number
    """The model's."""
    mean_interval: Interval
    """Its interval."""
    shared_mean: Number
    """The mean over the tasks that have a D-score at both ends of the training."""
    shared_interval: Interval
    """Its interval."""
    note: str | None
    """What is undefined, and why."""


class MapOfTask(Record):
    """A task's importance map at one step."""

    task: str
    """The task's name."""
    values: Matrix
    """Importance by site and head."""


class GrowthPoint(Record):
    """What was measured at one step of the training."""

    step: Count
    """The step; 0 is before the training."""
    classifiers: Literal["trained", "probe"]
    """"probe" at step 0, where classifiers were fitted to the encoder as it is."""
    base: Vector
    """Each task's score with nothing ablated."""
    scores: Matrix
    """The lesion matrix."""
    dissociation: dict[DScoreName, GrowthDScore] = Field(min_length=len(FORMULAS))
    """The D-scores by definition."""
    importance: tuple[MapOfTask, ...]
    """Each task's importance map."""
    stability: tuple[Correlation, ...]
    """The rank correlation of each of these maps with the task's map at the end."""

    def stability_of(self, task: str) -> float:
        """The stability of a task's map; NaN where its importance was not measured."""
        stable = zip(self.importance, self.stability, strict=True)
        return next((value for found, value in stable if found.task == task), math.nan)


class Change(Record):
    """The D-scores at the end of the training minus those before it."""

    values: Vector
    """Each task's, in percent."""
    interval: Matrix
    """Each task's, on the same resampled examples."""
    mean: Number
    """The mean over the tasks with a D-score at both ends."""
    mean_interval: Interval
    """Its interval."""


class Growth(Record):
    """How specialization grew over the training."""

    fraction: Share
    """The fraction of lesioned heads."""
    points: tuple[GrowthPoint, ...] = Field(min_length=2)
    """Before the training, on the way, and at its end."""
    change: dict[DScoreName, Change] = Field(min_length=len(FORMULAS))
    """The change by definition."""

    @model_validator(mode="after")
    def _in_order(self) -> "Growth":
        steps = [point.step for point in self.points]
        if steps != sorted(set(steps)):
            raise ValueError("the points are not in the order of their steps")
        return self
