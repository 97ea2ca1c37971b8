"""Effects of several models taken together: known values, the level in simulations, verdicts."""

import numpy as np
import pytest
from scipy import stats

from lobes.dissociation.over_models import has_effect, over_models, random_effects
from lobes.dissociation.seeds import Difference
from lobes.dissociation.verdict import SPECIALIZED, Evidence, Verdict, specialized
from lobes.dissociation.verdicts_over_seeds import Trainings, performance
from lobes.errors import ConfigError


def test_random_effects_are_those_of_the_formulas():
    # worked by hand: w = 4, 1, 4; Q = 8; tau^2 = (8 - 2) / (9 - 33 / 9) = 1.125
    found = random_effects([0.0, 1.0, 2.0], [0.5, 1.0, 0.5])
    assert found.spread**2 == pytest.approx(1.125)
    v = 1 / (np.array([0.25, 1.0, 0.25]) + 1.125)
    assert found.mean == pytest.approx(1.0)
    variance = max(1, v[0] * 2 / 2) / v.sum()
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 2) * variance**0.5)
    assert found.p == pytest.approx(2 * stats.t.sf(1 / variance**0.5, 2))


def test_equal_effects_have_no_spread_and_the_common_error():
    found = random_effects([3.0, 3.0, 3.0, 3.0], [2.0] * 4, level=0.9)
    assert (found.mean, found.spread, found.models) == (3.0, 0.0, 4)
    assert found.high - 3.0 == pytest.approx(stats.t.ppf(0.95, 3) * 1.0)


@pytest.mark.parametrize("models", [3, 7])
@pytest.mark.parametrize("spread", [0.0, 1.0, 5.0])
def test_the_interval_covers_the_mean_over_models_as_often_as_it_says(models, spread):
    random = np.random.default_rng(models)
    errors = random.uniform(0.5, 2.0, size=(600, models))
    effects = (
        4 + spread * random.normal(size=errors.shape) + errors * random.normal(size=errors.shape)
    )
    found = [random_effects(y, e) for y, e in zip(effects.tolist(), errors.tolist(), strict=True)]
    covered = np.mean([each.low < 4 < each.high for each in found])
    assert covered > 0.93  # 0.95 less two standard errors


@pytest.mark.parametrize(
    "given", [([1.0], [1.0]), ([1.0, 2.0], [1.0, 0.0]), ([1.0, float("nan")], [1.0, 1.0])]
)
def test_what_cannot_be_taken_together_is_refused(given):
    with pytest.raises(ConfigError, match="expected two or more"):
        random_effects(*given)


def verdicts(*rows, claim="IAT helps.", smallest=0.005):
    return [
        Verdict(claim, "open", ("why",), {"mean": m, "low": m - r, "high": m + r, "p": p,
                                          "smallest_effect": smallest})
        for m, r, p in rows
    ]  # fmt: skip


def test_the_verdict_over_models_needs_an_interval_and_exchanged_heads():
    clear = [(10, 2, 0.01), (12, 3, 0.02), (11, 2, 0.01)]
    assert over_models(verdicts(*clear)).answer == "yes"
    assert over_models(verdicts(*clear, claim=SPECIALIZED)).answer == "yes"
    chance = [(m, r, 0.5) for m, r, _ in clear]
    found = over_models(verdicts(*chance, claim=SPECIALIZED))
    assert found.answer == "open"
    assert "exchanged" in found.reasons[0]
    assert found.numbers["p"] == pytest.approx(stats.chi2.sf(-6 * np.log(0.5), 6))
    assert over_models(verdicts(*chance)).answer == "yes"  # its own p, of the interval
    assert over_models(verdicts((-1, 0.2, 0.1), (-1.1, 0.2, 0.1))).answer == "no"
    assert over_models(verdicts(*[(0.0, 0.001, 0.9)] * 3)).answer == "no"
    assert over_models(verdicts(*[(0.0, 0.1, 0.9)] * 3)).answer == "open"
    # as one study is not: beyond exchanged heads, with an interval that includes 0
    beyond = verdicts(*[(1.5, 2.5, 0.001)] * 3, claim=SPECIALIZED, smallest=5.0)
    found = over_models(beyond)
    assert found.answer == "open" == specialized(Evidence(1.5, -1, 4, 0.001, 39, 2, 2, 9)).answer
    assert found.numbers["high"] < 5
    assert "exceeds that of exchanged heads, but its interval includes 0" in found.reasons[0]


def test_models_that_could_not_tell_are_left_out():
    (told,) = verdicts((0.0, 0.001, 0.9))
    assert has_effect(told)
    ways, difference = Trainings("iat", "multi", 3, before_iat=2), Difference(0.0, -0.1, 0.1, 0.9)
    assert not has_effect(performance(ways, difference, above_chance=True))
    assert not has_effect(performance(Trainings("iat", "multi", 3), difference, above_chance=False))
    assert has_effect(performance(Trainings("iat", "multi", 3), difference, above_chance=True))
    assert not has_effect(specialized(Evidence(8.0, 5.0, 11.0, 0.05, 99, 2, 1, 9)))
    assert has_effect(specialized(Evidence(8.0, 5.0, 11.0, 0.01, 99, 2, 2, 9)))
