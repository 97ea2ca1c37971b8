"""Each metric against scikit-learn and SciPy, and its weighted form against written-out samples."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from lobes.errors import ConfigError, DataError
from lobes.metric_formulas import blocks
from lobes.metrics import METRICS, get_metric

CLASSIFICATION = [name for name, metric in METRICS.items() if not metric.for_regression]
REGRESSION = [name for name, metric in METRICS.items() if metric.for_regression]
MULTI_LABEL = [name for name, metric in METRICS.items() if metric.for_multi_label]


def expected(name, labels, predictions):
    """The value of scikit-learn or SciPy; their warnings on undefined input are silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in ("accuracy", "greedy"):
            return reference.accuracy_score(labels, predictions)
        if name.startswith("f1"):
            average = name.partition("_")[2] or "binary"
            return reference.f1_score(labels, predictions, average=average, zero_division=0)
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


def several(generator, n_examples, n_rows, n_classes):
    """Labels [examples, classes] and better-than-chance predictions, some labels rarer."""
    often = np.linspace(0.1, 0.7, n_classes)
    labels = (generator.random((n_examples, n_classes)) < often).astype(np.int64)
    guesses = generator.random((n_rows, n_examples, n_classes)) < often
    copied = generator.random((n_rows, n_examples, n_classes)) < 0.6
    return labels, np.where(copied, labels, guesses).astype(np.int8)


@pytest.mark.parametrize("name", METRICS)
def test_equals_the_reference_implementation(name):
    generator = np.random.default_rng(11)
    for n_classes in (2, 2, 2) if name == "f1" else (2, 3, 5):
        labels, predictions = sample(name, generator, 53, 7, n_classes)
        for row in predictions:
            assert METRICS[name](labels, row) == pytest.approx(
                expected(name, labels, row), abs=1e-12
            )


def check_weighted(name, labels, predictions, weights):
    """Every weighted value is the reference's on the sample written out."""
    values = METRICS[name].weighted(labels, predictions, weights)
    assert values.shape == (len(predictions), len(weights))
    for k, row in enumerate(predictions):
        for b, counts in enumerate(weights):
            written = (np.repeat(labels, counts, axis=0), np.repeat(row, counts, axis=0))
            assert values[k, b] == pytest.approx(expected(name, *written), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(
    ("name", "n_classes"),
    [*((name, 2) for name in METRICS), ("matthews", 5), ("f1_micro", 5), ("f1_macro", 13)],
)
def test_weighted_equals_the_sample_written_out(name, n_classes):
    generator = np.random.default_rng(13)
    labels, predictions = sample(name, generator, 23, 5, n_classes)
    check_weighted(name, labels, predictions, generator.poisson(1.0, (11, 23)))


@pytest.mark.parametrize("name", MULTI_LABEL)
@pytest.mark.parametrize("n_classes", [2, 7])
def test_several_labels_equal_the_reference_implementation(name, n_classes):
    generator = np.random.default_rng(37)
    labels, predictions = several(generator, 19, 5, n_classes)
    for row in predictions:
        assert METRICS[name](labels, row) == pytest.approx(expected(name, labels, row), abs=1e-12)
    check_weighted(name, labels, predictions, generator.poisson(1.0, (11, 19)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_classes_that_are_missing_count_as_in_scikit_learn(data):
    """One class only, constant predictions, empty sets, resamples that lose a class."""
    name = data.draw(st.sampled_from(MULTI_LABEL))
    n_examples, n_classes = data.draw(st.integers(1, 7)), data.draw(st.integers(2, 3))
    width = data.draw(st.sampled_from([1, n_classes]))
    whole = st.integers(0, 1 if width > 1 else n_classes)
    column = st.lists(whole, min_size=n_examples * width, max_size=n_examples * width)
    counts = st.lists(st.integers(0, 2), min_size=n_examples, max_size=n_examples)
    shape = (n_examples, width) if width > 1 else (n_examples,)
    labels, row = (np.array(data.draw(column)).reshape(shape) for _ in range(2))
    weights = np.array(data.draw(counts.filter(any)))
    check_weighted(name, labels, row[None], weights[None])


@pytest.mark.parametrize("name", [name for name in METRICS if name not in MULTI_LABEL])
def test_a_metric_of_one_label_refuses_several(name):
    labels = np.array([[0, 1], [1, 1]])
    message = rf"{name} judges one label for each example, but got labels of the shape \[2, 2\]: "
    message += "for several labels use accuracy or f1_micro or f1_macro."
    for call in (lambda: METRICS[name](labels, labels), lambda: METRICS[name].chance(labels)):
        with pytest.raises(DataError, match=message):
            call()


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
    monkeypatch.setattr("lobes.metric_formulas._BLOCK", 2 * 19)
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


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_several_labels_in_any_order_of_classes_within_the_range(name):
    generator = np.random.default_rng(41)
    metric = METRICS[name]
    labels, predictions = several(generator, 53, 100, 5)
    values = metric.weighted(labels, predictions, np.ones((1, 53)))
    order = generator.permutation(5)
    moved = metric.weighted(labels[:, order], predictions[:, :, order], np.ones((1, 53)))
    np.testing.assert_allclose(moved, values, atol=1e-12)
    assert metric.low <= values.min() < values.max() <= metric.high
    assert metric(labels, labels) == metric.high
    np.testing.assert_array_equal(metric.on_common_scale(predictions[0]), predictions[0])


@pytest.mark.parametrize("name", METRICS)
def test_stays_within_its_range_and_reaches_the_best(name):
    generator = np.random.default_rng(23)
    metric = METRICS[name]
    labels, predictions = sample(name, generator, 31, 200)
    values = metric.weighted(labels, predictions, np.ones((1, 31)))
    assert metric.low <= values.min() <= values.max() <= metric.high
    assert metric(labels, labels) == metric.high
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
    if name in MULTI_LABEL:
        none = np.zeros((0, 3), dtype=np.int64)
        assert np.isnan(METRICS[name](none, none))
        assert np.isnan(METRICS[name].chance(none))
    weights = np.array([[0, 0, 0], [1, 1, 1]])
    values = METRICS[name].weighted(np.array([0, 1, 0]), np.array([[0, 1, 1]]), weights)
    assert np.isnan(values[0]).tolist() == [True, False]


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(name, bad):
    labels = np.array([0.0, 1.0, 2.0, 4.0])
    rows = np.array([[0.0, 3.0, 1.0, 2.0], [0.0, 1.0, bad, 2.0]])
    with pytest.raises(DataError, match=f"{name} compares finite .* prediction of example 2 is"):
        METRICS[name].weighted(labels, rows, np.ones((1, 4)))
    with pytest.raises(DataError, match=f"but the label of example 2 is {bad:g}: a model"):
        METRICS[name](rows[1], labels)


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
    assert METRICS["f1_micro"].chance(labels) == 0.5
    assert METRICS["f1_macro"].chance(labels) == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_no_constant_answer_beats_the_chance_level_of_several_labels(name):
    """Of all sets of labels that could always be given, the best scores exactly that."""
    labels, _ = several(np.random.default_rng(43), 53, 1, 5)
    labels = np.hstack([labels, np.zeros((53, 1), dtype=np.int64)])  # a label that never occurs
    answers = np.array(list(itertools.product((0, 1), repeat=6)))
    always = np.repeat(answers[:, None], 53, axis=1)
    scores = METRICS[name].weighted(labels, always, np.ones((1, 53)))
    assert scores.max() == pytest.approx(METRICS[name].chance(labels), abs=1e-12)


def test_guessing_at_random_reaches_the_chance_level_of_macro_f1_and_not_more():
    """No shares of guesses do better than the classes' own: 1/k for k classes."""
    generator = np.random.default_rng(47)
    labels = np.repeat(np.arange(4), (7000, 2000, 800, 200))
    metric = METRICS["f1_macro"]
    shares = [(0.7, 0.2, 0.08, 0.02), (0.25,) * 4, (1, 0, 0, 0), (0.9, 0.1, 0, 0)]
    guesses = np.array([generator.choice(4, size=10_000, p=share) for share in shares])
    scores = metric.weighted(labels, guesses, np.ones((1, 10_000)))[:, 0]
    assert metric.chance(labels) == 0.25
    assert scores[0] == pytest.approx(0.25, abs=0.015)
    assert scores[1:].max() < scores[0]


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("constant", [0, 1])
def test_what_one_class_alone_gives(name, constant):
    """Labels of one class, and always the same answer: as scikit-learn, and never a warning."""
    one, two = np.full(5, constant), np.array([0, 1, 1, 0, 1])
    for labels, predictions in ((one, one), (one, two), (two, one)):
        found = METRICS[name](labels, predictions)
        assert found == pytest.approx(expected(name, labels, predictions), abs=1e-12)
    chance = {"matthews": 0, "greedy": 0, "f1": constant}
    assert METRICS[name].chance(one) == chance.get(name, 1)


def test_what_each_metric_judges():
    assert CLASSIFICATION == ["accuracy", "f1", "f1_micro", "f1_macro", "greedy", "matthews"]
    assert MULTI_LABEL == ["accuracy", "f1_micro", "f1_macro"]
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
    with pytest.raises(DataError, match=r"got \[3, 2\] predictions for 3 labels"):
        METRICS["accuracy"](np.array([0, 1, 1]), np.zeros((3, 2), dtype=np.int64))


def test_an_unknown_metric_is_answered_with_the_known_ones():
    assert get_metric("f1") is METRICS["f1"]
    message = "'bleu' is not a metric: choose one of accuracy, f1, f1_micro, f1_macro, greedy, "
    message += "matthews, spearman, pearson."
    with pytest.raises(ConfigError, match=message):
        get_metric("bleu")


@pytest.mark.parametrize(
    ("name", "score", "chance", "n", "expected"),
    [
        ("accuracy", 0.56, 0.5, 2003, "above"),
        ("accuracy", 0.54, 0.5, 2003, "near"),  # a tenth of the way to perfect is 0.55
        ("accuracy", 0.56, 0.5, 41, "near"),  # two standard errors are 0.16
        ("accuracy", 0.36, 0.5, 97, "below"),
        ("accuracy", 0.36, 0.5, 37, "near"),
        ("accuracy", float("nan"), 0.5, 97, "near"),
        ("f1", 0.83, 0.81, 401, "near"),
        ("matthews", 0.2, 0.0, 37, "near"),
        ("matthews", 0.2, 0.0, 401, "above"),
        ("spearman", -0.4, 0.0, 101, "below"),
    ],
)
def test_where_a_score_stands(name, score, chance, n, expected):
    assert METRICS[name].standing(score, chance, n) == expected


@pytest.mark.parametrize(
    ("name", "score", "low", "zero", "expected"),
    [
        ("accuracy", 0.5, 0.4, 0.0, True),
        ("accuracy", 0.04, 0.01, 0.0, False),  # under 5 % of the range
        ("matthews", 0.2, -0.01, 0.0, False),
        ("matthews", 0.2, 0.01, 0.0, True),
        ("matthews", 0.09, 0.05, 0.0, False),
        ("spearman", 0.3, float("nan"), 0.0, False),
        ("spearman", 0.3, None, 0.0, True),
        ("accuracy", 0.6, 0.49, 0.5, False),
        ("accuracy", 0.6, 0.51, 0.5, True),
    ],
)
def test_what_may_be_divided_by(name, score, low, zero, expected):
    assert METRICS[name].is_divisor(score, low, zero) is expected
