"""One test over all fractions, so that none must be chosen beforehand, and none can be afterwards.

Definition: docs/method.md#exchange-test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from lobes.dissociation.dscores import Dissociation
from lobes.dissociation.statistics import n_reached, p_over_fractions, standing_out
from lobes.dissociation.stopping import p_with_look
from lobes.dissociation.verdict import Evidence, Verdict, specialized


@dataclass(frozen=True, slots=True)
class OverFractions:
    """The mean `column` D-scores at several fractions, tested together.

    `standardized` says at each of the `fractions` how far the D-score lies above its exchanges, in
    their standard deviations. `p` is of the largest, with the observation among these, against
    that of each exchange. `strongest` is its fraction; the largest one where none is defined.
    """

    fractions: tuple[float, ...]
    standardized: tuple[float, ...]
    p: float
    strongest: float
    evidence: Evidence

    @property
    def specialized(self) -> Verdict:
        """The verdict on the claim that heads are specialized."""
        return specialized(self.evidence)


def over_fractions(found: Sequence[Dissociation], look: int | None = None) -> OverFractions:
    """Return the test over the D-scores of one matrix at all of its fractions.

    `look` is after how many exchanges the study might stop; None where it might not.
    """
    observed = np.array([each.column.compared_mean for each in found])
    replicates = np.array([each.column.control_means for each in found]).T
    standing = standing_out(observed, replicates).tolist()
    p = p_of_study(observed, replicates, look)
    evidence = joined([each.evidence for each in found], standing, p)
    return OverFractions(
        fractions=tuple(each.fraction for each in found),
        standardized=tuple(each.column.mean_standardized for each in found),
        p=p,
        strongest=found[most(standing)].fraction,
        evidence=replace(evidence, p=p),
    )


def p_of_study(
    observed: Float[np.ndarray, " fractions"],
    replicates: Float[np.ndarray, "replicates fractions"],
    look: int | None,
) -> float:
    """Return p over all fractions (`p_over_fractions`) of a study that might stop at a look."""
    p = p_over_fractions(observed, replicates)
    if look is None or len(replicates) < look or np.isnan(p):
        return p

    def reached(number: int) -> int:
        return n_reached(p_over_fractions(observed, replicates[:number]), number)

    return p_with_look(reached, len(replicates))


def joined(found: Sequence[Evidence], standing: Sequence[float], p: float) -> Evidence:
    """Return the evidence of all fractions, from that of each and how far each stands out."""
    chosen = found[most(standing)]
    if len(found) == 1:
        return chosen
    highs = [each.high for each in found]
    reach = np.nan if np.isnan(highs).any() else max(highs)
    exchangeable = max(each.exchangeable for each in found)
    return replace(chosen, p=p, fractions=len(found), reach=float(reach), exchangeable=exchangeable)


def most(standing: Sequence[float]) -> int:
    """Return the place of the largest value; the last place where none is defined."""
    known = np.nan_to_num(np.array(standing), nan=-np.inf)
    return int(np.argmax(known)) if np.isfinite(known).any() else len(standing) - 1
