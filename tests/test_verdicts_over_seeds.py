"""Verdicts on ways to train: one rule for a difference over seeds, and what each claim says."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobes.dissociation.seeds import Difference
from lobes.dissociation.verdicts_over_seeds import (
    SPECIALIZED_BY_IAT,
    Trainings,
    better,
    gained,
    gained_anywhere,
    performance,
    specialized_by_iat,
    transfer,
    transfers,
)


@pytest.mark.parametrize(
    ("gain", "seeds", "above", "expected"),
    [
        (Difference(0.02, 0.01, 0.03, 0.05), 5, True, ("yes", "higher")),
        (Difference(-0.02, -0.03, -0.01, 0.01), 5, True, ("no", "lower")),
        (Difference(0.0, -0.004, 0.004, 0.9), 5, True, ("no", "negligible")),
        (Difference(0.0, -0.02, 0.02, 0.9), 5, True, ("open", "undecided")),
        (Difference(0.0, 0.0, 0.0, 1.0), 5, True, ("open", "identical")),
        (Difference(0.002, 0.002, 0.002, 0.25), 3, True, ("open", "undecided")),
        (Difference(0.02, math.nan, math.nan, math.nan), 1, True, ("open", "one seed")),
        (Difference(0.02, 0.01, 0.03, 0.01), 5, False, ("open", "near chance")),
        (Difference(math.nan, math.nan, math.nan, math.nan), 5, True, ("open", "undefined")),
    ],
)
def test_the_answer_on_a_difference_over_seeds(gain, seeds, above, expected):
    assert gained(gain, 0.005, seeds=seeds, above_chance=above) == expected


UP, DOWN = Difference(0.02, 0.01, 0.03, 0.01), Difference(-0.02, -0.03, -0.01, 0.01)
NONE, WIDE = Difference(0.0, -0.004, 0.004, 0.9), Difference(0.0, -0.02, 0.02, 0.9)
SAME = Difference(0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("gains", "above", "expected"),
    [
        ((UP, NONE), (True, True), ("yes", "higher")),
        ((UP, DOWN), (True, True), ("open", "mixed")),
        ((UP, DOWN), (False, True), ("no", "lower")),
        ((NONE, NONE), (True, True), ("no", "negligible")),
        ((NONE, SAME), (True, True), ("no", "negligible")),
        ((NONE, WIDE), (True, True), ("open", "undecided")),
        ((NONE, WIDE), (True, False), ("no", "negligible")),
        ((SAME, SAME), (True, True), ("open", "identical")),
        ((UP, UP), (False, False), ("open", "near chance")),
    ],
)
def test_the_answer_on_differences_at_several_sizes(gains, above, expected):
    assert gained_anywhere(gains, 0.005, seeds=5, above_chance=above) == expected


PAIR = Trainings("iat", "multi", seeds=5)


def test_claims_4_and_3_have_an_answer_a_reason_and_the_numbers_that_decide():
    found = performance(PAIR, UP, above_chance=True)
    assert (found.claim, found.answer) == (better("iat", "multi"), "yes")
    assert found.headline == "Yes: the mean score over the tasks is higher after IAT."
    assert found.numbers == {
        "mean": 0.02,
        "low": 0.01,
        "high": 0.03,
        "p": 0.01,
        "seeds": 5,
        "smallest_effect": 0.005,
    }
    found = specialized_by_iat(PAIR, Difference(0.3, -0.2, 0.9, 0.2), above_chance=True)
    assert (found.claim, found.answer) == (SPECIALIZED_BY_IAT, "no")
    assert found.headline.endswith("by less than 1 %, the smallest change of interest.")
    assert found.numbers["smallest_effect"] == 1


def test_claim_5_names_the_sizes_and_leaves_out_those_near_chance():
    sizes, above = (2, 17, 170, 1702), (False, True, True, True)
    found = transfer(PAIR, sizes, (DOWN, UP, NONE, UP), above_chance=above)
    assert (found.claim, found.answer) == (transfers("iat", "multi"), "yes")
    assert (
        found.headline == "Yes: with 17 and 1,702 training examples the score is higher after IAT."
    )
    assert (found.numbers["sizes_above_chance"], found.numbers["sizes_lower"]) == (3, 0)
    found = transfer(PAIR, sizes, (DOWN, UP, NONE, DOWN), above_chance=above)
    assert found.headline == (
        "Inconclusive: after IAT it is learned better with 17 examples, and worse with 1,702."
    )


@given(
    before=st.integers(0, 5),
    gain=st.sampled_from([UP, DOWN, NONE, WIDE, SAME]),
    above=st.booleans(),
)
def test_weights_from_before_iat_in_most_seeds_decide_every_claim(before, gain, above):
    ways = Trainings("iat", "multi", seeds=5, before_iat=before)
    found = [
        performance(ways, gain, above_chance=above),
        specialized_by_iat(ways, gain, above_chance=above),
        transfer(ways, (7,), (gain,), above_chance=(above,)),
    ]
    mostly = before > 2
    assert [("from before IAT began" in each.headline) for each in found] == [mostly] * 3
    if mostly or not above:
        assert {each.answer for each in found} == {"open"}


@pytest.mark.parametrize("gain", [UP, DOWN, NONE, WIDE, SAME])
@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("above", [True, False])
def test_every_verdict_begins_with_its_answer(gain, seeds, above):
    ways = Trainings("multi", "single", seeds)
    word = {"yes": "Yes: ", "no": "No: ", "open": "Inconclusive: "}
    for found in (
        performance(ways, gain, above_chance=above),
        transfer(ways, (7, 71), (gain, gain), above_chance=(above, above)),
    ):
        assert found.headline.startswith(word[found.answer])
        assert found.headline.endswith(".")
