"""Compute D-scores, intervals and tests from predictions under lesions (docs/method.md#d-scores).

`matrix` holds what was measured and what follows from it, `at_fraction` computes the D-scores of
one fraction, `dscores` has the three definitions, `pairs` double dissociations, `verdict` the rule
for yes, no and inconclusive, `statistics` the resampling and the tests. NumPy and SciPy only:
nothing here runs a model.
"""

from lobes.dissociation.dscores import Dissociation, DScore, column, relative, row
from lobes.dissociation.lesions import Lesion
from lobes.dissociation.matrix import LesionMatrix
from lobes.dissociation.pairs import PairVerdict
from lobes.dissociation.verdict import Verdict

__all__ = [
    "DScore",
    "Dissociation",
    "Lesion",
    "LesionMatrix",
    "PairVerdict",
    "Verdict",
    "column",
    "relative",
    "row",
]
