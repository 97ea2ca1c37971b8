"""What lesions of one size do to every task, and how much two lesions overlap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobes.dissociation.dose import dose
from lobes.dissociation.similarity import overlap, overlap_by_chance, shared_heads
from lobes.heads import HeadSet

HEADS = st.frozensets(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=7)


def test_a_dose_is_own_others_and_the_middle_of_random_lesions():
    rng = np.random.default_rng(0)
    scores, random = rng.random((3, 3)), rng.random((7, 3, 3))
    random[2, 1, 0] = math.nan  # not measured: the others still count
    found = dose(scores, random)
    for task in range(3):
        drawn = random[:, :, task].ravel()
        drawn = drawn[np.isfinite(drawn)]
        assert found.own[task] == scores[task, task]
        assert found.others[task] == pytest.approx(np.delete(scores[:, task], task).mean())
        assert found.random[task] == pytest.approx(drawn.mean())
        ends = found.low[task], found.high[task]
        assert ends == pytest.approx(tuple(np.percentile(drawn, (5, 95))))


def test_a_dose_in_percent_divides_random_lesions_by_the_base_on_their_examples():
    found = dose(np.array([[0.4, 0.6], [0.8, 0.2]]), np.full((5, 2, 2), 0.3))
    shares = found.percent_of(np.array([0.8, math.nan]), np.array([0.6, 0.5]))
    assert shares.own == pytest.approx([50, math.nan], nan_ok=True)
    assert shares.others == pytest.approx([100, math.nan], nan_ok=True)
    assert shares.random == pytest.approx([50, math.nan], nan_ok=True)
    unsampled = found.percent_of(np.array([0.8, 0.5]), np.array([math.nan, 0.5]))
    assert unsampled.own == pytest.approx([math.nan, 40], nan_ok=True)


def test_a_dose_without_other_tasks_or_random_lesions_is_undefined_there():
    found = dose(np.array([[0.7]]), np.empty((0, 1, 1)))
    assert found.own.tolist() == [0.7]
    assert np.isnan([found.others, found.random, found.low, found.high]).all()


@given(st.lists(HEADS, min_size=1, max_size=5))
def test_overlap_is_what_sets_share(sets):
    lesions = [HeadSet(heads) for heads in sets]
    counts, shares = shared_heads(lesions), overlap(lesions)
    for i, first in enumerate(sets):
        for j, second in enumerate(sets):
            assert counts[i, j] == len(first & second)
            either = len(first | second)
            expected = len(first & second) / either if either else math.nan
            assert shares[i, j] == pytest.approx(expected, nan_ok=True)


def test_the_overlap_of_random_lesions_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    draws = [
        overlap([HeadSet((0, int(h)) for h in rng.choice(31, 11, replace=False)) for _ in "ab"])
        for _ in range(400)
    ]
    assert overlap_by_chance(11, 31) == pytest.approx(np.mean(draws, axis=0)[0, 1], abs=0.02)
