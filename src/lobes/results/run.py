"""`results.json`: everything that one run measured, with its statistics and verdicts."""

import math
from collections.abc import Iterable, Set
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from lobes import limits
from lobes.dissociation import verdict
from lobes.dissociation.dscores import mean_where, shared_tasks
from lobes.metrics import Standing
from lobes.results.base import (
    Correlation,
    Count,
    Heads,
    Interval,
    Lesioning,
    Matrix,
    ModelRecord,
    Number,
    Record,
    Results,
    Settings,
    Share,
    TaskRecord,
    expect_shape,
    expect_share,
)
from lobes.results.beside_lesions import Agreement, Estimate, Growth, Similarity
from lobes.results.fractions import DScore, Fraction, OverFractions, expect_fractions
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
        expect_fractions([entry.fraction for entry in self.fractions], self.over_fractions)
        for entry in self.fractions:
            self._fraction_fits(entry, n)
            if entry.n_controls > self.controls.most:
                raise ValueError(
                    f"n_controls is {entry.n_controls:,}, but at most {self.controls.most:,} were "
                    f"asked for (controls.most)"
                )
        if self.over_fractions is not None:
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
            for score in entry.dissociation.by_definition.values():
                expect_shape(score.values, (n,), "values")

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
