"""Exchanged lesions: what every deal keeps, and that all deals are equally likely."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lobes.dissociation.exchange import Exchange
from lobes.errors import ConfigError
from lobes.heads import HeadSet


def lesions(*heads):
    return tuple(HeadSet((0, head) for head in some) for some in heads)


def shape(exchange):
    """What every replicate keeps: the sizes, and in how many lesions each head is, by fraction."""
    return {
        fraction: ([len(one) for one in sets], Counter(head for one in sets for head in one))
        for fraction, sets in exchange.items()
    }


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda tasks: st.lists(
            st.lists(st.sets(st.integers(0, 12)), min_size=tasks, max_size=tasks),
            min_size=1,
            max_size=3,
        )
    ),
    st.integers(0, 99),
)
def test_a_replicate_keeps_sizes_and_multiplicities(heads, seed):
    found = {0.1 * (n + 1): lesions(*some) for n, some in enumerate(heads)}
    exchange = Exchange(found)
    for number in range(3):
        assert shape(exchange.replicate(number, seed)) == shape(found)
    assert exchange.replicate(1, seed) == exchange.replicate(1, seed)


def every_deal(sets):
    """Every deal of one fraction: all ways to choose owners for each head that keep the margins."""
    wanted = shape({0: sets})[0]
    heads = sorted(wanted[1])
    choices = [
        [c for c in product((0, 1), repeat=len(sets)) if sum(c) == wanted[1][head]]
        for head in heads
    ]
    found = set()
    for owned in product(*choices):
        dealt = tuple(
            HeadSet(head for head, row in zip(heads, owned, strict=True) if row[task])
            for task in range(len(sets))
        )
        if [len(one) for one in dealt] == wanted[0]:
            found.add(dealt)
    return found


@pytest.mark.parametrize(
    ("sets", "number"),
    [
        (lesions({0, 1, 2, 7}, {3, 4, 7}), 10),
        (lesions({0, 1, 2}, {2, 3, 4}, {4, 5, 0}), 93),
        (lesions({0, 1}, {1, 2}, {2, 3}, {3}), 51),
    ],
)
def test_every_deal_is_equally_likely(sets, number):
    every = every_deal(sets)
    exchange = Exchange({0.3: sets})
    assert len(every) == number
    if len(sets) == 2:
        assert exchange.deals() == number
    # seeds, not numbers: the replicates of one seed are exchangeable with each other and with the
    # observed deal, and so are not independent
    drawn = Counter(exchange.replicate(0, seed)[0.3] for seed in range(6 * len(every)))
    assert set(drawn) == every
    counts = [drawn[deal] for deal in every]
    assert stats.chisquare(counts).pvalue > 0.001


def test_fractions_are_exchanged_together():
    small, large = lesions({0, 1}, {2}), lesions({0, 1, 3, 5}, {2, 4, 6, 5})
    exchange = Exchange({0.1: small, 0.3: large})
    for number in range(20):
        dealt = exchange.replicate(number, 0)
        for task in range(2):  # a lesion holds those of smaller fractions, as before
            assert dealt[0.1][task] <= dealt[0.3][task]
        assert {(0, 0), (0, 1), (0, 2)} == set().union(*dealt[0.1])
    assert (exchange.movable(0.1), exchange.movable(0.3)) == (3, 6)
    assert exchange.deals() == 3 * 3


def test_lesions_that_are_the_same_have_one_deal():
    same = lesions({0, 1}, {0, 1})
    exchange = Exchange({0.2: same})
    assert exchange.movable(0.2) == 0
    assert exchange.deals() == 1
    assert exchange.replicate(5, 3) == {0.2: same}


@pytest.mark.parametrize("wrong", [{}, {0.1: lesions({0})}, {0.1: lesions({0}, {1}), 0.2: ()}])
def test_fewer_than_two_tasks_are_refused(wrong):
    with pytest.raises(ConfigError, match="two or more tasks"):
        Exchange(wrong)
