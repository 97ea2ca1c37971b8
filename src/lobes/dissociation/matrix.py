"""The lesion matrix: predictions under lesions, and the statistics that follow from them.

`LesionMatrix` holds what was measured: each task's predictions with nothing ablated, with the
heads important to each task ablated, and under matched random lesions. Everything else follows
from it with no further run of a model: scores, three D-scores, paired bootstrap intervals, p-values
against the random lesions, and which pairs of tasks are doubly dissociated.

What it cannot do: the intervals and the pair tests speak of the validation examples of this one
model. How far another seed or another model would differ takes several runs. Tasks are resampled
independently of each other, also where they share their sentences. NumPy and SciPy only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from lobes import limits
from lobes.dissociation.dscores import FORMULAS, Dissociation, d_score, plural
from lobes.dissociation.pairs import controls_needed, pair_verdicts, pairs_of
from lobes.dissociation.statistics import (
    metric_interval,
    named_generator,
    paired_p_value,
    resample_counts,
)
from lobes.dissociation.verdict import ALPHA
from lobes.errors import ConfigError, DataError
from lobes.heads import HeadScores, HeadSet
from lobes.metrics import Metric, blocks, get_metric


@dataclass(frozen=True, slots=True)
class Lesion:
    """Heads ablated for one measurement, and why.

    `kind` is "none" (nothing ablated: the base), "task" (the heads important to `task`) or
    "control" (random heads matched to that task's lesion; `replicate` numbers them from 0).
    `fraction` is the share of all heads, above 0 and at most 1. Raises `ConfigError`, also for a
    task's lesion or a control without a head.
    """

    heads: HeadSet
    kind: Literal["none", "task", "control"]
    task: str = ""
    fraction: float = 0.0
    replicate: int = 0

    def __post_init__(self) -> None:
        if self.kind == "none":
            if len(self.heads) or self.task or self.fraction or self.replicate:
                raise ConfigError(
                    f'A lesion of kind "none" has no heads, task, fraction or replicate: {self}.'
                )
        elif self.kind not in ("task", "control"):
            raise ConfigError(
                f'A lesion is of kind "none", "task" or "control", not {self.kind!r}.'
            )
        elif not self.task or not 0 < self.fraction <= 1:
            raise ConfigError(
                f"A lesion of kind {self.kind!r} needs the name of a task and a fraction above 0 "
                f"and at most 1, not task {self.task!r} and fraction {self.fraction:g}."
            )
        elif not self.heads:
            raise ConfigError(
                f"The lesion of {self.task!r} at the fraction {self.fraction:g} has no head, so "
                f"that it would show nothing: take a fraction of one head or more."
            )
        elif self.replicate < 0 or (self.kind == "task" and self.replicate):
            raise ConfigError(f"Only controls have replicates, numbered from 0: {self}.")


@dataclass(frozen=True, eq=False)
class LesionMatrix:
    """The predictions of every task under every lesion.

    `labels[task]` is [examples], `predictions[task]` is [lesions, examples]: class indices, or
    real numbers for a regression task. Of a task with several labels for one example they are
    [examples, classes] and [lesions, examples, classes], 0 or 1. The first lesion is the base, of
    kind "none". The arrays are kept without a copy, and seen through read-only views. `importance`
    may be empty. Where controls were measured on some of the examples only, `sampled` holds them,
    and `lesions` none.

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

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"Expected one or more different tasks, not {list(self.tasks)}.")
        if len(self.metrics) != len(self.tasks):
            raise ConfigError(
                f"Expected one metric for each of {len(self.tasks)} tasks, not {len(self.metrics)}."
            )
        _check_lesions(self.lesions, self.tasks)
        labels, predictions = {}, {}
        for task, metric in zip(self.tasks, self.metrics, strict=True):
            labels[task] = _checked(self.labels, task, get_metric(metric), "labels")
            shape = len(self.lesions), *labels[task].shape
            predictions[task] = _checked(
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
            self._base_intervals[level] = np.array(
                [
                    metric_interval(
                        get_metric(name),
                        self.labels[task],
                        self.predictions[task][0],
                        level,
                        named_generator(0, task),
                    )
                    for task, name in zip(self.tasks, self.metrics, strict=True)
                ]
            )
        return self._base_intervals[level]

    def divisors(
        self, level: float = 0.95, *, zero: Float[np.ndarray, " tasks"] | float = 0.0
    ) -> Float[np.ndarray, " tasks"]:
        """Return the base scores above `zero`; NaN for those that nothing can be divided by.

        The rule is `Metric.is_divisor`: the base's own bootstrap interval must exclude `zero`, and
        the base lie above it by 5 % of the metric's range. A ratio to any other base would have an
        interval of hundreds of percent.
        """
        zeros, lows = np.broadcast_to(zero, len(self.tasks)), self.base_intervals(level)[:, 0]
        rows = zip(self.metrics, self.base, lows, zeros, strict=True)
        usable = [get_metric(name).is_divisor(base, low, start) for name, base, low, start in rows]
        return np.where(usable, self.base - zeros, np.nan)

    def scores(self, fraction: float | None = None) -> Float[np.ndarray, "tasks tasks"]:
        """Return M[i][j], task j's metric under the lesion of task i; NaN without a lesion.

        `fraction` defaults to the largest; `ConfigError` if there is no lesion of that fraction.
        """
        return self._rows("task", self.fraction_of(fraction), [0])[0]

    def control_scores(
        self, fraction: float | None = None
    ) -> Float[np.ndarray, "replicates tasks tasks"]:
        """Return one matrix per replicate: row i is the control matched to the lesion of task i."""
        chosen = self.fraction_of(fraction)
        if self.sampled is not None:
            return self.sampled.matrix.control_scores(chosen)
        replicates = {
            item.replicate
            for item in self.lesions
            if item.kind == "control" and item.fraction == chosen
        }
        return self._rows("control", chosen, sorted(replicates))

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
        from the task's chance level, that of all its labels also within a resample. A task whose
        base cannot be divided by (`divisors`) has no D-score: NaN, and `note` says why.

        Raises `ConfigError` with fewer than two tasks, and where a task lacks a lesion or one of
        the controls: D-scores need them all.
        """
        _check_statistics(resamples, seed, level)
        chosen = self.fraction_of(fraction)
        self._check_complete(chosen)
        if self.sampled is not None:
            self.sampled.matrix._check_complete(chosen)
        zero = self.chance if chance else np.zeros(len(self.tasks))
        base, matrix = self.divisors(level, zero=zero), self.scores(chosen) - zero
        whole = self if self.sampled is None else self.sampled.matrix
        there = whole.chance if chance else np.zeros(len(self.tasks))
        controls = whole.control_scores(chosen) - there
        same_base = np.where(np.isnan(base), np.nan, whole.base - there)
        same_scores = whole.scores(chosen)
        same_matrix = same_scores - there
        some_base, some_matrix = self.resampled(chosen, resamples, seed)
        some_base = np.where(np.isnan(base), np.nan, some_base - zero)
        some_matrix -= zero
        d_scores = {
            name: d_score(
                name,
                formula(matrix, base),
                formula(some_matrix, some_base),
                formula(controls, same_base),
                formula(same_matrix, same_base),
                level,
                self._undefined(base, matrix, zero, level),
            )
            for name, formula in FORMULAS.items()
        }
        pairs = pair_verdicts(
            self.tasks,
            matrix,
            self._paired_tests(chosen, resamples, seed, len(controls)),
            some_matrix,
            level,
            same_scores,
            whole.control_scores(chosen),
        )
        return Dissociation(
            self.tasks,
            chosen,
            **d_scores,
            pairs=pairs,
            level=level,
            resamples=resamples,
            above_chance=self.above_chance,
            chance=chance,
        )

    def summary(self, fraction: float | None = None) -> str:
        """Return a table of the base scores and those under the lesions of one fraction."""
        n_controls = sum(item.kind == "control" for item in self.lesions)
        n_task = len(self.lesions) - 1 - n_controls
        table = [
            ["", *self.tasks],
            ["metric", *self.metrics],
            ["examples", *(f"{len(self.labels[task]):,}" for task in self.tasks)],
            ["nothing ablated", *_three_decimals(self.base)],
        ]
        title = (
            f"{plural(len(self.tasks), 'task')}, {plural(n_task, 'lesion')}, "
            f"{plural(n_controls, 'control')}"
        )
        if self.fractions or fraction is not None:
            chosen = self.fraction_of(fraction)
            title += f"; ablated: {100 * chosen:g} % of the heads"
            for task, scores in zip(self.tasks, self.scores(chosen), strict=True):
                table.append([f"heads of {task}", *_three_decimals(scores)])
            controls = self.control_scores(chosen)
            if controls.size:
                table.append(["random heads, mean", *_three_decimals(controls.mean(axis=(0, 1)))])
        return "\n".join([title, "", *_aligned(table)])

    def __str__(self) -> str:
        return self.summary()

    @cached_property
    def _scores(self) -> Float[np.ndarray, "lesions tasks"]:
        """Every task's metric under every lesion."""
        scores = np.empty((len(self.lesions), len(self.tasks)))
        for j, (task, name) in enumerate(zip(self.tasks, self.metrics, strict=True)):
            metric, labels, predictions = (
                get_metric(name),
                self.labels[task],
                self.predictions[task],
            )
            once = np.ones((1, len(labels)))
            for block in blocks(len(self.lesions), labels.size):
                scores[block, j] = metric.weighted(labels, predictions[block], once)[:, 0]
        return scores

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

    def _check_complete(self, fraction: float) -> None:
        if len(self.tasks) < 2:
            raise ConfigError(
                f"A D-score compares tasks: two or more are needed, and this matrix has only "
                f"{self.tasks[0]!r}."
            )
        present = {
            (item.kind, item.replicate) for item in self.lesions if item.fraction == fraction
        }
        for kind, replicate in sorted(present):
            missing = [
                task
                for task in self.tasks
                if (kind, task, fraction, replicate) not in self._positions
            ]
            if missing:
                which = "lesion" if kind == "task" else f"control lesion (replicate {replicate})"
                raise ConfigError(
                    f"D-scores at the fraction {fraction:g} need a {which} for every task; there "
                    f"is none for {', '.join(missing)}."
                )

    def _lesion_predictions(self, task: str, lesion: str, fraction: float) -> np.ndarray:
        return self.predictions[task][self._positions["task", lesion, fraction, 0]]

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

        `seeds` decides what is drawn: one for all tasks, or one for each. Raises `ConfigError` for
        a number of resamples beyond its limit.
        """
        limits.check_number("resamples", resamples, limits.RESAMPLES)
        n_tasks = len(self.tasks)
        base, matrix = np.empty((resamples, n_tasks)), np.empty((resamples, n_tasks, n_tasks))
        positions = [0, *(self._positions["task", task, fraction, 0] for task in self.tasks)]
        for j, (task, name) in enumerate(zip(self.tasks, self.metrics, strict=True)):
            labels, predictions = self.labels[task], self.predictions[task][positions]
            seed = seeds if isinstance(seeds, int) else seeds[task]
            generator = named_generator(seed, task)
            for block in blocks(resamples, labels.size):
                weights = resample_counts(len(labels), block.stop - block.start, generator)
                values = get_metric(name).weighted(labels, predictions, weights)
                base[block, j] = values[0]
                matrix[block, :, j] = values[1:].T
        return base, matrix

    def _paired_tests(
        self, fraction: float, resamples: int, seed: int, controls: int
    ) -> list[tuple[float, float]]:
        """The p of both effects of every pair of tasks."""
        pairs, draws = pairs_of(self.tasks), resamples
        if controls >= controls_needed(len(pairs)):
            # So that the smallest possible p of a pair can pass the correction for all of them;
            # with fewer controls no pair can be called, whatever its p.
            draws = max(resamples, round(2 / ALPHA) * len(pairs))
        return [
            (self._pair_p(i, j, fraction, draws, seed), self._pair_p(j, i, fraction, draws, seed))
            for i, j in pairs
        ]

    def _pair_p(self, i: int, j: int, fraction: float, draws: int, seed: int) -> float:
        """p that task i does better under task j's lesion than under its own."""
        task, other = self.tasks[i], self.tasks[j]
        return paired_p_value(
            get_metric(self.metrics[i]),
            self.labels[task],
            self._lesion_predictions(task, task, fraction),
            self._lesion_predictions(task, other, fraction),
            draws=draws,
            generator=named_generator(seed, task, other),
        )

    def _undefined(
        self,
        base: Float[np.ndarray, " tasks"],
        matrix: Float[np.ndarray, "tasks tasks"],
        zero: Float[np.ndarray, " tasks"],
        level: float,
    ) -> list[str]:
        """Why tasks have no D-score: a sentence for each."""
        reasons, intervals = [], self.base_intervals(level)
        for j, (task, name) in enumerate(zip(self.tasks, self.metrics, strict=True)):
            if np.isnan(self.base[j]) or np.isnan(matrix[:, j]).any():
                reasons.append(
                    f"The {name} of {task} is undefined: labels or predictions are constant."
                )
            elif np.isnan(base[j]):
                low, high = intervals[j]
                reasons.append(
                    f"The base {name} of {task} ({self.base[j]:.3f}, {100 * level:g} % interval "
                    f"{low:.3f} to {high:.3f}) is too close to "
                    f"{f'chance ({zero[j]:.3f})' if zero[j] else 'zero'}, or below it, to be "
                    f"divided by."
                )
        return reasons


@dataclass(frozen=True, eq=False)
class Sampled:
    """Controls that were measured on a sample of the examples.

    `matrix` holds them together with the base and the tasks' lesions, all on the sample:
    `examples[task]` are the places of its examples among all, ascending.
    """

    matrix: LesionMatrix
    examples: Mapping[str, Int[np.ndarray, " _"]]


def _check_statistics(resamples: int, seed: int, level: float) -> None:
    for name, value, limit in (
        ("resamples", resamples, replace(limits.RESAMPLES, least=1)),
        ("seed", seed, limits.SEED),
        ("level", level, limits.LEVEL),
    ):
        limits.check_number(name, value, limit)


def _check_lesions(lesions: tuple[Lesion, ...], tasks: tuple[str, ...]) -> None:
    if [item.kind == "none" for item in lesions] != [True] + [False] * (len(lesions) - 1):
        raise ConfigError('The first lesion, and no other, is of kind "none": the base scores.')
    seen = set()
    for item in lesions[1:]:
        if item.task not in tasks:
            raise ConfigError(
                f"A lesion belongs to the task {item.task!r}, which is none of {', '.join(tasks)}."
            )
        key = (item.kind, item.task, item.fraction, item.replicate)
        if key in seen:
            raise ConfigError(
                f"Two lesions of kind {item.kind!r} have the task {item.task!r}, the fraction "
                f"{item.fraction:g} and the replicate {item.replicate}: expected one."
            )
        seen.add(key)


def _checked(
    arrays: Mapping[str, np.ndarray], task: str, metric: Metric, what: str, *shape: int
) -> np.ndarray:
    """A read-only view of a task's labels or predictions, of the given shape and a fitting type."""
    if task not in arrays:
        raise DataError(f"There are no {what} for the task {task!r}.")
    array = np.asarray(arrays[task])
    if shape and array.shape != shape:
        raise DataError(
            f"The predictions of {task!r} have the shape {array.shape}; expected "
            f"[lesions, examples{', classes' if len(shape) > 2 else ''}], here {shape}."
        )
    dimensions = (1, 2) if metric.for_multi_label else (1,)
    if not shape and (array.ndim not in dimensions or not array.size):
        several = ", or 0 or 1 for each of its classes" if metric.for_multi_label else ""
        raise DataError(
            f"The labels of {task!r} have the shape {array.shape}; expected one label for each "
            f"of one or more examples{several}."
        )
    if metric.for_regression:
        finite = array.dtype.kind in "iuf" and np.isfinite(array)
        if not np.all(finite):
            at = ""
            if array.dtype.kind == "f":
                *lesion, example = np.unravel_index(np.argmin(finite), array.shape)
                under = f"under lesion {lesion[0]} " if lesion else ""
                at = f": the one of example {example} {under}is {array[*lesion, example]:g}"
            raise DataError(
                f"The {what} of {task!r} are not all finite numbers ({metric.name}){at}."
            )
    elif array.dtype.kind not in "iu":
        raise DataError(
            f"The {what} of {task!r} are class indices, whole numbers ({metric.name}); got "
            f"{array.dtype}."
        )
    elif array.ndim - bool(shape) == 2 and not np.isin(array, (0, 1)).all():
        raise DataError(f"The {what} of {task!r} are 0 or 1 for each class ({metric.name}).")
    view = array.view()
    view.setflags(write=False)
    return view


def _three_decimals(scores: np.ndarray) -> list[str]:
    return ["undefined" if math.isnan(score) else f"{score:.3f}" for score in scores]


def _aligned(table: list[list[str]]) -> list[str]:
    """The rows as lines: the first column to the left, the others to the right."""
    first = max(len(cells[0]) for cells in table)
    widths = [
        max(len(cell) for cell in cells) for cells in zip(*(r[1:] for r in table), strict=True)
    ]
    return [
        "  ".join(
            [cells[0].ljust(first)]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths, strict=True)]
        ).rstrip()
        for cells in table
    ]
