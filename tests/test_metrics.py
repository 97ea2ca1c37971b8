"""Each metric against scikit-learn and SciPy, and its weighted form against written-out samples."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from lobes.errors import ConfigError, DataError
from lobes.metrics import METRICS, blocks, get_metric

CLASSIFICATION = [name for name, metric in METRICS.items() if not metric.for_regression]
REGRESSION = [name for name, metric in METRICS.items() if metric.for_regression]


def expected(name, labels, predictions):
    """The value of scikit-learn or SciPy; their warnings on undefined input are silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "accuracy":
            return reference.accuracy_score(labels, predictions)
        if name == "f1":
            return reference.f1_score(labels, predictions, zero_division=0)
        if name == "matthews":
            return reference.matthews_corrcoef(labels, predictions)
        correlate = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[name]
        return correlate(labels, predictions).statistic


def sample(name, generator, n_examples, n_rows, n_classes=2):
    """Labels and better-than-chance predictions; whole numbers, so that regression has ties."""
    if METRICS[name].for_regression:
        labels = generator.integers(0, 7, n_examples) / 2
        return labels, np.round(labels + generator.normal(size=(n_rows, n_examples)))
    labels = generator.integers(0, n_classes, n_examples)
    guesses = generator.integers(0, n_classes, (n_rows, n_examples))
    return labels, np.where(generator.random((n_rows, n_examples)) < 0.4, labels, guesses)


@pytest.mark.parametrize("name", METRICS)
def test_equals_the_reference_implementation(name):
    generator = np.random.default_rng(11)
    for n_classes in (2, 2, 2) if name == "f1" else (2, 3, 5):
        labels, predictions = sample(name, generator, 53, 7, n_classes)
        for row in predictions:
            assert METRICS[name](labels, row) == pytest.approx(
                expected(name, labels, row), abs=1e-12
            )


@pytest.mark.parametrize(("name", "n_classes"), [*((name, 2) for name in METRICS), ("matthews", 5)])
def test_weighted_equals_the_sample_written_out(name, n_classes):
    generator = np.random.default_rng(13)
    labels, predictions = sample(name, generator, 23, 5, n_classes)
    weights = generator.poisson(1.0, (11, 23))
    values = METRICS[name].weighted(labels, predictions, weights)
    assert values.shape == (5, 11)
    for k, row in enumerate(predictions):
        for b, counts in enumerate(weights):
            written_out = expected(name, np.repeat(labels, counts), np.repeat(row, counts))
            assert values[k, b] == pytest.approx(written_out, abs=1e-12, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_spearman_is_exact_under_any_ties_and_multiplicities(data):
    n_examples = data.draw(st.integers(2, 13))
    column = st.lists(st.integers(-2, 2), min_size=n_examples, max_size=n_examples)
    counts = st.lists(st.integers(0, 3), min_size=n_examples, max_size=n_examples)
    labels, row, weights = (np.array(data.draw(each)) for each in (column, column, counts))
    value = METRICS["spearman"].weighted(labels, row[None], weights[None])[0, 0]
    labels, row = np.repeat(labels, weights), np.repeat(row, weights)
    if len(set(labels)) < 2 or len(set(row)) < 2:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(stats.spearmanr(labels, row).statistic, abs=1e-12)


def test_spearman_in_blocks_equals_spearman_at_once(monkeypatch):
    generator = np.random.default_rng(17)
    labels, predictions = sample("spearman", generator, 19, 3)
    weights = generator.poisson(1.0, (13, 19))
    at_once = METRICS["spearman"].weighted(labels, predictions, weights)
    monkeypatch.setattr("lobes.metrics._BLOCK", 2 * 19)
    assert [block.stop - block.start for block in blocks(5, 19)] == [2, 2, 1]
    np.testing.assert_array_equal(
        METRICS["spearman"].weighted(labels, predictions, weights), at_once
    )


@pytest.mark.parametrize("name", METRICS)
def test_permuting_examples_or_doubling_weights_changes_nothing(name):
    generator = np.random.default_rng(19)
    labels, predictions = sample(name, generator, 29, 3)
    weights = generator.poisson(1.0, (5, 29))
    order = generator.permutation(29)
    values = METRICS[name].weighted(labels, predictions, weights)
    moved = METRICS[name].weighted(labels[order], predictions[:, order], weights[:, order])
    np.testing.assert_allclose(moved, values, atol=1e-12)
    np.testing.assert_allclose(
        METRICS[name].weighted(labels, predictions, 2 * weights), values, atol=1e-12
    )


@pytest.mark.parametrize("name", METRICS)
def test_stays_within_its_range_and_reaches_the_best(name):
    generator = np.random.default_rng(23)
    metric = METRICS[name]
    labels, predictions = sample(name, generator, 31, 200)
    values = metric.weighted(labels, predictions, np.ones((1, 31)))
    assert metric.low <= values.min() <= values.max() <= metric.high
    assert metric(labels, labels) == metric.high
    assert metric.higher_is_better
    assert metric.span == metric.high - metric.low


def test_hand_computed_examples():
    labels, predictions = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0])
    assert METRICS["accuracy"](labels, predictions) == pytest.approx(3 / 5)
    assert METRICS["f1"](labels, predictions) == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    # (TP·TN − FP·FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) = (2·1 − 1·1) / sqrt(3·3·2·2)
    assert METRICS["matthews"](labels, predictions) == pytest.approx(1 / 6)
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    assert METRICS["pearson"](x, y) == pytest.approx(0.5)
    assert METRICS["spearman"](x, np.array([1.0, 100.0, 2.0])) == pytest.approx(0.5)


@pytest.mark.parametrize("name", REGRESSION)
def test_a_correlation_with_a_constant_is_nan(name):
    varied, constant = np.array([0.0, 1.0, 3.0]), np.array([0.1, 0.1, 0.1])
    assert np.isnan(METRICS[name](varied, constant))
    assert np.isnan(METRICS[name](constant, varied))
    # the sample varies, but not what the resample drew of it
    resampled = METRICS[name].weighted(
        varied, np.array([[0.1, 0.3, 0.3]]), np.array([[0, 2, 1], [1, 1, 1]])
    )
    assert np.isnan(resampled[0]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("labels", "predictions"), [([0, 1, 1], [1, 1, 1]), ([1, 1, 1], [0, 1, 1]), ([0, 0], [0, 0])]
)
def test_matthews_and_f1_are_zero_where_scikit_learn_has_zero(labels, predictions):
    labels, predictions = np.array(labels), np.array(predictions)
    assert METRICS["matthews"](labels, predictions) == 0
    assert METRICS["f1"](labels, predictions) == pytest.approx(expected("f1", labels, predictions))


@pytest.mark.parametrize("name", METRICS)
def test_nothing_is_defined_without_examples(name):
    nothing = np.array([], dtype=np.int64)
    assert np.isnan(METRICS[name](nothing, nothing))
    assert np.isnan(METRICS[name].chance(nothing))
    weights = np.array([[0, 0, 0], [1, 1, 1]])
    values = METRICS[name].weighted(np.array([0, 1, 0]), np.array([[0, 1, 1]]), weights)
    assert np.isnan(values[0]).tolist() == [True, False]


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_nan_and_spoils_no_other(name, bad):
    labels = np.array([0.0, 1.0, 2.0, 4.0])
    rows = np.array([[0.0, bad, 1.0, 2.0], [0.0, 1.0, 3.0, 2.0]])
    values = METRICS[name].weighted(labels, rows, np.ones((1, 4)))[:, 0]
    assert np.isnan(values[0])
    assert values[1] == pytest.approx(expected(name, labels, rows[1]))


@pytest.mark.parametrize(("scale", "shift"), [(1e-150, 0), (1e200, 0), (1e-3, 1e6), (3.0, -1e9)])
def test_pearson_keeps_its_digits_at_any_scale(scale, shift):
    generator = np.random.default_rng(29)
    labels, predictions = sample("pearson", generator, 37, 1)
    value = METRICS["pearson"](labels, predictions[0] * scale + shift)
    assert value == pytest.approx(METRICS["pearson"](labels, predictions[0]), abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_a_common_scale_leaves_the_metric_and_takes_away_units(name):
    labels, (predictions, *_) = sample(name, np.random.default_rng(31), 41, 2)
    metric = METRICS[name]
    scaled = metric.on_common_scale(predictions)
    assert metric(labels, scaled) == pytest.approx(metric(labels, predictions))
    if metric.for_regression:
        np.testing.assert_allclose(metric.on_common_scale(7 * predictions - 3), scaled, atol=1e-12)
        assert metric.on_common_scale(np.full(3, 0.1)).tolist() == [0, 0, 0]
    else:
        np.testing.assert_array_equal(scaled, predictions)


def test_chance_levels():
    labels = np.array([0, 0, 0, 1, 2, 2])
    assert METRICS["accuracy"].chance(labels) == 0.5
    binary = np.array([0, 0, 0, 1])
    always = np.ones(4, dtype=np.int64)
    assert METRICS["f1"].chance(binary) == pytest.approx(METRICS["f1"](binary, always))
    assert METRICS["f1"].chance(binary) == pytest.approx(0.4)
    for name in ("matthews", "spearman", "pearson"):
        assert METRICS[name].chance(binary) == 0


def test_only_metrics_that_chance_keeps_above_zero_are_safe_to_divide_by():
    assert [name for name, metric in METRICS.items() if metric.ratio_safe] == ["accuracy", "f1"]
    assert CLASSIFICATION == ["accuracy", "f1", "matthews"]
    assert REGRESSION == ["spearman", "pearson"]


def test_f1_refuses_a_third_class():
    zeros, third = np.array([0, 0, 1]), np.array([0, 2, 1])
    message = r"f1 needs two classes, 0 and 1 \(1 is the positive one\), and met class 2\. .*"
    for call in (
        lambda: METRICS["f1"](third, zeros),
        lambda: METRICS["f1"](zeros, third),
        lambda: METRICS["f1"].chance(third),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_lengths_must_agree():
    with pytest.raises(DataError, match="got 2 predictions for 3 labels"):
        METRICS["accuracy"](np.array([0, 1, 1]), np.array([0, 1]))


def test_an_unknown_metric_is_answered_with_the_known_ones():
    assert get_metric("f1") is METRICS["f1"]
    message = "'bleu' is not a metric: choose one of accuracy, f1, matthews, spearman, pearson."
    with pytest.raises(ConfigError, match=message):
        get_metric("bleu")
