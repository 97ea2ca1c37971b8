"""The order of the batches: laws that hold for any sizes, seeds and epochs."""

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobes.errors import ConfigError
from lobes.training.sampling import TaskBatchSampler

SIZES = st.lists(st.integers(1, 67), min_size=1, max_size=4)
BATCH = st.integers(1, 13)


def epoch_of(sampler: TaskBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def lengths_of(sizes: list[int]) -> np.ndarray:
    return np.random.default_rng(5).integers(3, 90, size=sum(sizes))


def tasks_of(batches: list[list[int]], sizes: list[int]) -> list[int]:
    """Each batch's task; every batch must be of one."""
    ends = np.cumsum(sizes)
    owners = [{int(np.searchsorted(ends, i, side="right")) for i in batch} for batch in batches]
    assert all(len(owner) == 1 for owner in owners)
    return [owner.pop() for owner in owners]


@given(SIZES, BATCH, st.integers(0, 3), st.booleans())
@settings(deadline=None)
def test_an_epoch_has_every_example_once_and_every_batch_one_task(
    sizes: list[int], batch_size: int, epoch: int, grouped: bool
) -> None:
    lengths = lengths_of(sizes) if grouped else None
    sampler = TaskBatchSampler(sizes, batch_size, lengths=lengths)
    batches = epoch_of(sampler, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(sum(sizes)))
    counts = Counter(tasks_of(batches, sizes))
    assert tuple(counts[task] for task in range(len(sizes))) == sampler.batches_of_task
    assert len(batches) == len(sampler) == sum(-(-size // batch_size) for size in sizes)
    assert all(len(batch) <= batch_size for batch in batches)


@given(SIZES, BATCH, st.booleans())
@settings(deadline=None)
def test_dropping_the_last_batch_leaves_full_ones(
    sizes: list[int], batch_size: int, grouped: bool
) -> None:
    sizes = [size + batch_size for size in sizes]
    lengths = lengths_of(sizes) if grouped else None
    sampler = TaskBatchSampler(sizes, batch_size, drop_last=True, lengths=lengths)
    batches = list(sampler)
    assert {len(batch) for batch in batches} == {batch_size}
    assert len(batches) == len(sampler) == sum(size // batch_size for size in sizes)
    assert len({i for batch in batches for i in batch}) == len(batches) * batch_size
    tasks_of(batches, sizes)


@given(SIZES, BATCH, st.integers(0, 3), st.integers(0, 2**63))
@settings(deadline=None)
def test_an_epoch_is_a_function_of_the_seed_and_its_number(
    sizes: list[int], batch_size: int, epoch: int, seed: int
) -> None:
    state = np.random.get_state()[1].copy()
    one = TaskBatchSampler(sizes, batch_size, seed=seed)
    epoch_of(one, 7)
    other = TaskBatchSampler(sizes, batch_size, seed=seed)
    assert epoch_of(one, epoch) == epoch_of(other, epoch)
    assert np.array_equal(np.random.get_state()[1], state)


@given(SIZES, BATCH, st.integers(2, 5))
@settings(deadline=None)
def test_processes_share_an_epoch_evenly(sizes: list[int], batch_size: int, number: int) -> None:
    whole = list(TaskBatchSampler(sizes, batch_size))
    parts = [
        TaskBatchSampler(sizes, batch_size, processes=number, process=process)
        for process in range(number)
    ]
    dealt = [list(part) for part in parts]
    assert {len(part) for part in dealt} == {len(part) for part in parts}
    together = [batch for step in zip(*dealt, strict=True) for batch in step]
    assert together[: len(whole)] == whole
    assert len(together) - len(whole) < number


def test_epochs_and_seeds_differ() -> None:
    sampler = TaskBatchSampler([53, 31], 7, seed=1)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert first != second
    assert first != epoch_of(TaskBatchSampler([53, 31], 7, seed=2), 0)
    # two epochs hold different batches of the same examples, in another order of tasks
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    assert tasks_of(first, [53, 31]) != tasks_of(second, [53, 31])


def test_tasks_come_in_proportion_all_along() -> None:
    sizes = [9 * 500, 3 * 500, 500]
    tasks = np.array(tasks_of(list(TaskBatchSampler(sizes, 5, seed=4)), sizes))
    assert len(tasks) == 1300
    for part in np.array_split(tasks, 4):
        shares = np.bincount(part, minlength=3) / len(part)
        # the standard error of a share is at most 0.026 over 325 batches
        np.testing.assert_allclose(shares, [9 / 13, 3 / 13, 1 / 13], atol=0.1)
    changes = sum(a != b for a, b in pairwise(tasks))
    # neighbours differ as often as independent draws of these shares do, 46 % of the time
    assert 0.40 < changes / 1299 < 0.53


def test_grouping_by_length_saves_padding_and_stays_shuffled() -> None:
    sizes = [1009, 499]
    lengths = lengths_of(sizes)

    def padding(batches: list[list[int]]) -> float:
        padded = sum(len(batch) * lengths[batch].max() for batch in batches)
        return 1 - lengths.sum() / padded

    plain = list(TaskBatchSampler(sizes, 16))
    grouped = list(TaskBatchSampler(sizes, 16, lengths=lengths))
    assert padding(plain) > 0.4
    assert padding(grouped) < 0.15


def test_batches_grouped_by_length_come_in_random_order() -> None:
    lengths = lengths_of([2003])
    batches = list(TaskBatchSampler([2003], 16, lengths=lengths))
    means = np.array([lengths[batch].mean() for batch in batches])
    assert means.std() > 15  # short batches and long ones …
    # … with no run of one kind and no trend: 3 standard errors over 126 batches are 0.27
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([7, 5], 0), "A batch holds at least 1 example, not 0"),
        (([], 3), r"Each task needs 1 or more training examples .* the tasks have \[\]"),
        (([7, 0], 3), r"the tasks have \[7, 0\]"),
    ],
)
def test_sizes_that_cannot_be(arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TaskBatchSampler(*arguments)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"needs 5 or more .* the tasks have \[7, 3\]"):
        TaskBatchSampler([7, 3], 5, drop_last=True)
    with pytest.raises(ConfigError, match="Unknown sampling 'random': expected \"proportional\""):
        TaskBatchSampler([7, 3], 5, sampling="random")
    with pytest.raises(ConfigError, match="9 lengths were given for 10 examples"):
        TaskBatchSampler([7, 3], 5, lengths=np.ones(9, dtype=np.int64))
