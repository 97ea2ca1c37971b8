"""Plans as data, and the arithmetic of slots."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lobes import HeadSet, find_heads, prune
from lobes.errors import ModelError
from lobes.pruning.kept_rows import Unfit, anatomy, arrangements, kept_rows, new_length, plain_rows
from lobes.pruning.plan import KEY, PAD, Plan, entries, plans_of, runs, store
from lobes.sites import OwnedRows, Site
from tiny_models import tiny_model


@given(st.lists(st.integers(PAD, 12)))
def test_runs_hold_every_entry(indices):
    kept = runs(indices)
    assert entries(kept).tolist() == indices
    assert sum(length for _, length in kept) == len(indices)
    # as few as can be: no run continues the one before it
    for (first, length), (following, _) in pairwise(kept):
        assert following != (PAD if first == PAD else first + length)


def grouped_site(n_heads: int, group: int, width: int = 2) -> tuple[Site, dict[str, int]]:
    """A site whose heads own `width` rows of q each, and of k and v in groups."""
    own = tuple(((h * width, (h + 1) * width),) for h in range(n_heads))
    shared = tuple(((h // group * width, (h // group + 1) * width),) for h in range(n_heads))
    rows = tuple(OwnedRows(name, 0, own if name == "q" else shared) for name in "qkv")
    lengths = {"q": n_heads * width, "k": n_heads // group * width, "v": n_heads // group * width}
    return Site(0, "site", "out", n_heads, width, "self", rows), lengths


@given(st.sampled_from([1, 2, 3, 4, 6, 12]), st.sets(st.integers(0, 11), min_size=1, max_size=11))
def test_every_arrangement_holds_the_kept_heads_in_their_groups(group, gone):
    site, lengths = grouped_site(12, group)
    body = anatomy(site, lengths)
    kept = [head for head in range(12) if head not in gone]
    found = list(arrangements(body, kept, 4, 4))
    assert found
    sizes = []
    for way in found:
        assert sorted(slot for slot in way.slots if slot != PAD) == kept
        if way.held is not None:
            assert sorted(way.held) == list(way.held)
            assert all(slot in (PAD, held) for slot, held in zip(way.slots, way.held, strict=True))
            for rows in body.rows:
                places = plain_rows(rows, way)
                assert len(places) == new_length(rows, body, way)
                owned = rows.owners[kept].any(0)
                assert set(places[places != PAD]) <= set(np.flatnonzero(owned))
        if body.shares:
            for start in range(0, len(way.slots), way.per_group):
                members = [s for s in way.slots[start : start + way.per_group] if s != PAD]
                assert len({member // group for member in members}) == 1
        groups = way.n_groups if body.shares else 0
        sizes.append(4 * len(way.slots) + 4 * groups)
        assert new_length(body.rows[0], body, way) == 2 * len(way.slots)
    assert sizes == sorted(sizes)
    assert sizes[0] <= 48 + (4 * len(body.groups) if body.shares else 0)


def test_rows_shared_by_all_heads_stay():
    site, lengths = grouped_site(4, 4)
    body = anatomy(site, lengths)
    assert not body.shares
    q, k, _ = body.rows
    assert kept_rows(q, [1, 3]).tolist() == [2, 3, 6, 7]
    assert kept_rows(k, [1, 3]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("ranges", "say"),
    [
        ((((0, 2),), ((2, 5),)), "different numbers of rows"),
        ((((0, 2),), ((0, 2),), ((2, 4),)), "different numbers of rows"),
        ((((0, 2), (6, 7)), ((0, 2), (7, 8)), ((2, 4), (8, 9))), "different numbers of rows"),
        ((((0, 4),), ((2, 6),), ((0, 2), (4, 6))), "groups that overlap or differ"),
    ],
)
def test_rows_that_cannot_be_cut_are_named(ranges, say):
    site = Site(0, "site", "out", len(ranges), 2, "self", (OwnedRows("q", 0, ranges),))
    with pytest.raises(Unfit, match=say):
        anatomy(site, {"q": 9})


@pytest.mark.parametrize("name", ["llama", "t5", "olmo2", "mpnet"])
def test_a_plan_is_the_same_after_json(name):
    model = tiny_model(name)
    heads = HeadSet((site.index, 1) for site in find_heads(model).sites)
    smaller = prune(model, heads)
    (plan,) = plans_of(smaller.config)
    assert plan.heads == str(heads)
    assert plan.model_class == type(model).__name__
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    again = plan.renamed(lambda path: f"model.{path}").renamed(lambda path: path[6:])
    assert again == plan


class Config:
    """A configuration with nothing in it."""


@pytest.mark.parametrize("stored", [3, [], {"version": 1}, {"version": 1, "steps": [{}]}, {}])
def test_a_damaged_plan_is_named(stored):
    config = Config()
    setattr(config, KEY, stored)
    with pytest.raises(ModelError, match="does not say how the model was pruned"):
        plans_of(config)


def test_plans_are_kept_in_order():
    config = Config()
    assert plans_of(config) == []
    plans = [Plan("A", "0:1", ()), Plan("A", "1:2", ())]
    store(config, plans)
    assert plans_of(config) == plans
    assert np.array_equal(entries(()), np.arange(0))
