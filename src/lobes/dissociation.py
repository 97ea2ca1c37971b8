"""From predictions under lesions to D-scores, intervals and tests (METHOD section 5).

NumPy and SciPy only: nothing here runs a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float

from lobes.heads import HeadScores, HeadSet


@dataclass(frozen=True, slots=True)
class Lesion:
    """Heads ablated for one measurement, and why."""

    heads: HeadSet
    kind: Literal["none", "task", "control"]
    task: str = ""
    fraction: float = 0.0
    replicate: int = 0


@dataclass(frozen=True, eq=False)
class LesionMatrix:
    """The predictions of every task under every lesion."""

    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    labels: Mapping[str, np.ndarray]
    lesions: tuple[Lesion, ...]
    predictions: Mapping[str, np.ndarray]
    importance: Mapping[str, HeadScores] = field(default_factory=dict)

    @property
    def fractions(self) -> tuple[float, ...]:
        """The fractions at which a task's heads were ablated, ascending."""
        raise NotImplementedError

    @property
    def base(self) -> Float[np.ndarray, " tasks"]:
        """B[j]: task j's metric with nothing ablated."""
        raise NotImplementedError

    def scores(self, fraction: float | None = None) -> Float[np.ndarray, "tasks tasks"]:
        """M[i][j]: task j's metric under the lesion of task i."""
        raise NotImplementedError

    def control_scores(
        self, fraction: float | None = None
    ) -> Float[np.ndarray, "replicates tasks tasks"]:
        """As `scores`, for the control lesions matched to task i's."""
        raise NotImplementedError
