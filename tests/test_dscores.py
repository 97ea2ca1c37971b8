"""The three D-scores by hand and by law, and the verdict in words."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lobes.dissociation.dscores import (
    FORMULAS,
    Dissociation,
    DScore,
    PairVerdict,
    column,
    d_score,
    relative,
    row,
)
from lobes.dissociation.over_fractions import over_fractions
from lobes.dissociation.pairs import PairEffects, effects_of_two, p_of_pairs
from lobes.dissociation.statistics import holm
from lobes.dissociation.verdict import controls_needed, is_significant, smallest_p

SCORES = st.floats(0, 1, width=32)


@st.composite
def measurements(draw):
    n_tasks = draw(st.integers(2, 5))
    matrix = draw(arrays.arrays(np.float64, (n_tasks, n_tasks), elements=SCORES))
    base = draw(arrays.arrays(np.float64, n_tasks, elements=st.floats(0.25, 1)))
    return matrix, base


def plain(name, matrix, base):
    """The definitions of docs/method.md#d-scores, as loops."""
    n_tasks = len(base)
    values = []
    for i in range(n_tasks):
        others = [j for j in range(n_tasks) if j != i]
        if name == "row":
            difference = np.mean([matrix[i][j] for j in others]) - matrix[i][i]
            values.append(100 * difference / base[i])
        elif name == "column":
            difference = np.mean([matrix[j][i] for j in others]) - matrix[i][i]
            values.append(100 * difference / base[i])
        else:
            other = np.mean([matrix[i][j] / base[j] for j in others])
            values.append(100 * (other - matrix[i][i] / base[i]))
    return np.array(values)


def test_the_example_where_nothing_is_dissociated():
    """Bases 0.9 and 0.7, every lesion costs 10 points everywhere: only `row` sees something."""
    base = np.array([0.9, 0.7])
    matrix = np.array([[0.8, 0.6], [0.8, 0.6]])
    np.testing.assert_allclose(row(matrix, base), [-22.2, 28.6], atol=0.05)
    assert row(matrix, base).mean() == pytest.approx(3.2, abs=0.05)
    np.testing.assert_allclose(column(matrix, base), [0, 0], atol=1e-12)
    np.testing.assert_allclose(relative(matrix, base), [-22 / 7 - 2 / 63, 22 / 7 + 2 / 63])


def test_three_tasks_by_hand():
    base = np.array([0.8, 0.5, 1.0])
    matrix = np.array([[0.4, 0.5, 0.9], [0.7, 0.2, 0.8], [0.6, 0.4, 0.3]])
    np.testing.assert_allclose(row(matrix, base), [37.5, 110, 20])
    np.testing.assert_allclose(column(matrix, base), [31.25, 50, 55])
    np.testing.assert_allclose(relative(matrix, base), [45, 43.75, 47.5])


@pytest.mark.parametrize("name", FORMULAS)
@given(measured=measurements())
def test_equals_the_plain_definition(name, measured):
    np.testing.assert_allclose(FORMULAS[name](*measured), plain(name, *measured), atol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
@given(measured=measurements(), random=st.randoms(use_true_random=False))
def test_permuting_tasks_permutes_the_scores(name, measured, random):
    matrix, base = measured
    order = random.sample(range(len(base)), len(base))
    permuted = FORMULAS[name](matrix[np.ix_(order, order)], base[order])
    np.testing.assert_allclose(permuted, FORMULAS[name](matrix, base)[order], atol=1e-9)


@given(measured=measurements(), costs=arrays.arrays(np.float64, 5, elements=st.floats(-1, 1)))
def test_what_every_lesion_costs_a_task_alike_moves_no_column_score(measured, costs):
    matrix, base = measured
    shifted = matrix + costs[: len(base)]
    np.testing.assert_allclose(column(shifted, base), column(matrix, base), atol=1e-9)


@pytest.mark.parametrize("name", ["column", "relative"])
@given(measured=measurements(), units=arrays.arrays(np.float64, 5, elements=st.floats(0.5, 9)))
def test_column_and_relative_do_not_depend_on_a_task_s_units(name, measured, units):
    matrix, base = measured
    units = units[: len(base)]
    scaled = FORMULAS[name](matrix * units, base * units)
    np.testing.assert_allclose(scaled, FORMULAS[name](matrix, base), atol=1e-9)


@pytest.mark.parametrize("name", FORMULAS)
def test_leading_axes_are_batches(name):
    generator = np.random.default_rng(3)
    matrices, bases = generator.random((2, 7, 5, 5)), generator.random((2, 7, 5)) + 0.3
    batched = FORMULAS[name](matrices, bases)
    one_base = FORMULAS[name](matrices, bases[0, 0])
    assert batched.shape == one_base.shape == (2, 7, 5)
    for index in np.ndindex(2, 7):
        np.testing.assert_allclose(batched[index], FORMULAS[name](matrices[index], bases[index]))
        np.testing.assert_allclose(one_base[index], FORMULAS[name](matrices[index], bases[0, 0]))


def test_a_base_of_zero_gives_nan_and_no_warning():
    matrix, base = np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([0.0, 0.5])
    assert np.isnan(row(matrix, base)).tolist() == [True, False]
    assert np.isnan(column(matrix, base)).tolist() == [True, False]
    assert np.isnan(relative(matrix, base)).all()


def score(*, mean=8.0, low=5.0, controls=(), note=None):
    """A D-score of two tasks whose controls have the given means."""
    return d_score(
        "column",
        np.array([mean, mean]),
        np.linspace(low, 2 * mean - low, 1001)[:, None] * np.ones(2),
        np.array(controls, dtype=np.float64).reshape(-1, 1) * np.ones(2),
        np.array([[mean - 1, mean - 1], [mean + 1, mean + 1]]),
        np.array([mean, mean]),
        1 - 1e-9,
        [note] if note else [],
    )


def pair(*effects, p=0.01, p_controls=0.01, controls=99, pairs=1):
    intervals = ((0.0, 1.0), (0.0, 1.0))
    return PairVerdict(
        "a", "b", effects, intervals, (p, p), p, p_controls, p_controls, controls, pairs
    )


def found(column_score, *pairs, above_chance=(True, True)):
    three = (column_score,) * 3
    return Dissociation(("a", "b"), 0.3, *three, pairs, 0.95, 1001, above_chance, exchangeable=9)


def test_the_mean_is_tested_and_interval_taken_over_the_defined_tasks():
    values = np.array([3.0, np.nan, 5.0])
    resampled = np.stack([np.arange(11.0), np.full(11, np.nan), np.arange(11.0) + 2], axis=1)
    controls = np.array([[9.0, np.nan, 1.0], [0.0, np.nan, 1.0], [1.0, np.nan, 6.9]])
    random = controls[1:] + 2
    reasons = ["Task b is undefined."]
    result = d_score("row", values, resampled, controls, random, values, 0.8, reasons)
    assert result.mean == 4
    assert result.mean_interval == pytest.approx((2, 10))
    np.testing.assert_allclose(result.control_means, [5, 0.5, 3.95])
    assert result.mean_p == pytest.approx(2 / 4)
    np.testing.assert_allclose(result.random_means, [2.5, 5.95])
    assert result.random_p == pytest.approx(2 / 3)
    assert result.random_standardized == pytest.approx((4 - 4.225) / np.std([2.5, 5.95], ddof=1))
    np.testing.assert_allclose(result.p_values, [2 / 4, np.nan, 2 / 4])
    np.testing.assert_allclose(result.interval, [[1, 9], [np.nan, np.nan], [3, 11]])
    assert result.note == "Task b is undefined. The mean is over the remaining 2 tasks."


def test_controls_on_a_sample_are_compared_with_the_score_on_it():
    values, sample = np.array([3.0, np.nan, 5.0]), np.array([1.0, 2.0, 3.0])
    controls = np.array([[0.0, 0, 0], [2, 0, 2], [1, 0, 4], [1, 0, 2]])
    result = d_score("row", values, values[None], controls, controls, sample, 0.8, [])
    assert result.mean == 4
    assert result.compared_mean == 2
    assert result.mean_p == pytest.approx((1 + 2) / 5)
    np.testing.assert_allclose(result.p_values, [(1 + 3) / 5, np.nan, (1 + 1) / 5])
    np.testing.assert_allclose(result.standardized, [0, np.nan, 1 / np.std([0, 2, 4, 2], ddof=1)])
    means = [0, 2, 2.5, 1.5]
    assert result.mean_standardized == pytest.approx((2 - np.mean(means)) / np.std(means, ddof=1))
    alone = d_score("row", values, values[None], controls[:1], controls[:0], sample, 0.8, [])
    assert np.isnan([*alone.standardized, alone.mean_standardized]).all()


def test_undefined_controls_are_left_out_of_the_distance_and_count_against():
    values, controls = np.array([3.0, 5.0]), np.array([[0.0, 0], [np.nan, 0], [2, 1], [4, 2]])
    result = d_score("row", values, values[None], controls, controls, values, 0.8, [])
    np.testing.assert_allclose(result.standardized, [1 / 2, 4.25 / np.std([0, 0, 1, 2], ddof=1)])
    means = [0, 1.5, 3]
    assert result.mean_standardized == pytest.approx((4 - np.mean(means)) / np.std(means, ddof=1))
    np.testing.assert_allclose(result.p_values, [(1 + 2) / 5, 1 / 5])
    assert result.mean_p == 2 / 5


@pytest.mark.parametrize(
    "strong", [[0.0] * 39, [*np.linspace(-1, 1, 38), np.nan]], ids=["all alike", "one undefined"]
)
def test_the_interval_over_fractions_is_of_the_fraction_that_p_is_of(strong):
    first = found(score(mean=9.0, low=8.0, controls=strong))
    weak = score(mean=1.0, low=-5.0, controls=np.linspace(-3, 3, 39))
    over = over_fractions([first, dataclasses.replace(first, fraction=0.4, column=weak)])
    assert over.p <= 0.05
    assert over.strongest == 0.3
    assert over.specialized.answer == "yes"
    assert over.specialized.numbers["mean"] == 9.0


def test_the_largest_fraction_is_taken_where_none_stands_out():
    first = found(score(controls=()))
    over = over_fractions([first, dataclasses.replace(first, fraction=0.4)])
    assert over.strongest == 0.4


def test_without_any_defined_task_all_is_nan():
    nothing = np.full((7, 2), np.nan)
    reasons = ["No.", "Neither."]
    result = d_score(
        "row", nothing[0], nothing, nothing[:3], nothing[:2], nothing[0], 0.95, reasons
    )
    assert isinstance(result, DScore)
    assert np.isnan([result.mean, result.mean_p, *result.mean_interval]).all()
    assert np.isnan(result.control_means).all()
    assert result.note == "No. Neither."


def test_a_missing_interval_is_explained():
    resampled = np.stack([np.arange(11.0), np.full(11, np.nan)], axis=1)
    values = np.array([1.0, 2.0])
    result = d_score("row", values, resampled, *[np.empty((0, 2))] * 2, values, 0.8, [])
    assert result.note == (
        "Where more than 5% of the resamples are undefined, there is no interval."
    )
    assert "(no interval)" in found(result).verdict()


def test_verdict_yes():
    assert found(score(controls=range(-19, 0)), pair(0.1, 0.2)).verdict() == (
        "Yes: each task's own heads matter more to it than the other tasks' heads. At 30 % of "
        "the heads the mean column D-score is +8.0 % (95 % interval +5.0 to +11.0), "
        "p = 0.05 against 19 exchanges of the tasks' heads. The pair of tasks is a double "
        "dissociation."
    )


def test_yes_does_not_speak_of_a_task_without_a_d_score():
    defined = found(score(controls=np.linspace(-3, 3, 39)))
    assert defined.specialized.reasons[0].endswith("more to it than the other tasks' heads.")
    values, controls = np.array([8.0, np.nan]), np.linspace(-3, 3, 39)[:, None] * np.ones(2)
    resampled = np.linspace(5, 11, 1001)[:, None] * np.ones(2)
    column = d_score("column", values, resampled, controls, controls[:0], values, 0.95, ["Why."])
    said = found(column).specialized
    assert said.answer == "yes"
    assert said.reasons[0].endswith("than the other tasks' heads (undefined for b).")


def test_verdict_no_where_the_interval_excludes_what_matters():
    controls = np.linspace(0, 4, 30)
    text = found(
        score(mean=1.0, low=-1.0, controls=controls),
        pair(0.1, -0.2),
        pair(0.1, 0.2),
        pair(0.3, 0.1, p=0.06),
    ).verdict()
    assert text.startswith(
        "No: the D-score does not stand out from that of exchanged heads, and its interval ends "
        "below 5 %, the smallest effect of interest. At 30 % of the heads"
    )
    assert "p = 0.74 against 30 exchanges of the tasks' heads." in text
    assert text.endswith(" 1 of 3 pairs of tasks is a double dissociation.")


def test_verdict_open_where_an_effect_that_matters_is_not_excluded():
    text = found(score(controls=range(30)), pair(0.1, 0.2)).verdict()
    assert text.startswith(
        "Inconclusive: the D-score does not stand out from that of exchanged heads, but its "
        "interval (up to +11.0 %) reaches 5 %, the smallest effect of interest. "
    )


def test_verdict_open_where_the_interval_reaches_zero():
    text = found(score(low=-1.0, controls=[0.0] * 30), pair(0.1, 0.0)).verdict()
    assert text.startswith("Inconclusive: the D-score exceeds that of exchanged heads, but its")
    assert text.endswith("The pair of tasks is not a double dissociation.")


@pytest.mark.parametrize("n_controls", [1, 18])
def test_verdict_needs_enough_controls(n_controls):
    pairs = [pair(0.1, 0.1, controls=n_controls, pairs=3)] * 3
    text = found(score(controls=[0.0] * n_controls), *pairs).verdict()
    least = "1 exchange allows no p below 0.500"
    between = "1 exchange between two tasks is"
    if n_controls == 18:
        least = "18 exchanges allow no p below 0.053"
        between = "18 exchanges between two tasks are"
    assert text.startswith(f"Inconclusive: {least}; 19 or more can reach 0.05. At 30 % of the")
    assert text.endswith(
        f"{between} too few for a double dissociation among 3 pairs of tasks: 59 or more are "
        "needed."
    )


@pytest.mark.parametrize("n_pairs", [1, 3, 6, 15, 45])
def test_the_controls_that_pairs_need_are_the_fewest_that_can_reach_the_level(n_pairs):
    needed = controls_needed(n_pairs)
    assert is_significant(n_pairs * smallest_p(needed))
    assert not is_significant(n_pairs * smallest_p(needed - 1))
    assert not pair(1.0, 1.0, controls=needed, pairs=n_pairs).lacks_controls
    assert pair(1.0, 1.0, controls=needed - 1, pairs=n_pairs).lacks_controls


@pytest.mark.parametrize("above", [(False, False), (True, False)])
def test_verdict_needs_two_tasks_above_chance(above):
    result = found(score(controls=range(-19, 0)), pair(0.1, 0.2), above_chance=above).specialized
    assert result.answer == "open"
    assert result.reasons[0].endswith("clearly above chance, and a dissociation needs two.")


def test_verdict_without_controls_or_without_a_score():
    text = found(score(), pair(0.1, 0.1)).verdict()
    assert text.startswith("Inconclusive: no exchanged lesions were measured to compare with. At")
    values, nothing = np.array([8.0, 8.0]), np.array([8.0, np.nan])  # on the exchanges' examples
    sampled = d_score(
        "column", values, values[None], np.ones((39, 2)), np.ones((0, 2)), nothing, 0.9, []
    )
    text = found(sampled, pair(0.1, 0.1)).verdict()
    assert text.startswith(
        "Inconclusive: the D-score is undefined on the examples of the exchanged lesions. At"
    )
    undefined = found(score(mean=np.nan, note="All bases are zero."), pair(0.1, 0.1)).verdict()
    assert undefined.startswith("Inconclusive: the D-score is undefined here. All bases are zero. ")


@pytest.mark.parametrize(
    ("p", "expected"),
    [(0.05, True), (3 * (1 / 60), True), (0.0501, False), (float("nan"), False)],
)
def test_one_level_for_every_verdict(p, expected):
    assert is_significant(p) is expected


@pytest.mark.parametrize(
    ("effects", "p", "double"),
    [
        ((0.1, 0.2), 0.05, True),
        ((0.1, 0.2), 0.051, False),
        ((0.1, -0.2), 0.01, False),
        ((0.0, 0.2), 0.01, False),
        ((float("nan"), 0.2), float("nan"), False),
    ],
)
def test_a_double_dissociation_takes_two_significant_effects(effects, p, double):
    assert pair(*effects, p=p).is_double_dissociation is double


@pytest.mark.parametrize("above", [(False, False), (True, False), (False, True)])
def test_a_double_dissociation_takes_two_tasks_above_chance(above):
    strong = dataclasses.replace(pair(0.1, 0.2), above_chance=above)
    assert not strong.is_double_dissociation
    result = found(score(controls=range(-19, 0)), strong, above_chance=above)
    assert result.verdict().endswith("above chance: no pair can be called one.")


def test_only_the_corrected_p_decides_on_a_pair():
    unknown = (0.0, 1.0), (0.0, 1.0)
    verdict = PairVerdict("a", "b", (0.1, 0.1), unknown, (0.001, 0.03), 0.09, 0.01, 0.01, 99)
    assert not verdict.is_double_dissociation


@pytest.mark.parametrize(("p", "double"), [(0.05, True), (0.051, False), (float("nan"), False)])
def test_a_double_dissociation_stands_out_from_exchanged_heads(p, double):
    assert pair(0.1, 0.2, p_controls=p).is_double_dissociation is double


def test_pairs_are_compared_with_the_smaller_effect_of_each_replicate():
    """One p for each pair, by the definition written out; a tie counts as reached."""
    generator = np.random.default_rng(5)
    scores, replicates = generator.random((3, 3)), generator.random((7, 3, 3))
    replicates[2] = scores
    pairs = ((0, 1), (0, 2), (1, 2))

    def effects(m, i, j):
        return effects_of_two(m[..., [[i], [j]], [i, j]])

    found_p, corrected = p_of_pairs(
        [PairEffects(effects(scores, *pair), effects(replicates, *pair)) for pair in pairs]
    )
    expected = []
    for i, j in pairs:

        def smaller(m, i=i, j=j):
            return min(m[j, i] - m[i, i], m[i, j] - m[j, j])

        reached = sum(smaller(each) >= smaller(scores) for each in replicates)
        expected.append((1 + reached) / 8)
    assert found_p.tolist() == expected
    assert corrected.tolist() == holm(np.array(expected)).tolist()
    assert np.isnan(p_of_pairs([PairEffects(np.ones(2), np.empty((0, 2)))])).all()
