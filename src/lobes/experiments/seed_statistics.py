"""From the scores of several seeds to the statistics and verdicts of `lobes.results.over_seeds`."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from lobes.config.settings import WEIGHTED
from lobes.dissociation import verdicts_over_seeds as verdicts
from lobes.dissociation.dscores import mean_where, shared_tasks
from lobes.dissociation.seeds import (
    Estimate,
    mean_interval,
    paired_difference,
    paired_differences,
)
from lobes.dissociation.verdict import Verdict
from lobes.dissociation.verdicts_over_seeds import Trainings
from lobes.results import over_seeds as records
from lobes.results.base import TaskRecord

# Which ways to train are compared, where both were run: first − second. The headline is the first.
COMPARED_METHODS = (
    *(("iat", "multi"), ("multi", "single"), ("iat", "single"), ("iat", "tuned")),
    *((method, "multi") for method in WEIGHTED),
    *((method, "tuned") for method in WEIGHTED if method != "tuned"),
)
COMPARED_STARTS = (("iat", "multi"), ("multi", "pretrained"), ("iat", "pretrained"))
HEADLINE = "column"  # the D-score that verdicts speak of (docs/method.md#d-scores)

Scores = Float[np.ndarray, "seeds columns"]


def comparison_summary(
    scores: Mapping[str, Scores],
    seconds: Mapping[str, Float[np.ndarray, " _"]],
    d_scores: Sequence[records.DScores],
    level: float,
    exchanged: records.ExchangedDScores | None = None,
) -> records.ComparisonSummary:
    """Return the statistics of a comparison; `scores` and `seconds` are by way to train.

    Differences are first − second, paired by seed; p is corrected over the tasks (Holm).
    """
    return records.ComparisonSummary(
        methods={
            method: records.MethodSummary(
                **dict(_estimates(values, values.mean(axis=1), level)),
                seconds=_stored(mean_interval(seconds[method], level)),
            )
            for method, values in scores.items()
        },
        differences=tuple(
            records.Differences(
                first=first,
                second=second,
                tasks=_differences(scores[first], scores[second], level),
                mean=_difference(scores[first].mean(axis=1), scores[second].mean(axis=1), level),
            )
            for first, second in COMPARED_METHODS
            if first in scores and second in scores
        ),
        d_scores=tuple(_d_score_summary(entry, level) for entry in d_scores),
        exchanged=None
        if exchanged is None
        else records.ExchangedSummary(
            multi=_stored(mean_interval(exchanged.multi, level)),
            iat=_stored(mean_interval(exchanged.iat, level)),
            difference=_difference(exchanged.iat, exchanged.multi, level),
        ),
    )


def transfer_summary(scores: Mapping[str, Scores], level: float) -> records.TransferSummary:
    """Return the statistics of a transfer study; `scores` are {start: [seeds, sizes]}.

    Differences are first − second, paired by seed; p is corrected over the sizes (Holm).
    """
    return records.TransferSummary(
        starts={start: _each(values, level) for start, values in scores.items()},
        differences=tuple(
            records.StartDifferences(
                first=first,
                second=second,
                fractions=_differences(scores[first], scores[second], level),
            )
            for first, second in COMPARED_STARTS
            if first in scores and second in scores
        ),
    )


def comparison_verdicts(
    tasks: Sequence[TaskRecord], summary: records.ComparisonSummary, seeds: int, before_iat: int
) -> tuple[Verdict, ...]:
    """Return the verdicts on claims 4 and 3, where the comparison can speak to them.

    In `before_iat` of the seeds the chosen weights of IAT are from before it began.
    """
    found = []
    for entry in summary.differences[:1]:
        ways = _ways(entry.first, entry.second, seeds, before_iat)
        above = _above_chance(tasks, summary, ways)
        found.append(verdicts.performance(ways, entry.mean.tested, above_chance=above))
    d_score = summary.headline(HEADLINE)
    if d_score is not None:
        ways = _ways("iat", "multi", seeds, before_iat)
        change, above = d_score.difference.mean.tested, _above_chance(tasks, summary, ways)
        found.append(verdicts.specialized_by_iat(ways, change, above_chance=above))
    return tuple(found)


def transfer_verdicts(
    task: TaskRecord,
    sizes: Sequence[int],
    summary: records.TransferSummary,
    seeds: int,
    before_iat: int,
) -> tuple[Verdict, ...]:
    """Return the verdict on claim 5, where there is anything to compare; as for comparisons."""
    above = [task.standing(best) == "above" for best in summary.best()]
    return tuple(
        verdicts.transfer(
            _ways(entry.first, entry.second, seeds, before_iat),
            sizes,
            [each.tested for each in entry.fractions],
            above_chance=above,
        )
        for entry in summary.differences[:1]
    )


def _ways(first: str, second: str, seeds: int, before_iat: int) -> Trainings:
    return Trainings(first, second, seeds, before_iat if first == "iat" else 0)


def _above_chance(
    tasks: Sequence[TaskRecord], summary: records.ComparisonSummary, ways: Trainings
) -> bool:
    """Whether enough tasks are done clearly better than chance by one of the two ways.

    Two of them, or the task where there is only one.
    """
    best = summary.best((ways.first, ways.second))
    above = sum(task.standing(score) == "above" for task, score in zip(tasks, best, strict=True))
    return above >= min(2, len(tasks))


def _d_score_summary(entry: records.DScores, level: float) -> records.DScoreSummary:
    """One definition at one fraction.

    As in a study of one model, the mean over tasks leaves out a task without a D-score: here one
    that has none in some seed of either method, so that the same tasks stand on both sides.
    """
    defined = shared_tasks(entry.multi, entry.iat)
    multi, iat = (mean_where(defined, values) for values in (entry.multi, entry.iat))
    return records.DScoreSummary(
        fraction=entry.fraction,
        definition=entry.definition,
        multi=_estimates(entry.multi, multi, level),
        iat=_estimates(entry.iat, iat, level),
        difference=records.TaskDifferences(
            tasks=_differences(entry.iat, entry.multi, level), mean=_difference(iat, multi, level)
        ),
    )


def _estimates(
    values: Scores, means: Float[np.ndarray, " seeds"], level: float
) -> records.Estimates:
    """Each task's estimate, and that of the `means` over tasks."""
    return records.Estimates(
        tasks=_each(values, level), mean=_stored(mean_interval(means, level)), seeds=means
    )


def _each(values: Scores, level: float) -> tuple[records.Estimate, ...]:
    return tuple(_stored(mean_interval(column, level)) for column in values.T)


def _stored(found: Estimate) -> records.Estimate:
    return records.Estimate.model_validate(found)


def _difference(
    first: Float[np.ndarray, " seeds"], second: Float[np.ndarray, " seeds"], level: float
) -> records.Difference:
    return records.Difference.model_validate(paired_difference(first, second, level))


def _differences(first: Scores, second: Scores, level: float) -> tuple[records.RowDifference, ...]:
    found = paired_differences(first, second, level)
    return tuple(records.RowDifference.model_validate(each) for each in found)
