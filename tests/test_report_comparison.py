"""The page of a comparison: its verdicts on IAT, and that its numbers are those of the data.

`tests/gold/comparison_page.txt` holds the words and tables of a small comparison. After an intended
change look at the difference and renew it:
`LOBES_RENEW_GOLD=1 pytest tests/test_report_comparison.py -k gold`.
"""

import copy
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fake_comparisons import fake_comparison, renewed
from lobes.report import formatting as fmt
from lobes.report.console import shown
from lobes.report.page import html
from lobes.report.seeds import comparison as comparisons
from lobes.results import ComparisonResults, checked
from pages import Page, as_number, check_gold, page_text

GOLD = Path(__file__).parent / "gold" / "comparison_page.txt"


def page_of(comparison):
    return comparisons.page_of(checked(comparison, ComparisonResults))


def render(comparison):
    return html(page_of(comparison))


def findings(comparison, place):
    """The findings of the section with this id; None where there is none."""
    found = {section.id: section.findings for section in page_of(comparison).sections}
    return found.get(place)


def performance(comparison):
    return findings(comparison, "findings")


def specialization(comparison):
    return findings(comparison, "specialization")


def spaced(sentences):
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def undefined():
    comparison = fake_comparison()
    comparison["scores"]["iat"][1][0] = None
    for entry in comparison["d_scores"]:
        entry["iat"] = [[None] * 3] * 5
    return renewed(comparison)


def near_chance():
    comparison = fake_comparison()
    for task in comparison["tasks"]:
        task["chance"] = 0.95
    return renewed(comparison)


# --- claim 4: performance ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comparison", "answer", "headline"),
    [
        (fake_comparison(), "yes", "Yes: the mean score over the tasks is higher after IAT."),
        (
            fake_comparison(gain=-0.02),
            "no",
            "No: the mean score over the tasks is lower after IAT.",
        ),
        (
            fake_comparison(gain=0.0, noise=0.001),
            "no",
            "No: if there is any gain after IAT, it is below 0.005, the smallest of interest.",
        ),
        (
            fake_comparison(gain=0.0, noise=0.1),
            "open",
            "Inconclusive: the seeds do not tell the score after IAT from that after ordinary "
            "multi-task training.",
        ),
        (
            fake_comparison(early=5),
            "open",
            "Inconclusive: in every seed the chosen checkpoint is from before IAT began",
        ),
        (
            fake_comparison(early=3),
            "open",
            "Inconclusive: in 3 of 5 seeds the chosen checkpoint is from before IAT began",
        ),
        (fake_comparison(seeds=1), "open", "Inconclusive: one seed alone does not show"),
        (undefined(), "open", "Inconclusive: a score is undefined in some seed."),
        (
            near_chance(),
            "open",
            "Inconclusive: too few tasks are clearly above c",
        ),
        (
            fake_comparison(methods=("single",)),
            "open",
            "There is nothing to compare: only one method was run.",
        ),
        (
            fake_comparison(methods=("single", "multi"), noise=0.001),
            "yes",
            "Yes: the mean score over the tasks is higher after ordinary multi-task training.",
        ),
    ],
)
def test_performance_answer(comparison, answer, headline):
    found = performance(comparison)
    assert found.answer == answer
    assert found.headline.startswith(headline)
    stored = checked(comparison, ComparisonResults).verdicts
    assert [each.answer for each in stored][:1] == [answer][: len(stored)]


def test_the_same_score_in_every_seed_compares_nothing():
    comparison = fake_comparison()
    comparison["scores"]["iat"] = comparison["scores"]["multi"]
    found = performance(renewed(comparison))
    assert (found.answer, found.headline) == (
        "open",
        "Inconclusive: in every seed both reach the same mean score, so that nothing was compared.",
    )


def test_performance_sentences():
    comparison = fake_comparison()
    summary = comparison["summary"]
    found = performance(comparison)
    assert found.question == (
        "Is all-MiniLM-L6-v2 better at the 3 tasks (sentiment, domain and domain-pair) after IAT "
        "than after ordinary multi-task training?"
    )
    main, tasks, against, single = spaced(found.sentences)
    means = [fmt.fixed(summary["methods"][m]["mean"]["mean"]) for m in ("iat", "multi")]
    gain = summary["differences"][0]["mean"]
    assert main == (
        f"Over 5 seeds, the mean score of the 3 tasks is {means[0]} after IAT and {means[1]} after "
        f"ordinary multi-task training: a difference of +{gain['mean']:.4f} (95 % interval "
        f"+{gain['low']:.4f} to +{gain['high']:.4f}, p < 0.001)."
    )
    assert tasks == (
        "Task by task (Holm-corrected), the score after IAT is higher on sentiment, domain and "
        "domain-pair."
    )
    assert against.startswith("Ordinary multi-task training is ahead of single-task training, by +")
    assert single.startswith("Against single-task training, IAT makes a difference of +0.02")
    assert found.caveats == ()


def test_negative_transfer_is_named():
    comparison = fake_comparison(noise=0.001)
    comparison["scores"]["single"] = (np.array(comparison["scores"]["single"]) + 0.1).tolist()
    sentences = spaced(performance(renewed(comparison)).sentences)
    assert sentences[2].startswith("Ordinary multi-task training falls behind single-task training")
    assert sentences[2].endswith("there is negative transfer to undo.")


def test_tasks_that_gain_and_lose_are_named_apart():
    comparison = fake_comparison()
    scores = np.array(comparison["scores"]["iat"])
    scores[:, 1] -= 0.1
    comparison["scores"]["iat"] = scores.tolist()
    assert spaced(performance(renewed(comparison)).sentences)[1] == (
        "Task by task (Holm-corrected), the score after IAT is higher on sentiment and "
        "domain-pair and lower on domain."
    )


def test_performance_caveats():
    comparison = fake_comparison(seeds=3, early=1)
    comparison["tasks"][0]["metric"] = "f1"
    comparison["tasks"][2]["chance"] = 0.79
    few, early, weak, metrics = spaced(performance(renewed(comparison)).caveats)
    assert few == "3 seeds make wide intervals: only a large difference can show. Run 5 or more."
    assert early.startswith("In seed 0 (1 of 3) the checkpoint chosen on held-out data is from bef")
    assert weak.startswith("Near chance on domain-pair: ")
    assert metrics.startswith("The mean over tasks adds different metrics (accuracy and f1)")
    (one,) = performance(fake_comparison(seeds=1)).caveats
    assert one == "With one seed there is neither an interval nor a test: run three or more."


def test_few_seeds_weaken_no_answer_that_their_intervals_give():
    found = performance(fake_comparison(seeds=4, gain=0.0, noise=0.0001))
    assert (found.answer, found.caveats) == ("no", ())


def test_chance_and_exchanges_are_explained_where_they_are_spoken_of():
    page = page_of(fake_comparison())
    assert {"Chance", "Exchange"} <= {entry[0] for entry in page.glossary}


def test_weights_that_nothing_chose_are_called_the_last_ones():
    comparison = fake_comparison()
    for count, words in ((1, "weights, the last ones."), (6, "data chose.")):
        comparison["training"]["evaluations"] = count
        seeds = next(each for each in page_of(comparison).sections if each.id == "seeds")
        assert seeds.blocks[0].text.endswith(words)


def test_a_distance_below_exchanged_heads_is_called_so():
    comparison = fake_comparison()
    comparison["summary"]["exchanged"]["iat"]["mean"] = -1.8
    sentence = spaced(specialization(comparison).sentences)[1]
    assert "and 1.8 below it after IAT" in sentence


def test_a_checkpoint_at_the_switch_has_seen_no_iat():
    comparison = fake_comparison()
    comparison["selected"]["iat"] = [269, 270, 271, 290, 300]
    assert comparison["iat"]["switch_step"] == 270
    assert checked(comparison, ComparisonResults).before_iat == (0, 1)
    without = fake_comparison(methods=("single", "multi"))
    assert checked(without, ComparisonResults).before_iat == ()


def test_a_checkpoint_from_before_iat_is_not_the_single_task_model():
    found = performance(fake_comparison(methods=("single", "iat"), early=1))
    (caveat,) = found.caveats
    assert caveat.endswith("there IAT gives a model of ordinary multi-task training.")


# --- claim 3: specialization ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comparison", "answer", "headline"),
    [
        (fake_comparison(), "yes", "Yes: after IAT the tasks depend more on heads of their own."),
        (fake_comparison(d_gain=-3.0), "no", "No: after IAT the tasks depend less on heads of the"),
        (
            fake_comparison(d_gain=0.0, noise=0.001),
            "no",
            "No: if IAT raises the D-score, it is by less than 1 %, the smallest change of",
        ),
        (fake_comparison(d_gain=0.0, noise=0.1), "open", "Inconclusive: the seeds do not tell"),
        (fake_comparison(early=4), "open", "Inconclusive: in 4 of 5 seeds the chosen"),
        (fake_comparison(seeds=1), "open", "Inconclusive: one seed alone does not show"),
        (undefined(), "open", "Inconclusive: the D-score is undefined in some seed."),
    ],
)
def test_specialization_answer(comparison, answer, headline):
    found = specialization(comparison)
    assert found.answer == answer
    assert spaced([found.headline])[0].startswith(headline)


def test_specialization_speaks_of_the_largest_fraction_and_of_column():
    comparison = fake_comparison()
    entry = next(
        each
        for each in comparison["summary"]["d_scores"]
        if (each["fraction"], each["definition"]) == (0.3, "column")
    )
    main, exchanged, _, others, rest = spaced(specialization(comparison).sentences)
    distances = comparison["summary"]["exchanged"]
    multi, iat = (fmt.fixed(distances[way]["mean"], 1) for way in ("multi", "iat"))
    assert exchanged.startswith(
        f"The D-score lies {multi} standard deviations above that of exchanged heads after "
        f"ordinary multi-task training, and {iat} above it after IAT (of the difference p "
    )
    means = [fmt.points(entry[method]["mean"]["mean"]) for method in ("multi", "iat")]
    assert main.startswith(
        f"At 30 % of the heads the model’s column D-score, over 5 seeds, is {means[0]} % after "
        f"ordinary multi-task training and {means[1]} % after IAT: a difference of "
        f"{fmt.points(entry['difference']['mean']['mean'])} (95 % interval "
    )
    assert others.startswith("By the other definitions the difference is: row +")
    assert re.fullmatch(
        r"At the other fractions the column difference is \+1\.\d \(p .*\) at 10 % of the heads\.",
        rest,
    )


def test_differences_over_other_tasks_than_the_headline_name_them():
    comparison = fake_comparison()
    names = [task["name"] for task in comparison["tasks"]]
    for each in comparison["summary"]["d_scores"]:
        if (each["fraction"], each["definition"]) in ((0.3, "relative"), (0.1, "column")):
            each["difference"]["tasks"][0]["mean"] = None
    *_, others, rest = spaced(specialization(comparison).sentences)
    assert others.endswith(f", over {names[1]} and {names[2]}.")
    assert rest.endswith(f", over {names[1]} and {names[2]} at 10 % of the heads.")


def test_specialization_names_the_tasks_it_leaves_out():
    comparison = fake_comparison()
    for entry in comparison["d_scores"]:
        entry["multi"][2][1] = None
    (caveat,) = specialization(renewed(comparison)).caveats
    assert caveat.startswith("The mean leaves out domain, without a D-score in some seed")
    rows = Page(render(renewed(comparison))).table("d-difference")
    assert [row[1] == "–" for row in rows] == [False, False, True, False]


def test_without_d_scores_there_is_no_word_on_specialization():
    comparison = fake_comparison(methods=("single", "iat"))
    assert specialization(comparison) is None
    page = Page(render(comparison))
    assert not page.part("specialization")
    assert not page.part("d-scores")


# --- the numbers are those of the comparison -----------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    comparison = fake_comparison(early=1)
    return comparison, Page(render(comparison))


def estimate_of(texts):
    mean, interval = texts
    return [as_number(mean), *(as_number(end) for end in interval.split(" to "))]


def test_score_table(planted):
    comparison, page = planted
    rows = page.table("scores-caption")
    names = [task["name"] for task in comparison["tasks"]]
    assert [row[0] for row in rows] == [*names, "all tasks (mean)"]
    for index, row in enumerate(rows):
        for method, cell in zip(comparison["methods"], row[1:-1], strict=True):
            summary = comparison["summary"]["methods"][method]
            expected = [*summary["tasks"], summary["mean"]][index]
            found = estimate_of(cell.split(" ", 1))
            assert found == pytest.approx([expected[k] for k in ("mean", "low", "high")], abs=5e-4)
    chances = [task["chance"] for task in comparison["tasks"]]
    assert [as_number(row[-1]) for row in rows] == pytest.approx(
        [*chances, np.mean(chances)], abs=5e-4
    )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_difference_tables_and_figures(planted, index):
    comparison, page = planted
    entry = comparison["summary"]["differences"][index]
    rows = page.table(f"difference-{index}")
    assert [row[0] for row in rows] == [
        "all tasks (mean)",
        *(task["name"] for task in comparison["tasks"]),
    ]
    for row, expected in zip(rows, [entry["mean"], *entry["tasks"]], strict=True):
        keys = ("mean", "low", "high")
        assert estimate_of(row[1:3]) == pytest.approx([expected[k] for k in keys], abs=5.1e-5)
        assert row[3] == fmt.p_value(expected["p"])
        assert row[4] == fmt.p_value(expected.get("p_holm", np.nan))
    first, second = (np.array(comparison["scores"][entry[side]]) for side in ("first", "second"))
    singles = (first - second).mean(axis=1)
    description = next(e for e in page.all("desc", id=f"difference-{index}-text"))["text"]
    signed = partial(fmt.fixed, digits=4, sign=True)
    span = fmt.interval(singles.min(), singles.max(), signed)
    assert f"single seeds {span}." in description


def test_methods_against_interference_are_on_the_page():
    """With their scores and sources, IAT against the tuned sum, and the weights of the tasks."""
    comparison = fake_comparison(methods=("multi", "iat", "pcgrad", "tuned"))
    rows = [[0.5 + seed, 1.0, 2.0 + seed] for seed in range(5)]
    comparison["weights"] = {"pcgrad": rows, "tuned": [[1.5, 0.75, 0.75]] * 5}
    sections = {each.id: each for each in page_of(comparison).sections}
    table = sections["weights"].blocks[-1]
    assert [column.title for column in table.columns] == ["Task", "PCGrad", "tuned sum"]
    names = [task["name"] for task in comparison["tasks"]]
    assert [row.cells for row in table.rows] == [
        (names[0], 2.5, 1.5), (names[1], 1.0, 0.75), (names[2], 4.0, 0.75)
    ]  # fmt: skip
    sentences = performance(comparison).sentences
    assert any(each.startswith("Against a tuned sum of the losses, IAT") for each in sentences)
    plain = "Against ordinary multi-task training, PCGrad makes a difference of "
    assert sum(each.startswith(plain) for each in sentences) == 1
    text = render(comparison)
    for words in ("PCGrad − multi-task", "PCGrad − tuned sum", "IAT − tuned sum", "Yu et al. 2020"):
        assert words in text


def test_d_score_table_begins_with_the_headline(planted):
    comparison, page = planted
    rows = page.table("d-scores-caption")
    assert rows[0][0].startswith("column headline")
    assert [row[1] for row in rows] == ["30\u00a0%"] * 3 + ["10\u00a0%"] * 3
    summary = {(e["definition"], e["fraction"]): e for e in comparison["summary"]["d_scores"]}
    expected = summary["column", 0.3]
    assert estimate_of(rows[0][3].split(" ", 1))[0] == pytest.approx(
        expected["iat"]["mean"]["mean"], abs=0.051
    )
    assert as_number(rows[0][4]) == pytest.approx(expected["difference"]["mean"]["mean"], abs=0.051)
    assert rows[0][6] == fmt.p_value(expected["difference"]["mean"]["p"])


def test_seed_table_marks_checkpoints_from_before_iat(planted):
    comparison, page = planted
    rows = page.table("seeds-caption")
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[0][6] == "250 (before IAT)"
    assert rows[1][6] == "290"
    assert rows[0][2] == "100, 110, 120"
    assert rows[0][10] == "–"
    assert as_number(rows[3][5]) == pytest.approx(np.mean(comparison["scores"]["iat"][3]), abs=5e-4)


def test_heads_are_counted_over_the_seeds(planted):
    comparison, page = planted
    cells = [cell for row in page.table("map-trained-0") for cell in row[1:]]
    assert sum(map(int, cells)) == 5 * 21
    assert [row[0] for row in page.table("trained-caption")] == [
        task["name"] for task in comparison["tasks"]
    ]


# --- the terminal, reading, gold -----------------------------------------------------------------


def printed(comparison, width=2000):
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        for part in shown(page_of(comparison)):
            console.print(part)
    return capture.get()


@pytest.mark.parametrize("case", [{}, {"seeds": 1}, {"tasks": 1}, {"methods": ("multi",)}])
def test_page_and_terminal_say_the_same_sentences(case):
    comparison = fake_comparison(**case)
    page, text = Page(render(comparison)), printed(comparison)
    said = [e["text"] for e in page.all("li") + page.all("p") + page.all("h2")]
    for found in filter(None, (performance(comparison), specialization(comparison))):
        for sentence in (found.headline, *found.sentences, *found.caveats):
            assert sentence in said
            assert sentence.replace("\u00a0%", "%").replace("\u00a0", " ") in text


def test_terminal_reads_no_markup():
    text = printed(fake_comparison(tasks=("[red]a[/red]", "b\x1b[2J")))
    assert "[red]a[/red]" in text
    assert "\x1b" not in text
    assert "IAT − multi-task" in text


def test_rendering_changes_nothing_and_is_repeatable():
    comparison = fake_comparison()
    before = copy.deepcopy(comparison)
    assert render(comparison) == render(comparison)
    assert comparison == before


def test_words_and_tables_are_those_of_the_gold_file():
    comparison = fake_comparison(tasks=2, seeds=3, sites=(3, 2), fractions=(0.4,), early=1)
    check_gold(GOLD, page_text(page_of(comparison)), "LOBES_RENEW_GOLD" in os.environ)
