"""The order of the batches: laws that hold for any sizes, seeds and epochs."""

from collections import Counter
from itertools import islice, pairwise
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lobes.errors import ConfigError
from lobes.training.sampling import MicroBatchSampler, Sampling, TaskBatchSampler, apportion

SIZES = st.lists(st.integers(1, 67), min_size=1, max_size=4)
BATCH = st.integers(1, 13)
SAMPLING = st.sampled_from(get_args(Sampling))


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


@given(SIZES, BATCH, SAMPLING, st.integers(0, 3), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_an_epoch_is_a_function_of_the_seed_and_its_number(
    sizes: list[int], batch_size: int, sampling: str, epoch: int, seed: int
) -> None:
    state = np.random.get_state()[1].copy()
    one = TaskBatchSampler(sizes, batch_size, seed=seed, sampling=sampling, epochs=3)
    epoch_of(one, 7)
    other = TaskBatchSampler(sizes, batch_size, seed=seed, sampling=sampling, epochs=3)
    assert epoch_of(one, epoch) == epoch_of(other, epoch)
    assert np.array_equal(np.random.get_state()[1], state)


@given(SIZES, BATCH, SAMPLING, st.integers(0, 3), st.integers(0, 20))
@settings(deadline=None)
def test_a_run_can_go_on_at_any_step_of_any_epoch(
    sizes: list[int], batch_size: int, sampling: str, epoch: int, step: int
) -> None:
    through = TaskBatchSampler(sizes, batch_size, sampling=sampling, epochs=3)
    for earlier in range(epoch):
        epoch_of(through, earlier)
    whole = epoch_of(through, epoch)
    anew = TaskBatchSampler(sizes, batch_size, sampling=sampling, epochs=3)
    anew.set_epoch(epoch)
    assert list(islice(anew, step, None)) == whole[step:]


@given(SIZES, BATCH, SAMPLING, st.integers(2, 5))
@settings(deadline=None)
def test_processes_share_an_epoch_evenly(
    sizes: list[int], batch_size: int, sampling: str, number: int
) -> None:
    whole = epoch_of(TaskBatchSampler(sizes, batch_size, sampling=sampling), 1)
    parts = [
        TaskBatchSampler(sizes, batch_size, sampling=sampling, processes=number, process=process)
        for process in range(number)
    ]
    dealt = [epoch_of(part, 1) for part in parts]
    assert {len(part) for part in dealt} == {len(part) for part in parts}
    together = [batch for step in zip(*dealt, strict=True) for batch in step]
    assert together[: len(whole)] == whole
    assert len(together) - len(whole) < number


@given(SIZES, BATCH, SAMPLING, st.booleans(), st.booleans())
@settings(deadline=None)
def test_an_example_comes_again_only_when_all_of_its_task_have_come(
    sizes: list[int], batch_size: int, sampling: str, grouped: bool, drop_last: bool
) -> None:
    if drop_last:
        sizes = [size * batch_size for size in sizes]  # whole batches, so that none is left out
    sampler = TaskBatchSampler(
        sizes,
        batch_size,
        sampling=sampling,
        epochs=3,
        drop_last=drop_last,
        lengths=lengths_of(sizes) if grouped else None,
    )
    counts = np.zeros(sum(sizes), dtype=int)
    for epoch in range(4):
        batches = epoch_of(sampler, epoch)
        tasks_of(batches, sizes)
        for batch in batches:
            counts[batch] += 1
            assert len(set(batch)) == len(batch)
            task = np.split(counts, np.cumsum(sizes)[:-1])[tasks_of([batch], sizes)[0]]
            assert np.ptp(task) <= 1


@given(SIZES, BATCH, SAMPLING, st.integers(0, 4))
@settings(deadline=None)
def test_every_epoch_is_as_long_and_has_every_task(
    sizes: list[int], batch_size: int, sampling: str, epoch: int
) -> None:
    sampler = TaskBatchSampler(sizes, batch_size, sampling=sampling, epochs=3)
    batches = epoch_of(sampler, epoch)
    assert len(batches) == len(sampler) == sum(-(-size // batch_size) for size in sizes)
    counts = Counter(tasks_of(batches, sizes))
    assert tuple(counts[task] for task in range(len(sizes))) == sampler.batches_of_task
    assert min(sampler.batches_of_task) >= 1


def quotas(sampling: str, epoch: int = 0, **settings: Any) -> tuple[int, ...]:
    """The batches of tasks with 10,000, 2,500 and 100 examples: of 1,260, ten in each."""
    sampler = TaskBatchSampler([10_000, 2_500, 100], 10, sampling=sampling, **settings)
    sampler.set_epoch(epoch)
    return sampler.batches_of_task


@given(SIZES, BATCH, SAMPLING, st.booleans(), st.integers(1, 61))
@settings(deadline=None)
def test_micro_batches_have_the_same_examples_in_the_same_order(
    sizes: list[int], batch_size: int, sampling: str, grouped: bool, steps: int
) -> None:
    """Also over epochs; every step has examples of every task, as evenly as can be."""
    lengths = lengths_of(sizes) if grouped else None
    plain = TaskBatchSampler(sizes, batch_size, sampling=sampling, epochs=3, lengths=lengths)
    epochs = range(-(-steps // len(plain)))
    batches = [batch for epoch in epochs for batch in epoch_of(plain, epoch)][:steps]
    ends = np.cumsum(sizes)
    drawn: list[list[int]] = [[] for _ in sizes]
    for batch in batches:
        drawn[int(np.searchsorted(ends, batch[0], side="right"))] += batch
    counts = [len(each) for each in drawn]
    names = [f"task {number}" for number in range(len(sizes))]
    if min(counts) < steps:
        with pytest.raises(ConfigError, match=f"has {next(c for c in counts if c < steps)} exam"):
            MicroBatchSampler(plain, steps, names)
        return
    sampler = MicroBatchSampler(plain, steps, names)
    micro = [batch for epoch in epochs for batch in epoch_of(sampler, epoch)]
    assert len(micro) == steps
    seen: list[list[int]] = [[] for _ in sizes]
    for batch in micro:
        tasks = np.searchsorted(ends, batch, side="right")
        assert (np.diff(tasks) >= 0).all()
        for task, count in enumerate(counts):
            own = [e for e, number in zip(batch, tasks, strict=True) if number == task]
            assert 0 <= len(own) - count // steps <= 1
            seen[task] += own
    assert seen == drawn


def test_batches_are_shared_out_in_proportion_to_the_weights() -> None:
    assert quotas("proportional") == (1000, 250, 10)
    # 100 : 50 : 10, so 787.5, 393.75 and 78.75 of 1,260
    assert quotas("square_root") == (787, 394, 79)
    assert quotas("temperature") == quotas("temperature", temperature=2) == (787, 394, 79)
    # 10 : 7.0711 : 3.1623, so 622.70, 440.32 and 196.92
    assert quotas("temperature", temperature=4) == (623, 440, 197)
    assert quotas("temperature", temperature=1) == (1000, 250, 10)
    assert quotas("uniform") == quotas("round_robin") == (420, 420, 420)


def test_a_very_low_temperature_leaves_each_task_a_batch() -> None:
    assert quotas("temperature", temperature=0.001) == (1258, 1, 1)
    assert quotas("temperature", temperature=1e-320) == (1258, 1, 1)
    assert quotas("temperature", temperature=1e300) == (420, 420, 420)


def test_annealing_goes_from_the_sizes_towards_equal_shares() -> None:
    assert quotas("annealed", epochs=1) == (1000, 250, 10)
    shares = [quotas("annealed", epoch, epochs=5) for epoch in range(7)]
    for epoch, share in enumerate(shares[:5]):
        weights = np.array([10_000, 2_500, 100]) ** (1 - 0.2 * epoch)
        np.testing.assert_allclose(share, 1260 * weights / weights.sum(), atol=1)
    assert shares[0] == (1000, 250, 10)
    # 6.3096 : 4.7818 : 2.5119, so 584.42, 442.91 and 232.67
    assert shares[4] == shares[5] == shares[6] == (584, 443, 233)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6), st.integers(0, 500))
def test_shares_are_the_largest_remainders(weights: list[float], spare: int) -> None:
    values = np.array(weights)
    total = len(weights) + spare
    shares = apportion(values, total)
    assert shares.sum() == total
    assert shares.min() >= 1
    for one, other in pairwise(np.argsort(values, kind="stable")):
        assert shares[one] <= shares[other] + (values[one] == values[other])
    large = shares > 1
    exact = values[large] / values[large].sum() * shares[large].sum()
    assert (np.abs(shares[large] - exact) <= 1 + 1e-6).all()


def test_remainders_that_tie_go_to_the_first() -> None:
    assert apportion(np.array([7.0, 7.0, 7.0]), 11).tolist() == [4, 4, 3]
    assert apportion(np.array([1.0, 1.0, 1.0]) / 3, 3).tolist() == [1, 1, 1]
    # 0.5 is raised to 1, then 9 are shared 5 : 4
    assert apportion(np.array([0.5, 5.0, 4.5]), 10).tolist() == [1, 5, 4]


@pytest.mark.parametrize("sampling", ["square_root", "annealed", "temperature", "uniform"])
def test_tasks_come_in_random_order_all_along(sampling: str) -> None:
    sizes = [9 * 500, 3 * 500, 500]
    sampler = TaskBatchSampler(sizes, 5, seed=4, sampling=sampling)
    tasks = np.array(tasks_of(list(sampler), sizes))
    expected = np.array(sampler.batches_of_task) / 1300
    for part in np.array_split(tasks, 4):
        np.testing.assert_allclose(np.bincount(part, minlength=3) / len(part), expected, atol=0.1)


@given(SIZES, BATCH)
@settings(deadline=None)
def test_round_robin_takes_the_tasks_in_turn_also_over_epochs(
    sizes: list[int], batch_size: int
) -> None:
    sampler = TaskBatchSampler(sizes, batch_size, sampling="round_robin")
    tasks = [task for epoch in range(4) for task in tasks_of(epoch_of(sampler, epoch), sizes)]
    assert tasks == [place % len(sizes) for place in range(len(tasks))]


def test_a_task_smaller_than_a_batch_comes_whole_each_time() -> None:
    sampler = TaskBatchSampler([3, 53], 11, sampling="uniform")
    assert sampler.batches_of_task == (3, 3)
    batches = epoch_of(sampler, 1)
    assert [sorted(batch) for batch in batches if batch[0] < 3] == [[0, 1, 2]] * 3


def test_dropping_the_last_batch_leaves_full_ones_in_every_cycle() -> None:
    sampler = TaskBatchSampler([7, 53], 5, sampling="uniform", drop_last=True)
    batches = [batch for epoch in range(9) for batch in epoch_of(sampler, epoch)]
    assert {len(batch) for batch in batches} == {5}
    # 2 of 7 are left out of each cycle, others each time
    assert {i for batch in batches for i in batch if i < 7} == set(range(7))


def test_proportional_batches_are_those_of_earlier_versions() -> None:
    sampler = TaskBatchSampler([5, 3], 2, seed=3)
    assert epoch_of(sampler, 2) == [[6, 7], [4, 0], [1, 2], [5], [3]]
    lengths = np.array([9, 2, 7, 4, 5, 8, 3, 6])
    sampler = TaskBatchSampler([5, 3], 2, seed=3, lengths=lengths, group=2)
    assert epoch_of(sampler, 1) == [[5], [1, 4], [2, 0], [6, 7], [3]]


@pytest.mark.parametrize("sampling", get_args(Sampling))
def test_cycles_and_seeds_differ(sampling: str) -> None:
    sampler = TaskBatchSampler([53, 31], 7, seed=1, sampling=sampling)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 3)
    assert not {frozenset(batch) for batch in first} & {frozenset(batch) for batch in second}
    other = TaskBatchSampler([53, 31], 7, seed=2, sampling=sampling)
    assert not {frozenset(batch) for batch in first} & {frozenset(b) for b in epoch_of(other, 0)}


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
    # neighbors differ as often as independent draws of these shares do, 46 % of the time
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
        (([7, 5], 0), "batch_size is 0; expected a number of examples from 1 to 1,000,000"),
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
    known = 'Unknown sampling \'random\': expected "proportional", "square_root", .* "round_robin"'
    with pytest.raises(ConfigError, match=known):
        TaskBatchSampler([7, 3], 5, sampling="random")
    for temperature in (0, -2.0, np.inf, np.nan):
        with pytest.raises(ConfigError, match=r"temperature is .*; expected a number above 0"):
            TaskBatchSampler([7, 3], 5, sampling="temperature", temperature=temperature)
    with pytest.raises(ConfigError, match="epochs is 0; expected a number of epochs from 1"):
        TaskBatchSampler([7, 3], 5, sampling="annealed", epochs=0)
    with pytest.raises(ConfigError, match="9 lengths were given for 10 examples"):
        TaskBatchSampler([7, 3], 5, lengths=np.ones(9, dtype=np.int64))
