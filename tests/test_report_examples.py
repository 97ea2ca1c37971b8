"""The examples that flip: chosen fairly, counted rightly, shown as text, read within bounds."""

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fake_extended import fake_folder, write_tables
from fake_results import HOSTILE, fake_results
from lobes.config.study import load_study
from lobes.dissociation.verdict import LESS_ALIKE, MORE_SPECIALIZED, SPECIALIZED
from lobes.errors import RunError
from lobes.report.page import html
from lobes.report.run.examples import LONGEST, LONGEST_FULL, section
from lobes.results import RunResults, checked
from pages import Page, visible
from plain_results import read_results, report_again, run_study
from run_pages import run_html, run_page, table_of, texts_of
from tiny_study import write_study


def folder_of(folder, flips, *, wrong=0, texts=None, results=None):
    """Two tasks of classes; `flips` is {lesion: examples of the first task that flip under it}.

    The base is right but for the first `wrong` examples.
    """
    results = results or fake_results(tasks=2)
    n = 1 + max([5, wrong, *(example for own in flips.values() for example in own)])
    names = [task["name"] for task in results["tasks"]]
    base = np.ones(n)
    base[:wrong] = 0
    lesioned = [base.copy() for _ in names]
    for lesion, own in flips.items():
        lesioned[lesion][list(own)] = 1 - base[list(own)]
    predictions = {name: np.ones((1 + len(names), n)) for name in names}
    predictions[names[0]] = np.vstack([base, *lesioned])
    write_tables(folder, results, predictions, dict.fromkeys(names, np.ones(n)), texts, controls=3)
    return results


def section_of(folder, results):
    return section(checked(results, RunResults), folder)


def page_of(folder, results):
    return Page(run_html(results, folder))


def shown(page, task=0):
    """{title: numbers of the examples} of each group of a task."""
    (part, *_) = page.all("details", **{"class": "task-examples"})[task:]
    groups = {}
    for group in part["children"]:
        if group.get("class") == "flips-group":
            title, listed = group["children"]
            numbers = [re.search(r"example (\d+)", item["text"])[1] for item in listed["children"]]
            groups[visible(title).removesuffix(title["children"][0]["text"]).strip()] = [
                int(number) for number in numbers
            ]
    return groups


def counts(folder, results, task=0, *, whole=False):
    """The table of counts of a task: a row for each lesion."""
    return texts_of(table_of(run_page(results, folder, whole=whole), f"flips-{task}"))


def test_of_many_tasks_the_page_reads_the_own_lesion_only(tmp_path):
    results = folder_of(
        tmp_path, {0: [0, 1, 7], 1: [1, 9, 11]}, wrong=2, results=fake_results(tasks=26)
    )
    page = page_of(tmp_path, results)
    assert len(page.all("details", **{"class": "task-examples"})) == 26
    assert page.table("flips-0") == [["sentiment", "1", "2", "3"]]
    assert shown(page) == {"Under its own lesion": [0, 1, 7]}
    assert "flips-0.csv and on" in page.part("examples")[0]["text"]
    whole = counts(tmp_path, results, whole=True)
    assert len(whole) == 26
    assert whole[:2] == [["sentiment", "1", "2", "2"], ["domain", "2", "1", "2"]]


def test_flips_are_counted_by_lesion_and_kind(tmp_path):
    results = folder_of(tmp_path, {0: [0, 1, 7, 8, 9], 1: [1, 9, 11]}, wrong=2)
    page = page_of(tmp_path, results)
    assert page.table("flips-0") == [["sentiment", "3", "2", "3"], ["domain", "2", "1", "1"]]
    assert page.table("flips-1") == [["sentiment", "0", "0", "0"], ["domain", "0", "0", "0"]]
    first, second = (part["children"][0]["text"] for part in parts_of(page))
    assert (
        first == "sentiment of 12 examples, its own lesion turns 3 right → wrong, 2 wrong → right"
    )
    assert second == "domain of 12 examples, its own lesion turns 0 right → wrong, 0 wrong → right"
    assert shown(page) == {
        "Under its own lesion and no other": [0, 7, 8],
        "Under its own lesion and others": [1, 9],
        "Under other lesions only": [11],
    }
    assert shown(page, 1) == {}
    gained = [item["text"] for item in page.all("li") if "flip gained" in item.get("class", "")]
    assert [re.search(r"example (\d+)", text)[1] for text in gained] == ["0", "1"]
    assert all("wrong → right" in text for text in gained)


def parts_of(page):
    return page.all("details", **{"class": "task-examples"})


def test_an_example_says_its_label_and_every_changed_prediction(tmp_path):
    texts = {"sentiment": [[f"a {k}", f"b {k}"] for k in range(9)], "domain": [["x"]] * 9}
    results = folder_of(tmp_path, {0: [8], 1: [8]}, texts=texts)
    page = page_of(tmp_path, results)
    assert [one["text"] for one in page.all("p", **{"class": "said"})] == ["a 8", "b 8"]
    (answers,) = page.all("p", **{"class": "answers"})
    assert answers["text"] == (
        "label yes, all heads yes; lesion of sentiment: no; lesion of domain: no"
    )


def test_a_regression_shows_the_largest_changes_of_the_error(tmp_path):
    results = fake_results(tasks=2)
    results["tasks"][0]["labels"] = None
    names = [task["name"] for task in results["tasks"]]
    labels = np.full(50, 2.0)
    base, own = np.full(50, 2.5), np.full(50, 2.5)
    own[7], own[9], own[30] = 4.0, 2.0, 0.5
    predictions = {names[0]: np.vstack([base, own, base]), names[1]: np.ones((3, 50))}
    write_tables(tmp_path, results, predictions, {names[0]: labels, names[1]: np.ones(50)})
    page = page_of(tmp_path, results)
    assert shown(page) == {"The largest changes of the error": [7, 30, 9]}
    chips = [item["children"][0]["children"][0]["text"] for item in page.all("li")[-3:]]
    assert chips == ["error grows", "error grows", "error shrinks"]
    changed = [one["text"].split(": ")[-1] for one in page.all("p", **{"class": "answers"})]
    assert changed == ["4.00", "0.50", "2.00"]
    assert page.table("flips-0")[0] == ["sentiment", "2", "1", "+0.040"]
    assert parts_of(page)[0]["children"][0]["text"] == (
        "sentiment of 50 examples, under its own lesion the error grows for 2 and shrinks for 1"
    )


@pytest.mark.parametrize("kind", ["null", "list", "absent"])
def test_tasks_with_several_labels_are_left_out_with_a_sentence(tmp_path, kind):
    results = folder_of(tmp_path, {0: [3]})
    path = tmp_path / "predictions.parquet"
    table = pq.read_table(path)
    own = np.array([name == "sentiment" for name in table["task"].to_pylist()])
    place = table.schema.get_field_index("prediction")
    values = table["prediction"].to_numpy()
    if kind == "null":
        table = table.set_column(place, "prediction", pa.array(values, mask=own))
    elif kind == "list":
        lists = pa.array([[int(value)] for value in values])
        table = table.set_column(place, "prediction", lists)
    else:
        table = table.remove_column(place)
    pq.write_table(table, path)
    page = page_of(tmp_path, results)
    left = "sentiment" if kind == "null" else "sentiment and domain"
    summaries = [part["children"][0]["text"].split()[0] for part in parts_of(page)]
    assert summaries == (["domain"] if kind == "null" else [])
    said = page.part("examples")[0]["text"]
    assert f"Left out: {left}, whose answers are not one class" in said


def test_without_texts_examples_are_shown_by_number(tmp_path):
    results = folder_of(tmp_path, {0: [3]})
    page = page_of(tmp_path, results)
    assert not page.all("p", **{"class": "said"})
    notes = [one["text"] for one in page.all("p", **{"class": "note"})]
    assert "The texts were not kept with this run, so examples are shown by their number." in notes


def test_without_predictions_or_lesions_there_is_no_section(tmp_path):
    results = fake_results(tasks=2)
    assert section_of(tmp_path, results) is None
    folder_of(tmp_path, {0: [3]})
    assert section_of(tmp_path, {**results, "fractions": [], "over_fractions": None}) is None
    assert not Page(run_html(results)).part("examples")


def test_damaged_tables_are_one_clear_sentence(tmp_path):
    results = folder_of(tmp_path, {0: [3]})
    (tmp_path / "texts.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RunError, match=r"The tables in .* are damaged .*: run the study again"):
        section_of(tmp_path, results)
    (tmp_path / "texts.parquet").unlink()
    table = pq.read_table(tmp_path / "predictions.parquet")
    pq.write_table(table.drop_columns(["example"]), tmp_path / "predictions.parquet")
    with pytest.raises(RunError, match=r"The tables in .* are damaged"):
        section_of(tmp_path, results)


# --- texts are text ------------------------------------------------------------------------------

NASTY = (
    "</script><script>alert(1)</script>",
    '<img src=x onerror="alert(2)"> & </details></section>',
    "\u202eright to left\u202c \u05d0\u05d1\u05d2 \x1b[31m {{ 7 * 7 }} {% raw %}",
)


def test_texts_are_shown_as_text_whatever_they_hold(tmp_path):
    results = fake_results(tasks=HOSTILE)
    results["tasks"][0]["labels"] = ["<b>no", "<i>yes"]
    names = [task["name"] for task in results["tasks"]]
    predictions = {name: np.ones((4, 9)) for name in names}
    predictions[names[0]][1] = 0
    texts = {name: [list(NASTY)] * 9 for name in names}
    write_tables(tmp_path, results, predictions, {name: np.ones(9) for name in names}, texts)
    text = run_html(results, tmp_path)
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not page.all("b", **{"class": "x"})
    assert "\x1b" not in text
    assert "\u202e" not in text
    said = [e["text"] for e in page.all("bdi", dir="auto")]
    assert len(said) == 3 * 9
    assert NASTY[0] in said
    assert NASTY[1] in said
    assert any("{{ 7 * 7 }} {% raw %}" in one for one in said)
    assert {e["text"] for e in page.all("b")} == {"<b>no", "<i>yes"}


def test_long_texts_are_cut_and_the_rest_is_there_on_demand(tmp_path):
    words = [f"word{k}" for k in range(3000)]
    middle, huge = " ".join(words[:200]), " ".join(words)
    texts = {"sentiment": [[middle, huge]] * 9, "domain": [["short"]] * 9}
    results = folder_of(tmp_path, {0: [3]}, texts=texts)
    page = page_of(tmp_path, results)
    starts = [
        one["text"] for one in page.all("p", **{"class": "said"}) if one["inside"][-1] == "li"
    ]
    assert starts == [f"{text[:LONGEST]}…" for text in (middle, huge)]
    rests = page.all("details", **{"class": "rest"})
    assert all("open" not in rest for rest in rests)
    assert [rest["children"][1]["text"] for rest in rests] == [
        f"…{middle[LONGEST:]}",
        f"…{huge[LONGEST:LONGEST_FULL]}…",
    ]


def test_filters_work_by_style_alone(tmp_path):
    results = folder_of(tmp_path, {0: [3, 4], 1: [4, 5]})
    text = run_html(results, tmp_path)
    page = Page(text)
    classes = [e["class"] for e in page.all("li") if "flip" in e.get("class", "")]
    assert sorted(classes) == ["flip lost u0", "flip lost u0 u1", "flip lost u1"]
    ids = {e["id"] for e in page.all("input")}
    assert ids >= {"flip-any", "flip-lost", "flip-gained", "under-any", "under-0", "under-1"}
    for rule in (
        ":root:has(#flip-gained:checked) .flip.lost",
        ":root:has(#under-1:checked) .flip:not(.u1),",
        ":root:has(#under-1:checked) .flips-group:not(:has(.u1)) { display: none; }",
    ):
        assert rule in text
    parts = page.all("details", **{"class": "task-examples"})
    assert len(parts) == 2


# --- bounds --------------------------------------------------------------------------------------


def test_a_million_predictions_are_read_in_pieces(tmp_path, monkeypatch):
    results, n, controls = fake_results(tasks=2), 20_000, 23
    rng = np.random.default_rng(0)
    names = [task["name"] for task in results["tasks"]]
    predictions = {name: rng.integers(0, 2, (3, n)).astype(float) for name in names}
    labels = {name: rng.integers(0, 2, n).astype(float) for name in names}
    write_tables(tmp_path, results, predictions, labels, controls=controls, row_group_size=2**17)
    assert pq.ParquetFile(tmp_path / "predictions.parquet").metadata.num_rows > 1_000_000
    monkeypatch.setattr(pq, "read_table", None)  # the whole table must never be in memory
    own = counts(tmp_path, results)[0][1:3]
    right = predictions[names[0]] == labels[names[0]]
    lost, gained = (right[0] & ~right[1]).sum(), (~right[0] & right[1]).sum()
    assert [int(cell.replace("\u202f", "")) for cell in own] == [lost, gained]


def test_a_page_with_all_examples_of_twelve_tasks_stays_small(tmp_path):
    results = fake_results(
        tasks=12, sites=(16,) * 24, controls=29, iat=True, extended=True, training=True
    )
    page = run_html(results, fake_folder(tmp_path, results))
    assert len(page.encode()) < 2_000_000


# --- a real run ----------------------------------------------------------------------------------


def test_examples_of_a_real_run_are_those_of_its_predictions(tmp_path):
    path = write_study(tmp_path)
    study = path.read_text(encoding="utf-8")
    study = study.replace("[iap]", "[growth]\ncheckpoints = 2\n\n[iap]")
    study += "control_examples = 13\n"
    path.write_text(study, encoding="utf-8")
    run_study(load_study(path))
    run = tmp_path / "run"
    results = read_results(run)
    page = run_page(results, run)
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    for place, task in enumerate(results["tasks"]):
        own = [row for row in rows if row["task"] == task["name"]]
        base = {r["example"]: r["prediction"] == r["label"] for r in own if r["kind"] == "none"}
        assert base
        for name, worse, better, _ in texts_of(table_of(page, f"flips-{place}")):
            under = {
                row["example"]: row["prediction"] == row["label"]
                for row in own
                if row["kind"] == "task"
                and row["lesioned_task"] == name
                and math.isclose(row["fraction"], 0.5)
            }
            assert under.keys() == base.keys()
            assert int(worse) == sum(base[k] and not under[k] for k in base)
            assert int(better) == sum(under[k] and not base[k] for k in base)
    _, written = report_again(run, tmp_path / "report.html")
    text = written.read_text(encoding="utf-8")
    assert text == html(page)
    shown = Page(text)
    for part in ("claims", "dose", "overlap", "likeness", "growth", "agreement", "examples"):
        assert shown.part(part)
    assert "measured on a sample of 13 validation examples" in text
    assert len(shown.all("p", **{"class": "said"})) >= len(shown.all("p", **{"class": "answers"}))
    assert [verdict["claim"] for verdict in results["verdicts"]] == [
        SPECIALIZED,
        MORE_SPECIALIZED,
        LESS_ALIKE,
    ]
