"""Heads as values: sets, layouts and scores."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lobes.discovery import find_heads
from lobes.errors import ConfigError, HeadError
from lobes.heads import HeadLayout, HeadSet
from lobes.scores import HeadScores, check_fractions, head_count, least_fraction
from lobes.sites import OwnedRows, Site
from tiny_models import tiny_model

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
    for (site, head), value in zip(LAYOUT.all_heads(), values, strict=True):
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
    counts = np.array([drawn.count(head) for head in LAYOUT.all_heads()])
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
    assert tied.ranked() == tied.ranked("ascending") == list(LAYOUT.all_heads())
    assert tied.top(3 / 14) == tied.bottom(3 / 14) == HeadSet.parse("0:0,1,2")


@pytest.mark.parametrize(
    ("fraction", "total", "number"), [(0.3, 10, 3), (0.1, 72, 7), (0.7, 10, 7)]
)
def test_head_count_survives_binary_fractions(fraction, total, number):
    assert head_count(fraction, total) == number


def test_the_least_fraction_that_is_advised_is_one_head():
    assert [least_fraction(n) for n in (1, 10, 12, 144)] == ["1", "0.1", "0.0834", "0.00695"]
    for total in range(1, 2000):
        least = float(least_fraction(total))
        assert head_count(least, total) == 1
        assert least * total < 1.011  # no more than rounding asks for


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


def test_a_layout_is_a_sequence_of_its_sites():
    assert len(LAYOUT) == 3
    assert LAYOUT[1] is LAYOUT.sites[1]
    assert LAYOUT[-1].n_heads == 7
    assert [site.index for site in LAYOUT] == [0, 1, 2]
    assert LAYOUT[2] in LAYOUT


def test_values_print_in_one_short_line():
    assert repr(LAYOUT) == (
        "HeadLayout(3 sites, 14 heads: 1 × 5 heads of 3, 1 × 2 heads of 3, 1 × 7 heads of 3)"
    )
    assert repr(LAYOUT[0]) == "Site(0, 'layer.0.attention', 5 heads of 3)"
    found = HeadScores(padded(range(14)), {"task": "mood", "method": "taylor", "split": "train"})
    assert repr(found) == ("HeadScores(task='mood', method='taylor', 3 × 7, highest 2:6, 2:5, 2:4)")


@given(scores, st.integers(0, 14))
def test_so_many_heads_are_the_first_in_the_order(one, k):
    assert one.top(k=k) == HeadSet(one.ranked()[:k])
    assert one.bottom(k=k) == HeadSet(one.ranked("ascending")[:k])


@pytest.mark.parametrize(
    "wrong", [{}, {"fraction": 0.3, "k": 2}, {"k": 15}, {"k": -1}, {"k": True}]
)
def test_either_a_share_or_a_number_of_heads_is_chosen(wrong):
    with pytest.raises(ConfigError, match=r"top\(k=10\)|from 0 to 14, not"):
        HeadScores(padded(range(14))).top(**wrong)


@given(scores)
def test_scores_come_back_from_their_file(one):
    one = HeadScores(one.values, {"task": "mood", "examples": 7}, np.stack([one.values] * 2))
    with tempfile.TemporaryDirectory() as folder:
        one.save(Path(folder, "scores.json"))
        found = HeadScores.load(Path(folder, "scores.json"))
    np.testing.assert_array_equal(found.values, one.values)
    np.testing.assert_array_equal(found.halves, one.halves)
    assert found.settings == one.settings


def test_what_holds_no_scores_is_refused(tmp_path):
    path = tmp_path / "scores.json"
    HeadScores(padded(range(14))).save(path)
    with pytest.raises(HeadError, match=r"no file .*scores\.jsn\. Did you mean .*scores\.json\?"):
        HeadScores.load(tmp_path / "scores.jsn")
    whole = path.read_text(encoding="utf-8")
    for bad in (whole[:-9], whole.replace("6.0", "6.5", 1), "[]", '{"values": [[1]]}'):
        path.write_text(bad, encoding="utf-8")
        with pytest.raises(HeadError, match="holds no scores of heads"):
            HeadScores.load(path)
    opening = '{"schema": "lobes-head-scores", "version": 1, '
    for bad in ('"values": "x"}', '"values": [[null, 1]]}', '"values": [[1]], "halves": [[1]]}'):
        path.write_text(opening + bad, encoding="utf-8")
        with pytest.raises(HeadError, match="is damaged"):
            HeadScores.load(path)


def test_layer_normalization_divides_by_the_norm_of_a_site():
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
    for bad in ([[np.inf, 1.0]], np.empty((0, 3)), np.empty((3, 0))):
        with pytest.raises(HeadError, match="finite numbers, one or more at each site"):
            HeadScores(np.array(bad))


@pytest.mark.parametrize("path", ["", "a\0b", "n" * 300])
def test_a_path_that_no_file_has_is_refused_in_one_sentence(path):
    one = HeadScores(np.ones((2, 3)))
    for call in (one.save, HeadScores.load):
        with pytest.raises((ConfigError, HeadError)):
            call(path)


@pytest.mark.parametrize("setting", [object(), {1, 2}, "\udcff"])
def test_settings_that_json_cannot_hold_are_refused(setting, tmp_path):
    with pytest.raises(HeadError, match="The settings of scores that are saved are texts"):
        HeadScores(np.ones((2, 3)), {"x": setting}).save(tmp_path / "scores.json")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("fractions", [[0.0], [1.5], [30], [], [0.2, 0.2], [float("nan")]])
def test_fractions_that_cannot_be(fractions):
    with pytest.raises(ConfigError):
        check_fractions(fractions)
    assert check_fractions([0.4, 0.2]) == (0.2, 0.4)


def deepseek():
    """A tiny model with multi-head latent attention, whose experts are left out."""
    config = transformers.DeepseekV3Config(
        vocab_size=61,
        hidden_size=22,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=6,
        intermediate_size=34,
        first_k_dense_replace=2,
        kv_lora_rank=7,
        q_lora_rank=9,
        qk_rope_head_dim=4,
        qk_nope_head_dim=3,
        v_head_dim=5,
        max_position_embeddings=64,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModel.from_config(config).eval()


def alone(n_heads):
    return tuple((head,) for head in range(n_heads))


PAIRS = ((0, 1), (2, 3), (4, 5))


@pytest.mark.parametrize(
    ("name", "attention", "groups"),
    [
        ("bert", "multi-head", alone(5)),
        ("gpt2", "multi-head", alone(5)),
        ("gpt_neox", "multi-head", alone(5)),
        ("deberta-v2", "multi-head", alone(5)),
        ("llama", "grouped-query", PAIRS),
        ("phi3", "grouped-query", PAIRS),
        ("olmo2", "grouped-query", PAIRS),  # also has a norm across heads
        ("falcon", "multi-query", (tuple(range(5)),)),
        ("deepseek_v3", "low-rank", alone(6)),
    ],
)
def test_the_kind_of_attention_is_told_by_the_rows(name, attention, groups):
    model = deepseek() if name == "deepseek_v3" else tiny_model(name)
    for site in find_heads(model).sites:
        assert (site.attention, site.groups) == (attention, groups)


def test_a_norm_across_heads_is_no_kind_of_attention():
    def weight(name, *ranges):
        return OwnedRows(name, 0, tuple((one,) for one in ranges))

    normed = [weight(name, *[(0, 15)] * 5) for name in ("query", "key")]
    value = weight("value", *((3 * head, 3 * head + 3) for head in range(5)))
    site = Site(0, "attention", "output", 5, 3, "self", (*normed, value))
    assert (site.attention, site.groups) == ("multi-head", alone(5))
    assert Site(0, "attention", "output", 5, 3, "self").attention == "unknown"
    one = Site(0, "attention", "output", 1, 3, "self", (weight("value", (0, 3)),))
    assert (one.attention, one.groups) == ("multi-head", ((0,),))


def test_owned_rows_joins_ranges():
    rows = OwnedRows("w", 0, (((0, 2), (6, 8)), ()))
    assert rows.rows(0).tolist() == [0, 1, 6, 7]
    assert rows.rows(1).tolist() == []
    assert rows.owners().tolist() == [
        [True, True, False, False, False, False, True, True],
        [False] * 8,
    ]


def test_reliability_is_that_of_halves_stepped_up():
    generator = np.random.default_rng(5)
    halves = np.stack([padded(generator.integers(0, 9, 14)) for _ in range(2)]).astype(float)
    halves[1] += halves[0]
    found = HeadScores(halves.mean(axis=0), halves=halves)
    known = ~np.isnan(halves[0])
    r = stats.spearmanr(halves[0][known], halves[1][known]).statistic
    assert r > 0
    assert found.reliability == pytest.approx(2 * r / (1 + r))
    assert HeadScores(halves[0], halves=halves[[0, 0]]).reliability == pytest.approx(1)
    opposed = HeadScores(halves[0], halves=np.stack([halves[0], -halves[0]]))
    assert opposed.reliability == pytest.approx(-1)  # not stepped up
    flat = HeadScores(halves[0], halves=np.stack([halves[0], 0 * halves[0]]))
    assert np.isnan(flat.reliability)
    assert np.isnan(HeadScores(halves[0]).reliability)
    with pytest.raises(HeadError, match=r"have the shape \[2, sites, heads\] and numbers"):
        HeadScores(halves[0], halves=np.nan_to_num(halves))


def test_a_head_mask_keeps_where_it_is_one():
    mask = np.ones((2, 5))
    mask[0, 1] = mask[1, 3] = 0
    heads = HeadSet.parse("0:1 1:3")
    layout = find_heads(tiny_model("bert"))
    for one in (mask, mask.tolist(), mask == 1, torch.tensor(mask), torch.tensor(mask).long()):
        assert HeadSet.from_head_mask(one) == HeadSet.from_head_mask(one, layout) == heads
    assert HeadSet.from_head_mask([1, 0, 1, 1, 1], layout) == HeadSet([(0, 1), (1, 1)])
    with pytest.raises(HeadError, match=r"shape \[5\] does not fit: .* give the layout"):
        HeadSet.from_head_mask([1, 0, 1, 1, 1])
    with pytest.raises(HeadError, match=r"shape \[2, 3\] does not fit: expected \[2, 5\]"):
        HeadSet.from_head_mask(mask[:, :3], layout)
    assert HeadSet.from_head_mask(torch.tensor(mask).bfloat16()) == heads
    for wrong in (mask / 2, [[1, 0], [1]], torch.ones(2, 5, device="meta"), None):
        with pytest.raises(HeadError, match=r"is no head_mask: .*factors=mask\) takes other num"):
            HeadSet.from_head_mask(wrong)
