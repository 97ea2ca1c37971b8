"""`results.json`: everything that one run measured, with its statistics and verdicts."""

import math
from collections.abc import Iterable, Set
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from lobes import limits
from lobes.dissociation import verdict
from lobes.dissociation.dscores import mean_where, shared_tasks
from lobes.dissociation.statistics import n_reached
from lobes.heads import HeadSet
from lobes.metrics import Standing
from lobes.results.base import (
    Correlation,
    Count,
    Heads,
    Interval,
    Lesioning,
    Matrices,
    Matrix,
    ModelRecord,
    Number,
    P,
    Ps,
    Record,
    Results,
    Settings,
    Share,
    TaskRecord,
    Vector,
    expect_count,
    expect_shape,
    expect_share,
)
from lobes.results.beside_lesions import Agreement, Estimate, Growth, Similarity
from lobes.results.training import Iat, Training

# Below this rank correlation with exact ablation, importance is doubtful.
TRUSTED = 0.7
# Below this reliability, importance is noisy.
RELIABLE = 0.8


class MeasuredTask(TaskRecord):
    """A task with its score with nothing ablated."""

    base: Number
    """The model's score with nothing ablated."""
    base_interval: Interval
    """Its bootstrap interval over the validation examples."""
    spread: Number = math.nan
    """The standard deviation of the examples' values with nothing ablated, of a metric without
    bounds: the unit of changes and D-scores. Null for other metrics."""

    @property
    def base_divisor(self) -> float:
        """What changes are divided by: the base score, or the spread; NaN where there is neither.

        The base score only where something may be divided by it.
        """
        if self.scale.is_unbounded:
            return self.spread
        return self.divisor(self.base, self.base_interval[0])


class Importance(Record):
    """The importance of every head for one task."""

    task: str
    """The task's name."""
    method: str
    """"taylor" (first-order), "integrated_gradients", "gates" or "ablation" (rise of the loss)."""
    aggregate: str | None
    """The mean is over tokens ("token") or examples ("sequence"; "signed" with the sign kept)."""
    normalize: str | None
    """"layer" where each site's values are divided by their norm."""
    n_examples: Count | None
    """The number of examples that it was estimated on."""
    n_available: Count | None
    """How many examples there are to choose from."""
    reliability: Correlation
    """How well two random halves of the examples agree, stepped up to all; null where unknown."""
    n_tokens: Count | None
    """Their tokens."""
    seconds: float
    """How long that took."""
    values: Matrix
    """Importance by site and head; null where a site has no such head."""

    @property
    def examples_needed(self) -> int | None:
        """How many examples would make it reliable (Spearman-Brown); None where that is open.

        Rounded up to two digits.
        """
        r = self.reliability
        if self.n_examples is None or not r > 0:
            return None
        needed = self.n_examples * RELIABLE * (1 - r) / (r * (1 - RELIABLE))
        digit = 10 ** max(0, math.floor(math.log10(max(needed, 1))) - 1)
        return digit * math.ceil(round(needed / digit, 6))


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
    def n_controls(self) -> int:
        """How many exchanges have a mean."""
        return int(np.isfinite(self.control_means).sum())

    @property
    def reached(self) -> int:
        """How many exchanges dissociate at least as much."""
        return n_reached(self.mean_p, self.n_controls)

    @property
    def n_random(self) -> int:
        """How many random lesions have a mean."""
        return int(np.isfinite(self.random_means).sum())

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


class Controls(Record):
    """How exchanged and random lesions were measured."""

    most: Count
    """The number of exchanges that the study asked for."""
    look: Count | None
    """The number of exchanges after which the study might stop; null where it might not."""
    stopped: bool
    """Whether it stopped there, as p was settled."""
    sample: dict[str, Count] | None
    """The number of examples of each task that they were measured on; null for all."""
    base: dict[str, Number] | None
    """The base score on these examples; null for all."""


class RunResults(Results):
    """What one run measured."""

    FILE: ClassVar[str] = "results.json"
    NOUN: ClassVar[str] = "a results file"
    RUN: ClassVar[str] = "run"

    schema_: Literal["lobes-results"] = Field("lobes-results", alias="schema")
    """The name of the schema."""
    model: ModelRecord
    """The model."""
    tasks: tuple[MeasuredTask, ...] = Field(min_length=1)
    """The tasks, in the order of every table."""
    training: Training | None
    """How it was trained; null for a model that was trained elsewhere."""
    importance: tuple[Importance, ...]
    """The importance maps of the lesioned tasks."""
    fractions: tuple[Fraction, ...]
    """What was measured at each fraction of lesioned heads, ascending."""
    over_fractions: OverFractions | None
    """The test that the verdict follows; null where there are no D-scores."""
    controls: Controls
    """How the exchanged and the random lesions were measured."""
    agreement: tuple[Agreement, ...] | None
    """Importance against exact ablation; null where it was not measured."""
    similarity: Similarity | None
    """How alike the tasks are; null for one task, or where some have no lesion."""
    growth: Growth | None
    """How specialization grew; null where it was not measured."""
    iap: Settings
    """The settings of lesions and statistics."""
    level: Share
    """The level of all intervals."""
    resamples: Count
    """The number of bootstrap resamples."""
    environment: Settings
    """Versions and machine."""
    times: dict[str, float]
    """Seconds by stage, and in total."""
    config: Settings
    """The study, resolved."""

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks' names."""
        return tuple(task.name for task in self.tasks)

    @property
    def standings(self) -> dict[str, Standing]:
        """Where the base score of each task lies in relation to chance."""
        return {task.name: task.standing(task.base) for task in self.tasks}

    @property
    def lesioning(self) -> Lesioning:
        """What a lesion did to heads."""
        return Lesioning(lesion=self.iap["lesion"], value=self.iap["value"])

    @property
    def largest(self) -> Fraction | None:
        """The largest fraction, whose lesions are shown."""
        return self.fractions[-1] if self.fractions else None

    @property
    def strongest(self) -> Fraction | None:
        """The fraction whose D-score stands out most, which the verdict speaks of."""
        if self.over_fractions is None:
            return self.largest
        return next(
            each for each in self.fractions if each.fraction == self.over_fractions.strongest
        )

    def p_at(self, entry: Fraction, score: DScore) -> float:
        """Return p of a model's D-score at a fraction; with a look the test's where it is that."""
        only = len(self.fractions) == 1 and self.controls.look is not None
        if only and self.over_fractions is not None and entry.dissociation is not None:
            return self.over_fractions.p if score is entry.dissociation.column else score.mean_p
        return score.mean_p

    @property
    def bases(self) -> np.ndarray:
        """Each task's base score [tasks]."""
        return np.array([task.base for task in self.tasks])

    @property
    def control_bases(self) -> np.ndarray:
        """The same on the examples that exchanged and random lesions were measured on."""
        if self.controls.base is None:
            return self.bases
        return np.array([self.controls.base[task.name] for task in self.tasks])

    @property
    def divisors(self) -> np.ndarray:
        """What each task's changes are divided by [tasks]; NaN where there is nothing."""
        return np.array([task.base_divisor for task in self.tasks])

    @property
    def control_divisors(self) -> np.ndarray:
        """The same for the examples that exchanged and random lesions were measured on."""
        if self.controls.base is None:
            return self.divisors
        sampled = [task.divisor(self.controls.base[task.name]) for task in self.tasks]
        return np.where(np.isfinite(self.divisors), sampled, np.nan)

    @property
    def doubtful(self) -> tuple[Agreement, ...]:
        """The tasks whose importance agrees badly with ablating every head by itself."""
        return tuple(each for each in self.agreement or () if not each.spearman >= TRUSTED)

    @property
    def noisy(self) -> tuple[Importance, ...]:
        """The importance that other examples would order in another way."""
        return tuple(each for each in self.importance if each.reliability < RELIABLE)

    @property
    def estimates(self) -> tuple[tuple[Estimate, ...], tuple[str, ...]]:
        """Every estimate's mean agreement over the tasks that have all of them, the best first.

        Beside it, the names of the tasks left out. Empty where that was not measured.
        """
        found = [each for each in self.agreement or () if each.estimates]
        values = np.array([[one.spearman for one in each.estimates] for each in found]).T
        shared = shared_tasks(values) if found else np.empty(0, dtype=bool)
        if not shared.any():
            return (), ()
        means = mean_where(shared, values)
        first, order = found[0].estimates, np.argsort(-means, kind="stable")
        left_out = [each.task for each, kept in zip(found, shared, strict=True) if not kept]
        return (
            tuple(first[k].model_copy(update={"spearman": float(means[k])}) for k in order),
            tuple(left_out),
        )

    @model_validator(mode="after")
    def _fits(self) -> "RunResults":
        self._verdicts_fit()
        for name, choice in (("lesion", limits.LESION), ("value", limits.VALUE)):
            if not choice.allows(self.iap.get(name)):
                raise ValueError(
                    f"iap.{name} is {limits.short(self.iap.get(name))}; expected {choice}"
                )
        n, names = len(self.tasks), set(self.names)
        if len(names) < n:
            raise ValueError("two tasks have the same name")
        self._lesions_fit(n, names)
        maps = [(each.task, each.values) for each in self.importance]
        maps += [(each.task, each.values) for each in self.agreement or ()]
        for task, values in maps:
            _expect_known(names, [task])
            self._map_fits(values)
        if self.training is not None and self.training.iat is not None:
            self._iat_fits(self.training.iat)
        if self.similarity is not None:
            for values in (s.values for s in self.similarity.measures):
                expect_shape(values, (n, n), "similarity")
            expect_shape(self.similarity.pair_d_scores, (n, n), "pair_d_scores")
        for point in self.growth.points if self.growth else ():
            expect_shape(point.base, (n,), "base")
            _expect_known(names, [each.task for each in point.importance])
            for score in point.dissociation.values():
                expect_shape(score.values, (n,), "values")
            if len(point.stability) != len(point.importance):
                raise ValueError("stability has not one value for each map")
        return self

    def _verdicts_fit(self) -> None:
        self.verdict_on(verdict.SPECIALIZED)
        known = {verdict.SPECIALIZED}
        known |= {verdict.MORE_SPECIALIZED} if self.growth is not None else set()
        known |= {verdict.LESS_ALIKE} if self.similarity is not None else set()
        for each in self.verdicts:
            if each.claim not in known:
                raise ValueError(f"nothing was measured for the claim {each.claim!r}")

    def _lesions_fit(self, n: int, names: Set[str]) -> None:
        sizes = [entry.fraction for entry in self.fractions]
        if sizes != sorted(set(sizes)):
            raise ValueError("the fractions are not in ascending order")
        for entry in self.fractions:
            self._fraction_fits(entry, n)
            if entry.n_controls > self.controls.most:
                raise ValueError(
                    f"n_controls is {entry.n_controls:,}, but at most {self.controls.most:,} were "
                    f"asked for (controls.most)"
                )
        if self.over_fractions is not None:
            if self.over_fractions.strongest not in sizes:
                raise ValueError("the fraction that stands out most was not measured")
            expect_shape(self.over_fractions.standardized, (len(sizes),), "standardized")
            number = self.fractions[-1].n_controls
            if self.controls.look is None or number <= self.controls.look:
                expect_share(self.over_fractions.p, number, "over_fractions.p")
        if (self.controls.base is None) != (self.controls.sample is None):
            raise ValueError("controls has a sample without its base scores, or these without it")
        for known in (self.controls.base, self.controls.sample):
            if known is not None and set(known) != names:
                raise ValueError("controls has not one value for each task")

    def _fraction_fits(self, entry: Fraction, n: int) -> None:
        expect_shape(entry.scores, (n, n), "scores")
        if entry.score_intervals is not None:
            expect_shape(entry.score_intervals, (n, n, 2), "score_intervals")
        for name in ("control_scores", "random_scores"):
            if not getattr(entry, name).size:
                object.__setattr__(entry, name, np.empty((0, n, n)))
            expect_shape(getattr(entry, name), (-1, n, n), name)
        self._heads_fit(entry.lesions)
        for pair in entry.pairs:
            _expect_known(set(self.names), [pair.first, pair.second])
        if entry.dissociation is not None:
            for name in ("row", "column", "relative"):
                expect_shape(getattr(entry.dissociation, name).values, (n,), "values")

    def _iat_fits(self, iat: Iat) -> None:
        self._heads_fit(iat.heads)
        if not set(iat.heads) == set(iat.importance) == set(self.names):
            raise ValueError("iat does not have heads and importance for every task")
        for values in iat.importance.values():
            self._map_fits(values)

    def _heads_fit(self, heads: dict[str, Heads]) -> None:
        _expect_known(set(self.names), heads)
        for task, chosen in heads.items():
            if not self.model.holds(chosen):
                raise ValueError(f"the heads of {task} are not all heads of the model")

    def _map_fits(self, values: np.ndarray) -> None:
        sites = self.model.sites
        expect_shape(values, (len(sites), max(site.n_heads for site in sites)), "values")
        heads = np.arange(values.shape[1]) < [[site.n_heads] for site in sites]
        if (np.isfinite(values) != heads).any():
            raise ValueError("values has not one number for each head")


def _expect_known(names: Set[str], found: Iterable[str]) -> None:
    unknown = sorted(set(found) - names)
    if unknown:
        raise ValueError(f"there is no task {', '.join(unknown)}")
