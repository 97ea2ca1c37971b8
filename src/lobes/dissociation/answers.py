"""Labels and predictions, as a lesion matrix takes them."""

from collections.abc import Mapping

import numpy as np

from lobes.errors import DataError
from lobes.metrics import Metric


def checked_answers(
    arrays: Mapping[str, np.ndarray], task: str, metric: Metric, what: str, *shape: int
) -> np.ndarray:
    """Return a read-only view of a task's labels or predictions (`what`).

    Raises `DataError` unless they have the given shape, if any, and a type that fits the metric.
    """
    if task not in arrays:
        raise DataError(f"There are no {what} for the task {task!r}.")
    array = np.asarray(arrays[task])
    if shape and array.shape != shape:
        raise DataError(
            f"The predictions of {task!r} have the shape {array.shape}; expected "
            f"[lesions, examples{', classes' if len(shape) > 2 else ''}], here {shape}."
        )
    dimensions = (1, 2) if metric.for_multi_label else (1,)
    if not shape and (array.ndim not in dimensions or not array.size):
        several = ", or 0 or 1 for each of its classes" if metric.for_multi_label else ""
        raise DataError(
            f"The labels of {task!r} have the shape {array.shape}; expected one label for each "
            f"of one or more examples{several}."
        )
    if metric.for_regression:
        finite = array.dtype.kind in "iuf" and np.isfinite(array)
        if not np.all(finite):
            at = ""
            if array.dtype.kind == "f":
                *lesion, example = np.unravel_index(np.argmin(finite), array.shape)
                under = f"under lesion {lesion[0]} " if lesion else ""
                at = f": the one of example {example} {under}is {array[*lesion, example]:g}"
            raise DataError(
                f"The {what} of {task!r} are not all finite numbers ({metric.name}){at}."
            )
    elif array.dtype.kind not in "iu":
        raise DataError(
            f"The {what} of {task!r} are class indices, whole numbers ({metric.name}); got "
            f"{array.dtype}."
        )
    elif array.ndim - bool(shape) == 2 and not np.isin(array, (0, 1)).all():
        raise DataError(f"The {what} of {task!r} are 0 or 1 for each class ({metric.name}).")
    view = array.view()
    view.setflags(write=False)
    return view
