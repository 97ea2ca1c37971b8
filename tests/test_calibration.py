"""The statistics keep their word on simulated studies; `make calibration` is the long run."""

import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lobes.dissociation.dscores import column
from lobes.dissociation.over_runs import (
    change_over_runs,
    dissociation_over_runs,
    runs_over_fractions,
)
from lobes.dissociation.pairs import PairEffects, effects_of_two, p_of_pairs
from lobes.dissociation.simulation import HeadStudy, Simulation
from lobes.dissociation.verdict import controls_needed
from lobes.errors import ConfigError

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
calibration = pytest.importorskip("calibration")
tables = pytest.importorskip("exchange_tables")
from lobes.dissociation.simulated_heads import exchanged, measured  # noqa: E402

SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


def within(share, expected, trials):
    """Whether a share of independent trials is one that chance allows (two-sided p > 1e-4)."""
    return stats.binomtest(round(share * trials), trials, expected).pvalue > 1e-4


def shares(p, studies, allowed=(0.05, 0.25, 0.5)):
    """Whether p is that small or smaller as often as it says."""
    return all(within(np.mean(p <= level + 1e-9), level, studies) for level in allowed)


# every line of the page but those with few exchanges, which tie, and those that take minutes
CASES = {
    name: study
    for name, study in tables.NULL.items()
    if study.tasks < 6 and not any(word in name for word in ("identical", "apart", "top"))
}
QUICK = {
    "2 tasks, threshold, unequal noise",
    "2 tasks, threshold, specialization not estimated",
    "3 tasks, concave, unequal noise",
}


@pytest.mark.parametrize(
    ("name", "studies"),
    [
        pytest.param(name, *((200,) if quick else (1000,)), marks=() if quick else SLOW)
        for name in CASES
        for quick in (True, False)
        if not quick or name in QUICK
    ],
)
def test_p_is_uniform_where_nothing_is_specialized(name, studies):
    study = CASES[name]
    (found,) = measured(study, studies, 71, exchanged)
    p = tables.p_of(found.d_scores[..., -1])
    assert tables.uniformity(p, study.replicates) > 1e-4
    assert shares(p, studies)


@pytest.mark.parametrize("studies", [250, pytest.param(1000, marks=SLOW)])
def test_p_over_fractions_is_uniform_where_the_smallest_p_is_not(studies):
    study = HeadStudy(fractions=(0.2, 0.3, 0.4), damage="threshold", noise=(0.1, 1.0))
    (found,) = measured(study, studies, 72, exchanged)
    p = tables.over_fractions(found)
    assert shares(p, studies)
    smallest = np.min([tables.p_of(found.d_scores[..., f]) for f in range(3)], axis=0)
    assert not within(np.mean(smallest <= 0.05), 0.05, studies)


@pytest.mark.parametrize("studies", [120, pytest.param(1000, marks=SLOW)])
def test_a_pair_is_not_called_because_a_third_task_is_specialized(studies):
    study = HeadStudy(3, damage="threshold", specialization=(0.0, 0.0, 0.6))
    found = measured(study, studies, 73, partial(exchanged, tasks=(0, 1)), exchanged)
    alone, joint = (tables.p_of_pair(one, 0, 1) for one in found)
    assert shares(alone, studies)
    assert stats.binomtest(int(np.sum(joint <= 0.05)), studies, 0.05, "greater").pvalue > 1e-4
    # while pairs with the third are found
    assert np.mean(tables.p_of_pair(found[1], 0, 2) <= 0.05) > 0.5


def test_what_the_page_says_is_not_calibrated():
    """Single tasks where one is estimated better; the mean where that one also suffers more."""
    single, both = (
        measured(
            HeadStudy(damage="threshold", noise=(0.1, 1.0), vulnerability=harm), 100, 74, exchanged
        )[0]
        for harm in (1.0, (1.5, 0.5))
    )
    assert tables.by_task(single).max() > 0.3
    assert within(np.mean(tables.p_of(single.d_scores[..., -1]) <= 0.05), 0.05, 100)
    assert np.mean(tables.p_of(both.d_scores[..., -1]) <= 0.05) > 0.3


def test_power_grows_with_what_is_planted_and_with_the_examples():
    found = [
        measured(HeadStudy(examples=n, damage="threshold", specialization=s), 100, 75, exchanged)[0]
        for n, s in ((300, 0.0), (300, 0.2), (300, 0.4), (30, 0.2))
    ]
    none, some, most, few = (np.mean(tables.p_of(one.d_scores[..., -1]) <= 0.05) for one in found)
    assert none < 0.2 < some < most
    assert most > 0.9
    assert few < some
    flat, higher, highest, _ = (one.true.mean() for one in found)
    assert abs(flat) < 1 < higher < highest


def test_a_look_finds_as_often_as_all_exchanges_do_and_takes_half_of_them(monkeypatch):
    name = "3 tasks, concave, strength 0.4"
    monkeypatch.setattr(tables, "STOPPING", {name: tables.STOPPING[name]})
    (line,) = tables.stop_rows(50)
    ours, every = float(line[4]), float(line[5])
    assert ours > 0.5
    assert abs(ours - every) < 0.1
    assert 39 < int(line[3]) < 70


# Studies in bulk are the studies one at a time


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(1, 3), st.integers(0, 99))
def test_heads_exchanged_in_bulk_keep_sizes_and_multiplicities(tasks, fractions, seed):
    generator = np.random.default_rng(seed)
    study = HeadStudy(tasks, heads=29, fractions=(0.1, 0.2, 0.4)[-fractions:], replicates=7)
    observed = study.lesioned(study.importance(3, generator)[1]).transpose(0, 2, 1)[:, None]
    dealt = exchanged(study, observed.astype(np.int8), generator)
    for level in range(1, fractions + 1):
        for axis in (2, 3):
            expected = np.sum(observed >= level, axis=axis)
            assert (np.sum(dealt >= level, axis=axis) == expected).all()


def test_every_deal_in_bulk_is_equally_likely():
    # three tasks, as {0, 1, 2}, {2, 3, 4}, {4, 5, 0}: 93 deals
    observed = np.zeros((1, 1, 3, 6), np.int8)
    for task, heads in enumerate(([0, 1, 2], [2, 3, 4], [4, 5, 0])):
        observed[0, 0, task, heads] = 1
    study, generator = HeadStudy(3, heads=6, replicates=1), np.random.default_rng(0)
    dealt = exchanged(study, np.repeat(observed, 2000, axis=0), generator)
    counts = Counter(each.tobytes() for each in dealt[:, 0])
    assert len(counts) == 93
    assert stats.chisquare([*counts.values()]).pvalue > 0.001


def test_bulk_has_the_distribution_of_one_at_a_time():
    study = HeadStudy(
        heads=31, examples=53, fractions=(0.2, 0.4), replicates=7, noise=(0.2, 0.8),
        specialization=0.5, damage="linear", vulnerability=(1.5, 1.0),
    )  # fmt: skip
    generator = np.random.default_rng(1)
    ones = [study.run(generator) for _ in range(40)]
    slow = {
        fraction: np.array([
            np.concatenate([one.matrix.scores(fraction)[None], one.matrix.control_scores(fraction)])
            for one in ones
        ])
        for fraction in study.fractions
    }  # fmt: skip
    (bulk,) = measured(study, 400, 2, exchanged)
    base = np.array([one.matrix.base for one in ones])
    assert stats.ks_2samp(base.ravel(), bulk.base.ravel()).pvalue > 1e-3
    true = np.array([one.d_scores() for one in ones])
    assert stats.ks_2samp(true.mean(axis=1), bulk.true[:, -1].mean(axis=1)).pvalue > 1e-3
    for place, fraction in enumerate(study.fractions):
        one, many = slow[fraction], bulk.matrices[:, :, place]
        for i, j in product(range(2), range(2)):  # of which task, under whose lesion
            assert stats.ks_2samp(one[:, 0, i, j], many[:, 0, i, j]).pvalue > 1e-3
            assert stats.ks_2samp(one[:, 1, i, j], many[:, 1, i, j]).pvalue > 1e-3
        d = column(one, base[:, None]).mean(axis=-1), bulk.d_scores[..., place]
        assert stats.ks_2samp(*(each[:, 0] for each in d)).pvalue > 1e-3
        assert stats.ks_2samp(*(each[:, 1:].std(axis=1) for each in d)).pvalue > 1e-3
        assert stats.ks_2samp(*(tables.p_of(each) for each in d)).pvalue > 1e-3


@pytest.mark.parametrize("studies", [60, pytest.param(400, marks=SLOW)])
def test_intervals_hold_the_truth_as_often_as_they_say(studies):
    simulation = Simulation(tasks=3, examples=300, controls=0, specialization=0.3)
    hits = calibration.coverage(simulation, studies, seed=7)
    # percentile intervals are a little narrow; nothing more than that
    assert all(within(share, 0.945, studies) for share in hits[::2])
    assert hits.min() > 0.9


@pytest.mark.parametrize("studies", [30, pytest.param(100, marks=SLOW)])
def test_intervals_over_runs_hold_the_truth_where_percentiles_do_not(studies):
    simulation = Simulation(tasks=3, examples=300, controls=0, specialization=0.3)
    ours, percentiles = calibration.coverage_over_runs(
        simulation, 3, 0.2, studies, seed=8, truth=10 * studies
    )
    assert within(ours, 0.945, studies)
    assert percentiles < ours


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pairs_whose_lesions_suit_them_by_chance_are_not_called():
    """Nothing is known of what is specialized: many examples call pairs, the exchange does not."""
    study = HeadStudy(
        2,
        examples=2000,
        heads=31,
        replicates=controls_needed(),
        damage="linear",
        noise=4.0,
        chance=1.0,
        blur=0.1,
    )
    studies = 200
    before, after = calibration.pairs_called(study, studies, seed=9)
    assert before > 0.1
    assert stats.binomtest(round(after * studies), studies, 0.05, "greater").pvalue > 1e-3


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


def test_a_study_of_heads_comes_near_its_truth_with_many_examples():
    generator = np.random.default_rng(6)
    study = HeadStudy(
        3, 100_000, fractions=(0.2, 0.4), replicates=1, specialization=0.4, vulnerability=(1, 2, 1)
    )
    found = study.run(generator)
    assert np.allclose(found.matrix.base, found.base, atol=0.01)
    assert np.allclose(found.matrix.scores(), found.scores, atol=0.01)
    assert (found.d_scores() > 0).all()
    assert len(set(map(str, found.matrix.lesions))) == 1 + 2 * 2 * 3


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
    matrices = some_runs(3, tasks=2, controls=31, specialization=0.8)
    found = dissociation_over_runs(matrices, resamples=50)
    effects = [
        np.mean([effects_of_two(each) for each in every], axis=0)
        for every in ([m.scores() for m in matrices], [m.control_scores() for m in matrices])
    ]
    expected, corrected = p_of_pairs([PairEffects(*effects)])
    assert [pair.p_controls for pair in found.pairs] == expected.tolist()
    assert [pair.p_controls_holm for pair in found.pairs] == corrected.tolist()
    few = dissociation_over_runs(some_runs(3, tasks=2, controls=7), resamples=50)
    assert few.pairs[0].p_controls >= 1 / 8
    assert not few.pairs[0].is_double_dissociation


def test_runs_that_may_stop_are_compared_over_the_exchanges_that_all_have():
    """One went on after its look, so that it must not be compared by more than the other."""
    matrices = [replace(m, look=39) for m in some_runs(2, tasks=2, controls=83)]
    stopped = replace(
        matrices[0],
        lesions=tuple(x for x in matrices[0].lesions if x.kind != "exchanged" or x.replicate < 39),
        predictions={
            task: values[: 1 + 2 + 2 * 39] for task, values in matrices[0].predictions.items()
        },
    )
    found, others = (
        dissociation_over_runs(runs, resamples=50) for runs in (matrices, [stopped, matrices[1]])
    )
    assert found.column.control_means.shape == (39,)
    assert found.column.p_controls == others.column.p_controls
    assert runs_over_fractions([found]).p == runs_over_fractions([others]).p
    assert found.pairs[0].controls == others.pairs[0].controls == 39
    every = dissociation_over_runs([replace(m, look=None) for m in matrices], resamples=50)
    assert every.column.control_means.shape == (83,)


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


@pytest.mark.parametrize("number", [2, 5])
@pytest.mark.parametrize(("runs", "shared", "own"), [(2, 0, 1), (1, 2, 0), (1, 1, 1), (0.1, 2, 1)])
def test_the_interval_of_a_change_over_runs_is_never_too_narrow(number, runs, shared, own):
    """However much of the examples' error the runs share, it holds the truth in 95 % or more."""
    generator, held = np.random.default_rng(3), 0
    errors = np.full(number, np.hypot(shared, own))
    for _ in range(2000):
        moved = generator.normal(size=2 * number + 1)
        changes = 7 + runs * moved[:number] + own * moved[number:-1] + shared * moved[-1]
        found = change_over_runs(changes, errors)
        held += found.low <= 7 <= found.high
    assert held / 2000 > 0.935
    if (shared, own) == (2, 0):  # what is taken is then true
        assert held / 2000 < 0.985


def test_runs_on_other_tasks_are_refused():
    with pytest.raises(ConfigError, match=r"Run 2 has the tasks task0, task1, the first has task0"):
        dissociation_over_runs([*some_runs(1), *some_runs(1, tasks=2)])
    with pytest.raises(ConfigError, match="No run was given"):
        dissociation_over_runs([])
