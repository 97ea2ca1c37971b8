"""From predictions under lesions to D-scores, intervals and tests (METHOD section 5).

`matrix` holds what was measured and what follows from it, `dscores` the three definitions and the
verdict, `statistics` the resampling and the tests. NumPy and SciPy only: nothing here runs a model.
"""

from lobes.dissociation.dscores import Dissociation, DScore, PairVerdict, column, relative, row
from lobes.dissociation.matrix import Lesion, LesionMatrix

__all__ = [
    "DScore",
    "Dissociation",
    "Lesion",
    "LesionMatrix",
    "PairVerdict",
    "column",
    "relative",
    "row",
]
