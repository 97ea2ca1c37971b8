"""The report's part on IAT: which heads each task trained, and how far the choice varies."""

import math

import pytest

from fake_comparisons import fake_comparison
from fake_results import fake_results
from lobes.heads import HeadSet
from lobes.report import trained_heads
from lobes.report.maps import CountMaps
from lobes.report.run.trained import section
from lobes.report.sections import Facts, Prose
from lobes.report.tables import Table
from lobes.results import ComparisonResults, RunResults, checked
from pages import Page
from run_pages import run_html, texts_of

SETTINGS = {"alpha": 0.375, "share": True, "train_other": True}
RECORD = {"switch_step": 1270, "steps": 30, "settings": SETTINGS, "n_heads": 8}
HEADS = {"a": "0:0,1 1:4", "b": "0:1 1:0,4"}


def run_section(heads=HEADS, **settings):
    """The section of a run of two tasks whose model has three and five heads."""
    results = fake_results(tasks=("a", "b"), sites=(3, 5), fractions=(0.375,), iat=True)
    results["fractions"][0]["lesions"] = {"a": "0:0 1:1,2", "b": "0:1 1:0,4"}
    results["training"]["iat"] |= {**RECORD, "settings": SETTINGS | settings, "heads": heads}
    return section(checked(results, RunResults))


def seeds_section(*heads):
    """The section of a comparison whose seeds trained these heads."""
    study = fake_comparison(tasks=("a", "b"), sites=(3, 5), seeds=len(heads))
    study["iat"] = {**RECORD, "seconds": [1.0, 2.0, 6.0][: len(heads)], "heads": list(heads)}
    results = checked(study, ComparisonResults)
    return results.iat, trained_heads.over_seeds(results, results.names)


def part(found, kind):
    return next(block for block in found.blocks if isinstance(block, kind))


def facts_of(found):
    return {fact.label: fact.value for fact in part(found, Facts).items}


def counts_of(found):
    return [
        [[cell and cell.value for cell in row] for row in each.rows]
        for each in part(found, CountMaps).maps
    ]


def test_the_table_counts_own_and_shared_heads():
    found = run_section()
    table = part(found, Table)
    titles = ["Task", "Heads", "Its alone", "Shared", "Among its top 37.5\u00a0% afterwards"]
    assert [column.title for column in table.columns] == titles
    assert texts_of(table) == [["a", "3", "1", "2", "1 of 3"], ["b", "3", "1", "2", "3 of 3"]]
    named = [(fact.label, fact.value) for fact in found.blocks[-1].blocks[0].items]
    assert named == list(HEADS.items())
    assert part(found, Prose).text.endswith(
        "4 of 8 heads are trained by at least one task, 2 of them by more than one; the query, "
        "key and value projections of the other 4 stay as ordinary training left them."
    )


def test_the_map_counts_the_tasks_of_each_head():
    found = run_section()
    assert counts_of(found) == [[[1, 2, 0, None, None], [1, 0, 0, 0, 2]]]
    cells = part(found, CountMaps).maps[0].rows[0]
    assert cells[1].who == "a and b"
    assert [cells[head].tint for head in range(3)] == [5, 10, 0]


def test_the_facts_say_when_and_how():
    facts = facts_of(run_section())
    assert facts["IAT begins after step"] == "1\u202f270"
    assert facts["Heads chosen for a task"] == "37.5\u00a0% of 8"
    assert facts["Heads chosen for several tasks"] == "trained by each of them"
    assert facts["All other parameters"] == "trained as before"
    facts = facts_of(run_section(share=False, train_other=False))
    assert facts["Heads chosen for several tasks"] == "trained by none"
    assert facts["All other parameters"] == "frozen, but for the classifiers"


def test_several_seeds_show_how_steady_the_choice_is():
    record, found = seeds_section(
        HEADS, {"a": "0:0,1 1:3", "b": "1:0,4"}, {"a": "0:0 1:4", "b": "1:0,4"}
    )
    assert texts_of(part(found, Table)) == [
        ["a", "2 to 3", "1", "4", "0 to 2"],
        ["b", "2 to 3", "2", "3", "0 to 2"],
    ]
    first, second = counts_of(found)
    assert first == [[3, 2, 0, None, None], [0, 0, 0, 1, 2]]
    assert second == [[0, 1, 0, None, None], [3, 0, 0, 0, 3]]
    assert part(found, CountMaps).maps[1].rows[0][1].who == "seed 0"
    of_a, of_b, within = (2 / 4, 2 / 3, 1 / 4), (2 / 3, 2 / 3, 2 / 2), (2 / 4, 0 / 5, 1 / 3)
    assert record.overlap_of_seeds == pytest.approx(sum(of_a + of_b) / 6)
    assert record.overlap_of_tasks == pytest.approx(sum(within) / 3)
    assert (
        "Two seeds share 62\u00a0% of the heads that they train for a task (Jaccard overlap, "
        "mean); two tasks of a seed share 28\u00a0%. In a map, a"
    ) in part(found, Prose).text
    assert facts_of(found)["Time to estimate importance"] == "3.0 s"


def test_one_seed_says_nothing_of_steadiness():
    record, found = seeds_section(HEADS)
    assert math.isnan(record.overlap_of_seeds)
    assert "that task’s heads only. In a map, a row is a" in part(found, Prose).text


@pytest.mark.parametrize("iat", [True, False])
def test_the_report_has_the_part_just_where_there_was_iat(iat):
    page = Page(run_html(fake_results(sites=(7, 5, 11), iat=iat)))
    assert bool(page.part("trained")) == iat
    assert bool(page.all("a", href="#trained")) == iat
    assert ("IAT" in [summary["text"] for summary in page.all("summary")]) == iat


def test_the_page_shows_the_heads_of_the_results():
    results = fake_results(sites=(7, 5, 11), iat=True)
    page = Page(run_html(results))
    record = results["training"]["iat"]["heads"]
    for row in page.table("trained"):
        chosen = HeadSet.parse(record[row[0]])
        lesion = HeadSet.parse(results["fractions"][-1]["lesions"][row[0]])
        assert row[1] == str(len(chosen)) == "6"
        assert row[4] == f"{len(chosen & lesion)} of 6"
    cells = [cell for row in page.table("map-trained-0") for cell in row[1:]]
    counts = [int(cell) for cell in cells if cell]
    assert len(counts) == 23
    assert sum(counts) == 18
