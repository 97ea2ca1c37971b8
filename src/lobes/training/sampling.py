"""Which task's batch comes next (METHOD section 8): pure functions of sizes, seed and epoch.

Every batch is of one task, and every example of a task is seen once in an epoch. Indices count
through all tasks: task i's example e is `sizes[0] + … + sizes[i - 1] + e`.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from lobes.errors import ConfigError

Sampling = Literal["proportional"]


class TaskBatchSampler:
    """Batches of one task each, in an order drawn from `seed` and the epoch alone.

    "proportional": a task comes as often as it has batches, in random order. A task's last batch
    may be smaller, and is left out with `drop_last`. The same epoch gives the same batches
    whenever it is asked for, so that a run can continue at any step; `set_epoch` moves on.

    With `lengths` (tokens of each example, all tasks) batches hold examples of similar length:
    each task's shuffled examples are sorted within runs of `group` batches, and the batches
    shuffled again. That saves padding and leaves the order nearly as random as before.

    With several `processes` the batches are dealt out in turn; the first few come twice where
    they do not divide evenly, so that each process has as many.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        sampling: str = "proportional",
        drop_last: bool = False,
        lengths: Int[np.ndarray, " examples"] | None = None,
        group: int = 8,
        processes: int = 1,
        process: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"A batch holds at least 1 example, not {batch_size}.")
        if sampling not in get_args(Sampling):
            raise ConfigError(f'Unknown sampling {sampling!r}: expected "proportional".')
        if not sizes or min(sizes) < (batch_size if drop_last else 1):
            raise ConfigError(
                f"Each task needs {batch_size if drop_last else 1} or more training examples for "
                f"one batch; the tasks have {list(sizes)}."
            )
        if lengths is not None and len(lengths) != sum(sizes):
            raise ConfigError(f"{len(lengths)} lengths were given for {sum(sizes)} examples.")
        self.sizes = tuple(sizes)
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.seed = seed
        self.lengths = lengths
        self.group = group
        self.processes, self.process = processes, process
        self.epoch = 0

    @property
    def batches_of_task(self) -> tuple[int, ...]:
        """How many batches each task has in an epoch, over all processes."""
        spare = 0 if self.drop_last else self.batch_size - 1
        return tuple((size + spare) // self.batch_size for size in self.sizes)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration give the batches of `epoch`, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-sum(self.batches_of_task) // self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        for step in range(len(self)):
            place = step * self.processes + self.process
            yield batches[place % len(batches)].tolist()

    def _batches(self) -> list[Int[np.ndarray, " batch"]]:
        """The epoch's batches over all processes."""
        starts = np.cumsum([0, *self.sizes[:-1]])
        queues = [iter(self._batches_of(task, int(start))) for task, start in enumerate(starts)]
        order = np.repeat(np.arange(len(self.sizes)), self.batches_of_task)
        self._generator(len(self.sizes)).shuffle(order)
        return [next(queues[task]) for task in order]

    def _batches_of(self, task: int, start: int) -> list[Int[np.ndarray, " batch"]]:
        """One task's examples in random order, cut into batches."""
        generator = self._generator(task)
        order = start + generator.permutation(self.sizes[task])
        order = order[: self.batches_of_task[task] * self.batch_size]
        if self.lengths is None:
            return _cut(order, self.batch_size)
        batches = []
        for run in _cut(order, self.group * self.batch_size):
            batches += _cut(run[np.argsort(self.lengths[run], kind="stable")], self.batch_size)
        shuffled = generator.permutation(len(batches))
        return [batches[i] for i in shuffled]

    def _generator(self, stream: int) -> np.random.Generator:
        """A generator of its own for each task, and one more for the order of tasks."""
        return np.random.default_rng([self.seed, self.epoch, stream])


def _cut(order: Int[np.ndarray, " examples"], size: int) -> list[Int[np.ndarray, " batch"]]:
    return [order[start : start + size] for start in range(0, len(order), size)]
