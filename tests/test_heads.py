"""Heads as values: sets, layouts and scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobes.errors import ConfigError, HeadError
from lobes.heads import (
    HeadLayout,
    HeadScores,
    HeadSet,
    OwnedRows,
    Site,
    check_fractions,
    head_count,
)

LAYOUT = HeadLayout(
    tuple(
        Site(i, f"layer.{i}.attention", f"layer.{i}.attention.output", n, 3, "self")
        for i, n in enumerate((5, 2, 7))
    )
)
heads = st.tuples(st.integers(0, 4), st.integers(0, 6))
head_sets = st.lists(heads, max_size=11).map(HeadSet)
scores = st.lists(st.floats(-9, 9), min_size=14, max_size=14).map(
    lambda values: HeadScores(padded(values))
)


def padded(values):
    table = np.full((3, 7), np.nan)
    for (site, head), value in zip(LAYOUT, values, strict=True):
        table[site, head] = value
    return table


@given(head_sets)
def test_parse_reads_what_str_writes(one):
    assert HeadSet.parse(str(one)) == one
    assert eval(repr(one)) == one
    assert hash(HeadSet(reversed(one.heads))) == hash(one)


@given(head_sets, head_sets)
def test_operators_are_those_of_sets(one, other):
    for result, expected in (
        (one | other, set(one) | set(other)),
        (one & other, set(one) & set(other)),
        (one - other, set(one) - set(other)),
        (one ^ other, set(one) ^ set(other)),
    ):
        assert result.heads == tuple(sorted(expected))
    assert (one <= other) == (set(one) <= set(other))
    assert sum(one.counts().values()) == len(one)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("0:1,x", "'0:1,x'"),
        ("3", "'3'"),
        ("0:1 2:", "'2:'"),
        ("-1:2", "'-1:2'"),
        ("0:1;1:2", "1;1"),
    ],
)
def test_parse_names_what_it_cannot_read(text, part):
    with pytest.raises(HeadError, match="expected SITE:HEAD") as caught:
        HeadSet.parse(text)
    assert part in str(caught.value)


@pytest.mark.parametrize("pair", [(0.5, 1), (-1, 0), "ab", 3, (1, 2, 3), (None, 1)])
def test_a_head_is_a_pair_of_integers(pair):
    with pytest.raises(HeadError, match="is not a head"):
        HeadSet([pair])


def test_layout_names_the_first_head_that_does_not_exist():
    assert LAYOUT.check(HeadSet.parse("0:4 2:6")) == HeadSet.parse("0:4 2:6")
    with pytest.raises(HeadError) as caught:
        LAYOUT.check(HeadSet.parse("0:1 1:2"))
    assert str(caught.value) == (
        "Head 1:2 does not exist: site 1 (layer.1.attention) has 2 heads, 0 to 1."
    )
    with pytest.raises(
        HeadError, match=r"^Head 3:0 does not exist: the model has 3 sites, 0 to 2\.$"
    ):
        LAYOUT.check(HeadSet([(3, 0)]))


def test_layout_counts_its_heads():
    assert LAYOUT.total == len(LAYOUT.all_heads()) == 14
    assert LAYOUT.shape == (3, 7)
    assert (1, 1) in LAYOUT
    assert (1, 2) not in LAYOUT


@given(st.integers(0, 2**32), st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 7)))
def test_random_heads_match_the_counts(seed, counts):
    wanted = {site: count for site, count in enumerate(counts) if count}
    drawn = LAYOUT.random(wanted, np.random.default_rng(seed))
    assert drawn.counts() == wanted
    assert LAYOUT.check(drawn) == LAYOUT.random(wanted, np.random.default_rng(seed))
    assert len(LAYOUT.random(sum(counts), np.random.default_rng(seed))) == sum(counts)


def test_random_heads_are_all_equally_likely():
    generator = np.random.default_rng(0)
    drawn = [head for _ in range(2000) for head in LAYOUT.random(3, generator)]
    counts = np.array([drawn.count(head) for head in LAYOUT])
    assert abs(counts / 2000 - 3 / 14).max() < 0.05


@given(scores, st.integers(0, 14))
def test_top_and_bottom_take_the_floor_of_the_fraction(given_scores, number):
    top, bottom = given_scores.top(number / 14), given_scores.bottom(number / 14)
    assert len(top) == len(bottom) == number
    rest = LAYOUT.all_heads() - top
    if top and rest:
        assert min(given_scores[h] for h in top) >= max(given_scores[h] for h in rest)
    assert given_scores.top((number + 0.5) / 14 if number < 14 else 1.0) == top


def test_ties_are_broken_by_site_and_head():
    tied = HeadScores(padded([1.0] * 14))
    assert tied.ranked() == tied.ranked("ascending") == list(LAYOUT)
    assert tied.top(3 / 14) == tied.bottom(3 / 14) == HeadSet.parse("0:0,1,2")


@pytest.mark.parametrize(
    ("fraction", "total", "number"), [(0.3, 10, 3), (0.1, 72, 7), (0.7, 10, 7)]
)
def test_head_count_survives_binary_fractions(fraction, total, number):
    assert head_count(fraction, total) == number


def test_heads_kept_in_each_site_are_replaced_by_the_next():
    values = HeadScores(padded([9, 8, 7, 6, 5, 20, 19, 4, 3, 2, 1, 0, -1, -2]))
    assert values.top(3 / 14) == HeadSet.parse("0:0 1:0,1")
    assert values.top(3 / 14, keep_per_site=1) == HeadSet.parse("0:0,1 1:0")
    with pytest.raises(ConfigError, match="Cannot choose 14 of 14 heads and keep 1 in each of 3"):
        values.top(1.0, keep_per_site=1)


def test_select_counts_given_heads_in():
    values = HeadScores(padded(range(14)))
    chosen = values.select(3 / 14, given=HeadSet([(0, 0)]))
    assert chosen == HeadSet.parse("0:0 2:5,6")


def test_layer_normalisation_divides_by_the_norm_of_a_site():
    values = HeadScores(padded([3, 4, 0, 0, 0, 0, 0, *range(7)]))
    normal = values.normalized()
    np.testing.assert_allclose(np.sqrt(np.nansum(normal.values**2, axis=1)), [1, 0, 1])
    np.testing.assert_allclose(normal.values[0, :5], [0.6, 0.8, 0, 0, 0])
    assert normal.settings["normalize"] == "layer"


def test_scores_are_frozen_and_checked():
    values = HeadScores(padded(range(14)))
    with pytest.raises(ValueError, match="read-only"):
        values.values[0, 0] = 1
    with pytest.raises(HeadError, match="NaN only after the last head"):
        HeadScores(np.array([[np.nan, 1.0]]))
    with pytest.raises(HeadError, match="finite"):
        HeadScores(np.array([[np.inf, 1.0]]))


@pytest.mark.parametrize("fractions", [[0.0], [1.5], [30], [], [0.2, 0.2], [float("nan")]])
def test_fractions_that_cannot_be(fractions):
    with pytest.raises(ConfigError):
        check_fractions(fractions)
    assert check_fractions([0.4, 0.2]) == (0.2, 0.4)


def test_owned_rows_joins_ranges():
    rows = OwnedRows("w", 0, (((0, 2), (6, 8)), ()))
    assert rows.rows(0).tolist() == [0, 1, 6, 7]
    assert rows.rows(1).tolist() == []
