"""What a study can find: the power of the exchange test for a true D-score, by simulation.

docs/statistics.md#how-much-is-found describes the simulated studies and what they leave out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from lobes.dissociation.dscores import column
from lobes.dissociation.over_fractions import p_of_study
from lobes.dissociation.simulated_heads import exchanged, measured
from lobes.dissociation.simulation import Damage, HeadStudy
from lobes.dissociation.statistics import n_reached
from lobes.dissociation.stopping import is_settled
from lobes.dissociation.verdict import ALPHA, is_significant

# Of those in docs/statistics.md, the damage of which least is found and that of which most is.
DAMAGES: tuple[Damage, ...] = ("threshold", "concave")

# More exchanges find hardly more, and take longer to simulate.
_MOST_REPLICATES = 99

_TRUTH = 200  # studies whose true D-scores are averaged
_HALVINGS = 12


@dataclass(frozen=True, slots=True)
class Power:
    """The share of studies with p ≤ 0.05 where the true mean D-score is `d_score` percent.

    `least` and `most` are over what lesions do: harm from a threshold on, or less and less. NaN
    where no such D-score can be. `goes_on` is the share of studies that do not stop at their look,
    the larger of the two; NaN without one.
    """

    d_score: float
    least: float
    most: float
    goes_on: float = np.nan


def power_of(
    study: HeadStudy,
    d_scores: Sequence[float],
    seed: int = 0,
    look: int | None = None,
    studies: int = 100,
) -> list[Power]:
    """Return the power of a study for each true mean D-score in percent, ascending.

    `look` is after how many exchanges it may stop (`stopping.look_of`); None for all of them.

    The specialization that gives the D-score in the mean over the study's fractions is planted in
    so many `studies` of that size. Once all of them find it, larger ones are found, too.
    """
    possible = study.replicates >= round(1 / ALPHA) - 1
    some = replace(study, replicates=min(study.replicates, _MOST_REPLICATES))
    found: list[Power] = []
    for d_score in d_scores:
        if not possible or (found and found[-1].least == 1):
            found.append(Power(d_score, float(possible), float(possible), 0.0 if look else np.nan))
            continue
        shares = [
            _shares(replace(some, damage=damage), d_score, seed, look, studies)
            for damage in DAMAGES
        ]
        power, goes_on = zip(*shares, strict=True)
        found.append(Power(d_score, float(min(power)), float(max(power)), float(max(goes_on))))
    return found


def _shares(
    study: HeadStudy, d_score: float, seed: int, look: int | None, studies: int
) -> tuple[float, float]:
    """The shares of studies with p ≤ 0.05, and of those that go on after the look."""
    planted = specialization_for(study, d_score, seed)
    if planted is None:
        return np.nan, np.nan
    (found,) = measured(replace(study, specialization=planted), studies, seed, exchanged)
    p = [p_of_study(scores[0], scores[1:], look) for scores in found.d_scores]
    goes_on = np.nan
    if look is not None:
        first = [p_of_study(scores[0], scores[1 : 1 + look], look) for scores in found.d_scores]
        goes_on = float(np.mean([not is_settled(n_reached(each, look)) for each in first]))
    return float(np.mean([is_significant(each) for each in p])), goes_on


def specialization_for(study: HeadStudy, d_score: float, seed: int = 0) -> float | None:
    """Return the specialization with that true D-score in percent; None where there is none."""
    low, high = 0.0, 1.0
    if true_d_score(replace(study, specialization=high), seed) < d_score:
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if true_d_score(replace(study, specialization=middle), seed) < d_score:
            low = middle
        else:
            high = middle
    return high


def true_d_score(study: HeadStudy, seed: int = 0) -> float:
    """Return the mean true D-score in percent, over tasks, fractions and 200 studies."""
    true, estimates = study.importance(_TRUTH, np.random.default_rng(seed))
    levels, n_fractions = study.lesioned(estimates), len(study.fractions)
    found = []
    for least in range(1, n_fractions + 1):
        lesioned: Float[np.ndarray, "studies heads tasks"] = (levels >= least).astype(float)
        moved = study.threshold(np.einsum("shl,sht->slt", lesioned, true))
        scores = ndtr((study.ability - moved) / np.sqrt(1 + study.blur**2))
        found.append(column(scores, ndtr(np.full(study.tasks, study.ability))).mean())
    return float(np.mean(found))
