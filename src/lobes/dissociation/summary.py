"""A lesion matrix as a table of plain text."""

import math
from typing import TYPE_CHECKING

import numpy as np

from lobes.dissociation.dscores import plural

if TYPE_CHECKING:
    import lobes.dissociation.matrix


def summary(matrix: "lobes.dissociation.matrix.LesionMatrix", fraction: float | None) -> str:
    """Return a table of the base scores and those under the lesions of one fraction."""
    kinds = [item.kind for item in matrix.reference.lesions]
    table = [
        ["", *matrix.tasks],
        ["metric", *matrix.metrics],
        ["examples", *(f"{len(matrix.labels[task]):,}" for task in matrix.tasks)],
        ["nothing ablated", *_three_decimals(matrix.base)],
    ]
    title = (
        f"{plural(len(matrix.tasks), 'task')}, {plural(kinds.count('task'), 'lesion')}, "
        f"{kinds.count('exchanged')} exchanged, {kinds.count('random')} random"
        f"{'' if matrix.sampled is None else ' (these two on a sample of the examples)'}"
    )
    if matrix.fractions or fraction is not None:
        chosen = matrix.fraction_of(fraction)
        title += f"; {'kept' if matrix.keep else 'ablated'}: {100 * chosen:g} % of the heads"
        for task, scores in zip(matrix.tasks, matrix.scores(chosen), strict=True):
            table.append([f"heads of {task}", *_three_decimals(scores)])
        for name, scores in (
            ("exchanged heads", matrix.control_scores(chosen)),
            ("random heads", matrix.random_scores(chosen)),
        ):
            if scores.size:
                table.append([f"{name}, mean", *_three_decimals(scores.mean(axis=(0, 1)))])
    return "\n".join([title, "", *_aligned(table)])


def _three_decimals(scores: np.ndarray) -> list[str]:
    return ["undefined" if math.isnan(score) else f"{score:.3f}" for score in scores]


def _aligned(table: list[list[str]]) -> list[str]:
    """The rows as lines: the first column to the left, the others to the right."""
    first = max(len(cells[0]) for cells in table)
    widths = [
        max(len(cell) for cell in cells) for cells in zip(*(r[1:] for r in table), strict=True)
    ]
    return [
        "  ".join(
            [cells[0].ljust(first)]
            + [cell.rjust(width) for cell, width in zip(cells[1:], widths, strict=True)]
        ).rstrip()
        for cells in table
    ]
