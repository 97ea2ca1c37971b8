"""Say at once where a model hardly does its tasks, before hours are spent on measuring it."""

import logging
import math
from collections.abc import Mapping, Sequence

from lobes.metrics import get_metric
from lobes.report import formatting as fmt
from lobes.tasks.task import Task

logger = logging.getLogger("lobes")


def warn_near_chance(tasks: Sequence[Task], scores: Mapping[str, float | None], what: str) -> None:
    """Log a warning for each task whose score is near chance or below; `what` begins it.

    `scores` are the tasks' main metrics on their validation data.
    """
    for task in tasks:
        assert task.validation is not None
        score = fmt.number(scores[task.name])
        metric, count = get_metric(task.metric), len(task.validation)
        chance = metric.chance(task.validation.labels)
        standing = metric.standing(score, chance, count)
        if standing == "below":
            why = "is below chance; are the labels in another order?"
        elif standing == "near":
            many = fmt.plural(count, "example")
            why = f"is near chance for {many}: where there is little to lose, little can be shown."
        else:
            continue
        shown = "undefined" if math.isnan(score) else f"{score:.3f}"
        logger.warning(
            "%s: the %s of %s, %s (chance %.3f), %s",
            what,
            task.metric,
            task.name,
            shown,
            chance,
            why,
        )
