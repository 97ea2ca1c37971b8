"""The exchange test: which of the important heads belongs to which task is dealt out again.

Definition: docs/method.md#exchange-test.

A replicate keeps the size of every task's lesion and the number of lesions that each head is in,
at every fraction; which task a head belongs to that not all share is random. Severity and overlap
are those of the tasks' own lesions, which random lesions cannot give. Under the null hypothesis
that the assignment is arbitrary, the observed one is one more replicate, so that p is exact.
NumPy only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from lobes.errors import ConfigError
from lobes.heads import Head, HeadSet

# Trades between pairs of tasks until a deal is taken, for each task: twice what mixes the deals
# by Strona et al. (2014).
_TRADES = 10


@dataclass(frozen=True, eq=False)
class Exchange:
    """The lesions of several tasks, whose heads can be dealt out again.

    `lesions[fraction]` are the lesions in the order of the tasks, for one to 31 fractions. Several
    are exchanged together: two tasks trade heads that differ between them in the same way at
    every fraction, so that all lesions keep their sizes, and larger ones hold the smaller.
    Raises `ConfigError` for fewer than two tasks, or fractions with different numbers of them.
    """

    lesions: Mapping[float, Sequence[HeadSet]]

    def __post_init__(self) -> None:
        sizes = {len(sets) for sets in self.lesions.values()}
        if len(sizes) != 1 or min(sizes) < 2:
            raise ConfigError(
                "Heads are exchanged between the lesions of two or more tasks: expected as many "
                "lesions at every fraction, a lesion for each task."
            )

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """The heads in any of the lesions."""
        return tuple(
            sorted({head for sets in self.lesions.values() for one in sets for head in one})
        )

    @cached_property
    def owners(self) -> Int[np.ndarray, "heads tasks"]:
        """In which lesions of each task a head is: bit f is set for the lesion of fraction f."""
        found = np.zeros((len(self.heads), self.n_tasks), dtype=np.int64)
        for bit, sets in enumerate(self.lesions.values()):
            for task, one in enumerate(sets):
                found[:, task] |= (
                    np.array([head in one for head in self.heads], dtype=np.int64) << bit
                )
        return found

    @cached_property
    def _hubs(self) -> dict[tuple[int, ...], Int[np.ndarray, "heads tasks"]]:
        """The deals that all replicates of some seeds start from."""
        return {}

    @property
    def n_tasks(self) -> int:
        """The number of tasks."""
        return len(next(iter(self.lesions.values())))

    def movable(self, fraction: float) -> int:
        """Return how many heads are in the lesions of some tasks at a fraction and not of all."""
        held = sum(np.array([head in one for head in self.heads]) for one in self.lesions[fraction])
        return int(np.sum((held > 0) & (held < self.n_tasks)))

    def deals(self) -> int | None:
        """Return in how many ways two tasks' heads can be dealt out; None for more tasks."""
        if self.n_tasks > 2:
            return None
        first, second = self.owners.T
        number = 1
        for group in _alike(first, second):
            number *= math.comb(len(group), int(np.sum(first[group] > second[group])))
        return number

    def replicate(self, number: int, *seeds: int) -> dict[float, tuple[HeadSet, ...]]:
        """Return the lesions of one replicate, by fraction; the same for the same seeds and number.

        For two tasks a deal is uniform over all that there are. For more, pairs of tasks drawn at
        random trade, over and over. Every replicate starts from a deal that is as many trades away
        from the observed one, so that observed and replicated deals are exchangeable however well
        the trades mix (Besag and Clifford 1989).
        """
        if seeds not in self._hubs:
            self._hubs[seeds] = self._traded(self.owners, np.random.default_rng([*seeds, 0]))
        dealt = self._traded(self._hubs[seeds], np.random.default_rng([*seeds, 1, number]))
        return {
            fraction: tuple(
                HeadSet(
                    head
                    for head, owned in zip(self.heads, dealt[:, task], strict=True)
                    if owned >> bit & 1
                )
                for task in range(self.n_tasks)
            )
            for bit, fraction in enumerate(self.lesions)
        }

    def _traded(
        self, owners: Int[np.ndarray, "heads tasks"], generator: np.random.Generator
    ) -> Int[np.ndarray, "heads tasks"]:
        dealt = owners.copy()
        for _ in range(1 if self.n_tasks == 2 else _TRADES * self.n_tasks):
            pair = generator.permutation(self.n_tasks)[:2]
            for group in _alike(*dealt[:, pair].T):
                dealt[group[:, None], pair] = dealt[generator.permutation(group)[:, None], pair]
        return dealt


def _alike(first: Int[np.ndarray, " heads"], second: Int[np.ndarray, " heads"]) -> list[np.ndarray]:
    """The places of heads that two tasks can trade, in groups that differ in the same way.

    Of each head of a group one of the tasks, whichever, has it in the same lesions.
    """
    differing = np.flatnonzero(first != second)
    smaller, larger = np.minimum(first, second)[differing], np.maximum(first, second)[differing]
    kinds = smaller << 32 | larger
    return [differing[kinds == kind] for kind in sorted(set(kinds.tolist()))]
