"""Pages say what a lesion did: heads ablated or alone kept, and what stood in their place."""

import html as escaped
import re

import pytest
from rich.console import Console

from fake_comparisons import fake_comparison
from fake_extended import fake_folder
from fake_results import fake_results
from fake_runs import fake_runs
from lobes.report import console
from lobes.report.exporting import figure_files, table_files
from lobes.report.page import html
from lobes.report.pages import page_of
from lobes.report.run.page import page_of as run_page
from lobes.results import ComparisonResults, PooledResults, RunResults, checked
from run_pages import table_of

KEPT = {"lesion": "keep", "value": "mean"}
# what is said of ablation and holds of kept heads, too
TRUE = (
    "A lesion keeps the heads of its task and ablates all others",
    "The set of heads kept for one measurement, while all others are ablated",
    "An ablated head gives its mean context in the place of zeros",
    "Ablate Put a head’s mean output",
    "Each head was ablated by itself",
    "exact ablation",
    "with ablating every head by itself",
    "loss when one head is ablated",
    "with nothing ablated, and the score",
    "with nothing ablated, over the runs",
)
WRONG = (
    r".{0,60}(?:[Aa]blat|lesioned|[Ll]owest|loses more|\bmore a task’s own|nothing \(base).{0,60}"
)


def run(content=None, **options):
    content = content or fake_results(**options)
    return {**content, "iap": {**content["iap"], **KEPT}}


def texts(page):
    """The texts of a page, of the terminal and of every file, without markup."""
    terminal = Console(width=400)
    with terminal.capture() as shown:
        for part in console.shown(page):
            terminal.print(part)
    exported = (
        content.decode() for _, content in (*table_files(page), *figure_files(page, png=False))
    )
    written = re.sub(r"<(style|script).*?</\1>", " ", html(page), flags=re.S)
    written = re.sub(r'\b(?:title|aria-label)="([^"]*)"', r"> \1 <", written)
    parts = (re.sub(r"<[^>]*>", " ", part) for part in (written, *exported))
    whole = "\n".join([*map(escaped.unescape, parts), shown.get()])
    return re.sub(r"\s+", " ", whole)


def said_wrongly(text):
    for sentence in TRUE:
        text = text.replace(sentence, "…")
    text = re.sub(r"; lowest [\d.]+, highest", "…", text)  # of a learning curve
    return re.findall(WRONG, text)


KINDS = {
    "a run": lambda: (run(extended=True), RunResults),
    "one task": lambda: (run(tasks=1), RunResults),
    "many tasks": lambda: (run(tasks=25, controls=1, fractions=(0.1,)), RunResults),
    "several runs": lambda: ({**fake_runs(), "lesioning": KEPT}, PooledResults),
    "a comparison": lambda: ({**fake_comparison(), "lesioning": KEPT}, ComparisonResults),
}


@pytest.mark.parametrize("kind", KINDS)
def test_where_heads_are_kept_nothing_says_they_were_ablated(kind):
    content, results = KINDS[kind]()
    found = texts(page_of(checked(content, results)))
    assert said_wrongly(found) == []
    assert "all but the task’s heads set to their means" in found
    assert "A lesion keeps the heads of its task" in found
    assert "An ablated head gives its mean context in the place of zeros" in found


def test_the_examples_of_kept_heads_flip_under_what_is_kept(tmp_path):
    content = run()
    page = run_page(checked(content, RunResults), fake_folder(tmp_path, content))
    found = texts(page)
    assert "whose prediction a lesion that keeps 30 % of the heads turns" in found
    assert said_wrongly(found) == []


@pytest.mark.parametrize("kind", ["several runs", "a comparison"])
def test_pages_over_runs_say_what_is_usual_too(kind):
    content, results = KINDS[kind]()
    usual = {**content, "lesioning": {"lesion": "remove", "value": "zero"}}
    found = texts(page_of(checked(usual, results)))
    assert "the task’s heads set to zero" in found
    assert "keeps" not in found.replace("task’s lesion keeps its size", "")
    other = {**content, "lesioning": {"lesion": "remove", "value": "resample"}}
    found = texts(page_of(checked(other, results)))
    assert "the task’s heads taken from other examples" in found


def test_kept_heads_are_marked_where_a_task_does_best():
    content = run(tasks=3, controls=2, fractions=(0.3,))
    scores = [[0.9, 0.5, 0.6], [0.7, 0.8, 0.4], [0.6, 0.3, 0.7]]
    content["fractions"][0]["scores"] = scores
    page = page_of(checked(content, RunResults))
    matrix = table_of(page, "raw-0")
    ends = [[sorted(cell.marks) for cell in row.cells[1::2]] for row in matrix.rows[1:4]]
    best = ["highest", "own"]
    assert ends == [[best, [], []], [[], best, []], [[], [], best]]
    assert matrix.rows[0].cells[0] == "all heads (base)"
    assert matrix.columns[0].title == "Kept"


def test_a_curve_of_kept_heads_ends_at_the_whole_model():
    page = html(page_of(checked(run(tasks=2, fractions=(0.1, 0.3)), RunResults)))
    assert re.search(r"own lesion: [0-9.]+ at 10 %, [0-9.]+ at 30 %, 100.0 at 100 %", page)
