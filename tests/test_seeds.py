"""Intervals and tests over seeds against SciPy and hand computation; the summaries of studies."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from lobes.dissociation.seeds import (
    Difference,
    Estimate,
    mean_interval,
    paired_difference,
    paired_differences,
)
from lobes.dissociation.statistics import holm
from lobes.errors import ConfigError
from lobes.experiments.seed_statistics import comparison_summary, transfer_summary
from lobes.results.over_seeds import DScores

# Multiples of 1/1000, as scores are: differences are then equal exactly or clearly not.
SCORES = st.integers(0, 1000).map(lambda n: n / 1000)


def test_mean_interval_by_hand():
    found = mean_interval(np.array([0.7, 0.8, 0.9]))
    # t(0.975, 2 degrees) = 4.302653, standard error = 0.1 / √3
    assert found.mean == pytest.approx(0.8)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert type(found) is Estimate


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_mean_interval_is_that_of_scipy(level):
    values = np.random.default_rng(1).normal(size=7)
    low, high = stats.t.interval(level, 6, values.mean(), stats.sem(values))
    found = mean_interval(values, level)
    np.testing.assert_allclose([found.low, found.high], [low, high])


def test_mean_interval_covers_as_often_as_its_level_says():
    samples = np.random.default_rng(2).normal(3.0, 2.0, size=(2000, 5))
    found = [mean_interval(sample, 0.9) for sample in samples]
    share = np.mean([each.low <= 3.0 <= each.high for each in found])
    assert share == pytest.approx(0.9, abs=3 * math.sqrt(0.09 / 2000))


def test_one_seed_has_a_mean_and_nothing_else():
    found = mean_interval(np.array([0.7]))
    assert found.mean == 0.7
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    found = paired_difference(np.array([0.7]), np.array([0.5]))
    assert found.mean == pytest.approx(0.2)
    assert all(math.isnan(value) for value in (found.low, found.high, found.p))


def test_an_undefined_seed_makes_the_estimate_undefined():
    values, other = np.array([0.7, np.nan, 0.8]), np.array([0.1, 0.2, 0.3])
    assert math.isnan(mean_interval(values).mean)
    found = paired_difference(other, values)
    assert all(math.isnan(value) for value in (found.mean, found.low, found.high, found.p))


def test_paired_difference_is_the_paired_t_test():
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(2, 11))
    found, test = paired_difference(first, second, 0.8), stats.ttest_rel(first, second)
    low, high = test.confidence_interval(0.8)
    assert found.p == pytest.approx(test.pvalue)
    np.testing.assert_allclose([found.low, found.high], [low, high])
    assert found.mean == pytest.approx(first.mean() - second.mean())


def test_pairing_removes_what_the_seeds_share():
    shared = np.array([0.1, 0.5, 0.9, 0.3, 0.7])
    gain = np.array([0.020, 0.021, 0.019, 0.022, 0.018])
    assert paired_difference(shared + gain, shared).p < 0.001
    assert paired_difference(shared + gain, shared[::-1]).p > 0.9


def test_equal_differences_have_a_point_for_an_interval():
    scores = np.array([0.31, 0.42, 0.53])
    same = paired_difference(scores, scores)
    assert same == Difference(0.0, 0.0, 0.0, 1.0)
    # 0.1 more in every seed, up to rounding, where the t-test itself would say p = 0 or 1e-16
    shifted = paired_difference(scores + 0.1, scores)
    assert np.ptp(scores + 0.1 - scores) > 0
    assert shifted.low == shifted.high == shifted.mean == pytest.approx(0.1)
    assert shifted.p == 2 / 2**3


@given(st.integers(2, 7).flatmap(lambda n: arrays.arrays(np.float64, (2, n), elements=SCORES)))
def test_a_difference_turned_round_changes_its_sign_and_nothing_else(pair):
    there, back = paired_difference(*pair), paired_difference(*pair[::-1])
    np.testing.assert_allclose(
        [there.mean, there.low, there.high, there.p],
        [-back.mean, -back.high, -back.low, back.p],
        atol=1e-12,
    )
    assert 0 <= there.p <= 1
    assert there.low <= there.mean <= there.high


@given(st.integers(2, 7).flatmap(lambda n: arrays.arrays(np.float64, (2, n), elements=SCORES)))
def test_the_interval_excludes_0_just_where_p_says_so(pair):
    found = paired_difference(*pair, 0.95)
    if np.ptp(pair[0] - pair[1]) > 1e-9 and abs(found.p - 0.05) > 1e-6:
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(ConfigError, match="at least one seed"):
        mean_interval(np.array([], dtype=np.float64))
    with pytest.raises(ConfigError, match="between 0 and 1, not at 95"):
        mean_interval(np.array([0.1, 0.2]), 95)


SEEDS, TASKS = 3, 5


@pytest.fixture
def scores():
    generator = np.random.default_rng(5)
    return {method: generator.normal(size=(SEEDS, TASKS)) for method in ("single", "multi", "iat")}


def summary_of(scores, d_scores=(), level=0.95):
    seconds = {method: 100.0 + np.arange(len(values)) for method, values in scores.items()}
    return comparison_summary(scores, seconds, d_scores, level)


def numbers(found):
    """The numbers of an estimate or a difference, stored or not."""
    plain = dataclasses.asdict(found) if dataclasses.is_dataclass(found) else dict(found)
    return {name: pytest.approx(value, nan_ok=True) for name, value in plain.items()}


def stored(found):
    return dict(found)


def test_differences_in_columns_are_corrected_together(scores):
    found = paired_differences(scores["iat"], scores["single"], 0.9)
    each = [
        paired_difference(scores["iat"][:, k], scores["single"][:, k], 0.9) for k in range(TASKS)
    ]
    corrected = holm(np.array([one.p for one in each]))
    assert [one.p_holm for one in found] == corrected.tolist()
    assert [Difference(one.mean, one.low, one.high, one.p) for one in found] == each


def test_a_difference_counts_by_its_p_and_its_sign():
    up, down = Difference(0.1, 0.01, 0.2, 0.05), Difference(-0.1, -0.2, -0.01, 0.001)
    assert (up.is_better, up.is_worse, down.is_better, down.is_worse) == (True, False, False, True)
    for p in (0.051, math.nan):
        unsure = dataclasses.replace(up, p=p)
        assert not unsure.is_better
        assert not unsure.is_worse


def test_comparison_summary_holds_the_estimates(scores):
    summary = summary_of(scores, level=0.9)
    multi = summary.methods["multi"]
    assert stored(multi.tasks[4]) == numbers(mean_interval(scores["multi"][:, 4], 0.9))
    assert stored(multi.mean) == numbers(mean_interval(scores["multi"].mean(axis=1), 0.9))
    np.testing.assert_allclose(multi.seeds, scores["multi"].mean(axis=1))
    assert multi.seconds.mean == 101
    pairs = [(each.first, each.second) for each in summary.differences]
    assert pairs == [("iat", "multi"), ("multi", "single"), ("iat", "single")]
    found, expected = (
        summary.differences[2],
        paired_differences(scores["iat"], scores["single"], 0.9),
    )
    assert [stored(task) for task in found.tasks] == [numbers(each) for each in expected]
    means = scores["iat"].mean(axis=1), scores["single"].mean(axis=1)
    assert stored(found.mean) == numbers(paired_difference(*means, 0.9))
    # the p by which each is judged
    assert [task.tested.p for task in found.tasks] == [task.p_holm for task in found.tasks]
    assert found.mean.tested.p == found.mean.p


def test_comparison_summary_follows_a_permutation_of_the_seeds_and_of_the_tasks(scores):
    plain = summary_of(scores).differences[0]
    order = np.array([3, 0, 4, 2, 1])
    mixed = {method: values[::-1, order] for method, values in scores.items()}
    moved = summary_of(mixed).differences[0]
    for place, task in enumerate(order):
        assert stored(moved.tasks[place]) == numbers(plain.tasks[task])
    assert stored(moved.mean) == numbers(plain.mean)


def test_only_methods_that_were_run_are_compared(scores):
    del scores["iat"]
    scores["probe"] = scores["single"]
    summary = summary_of(scores)
    assert list(summary.methods) == ["single", "multi", "probe"]
    assert [each.first for each in summary.differences] == ["multi"]


def test_d_scores_leave_out_a_task_without_one_on_both_sides(scores):
    scores["iat"][1, 3] = np.nan
    entry = DScores(fraction=0.3, definition="column", multi=scores["multi"], iat=scores["iat"])
    (found,) = summary_of(scores, [entry]).d_scores
    assert (found.fraction, found.definition) == (0.3, "column")
    assert np.isnan(list(stored(found.iat.tasks[3]).values())).all()
    assert found.multi.tasks[3].mean == pytest.approx(scores["multi"][:, 3].mean())
    assert np.isnan(list(stored(found.difference.tasks[3]).values())).all()
    means = [np.delete(scores[method], 3, axis=1).mean(axis=1) for method in ("iat", "multi")]
    assert stored(found.difference.mean) == numbers(paired_difference(*means))
    assert stored(found.multi.mean) == numbers(mean_interval(means[1]))
    np.testing.assert_allclose(found.iat.seeds, means[0])


def test_a_failed_score_is_not_left_out_of_a_methods_mean(scores):
    scores["iat"][2, 0] = np.nan
    summary = summary_of(scores)
    assert math.isnan(summary.methods["iat"].mean.mean)
    assert math.isfinite(summary.methods["multi"].mean.mean)
    assert math.isnan(summary.differences[0].mean.p)


def test_without_any_d_score_its_mean_is_undefined(scores):
    nothing = np.full((SEEDS, TASKS), np.nan)
    entry = DScores(fraction=0.3, definition="row", multi=nothing, iat=nothing)
    (found,) = summary_of(scores, [entry]).d_scores
    assert np.isnan(list(stored(found.difference.mean).values())).all()


def test_summaries_of_one_seed_have_no_intervals_and_null_in_json(scores):
    summary = summary_of({method: values[:1] for method, values in scores.items()})
    plain = summary.to_dict()
    assert plain["methods"]["iat"]["mean"]["low"] is None
    assert plain["differences"][0]["mean"]["p"] is None
    assert plain["differences"][0]["tasks"][0]["p_holm"] is None


def test_the_best_mean_is_over_what_is_defined(scores):
    scores["iat"][:, 0] = np.nan
    best = summary_of(scores).best(("iat", "multi"))
    means = scores["iat"].mean(axis=0), scores["multi"].mean(axis=0)
    np.testing.assert_allclose(best, np.fmax(*means))
    assert best[0] == pytest.approx(means[1][0])


def test_transfer_summary_holds_the_estimates(scores):
    starts = {"pretrained": scores["single"], "multi": scores["multi"], "iat": scores["iat"]}
    summary = transfer_summary(starts, 0.8)
    assert stored(summary.starts["iat"][3]) == numbers(mean_interval(starts["iat"][:, 3], 0.8))
    pairs = [(each.first, each.second) for each in summary.differences]
    assert pairs == [("iat", "multi"), ("multi", "pretrained"), ("iat", "pretrained")]
    expected = paired_differences(starts["multi"], starts["pretrained"], 0.8)
    found = summary.differences[1].fractions
    assert [stored(each) for each in found] == [numbers(each) for each in expected]
