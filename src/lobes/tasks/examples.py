"""One split of a task, checked: texts or images, and labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lobes.data.texts import Texts, number_equal, number_texts
from lobes.errors import DataError
from lobes.tasks.columns import NO_EXAMPLES, Columns, listed
from lobes.tasks.images import Picture
from lobes.tasks.raw_labels import one_class


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """One split of a task: texts or images, and labels, checked.

    `texts[i]` has one string for each text column (`Texts`, or a tuple), and none where
    `images[i]` is the example's picture. `labels` are class indices (int64), or targets (float64)
    for regression; where an example may have several labels they are a matrix (int64) of 0 and 1
    for each class. The array is read-only.
    """

    texts: Sequence[tuple[str, ...]]
    labels: Int[np.ndarray, "examples *classes"] | Float[np.ndarray, " examples"]
    images: tuple[Picture, ...] | None = None

    def __post_init__(self) -> None:
        if self.images is not None and len(self.images) != len(self.texts):
            raise DataError(
                f"{len(self.images)} images and {len(self.texts)} texts: expected as many, each "
                f"text ()."
            )
        if len(self.texts) != len(self.labels):
            raise DataError(
                f"{len(self.texts)} texts and {len(self.labels)} labels: expected one label for "
                f"each text."
            )
        whole = np.issubdtype(self.labels.dtype, np.integer)
        if self.labels.ndim > 1 and not (whole and np.isin(self.labels, (0, 1)).all()):
            raise DataError(
                f"Labels of the shape {list(self.labels.shape)} say of each example and each "
                f"class whether it has it: expected whole numbers, 0 or 1."
            )
        labels = np.array(self.labels, dtype=np.int64 if whole else np.float64)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.texts)

    def check_inputs(self, columns: Columns) -> None:
        """Raise DataError where these are no inputs of a task with such columns, or are none."""
        if not len(self):
            raise DataError(NO_EXAMPLES)
        if (self.images is None) != (columns.image is None):
            has, wanted = ("texts", "image") if self.images is None else ("images", "text")
            raise DataError(f"has {has}, but the task names {wanted} columns; use one kind.")
        if isinstance(self.texts, Texts):
            fits = self.texts.width == len(columns.text)
        else:
            fits = all(len(example) == len(columns.text) for example in self.texts)
        if not fits:
            raise DataError(f"has examples without one text for each of {listed(columns.text)}.")

    def check_labels(
        self,
        names: tuple[str, ...] | None,
        *,
        is_multi_label: bool,
        may_be_equal: bool = False,
    ) -> None:
        """Raise DataError where these are no labels of such a task, or are all the same."""
        labels, n_labels = self.labels, len(names or ())
        if names is None:
            fits, expected = labels.dtype.kind == "f", "targets, which are floats"
        elif is_multi_label:
            fits = labels.ndim > 1 and labels.shape[1] == n_labels
            expected = f"a matrix with a column of 0 and 1 for each of {listed(names)}"
        else:
            fits = labels.ndim == 1 and labels.dtype.kind == "i"
            fits = fits and bool(((labels >= 0) & (labels < n_labels)).all())
            expected = f"indices of {listed(names)}, from 0 to {n_labels - 1}"
        if not fits:
            raise DataError(
                f"has labels of {labels.dtype} in the shape {list(labels.shape)}, from "
                f"{labels.min()} to {labels.max()}: expected {expected}."
            )
        if names is not None and not may_be_equal and (labels == labels[0]).all():
            own = np.flatnonzero(labels[0]) if is_multi_label else labels[:1]
            shown = [names[i] for i in own]
            raise one_class(len(self), shown if is_multi_label else shown[0])

    def select(self, indices: Iterable[int] | Int[np.ndarray, " selected"]) -> "Examples":
        """Return the examples at `indices`, in that order."""
        places = np.array(indices if isinstance(indices, np.ndarray) else list(indices), np.int64)
        images = None if self.images is None else tuple(self.images[i] for i in places)
        if isinstance(self.texts, Texts):
            return Examples(self.texts.select(places), self.labels[places], images)
        return Examples(tuple(self.texts[i] for i in places), self.labels[places], images)

    def groups(self) -> Int[np.ndarray, " examples"]:
        """Return a number for each example, equal where two may not be on both sides of a split.

        Those are equal texts or images, and pairs of the same two texts in either order, since
        one of them would give the other's answer away. Numbers count from 0, in order.
        """
        if self.images is None:
            return number_texts(self.texts)
        return number_equal(picture.digest for picture in self.images)

    def strata(self) -> Int[np.ndarray, " examples"]:
        """Return the class of each example, for stratified draws; a regression is one class.

        An example with several labels counts to the rarest of them, the first of equals, and one
        without to a class of its own.
        """
        if self.labels.ndim == 1:
            whole = self.labels.dtype.kind == "i"
            return self.labels if whole else np.zeros(len(self), dtype=np.int64)
        order = np.argsort(self.labels.sum(axis=0), kind="stable")
        none = np.ones((len(self), 1), dtype=np.int64)
        rarest = np.hstack([self.labels[:, order], none]).argmax(axis=1)
        return np.append(order, len(order))[rarest]
