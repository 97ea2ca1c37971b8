"""The three D-scores of docs/method.md#d-scores, with their statistics and verdict.

Formulas on plain arrays first, then the values that hold a result: `DScore`, `Dissociation` and its
verdict in words. `at_fraction.py` computes them from a lesion matrix, `verdict.py` has the rule.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from lobes.dissociation.pairs import PairVerdict
from lobes.dissociation.statistics import (
    TIE,
    UNDEFINED_SHARE,
    p_against_controls,
    percentile_interval,
)
from lobes.dissociation.verdict import (
    Evidence,
    Verdict,
    barred_pairs,
    controls_needed,
    not_above_0,
    specialized,
    without_d_score,
)
from lobes.shown import Shown

DScoreName = Literal["row", "column", "relative"]


def row(
    matrix: Float[np.ndarray, "*#batch tasks tasks"], base: Float[np.ndarray, "*#batch tasks"]
) -> Float[np.ndarray, "... tasks"]:
    """Return 100 · (mean_{j≠i} M[i][j] − M[i][i]) / B[i]: one lesion, the other tasks' raw scores.

    The score of the published code. It mixes the tasks' scales: unequal bases alone move it.
    """
    return 100 * (_mean_of_others(matrix, -1) - _own(matrix)) / _divisor(base)


def column(
    matrix: Float[np.ndarray, "*#batch tasks tasks"], base: Float[np.ndarray, "*#batch tasks"]
) -> Float[np.ndarray, "... tasks"]:
    """Return 100 · (mean_{j≠i} M[j][i] − M[i][i]) / B[i]: one task, the other tasks' lesions.

    0 where every lesion costs the task the same. The headline.
    """
    return 100 * (_mean_of_others(matrix, -2) - _own(matrix)) / _divisor(base)


def relative(
    matrix: Float[np.ndarray, "*#batch tasks tasks"], base: Float[np.ndarray, "*#batch tasks"]
) -> Float[np.ndarray, "... tasks"]:
    """Return 100 · (mean_{j≠i} M[i][j]/B[j] − M[i][i]/B[i]): `row` with each task on its own
    scale.
    """
    scaled = matrix / _divisor(base)[..., None, :]
    return 100 * (_mean_of_others(scaled, -1) - _own(scaled))


def _own(matrix: np.ndarray) -> np.ndarray:
    return np.diagonal(matrix, axis1=-2, axis2=-1)


def _mean_of_others(matrix: np.ndarray, axis: Literal[-1, -2]) -> np.ndarray:
    n_tasks = matrix.shape[-1]
    return np.where(np.eye(n_tasks, dtype=bool), 0.0, matrix).sum(axis=axis) / (n_tasks - 1)


def _divisor(base: np.ndarray) -> np.ndarray:
    return np.where(base == 0, np.nan, base)


FORMULAS: Mapping[DScoreName, Callable[..., np.ndarray]] = {
    "row": row,
    "column": column,
    "relative": relative,
}


@dataclass(frozen=True, slots=True, eq=False)
class DScore:
    """One D-score of every task, in percent, with its statistics.

    `values` [tasks], `interval` [tasks, 2] and `p_values` [tasks] are the tasks'; `mean`,
    `mean_interval` and `mean_p` are the model's, over the tasks whose value is defined.
    `control_values` [replicates, tasks] are the same score of the exchanged
    lesions, against which p is, and `random_values` that of the random lesions, with `random_p`
    that of the model against them. `note`
    says what is undefined, and why.

    `compared` [tasks] is what these are compared with, and `compared_mean` its mean over the same
    tasks: `values`, or where they were measured on some of the examples only, the score on those.
    """

    name: DScoreName
    values: Float[np.ndarray, " tasks"]
    mean: float
    interval: Float[np.ndarray, "tasks 2"]
    mean_interval: tuple[float, float]
    control_values: Float[np.ndarray, "replicates tasks"]
    p_values: Float[np.ndarray, " tasks"]
    mean_p: float
    compared: Float[np.ndarray, " tasks"]
    compared_mean: float
    random_values: Float[np.ndarray, "randoms tasks"]
    random_p: float
    note: str | None = None

    def __repr__(self) -> str:
        return f"DScore({self.name} {self.summary})"

    @property
    def summary(self) -> str:
        """The model's score in a few words: `+5.3 % (+3.6 to +7.2), p = 0.025`."""
        low, high = self.mean_interval
        p = "" if math.isnan(self.mean_p) else f", p = {self.mean_p:.2g}"
        return f"{self.mean:+.1f} % ({low:+.1f} to {high:+.1f}){p}"

    @property
    def control_means(self) -> Float[np.ndarray, " replicates"]:
        """Each exchange's mean over the tasks that `mean` is over."""
        return mean_where(np.isfinite(self.values), self.control_values)

    @property
    def random_means(self) -> Float[np.ndarray, " randoms"]:
        """The same of the random lesions."""
        return mean_where(np.isfinite(self.values), self.random_values)

    @property
    def standardized(self) -> Float[np.ndarray, " tasks"]:
        """(D − mean of the exchanges) / their standard deviation: how far beyond chance."""
        return standardized(self.compared, self.control_values)

    @property
    def mean_standardized(self) -> float:
        """The same of the model's mean."""
        return _standardized(self.compared_mean, self.control_means)

    @property
    def random_standardized(self) -> float:
        """The same of the model's mean and the random lesions."""
        return _standardized(self.compared_mean, self.random_means)


def d_score(
    name: DScoreName,
    values: Float[np.ndarray, " tasks"],
    resampled: Float[np.ndarray, "resamples tasks"],
    exchanged: Float[np.ndarray, "replicates tasks"],
    random: Float[np.ndarray, "randoms tasks"],
    compared: Float[np.ndarray, " tasks"],
    level: float,
    reasons: list[str],
) -> DScore:
    """Return a D-score with its statistics, from its values and those of other lesions.

    `compared` are the values on the examples of the exchanged and random lesions. `reasons` are
    sentences on why tasks have no score; they become part of the note.
    """
    defined = np.isfinite(values)
    mean = mean_where(defined, values[None])
    interval = percentile_interval(resampled, level)
    mean_interval = percentile_interval(mean_where(defined, resampled)[:, None], level)[0]
    sentences = list(reasons)
    if reasons and defined.any():
        sentences.append(f"The mean is over the remaining {plural(int(defined.sum()), 'task')}.")
    if np.isnan(interval[defined]).any():
        sentences.append(
            f"Where more than {UNDEFINED_SHARE:.0%} of the resamples are undefined, there is no "
            f"interval."
        )
    compared = np.where(defined, compared, np.nan)
    compared_mean = mean_where(defined, compared[None])
    mean_p, random_p = (
        float(p_against_controls(compared_mean, mean_where(defined, each)[:, None])[0])
        for each in (exchanged, random)
    )
    return DScore(
        name=name,
        values=values,
        mean=float(mean[0]),
        interval=interval,
        mean_interval=(float(mean_interval[0]), float(mean_interval[1])),
        control_values=exchanged,
        p_values=p_against_controls(compared, exchanged),
        mean_p=mean_p,
        compared=compared,
        compared_mean=float(compared_mean[0]),
        random_values=random,
        random_p=random_p,
        note=" ".join(sentences) or None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Dissociation(Shown):
    """The D-scores of a lesion matrix at one fraction, and the verdict on each pair of tasks.

    `above_chance` says for each task whether the base score is clearly above chance
    (`Metric.standing`): a lesion cannot lower a score that is at chance already. `exchangeable`
    is how many heads are in some tasks' lesions and not in all, so that they can be exchanged, and
    `deals` in how many ways (two tasks; None for more).
    """

    tasks: tuple[str, ...]
    fraction: float
    row: DScore
    column: DScore
    relative: DScore
    pairs: tuple[PairVerdict, ...]
    level: float
    resamples: int
    above_chance: tuple[bool, ...]
    chance: bool = False
    exchangeable: int = 0
    deals: int | None = None

    def __repr__(self) -> str:
        return (
            f"Dissociation({', '.join(self.tasks)} at {100 * self.fraction:g} % of the heads: "
            f"column {self.column.summary})"
        )

    @property
    def specialized(self) -> Verdict:
        """The verdict on the claim that heads are specialized, by the `column` D-score."""
        return specialized(self.evidence)

    @property
    def evidence(self) -> Evidence:
        """What decides whether heads are specialized."""
        low, high = self.column.mean_interval
        return Evidence(
            mean=self.column.mean,
            low=low,
            high=high,
            p=self.column.mean_p,
            controls=len(self.column.control_values),
            tasks=len(self.tasks),
            above_chance=sum(self.above_chance),
            exchangeable=self.exchangeable,
            deals=self.deals,
            without=not_above_0(self.tasks, self.column.values.tolist()),
            undefined=without_d_score(self.tasks, self.column.values.tolist()),
        )

    def verdict(self) -> str:
        """Return in plain words: are heads specialized, how sure is that, between which tasks."""
        score = self.column
        parts = [self.specialized.headline]
        if not math.isnan(score.mean):
            low, high = score.mean_interval
            interval = (
                "no interval"
                if math.isnan(low)
                else f"{100 * self.level:g} % interval {low:+.1f} to {high:+.1f}"
            )
            parts.append(
                f"At {100 * self.fraction:g} % of the heads the mean column D-score is "
                f"{score.mean:+.1f} % ({interval}){self._against_controls()}."
            )
        return " ".join(filter(None, (*parts, score.note, self._doubles())))

    def _against_controls(self) -> str:
        n_controls = len(self.column.control_values)
        if not n_controls:
            return ""
        return (
            f", p = {self.column.mean_p:.2g} against {plural(n_controls, 'exchange')} of the "
            f"tasks' heads"
        )

    def _doubles(self) -> str:
        barred = barred_pairs(self.tasks, self.above_chance)
        if sum(self.above_chance) < 2:
            return barred
        return " ".join(filter(None, (self._doubles_found(), barred)))

    def _doubles_found(self) -> str:
        found = sum(pair.is_double_dissociation for pair in self.pairs)
        if any(pair.lacks_controls for pair in self.pairs):
            controls = min(pair.controls for pair in self.pairs)
            are = "is" if controls == 1 else "are"
            return (
                f"{plural(controls, 'exchange')} between two tasks {are} too few for a double "
                f"dissociation among {plural(len(self.pairs), 'pair')} of tasks: "
                f"{controls_needed(len(self.pairs))} or more are needed."
            )
        if len(self.pairs) == 1:
            return f"The pair of tasks is {'' if found else 'not '}a double dissociation."
        are = "is a double dissociation" if found == 1 else "are double dissociations"
        return f"{found} of {len(self.pairs)} pairs of tasks {are}."


def standardized(
    observed: Float[np.ndarray, " scores"], controls: Float[np.ndarray, "replicates scores"]
) -> Float[np.ndarray, " scores"]:
    """Return (observed − mean) / standard deviation of the controls.

    Controls that are undefined are left out. NaN if that is undefined: with one control, and where
    all are the same up to rounding.
    """
    known = np.isfinite(controls)
    number = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(known, controls, 0.0).sum(axis=0) / number
        squares = np.where(known, controls - mean, 0.0) ** 2
        deviation = np.sqrt(squares.sum(axis=0) / np.where(number > 1, number - 1, np.nan))
    return (observed - mean) / np.where(deviation > TIE, deviation, np.nan)


def _standardized(observed: float, controls: Float[np.ndarray, " replicates"]) -> float:
    return float(standardized(np.array([observed]), controls[:, None])[0])


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 task`, `2 tasks`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def shared_tasks(*values: Float[np.ndarray, "... tasks"]) -> Bool[np.ndarray, " tasks"]:
    """Return which tasks (the last axis) have a value in everything that is compared.

    Means over tasks can be compared only over these: `mean_where` takes them.
    """
    n_tasks = np.shape(values[0])[-1]
    defined = [np.isfinite(each).reshape(-1, n_tasks).all(axis=0) for each in values]
    return np.all(defined, axis=0)


def mean_where(
    chosen: np.ndarray, values: Float[np.ndarray, "... tasks"]
) -> Float[np.ndarray, "..."]:
    """Return the mean over the chosen tasks (the last axis); NaN if none is chosen."""
    if not chosen.any():
        return np.full(values.shape[:-1], np.nan)
    return np.asarray(values[..., chosen].mean(axis=-1))
