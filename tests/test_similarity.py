"""Similarity of tasks, and its correlation with how far they dissociate."""

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from lobes.dissociation.dscores import column
from lobes.dissociation.similarity import (
    _by_exchanging,
    corrected_for_noise,
    importance_correlation,
    linear_cka,
    overlap,
    pair_d_scores,
    similarity_trend,
    trends,
    trends_over_runs,
)
from lobes.dissociation.simulation import Simulation
from lobes.heads import HeadSet
from lobes.scores import HeadScores

generator = np.random.default_rng(17)


def test_importance_correlates_as_scipy_says():
    values = generator.random((3, 5, 7))
    values[:, 2, 5:] = np.nan  # a site with fewer heads
    values[1, 0, :4] = 0.5  # ties
    found = importance_correlation([HeadScores(each) for each in values])
    known = ~np.isnan(values[0])
    expected = stats.spearmanr(values[:, known].T).statistic
    assert np.allclose(found, expected)
    flat = importance_correlation([HeadScores(np.ones((2, 3))), HeadScores(values[0, :2, :3])])
    assert np.isnan(flat[0, 1])


def test_correlation_of_noisy_importance_is_corrected():
    """What two maps without noise correlate by is found again from noisy halves of them."""
    drawn = np.random.default_rng(23)
    common, *own = drawn.normal(size=(3, 1, 1999))
    maps = [common + each for each in own]  # a correlation of 1/2
    noisy = []
    for one, noise in zip(maps, (1.5, 3.0), strict=True):
        halves = one + noise * drawn.normal(size=(2, 1, 1999))
        noisy.append(HeadScores(halves.mean(axis=0), halves=halves))
    measured, reliable = importance_correlation(noisy), [one.reliability for one in noisy]
    found = corrected_for_noise(measured, reliable)
    expected = importance_correlation([HeadScores(one) for one in maps])[0, 1]
    assert measured[0, 1] < expected - 0.1
    assert found[0, 1] == found[1, 0] == pytest.approx(expected, abs=0.05)
    assert np.diagonal(found).tolist() == pytest.approx([1, 1])
    assert corrected_for_noise(measured, [0.04, 0.05])[0, 1] == 1
    assert np.isnan(corrected_for_noise(measured, [0.5, -0.1])[0, 1])
    assert corrected_for_noise(measured, [0.5, np.nan]) is measured


def test_overlap_is_jaccard():
    sets = [HeadSet.parse("0:1,2 1:0"), HeadSet.parse("0:2,3 1:0"), HeadSet()]
    found = overlap(sets)
    assert found[0, 1] == found[1, 0] == 2 / 4
    assert (found[0, 0], found[0, 2]) == (1.0, 0.0)
    assert np.isnan(found[2, 2])


def test_cka_sees_neither_rotation_nor_scale_nor_shift():
    x = generator.standard_normal((50, 6))
    rotation, _ = np.linalg.qr(generator.standard_normal((6, 6)))
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    y = generator.standard_normal((50, 4))
    center = np.eye(50) - 1 / 50
    k, other = center @ x @ x.T @ center, center @ y @ y.T @ center  # the form with kernels
    expected = (k * other).sum() / np.sqrt((k * k).sum() * (other * other).sum())
    assert linear_cka(x, y) == pytest.approx(expected)
    assert np.isnan(linear_cka(x, np.ones((50, 2))))


def test_the_d_score_of_a_pair_is_that_of_a_study_of_the_two():
    matrix, base = generator.random((2, 4, 4)), generator.random((2, 4)) + 0.5
    found = pair_d_scores(matrix, base)
    for k in range(2):
        for i, j in ((0, 1), (2, 3), (1, 3)):
            two = column(matrix[k][np.ix_([i, j], [i, j])], base[k][[i, j]])
            assert found[k, i, j] == found[k, j, i] == pytest.approx(two.mean())
    assert np.isnan(np.diagonal(found, axis1=1, axis2=2)).all()


def symmetric(upper, n):
    table = np.full((n, n), np.nan)
    table[np.triu_indices(n, 1)] = upper
    return np.fmax(table, table.T)


def test_a_planted_trend_is_found():
    apart = symmetric(np.arange(10.0), 5)
    alike = symmetric(-(np.arange(10.0) ** 3), 5)
    resampled = apart + 0.01 * generator.standard_normal((40, 5, 5))
    found = similarity_trend("overlap", alike, apart, (resampled + resampled.swapaxes(1, 2)) / 2)
    assert found.correlation == pytest.approx(-1)
    assert found.interval[0] <= found.interval[1] <= -0.9
    assert found.p == pytest.approx(1 / 120)
    other = similarity_trend("overlap", -alike, apart, resampled)
    assert (other.correlation, other.p) == (pytest.approx(1), pytest.approx(1))


def test_p_is_uniform_where_similarity_says_nothing():
    p = [
        similarity_trend(
            "overlap",
            symmetric(generator.random(6), 4),
            symmetric(generator.random(6), 4),
            np.empty((0, 4, 4)),
        ).p
        for _ in range(300)
    ]
    for level in (0.25, 0.5, 0.75):
        assert stats.binomtest(int(np.sum(np.array(p) <= level)), 300, level).pvalue > 1e-4


def test_more_than_seven_tasks_are_exchanged_at_random():
    upper = generator.random(36)
    found = similarity_trend(
        "overlap", symmetric(-upper, 9), symmetric(upper, 9), np.empty((0, 9, 9)), seed=3
    )
    assert found.p == pytest.approx(1 / 5040)


def test_what_cannot_be_said_is_said():
    three = symmetric(np.array([0.1, 0.2, 0.3]), 3)
    found = similarity_trend("overlap", three, three, np.empty((0, 3, 3)))
    assert np.isnan(found.correlation)
    assert found.note == (
        "3 tasks make 3 pairs, too few for a correlation: it takes 4 tasks or more."
    )
    four = symmetric(np.ones(6), 4)
    found = similarity_trend("overlap", four, symmetric(np.arange(6.0), 4), np.empty((0, 4, 4)))
    assert found.note == "All pairs of tasks have the same value."
    four[0, 1] = np.nan
    found = similarity_trend("overlap", four, symmetric(np.arange(6.0), 4), np.empty((0, 4, 4)))
    assert found.note == "Some pair of tasks has no value of overlap."
    known, apart = symmetric(np.arange(6.0), 4), symmetric(np.arange(6.0), 4)
    apart[0, 1] = np.nan
    found = similarity_trend("overlap", known, apart, np.empty((0, 4, 4)))
    assert found.note == "Some pair of tasks has no D-score."


def test_trends_of_a_lesion_matrix():
    study = Simulation(tasks=4, examples=300, controls=0, specialization=0.4).run(generator)
    tables = {"one": symmetric(generator.random(6), 4), "two": symmetric(np.ones(6), 4)}
    observed, (one, two) = trends(study.matrix, tables, resamples=60)
    assert np.allclose(
        observed, pair_d_scores(study.matrix.scores(), study.matrix.base), equal_nan=True
    )
    assert one.interval[0] <= one.correlation <= one.interval[1]
    assert two.note == "All pairs of tasks have the same value."


# Over several runs


def runs_of(number, tasks=4):
    study = Simulation(tasks=tasks, examples=150, controls=0, specialization=0.4)
    return [run.matrix for run in study.runs(number, np.random.default_rng(5), between=0.3)]


def test_trends_over_runs_are_means_of_theirs():
    matrices, above = runs_of(3), np.triu_indices(4, 1)
    measures = [
        {"one": symmetric(generator.random(6), 4), "two": symmetric(np.arange(6.0), 4)}
        for _ in matrices
    ]
    observed, own, found = trends_over_runs(matrices, measures, matrices[0].fractions[0])
    for k, (matrix, tables) in enumerate(zip(matrices, measures, strict=True)):
        alone, each = trends(matrix, tables, resamples=20)
        np.testing.assert_allclose(observed[k], alone)
        assert [own[name][k] for name in own] == pytest.approx([t.correlation for t in each])
    for trend in found:
        assert trend.correlation == pytest.approx(own[trend.measure].mean())
        assert -1 <= trend.interval[0] < trend.correlation < trend.interval[1] <= 1
        reached = []
        for order in permutations(range(4)):
            exchanged = [
                stats.spearmanr(tables[trend.measure][np.ix_(order, order)][above], apart[above])
                for tables, apart in zip(measures, observed, strict=True)
            ]
            mean = np.mean([each.statistic for each in exchanged])
            reached.append(mean <= trend.correlation + 1e-9)
        assert trend.p == pytest.approx(np.mean(reached))
    smaller, larger = sorted(found, key=lambda trend: trend.p)
    assert smaller.p_holm == pytest.approx(min(2 * smaller.p, 1))
    assert larger.p_holm >= larger.p


def test_a_run_without_a_correlation_leaves_none():
    matrices = runs_of(2)
    flat = {"one": symmetric(np.ones(6), 4)}
    _, own, (trend,) = trends_over_runs(
        matrices, [{"one": symmetric(np.arange(6.0), 4)}, flat], matrices[0].fractions[0]
    )
    assert np.isnan([*own["one"], trend.correlation, trend.p]).all()
    assert trend.note == "All pairs of tasks have the same value."


def test_one_run_has_a_p_and_no_interval():
    (matrix,) = runs_of(1)
    tables = {"one": symmetric(np.arange(6.0), 4)}
    _, _, (found,) = trends_over_runs([matrix], [tables], matrix.fractions[0])
    _, (alone,) = trends(matrix, tables, resamples=20)
    assert (found.correlation, found.p) == pytest.approx((alone.correlation, alone.p))
    assert np.isnan(found.interval).all()


def test_p_over_runs_is_uniform_where_similarity_says_nothing():
    """Tasks that are alike in one run are so in others, and so are those that dissociate."""
    p = []
    for _ in range(300):
        alike, apart = (
            [symmetric(common + 0.5 * generator.random(6), 4) for _ in range(3)]
            for common in generator.random((2, 6))
        )
        rows, columns = np.triu_indices(4, 1)
        mean = np.mean(
            [
                stats.spearmanr(one[rows, columns], other[rows, columns]).statistic
                for one, other in zip(alike, apart, strict=True)
            ]
        )
        p.append(_by_exchanging(alike, apart, float(mean), 0))
    for level in (0.25, 0.5, 0.75):
        assert stats.binomtest(int(np.sum(np.array(p) <= level)), 300, level).pvalue > 1e-4
