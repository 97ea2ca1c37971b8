"""The report's part on IAT: which heads each task trained, and how far the choice varies."""

import pytest

from fake_results import fake_results
from lobes.heads import HeadSet
from lobes.report import trained
from lobes.report.html import render
from lobes.report.view import view
from pages import Page

SITES = [{"name": f"layer.{s}", "n_heads": n} for s, n in enumerate((3, 5))]
RECORD = {
    "switch_step": 1270,
    "steps": 30,
    "seconds": 4.5,
    "settings": {"alpha": 0.375, "share": True, "train_other": True},
    "n_heads": 8,
    "heads": {"a": "0:0,1 1:4", "b": "0:1 1:0,4"},
}


def test_the_table_counts_own_and_shared_heads():
    lesions = {"a": HeadSet.parse("0:0 1:1,2"), "b": HeadSet.parse("0:1 1:0,4")}
    found = trained.by_tasks(RECORD, SITES, ["a", "b"], lesions, "37.5 %")
    assert found.header == ("Heads", "Its alone", "Shared", "Among its top 37.5 % afterwards")
    assert found.rows == (("a", "3", "1", "2", "1 of 3"), ("b", "3", "1", "2", "3 of 3"))
    assert found.lists == (("a", "0:0,1 1:4"), ("b", "0:1 1:0,4"))
    assert found.sentence == (
        "4 of 8 heads are trained by at least one task, 2 of them by more than one; the query, "
        "key and value projections of the other 4 stay as ordinary training left them."
    )


def test_the_map_counts_the_tasks_of_each_head():
    (shown,) = trained.by_tasks(RECORD, SITES, ["a", "b"], {}, "").maps
    texts = [[cell and cell.text for cell in row] for row in shown.rows]
    assert texts == [["1", "2", "0", None, None], ["1", "0", "0", "0", "2"]]
    assert shown.rows[0][1].who == "a and b"
    assert [shown.rows[0][h].tint for h in range(3)] == [5, 10, 0]


def test_the_facts_say_when_and_how():
    facts = {f.label: f.value for f in trained.by_tasks(RECORD, SITES, ["a", "b"], {}, "").facts}
    assert facts["IAT begins after step"] == "1\u202f270"
    assert facts["Heads chosen for a task"] == "37.5\u00a0% of 8"
    assert facts["Heads chosen for several tasks"] == "trained by each of them"
    assert facts["All other parameters"] == "trained as before"
    settings = {"alpha": 0.375, "share": False, "train_other": False}
    other = trained.by_tasks({**RECORD, "settings": settings}, SITES, ["a", "b"], {}, "")
    facts = {fact.label: fact.value for fact in other.facts}
    assert facts["Heads chosen for several tasks"] == "trained by none"
    assert facts["All other parameters"] == "frozen, but for the classifiers"


def test_several_seeds_show_how_steady_the_choice_is():
    runs = [RECORD["heads"], {"a": "0:0,1 1:3", "b": "1:0,4"}, {"a": "0:0 1:4", "b": "1:0,4"}]
    record = {**RECORD, "seconds": [1.0, 2.0, 6.0], "heads": runs}
    found = trained.by_seeds(record, SITES, ["a", "b"], [0, 1, 2])
    assert found.rows == (
        ("a", "2 to 3", "1", "4", "0 to 2"),
        ("b", "2 to 3", "2", "3", "0 to 2"),
    )
    first, second = found.maps
    assert [[cell and cell.text for cell in row] for row in first.rows] == [
        ["3", "2", "0", None, None],
        ["0", "0", "0", "1", "2"],
    ]
    assert second.rows[0][1].who == "seed 0"
    # of a: 2/4, 2/3, 1/4; of b: 2/3, 2/3, 2/2; of a with b in a seed: 2/4, 0/5, 1/3
    assert found.sentence == (
        "Two seeds share 62\u00a0% of the heads that they train for a task (Jaccard overlap, "
        "mean); two tasks of a seed share 28\u00a0%."
    )
    assert {fact.label: fact.value for fact in found.facts}[
        "Time to estimate importance"
    ] == "3.0 s"


def test_one_seed_says_nothing_of_steadiness():
    record = {**RECORD, "seconds": [1.0], "heads": [RECORD["heads"]]}
    assert trained.by_seeds(record, SITES, ["a", "b"], [5]).sentence == ""


@pytest.mark.parametrize("iat", [True, False])
def test_the_report_has_the_part_just_where_there_was_iat(iat):
    results = fake_results(sites=(7, 5, 11), iat=iat)
    page = Page(render(results))
    assert bool(page.all("section", id="trained")) == iat
    assert bool(page.all("a", href="#trained")) == iat
    titles = [section.title for section in view(results).settings]
    assert ("IAT" in titles) == iat


def test_the_page_shows_the_heads_of_the_results():
    results = fake_results(sites=(7, 5, 11), iat=True)
    page = Page(render(results))
    record = results["training"]["iat"]["heads"]
    for row in page.table("trained-caption"):
        chosen = HeadSet.parse(record[row[0]])
        lesion = HeadSet.parse(results["fractions"][-1]["lesions"][row[0]])
        assert row[1] == str(len(chosen)) == "6"
        assert row[4] == f"{len(chosen & lesion)} of 6"
    cells = [cell for row in page.table("map-trained-0") for cell in row[1:]]
    counts = [int(cell) for cell in cells if cell]
    assert len(counts) == 23
    assert sum(counts) == 18
