"""The order of the tasks' batches, a pure function of sizes, seed and epoch.

Definitions: docs/method.md#multi-task-training.

Every batch is of one task, and every example of a task is seen once before any is seen twice.
Indices count through all tasks: task i's example e is `sizes[0] + … + sizes[i - 1] + e`.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from lobes import limits
from lobes.errors import ConfigError

Sampling = Literal[
    "proportional", "square_root", "annealed", "temperature", "uniform", "round_robin"
]


@dataclass(eq=False)
class TaskBatchSampler:
    """Batches of one task each, in an order drawn from `seed` and the epoch alone.

    `sampling` says how many of an epoch's batches are each task's, n_i its training examples:

    - "proportional": as many as it takes to see every example of the task once;
    - "square_root": in proportion to n_i^0.5;
    - "annealed": to n_i^a, a = 1 - 0.8 (e - 1)/(E - 1) in epoch e of E = `epochs`, counted from 1;
      a = 1 where E = 1, and epochs after the last have its a;
    - "temperature": to n_i^(1/T), T = `temperature`;
    - "uniform": as many of each;
    - "round_robin": the tasks in turn, in their order, also from one epoch to the next.

    An epoch has as many batches as "proportional" gives, whatever the sampling; each task has one
    or more, and they come in random order ("round_robin" apart).

    A task's examples are walked through in cycles, each in a random order of its own. A cycle that
    an epoch does not end goes on in the next one. A cycle's last batch may be smaller, and is left
    out with `drop_last`. The same epoch gives the same batches whenever it is asked for, so that a
    run can continue at any step; `set_epoch` moves on.

    With `lengths` (tokens of each example, all tasks) batches hold examples of similar length:
    each task's shuffled examples are sorted within runs of `group` batches, and the batches
    shuffled again. That saves padding and leaves the order nearly as random as before.

    With several `processes` the batches are dealt out in turn; the first few come twice where
    they do not divide evenly, so that each process has as many.
    """

    sizes: Sequence[int]
    batch_size: int
    _: KW_ONLY
    seed: int = 0
    sampling: str = "proportional"
    temperature: float = 2.0
    epochs: int = 1
    drop_last: bool = False
    lengths: Int[np.ndarray, " examples"] | None = None
    group: int = 8
    processes: int = 1
    process: int = 0
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for name, limit in (
            ("batch_size", limits.BATCH_SIZE),
            ("seed", limits.SEED),
            ("temperature", limits.TEMPERATURE),
            ("epochs", limits.EPOCHS_OF_SAMPLER),
            ("group", limits.BATCH_SIZE),
        ):
            limits.check_number(name, getattr(self, name), limit)
        self.sizes = tuple(self.sizes)
        self._check_sizes()
        _check_sampling(self.sampling)
        # how many batches of each task there are before each epoch, as far as they were asked for
        self._sums = [np.zeros(len(self.sizes), dtype=np.int64)]

    @property
    def batches_in_cycle(self) -> tuple[int, ...]:
        """How many batches it takes to see every example of each task once."""
        spare = 0 if self.drop_last else self.batch_size - 1
        return tuple((size + spare) // self.batch_size for size in self.sizes)

    @property
    def batches_of_task(self) -> tuple[int, ...]:
        """How many batches each task has in the present epoch, over all processes."""
        return tuple((self._before(self.epoch + 1) - self._before(self.epoch)).tolist())

    def batches_in(self, steps: int) -> tuple[int, ...]:
        """Return how many of a training's first `steps` batches are each task's."""
        epoch, rest = divmod(steps, self._total)
        last = copy.copy(self)
        last.set_epoch(epoch)
        begun = np.bincount(last._order()[:rest], minlength=len(self.sizes))
        return tuple((self._before(epoch) + begun).tolist())

    def examples_in(self, task: int, batches: int) -> int:
        """Return how many examples a task's first `batches` batches have, repetitions included."""
        cycles, rest = divmod(batches, self.batches_in_cycle[task])
        begun = sum(map(len, self._cycle(task, cycles)[:rest]))
        return cycles * self._in_cycle(task) + begun

    def examples_from(self, task: int, place: int) -> Iterator[int]:
        """Yield a task's examples in the order of its batches, without end, from `place` on."""
        cycle, done = divmod(place, self._in_cycle(task))
        for number in itertools.count(cycle):
            yield from np.concatenate(self._cycle(task, number))[done:].tolist()
            done = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration give the batches of `epoch`, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self._total // self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        for step in range(len(self)):
            place = step * self.processes + self.process
            yield batches[place % len(batches)].tolist()

    def _check_sizes(self) -> None:
        needed = self.batch_size if self.drop_last else 1
        if not self.sizes or min(self.sizes) < needed:
            raise ConfigError(
                f"Each task needs {needed} or more training examples for one batch; the tasks have "
                f"{list(self.sizes)}."
            )
        if self.lengths is not None and len(self.lengths) != sum(self.sizes):
            raise ConfigError(
                f"{len(self.lengths)} lengths were given for {sum(self.sizes)} examples."
            )

    @property
    def _total(self) -> int:
        """How many batches an epoch has, over all tasks and processes."""
        return sum(self.batches_in_cycle)

    def _in_cycle(self, task: int) -> int:
        """How many examples a task has in each cycle."""
        most = self.batches_in_cycle[task] * self.batch_size
        return min(self.sizes[task], most)

    def _quotas_of(self, epoch: int) -> Int[np.ndarray, " tasks"]:
        """How many batches each task has in one of the first epochs; not for "round_robin"."""
        if self.sampling == "proportional":
            return np.array(self.batches_in_cycle)
        progress = epoch / (self.epochs - 1) if self.epochs > 1 else 0.0
        exponents = {
            "square_root": 0.5,
            "annealed": 1 - 0.8 * progress,
            "temperature": 1 / self.temperature,
        }
        exponent = exponents.get(self.sampling, 0.0)
        # divided by the largest, so that no exponent overflows
        weights = (np.array(self.sizes) / max(self.sizes)) ** exponent
        return apportion(weights, self._total)

    def _before(self, epoch: int) -> Int[np.ndarray, " tasks"]:
        """How many batches of each task the epochs before `epoch` have, together."""
        if self.sampling == "round_robin":
            turns = epoch * self._total - np.arange(len(self.sizes))
            return -(-turns // len(self.sizes))
        last = self.epochs - 1 if self.sampling == "annealed" else 0  # the same from there on
        changing = min(epoch, last)
        while len(self._sums) <= changing:
            self._sums.append(self._sums[-1] + self._quotas_of(len(self._sums) - 1))
        if epoch == changing:
            return self._sums[changing]
        return self._sums[changing] + (epoch - changing) * self._quotas_of(last)

    def _batches(self) -> list[Int[np.ndarray, " batch"]]:
        """The epoch's batches over all processes."""
        before = self._before(self.epoch).tolist()
        walks = [self._walk(task, place) for task, place in enumerate(before)]
        return [next(walks[task]) for task in self._order()]

    def _order(self) -> Int[np.ndarray, " batches"]:
        """The task of each of the epoch's batches."""
        if self.sampling == "round_robin":
            return (self.epoch * self._total + np.arange(self._total)) % len(self.sizes)
        order = np.repeat(np.arange(len(self.sizes)), self.batches_of_task)
        self._generator(self.epoch, len(self.sizes)).shuffle(order)
        return order

    def _walk(self, task: int, place: int) -> Iterator[Int[np.ndarray, " batch"]]:
        """A task's batches, cycle after cycle without end, from its batch `place` on."""
        cycle, done = divmod(place, self.batches_in_cycle[task])
        for number in itertools.count(cycle):
            yield from self._cycle(task, number)[done:]
            done = 0

    def _cycle(self, task: int, number: int) -> list[Int[np.ndarray, " batch"]]:
        """One task's examples in random order, cut into batches."""
        generator = self._generator(number, task)
        order = sum(self.sizes[:task]) + generator.permutation(self.sizes[task])
        order = order[: self.batches_in_cycle[task] * self.batch_size]
        if self.lengths is None:
            return _cut(order, self.batch_size)
        batches = []
        for run in _cut(order, self.group * self.batch_size):
            batches += _cut(run[np.argsort(self.lengths[run], kind="stable")], self.batch_size)
        shuffled = generator.permutation(len(batches))
        return [batches[i] for i in shuffled]

    def _generator(self, number: int, stream: int) -> np.random.Generator:
        """A generator for each cycle of each task, and one more for each epoch's order of tasks."""
        return np.random.default_rng([self.seed, number, stream])


class MicroBatchSampler:
    """A micro-batch of every task for each of a training's `steps` steps.

    Over the training each task has exactly the examples, in the order, that it has in the first
    `steps` batches of `sampler`, whose batches are of one task each. If these are E examples, step
    t of T, counted from 0, has those from place ⌊t·E/T⌋ up to place ⌊(t + 1)·E/T⌋. An epoch has as
    many steps as that of `sampler`. Gives lists of indices, the tasks one after the other.
    Raises `ConfigError` for a task, of those that are named, with fewer examples than steps.
    """

    def __init__(self, sampler: TaskBatchSampler, steps: int, names: Sequence[str]) -> None:
        self.sampler, self.steps = sampler, steps
        batches = enumerate(sampler.batches_in(steps))
        self.examples = tuple(sampler.examples_in(task, count) for task, count in batches)
        for name, examples in zip(names, self.examples, strict=True):
            if examples < steps:
                raise ConfigError(
                    f"Task {name!r} has {examples} examples in the {steps} steps of this training, "
                    f"of which each needs one: take larger batches, or another sampling, such as "
                    f'"uniform".'
                )

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration give the micro-batches of `epoch`, counted from 0."""
        self.sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[int]]:
        first = self.sampler.epoch * len(self)
        places = self._places(first)
        streams = [self.sampler.examples_from(task, place) for task, place in enumerate(places)]
        for step in range(first, min(first + len(self), self.steps)):
            ends = self._places(step + 1)
            sizes = [end - place for end, place in zip(ends, places, strict=True)]
            yield [
                example
                for stream, size in zip(streams, sizes, strict=True)
                for example in itertools.islice(stream, size)
            ]
            places = ends

    def _places(self, step: int) -> list[int]:
        """How many examples each task has before a step."""
        return [step * examples // self.steps for examples in self.examples]


def apportion(weights: Float[np.ndarray, " tasks"], total: int) -> Int[np.ndarray, " tasks"]:
    """Share out `total` batches in proportion to the weights, by the largest remainders.

    No share is below 1: a task that would get less gets 1, and the others share the rest. Equal
    remainders go to the first. `total` is at least the number of tasks.
    """
    large = np.ones(len(weights), dtype=bool)
    while True:
        rest = total - int((~large).sum())
        # rounded, so that a share of exactly 1, or a tie, does not hang on the last bit
        exact = (weights * (rest / weights[large].sum())).round(9)
        if (exact[large] >= 1).all():
            break
        large &= exact >= 1
    exact[~large] = 1
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: total - shares.sum()]] += 1
    return shares


def _cut(order: Int[np.ndarray, " examples"], size: int) -> list[Int[np.ndarray, " batch"]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _check_sampling(sampling: str) -> None:
    names = get_args(Sampling)
    if sampling not in names:
        known = ", ".join(f'"{name}"' for name in names[:-1])
        raise ConfigError(f'Unknown sampling {sampling!r}: expected {known} or "{names[-1]}".')
