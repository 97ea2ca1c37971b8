"""When enough heads were exchanged: a study looks once, after 39 exchanges, and may stop there.

Definition: docs/method.md#stopping-early.

Where nothing is specialized, the observed D-score is one more replicate, so that the number of
replicates that reach it is a Pólya urn: uniform after any number of them, and of those that reach
it among all, how many were among the first 39 is hypergeometric. The chance ever to say "yes" is
therefore computed exactly. NumPy and SciPy only.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

# A study looks after so many exchanges: none of them reaches the observed D-score with a chance of
# 1 in 40 where nothing is specialized, half of 0.05. The rest pays for all exchanges.
LOOK = 39
# So many of them that reach it decide for "no"; none of them, for "yes".
ENOUGH_REACH = 3
# With fewer exchanges in all a look would cost power, or more than 0.05.
_LEAST = 2 * LOOK + 1


def look_of(controls: int) -> int | None:
    """Return after how many of so many exchanges a study may stop; None for too few to stop."""
    return LOOK if controls >= _LEAST else None


def is_settled(reached: int) -> bool:
    """Return whether a study stops that so many of the first `LOOK` exchanges reach."""
    return reached == 0 or reached >= ENOUGH_REACH


def p_of_all(reached: int, controls: int) -> float:
    """Return p of a study that went on: `reached` of all its `controls` reach its D-score.

    The chance, where nothing is specialized, of "yes" at the look, or to go on and end with as few.
    """
    numbers = np.arange(reached + 1)
    first = stats.hypergeom(controls, numbers, LOOK)
    went_on = first.cdf(ENOUGH_REACH - 1) - first.cdf(0)
    return float(1 / (1 + LOOK) + went_on.sum() / (1 + controls))


def p_with_look(reached: Callable[[int], int], controls: int) -> float:
    """Return p of a study that may stop; `reached(n)` says how many of the first n reach it.

    At the look it is (1 + reached) / (1 + LOOK), however many were measured in all.
    """
    early = reached(LOOK)
    if controls <= LOOK or is_settled(early):
        return (1 + early) / (1 + LOOK)
    return p_of_all(reached(controls), controls)
