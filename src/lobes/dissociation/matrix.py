"""The lesion matrix: predictions under lesions, and the statistics that follow from them.

`LesionMatrix` holds what was measured: each task's predictions with nothing ablated, with the
heads important to each task ablated, with these heads exchanged between the tasks, and under
matched random lesions. Everything else follows from it with no further run of a model: scores,
three D-scores, paired bootstrap intervals, the exchange test, and which pairs of tasks are doubly
dissociated.

What it cannot do: the intervals and the pair tests speak of the validation examples of this one
model. How far another seed or another model would differ takes several runs. Tasks are resampled
independently of each other, also where they share their sentences. NumPy and SciPy only.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from lobes import limits
from lobes.dissociation.answers import checked_answers
from lobes.dissociation.at_fraction import dissociation_at
from lobes.dissociation.dscores import Dissociation, plural
from lobes.dissociation.exchange import Exchange
from lobes.dissociation.lesions import Lesion, check_lesions
from lobes.dissociation.over_fractions import OverFractions, over_fractions
from lobes.dissociation.pairs import PairEffects, effects_of_two, pairs_of
from lobes.dissociation.statistics import metric_intervals, named_generator, resample_counts
from lobes.dissociation.summary import summary
from lobes.errors import ConfigError
from lobes.heads import HeadLayout
from lobes.metric_formulas import blocks
from lobes.metrics import get_metric
from lobes.scores import HeadScores
from lobes.shown import Shown, showing


@dataclass(frozen=True, eq=False)
class LesionMatrix(Shown):
    """The predictions of every task under every lesion.

    `labels[task]` is [examples], `predictions[task]` is [lesions, examples]: class indices, or
    real numbers for a regression task. Of a task with several labels for one example they are
    [examples, classes] and [lesions, examples, classes], 0 or 1. The first lesion is the base, of
    kind "none". The arrays are kept without a copy, and seen through read-only views. `importance`
    may be empty. Where exchanged and random lesions were measured on some of the examples only,
    `sampled` holds them, and `lesions` none. With `keep` the heads of a lesion are those that
    stayed in, and all others were ablated.

    `look` is after how many exchanges the study might stop (`stopping.py`); None where it might
    not. With three tasks or more, `exchanged_pairs[first, second]` are the effects of the largest
    fraction with heads exchanged between these two tasks alone.

    `layout` and `settings` say of which heads and how it was measured (the fields of
    `IapSettings`), where that is known: reports show it.

    Raises `DataError` for arrays that do not fit, `ConfigError` for tasks, metrics or lesions
    that do not.
    """

    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    lesions: tuple[Lesion, ...]
    predictions: Mapping[str, np.ndarray]
    importance: Mapping[str, HeadScores] = field(default_factory=dict)
    sampled: "Sampled | None" = None
    keep: bool = False
    look: int | None = None
    exchanged_pairs: Mapping[tuple[str, str], PairEffects] = field(default_factory=dict)
    layout: HeadLayout | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    def __repr__(self) -> str:
        kinds = [item.kind for item in self.reference.lesions]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("exchanged", "random"))
        lesions = f"{plural(kinds.count('task'), 'lesion')} of tasks, {counts}"
        return f"LesionMatrix({', '.join(self.tasks)}: {lesions})"

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"Expected one or more different tasks, not {list(self.tasks)}.")
        if len(self.metrics) != len(self.tasks):
            raise ConfigError(
                f"Expected one metric for each of {len(self.tasks)} tasks, not {len(self.metrics)}."
            )
        check_lesions(self.lesions, self.tasks)
        labels, predictions = {}, {}
        for task, metric in zip(self.tasks, self.metrics, strict=True):
            labels[task] = checked_answers(self.labels, task, get_metric(metric), "labels")
            shape = len(self.lesions), *labels[task].shape
            predictions[task] = checked_answers(
                self.predictions, task, get_metric(metric), "predictions", *shape
            )
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "predictions", predictions)

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions at which the heads of a task were ablated, ascending."""
        return tuple(sorted({item.fraction for item in self.lesions if item.kind == "task"}))

    @property
    def base(self) -> Float[np.ndarray, " tasks"]:
        """B[j]: task j's metric with nothing ablated."""
        return self._scores[0].copy()

    @property
    def all_scores(self) -> Float[np.ndarray, "lesions tasks"]:
        """Every task's metric under every lesion, in the order of `lesions`."""
        return self._scores.copy()

    @property
    def chance(self) -> Float[np.ndarray, " tasks"]:
        """Each task's chance level: what its metric gives whoever knows the labels' shares only."""
        named = zip(self.tasks, self.metrics, strict=True)
        return np.array([get_metric(name).chance(self.labels[task]) for task, name in named])

    @property
    def above_chance(self) -> tuple[bool, ...]:
        """Whether each task's base score lies clearly above chance (`Metric.standing`)."""
        rows = zip(self.tasks, self.metrics, self._scores[0], self.chance, strict=True)
        return tuple(
            get_metric(name).standing(base, chance, len(self.labels[task])) == "above"
            for task, name, base, chance in rows
        )

    def base_intervals(self, level: float = 0.95) -> Float[np.ndarray, "tasks 2"]:
        """Return the bootstrap interval of every base score over the task's examples."""
        if level not in self._base_intervals:
            self._base_intervals[level] = self._intervals([0], level)[0]
        return self._base_intervals[level]

    def score_intervals(
        self, fraction: float | None = None, level: float = 0.95
    ) -> Float[np.ndarray, "tasks tasks 2"]:
        """Return the bootstrap interval of every score in `scores(fraction)`: low and high.

        NaN without a lesion. Each interval is that of one score by itself, over the task's
        examples: whether two scores differ is for the paired intervals of `dissociation` to say.
        `fraction` defaults to the largest; `ConfigError` if there is no lesion of that fraction.
        """
        chosen, n = self.fraction_of(fraction), len(self.tasks)
        found = np.full((n, n, 2), np.nan)
        known = {
            i: self._positions["task", task, chosen, 0]
            for i, task in enumerate(self.tasks)
            if ("task", task, chosen, 0) in self._positions
        }
        found[list(known)] = self._intervals(list(known.values()), level)
        return found

    def divisors(
        self, level: float = 0.95, *, zero: Float[np.ndarray, " tasks"] | float = 0.0
    ) -> Float[np.ndarray, " tasks"]:
        """Return the base scores above `zero`; NaN for those that nothing can be divided by.

        Of a metric without bounds the standard deviation of the examples' values with nothing
        ablated. The rule for the others is `Metric.is_divisor`: the base's own bootstrap interval
        must exclude `zero`, and the base lie above it by 5 % of the metric's range. A ratio to any
        other base would have an interval of hundreds of percent.
        """
        zeros, lows = np.broadcast_to(zero, len(self.tasks)), self.base_intervals(level)[:, 0]
        rows = zip(self.metrics, self.base, lows, zeros, strict=True)
        usable = [get_metric(name).is_divisor(base, low, start) for name, base, low, start in rows]
        return self.scaled(np.where(usable, self.base - zeros, np.nan))

    def scores(self, fraction: float | None = None) -> Float[np.ndarray, "tasks tasks"]:
        """Return M[i][j], task j's metric under the lesion of task i; NaN without a lesion.

        `fraction` defaults to the largest; `ConfigError` if there is no lesion of that fraction.
        """
        return self._rows("task", self.fraction_of(fraction), [0])[0]

    def control_scores(
        self, fraction: float | None = None
    ) -> Float[np.ndarray, "replicates tasks tasks"]:
        """Return one matrix per exchange: row i is the lesion dealt to task i."""
        return self.reference._replicates("exchanged", self.fraction_of(fraction))

    def random_scores(
        self, fraction: float | None = None
    ) -> Float[np.ndarray, "replicates tasks tasks"]:
        """Return one matrix per replicate: row i is the random lesion matched to that of task i."""
        return self.reference._replicates("random", self.fraction_of(fraction))

    @property
    def reference(self) -> "LesionMatrix":
        """The matrix with the exchanged and random lesions: this one, or that of the sample."""
        return self if self.sampled is None else self.sampled.matrix

    @cached_property
    def exchange(self) -> Exchange | None:
        """The deals of the tasks' heads; None with one task, or where some task has no lesion."""
        sets = {
            fraction: [
                item.heads
                for task in self.tasks
                for item in self.lesions
                if (item.kind, item.task, item.fraction) == ("task", task, fraction)
            ]
            for fraction in self.fractions
        }
        complete = all(len(each) == len(self.tasks) for each in sets.values())
        return Exchange(sets) if sets and complete and len(self.tasks) > 1 else None

    def oriented(
        self, scores: Float[np.ndarray, "*batch tasks tasks"]
    ) -> Float[np.ndarray, "*batch tasks tasks"]:
        """Return scores whose D-scores are above 0 where a task's own heads matter more to it.

        They do where its own lesion leaves it less, or, of lesions that keep heads, more.
        """
        return -scores if self.keep else scores

    def changes(
        self,
        scores: Float[np.ndarray, "*#batch tasks tasks"],
        base: Float[np.ndarray, "*#batch tasks"],
    ) -> Float[np.ndarray, "... tasks tasks"]:
        """Return scores that can be divided by `divisors`: as they are where there is a zero.

        Of a metric without bounds they are the changes from the base scores.
        """
        return np.where(self._is_unbounded, scores - base[..., None, :], scores)

    def dissociation(
        self,
        fraction: float | None = None,
        *,
        resamples: int = 1000,
        seed: int = 0,
        level: float = 0.95,
        chance: bool = False,
    ) -> Dissociation:
        """Return the D-scores at one fraction (default: the largest), with intervals and tests.

        Intervals: a paired bootstrap of `resamples` resamples over each task's examples, the same
        resample for the base and all lesions of a task. With `chance`, all scores are measured
        from the task's chance level, that of all its labels also within a resample. The D-score of
        a metric without bounds is in percent of the spread of its examples' values
        (docs/method.md#means-of-losses-and-scores). A task whose base cannot be divided by
        (`divisors`) has no D-score: NaN, and `note` says why.

        Raises `ConfigError` with fewer than two tasks, and where a task lacks a lesion or one of
        the controls: D-scores need them all.
        """
        return dissociation_at(
            self, fraction, resamples=resamples, seed=seed, level=level, chance=chance
        )

    def over_fractions(
        self, *, resamples: int = 1000, seed: int = 0, level: float = 0.95, chance: bool = False
    ) -> OverFractions:
        """Return one test of the D-scores at all fractions together; see `dissociation`."""
        return over_fractions(
            [
                self.dissociation(
                    fraction, resamples=resamples, seed=seed, level=level, chance=chance
                )
                for fraction in self.fractions
            ],
            self.look,
        )

    def pair_effects(self, fraction: float | None = None) -> list[PairEffects]:
        """Return what every pair of tasks is tested by, in the order of `pairs_of`.

        No replicate where none was measured: with three tasks or more below the largest fraction.
        Of two tasks those up to the look, if there is one, whether or not the study stopped there.
        """
        chosen = self.fraction_of(fraction)
        if len(self.tasks) == 2:
            scores = self.reference.scores(chosen), self.control_scores(chosen)[: self.look]
            observed, exchanged = (effects_of_two(self.oriented(each)) for each in scores)
            return [PairEffects(observed, exchanged, self.units)]
        known = self.exchanged_pairs if chosen == self.fractions[-1] else {}
        none = PairEffects(np.full(2, np.nan), np.empty((0, 2)))
        pairs = [(self.tasks[i], self.tasks[j]) for i, j in pairs_of(self.tasks)]
        return [known.get(pair, none) for pair in pairs]

    def summary(self, fraction: float | None = None) -> str:
        """Return a table of the base scores and those under the lesions of one fraction."""
        return summary(self, fraction)

    def __str__(self) -> str:
        return self.summary()

    def report(self, path: str | os.PathLike[str], *, name: str = "lesion matrix") -> Path:
        """Write the report of a run, as one HTML page, and return where it is.

        It has what `lobes run` reports of importance, lesions and their dissociation. Raises
        `RunError` where the file cannot be written.
        """
        target = limits.as_path("The page", path, written=True)
        if not isinstance(name, str):
            raise ConfigError(f"name is {limits.short(name)}; expected a text.")
        return Path(showing().write_report(self, target, name))

    @cached_property
    def _is_unbounded(self) -> Bool[np.ndarray, " tasks"]:
        return np.array([get_metric(name).is_unbounded for name in self.metrics])

    @cached_property
    def spreads(self) -> Float[np.ndarray, " tasks"]:
        """Each task's standard deviation of the examples' values with nothing ablated.

        NaN where the metric has bounds, or all values are the same.
        """
        found = np.full(len(self.tasks), np.nan)
        for j in np.flatnonzero(self._is_unbounded):
            values = self.predictions[self.tasks[j]][0].astype(np.float64)
            # of a constant the deviation is rounding error
            if len(values) > 1 and np.ptp(values) > 0:
                found[j] = values.std(ddof=1)
        return found

    @property
    def units(self) -> Float[np.ndarray, " tasks"]:
        """What effects are compared in: the spread where a metric has no bounds, else 1."""
        return np.where(np.isfinite(self.spreads), self.spreads, 1.0)

    def scaled(self, base: Float[np.ndarray, "*batch tasks"]) -> Float[np.ndarray, "*batch tasks"]:
        """What D-scores are divided by: the spread where a metric has no bounds, else the base."""
        return np.where(self._is_unbounded, self.spreads, base)

    @cached_property
    def _scores(self) -> Float[np.ndarray, "lesions tasks"]:
        """Every task's metric under every lesion."""
        scores = np.empty((len(self.lesions), len(self.tasks)))
        for j, (task, name) in enumerate(zip(self.tasks, self.metrics, strict=True)):
            labels, predictions = self.labels[task], self.predictions[task]
            once = np.ones((1, len(labels)))
            for block in blocks(len(self.lesions), labels.size):
                found = get_metric(name).weighted(labels, predictions[block], once)
                scores[block, j] = found[:, 0]
        return scores

    def _intervals(
        self, positions: list[int], level: float
    ) -> Float[np.ndarray, "lesions tasks 2"]:
        """The interval of every task's score under the lesions at some positions."""
        of_tasks = [
            metric_intervals(
                get_metric(name),
                self.labels[task],
                self.predictions[task][positions],
                level,
                named_generator(0, task),
            )
            for task, name in zip(self.tasks, self.metrics, strict=True)
        ]
        return np.stack(of_tasks, axis=1)

    @cached_property
    def _base_intervals(self) -> dict[float, np.ndarray]:
        """The intervals of the base scores that were asked for, by level."""
        return {}

    @cached_property
    def _positions(self) -> dict[tuple[str, str, float, int], int]:
        return {
            (item.kind, item.task, item.fraction, item.replicate): position
            for position, item in enumerate(self.lesions)
        }

    def _replicates(self, kind: str, fraction: float) -> np.ndarray:
        """The scores [replicates, tasks, tasks] of the exchanged or random lesions."""
        replicates = {
            item.replicate
            for item in self.lesions
            if item.kind == kind and item.fraction == fraction
        }
        return self._rows(kind, fraction, sorted(replicates))

    def _rows(self, kind: str, fraction: float, replicates: list[int]) -> np.ndarray:
        """The scores [replicates, tasks, tasks] of the lesions of one kind; NaN where missing."""
        scores = np.full((len(replicates), len(self.tasks), len(self.tasks)), np.nan)
        for r, replicate in enumerate(replicates):
            for i, task in enumerate(self.tasks):
                position = self._positions.get((kind, task, fraction, replicate))
                if position is not None:
                    scores[r, i] = self._scores[position]
        return scores

    def fraction_of(self, fraction: float | None) -> float:
        """Return the measured fraction that equals `fraction`, by default the largest.

        Raises `ConfigError` where there is none.
        """
        if not self.fractions:
            raise ConfigError("This matrix holds no lesion of a task, only base scores.")
        if fraction is None:
            return self.fractions[-1]
        for known in self.fractions:
            if math.isclose(known, fraction):
                return known
        raise ConfigError(
            f"No lesion has the fraction {fraction:g}: this matrix has "
            f"{', '.join(f'{known:g}' for known in self.fractions)}."
        )

    def lesion(self, task: str, fraction: float | None = None) -> Lesion:
        """Return a task's lesion at one fraction (the largest); `ConfigError` without one."""
        chosen = self.fraction_of(fraction)
        position = self._positions.get(("task", task, chosen, 0))
        if position is None:
            raise ConfigError(f"The task {task!r} has no lesion of the fraction {chosen:g}.")
        return self.lesions[position]

    def resampled(
        self, fraction: float, resamples: int, seeds: int | Mapping[str, int]
    ) -> tuple[Float[np.ndarray, "resamples tasks"], Float[np.ndarray, "resamples tasks tasks"]]:
        """Return base scores and matrices on resampled examples, shared by a task's lesions.

        `seeds` decides what is drawn: one for all tasks, or one for each. NaN without a lesion.
        Raises `ConfigError` for a number of resamples beyond its limit, or another fraction.
        """
        limits.check_number("resamples", resamples, limits.RESAMPLES)
        n_tasks, chosen = len(self.tasks), self.fraction_of(fraction)
        base = np.empty((resamples, n_tasks))
        matrix = np.full((resamples, n_tasks, n_tasks), np.nan)
        keys = [("task", task, chosen, 0) for task in self.tasks]
        rows = [i for i, key in enumerate(keys) if key in self._positions]
        positions = [0, *(self._positions[keys[i]] for i in rows)]
        for j, (task, name) in enumerate(zip(self.tasks, self.metrics, strict=True)):
            labels, predictions = self.labels[task], self.predictions[task][positions]
            seed = seeds if isinstance(seeds, int) else seeds[task]
            generator = named_generator(seed, task)
            for block in blocks(resamples, labels.size):
                weights = resample_counts(len(labels), block.stop - block.start, generator)
                values = get_metric(name).weighted(labels, predictions, weights)
                base[block, j] = values[0]
                matrix[block, rows, j] = values[1:].T
        return base, matrix

    def drawn(
        self,
        fraction: float,
        resamples: int,
        seeds: int | Mapping[str, int],
        level: float = 0.95,
        *,
        zero: Float[np.ndarray, " tasks"] | float = 0.0,
    ) -> tuple[Float[np.ndarray, "resamples tasks"], Float[np.ndarray, "resamples tasks tasks"]]:
        """Return what D-scores on resampled examples are computed from: divisors and scores.

        As D-scores on all examples are: measured from `zero`, oriented, and NaN for a task whose
        base score on all examples nothing can be divided by (`divisors`).
        """
        base, scores = self.resampled(fraction, resamples, seeds)
        known = np.isfinite(self.divisors(level, zero=zero))
        divisors = np.where(known, self.scaled(base - zero), np.nan)
        return divisors, self.oriented(self.changes(scores, base) - zero)


@dataclass(frozen=True, eq=False)
class Sampled:
    """Exchanged and random lesions that were measured on a sample of the examples.

    `matrix` holds them together with the base and the tasks' lesions, all on the sample:
    `examples[task]` are the places of its examples among all, ascending.
    """

    matrix: LesionMatrix
    examples: Mapping[str, Int[np.ndarray, " _"]]
