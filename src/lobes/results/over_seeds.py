"""`comparison.json` and `transfer.json`: ways to train compared over seeds."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from lobes.dissociation import seeds as statistics
from lobes.dissociation.similarity import mean_overlap
from lobes.dissociation.verdicts_over_seeds import SPECIALIZED_BY_IAT, better, transfers
from lobes.results.base import (
    Count,
    Heads,
    Lesioning,
    Matrix,
    ModelRecord,
    Number,
    P,
    Record,
    Results,
    Settings,
    Share,
    TaskRecord,
    Vector,
    expect_shape,
)
from lobes.results.training import IatRecord


class ComparedTask(TaskRecord):
    """A task on which models were trained."""

    n_held_out: Count
    """The number of training examples that were held out, to choose weights by."""


Selected = tuple[Count | tuple[Count, ...], ...]


class SeedsIat(IatRecord):
    """Which heads IAT trained with each seed."""

    seconds: tuple[float, ...]
    """How long the importance took that chose the heads, for each seed."""
    heads: tuple[dict[str, Heads], ...]
    """The heads that each task trained, for each seed."""

    @property
    def overlap_of_seeds(self) -> float:
        """How far two seeds choose the same heads for a task, 0 to 1; NaN for one seed."""
        return mean_overlap([[run[task] for run in self.heads] for task in self.heads[0]])

    @property
    def overlap_of_tasks(self) -> float:
        """How far two tasks of a seed have the same heads, 0 to 1; NaN for one task."""
        return mean_overlap([list(run.values()) for run in self.heads])


class Estimate(Record):
    """A mean over seeds with Student's t interval."""

    model_config = ConfigDict(from_attributes=True)

    mean: Number
    """The mean; null where a seed has no value."""
    low: Number
    """The lower end of its interval."""
    high: Number
    """The upper end."""


class Difference(Estimate):
    """A paired difference over seeds: the first minus the second."""

    p: P
    """Two-sided, of the paired t-test."""

    @property
    def tested(self) -> statistics.Difference:
        """The difference with the p by which it is judged."""
        return statistics.Difference(self.mean, self.low, self.high, self.p)


class RowDifference(Difference):
    """One of several differences that are tested together."""

    p_holm: P
    """p corrected for their number (Holm)."""

    @property
    def tested(self) -> statistics.Difference:
        """The difference with the corrected p."""
        return statistics.Difference(self.mean, self.low, self.high, self.p_holm)


class Estimates(Record):
    """The means of each task and over the tasks."""

    tasks: tuple[Estimate, ...]
    """Each task's."""
    mean: Estimate
    """That of the mean over the tasks."""
    seeds: Vector
    """The mean over the tasks with each seed."""


class MethodSummary(Estimates):
    """One way to train."""

    seconds: Estimate
    """How long a training takes."""


class TaskDifferences(Record):
    """The differences of each task and of the mean over the tasks."""

    tasks: tuple[RowDifference, ...]
    """Each task's."""
    mean: Difference
    """That of the mean over the tasks."""


class Differences(TaskDifferences):
    """One way to train against another."""

    first: str
    """The first way."""
    second: str
    """The second way."""


class DScoreSummary(Record):
    """The D-scores without and with IAT, by one definition at one fraction."""

    fraction: Share
    """The fraction of lesioned heads."""
    definition: str
    """The definition of the D-score."""
    multi: Estimates
    """Multi-task training's."""
    iat: Estimates
    """IAT's."""
    difference: TaskDifferences
    """IAT's minus multi-task training's."""


class ExchangedSummary(Record):
    """How far the D-scores without and with IAT lie above those of exchanged heads."""

    multi: Estimate
    """Multi-task training's."""
    iat: Estimate
    """IAT's."""
    difference: Difference
    """IAT's minus multi-task training's."""


class ComparisonSummary(Record):
    """The statistics over seeds."""

    methods: dict[str, MethodSummary]
    """Each way to train."""
    differences: tuple[Differences, ...]
    """Every two ways that are compared."""
    d_scores: tuple[DScoreSummary, ...] = ()
    """The D-scores without and with IAT."""
    exchanged: ExchangedSummary | None = None
    """How far these lie above those of exchanged heads; null where that was not measured."""

    def best(self, methods: Sequence[str]) -> list[float]:
        """Each task's highest mean score by these ways to train; NaN where none is defined."""
        means = [[task.mean for task in self.methods[method].tasks] for method in methods]
        return np.fmax.reduce(means).tolist()

    def headline(self, definition: str) -> DScoreSummary | None:
        """The D-scores by this definition at the largest fraction; None without any."""
        found = [each for each in self.d_scores if each.definition == definition]
        return max(found, key=lambda each: each.fraction, default=None)


class DScores(Record):
    """The D-scores of both multi-task methods: seed by task, in percent."""

    fraction: Share
    """The fraction of lesioned heads."""
    definition: str
    """The definition of the D-score."""
    multi: Matrix
    """Multi-task training's."""
    iat: Matrix
    """IAT's."""


class ExchangedDScores(Record):
    """How far the mean `column` D-score of each seed lies above those of exchanged heads.

    In standard deviations of these, at the largest fraction.
    """

    fraction: Share
    """The fraction of lesioned heads."""
    n_controls: Count
    """How often the tasks' heads were exchanged."""
    multi: Vector
    """Multi-task training's, by seed."""
    iat: Vector
    """IAT's, by seed."""


class OverSeeds(Results):
    """What comparisons and transfer studies have in common."""

    model: ModelRecord
    """The model before training."""
    seeds: tuple[int, ...] = Field(min_length=1)
    """The seeds of the trainings."""
    training: Settings
    """The settings of the trainings."""
    level: Share
    """The level of all intervals."""
    environment: Settings
    """Versions and machine."""
    times: dict[str, float]
    """Seconds by stage, and in total."""
    config: Settings
    """The study, resolved."""
    iat: SeedsIat | None
    """Which heads IAT trained; null where IAT was not run."""
    selected: dict[str, Selected | None]
    """The step of the chosen weights of each seed (a list for several models); null for a probe."""
    held_out: dict[str, Matrix]
    """The scores on the held-out part, by which weights were chosen: seed by task."""

    @property
    def before_iat(self) -> tuple[int, ...]:
        """The seeds whose chosen weights of IAT are from before it began."""
        return before_iat(self.seeds, self.selected, self.iat)

    def _fits_seeds(self, names: tuple[str, ...]) -> None:
        """Check what there is for each seed; `names` are those of the tasks of the trainings."""
        for steps in self.selected.values():
            _expect_length(self.seeds if steps is None else steps, len(self.seeds))
        if self.iat is None:
            return
        _expect_length(self.iat.heads, len(self.seeds))
        for run in self.iat.heads:
            if set(run) != set(names) or not all(self.model.holds(heads) for heads in run.values()):
                raise ValueError("iat does not have heads of the model for every task")


def before_iat(
    seeds: Sequence[int], selected: Mapping[str, Selected | None], iat: SeedsIat | None
) -> tuple[int, ...]:
    """The seeds whose chosen weights of IAT are from before it began."""
    steps = selected.get("iat")
    if iat is None or steps is None:
        return ()
    return tuple(
        seed
        for seed, step in zip(seeds, steps, strict=True)
        if isinstance(step, int) and step <= iat.switch_step
    )


class ComparisonResults(OverSeeds):
    """Ways to train on the same tasks, compared over seeds."""

    FILE: ClassVar[str] = "comparison.json"
    NOUN: ClassVar[str] = "a comparison"
    RUN: ClassVar[str] = "comparison"

    schema_: Literal["lobes-comparison"] = Field("lobes-comparison", alias="schema")
    """The name of the schema."""
    tasks: tuple[ComparedTask, ...] = Field(min_length=1)
    """The tasks, in the order of every table."""
    methods: tuple[str, ...] = Field(min_length=1)
    """The ways to train that were run."""
    scores: dict[str, Matrix]
    """The validation scores of each way to train: seed by task."""
    seconds: dict[str, Vector]
    """How long each seed's training took."""
    weights: dict[str, Matrix] = Field(default_factory=dict)
    """The mean weight of each task over the steps, where tasks were weighed: seed by task."""
    lesioning: Lesioning | None
    """What a lesion did to heads; null where there are no D-scores."""
    d_scores: tuple[DScores, ...]
    """The D-scores without and with IAT, where both were run."""
    exchanged: ExchangedDScores | None = None
    """How far these lie above those of exchanged heads; null where that was not measured."""
    summary: ComparisonSummary
    """Means, differences and intervals over seeds."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names."""
        return tuple(task.name for task in self.tasks)

    @model_validator(mode="after")
    def _fits(self) -> "ComparisonResults":
        shape = len(self.seeds), len(self.tasks)
        for method in self.methods:
            if method not in self.scores or method not in self.summary.methods:
                raise ValueError(f"there are no scores of {method}")
            if method not in self.selected:
                raise ValueError(f"there are no chosen steps of {method}")
            expect_shape(self.scores[method], shape, "scores")
            _expect_length(self.summary.methods[method].tasks, shape[1])
            expect_shape(self.summary.methods[method].seeds, shape[:1], "the means over the tasks")
        for method, weights in self.weights.items():
            expect_shape(weights, shape, f"weights of {method}")
        for each in self.summary.differences:
            _expect_length(each.tasks, shape[1])
            if not {each.first, each.second} <= set(self.methods):
                raise ValueError(f"{each.first} or {each.second} was not run")
        self._fits_seeds(self.names)
        for each in self.summary.differences[:1]:
            self.verdict_on(better(each.first, each.second))
        self._d_scores_fit(shape)
        return self

    def _d_scores_fit(self, shape: tuple[int, int]) -> None:
        if (self.lesioning is None) != (not self.d_scores):
            raise ValueError("lesioning is there without D-scores, or these without it")
        for entry in self.d_scores:
            expect_shape(entry.multi, shape, "d_scores")
            expect_shape(entry.iat, shape, "d_scores")
        stored = {(each.fraction, each.definition) for each in self.d_scores}
        if stored != {(each.fraction, each.definition) for each in self.summary.d_scores}:
            raise ValueError("the summary is not of these D-scores")
        if (self.exchanged is None) != (self.summary.exchanged is None):
            raise ValueError("the summary is not of these exchanges")
        if self.exchanged is not None:
            expect_shape(self.exchanged.multi, shape[:1], "exchanged")
            expect_shape(self.exchanged.iat, shape[:1], "exchanged")
        if self.d_scores:
            self.verdict_on(SPECIALIZED_BY_IAT)


class StartDifferences(Record):
    """One start against another."""

    first: str
    """The first start."""
    second: str
    """The second start."""
    fractions: tuple[RowDifference, ...]
    """The difference at each size."""


class TransferSummary(Record):
    """The statistics over seeds."""

    starts: dict[str, tuple[Estimate, ...]]
    """Each start's mean score at each size."""
    differences: tuple[StartDifferences, ...]
    """Every two starts that are compared."""

    def best(self) -> list[float]:
        """The highest mean score from any start at each size; NaN where none is defined."""
        means = [[size.mean for size in sizes] for sizes in self.starts.values()]
        return np.fmax.reduce(means).tolist()


class TransferResults(OverSeeds):
    """Fine-tuning on a new task from several starts, over seeds."""

    FILE: ClassVar[str] = "transfer.json"
    NOUN: ClassVar[str] = "a transfer study"
    RUN: ClassVar[str] = "transfer study"

    schema_: Literal["lobes-transfer"] = Field("lobes-transfer", alias="schema")
    """The name of the schema."""
    sources: tuple[ComparedTask, ...]
    """The tasks that were learned first."""
    task: TaskRecord
    """The new task."""
    fractions: tuple[Share, ...]
    """The shares of its training data."""
    sizes: tuple[Count, ...] = Field(min_length=1)
    """The same as numbers of examples."""
    starts: tuple[str, ...] = Field(min_length=1)
    """The encoders that were fine-tuned."""
    scores: dict[str, Matrix]
    """The validation scores from each start: seed by size."""
    seconds: dict[str, Vector]
    """How long each seed's fine-tunings took."""
    summary: TransferSummary
    """Means, differences and intervals over seeds."""

    @model_validator(mode="after")
    def _fits(self) -> "TransferResults":
        shape = len(self.seeds), len(self.sizes)
        for start in self.starts:
            if start not in self.scores or start not in self.summary.starts:
                raise ValueError(f"there are no scores from {start}")
            expect_shape(self.scores[start], shape, "scores")
            _expect_length(self.summary.starts[start], shape[1])
        for each in self.summary.differences:
            _expect_length(each.fractions, shape[1])
            if not {each.first, each.second} <= set(self.starts):
                raise ValueError(f"{each.first} or {each.second} was not run")
        self._fits_seeds(tuple(task.name for task in self.sources))
        for each in self.summary.differences[:1]:
            self.verdict_on(transfers(each.first, each.second))
        return self


def _expect_length(found: tuple[object, ...], length: int) -> None:
    if len(found) != length:
        raise ValueError(f"there are {len(found)} values, expected {length}")
