"""One test over all fractions, so that none must be chosen beforehand, and none can be afterwards.

Definition: docs/method.md#exchange-test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lobes.dissociation.dscores import Dissociation
from lobes.dissociation.statistics import p_over_fractions
from lobes.dissociation.verdict import Evidence, Verdict, specialized


@dataclass(frozen=True, slots=True)
class OverFractions:
    """The mean `column` D-scores at several fractions, tested together.

    `standardized` says at each of the `fractions` how far the D-score lies above its exchanges, in
    their standard deviations; the test is of the largest. `p` is against that of each exchange.
    """

    fractions: tuple[float, ...]
    standardized: tuple[float, ...]
    p: float
    evidence: Evidence

    @property
    def strongest(self) -> float:
        """The fraction whose D-score stands out most; the largest where none is defined."""
        return self.fractions[most(self.standardized)]

    @property
    def specialized(self) -> Verdict:
        """The verdict on the claim that heads are specialized."""
        return specialized(self.evidence)


def over_fractions(found: Sequence[Dissociation]) -> OverFractions:
    """Return the test over the D-scores of one matrix at all of its fractions."""
    fractions = tuple(each.fraction for each in found)
    standing = tuple(each.column.mean_standardized for each in found)
    replicates = np.array([each.column.control_means for each in found]).T
    p = p_over_fractions(np.array([each.column.compared_mean for each in found]), replicates)
    return OverFractions(
        fractions, standing, p, joined([each.evidence for each in found], standing, p)
    )


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
