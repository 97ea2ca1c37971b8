"""The page of one run: what it says, that its numbers are those of the results, its soundness."""

import copy
import math
import os
import re
import subprocess
import sys
from itertools import zip_longest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_results import HOSTILE, fake_results, renewed
from lobes.errors import RunError
from lobes.experiments.reports import report_again
from lobes.files import to_json
from lobes.heads import HeadSet
from lobes.report import formatting as fmt
from lobes.report import phrases, sections
from lobes.report.tables import MOST_PAIRS, cell_of
from lobes.results import RunResults, checked
from lobes.results.base import TaskRecord
from lobes.scores import HeadScores
from pages import Page, as_number, visible
from run_pages import findings_of, printed, run_html, run_page, table_of, texts_of

CASES = {
    "planted": {"controls": 23},
    "few controls": {"controls": 7},
    "null": {"effect": 0.0, "controls": 23, "training": False},
    "one task": {"tasks": 1},
    "no controls": {"controls": 0},
    "hostile": {"tasks": HOSTILE, "sites": (7, 5, 11), "controls": 19},
    "twelve tasks": {"tasks": 12, "sites": (16,) * 24, "controls": 29, "iat": True},
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    results = fake_results(**CASES[request.param])
    text = run_html(results)
    return results, text, Page(text)


@pytest.fixture(scope="module")
def planted():
    results = fake_results(**CASES["planted"])
    return results, Page(run_html(results))


# --- names and sizes ---------------------------------------------------------------------------


def test_hostile_names_are_text_everywhere():
    page = Page(run_html(fake_results(**CASES["hostile"])))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    shown = [e["text"] for e in page.all("bdi")]
    assert HOSTILE[0] in shown
    assert HOSTILE[1] in shown
    assert "a&b<c\ufffd\ufffd[31m" in shown
    assert {table["data-task"] for table in page.all("table", **{"class": "heat"})} >= {HOSTILE[0]}


def test_hostile_settings_are_text_everywhere():
    results = fake_results()
    results["config"] = {"<b>": ["</style><img>", {"x": "<i>"}], "\ud800": "\x00"}
    results["name"] = "</title><img>"
    results["model"]["name"] = "<img>"
    results["model"]["sites"][0]["name"] = '"><img>'
    results["fractions"][-1]["dissociation"]["row"]["note"] = "<img>"
    results["created"] = '"><img>'
    page = run_html(results)
    assert "<img>" not in page
    page.encode("utf-8")


def test_a_page_of_twelve_tasks_stays_small():
    assert len(run_html(fake_results(**CASES["twelve tasks"]))) < 1_000_000


def test_every_fraction_has_its_panels_and_the_largest_is_chosen(planted):
    _, page = planted
    radios = page.all("input", name="fraction")
    assert [radio["id"] for radio in radios] == ["fraction-0", "fraction-1", "fraction-2"]
    assert [radio for radio in radios if "checked" in radio] == [radios[-1]]
    for index in range(3):
        assert len(page.all("div", **{"class": f"fraction only-{index}"})) == 4


# --- the numbers are those of the results --------------------------------------------------------


def test_base_scores(planted):
    results, page = planted
    for task, row in zip(results["tasks"], page.table("base-caption"), strict=True):
        name, metric, base, interval, chance, above, share, _, n_validation, n_train = row
        assert name == task["name"]
        assert metric.startswith(task["metric"])
        assert as_number(base) == pytest.approx(task["base"], abs=5e-4)
        ends = [as_number(end) for end in interval.split(" to ")]
        assert ends == pytest.approx(task["base_interval"], abs=5e-4)
        assert as_number(chance) == pytest.approx(task["chance"], abs=5e-4)
        assert as_number(above) == pytest.approx(task["base"] - task["chance"], abs=5e-4)
        expected = 100 * (task["base"] - task["chance"]) / (1 - task["chance"])
        assert as_number(share) == pytest.approx(expected, abs=0.5)
        assert as_number(n_validation) == task["n_validation"]
        assert as_number(n_train) == task["n_train"]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_lesion_matrices(planted, index):
    results, page = planted
    entry = results["fractions"][index]
    bases = [task["base"] for task in results["tasks"]]
    raw, change = page.table(f"raw-{index}"), page.table(f"change-{index}")
    assert [row[0] for row in raw] == [
        "nothing (base)",
        *(task["name"] for task in results["tasks"]),
        "random heads (mean)",
    ]
    random = np.array(entry["random_scores"]).mean(axis=(0, 1))
    expected = [bases, *entry["scores"], random]
    own = [[task["base_interval"] for task in results["tasks"]], *entry["score_intervals"]]
    for texts, changes, scores, intervals in zip_longest(raw, change, expected, own):
        rows = zip_longest(texts[1:], changes[1:], scores, bases, intervals or ())
        for shown, shift, score, base, interval in rows:
            text, _, ends = shown.partition(" ")
            assert as_number(text.rstrip("▾")) == pytest.approx(score, abs=5.1e-4)
            assert as_number(shift) == pytest.approx(100 * (score - base) / base, abs=0.051)
            assert bool(ends) == (interval is not None), "random lesions have none of their own"


def test_own_lesions_and_lowest_scores_are_marked(planted):
    results, page = planted
    table = next(t for t in page.all("table") if t["children"][0]["id"] == "raw-2-caption")
    rows = table["children"][2]["children"][1:-1]
    scores = results["fractions"][2]["scores"]
    for i, row in enumerate(rows):
        for j, cell in enumerate(row["children"][1:]):
            assert ("own" in cell["class"].split()) == (i == j)
            lowest = scores[i][j] == min(line[j] for line in scores)
            assert ("lowest of its column" in cell["text"]) == lowest


def test_no_score_is_marked_lowest_where_all_are_equal():
    results = fake_results(tasks=2)
    results["fractions"][-1]["scores"] = [[0.5, 0.6], [0.5, 0.7]]
    rows = table_of(run_page(results), "raw-2").rows
    scores = [row.cells[1::2] for row in rows[1:3]]
    assert [["lowest" in cell_of(cell).marks for cell in row] for row in scores] == [
        [False, True],
        [False, False],
    ]


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_d_scores(planted, index, place):
    results, page = planted
    data = results["fractions"][index]["dissociation"][("column", "row", "relative")[place]]
    rows = page.table(f"scores-{index}-{place}")
    assert [row[0] for row in rows] == ["all tasks", *(task["name"] for task in results["tasks"])]
    values = [data["mean"], *data["values"]]
    intervals = [data["mean_interval"], *data["interval"]]
    controls = [data["control_means"], *zip(*data["control_values"], strict=True)]
    p_values = [data["mean_p"], *data["p_values"]]
    for k, (_, value, interval, spread, distance, p) in enumerate(rows):
        assert as_number(value) == pytest.approx(values[k], abs=0.051)
        ends = [as_number(end) for end in interval.split(" to ")]
        assert ends == pytest.approx(intervals[k], abs=0.051)
        ends = [as_number(end) for end in spread.split(" to ")]
        assert ends == pytest.approx([min(controls[k]), max(controls[k])], abs=0.051)
        assert as_number(p) == pytest.approx(p_values[k], abs=5.1e-4)
        distances = [data["mean_standardized"], *data["standardized"]]
        assert as_number(distance) == pytest.approx(distances[k], abs=0.051)


def test_every_fraction_is_compared_with_exchanges_and_with_random_lesions(planted):
    results, page = planted
    rows = [row for row in page.table("across") if row[0] == "column"]
    *fractions, over = rows
    for row, entry in zip(fractions, results["fractions"], strict=True):
        data = entry["dissociation"]["column"]
        assert row[1] == fmt.percent(entry["fraction"])
        assert as_number(row[2]) == pytest.approx(data["mean"], abs=0.051)
        against = [data[f"{name}standardized"] for name in ("mean_", "random_")]
        assert [as_number(row[k]) for k in (4, 7)] == pytest.approx(against, abs=0.051)
        assert row[5:7] == [fmt.p_value(data["mean_p"]), str(entry["exchangeable"])]
        assert row[8] == fmt.p_value(data["random_p"])
    test = results["over_fractions"]
    assert over[1:4] == ["all fractions", "–", "–"]
    assert as_number(over[4]) == pytest.approx(max(test["standardized"]), abs=0.051)
    assert over[5:] == [fmt.p_value(test["p"]), "21", "–", "–"]


def test_pairs(planted):
    results, page = planted
    pairs, number = (results["fractions"][0][key] for key in ("pairs", "n_pair_controls"))
    for row, pair in zip(page.table("pairs-0"), pairs, strict=True):
        assert row[:2] == [pair["first"], pair["second"]]
        effects = [as_number(row[2]), as_number(row[4])]
        assert effects == pytest.approx(pair["effects"], abs=5.1e-4)
        lacking = number < 20 * len(pairs) - 1
        double = "yes" if pair["double_dissociation"] else "not shown"
        keys = ("p_holm", "p_controls", "p_controls_holm")
        p_holm, p, corrected = (fmt.p_value(pair[key]) for key in keys)
        exchange = f"{p} Holm\u00a0{corrected}"
        assert row[6:] == [p_holm, exchange, "too few exchanges" if lacking else double]


def test_pairs_that_were_exchanged_at_the_largest_fraction_only_say_so():
    results = fake_results(controls=59)
    for entry in results["fractions"][:2]:
        entry["n_pair_controls"] = 0
        for pair in entry["pairs"]:
            pair.update(p_controls=None, p_controls_holm=None, double_dissociation=False)
    page = run_page(results)
    assert [row[-3:] for row in texts_of(table_of(page, "pairs-1"))] == [
        ["–", "–", "not tested"]
    ] * 3
    assert [row[-1] for row in texts_of(table_of(page, "pairs-2"))] == ["yes"] * 3
    assert "59 exchanges of heads between the two tasks" in table_of(page, "pairs-2").caption
    notes = Page(run_html(results)).all("p", **{"class": "note"})
    assert sum("at the largest fraction only" in note["text"] for note in notes) == 2


def test_heat_maps_of_sites_with_different_numbers_of_heads():
    sites = (5, 2, 7)
    results = fake_results(tasks=2, sites=sites, fractions=(0.2, 0.5))
    page = Page(run_html(results))
    tables_ = page.all("table", **{"class": "heat"})
    for table, entry in zip(tables_, results["importance"], strict=True):
        rows = [[math.nan if v is None else v for v in row] for row in entry["values"]]
        scores = HeadScores(np.array(rows))
        ranked = scores.ranked()
        body = table["children"][2]["children"]
        lesions = [HeadSet.parse(f["lesions"][entry["task"]]) for f in results["fractions"]]
        for s, row in enumerate(body):
            cells = row["children"][1:]
            assert len(cells) == 7
            for h, cell in enumerate(cells):
                if h >= sites[s]:
                    assert cell["class"] == "none"
                    assert "data-rank" not in cell
                    continue
                assert ranked[int(cell["data-rank"]) - 1] == (s, h)
                assert as_number(cell["data-score"]) == pytest.approx(scores[s, h], rel=6e-3)
                share = 100 * scores[s, h] / scores[ranked[0]]
                assert int(visible(cell)) == pytest.approx(share, abs=0.51)
                marks = [f"f{k}" for k, lesion in enumerate(lesions) if (s, h) in lesion]
                assert [c for c in cell["class"].split() if c[0] == "f"] == marks
                assert ("lesioned" in cell["text"]) == bool(marks)


def test_heat_map_of_scores_below_zero_is_in_percent_of_the_largest_size():
    results = fake_results(tasks=2, sites=(3,))
    results["importance"][0]["values"] = [[-0.04, 0.01, 0.02]]
    blocks = sections.blocks_of(run_page(results))
    maps = next(block for block in blocks if isinstance(block, sections.HeatMaps))
    shown = maps.maps[0]
    assert shown.largest == "0.04"
    assert [cell.text for cell in shown.rows[0]] == ["−100", "25", "50"]
    assert [cell.rank for cell in shown.rows[0]] == [3, 2, 1]
    assert [cell.shade for cell in shown.rows[0]] == [0, 17, 20]
    words = "largest in the map of either sign (below 0: without the head the loss should fall)"
    assert words in run_html(results)
    results["importance"][0]["values"] = [[0.04, 0.01, 0.02]]
    assert "of either sign" not in run_html(results)


def test_the_maps_of_many_sites_leave_room_for_the_answer_on_the_first_screen():
    results = fake_results(tasks=4, sites=(9,) * 30, fractions=(0.1,), controls=3)
    page = run_page(results)
    maps = next(f.drawing for f in sections.figures(page) if f.name == "maps")
    assert maps.height < 320
    few = run_page(fake_results(tasks=4, sites=(12,) * 12, fractions=(0.1,), controls=3))
    large = next(f.drawing for f in sections.figures(few) if f.name == "maps")
    assert maps.width == pytest.approx(large.width, rel=0.1)  # so that letters are as large


def test_the_first_screen_says_what_a_d_score_is():
    page = run_html(fake_results())
    assert (
        "D-score: how much more a task loses by its own lesion than by the lesions of others, in "
        "percent of the base score."
    ) in page


# --- the sentences -------------------------------------------------------------------------------


def changed(base=None, **column):
    """Results of a planted study of one fraction whose headline D-score is replaced."""
    results = fake_results(controls=59, bases=base, fractions=(0.3,))
    results["fractions"][-1]["dissociation"]["column"].update(column)
    return renewed(results)


def found(results):
    """What the page of these results says at its top."""
    return findings_of(run_page(results))


@pytest.mark.parametrize(
    ("results", "answer", "headline"),
    [
        (fake_results(controls=23), "yes", "Yes: over all 3 fractions, each task’s own"),
        (
            fake_results(controls=7),
            "open",
            "Inconclusive: 7 exchanges allow no p below 0.125; 19 or more can reach 0.05.",
        ),
        (fake_results(controls=0), "open", "Inconclusive: no exchanged lesions were measured"),
        (
            fake_results(controls=23, effect=0.0),
            "no",
            "No: over all 3 fractions, the D-score does not stand out from that of exchanged "
            "heads, and its interval ends below 5\u00a0%, the smallest effect of interest.",
        ),
        (
            changed(mean=4.0, mean_interval=[1.5, 6.5], mean_p=0.25),
            "open",
            "Inconclusive: the D-score does not stand out from that of exchanged heads, but its "
            "interval (up to +6.5\u00a0%) reaches 5\u00a0%, the smallest effect of interest.",
        ),
        (fake_results(tasks=1), "open", "Inconclusive: a dissociation needs at least two tasks"),
        (
            changed(mean_interval=[-0.5, 3.0]),
            "open",
            "Inconclusive: the D-score exceeds that of exchanged heads, but its interval includes "
            "0.",
        ),
        (
            changed(mean=-2.0, mean_interval=[-3.0, -1.0]),
            "no",
            "No: the other tasks’ heads matter more to the tasks than their own.",
        ),
        (
            changed(mean=None, mean_interval=[None, None], mean_p=None, note="Base near 0."),
            "open",
            "Inconclusive: the D-score is undefined here.",
        ),
        (
            changed(base=(0.53, 0.45, 0.51)),
            "open",
            "Inconclusive: no task is clearly above chance, and a dissociation needs",
        ),
        (
            changed(base=(0.846, 0.45, 0.51)),
            "open",
            "Inconclusive: only one task is clearly above chance, and a dissociation",
        ),
        (
            renewed({**fake_results(), "fractions": []}),
            "open",
            "Inconclusive: no lesions of every task",
        ),
    ],
)
def test_answer(results, answer, headline):
    said = found(results)
    assert said.answer == answer
    assert said.headline.startswith(headline)
    assert said.question.startswith(("Do the 3 tasks (sentiment, domain and dom", "Does the task"))


def spaced(sentences):
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def test_sentences_of_a_planted_study():
    results = fake_results(controls=59)
    column = results["fractions"][-1]["dissociation"]["column"]
    over, main, random, others, alone, pairs, fractions = spaced(found(results).sentences)
    assert over == (
        "Over all 3 fractions p = 0.017, up to 21 heads that can be exchanged: the important heads "
        "were dealt out to the tasks again, 59 times, at all fractions together, and the D-score "
        "that stands out most was compared with that of each deal."
    )
    assert main.startswith("At 30 % of the heads (21 heads for each task), where it stands out mo")
    assert f"is {fmt.points(column['mean'])} % (95 % interval " in main
    assert main.endswith(
        f", {column['mean_standardized']:.1f} SDs above exchanged heads; of these deals none "
        f"dissociates as much (p = 0.017, 21 heads that can be exchanged)."
    )
    assert random == (
        f"A second, weaker reading, which decides nothing: against 29 random lesions matched by "
        f"site p = 0.033, {column['random_standardized']:.1f} SDs above their mean."
    )
    assert others.startswith("By the other two definitions: row +")
    assert alone == (
        "One at a time, every task is beyond exchanged heads (p ≤ 0.05 uncorrected: a description, "
        "not a test)."
    )
    assert pairs == (
        "All 3 pairs of tasks show a double dissociation at 30 % of the heads (Holm-corrected "
        "p ≤ 0.05)."
    )
    assert fractions.startswith("At the other fractions the column D-score is +")
    assert found(results).caveats == ()


def test_the_sentences_speak_of_the_fraction_that_stands_out_most():
    results = fake_results(controls=59)
    results["fractions"][0]["dissociation"]["column"]["mean_standardized"] = 99.0
    _, main, *_, pairs, fractions = spaced(found(renewed(results)).sentences)
    assert main.startswith("At 10 % of the heads (7 heads for each task), where it stands out most")
    assert "99.0 SDs above exchanged heads" in main
    assert "at 30 % of the heads" in pairs
    assert re.search("at 20 % of the heads.*at 30 % of the heads", fractions)
    assert "D-scores of the tasks in percent at 10% of the heads" in printed(renewed(results), 200)


def test_exchanges_without_a_d_score_count_as_p_counts_them():
    results = fake_results(controls=39)
    column = results["fractions"][-1]["dissociation"]["column"]
    column["control_means"][:5] = [None] * 5
    column["mean_p"] = (1 + 5 + 2) / 40  # two of the others dissociate as much
    _, main, *_ = spaced(found(results).sentences)
    assert "of these deals 7 dissociate as much (5 of these without a D-score; p = 0.2" in main


def test_tasks_that_share_all_heads_have_nothing_to_exchange():
    results = fake_results(tasks=2, controls=39)
    for entry in results["fractions"]:
        entry["exchangeable"] = 0
        entry["lesions"] = dict.fromkeys(entry["lesions"], entry["lesions"]["domain"])
    said = found(renewed(results))
    assert said.headline.startswith("Inconclusive: the tasks share all of their important heads, ")
    assert said.caveats == (
        "The tasks share all of their important heads, so that none can be exchanged: nothing "
        "tells these tasks apart.",
    )
    assert not [each for each in said.sentences if "dealt out" in each or "One at a time" in each]
    assert not [each for each in said.sentences if "p\u00a0=" in each and "random" not in each]
    (reading,) = (p["text"] for p in Page(run_html(results)).all("p") if "Gray dots" in p["text"])
    assert "share all of their important heads" in reading


def test_a_mean_over_other_tasks_than_the_headline_names_them():
    results = fake_results(controls=23)
    names = [task["name"] for task in results["tasks"]]
    small, _, large = results["fractions"]
    small["dissociation"]["column"]["values"][0] = None
    large["dissociation"]["row"]["values"][1] = None
    *_, others, _, _, fractions = spaced(found(results).sentences)
    assert re.search(rf"row [^,]*, over {names[0]} and {names[2]} and relative \+[^,]*\.$", others)
    first, second = fractions.split("; ")
    assert first.endswith(f"at 10 % of the heads, p = 0.042, over {names[1]} and {names[2]}")
    assert "over" not in second


def test_sentences_count_controls_tasks_and_pairs():
    results = fake_results(controls=59, fractions=(0.3,))
    entry = results["fractions"][-1]
    column = entry["dissociation"]["column"]
    column["control_means"][:2] = [column["mean"], column["mean"] + 1]
    column["mean_p"] = 3 / 60
    column["p_values"] = [0.01, 0.2, None]
    (alone,) = [one for one in spaced(found(results).sentences) if one.startswith("One at a time")]
    assert "sentiment is beyond exchanged heads, 1 of 2 with a D-score (p ≤" in alone
    column["p_values"] = [0.01, 0.2, 0.3]
    entry["pairs"][0]["double_dissociation"] = False
    entry["pairs"][2]["double_dissociation"] = False
    main, _, _, alone, pairs = spaced(found(results).sentences)
    assert "dealt out to the tasks again, 59 times, and 2 dissociate as much (p = 0.050" in main
    assert alone.startswith("One at a time, sentiment is beyond exchanged heads, 1 of 3 (p ≤ 0.05 ")
    assert pairs == (
        "Of 3 pairs of tasks, 1 shows a double dissociation at 30 % of the heads (Holm-corrected "
        "p ≤ 0.05): sentiment with domain-pair."
    )


@pytest.mark.parametrize(
    ("bases", "column", "sentences"),
    [
        (
            (0.53, 0.45, 0.51),
            ["not above chance"] * 3,
            [
                "A double dissociation takes two tasks clearly above chance: no pair can be called "
                "one."
            ],
        ),
        (
            (0.846, 0.912, 0.51),
            ["yes", "not above chance", "not above chance"],
            [
                "Of 3 pairs of tasks, 1 shows a double dissociation at 30 % of the heads "
                "(Holm-corrected p ≤ 0.05): sentiment with domain.",
                "A double dissociation takes two tasks clearly above chance: no pair with "
                "domain-pair can be called one.",
            ],
        ),
    ],
)
def test_a_pair_with_a_task_near_chance_is_not_called(bases, column, sentences):
    results = fake_results(controls=59, fractions=(0.3,), bases=bases, effect=0.9)
    said = spaced(found(results).sentences)
    assert [each for each in said if "double dissociation" in each] == sentences
    assert [row[-1] for row in texts_of(table_of(run_page(results), "pairs-0"))] == column


def test_sentence_of_one_task_compares_with_random_lesions():
    results = fake_results(tasks=1, controls=11)
    (sentence,) = spaced(found(results).sentences)
    assert sentence.startswith("Ablating the 30 % of heads most important to sentiment takes its ")
    assert "5 random lesions matched by site take it to 0.8" in sentence
    assert sentence.endswith("With one task there is nothing to exchange its heads with.")


def test_a_model_trained_with_iat_is_no_evidence_of_ordinary_training():
    results = fake_results(controls=59, iat=True)
    iat, training = results["training"]["iat"], results["training"]
    (caveat,) = [each for each in spaced(found(results).caveats) if "IAT" in each]
    assert caveat.startswith(f"The last {iat['steps']:,}".replace(",", "\u202f"))
    assert f" of {training['steps']:,} training steps were IAT".replace(",", "\u202f") in caveat
    assert caveat.endswith("not about ordinary multi-task training.")
    assert "IAT" not in "".join(found(fake_results(controls=59)).caveats)


def test_caveats_name_what_weakens_the_answer():
    few = spaced(found(fake_results(controls=10)).caveats)
    assert few == [
        "10 exchanges can give no p below 0.091: set 19 controls or more to be able to reach "
        "p ≤ 0.05, 100 or more and iap.stop = false for p < 0.01.",
    ]
    (pairs,) = (each for each in found(fake_results(controls=10)).sentences if "pairs" in each)
    assert spaced([pairs]) == [
        "10 exchanges are too few to call any of 3 pairs of tasks a double dissociation: 59 or "
        "more can reach a Holm-corrected p ≤ 0.05."
    ]
    weak = found(fake_results(controls=59, bases=(0.85, 0.45, 0.3))).caveats
    assert weak[0].startswith("The model is near chance on domain: ")
    assert weak[1] == (
        "The model is below chance on domain-pair: a guess that does not look at the example would "
        "score better. Are the labels in another order?"
    )
    doubtful = fake_results(controls=59, extended=True)
    for entry, rho in zip(doubtful["agreement"], (0.3, 0.71, 0.69), strict=True):
        entry["spearman"] = rho
    assert found(doubtful).caveats[0] == (
        "The importance that chose the lesions is doubtful: its rank correlation with ablating "
        "every head by itself is below 0.7 for sentiment (0.30) and domain-pair (0.69)."
    )
    none = found(fake_results(controls=0)).caveats
    (without,) = (s for s in found(fake_results(controls=0)).sentences if "pair" in s)
    assert without.startswith("Without exchanges of heads no pair of tasks can be called a double")
    assert none == (
        "Without exchanges of the tasks’ heads nothing tells whether heads belong to tasks: set 19 "
        "controls or more.",
    )
    wide = found(changed(mean_interval=[-1.0, 2.0], note="A note.")).caveats
    assert wide[0].startswith("The interval of the headline D-score includes 0")
    assert wide[1] == "On column: A note."
    same = changed(mean_interval=[0.0, 0.0])
    same["fractions"][-1]["lesions"] |= {"sentiment": "0:1,2", "domain": "0:1,2"}
    (alike,) = (c for c in found(same).caveats if not c.startswith("The model is"))
    assert alike.startswith("The lesions of sentiment and domain are the same ")
    ascending = fake_results(controls=59)
    ascending["iap"]["order"] = "ascending"
    assert "least important heads first" in found(ascending).caveats[0]


@pytest.mark.parametrize(
    ("base", "n", "expected"),
    [
        (0.54, 2003, "near"),
        (0.56, 2003, "above"),
        (0.56, 41, "near"),
        (math.nan, 2003, "near"),
        (0.4, 2003, "below"),
    ],
)
def test_near_chance_knows_the_size_of_the_validation_set(base, n, expected):
    task = TaskRecord(name="t", metric="accuracy", labels=None, n_validation=n, chance=0.5)
    assert task.standing(base) == expected


def test_page_and_terminal_say_the_same_sentences(case):
    results, _, page = case
    findings = found(results)
    shown = printed(results, width=2000)
    said = [e["text"] for e in page.all("li") + page.all("p")]
    assert page.all("h2")[0]["text"] == findings.headline
    for sentence in (*findings.sentences, *findings.caveats):
        assert sentence in said
        assert sentence.replace("\u00a0%", "%").replace("\u00a0", " ") in shown
    assert findings.headline.replace("\u00a0%", "%").replace("\u00a0", " ") in shown


# --- the terminal --------------------------------------------------------------------------------


def test_terminal_shows_the_headline_fraction_and_reads_no_markup():
    text = printed(fake_results(tasks=("[red]a[/red]", "b\x1b[2J"), controls=19))
    assert "[red]a[/red]" in text
    assert "\x1b" not in text
    assert "Scores under lesions of 30% of the heads (21 heads)" in text
    assert "D-scores in percent (mean over tasks), against 19 exchanges of the tasks’ heads" in text
    assert text.count("all fractions") == 1
    assert text.count("all tasks") == 3


def test_terminal_of_one_task_has_no_d_scores():
    text = printed(fake_results(tasks=1))
    assert "Base scores" in text
    assert "D-scores" not in text
    assert "Inconclusive" in text


# --- reading and writing -------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    (tmp_path / "results.json").write_bytes(to_json(fake_results(), seal=True))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["fractions"].reverse(), "the fractions are not in ascending order"),
        (lambda r: r["controls"].update(sample={"x": 3}), "controls has a sample without its"),
        (
            lambda r: r["controls"].update(sample={"x": 3}, base={"x": 0.5}),
            "controls has not one value for each task",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_damage(change, message):
    results = fake_results()
    change(results)
    with pytest.raises(RunError, match=f"is damaged: {message}"):
        checked(results, RunResults)


def test_parts_that_were_not_measured_are_left_out():
    results = {**fake_results(training=False), "importance": [], "environment": {}, "times": {}}
    page = Page(run_html(results))
    assert not page.part("importance")
    assert not page.part("training")
    assert "The model was not trained by this study." in [p["text"] for p in page.all("p")]


def test_the_training_names_losses_that_are_not_the_usual_ones():
    results = fake_results(tasks=2)
    names = [task["name"] for task in results["tasks"]]
    results["config"]["tasks"] = [
        {"name": names[0], "class_weights": {"good": 3.0}, "label_smoothing": 0.1, "weight": 1.0},
        {"name": names[1], "class_weights": None, "label_smoothing": 0.0},
    ]
    text = visible(Page(run_html(results)).part("training")[0])
    assert f"Loss of {names[0]}" in text
    assert 'class weights {"good": 3.0}, label smoothing 0.1' in text
    assert f"Loss of {names[1]}" not in text


def test_settings_that_nobody_set_are_left_out():
    results = fake_results(tasks=2)
    results["config"] = {
        "tasks": [
            {"name": "a", "dataset": None, "columns": {}, "labels": [], "fold_labels": False}
        ],
        "max_length": None,
        "iap": {"controls": 0, "lesion_tasks": None},
    }
    text = visible(Page(run_html(results)).part("settings")[0])
    for key in ("dataset", "columns", "labels", "max_length", "lesion_tasks"):
        assert key not in text.replace("fold_labels", "")
    for said in ("tasks.0.fold_labelsno", "iap.controls0"):
        assert said in " ".join(text.split())


@pytest.mark.parametrize(
    ("p", "number", "said"),
    [(1 / 6, 5, ", the smallest that so few allow"), (2 / 6, 5, ""), (1 / 20, 19, "")],
)
def test_a_p_that_could_not_be_smaller_says_so(p, number, said):
    assert phrases.least_possible(p, number) == said


def test_a_terminal_writes_every_percent_alike():
    results = fake_results()
    for entry in results["fractions"]:
        entry["dissociation"]["row"]["note"] = "A base score (95 % interval 0 to 0)."
    assert "(95% interval 0 to 0)" in printed(results, width=1000)


def test_what_took_no_time_was_not_done():
    results = {**fake_results(), "times": {"training": 0.0, "importance": 102.0}}
    text = visible(Page(run_html(results)).part("settings")[0])
    assert "1 min 42 s" in text
    assert "0.0 s" not in text


def test_undefined_numbers_are_dashes_not_zeros():
    results = fake_results(tasks=2, controls=19)
    results["tasks"][0]["base"] = 0.01
    results["fractions"][-1]["scores"][1] = [None, None]
    results["fractions"][-1]["score_intervals"][1] = [[None, None], [None, None]]
    for data in results["fractions"][-1]["dissociation"].values():
        data.update(values=[None, None], interval=[[None, None]] * 2, p_values=[None, None])
        data.update(mean=None, mean_interval=[None, None], mean_p=None)
        data.update(control_values=[[None, None]] * 19)
        data.update(control_means=[None] * 19, note="The base is near 0.")
        data.update(standardized=[None, None], mean_standardized=None)
    page = run_page(results)
    column = [cell_of(row.cells[1]).marks for row in table_of(page, "change-1").rows]
    assert not any("lowest" in marks for marks in column), "a dash is not the lowest score"
    assert texts_of(table_of(page, "raw-2"))[2][1:] == ["–"] * 4
    assert texts_of(table_of(page, "change-2"))[1][1] == "–"
    assert "strip-2-0" not in {figure.name for figure in sections.figures(page)}
    assert [row[1] for row in texts_of(table_of(page, "scores-2-0"))] == ["–", "–", "–"]
    notes = Page(run_html(results)).all("p", **{"class": "note"})
    assert "The base is near 0." in [note["text"] for note in notes]


def test_writing_replaces_the_page_in_one_step(run, monkeypatch):
    page = run / "out" / "report.html"
    assert report_again(run, page)[1] == page
    first = page.read_text(encoding="utf-8")
    assert first == run_html(fake_results())
    mask = os.umask(0)
    os.umask(mask)
    assert page.stat().st_mode & 0o777 == 0o666 & ~mask

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunError, match=r"The disk is full: cannot write .*report\.html; make room"):
        report_again(run, page)
    assert page.read_text(encoding="utf-8") == first
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_rendering_changes_nothing_and_is_repeatable():
    results = fake_results()
    before = copy.deepcopy(results)
    assert run_html(results) == run_html(results)
    assert results == before


def test_the_report_loads_neither_torch_nor_transformers():
    code = (
        "import sys, lobes.report.run.page, lobes.report.console; "
        "sys.exit(bool({'torch', 'transformers', 'plotly'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- many tasks ----------------------------------------------------------------------------------


def test_many_tasks_are_summarized_and_exported_whole():
    results = fake_results(
        tasks=29, sites=(7, 5), fractions=(0.3, 0.5), controls=3, training=False, extended=True
    )
    page, whole = run_page(results), run_page(results, whole=True)
    names = [task["name"] for task in results["tasks"]]
    shown = {table.name for table in sections.tables(page)}
    assert not [f"{name}-1" for name in ("raw", "change", "overlap") if f"{name}-1" in shown]
    for k, entry in enumerate(results["fractions"]):
        pairs = texts_of(table_of(page, f"pairs-{k}"))
        assert len(pairs) == MOST_PAIRS
        everything = texts_of(table_of(whole, f"pairs-{k}"))
        assert len(everything) == 29 * 14
        assert all(pair in everything for pair in pairs)
        double = sum(pair["double_dissociation"] for pair in entry["pairs"])
        assert f"heads): {double} of 406 pairs" in run_html(results).replace("\u202f", "")
        summary = table_of(page, f"summary-{k}")
        assert summary == table_of(whole, f"summary-{k}")
        scores = np.array(entry["scores"])
        overlaps = table_of(whole, f"overlap-{k}")
        for j, line in enumerate(summary.rows):
            column = scores[:, j]
            shares = [cell_of(cell).value for cell in overlaps.rows[j].cells[1:]]
            others = np.delete(shares, j)
            assert line.cells[0] == names[j]
            assert line.cells[1:4] == pytest.approx(
                (results["tasks"][j]["base"], column[j], np.delete(column, j).mean())
            )
            assert line.cells[5] == names[column.argmin()]
            assert line.cells[6:8] == pytest.approx((others.mean(), others.max()))
    assert len(table_of(whole, "raw-1").rows) == 31  # the base, 29 lesions, random lesions
    assert len(table_of(whole, "likeness").rows) == 29 * 14
    assert len(table_of(page, "likeness").rows) <= MOST_PAIRS
    assert table_of(whole, "likeness").caption.startswith("Every pair of tasks")
    assert "evenly chosen" in table_of(page, "likeness").caption
    assert not {"raw-0", "overlap-1"} & {figure.name for figure in sections.figures(whole)}
    assert "Each task’s score under lesions" in printed(results, width=200)


def test_a_page_grows_with_the_number_of_tasks_and_not_with_its_square():
    small, large = (
        len(run_html(fake_results(tasks=n, sites=(3, 2), fractions=(0.4,), controls=3)))
        for n in (31, 62)
    )
    assert large < 2 * small


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fmt.fixed(-0.0004), "0.000"),
        (fmt.fixed(-0.0315), "−0.032"),
        (fmt.points(12.44), "+12.4"),
        (fmt.points(math.nan), "–"),
        (fmt.p_value(0.05), "0.050"),
        (fmt.p_value(0.0504), "0.0504"),
        (fmt.p_value(0.05001), "0.0501"),
        (fmt.p_value(0.0499), "0.050"),
        (fmt.p_value(0.00001), "< 0.001"),
        (fmt.percent(0.3), "30\u00a0%"),
        (fmt.percent(0.125), "12.5\u00a0%"),
        (fmt.thousands(22713216), "22\u202f713\u202f216"),
        (fmt.duration(4.24), "4.2 s"),
        (fmt.duration(185), "3 min 05 s"),
        (fmt.duration(4321), "1 h 12 min"),
        (fmt.listing(["a", "b", "c"]), "a, b and c"),
        (fmt.significant(-0.00012345), "−0.000123"),
    ],
)
def test_words(text, expected):
    assert text == expected


def test_site_labels_keep_what_differs():
    assert fmt.site_labels([f"encoder.layer.{k}.attention" for k in range(3)]) == (
        "0",
        "1",
        "2",
    )
    assert fmt.site_labels(
        [
            "encoder.block.0.layer.0.SelfAttention",
            "decoder.block.0.layer.0.SelfAttention",
            "decoder.block.0.layer.1.EncDecAttention",
        ]
    ) == ("encoder.0.SelfAttn", "decoder.0.SelfAttn", "decoder.1.EncDecAttn")
    assert fmt.site_labels(["m.a.x", "m.b"]) == ("a.x", "b")


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.integers(5, 30))
def test_site_labels_are_as_many_as_sites_and_short(names, width):
    labels = fmt.site_labels(names, width)
    assert len(labels) == len(names)
    assert all(len(label) <= width for label in labels)
