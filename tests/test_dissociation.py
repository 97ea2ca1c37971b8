"""Lesion matrices: what is computed from predictions, against plain definitions and simulations."""

import pickle
import tracemalloc
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lobes.dissociation import Lesion, LesionMatrix, column, relative, row
from lobes.dissociation.over_runs import dissociation_over_runs
from lobes.dissociation.pairs import PairEffects, effects_of_two, pairs_of
from lobes.dissociation.statistics import named_generator, paired_p_value
from lobes.errors import ConfigError, DataError
from lobes.heads import HeadSet
from lobes.metrics import METRICS

ONE_HEAD = HeadSet([(0, 1)])
NONE = Lesion(HeadSet(), "none")


def lesions(tasks, fractions=(0.3,), replicates=0):
    heads = {name: HeadSet([(0, 2 * i), (0, 2 * i + 1)]) for i, name in enumerate(tasks)}
    heads |= {name: heads[name] | HeadSet([(1, 3)]) for name in tasks}
    task = [Lesion(heads[name], "task", name, p) for p in fractions for name in tasks]
    controls = [
        Lesion(heads[name], "exchanged", name, p, r)
        for p in fractions
        for name in tasks
        for r in range(replicates)
    ]
    return (NONE, *task, *controls)


def simulate(
    metrics=("accuracy", "matthews", "spearman"),
    sizes=(41, 53, 61),
    *,
    fractions=(0.3,),
    replicates=0,
    effect=0.0,
    seed=0,
):
    """Every lesion costs every task something; a task's own costs `effect` more."""
    generator = np.random.default_rng(seed)
    tasks = ("first", "second", "third", "fourth")[: len(metrics)]
    all_lesions = lesions(tasks, fractions, replicates)
    labels, predictions = {}, {}
    for task, metric, size in zip(tasks, metrics, sizes, strict=True):
        own = np.array([item.kind == "task" and item.task == task for item in all_lesions])
        quality = 0.85 - effect * own
        quality[0] = 0.95
        shape = (len(all_lesions), size)
        if METRICS[metric].for_regression:
            labels[task] = generator.normal(size=size)
            noise = generator.normal(size=shape) * 3 * (1 - quality[:, None])
            predictions[task] = np.round(labels[task] + noise, 1)
        else:
            labels[task] = generator.integers(0, 2, size)
            right = generator.random(shape) < quality[:, None]
            predictions[task] = np.where(right, labels[task], 1 - labels[task])
    return LesionMatrix(tasks, tuple(metrics), labels, all_lesions, predictions)


def permuted(matrix, order):
    """The same measurements with the tasks, and the lesions after the base, in another order."""
    positions = [0, *range(len(matrix.lesions) - 1, 0, -1)]
    return LesionMatrix(
        tuple(matrix.tasks[i] for i in order),
        tuple(matrix.metrics[i] for i in order),
        matrix.labels,
        tuple(matrix.lesions[i] for i in positions),
        {task: rows[positions] for task, rows in matrix.predictions.items()},
    )


def test_scores_are_the_metrics_of_the_stored_predictions():
    matrix = simulate(fractions=(0.2, 0.4), replicates=2)
    assert matrix.fractions == (0.2, 0.4)
    for j, (task, metric) in enumerate(zip(matrix.tasks, matrix.metrics, strict=True)):
        measure = METRICS[metric]
        scored = [measure(matrix.labels[task], each) for each in matrix.predictions[task]]
        assert matrix.base[j] == pytest.approx(scored[0])
        for item, score in zip(matrix.lesions[1:], scored[1:], strict=True):
            i = matrix.tasks.index(item.task)
            if item.kind == "task":
                assert matrix.scores(item.fraction)[i, j] == pytest.approx(score)
            else:
                found = matrix.control_scores(item.fraction)[item.replicate, i, j]
                assert found == pytest.approx(score)
    np.testing.assert_array_equal(matrix.scores(), matrix.scores(0.4))
    assert matrix.control_scores().shape == (2, 3, 3)
    assert matrix.chance.tolist() == [METRICS["accuracy"].chance(matrix.labels["first"]), 0, 0]


def test_scores_in_blocks_equal_scores_at_once(monkeypatch):
    at_once, in_blocks = simulate(replicates=3), simulate(replicates=3)
    expected = at_once.dissociation(resamples=23)
    monkeypatch.setattr("lobes.metric_formulas._BLOCK", 4 * 61)
    np.testing.assert_array_equal(in_blocks.control_scores(), at_once.control_scores())
    found = in_blocks.dissociation(resamples=23)
    np.testing.assert_allclose(found.column.interval, expected.column.interval)


def test_the_bootstrap_equals_its_plain_definition():
    matrix = simulate(effect=0.2)
    found = matrix.dissociation(resamples=29, seed=5, level=0.8)
    n_tasks = len(matrix.tasks)
    bases, matrices = np.empty((29, n_tasks)), np.empty((29, n_tasks, n_tasks))
    for j, task in enumerate(matrix.tasks):
        labels, rows = matrix.labels[task], matrix.predictions[task]
        drawn = named_generator(5, task).integers(labels.size, size=(29, labels.size))
        measure = METRICS[matrix.metrics[j]]
        for b, indices in enumerate(drawn):
            bases[b, j] = measure(labels[indices], rows[0][indices])
            for i in range(n_tasks):
                matrices[b, i, j] = measure(labels[indices], rows[1 + i][indices])
    for score, formula in ((found.row, row), (found.column, column), (found.relative, relative)):
        resampled = np.stack([formula(m, b) for m, b in zip(matrices, bases, strict=True)])
        bounds = np.quantile(resampled, (0.1, 0.9), axis=0).T
        np.testing.assert_allclose(score.values, formula(matrix.scores(), matrix.base))
        np.testing.assert_allclose(score.interval, bounds)
        mean_bounds = np.quantile(resampled.mean(axis=1), (0.1, 0.9))
        np.testing.assert_allclose(score.mean_interval, mean_bounds)
        assert score.mean == pytest.approx(score.values.mean())


def test_p_values_are_ranks_among_the_controls():
    matrix = simulate(replicates=19, effect=0.1)
    found = matrix.dissociation(resamples=5)
    for score, formula in ((found.row, row), (found.column, column), (found.relative, relative)):
        controls = np.stack([formula(each, matrix.base) for each in matrix.control_scores()])
        np.testing.assert_allclose(score.control_values, controls)
        reached = (controls >= score.values).sum(axis=0)
        np.testing.assert_allclose(score.p_values, (1 + reached) / 20)
        mean_reached = (controls.mean(axis=1) >= score.mean).sum()
        assert score.mean_p == pytest.approx((1 + mean_reached) / 20)


def test_without_controls_there_is_no_p():
    found = simulate().dissociation(resamples=5)
    assert np.isnan(found.column.p_values).all()
    assert np.isnan(found.column.mean_p)
    assert found.column.control_values.shape == (0, 3)
    assert found.column.note is None


@settings(max_examples=6, deadline=None)
@given(st.permutations(range(3)))
def test_permuting_tasks_permutes_the_results(order):
    matrix = simulate(replicates=7, effect=0.1)
    before, after = (each.dissociation(resamples=37) for each in (matrix, permuted(matrix, order)))
    for name in ("row", "column", "relative"):
        old, new = getattr(before, name), getattr(after, name)
        np.testing.assert_allclose(new.values, old.values[order])
        np.testing.assert_allclose(new.interval, old.interval[order])
        np.testing.assert_allclose(new.p_values, old.p_values[order])
        np.testing.assert_allclose(new.control_values, old.control_values[:, order])
        np.testing.assert_allclose(new.mean_interval, old.mean_interval)
        assert (new.mean, new.mean_p) == pytest.approx((old.mean, old.mean_p))
    assert {frozenset((p.first, p.second)): p.p_holm for p in before.pairs} == {
        frozenset((p.first, p.second)): p.p_holm for p in after.pairs
    }


def test_the_same_seed_repeats_and_another_differs():
    matrix = simulate(effect=0.1)
    intervals = [matrix.dissociation(resamples=31, seed=s).row.interval for s in (3, 3, 4)]
    np.testing.assert_array_equal(intervals[0], intervals[1])
    assert (intervals[0] != intervals[2]).any()


def test_pairs_are_tested_on_each_task_and_corrected():
    metrics = ("accuracy", "accuracy", "f1", "accuracy")
    matrix = simulate(metrics, (41, 53, 61, 67), effect=0.15)
    pairs = matrix.dissociation(resamples=99).pairs
    scores = matrix.scores()
    assert len(pairs) == 6
    larger = []
    for pair in pairs:
        i, j = matrix.tasks.index(pair.first), matrix.tasks.index(pair.second)
        assert i < j
        effects = scores[j, i] - scores[i, i], scores[i, j] - scores[j, j]
        assert pair.effects == pytest.approx(effects)
        larger.append(max(pair.p_values))
    first, second = pairs[0].first, pairs[0].second
    expected = paired_p_value(
        METRICS["accuracy"],
        matrix.labels[first],
        matrix.predictions[first][1],
        matrix.predictions[first][2],
        draws=1,
        generator=np.random.default_rng(0),
    )
    assert (first, second) == ("first", "second")
    assert pairs[0].p_values[0] == expected
    steps = np.sort(larger) * np.arange(6, 0, -1)
    corrected = np.minimum(1, np.maximum.accumulate(steps))
    np.testing.assert_allclose(np.sort([pair.p_holm for pair in pairs]), corrected)


@pytest.mark.parametrize("scale", [(1000.0, 1.0), (1.0, 1000.0), (1e-9, 1e-9)])
def test_a_pair_does_not_depend_on_the_scale_of_a_loss(scale):
    """Nor do both tests of it where two losses have scales of their own."""
    generator, tasks, n = np.random.default_rng(1), ("first", "second"), 200
    every = lesions(tasks, replicates=39)
    own = np.array(
        [[each.kind == "task" and each.task == task for each in every] for task in tasks]
    )
    cost = generator.normal(0.3, 0.2, own.shape) + 0.35 * own
    cost[:, 0] = 0.0
    values = generator.normal(size=(2, 1, n)) - cost[:, :, None]
    values += generator.normal(0, 0.3, values.shape) * (cost[:, :, None] != 0)
    labels = dict.fromkeys(tasks, np.zeros(n))

    def pair(*units):
        rows = {task: unit * each for task, unit, each in zip(tasks, units, values, strict=True)}
        matrix = LesionMatrix(tasks, ("mean_score",) * 2, labels, every, rows)
        (found,) = matrix.dissociation(resamples=100).pairs
        (over,) = dissociation_over_runs([matrix, matrix], resamples=20).pairs
        assert over.p_controls == found.p_controls
        return found

    plain, scaled = pair(1.0, 1.0), pair(*scale)
    assert plain.is_double_dissociation
    assert scaled.p_values == plain.p_values
    assert scaled.p_controls == plain.p_controls
    assert scaled.effects == pytest.approx(np.array(plain.effects) * scale)


def with_pairs(matrix):
    """The matrix with the lesions of every pair exchanged: here those of all tasks stand for it."""
    found = {}
    for i, j in pairs_of(matrix.tasks):
        both = matrix.scores(), matrix.control_scores()
        effects = (effects_of_two(each[..., [[i], [j]], [i, j]]) for each in both)
        found[matrix.tasks[i], matrix.tasks[j]] = PairEffects(*effects)
    return replace(matrix, exchanged_pairs=found)


def test_enough_exchanges_are_drawn_for_a_pair_to_survive_the_correction():
    matrix = with_pairs(simulate(metrics=("f1", "f1", "f1"), replicates=59, effect=0.6))
    assert all(pair.is_double_dissociation for pair in matrix.dissociation(resamples=1).pairs)


def test_a_strong_specialization_is_found_and_its_absence_is_not():
    matrix = with_pairs(simulate(sizes=(101, 103, 107), replicates=59, effect=0.35))
    planted = matrix.dissociation(resamples=199)
    assert planted.verdict().startswith("Yes: each task's own heads matter more to it than the oth")
    assert all(pair.is_double_dissociation for pair in planted.pairs)
    assert [pair.p_controls for pair in planted.pairs] == pytest.approx([1 / 60] * 3)
    assert planted.column.mean_p == pytest.approx(1 / 60)
    assert (planted.column.interval[:, 0] > 0).all()
    absent = simulate(sizes=(101, 103, 107), replicates=19, effect=0).dissociation(resamples=199)
    assert absent.specialized.answer != "yes"
    assert not any(pair.is_double_dissociation for pair in absent.pairs)


def null_p_values(n_studies, size, *, seed=1):
    """Mean p of the column score where task lesions and controls do the same to every task."""
    found = []
    for study in range(n_studies):
        matrix = simulate(
            metrics=("accuracy",) * 3, sizes=(size,) * 3, replicates=19, seed=[seed, study]
        )
        found.append(matrix.dissociation(resamples=1).column.mean_p)
    return np.array(found)


def test_null_studies_give_uniform_p_values():
    p_values = null_p_values(200, 211)
    for level in np.arange(1, 20) / 20:
        share = np.mean(p_values <= level + 1e-9)
        assert abs(share - level) <= 3.5 * np.sqrt(level * (1 - level) / 200)


def test_ties_make_null_p_values_larger_never_smaller():
    p_values = null_p_values(200, 3)
    for level in np.arange(1, 20) / 20:
        share = np.mean(p_values <= level + 1e-9)
        assert share <= level + 3.5 * np.sqrt(level * (1 - level) / 200)
    # without ties the mean is (1 + 1/20) / 2 = 0.525; of three examples all may be wrong, which
    # leaves no ratio
    assert np.isfinite(p_values).mean() > 0.5
    assert np.nanmean(p_values) > 0.57


def test_intervals_cover_the_true_score():
    """Accuracies 0.9 without a lesion, 0.6 under the own one, 0.8 under the other: D = 22.2."""
    true, covered, mean_covered = 100 * (0.8 - 0.6) / 0.9, 0, 0
    generator = np.random.default_rng(2)
    quality = {"a": [0.9, 0.6, 0.8], "b": [0.9, 0.8, 0.6]}
    labels = {task: np.zeros(97, dtype=np.int64) for task in quality}
    for study in range(300):
        # one difficulty for each example: what one lesion breaks, the other tends to break too
        predictions = {
            task: (generator.random(97) > np.array(shares)[:, None]).astype(np.int64)
            for task, shares in quality.items()
        }
        matrix = LesionMatrix(
            ("a", "b"), ("accuracy",) * 2, labels, lesions(("a", "b")), predictions
        )
        found = matrix.dissociation(resamples=300, seed=study).column
        covered += np.sum((found.interval[:, 0] <= true) & (true <= found.interval[:, 1])) / 2
        mean_covered += found.mean_interval[0] <= true <= found.mean_interval[1]
    assert 0.91 < covered / 300 < 0.98
    assert 0.91 < mean_covered / 300 < 0.985


def constant_base(level):
    """Two tasks of 100 examples; the base of the first is right in `level` of them."""
    labels = {"weak": np.arange(100) % 2, "fine": np.arange(100) % 2}
    quality = {"weak": [level, 40, 50], "fine": [90, 80, 60]}
    predictions = {
        task: np.stack(
            [np.where(np.arange(100) < n, labels[task], 1 - labels[task]) for n in right]
        )
        for task, right in quality.items()
    }
    return LesionMatrix(
        ("weak", "fine"), ("accuracy",) * 2, labels, lesions(("weak", "fine")), predictions
    )


def test_scores_measured_from_chance():
    matrix = constant_base(70)
    plain, above = matrix.dissociation(resamples=50), matrix.dissociation(resamples=50, chance=True)
    assert not plain.chance
    assert above.chance
    np.testing.assert_allclose(plain.column.values, [100 * 0.1 / 0.7, 100 * 0.2 / 0.9])
    np.testing.assert_allclose(above.column.values, [100 * 0.1 / 0.2, 100 * 0.2 / 0.4])
    np.testing.assert_allclose(
        above.row.values, [100 * (0.3 - -0.1) / 0.2, 100 * (0.0 - 0.1) / 0.4]
    )
    for score in (above.row, above.column, above.relative):
        assert (score.interval[:, 0] < score.values).all()
        assert (score.values < score.interval[:, 1]).all()


@pytest.mark.parametrize(("right", "defined"), [(61, True), (59, False), (50, False), (30, False)])
def test_a_base_at_chance_has_no_score_measured_from_chance(right, defined):
    found = constant_base(right).dissociation(resamples=50, chance=True)
    assert np.isfinite(found.column.values).tolist() == [defined, True]
    assert np.isfinite(found.column.interval).all(axis=1).tolist() == [defined, True]
    assert np.isfinite(found.relative.values).tolist() == [defined, defined]
    if not defined:
        low, high = stats.binom.ppf((0.025, 0.975), 100, right / 100) / 100
        note = (
            f"The base score of weak (accuracy 0.{right}0, 95 % interval {low:.3f} to {high:.3f}) "
            f"is too close to chance (0.500), or below it, to be divided by."
        )
        assert found.column.note == f"{note} The mean is over the remaining 1 task."
        assert found.column.mean == found.column.values[1]
        assert found.relative.note == note
        assert note in found.verdict()


def test_a_correlation_near_zero_is_not_divided_by():
    matrix = simulate(metrics=("accuracy", "matthews"), sizes=(41, 1000))
    labels = matrix.labels["second"]
    rows = matrix.predictions["second"].copy()
    rows[0] = np.where(np.arange(1000) < 520, labels, 1 - labels)
    matrix = replace(matrix, predictions={**matrix.predictions, "second": rows})
    assert abs(matrix.base[1]) < 0.1
    found = matrix.dissociation(resamples=20)
    assert np.isfinite(found.column.values).tolist() == [True, False]
    assert "The base score of second (matthews 0.0" in found.column.note
    assert "is too close to zero, or below it, to be divided by." in found.column.note


def test_no_ratio_to_a_base_whose_interval_reaches_zero():
    """Matthews 0.20: a ratio on 100 examples has an interval of hundreds of percent."""
    matrix = simulate(metrics=("accuracy", "matthews"), sizes=(101, 97))
    labels, rows = matrix.labels["second"], matrix.predictions["second"].copy()
    rows[0] = np.where(np.arange(97) % 7 < 4, labels, 1 - labels)
    few = replace(matrix, predictions={**matrix.predictions, "second": rows})
    assert 0.1 < few.base[1] < 0.3
    low, high = few.base_intervals()[1]
    assert low < 0 < few.base[1] < high
    found = few.dissociation(resamples=20)
    assert np.isfinite(found.column.values).tolist() == [True, False]
    assert np.isnan(few.divisors()).tolist() == [False, True]
    assert f"(matthews 0.{1000 * few.base[1]:.0f}, 95 % interval -0." in found.column.note
    many = replace(
        few,
        labels={**few.labels, "second": np.tile(labels, 11)},
        predictions={**few.predictions, "second": np.tile(rows, (1, 11))},
    )
    assert many.base[1] == pytest.approx(few.base[1])
    assert np.isfinite(many.dissociation(resamples=20).column.values).all()


@pytest.mark.parametrize(("metric", "tolerance"), [("accuracy", 0.011), ("f1", 0.03)])
def test_the_interval_of_a_score_is_that_of_resampled_examples(metric, tolerance):
    matrix = simulate(metrics=(metric, "accuracy"), sizes=(211, 41))
    base, scores = matrix.resampled(0.3, 2000, 5)
    expected = np.quantile(base[:, 0], (0.025, 0.975))
    np.testing.assert_allclose(matrix.base_intervals()[0], expected, atol=tolerance)
    ends = np.quantile(scores, (0.025, 0.975), axis=0)[:, :, 0].T
    np.testing.assert_allclose(matrix.score_intervals(0.3)[:, 0], ends, atol=tolerance)


def test_a_score_without_its_lesion_has_no_interval():
    matrix = simulate(metrics=("accuracy", "matthews"), sizes=(41, 43))
    lesions = [k for k, item in enumerate(matrix.lesions) if item.task != "first"]
    alone = replace(
        matrix,
        lesions=tuple(matrix.lesions[k] for k in lesions),
        predictions={task: rows[lesions] for task, rows in matrix.predictions.items()},
    )
    found = alone.score_intervals()
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], matrix.score_intervals()[1])
    assert (found[1, :, 0] <= alone.scores()[1]).all()
    assert (alone.scores()[1] <= found[1, :, 1]).all()


def test_a_constant_prediction_leaves_a_correlation_undefined():
    matrix = simulate(metrics=("accuracy", "spearman"), sizes=(41, 43), replicates=3)
    rows = matrix.predictions["second"].copy()
    rows[1] = 0.5
    broken = replace(matrix, predictions={**matrix.predictions, "second": rows})
    found = broken.dissociation(resamples=20)
    assert np.isfinite(found.column.values).tolist() == [True, False]
    assert found.column.note == (
        "The spearman of second is undefined: labels or predictions are constant. "
        "The mean is over the remaining 1 task."
    )
    assert np.isnan(found.pairs[0].p_holm)
    assert "undefined" in broken.summary()
    # a control that is undefined counts as one that reached the observation
    rows = matrix.predictions["second"].copy()
    rows[3:] = 0.5
    controls = replace(matrix, predictions={**matrix.predictions, "second": rows})
    assert controls.dissociation(resamples=20).column.p_values[1] == 1


def test_where_no_run_has_an_interval_there_is_none_over_the_runs():
    """A correlation with predictions that all are the same but one: often undefined."""
    runs = []
    for seed in range(3):
        matrix = simulate(metrics=("accuracy", "spearman"), sizes=(41, 30), seed=seed)
        rows = matrix.predictions["second"].copy()
        rows[2] = matrix.labels["second"] == matrix.labels["second"].max()
        runs.append(replace(matrix, predictions={**matrix.predictions, "second": rows}))
    alone = [run.dissociation().column for run in runs]
    assert np.isnan([each.interval[1] for each in alone]).all()
    found = dissociation_over_runs(runs)
    first, second = found.column.tasks
    assert second.mean == pytest.approx(np.mean([each.values[1] for each in alone]))
    for undefined in (second, found.column.mean, found.pairs[0].effects[1]):
        assert np.isnan([undefined.low, undefined.high, undefined.p]).all()
    assert np.isfinite([first.low, first.high, first.p]).all()


def test_one_task_has_no_d_score_but_has_scores():
    matrix = simulate(metrics=("accuracy",), sizes=(41,), replicates=2)
    assert matrix.scores().shape == (1, 1)
    message = "two or more are needed, and this matrix has only 'first'"
    with pytest.raises(ConfigError, match=message):
        matrix.dissociation()


def test_what_has_no_divisor_has_none_on_resampled_examples():
    """Also where the resampled base scores are far from 0 by chance."""
    matrix = simulate(metrics=("accuracy", "matthews"), sizes=(41, 53))
    labels, rows = matrix.labels["second"], matrix.predictions["second"].copy()
    rows[0] = np.where(np.arange(53) < 29, labels, 1 - labels)
    matrix = replace(matrix, predictions={**matrix.predictions, "second": rows})
    divisors, scores = matrix.drawn(0.3, 50, 0)
    assert np.isfinite(divisors).all(axis=0).tolist() == [True, False]
    assert np.isnan(divisors[:, 1]).all()
    base, plain = matrix.resampled(0.3, 50, 0)
    assert np.abs(base[:, 1]).max() > 0.1
    np.testing.assert_array_equal(scores, plain)


def test_a_task_without_a_lesion_has_a_row_of_nan_and_no_d_scores():
    whole = simulate(replicates=2)
    kept = [
        n for n, each in enumerate(whole.lesions) if (each.kind, each.task) != ("task", "second")
    ]
    part = replace(
        whole,
        lesions=tuple(whole.lesions[n] for n in kept),
        predictions={task: rows[kept] for task, rows in whole.predictions.items()},
    )
    assert np.isnan(part.scores()).all(axis=1).tolist() == [False, True, False]
    message = "D-scores at the fraction 0.3 need a lesion for every task; there is none for second."
    with pytest.raises(ConfigError, match=message):
        part.dissociation()
    base, scores = part.resampled(0.3, 20, 0)
    np.testing.assert_array_equal(base, whole.resampled(0.3, 20, 0)[0])
    assert np.isnan(scores).all(axis=(0, 2)).tolist() == [False, True, False]
    pytest.importorskip("matplotlib")
    heights = [bar.get_height() for bar in part.plot().axes[0].patches[:9]]
    assert np.isnan(heights).tolist() == [False] * 3 + [True] * 3 + [False] * 3


def test_an_incomplete_replicate_is_refused():
    whole = simulate(replicates=2)
    last = len(whole.lesions) - 1
    part = replace(
        whole,
        lesions=whole.lesions[:last],
        predictions={task: rows[:last] for task, rows in whole.predictions.items()},
    )
    with pytest.raises(
        ConfigError, match=r"exchanged lesion \(replicate 1\) for every task; there is"
    ):
        part.dissociation()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.5}, "No lesion has the fraction 0.5: this matrix has 0.2, 0.4."),
        ({"resamples": 0}, "resamples is 0; expected a number of bootstrap resamples from 1"),
        ({"resamples": 10**9}, "resamples is 1000000000; expected .* from 1 to 100,000"),
        ({"seed": -1}, "seed is -1; expected a whole number from 0 to 4,294,967,295."),
        ({"level": 95.0}, "level is 95.0; expected a number such as 0.95, above 0 and below 1."),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        simulate(fractions=(0.2, 0.4)).dissociation(**arguments)


def test_a_fraction_is_found_in_spite_of_rounding():
    matrix = simulate(fractions=(0.1, 0.3))
    np.testing.assert_array_equal(matrix.scores(0.1 + 0.2), matrix.scores(0.3))
    runs = [simulate(fractions=(0.3,)), simulate(fractions=(0.1 + 0.2,), seed=1)]
    values = dissociation_over_runs(runs, resamples=20).column.values
    np.testing.assert_array_equal(values, [run.dissociation().column.values for run in runs])


def test_a_matrix_of_base_scores_only():
    matrix = simulate()
    alone = replace(
        matrix,
        lesions=(NONE,),
        predictions={task: rows[:1] for task, rows in matrix.predictions.items()},
    )
    assert alone.fractions == ()
    np.testing.assert_array_equal(alone.base, matrix.base)
    assert "nothing ablated" in alone.summary()
    with pytest.raises(ConfigError, match="holds no lesion of a task, only base scores"):
        alone.scores()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ONE_HEAD, "none"), 'of kind "none" has no heads'),
        ((HeadSet(), "none", "first"), 'of kind "none" has no heads'),
        ((ONE_HEAD, "task", "", 0.3), "needs the name of a task and a fraction above 0"),
        ((ONE_HEAD, "task", "first", 0.0), "not task 'first' and fraction 0"),
        ((ONE_HEAD, "random", "first", 30.0), "and at most 1, not task 'first' and fraction 30"),
        (
            (ONE_HEAD, "task", "first", 0.3, 1),
            "Only exchanged and random lesions have repl",
        ),
        ((ONE_HEAD, "random", "first", 0.3, -1), "Only exchanged and random lesions have repl"),
    ],
)
def test_impossible_lesions_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Lesion(*arguments)


def change(matrix, **changes):
    """The matrix's fields with some replaced: what its constructor is to refuse."""
    fields = ("tasks", "metrics", "labels", "lesions", "predictions")
    return {**{name: getattr(matrix, name) for name in fields}, **changes}


def two_tasks():
    return simulate(metrics=("accuracy", "pearson"), sizes=(5, 7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, r"Expected one or more different tasks, not \[\]"),
        ({"tasks": ("first", "first")}, "Expected one or more different tasks"),
        ({"metrics": ("accuracy",)}, "Expected one metric for each of 2 tasks, not 1"),
        ({"metrics": ("accuracy", "bleu")}, "'bleu' is not a metric"),
        ({"lesions": ()}, "The first lesion, and no other, is of kind"),
        ({"lesions": (NONE, NONE, NONE)}, "The first lesion, and no other, is of kind"),
        ({"lesions": lesions(("first", "third"))}, "'third', which is none of first, second"),
        (
            {"lesions": lesions(("first", "first"))},
            "Two lesions of kind 'task' have the task 'first', the fraction 0.3",
        ),
    ],
)
def test_tasks_metrics_and_lesions_must_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        LesionMatrix(**change(two_tasks(), **changes))


@pytest.mark.parametrize(
    ("which", "task", "array", "message"),
    [
        ("labels", "first", None, "There are no labels for the task 'first'"),
        ("predictions", "second", None, "There are no predictions for the task 'second'"),
        ("labels", "first", np.zeros((5, 1, 1), int), r"the shape \(5, 1, 1\); expected one label"),
        ("labels", "first", np.zeros(0, int), "for each of one or more examples"),
        ("predictions", "first", np.zeros((3, 7), int), r"\(3, 7\); .* here \(3, 5\)"),
        ("predictions", "first", np.zeros((2, 5), int), r"\(2, 5\); .* here \(3, 5\)"),
        ("predictions", "first", np.zeros((3, 5)), "class indices, whole numbers .* got float64"),
        ("labels", "second", np.full(7, np.nan), "are not all finite numbers"),
        ("predictions", "second", np.full((3, 7), np.inf), "'second' are not all finite numbers"),
    ],
)
def test_labels_and_predictions_must_fit(which, task, array, message):
    matrix = two_tasks()
    arrays = {name: each for name, each in getattr(matrix, which).items() if name != task}
    if array is not None:
        arrays[task] = array
    with pytest.raises(DataError, match=message):
        LesionMatrix(**change(matrix, **{which: arrays}))


def test_a_matrix_cannot_be_changed_and_leaves_its_arguments_alone():
    matrix = two_tasks()
    with pytest.raises(FrozenInstanceError):
        matrix.tasks = ("other",)
    with pytest.raises(ValueError, match="read-only"):
        matrix.predictions["first"][0, 0] = 1
    mine = np.zeros((3, 5), dtype=np.int64)
    LesionMatrix(**change(matrix, predictions={**matrix.predictions, "first": mine}))
    mine[0, 0] = 1
    base = matrix.base
    base[0] = -1
    assert matrix.base[0] != -1


def test_a_matrix_can_be_pickled():
    matrix = simulate(replicates=2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(matrix)).scores(), matrix.scores())


def test_memory_stays_bounded_with_many_examples():
    matrix = simulate(metrics=("accuracy",) * 2, sizes=(20_000,) * 2)
    tracemalloc.start()
    matrix.dissociation(resamples=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the resamples at once would take 160 MB for the indices alone
    assert peak < 100e6


def test_the_summary_is_a_table():
    matrix = constant_base(70)
    assert (
        str(matrix)
        == matrix.summary(0.3)
        == "\n".join(
            [
                "2 tasks, 2 lesions, 0 exchanged, 0 random; ablated: 30 % of the heads",
                "",
                "                     weak      fine",
                "metric           accuracy  accuracy",
                "examples              100       100",
                "nothing ablated     0.700     0.900",
                "heads of weak       0.400     0.800",
                "heads of fine       0.500     0.600",
            ]
        )
    )
    controlled = simulate(replicates=5)
    last = controlled.summary().splitlines()[-1]
    assert last.split()[-3:] == [f"{x:.3f}" for x in controlled.control_scores().mean(axis=(0, 1))]
