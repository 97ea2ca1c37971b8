"""Resampling, p-values and their correction, against hand-computed and plain definitions."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from lobes.dissociation.statistics import (
    holm,
    named_generator,
    p_against_controls,
    p_over_fractions,
    paired_p_value,
    percentile_interval,
    resample_counts,
)
from lobes.metrics import METRICS

P_VALUES = arrays.arrays(np.float64, st.integers(1, 13), elements=st.floats(0, 1))


def test_resampled_counts_are_the_drawn_indices_counted():
    counts = resample_counts(7, 5, np.random.default_rng(3))
    drawn = np.random.default_rng(3).integers(7, size=(5, 7))
    assert counts.shape == (5, 7)
    for row, indices in zip(counts, drawn, strict=True):
        assert row.tolist() == np.bincount(indices, minlength=7).tolist()


def test_p_against_controls_by_hand():
    controls = np.array([[1.0, 9.0], [2.0, 9.0], [3.0, 9.0], [4.0, 9.0]])
    # 3 and 4 reach 3.0, the tie among them: (1 + 2) / (1 + 4); nothing reaches 9.5
    np.testing.assert_allclose(p_against_controls(np.array([3.0, 9.5]), controls), [3 / 5, 1 / 5])
    np.testing.assert_allclose(p_against_controls(np.array([0.5, 9.0]), controls), [1, 1])


def test_a_tie_counts_against_the_observation_also_when_rounding_blurs_it():
    observed, controls = np.array([0.1 + 0.2]), np.array([[0.3], [0.2]])
    assert observed[0] > controls[0, 0]
    assert p_against_controls(observed, controls)[0] == pytest.approx(2 / 3)


def test_undefined_controls_count_against_and_an_undefined_observation_has_no_p():
    controls = np.array([[np.nan], [0.0]])
    assert p_against_controls(np.array([1.0]), controls)[0] == pytest.approx(2 / 3)
    assert np.isnan(p_against_controls(np.array([np.nan]), controls)[0])
    assert np.isnan(p_against_controls(np.array([1.0]), np.empty((0, 1)))[0])


def test_p_over_fractions_by_hand():
    # standardized with the observation: the first fraction has mean 2 and deviation √2, the second
    # 0 and 1, the third does not vary
    replicates = np.array([[1.0, 1.0, 7.0], [3.0, -1.0, 7.0], [4.0, 1.0, 7.0], [2.0, -1.0, 7.0]])
    assert p_over_fractions(np.array([0.0, 0.0, 7.0]), replicates) == 1.0
    # 4.0 is √2 above its mean, more than any other; as the observation it has the smallest p
    assert p_over_fractions(replicates[2], np.delete([*replicates, [0, 0, 7]], 2, 0)) == 1 / 5
    assert p_over_fractions(replicates[1, :1], replicates[:, :1]) == 3 / 5  # itself a tie
    assert p_over_fractions(np.array([7.0]), replicates[:, 2:]) == 1.0


def test_p_over_fractions_of_one_fraction_is_its_p_whatever_is_undefined():
    replicates = np.array([[1.0, 5.0], [np.nan, 0.0], [2.0, 1.0]])
    assert p_over_fractions(np.array([3.0, np.nan]), replicates) == 2 / 4
    assert np.isnan(p_over_fractions(np.array([np.nan, np.nan]), replicates))
    assert np.isnan(p_over_fractions(np.array([1.0, 2.0]), replicates[:0]))


@given(arrays.arrays(np.float64, (7, 3), elements=st.integers(-5, 5)))
def test_every_replicate_is_treated_like_the_observation(scores):
    """Ranks: over all that could be the observation, p ≤ level no more often than level."""
    p = [p_over_fractions(scores[k], np.delete(scores, k, 0)) for k in range(7)]
    assert all(sum(each <= level / 7 + 1e-9 for each in p) <= level for level in range(1, 8))


@given(arrays.arrays(np.float64, 11, elements=st.floats(-50, 50)), st.floats(-50, 50))
def test_p_against_controls_is_a_rank_and_falls_with_the_observation(controls, observed):
    p = p_against_controls(np.array([observed, observed + 1]), np.stack([controls, controls], 1))
    assert p[0] * 12 == pytest.approx(round(p[0] * 12))
    assert 1 / 12 <= p[1] <= p[0] <= 1


def test_holm_by_hand():
    # sorted 0.005 0.01 0.03 0.04 times 4 3 2 1 = 0.02 0.03 0.06 0.04, and never falling
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1, 1])
    corrected = holm(np.array([np.nan, 0.01, 0.02]))
    assert np.isnan(corrected[0])
    np.testing.assert_allclose(corrected[1:], [0.03, 0.04])
    assert holm(np.array([])).size == 0


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_lies_between_the_p_values_and_bonferroni_and_permutes_with_them(p_values, random):
    corrected = holm(p_values)
    assert (corrected >= p_values).all()
    assert (corrected <= np.minimum(1, p_values * len(p_values)) + 1e-12).all()
    assert (np.diff(corrected[np.argsort(p_values, kind="stable")]) >= 0).all()
    order = random.sample(range(len(p_values)), len(p_values))
    np.testing.assert_array_equal(holm(p_values[order]), corrected[order])


def test_accuracy_is_tested_by_the_exact_binomial():
    labels = np.zeros(17, dtype=np.int64)
    better, worse = labels.copy(), labels.copy()
    worse[:7] = 1  # seven examples only `better` gets right,
    better[7:9] = 1  # two only `worse` does,
    worse[9:12] = better[9:12] = 1  # and three neither
    call = {"draws": 1, "generator": np.random.default_rng(0)}
    p = paired_p_value(METRICS["accuracy"], labels, worse, better, **call)
    assert p == pytest.approx(stats.binomtest(7, 9, alternative="greater").pvalue)
    assert p == pytest.approx((36 + 9 + 1) / 2**9)
    reverse = paired_p_value(METRICS["accuracy"], labels, better, worse, **call)
    assert reverse == pytest.approx(stats.binomtest(2, 9, alternative="greater").pvalue)
    assert paired_p_value(METRICS["accuracy"], labels, better, better, **call) == 1


def test_random_exchanges_agree_with_the_exact_test():
    generator = np.random.default_rng(5)
    labels = generator.integers(0, 2, 43)
    better = np.where(generator.random(43) < 0.8, labels, 1 - labels)
    worse = np.where(generator.random(43) < 0.6, labels, 1 - labels)
    exact = paired_p_value(METRICS["accuracy"], labels, worse, better, draws=1, generator=generator)
    drawn = replace(METRICS["accuracy"], name="accuracy by exchanges")
    p = paired_p_value(drawn, labels, worse, better, draws=20_000, generator=generator)
    assert 0.001 < exact < 0.5
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_random_exchanges_agree_with_all_exchanges(name):
    generator = np.random.default_rng(7)
    labels = np.array([0, 1, 1, 0, 1, 0, 1])
    better = np.array([0, 1, 1, 0, 1, 1, 0])
    worse = np.array([1, 1, 0, 0, 1, 0, 1])
    if METRICS[name].for_regression:
        labels, better, worse = labels + np.arange(7) / 4, better + 0.1 * labels, worse - 0.3
    metric = METRICS[name]
    observed = metric(labels, better) - metric(labels, worse)
    differences = []
    for swaps in product((False, True), repeat=7):
        first, second = metric.on_common_scale(better), metric.on_common_scale(worse)
        upper, lower = np.where(swaps, second, first), np.where(swaps, first, second)
        differences.append(metric(labels, upper) - metric(labels, lower))
    exact = np.mean(np.array(differences) >= observed - 1e-9)
    p = paired_p_value(metric, labels, worse, better, draws=8_000, generator=generator)
    assert 0 < exact < 1
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact / 8_000))


def test_the_observed_assignment_counts_as_one_exchange():
    labels = np.arange(40) % 2
    call = {"draws": 99, "generator": np.random.default_rng(0)}
    assert paired_p_value(METRICS["f1"], labels, 1 - labels, labels, **call) == 1 / 100


def test_the_pair_test_is_nan_where_a_score_is_and_1_where_nothing_differs():
    labels, varied, constant = np.array([0.0, 1.0, 2.0]), np.array([1.0, 0.0, 2.0]), np.ones(3)
    call = {"draws": 99, "generator": np.random.default_rng(0)}
    assert np.isnan(paired_p_value(METRICS["pearson"], labels, constant, varied, **call))
    assert paired_p_value(METRICS["pearson"], labels, varied, varied, **call) == 1


@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews", "spearman"])
def test_the_pair_test_holds_its_level_and_has_power(name):
    generator = np.random.default_rng(11)
    null, planted = [], []
    for _ in range(200):
        if METRICS[name].for_regression:
            labels = generator.normal(size=53)
            rows = labels + generator.normal(size=(3, 53)) * np.array([[1.0], [1.0], [5.0]])
        else:
            labels = generator.integers(0, 2, 61)
            right = generator.random((3, 61)) < np.array([[0.9], [0.9], [0.6]])
            rows = np.where(right, labels, 1 - labels)
        call = {"draws": 99, "generator": generator}
        null.append(paired_p_value(METRICS[name], labels, rows[1], rows[0], **call))
        planted.append(paired_p_value(METRICS[name], labels, rows[2], rows[0], **call))
    for level in (0.05, 0.2, 0.5):
        spread = np.sqrt(level * (1 - level) / 200)
        assert np.mean(np.array(null) <= level) <= level + 3 * spread
    # a test that never rejects would hold its level too
    assert np.mean(np.array(null) <= 0.5) > 0.25
    assert np.mean(np.array(planted) <= 0.05) > 0.85


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_a_lesion_that_only_shifts_and_stretches_the_outputs_hides_nothing(name):
    generator = np.random.default_rng(13)
    labels = generator.normal(size=101)
    better = labels + generator.normal(size=101)
    worse = labels + 5 * generator.normal(size=101)
    call = {"draws": 499}
    p, moved = (
        paired_p_value(
            METRICS[name], labels, each, better, generator=np.random.default_rng(0), **call
        )
        for each in (worse, 10 * worse + 50)
    )
    assert p == moved < 0.01


def test_percentile_interval_by_hand():
    samples = np.stack([np.arange(101.0), np.full(101, 7.0)], axis=1)
    np.testing.assert_allclose(percentile_interval(samples, 0.9), [[5, 95], [7, 7]])


def test_a_few_undefined_resamples_are_left_out_and_many_leave_no_interval():
    samples = np.stack([np.arange(103.0), np.arange(103.0)], axis=1)
    samples[101:, 0] = np.nan
    samples[80:, 1] = np.nan
    interval = percentile_interval(samples, 0.9)
    np.testing.assert_allclose(interval[0], [5, 95])
    assert np.isnan(interval[1]).all()


def test_named_generators_repeat_by_name_and_seed_and_differ_otherwise():
    first = named_generator(3, "a", "b").random()
    assert named_generator(3, "a", "b").random() == first
    others = [named_generator(4, "a", "b"), named_generator(3, "b", "a"), named_generator(3, "a")]
    assert first not in {other.random() for other in others}
