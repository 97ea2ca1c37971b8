"""The statistics keep their word on simulated studies; `make calibration` is the long run."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lobes.dissociation.over_runs import dissociation_over_runs
from lobes.dissociation.pairs import p_against_pairs
from lobes.dissociation.simulation import Simulation
from lobes.dissociation.verdict import controls_needed
from lobes.errors import ConfigError

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
calibration = pytest.importorskip("calibration")

SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


def within(share, expected, trials):
    """Whether a share of independent trials is one that chance allows (two-sided p > 1e-4)."""
    return stats.binomtest(round(share * trials), trials, expected).pvalue > 1e-4


@pytest.mark.parametrize("studies", [100, pytest.param(2000, marks=SLOW)])
def test_p_is_uniform_without_specialization(studies):
    for seed, simulation in enumerate(calibration.NULL.values()):
        means, _ = calibration.p_values(simulation, studies, seed + 100)
        assert calibration.uniformity(means, simulation.controls) > 1e-4
        for level in (0.05, 0.25, 0.5):
            allowed = np.floor(level * (simulation.controls + 1)) / (simulation.controls + 1)
            assert within(np.mean(means <= level + 1e-9), allowed, studies)


@pytest.mark.parametrize("studies", [200, pytest.param(2000, marks=SLOW)])
def test_intervals_hold_the_truth_as_often_as_they_say(studies):
    simulation = Simulation(tasks=3, examples=300, controls=0, specialization=0.3)
    hits = calibration.coverage(simulation, studies, seed=7)
    # percentile intervals are a little narrow; nothing more than that
    assert all(within(share, 0.945, studies) for share in hits[::2])
    assert hits.min() > 0.9


@pytest.mark.parametrize("studies", [60, pytest.param(1500, marks=SLOW)])
def test_intervals_over_runs_hold_the_truth_where_percentiles_do_not(studies):
    simulation = Simulation(tasks=3, examples=300, controls=0, specialization=0.3)
    ours, percentiles = calibration.coverage_over_runs(simulation, 3, 0.2, studies, seed=8)
    assert within(ours, 0.945, studies)
    assert percentiles < 0.9


@pytest.mark.parametrize(
    ("tasks", "examples", "studies"), [(3, 1000, 40), pytest.param(4, 5000, 300, marks=SLOW)]
)
def test_pairs_that_only_differ_in_severity_are_not_called(tasks, examples, studies):
    """Lesions that differ widely, no specialization: many examples call pairs, random lesions do
    not."""
    controls = controls_needed(tasks * (tasks - 1) // 2)
    spread, chance = calibration.LESIONS["widely different"]
    simulation = Simulation(tasks, examples, controls, spread=spread, chance=chance)
    before, after, _, _ = calibration.pairs_called(simulation, studies, seed=9)
    assert before > 0.25
    assert stats.binomtest(round(after * studies), studies, 0.05, "greater").pvalue > 1e-3


def test_power_grows_with_what_is_planted_and_with_the_examples():
    found = [
        calibration.power(Simulation(controls=20, examples=n, specialization=s), 100, seed=3)
        for n, s in ((300, 0.0), (300, 0.2), (300, 0.6), (30, 0.2))
    ]
    (none, flat), (some, higher), (most, highest), (few, _) = found
    assert none < 0.2 < some < most
    assert most > 0.9
    assert few < some
    assert abs(flat) < 2 < higher < highest


def test_a_simulated_study_comes_near_its_truth_with_many_examples():
    generator = np.random.default_rng(5)
    simulation = Simulation(tasks=3, examples=200_000, controls=0, specialization=0.4)
    study = simulation.run(generator)
    assert np.allclose(study.matrix.base, study.base, atol=0.005)
    assert np.allclose(study.matrix.scores(), study.scores, atol=0.005)
    own = np.diag(study.scores)
    assert (own < study.scores.sum(0) / 2 - own / 2).all()
    runs = simulation.runs(2, generator)
    first, second = (run.matrix.labels["task0"] for run in runs)
    assert np.array_equal(first, second)


def test_a_study_that_cannot_be_simulated():
    with pytest.raises(ConfigError, match="A study has tasks from 2 on, not 1"):
        Simulation(tasks=1)
    with pytest.raises(ConfigError, match="blur is a deviation from 0 on"):
        Simulation(blur=-1.0)


# Several runs as one


def some_runs(number, *, between=0.2, seed=0, **settings):
    simulation = Simulation(**{"examples": 200, "controls": 30, "specialization": 0.5, **settings})
    runs = simulation.runs(number, np.random.default_rng(seed), between=between)
    return [run.matrix for run in runs]


def test_runs_are_averaged():
    matrices = some_runs(4)
    found = dissociation_over_runs(matrices, resamples=50)
    each = [matrix.dissociation(resamples=1) for matrix in matrices]
    for name in ("row", "column", "relative"):
        score = getattr(found, name)
        values = np.array([getattr(one, name).values for one in each])
        assert np.allclose(score.values, values)
        assert score.mean.mean == pytest.approx(values.mean())
        assert [task.mean for task in score.tasks] == pytest.approx(values.mean(axis=0).tolist())
        controls = np.mean([getattr(one, name).control_means for one in each], axis=0)
        reached = np.sum(controls >= values.mean())
        assert score.p_controls == pytest.approx((1 + reached) / 31)
    effects = np.array([[pair.effects for pair in one.pairs] for one in each]).mean(axis=0)
    shown = [[effect.mean for effect in pair.effects] for pair in found.pairs]
    assert np.allclose(shown, effects)
    low, high = found.column.mean.low, found.column.mean.high
    assert low < found.column.mean.mean < high


def test_pairs_over_runs_are_compared_with_averaged_controls():
    matrices = some_runs(3, controls=59, specialization=0.8)
    found = dissociation_over_runs(matrices, resamples=50)
    scores = np.mean([matrix.scores() for matrix in matrices], axis=0)
    controls = np.mean([matrix.control_scores() for matrix in matrices], axis=0)
    expected, corrected = p_against_pairs(scores, controls)
    assert [pair.p_controls for pair in found.pairs] == expected.tolist()
    assert [pair.p_controls_holm for pair in found.pairs] == corrected.tolist()
    few = dissociation_over_runs(some_runs(3, specialization=0.8), resamples=50)
    assert [pair.p_controls for pair in few.pairs] >= [1 / 31] * 3
    assert not any(pair.is_double_dissociation for pair in few.pairs)


def test_the_interval_over_runs_is_students_t_where_the_runs_differ_most():
    matrices = some_runs(5, between=0.5, examples=5_000, controls=0)
    mean = dissociation_over_runs(matrices, resamples=50).column.mean
    values = np.array([m.dissociation(resamples=1).column.mean for m in matrices])
    expected = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert (mean.low, mean.high) == pytest.approx(expected, rel=0.1)
    assert mean.over_runs > 20 * mean.over_examples


def test_the_interval_over_equal_runs_is_that_of_the_examples():
    (one,) = some_runs(1, controls=0)
    mean = dissociation_over_runs([one, one, one], resamples=4_000).column.mean
    alone = one.dissociation(resamples=4_000).column.mean_interval
    assert mean.over_runs == 0
    assert (mean.low, mean.high) == pytest.approx(alone, abs=0.6)


def test_runs_on_other_examples_are_resampled_each_for_itself():
    apart = [matrix for seed in range(3) for matrix in some_runs(1, seed=seed, between=0.0)]
    mean = dissociation_over_runs(apart, resamples=400).column.mean
    assert mean.over_examples < 0.3 * mean.over_runs
    together = dissociation_over_runs(some_runs(3, between=0.0, blur=0.0, chance=0.0, spread=0.0))
    assert together.column.mean.over_examples > together.column.mean.over_runs


def test_one_run_has_no_interval():
    found = dissociation_over_runs(some_runs(1), resamples=20)
    assert np.isnan([found.column.mean.low, found.column.mean.p]).all()
    assert not any(pair.is_double_dissociation for pair in found.pairs)
    assert np.isnan(found.pairs[0].p_holm)


def test_runs_on_other_tasks_are_refused():
    with pytest.raises(ConfigError, match=r"Run 2 has the tasks task0, task1, the first has task0"):
        dissociation_over_runs([*some_runs(1), *some_runs(1, tasks=2)])
    with pytest.raises(ConfigError, match="No run was given"):
        dissociation_over_runs([])
