"""The look after 39 exchanges: its chances, computed, and what it costs."""

import numpy as np
import pytest
from scipy import stats

from lobes.dissociation.over_fractions import p_of_study
from lobes.dissociation.statistics import p_over_fractions
from lobes.dissociation.stopping import ENOUGH_REACH, LOOK, is_settled, look_of, p_with_look
from lobes.dissociation.verdict import ALPHA, is_significant


def outcomes(controls):
    """[(chance where nothing is specialized, p, exchanges)] of every way that a study can end.

    From the definition of an urn: each replicate reaches the observation with a chance that is
    uniform over all studies, the same for all replicates of one.
    """
    found = []
    grid, weights = np.polynomial.legendre.leggauss(controls + 2)  # exact for these polynomials
    share, weights = (grid + 1) / 2, weights / 2
    first = stats.binom.pmf(np.arange(LOOK + 1)[:, None], LOOK, share)
    more = controls - LOOK
    later = stats.binom.pmf(np.arange(more + 1)[:, None], more, share)
    for early in range(LOOK + 1):
        stops = is_settled(early)
        chances = [first[early] @ weights] if stops else (first[early] * later) @ weights
        for late, chance in enumerate(chances):
            counts = {LOOK: early, controls: early + late}
            p = p_with_look(counts.__getitem__, LOOK if stops else controls)
            found.append((chance, p, LOOK if stops else controls))
    return np.array(found)


@pytest.mark.parametrize("controls", [79, 80, 99, 100, 157, 311])
def test_p_is_no_smaller_than_it_may_be_at_any_level(controls):
    chance, p, exchanges = outcomes(controls).T
    assert chance.sum() == pytest.approx(1)
    for level in np.unique(p):
        assert chance[p <= level].sum() <= level + 1e-9
    early = chance[exchanges == LOOK].sum()
    assert early == pytest.approx(1 - (ENOUGH_REACH - 1) / (1 + LOOK))
    assert chance @ exchanges < LOOK + 0.051 * (controls - LOOK)


def test_as_many_reach_in_the_end_as_without_a_look():
    """A look changes no answer at the end, for any number of exchanges that may stop."""
    for controls in [*range(2 * LOOK + 1, 240), 419, 999, 5000]:
        most = int((1 + controls) / 20 + 1e-9) - 1
        counts = {LOOK: 1, controls: most}
        assert is_significant(p_with_look(counts.__getitem__, controls))
    assert look_of(2 * LOOK) is None
    counts = {LOOK: 1, 59: 2}  # as many as p = 0.05 takes
    assert p_with_look(counts.__getitem__, 59) > ALPHA


def test_hardly_any_power_is_lost():
    """Against all exchanges, where the D-score is so many deviations above the exchanges'."""
    deviates = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    for controls, most in ((99, 0.006), (199, 0.012), (999, 0.017)):
        for power in (0.3, 0.5, 0.7, 0.9):
            moved = stats.norm.isf(ALPHA) - stats.norm.isf(power)
            share = stats.norm.sf(moved + deviates)  # of all exchanges that reach the D-score
            reach = int((1 + controls) / 20 + 1e-9) - 1
            whole = stats.binom.cdf(reach, controls, share).mean()
            ours = stats.binom.pmf(0, LOOK, share)
            for early in range(1, ENOUGH_REACH):
                late = stats.binom.cdf(reach - early, controls - LOOK, share)
                ours = ours + stats.binom.pmf(early, LOOK, share) * late
            assert 0 < whole - ours.mean() < most


def test_a_stopped_study_has_the_same_p_whatever_was_planned_or_is_measured_later():
    generator = np.random.default_rng(3)
    settled = 0
    for shift in (0.0, 2.0, 5.0):
        scores = generator.normal(size=(200, 3))
        observed, replicates = scores[0] + shift, scores[1:]
        p = {n: p_of_study(observed, replicates[:n], LOOK) for n in (LOOK, 79, 199)}
        assert p[LOOK] == p_over_fractions(observed, replicates[:LOOK])
        assert p_of_study(observed, replicates, None) == p_over_fractions(observed, replicates)
        if is_settled(round(40 * p[LOOK]) - 1):
            settled += 1
            assert p[79] == p[199] == p[LOOK]
    assert settled
    assert np.isnan(p_of_study(observed * np.nan, replicates, LOOK))
    assert p_of_study(observed, replicates[:7], LOOK) == p_over_fractions(observed, replicates[:7])


def test_p_over_several_fractions_is_as_often_small_as_it_may_be():
    """Each look standardizes the fractions anew, which the exact chances leave out."""
    generator = np.random.default_rng(5)
    common = generator.normal(size=(1000, 100, 1))
    scores = common + generator.normal(size=(1000, 100, 3))
    p = np.array([p_of_study(each[0], each[1:], LOOK) for each in scores])
    assert abs(np.mean(p <= 0.05 + 1e-9) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 1000)
