"""Which examples flip: counted rightly by lesion and kind, chosen fairly."""

import numpy as np
import pytest

from lobes.dissociation.flips import MOST, flips

N = 503


def rows_of(base, *lesioned, label=1.0):
    """The rows of one task: `base` and each of the lesions' predictions [examples]."""
    n = len(base)
    return {
        "lesion": np.repeat(np.arange(-1, len(lesioned)), n),
        "example": np.tile(np.arange(n), 1 + len(lesioned)),
        "label": np.full(n * (1 + len(lesioned)), label),
        "prediction": np.concatenate([base, *lesioned]),
    }


def flipped(*examples, wrong=(), n=N):
    """Flips of a task of classes under a lesion for each of `examples`; `wrong` is the base's."""
    base = np.ones(n)
    base[list(wrong)] = 0
    lesioned = []
    for own in examples:
        under = base.copy()
        under[list(own)] = 1 - base[list(own)]
        lesioned.append(under)
    return flips(**rows_of(base, *lesioned), lesions=range(len(examples)), regression=False)


def chosen(groups):
    return {group.name: list(group.chosen) for group in groups}


def test_flips_are_counted_by_lesion_and_kind():
    found = flipped([0, 1, 7, 8, 9], [1, 9, 11], wrong=[0, 1])
    assert found.number == N
    assert found.worse.tolist() == [3, 2]
    assert found.better.tolist() == [2, 1]
    assert found.alone.tolist() == [3, 1]
    assert chosen(found.groups(0)) == {
        "own only": [0, 7, 8],
        "own and others": [1, 9],
        "others only": [11],
    }
    assert chosen(found.groups(2)) == {"others only": [0, 1, 7, 8, 9, 11]}
    assert found.lesions_that_change(9) == [0, 1]


def test_a_lesion_by_itself_has_one_group():
    found = flipped([3, 5])
    assert chosen(found.groups(0)) == {"own": [3, 5]}
    assert flipped([]).groups(0) == []


def test_many_examples_are_drawn_with_a_fixed_seed():
    found = flipped(range(400), range(300, 500))
    groups = found.groups(0)
    assert [(group.total, len(group.chosen)) for group in groups] == [
        (300, 24),
        (100, 10),
        (100, 6),
    ]
    assert found.groups(0) == groups
    assert list(groups[0].chosen) == sorted(set(groups[0].chosen))
    assert max(groups[0].chosen) > 150


@pytest.mark.parametrize(
    ("own", "both", "other", "expected"),
    [(100, 0, 0, [40]), (3, 100, 0, [3, 37]), (0, 2, 100, [2, 38]), (30, 1, 1, [30, 1, 1])],
)
def test_room_that_a_group_leaves_goes_to_the_others(own, both, other, expected):
    groups = flipped(range(own + both), range(own, own + both + other)).groups(0)
    assert [len(group.chosen) for group in groups] == expected
    assert sum(expected) <= MOST


def test_of_a_regression_the_largest_changes_of_the_error_are_chosen():
    base, own = np.full(53, 2.5), np.full(53, 2.5)
    own[7], own[9], own[30] = 4.0, 2.0, 0.5
    found = flips(**rows_of(base, own, base, label=2.0), lesions=(0, 1), regression=True)
    (group,) = found.groups(0)
    assert (group.name, group.total, group.chosen) == ("error", 3, (7, 30, 9))
    assert found.worse.tolist() == [2, 0]
    assert found.better.tolist() == [1, 0]
    assert found.mean_change == pytest.approx([(1.5 + 1.0 - 0.5) / 53, 0.0])


def test_what_was_not_measured_flips_nothing():
    rows = rows_of(np.ones(11), np.zeros(11))
    kept = np.arange(22) != 14  # the lesion of example 3
    found = flips(**{k: v[kept] for k, v in rows.items()}, lesions=(0, 1), regression=False)
    assert found.worse.tolist() == [10, 0]
    assert 3 not in found.groups(0)[0].chosen
    nothing = {name: column[:0] for name, column in rows.items()}
    assert flips(**nothing, lesions=(0,), regression=False) is None
    several = {**rows, "label": np.full(22, np.nan)}  # several labels for one example
    assert flips(**several, lesions=(0,), regression=False) is None
