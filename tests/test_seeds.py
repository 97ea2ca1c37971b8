"""Intervals and tests over seeds against SciPy and hand computation; the shape of the summaries."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from lobes.dissociation.seeds import (
    Estimate,
    mean_interval,
    paired_difference,
    summarize_comparison,
    summarize_transfer,
)
from lobes.dissociation.statistics import holm
from lobes.errors import ConfigError

# Multiples of 1/1000, as scores are: differences are then equal exactly or clearly not.
SCORES = st.integers(0, 1000).map(lambda n: n / 1000)


def test_mean_interval_by_hand():
    found = mean_interval(np.array([0.7, 0.8, 0.9]))
    # t(0.975, 2 degrees) = 4.302653, standard error = 0.1 / √3
    assert found.mean == pytest.approx(0.8)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert found.p is None


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
    assert same == Estimate(0.0, 0.0, 0.0, 1.0)
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


def seconds_of(scores):
    return {method: 100.0 + np.arange(len(values)) for method, values in scores.items()}


def test_comparison_summary_holds_the_estimates(scores):
    summary = summarize_comparison(scores, seconds_of(scores), level=0.9)
    assert list(summary) == ["methods", "differences", "d_scores"]
    multi = summary["methods"]["multi"]
    assert multi["tasks"][4] == mean_interval(scores["multi"][:, 4], 0.9).to_dict()
    assert multi["mean"] == mean_interval(scores["multi"].mean(axis=1), 0.9).to_dict()
    assert multi["seconds"]["mean"] == 101
    pairs = [(each["first"], each["second"]) for each in summary["differences"]]
    assert pairs == [("iat", "multi"), ("multi", "single"), ("iat", "single")]
    found = summary["differences"][2]
    expected = [
        paired_difference(scores["iat"][:, k], scores["single"][:, k], 0.9) for k in range(TASKS)
    ]
    corrected = holm(np.array([each.p for each in expected]))
    for task, each, p_holm in zip(found["tasks"], expected, corrected, strict=True):
        assert task == {**each.to_dict(), "p_holm": p_holm}
    means = scores["iat"].mean(axis=1), scores["single"].mean(axis=1)
    assert found["mean"] == paired_difference(*means, 0.9).to_dict()


def test_comparison_summary_follows_a_permutation_of_the_seeds_and_of_the_tasks(scores):
    plain = summarize_comparison(scores, seconds_of(scores))["differences"][0]
    order = np.array([3, 0, 4, 2, 1])
    mixed = {method: values[::-1, order] for method, values in scores.items()}
    moved = summarize_comparison(mixed, seconds_of(mixed))["differences"][0]
    for place, task in enumerate(order):
        assert moved["tasks"][place] == pytest.approx(plain["tasks"][task])
    assert moved["mean"] == pytest.approx(plain["mean"])


def test_only_methods_that_were_run_are_compared(scores):
    del scores["iat"]
    scores["probe"] = scores["single"]
    summary = summarize_comparison(scores, seconds_of(scores))
    assert list(summary["methods"]) == ["single", "multi", "probe"]
    assert [each["first"] for each in summary["differences"]] == ["multi"]


def test_d_scores_leave_out_a_task_without_one_on_both_sides(scores):
    multi, iat = scores["multi"].tolist(), scores["iat"].tolist()
    iat[1][3] = None
    entry = {"fraction": 0.3, "definition": "column", "multi": multi, "iat": iat}
    (found,) = summarize_comparison(scores, seconds_of(scores), [entry])["d_scores"]
    assert (found["fraction"], found["definition"]) == (0.3, "column")
    undefined = {"mean": None, "low": None, "high": None}
    assert found["iat"]["tasks"][3] == undefined
    assert found["multi"]["tasks"][3]["mean"] == pytest.approx(scores["multi"][:, 3].mean())
    assert found["difference"]["tasks"][3] == {**undefined, "p": None, "p_holm": None}
    means = [np.delete(scores[method], 3, axis=1).mean(axis=1) for method in ("iat", "multi")]
    assert found["difference"]["mean"] == paired_difference(*means).to_dict()
    assert found["multi"]["mean"] == mean_interval(means[1]).to_dict()


def test_a_failed_score_is_not_left_out_of_a_methods_mean(scores):
    scores["iat"][2, 0] = np.nan
    summary = summarize_comparison(scores, seconds_of(scores))
    assert summary["methods"]["iat"]["mean"]["mean"] is None
    assert summary["methods"]["multi"]["mean"]["mean"] is not None
    assert summary["differences"][0]["mean"]["p"] is None


def test_without_any_d_score_its_mean_is_undefined(scores):
    nothing = np.full((SEEDS, TASKS), np.nan)
    entry = {"fraction": 0.3, "definition": "row", "multi": nothing, "iat": nothing}
    (found,) = summarize_comparison(scores, seconds_of(scores), [entry])["d_scores"]
    assert found["difference"]["mean"] == {"mean": None, "low": None, "high": None, "p": None}


def test_summaries_of_one_seed_are_json_without_intervals(scores):
    one = {method: values[:1] for method, values in scores.items()}
    summary = summarize_comparison(one, seconds_of(one))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["methods"]["iat"]["mean"]["low"] is None
    assert summary["differences"][0]["mean"]["p"] is None
    assert summary["differences"][0]["tasks"][0]["p_holm"] is None


def test_transfer_summary_holds_the_estimates(scores):
    starts = {"pretrained": scores["single"], "multi": scores["multi"], "iat": scores["iat"]}
    summary = summarize_transfer(starts, 0.8)
    assert summary["starts"]["iat"][3] == mean_interval(starts["iat"][:, 3], 0.8).to_dict()
    pairs = [(each["first"], each["second"]) for each in summary["differences"]]
    assert pairs == [("iat", "multi"), ("multi", "pretrained"), ("iat", "pretrained")]
    found = summary["differences"][1]["fractions"]
    expected = paired_difference(starts["multi"][:, 2], starts["pretrained"][:, 2], 0.8)
    assert {**found[2], "p_holm": None} == {**expected.to_dict(), "p_holm": None}
    p_values = np.array([each["p"] for each in found])
    assert [each["p_holm"] for each in found] == holm(p_values).tolist()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
