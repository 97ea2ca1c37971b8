"""Which examples flip under which lesion, and which of them are worth reading.

An example flips when its prediction is right with nothing ablated and wrong under a lesion, or the
other way round; of a regression the error grows or shrinks. NumPy only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

MOST = 40  # examples chosen for a task
QUOTAS = (24, 10, 6)  # of the groups, in their order
SEED = 0

# Which lesions flip the examples of a group; "error" is of a regression, by the size of the change.
GroupName = Literal["own only", "own and others", "others only", "own", "error"]


@dataclass(frozen=True, slots=True, eq=False)
class Flips:
    """One task's examples: what they are predicted with nothing ablated and under some lesions.

    `lesions` are the numbers of the lesioned tasks. `change` is +1 where a lesion makes a right
    prediction wrong and −1 where it makes a wrong one right; of a regression the growth of the
    absolute error. What was not measured is NaN.
    """

    lesions: tuple[int, ...]
    labels: Float[np.ndarray, " examples"]
    base: Float[np.ndarray, " examples"]
    under: Float[np.ndarray, "lesions examples"]
    change: Float[np.ndarray, "lesions examples"]
    regression: bool

    @property
    def number(self) -> int:
        """The number of examples that were predicted with nothing ablated."""
        return int(np.isfinite(self.base).sum())

    @property
    def worse(self) -> Int[np.ndarray, " lesions"]:
        """How many examples get worse under each lesion."""
        return (self.change > 0).sum(axis=1)

    @property
    def better(self) -> Int[np.ndarray, " lesions"]:
        """How many examples get better under each lesion."""
        return (self.change < 0).sum(axis=1)

    @property
    def alone(self) -> Int[np.ndarray, " lesions"]:
        """How many examples flip under each lesion and under no other."""
        flipped = self._flipped
        return (flipped & (flipped.sum(axis=0) == 1)).sum(axis=1)

    @property
    def mean_change(self) -> Float[np.ndarray, " lesions"]:
        """The mean change under each lesion, over all examples."""
        return np.nan_to_num(self.change).mean(axis=1)

    @property
    def _flipped(self) -> Bool[np.ndarray, "lesions examples"]:
        return np.nan_to_num(self.change) != 0

    def lesions_that_change(self, example: int) -> list[int]:
        """The rows of `under` whose lesion changes this example."""
        return np.flatnonzero(self._flipped[:, example]).tolist()

    def groups(self, task: int) -> "list[Group]":
        """The examples that flip, grouped by whose lesion flips them; `task` is whose they are.

        At most `MOST` examples are chosen: most of them flip under the task's own lesion and no
        other, some under its own and others, some under others only; where there are more than
        fit, a draw with a fixed seed chooses. Of a regression the largest changes are chosen.
        """
        own = self.lesions.index(task) if task in self.lesions else None
        if self.regression:
            return [self._largest(own)]
        flipped = self._flipped
        several = flipped.sum(axis=0)
        by_own = flipped[own] if own is not None else np.zeros(len(several), dtype=bool)
        kinds: dict[GroupName, np.ndarray] = {
            "own only": by_own & (several == 1),
            "own and others": by_own & (several > 1),
            "others only": ~by_own & (several > 0),
        }
        if self.lesions == (task,):
            kinds = {"own": by_own}
        found = [np.flatnonzero(mask) for mask in kinds.values()]
        generator = np.random.default_rng([SEED, task])
        drawn = [
            sorted(generator.choice(one, number, replace=False).tolist())
            for one, number in zip(found, _shares([len(one) for one in found]), strict=True)
        ]
        return [
            Group(name, len(one), tuple(chosen))
            for name, one, chosen in zip(kinds, found, drawn, strict=True)
            if chosen
        ]

    def _largest(self, own: int | None) -> "Group":
        size = np.nan_to_num(np.abs(self.change if own is None else self.change[own : own + 1]))
        largest = size.max(axis=0, initial=0.0)
        order = np.argsort(-largest, kind="stable")[: MOST // 2]
        return Group("error", int((largest > 0).sum()), tuple(order[largest[order] > 0].tolist()))


@dataclass(frozen=True, slots=True)
class Group:
    """Examples that flip in one way: how many there are, and the numbers of those chosen."""

    name: GroupName
    total: int
    chosen: tuple[int, ...]


def flips(
    lesion: Shaped[np.ndarray, " rows"],
    example: Shaped[np.ndarray, " rows"],
    label: Float[np.ndarray, " rows"],
    prediction: Float[np.ndarray, " rows"],
    lesions: Sequence[int],
    *,
    regression: bool,
) -> Flips | None:
    """One task's predictions under these `lesions`; None where none is a number.

    A row is one prediction: `lesion` is the number of the lesioned task, −1 with nothing ablated.
    """
    if not len(lesion):
        return None
    example = example.astype(np.int64)
    number = int(example.max()) + 1
    labels, base = np.full(number, np.nan), np.full(number, np.nan)
    under = np.full((len(lesions), number), np.nan)
    labels[example] = label
    base[example[lesion == -1]] = prediction[lesion == -1]
    for row, lesioned in enumerate(lesions):
        under[row, example[lesion == lesioned]] = prediction[lesion == lesioned]
    if np.isnan(labels).all() or np.isnan(base).all():
        return None
    if regression:
        change = np.abs(under - labels) - np.abs(base - labels)
    else:
        change = (base == labels).astype(float) - (under == labels)
        change[np.isnan(under)] = np.nan
    return Flips(tuple(lesions), labels, base, under, change, regression)


def _shares(there: Sequence[int]) -> list[int]:
    """How many of each group are chosen: its quota, then in order what others leave free."""
    numbers = [min(n, quota) for n, quota in zip(there, QUOTAS, strict=False)]
    for k, n in enumerate(there):
        numbers[k] += min(n - numbers[k], MOST - sum(numbers))
    return numbers
