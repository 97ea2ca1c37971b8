"""What lesions of one size do to every task: its own, the others', and random ones."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# The ends of the band of random lesions, in percent of them: their middle 90 %.
BAND = (5.0, 95.0)


@dataclass(frozen=True, slots=True, eq=False)
class Dose:
    """Every task's score under lesions of one size, arrays [tasks]; NaN is undefined.

    `own` is under its own lesion, `others` the mean under the other tasks', `random` the mean under
    random lesions, whichever lesion they match, and `low` to `high` their middle 90 %.
    """

    own: Float[np.ndarray, " tasks"]
    others: Float[np.ndarray, " tasks"]
    random: Float[np.ndarray, " tasks"]
    low: Float[np.ndarray, " tasks"]
    high: Float[np.ndarray, " tasks"]

    def percent_of(
        self, bases: Float[np.ndarray, " tasks"], control_bases: Float[np.ndarray, " tasks"]
    ) -> "Dose":
        """Return the scores in percent of the base scores.

        Those under random lesions are in percent of `control_bases`, the base scores on the same
        examples. A task is undefined throughout where nothing may be divided by one of its two.
        """
        known = np.isfinite(bases) & np.isfinite(control_bases)
        own = np.where(known, bases, np.nan)
        drawn = np.where(known, control_bases, np.nan)
        return Dose(
            *(100 * scores / own for scores in (self.own, self.others)),
            *(100 * scores / drawn for scores in (self.random, self.low, self.high)),
        )


def dose(
    scores: Float[np.ndarray, "tasks tasks"],
    random_scores: Float[np.ndarray, "replicates tasks tasks"],
) -> Dose:
    """Return what a lesion matrix and those of random lesions say of each task."""
    n_tasks = len(scores)
    drawn = random_scores.reshape(-1, n_tasks)
    rest = np.where(np.eye(n_tasks, dtype=bool), 0.0, scores).sum(axis=0)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # no lesion was drawn: NaN is meant
        random = np.nanmean(drawn, axis=0) if len(drawn) else np.full(n_tasks, np.nan)
        low, high = np.nanpercentile(drawn, BAND, axis=0) if len(drawn) else (random, random)
        others = rest / (n_tasks - 1) if n_tasks > 1 else np.full(n_tasks, np.nan)
    return Dose(np.diagonal(scores).copy(), others, random, low, high)
