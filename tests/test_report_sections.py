"""The report's parts on claims, dose, overlap, similarity, growth and agreement.

`tests/gold/report/` holds the whole view and every table of one made-up run that has all parts.
After an intended change look at the difference and renew both:
`LOBES_RENEW_GOLD=1 pytest tests/test_report_sections.py -k gold`.
"""

import copy
import dataclasses
import itertools
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fake_extended import fake_folder
from fake_results import HOSTILE, fake_results
from lobes.heads import HeadSet
from lobes.report import charts, exhibits
from lobes.report import formatting as fmt
from lobes.report.examples import examples_of
from lobes.report.html import render
from lobes.report.terminal import tables
from lobes.report.view import view
from pages import Page, as_number, visible

GOLD = Path(__file__).parent / "gold" / "report"
NEW_SECTIONS = ("claims", "likeness", "growth", "agreement", "examples")


@pytest.fixture(scope="module")
def full():
    """A run of five tasks that has every part; its page."""
    results = fake_results(tasks=5, controls=23, extended=True)
    return results, Page(render(results))


def rows_of(page, name):
    return page.table(f"{name}-caption")


# --- what is absent stays absent -----------------------------------------------------------------


def test_results_of_an_older_version_have_none_of_the_newer_parts():
    page = Page(render(fake_results(controls=23)))
    assert not [part for part in NEW_SECTIONS if page.all("section", id=part)]
    heads = {head["text"] for head in page.all("th")}
    assert "SDs" not in heads
    assert not [path for path in page.all("path") if "sample" in path.get("class", "")]


def test_newer_parts_that_are_null_are_as_absent_ones():
    old = fake_results(controls=23)
    null = dict.fromkeys(("similarity", "agreement", "growth", "controls"))
    assert render({**old, **null}) == render(old)


def test_one_task_has_neither_similarity_nor_overlap_nor_growth():
    page = Page(render(fake_results(tasks=1, extended=True)))
    for part in ("likeness", "overlap", "growth", "claims"):
        assert not page.all("section", id=part)
    assert page.all("section", id="dose")
    assert page.all("section", id="agreement")


# --- the claims ----------------------------------------------------------------------------------


def claims_of(results):
    return {claim.part: claim for claim in view(results).claims}


def test_the_first_claim_is_the_finding(full):
    results, page = full
    found = view(results)
    first = found.claims[0]
    assert (first.answer, first.headline) == (found.findings.answer, found.findings.headline)
    assert first.answer == "yes"
    column = results["fractions"][-1]["dissociation"]["column"]
    assert first.sure.replace("\u00a0", " ").startswith(f"D-score {fmt.points(column['mean'])} %")
    rows = rows_of(page, "claims-table")
    shown = {"yes": "yes", "no": "no", "open": "inconclusive"}
    assert [row[1] for row in rows] == [shown[claim.answer] for claim in found.claims]
    assert [row[2] for row in rows] == [claim.headline for claim in found.claims]


@pytest.mark.parametrize(
    ("interval", "answer"), [([0.1, 9.0], "yes"), ([-3.0, -0.1], "no"), ([-0.1, 4.0], "open")]
)
def test_growth_is_judged_by_the_interval_of_the_change(interval, answer):
    results = fake_results(controls=23, extended=True)
    results["growth"]["change"]["column"]["mean_interval"] = interval
    claim = claims_of(results)["growth"]
    assert claim.answer == answer
    assert f"(interval {fmt.interval(*interval)}, paired bootstrap)" in claim.sure


def test_growth_that_is_undefined_is_open():
    results = fake_results(controls=23, extended=True)
    results["growth"]["change"]["column"].update(mean=None, mean_interval=[None, None])
    assert claims_of(results)["growth"].headline.startswith("Inconclusive: the D-score is undef")


def trend(correlation, low, high, p):
    return {"correlation": correlation, "interval": [low, high], "p": p, "note": None}


GONE = {"correlation": None, "interval": [None, None], "p": None, "note": "3 tasks make 3 pairs."}
NARROW = trend(-0.1, -0.29, 0.2, 0.3)
HOLDS, WEAK = trend(-0.7, -0.9, -0.2, 0.01), trend(-0.2, -0.5, 0.3, 0.3)
WIDE, TURNED = trend(-0.7, -0.9, 0.1, 0.01), trend(0.6, 0.2, 0.8, 0.97)


@pytest.mark.parametrize(
    ("trends", "tasks", "answer", "said"),
    [
        ({"gradient": HOLDS, "cka": HOLDS}, 5, "yes", "Yes: the less alike two tasks are"),
        ({"importance": HOLDS, "gradient": WEAK}, 5, "open", "only measures made from the lesion"),
        ({"importance": HOLDS, "overlap": HOLDS}, 5, "open", "iap.similarity_examples adds one"),
        ({"gradient": WIDE}, 5, "open", "the interval of gradient reaches a correlation of −0.3"),
        ({"gradient": TURNED, "cka": NARROW}, 5, "no", "No: no measure of similarity"),
        ({"gradient": TURNED, "cka": WEAK}, 5, "open", "the interval of cka reaches"),
        ({"gradient": WEAK, "cka": WEAK}, 4, "open", "4 tasks allow no corrected p below 0.083"),
        ({"gradient": GONE}, 3, "open", "Inconclusive: 3 tasks make 3 pairs."),
    ],
)
def test_verdict_on_similarity(trends, tasks, answer, said):
    results = fake_results(tasks=tasks, controls=23, extended=True)
    kept = [one for one in results["similarity"]["measures"] if one["name"] in trends]
    for one in kept:
        one["trend"] = trends[one["name"]]
    results["similarity"]["measures"] = kept
    claim = claims_of(results)["likeness"]
    assert claim.answer == answer
    assert said in claim.headline


def test_similarity_is_corrected_for_the_number_of_measures():
    results = fake_results(tasks=5, controls=23, extended=True)
    for one in results["similarity"]["measures"]:
        one["trend"] = trend(-0.7, -0.9, -0.2, 0.02)
    claim = claims_of(results)["likeness"]
    assert claim.answer == "open"
    assert "p\u00a0=\u00a00.080 corrected for 4 measures" in claim.sure


def test_terminal_says_every_further_claim_on_one_line():
    results = fake_results(tasks=5, controls=23, extended=True)
    console = Console(width=2000, force_terminal=False, color_system=None)
    with console.capture() as capture:
        for part in tables(results):
            console.print(part)
    lines = capture.get().splitlines()
    assert lines[-2:] == [
        "1. They are more so after multi-task training than before. Yes: the D-score is larger "
        "than before multi-task training.",
        "2. The less alike two tasks are, the more they dissociate. Yes: the less alike two tasks "
        "are, the more they dissociate.",
    ]


# --- the numbers are those of the results --------------------------------------------------------


def test_dose_and_response(full):
    results, page = full
    rows = iter(rows_of(page, "dose"))
    for j, task in enumerate(results["tasks"]):
        for entry in results["fractions"]:
            name, heads, own, others, random, band = next(rows)
            scores = 100 * np.array(entry["scores"])[:, j] / task["base"]
            controls = 100 * np.array(entry["control_scores"])[:, :, j].ravel() / task["base"]
            assert (name, as_number(heads)) == (task["name"], 100 * entry["fraction"])
            assert as_number(own) == pytest.approx(scores[j], abs=0.051)
            assert as_number(others) == pytest.approx(np.delete(scores, j).mean(), abs=0.051)
            assert as_number(random) == pytest.approx(controls.mean(), abs=0.051)
            ends = [as_number(end) for end in band.split(" to ")]
            assert ends == pytest.approx(np.percentile(controls, [5, 95]).tolist(), abs=0.051)
    assert next(rows, None) is None


def test_dose_curves_stand_where_the_axes_say():
    results = fake_results(tasks=2, controls=9, fractions=(0.2, 0.4))
    results["tasks"][0]["base"] = 0.8
    for entry, own in zip(results["fractions"], (0.72, 0.64), strict=True):
        entry["scores"][0][0] = own
    found = view(results).dose.charts[0]
    (own,) = found.paths("accent")[:1]
    places = re.findall(r"[ML]([\d.]+) ([\d.]+)", own)
    xs = {text.text: text.x for text in found.texts("tick")}
    ys = {text.text: text.y - 4 for text in found.texts("end")}
    expected = [(xs["0"], ys["100"]), (xs["20"], ys["90"]), (xs["40"], ys["80"])]
    assert [(float(x), float(y)) for x, y in places] == expected
    assert "own lesion: 100.0 at 0 %, 90.0 at 20 %, 80.0 at 40 %." in found.description


def test_random_lesions_on_a_sample_are_relative_to_the_base_score_there():
    results = fake_results(tasks=2, controls=9, extended=True)
    full = view(results)
    assert full.dose.sampled
    assert "the whole band may lie" in render(results)
    base = {task["name"]: task["base"] * 0.9 for task in results["tasks"]}
    results["controls"]["base"] = base
    found = view(results)
    assert "the whole band may lie" not in render(results)
    for before, after in zip(full.dose.table.rows, found.dose.table.rows, strict=True):
        assert before[2:4] == after[2:4]
        assert as_number(after[4]) == pytest.approx(as_number(before[4]) / 0.9, abs=0.12)
    before, after = (one.fractions[-1].change for one in (full, found))
    assert before[:-1] == after[:-1]
    share = [100 + as_number(cell.text) for cell in after[-1].cells]
    expected = [(100 + as_number(cell.text)) / 0.9 for cell in before[-1].cells]
    assert share == pytest.approx(expected, abs=0.12)


def test_a_base_score_near_zero_has_no_dose_curve():
    results = fake_results(tasks=2, controls=3)
    results["tasks"][1]["base"] = 0.01
    found = view(results).dose
    assert found.charts[1] is None
    assert found.left_out == ("domain",)
    assert {row[2] for row in found.table.rows if row[0] == "domain"} == {"–"}


@pytest.mark.parametrize("index", [0, 2])
def test_overlap_of_lesions(full, index):
    results, page = full
    entry = results["fractions"][index]
    sets = [set(HeadSet.parse(entry["lesions"][task["name"]])) for task in results["tasks"]]
    table = page.table(f"overlap-{index}")
    for i, row in enumerate(table):
        for j, text in enumerate(row[1:]):
            if i == j:
                assert text == f"{len(sets[i])} heads"
                continue
            share, count = text.split(" · ")
            both = len(sets[i] & sets[j])
            assert int(count) == both
            assert as_number(share) == pytest.approx(both / len(sets[i] | sets[j]), abs=5.1e-3)


def test_overlap_by_chance_is_that_of_random_sets():
    results = fake_results(tasks=2, fractions=(0.3,))
    rng = np.random.default_rng(0)
    total, n = 72, results["fractions"][0]["n_heads"]
    drawn = [[set(rng.permutation(total)[:n]) for _ in range(2)] for _ in range(3000)]
    mean = np.mean([len(a & b) / len(a | b) for a, b in drawn])
    assert float(view(results).fractions[0].by_chance) == pytest.approx(mean, abs=0.012)


def test_similarity_tables_and_scatters(full):
    results, page = full
    found = results["similarity"]
    pairs = list(itertools.combinations(range(5), 2))
    for row, (i, j) in zip(rows_of(page, "likeness"), pairs, strict=True):
        assert row[:2] == [results["tasks"][i]["name"], results["tasks"][j]["name"]]
        assert as_number(row[2]) == pytest.approx(found["pair_d_scores"][i][j], abs=0.051)
        values = [one["values"][i][j] for one in found["measures"]]
        assert [as_number(cell) for cell in row[3:]] == pytest.approx(values, abs=5.1e-4)
    for row, one in zip(rows_of(page, "trends"), found["measures"], strict=True):
        assert row[0] == one["name"]
        assert as_number(row[2]) == one["trend"]["correlation"]
        assert [as_number(end) for end in row[3].split(" to ")] == one["trend"]["interval"]
        assert as_number(row[4]) == one["trend"]["p"]
        assert as_number(row[5]) == pytest.approx(4 * one["trend"]["p"])
    assert len(page.all("path", **{"class": "marks accent faint"})) == 4 * len(pairs)


def test_growth_tables(full):
    results, page = full
    points = results["growth"]["points"]
    for row, point in zip(rows_of(page, "growth"), points, strict=True):
        assert (as_number(row[0]), row[1]) == (point["step"], point["classifiers"])
        for place, name in enumerate(("column", "row", "relative")):
            found = point["dissociation"][name]
            assert as_number(row[2 + 2 * place]) == pytest.approx(found["mean"], abs=0.051)
            ends = [as_number(end) for end in row[3 + 2 * place].split(" to ")]
            assert ends == pytest.approx(found["mean_interval"], abs=0.051)
    for name, key in (("growth-base", "base"), ("growth-stability", "stability")):
        for row, point in zip(rows_of(page, name), points, strict=True):
            assert [as_number(cell) for cell in row[1:]] == pytest.approx(point[key], abs=5.1e-4)


@pytest.mark.parametrize(
    ("change", "interval", "said"),
    [
        (9.3, [7.0, 11.0], "rose from +3."),
        (-2.0, [-4.0, -1.0], "fell from +3."),
        (1.0, [-1.0, 3.0], "cannot tell from no change."),
    ],
)
def test_growth_in_words(change, interval, said):
    results = fake_results(controls=23, extended=True)
    results["growth"]["change"]["column"].update(mean=change, mean_interval=interval)
    assert said in view(results).growth.sentence


def test_growth_compares_the_same_tasks_at_both_ends():
    results = fake_results(tasks=3, controls=23, extended=True)
    first, middle, _, last = (p["dissociation"]["column"] for p in results["growth"]["points"])
    first.update(values=[-18.8, None, 4.0], mean=-7.4, shared_interval=[-21.0, -17.0])
    middle.update(values=[-9.0, 2.0, None], mean=-3.5, shared_interval=None)
    last.update(values=[-21.1, 10.0, None], mean=-5.55, shared_interval=[-23.0, -19.0])
    change = results["growth"]["change"]["column"]
    change.update(values=[-2.3, None, None], mean=-2.3, mean_interval=[-4.0, -1.0])
    grown = view(results).growth
    names = [task["name"] for task in results["tasks"]]
    assert "fell from −18.8 % at step 0 to −21.1 % at step 300: a change of −2.3" in grown.sentence
    assert grown.sentence.endswith(
        f"The means leave out {names[1]} and {names[2]}, without a D-score at one of the two steps."
    )
    assert [row[2:4] for row in grown.tables[0].rows][:2] == [
        ("−18.8", "−21.0 to −17.0"),
        ("−9.0", "–"),
    ]
    sure = claims_of(results)["growth"].sure
    assert sure.startswith("−18.8 %")
    assert sure.endswith(f"without {names[1]} and {names[2]}")


def test_stability_is_found_by_the_name_of_its_task():
    results = fake_results(tasks=3, controls=23, extended=True)
    for point in results["growth"]["points"]:
        del point["importance"][0]
        point["stability"] = [0.25, 0.75]
    rows = view(results).growth.tables[2].rows
    assert {row[1:] for row in rows} == {("–", "0.250", "0.750")}


def test_growth_does_not_depend_on_the_order_of_the_points():
    results = fake_results(controls=23, extended=True)
    turned = copy.deepcopy(results)
    turned["growth"]["points"].reverse()
    assert view(turned).growth == view(results).growth


def test_an_estimate_that_is_biased_where_one_token_is_read_says_so():
    results = fake_results(tasks=2, controls=23, extended=True)
    assert view(results).importance.bias == ""  # a mean over the tokens reads all of them
    results["model"]["pooling"] = "first"
    for entry, rhos in zip(
        results["agreement"], ((0.2, 0.15, 0.5, 0.4), (0.24, 0.19, 0.48, None)), strict=True
    ):
        for estimate, rho in zip(entry["estimates"], rhos, strict=True):
            estimate["spearman"] = rho
    shown = view(results)
    best = (
        'Agreeing best with exact ablation: aggregate = "sequence" 0.50 (rank correlation, mean '
        'over the tasks, without domain); then aggregate = "sequence" with normalize = '
        '"layer" 0.40, aggregate = "token" 0.20 and aggregate = "token" with normalize = '
        '"layer" 0.15.'
    )
    assert shown.agreement.best == best
    assert shown.importance.bias.startswith("The classifiers read the first token only.")
    assert shown.importance.bias.endswith(best)
    results["agreement"] = None
    assert view(results).importance.bias.endswith("`iap.agreement_examples = 200` does.")
    for entry in results["importance"]:
        entry["aggregate"] = "sequence"
    assert view(results).importance.bias == ""


@pytest.mark.parametrize(
    ("pooling", "tasks", "token"),
    [
        ("pooler", [{"name": "a"}], "first"),
        ("pooler", [{"name": "a", "image": "image"}], ""),
        ("last", ["sst2"], "last"),
        (None, [{"name": "a", "prompt": "{text}"}], "last"),
        (None, [{"name": "a"}], ""),
    ],
)
def test_which_token_the_classifiers_read(pooling, tasks, token):
    results = fake_results(controls=23)
    results["model"]["pooling"] = pooling
    results["config"]["tasks"] = tasks
    found = view(results).importance.bias
    assert f"read the {token} token only" in found if token else not found


def test_agreement_table_and_doubts(full):
    results, page = full
    for row, entry in zip(rows_of(page, "agreement"), results["agreement"], strict=True):
        assert (row[0], as_number(row[1])) == (entry["task"], entry["n_examples"])
        assert as_number(row[2]) == pytest.approx(entry["spearman"], abs=5.1e-4)
        shares = [one["value"] for one in entry["overlap"]]
        assert [as_number(cell) for cell in row[3:]] == pytest.approx(shares, abs=5.1e-3)
    weak = [entry["task"] for entry in results["agreement"] if entry["spearman"] < 0.7]
    assert list(view(results).agreement.weak) == weak
    undefined = copy.deepcopy(results)
    undefined["agreement"][1]["spearman"] = None
    assert undefined["agreement"][1]["task"] in view(undefined).agreement.weak


def test_standardized_effects_and_values_on_the_sample(full):
    results, page = full
    column = results["fractions"][-1]["dissociation"]["column"]
    table = next(t for t in page.all("table") if t["children"][0].get("id") == "scores-2-0")
    assert table["children"][1]["text"].endswith("SDs")
    rows = [[visible(cell) for cell in row["children"]] for row in table["children"][2]["children"]]
    apart = [column["standardized"]["mean"], *column["standardized"]["values"]]
    sample = [column["on_sample"]["mean"], *column["on_sample"]["values"]]
    for row, distance, value in zip(rows, apart, sample, strict=True):
        assert as_number(row[5]) == pytest.approx(distance, abs=0.051)
        assert as_number(row[2].split("on the sample ")[1]) == pytest.approx(value, abs=0.051)
    assert len(view(results).fractions[-1].panels[0].plot.paths("sample")) == len(sample)


def test_controls_on_a_sample_or_stopped_early_are_said():
    results = fake_results(controls=23, extended=True)
    sample, stopped = view(results).control_notes
    assert "a sample of 500 validation examples of each task" in sample
    assert "stopped before the 100 planned" in stopped
    assert "wrong in at most 1\u00a0% of cases" in stopped
    results["controls"].update(stopped=False, sample=None)
    assert view(results).control_notes == ()
    results["controls"]["sample"] = {"a": 500, "b": 41}
    assert "a sample of 41 to 500 validation" in view(results).control_notes[0]


def test_pairs_have_intervals_and_relative_sizes(full):
    results, page = full
    for row, pair in zip(page.table("pairs-2"), results["fractions"][2]["pairs"], strict=True):
        for place, cell in enumerate((row[2], row[4])):
            value, ends, share = re.split(r" \(|; ", cell)
            assert as_number(value) == pytest.approx(pair["effects"][place], abs=5.1e-4)
            found = [as_number(end) for end in ends.split(" to ")]
            assert found == pytest.approx(pair["effect_intervals"][place], abs=5.1e-4)
            relative = as_number(share.split("\u00a0")[0])
            assert relative == pytest.approx(pair["relative_effects"][place], abs=0.051)


# --- the listing of figures and tables -----------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        {"tasks": 4, "extended": True, "iat": True, "controls": 5},
        {"tasks": 1},
        {"tasks": HOSTILE, "sites": (7, 5), "extended": True, "controls": 2},
        {"fractions": (0.3,), "training": False},
    ],
)
def test_every_figure_and_table_of_the_page_is_listed(case, tmp_path):
    results = fake_results(**case)
    examples = examples_of(fake_folder(tmp_path, results), results)
    report, page = view(results, examples), Page(render(results, examples))
    drawn = [
        svg["aria-labelledby"].split()[0].removesuffix("-title")
        for svg in page.all("svg")
        if svg.get("aria-hidden") != "true"
    ]
    listed = exhibits.figures(report)
    assert [figure.name for figure in listed] == drawn
    titles = [e["text"] for e in page.all("title") if e.get("id", "").endswith("-title")]
    assert [figure.title for figure in listed] == titles
    captions = [caption["id"].removesuffix("-caption") for caption in page.all("caption")]
    assert [table.name for table in exhibits.tables(report)] == captions
    for table in exhibits.tables(report):
        assert {len(row) for row in table.rows} <= {len(table.header)}
        assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_listed_tables_hold_what_the_page_shows(tmp_path):
    results = fake_results(tasks=4, extended=True, iat=True, controls=5)
    examples = examples_of(fake_folder(tmp_path, results), results)
    report, page = view(results, examples), Page(render(results, examples))
    ids = {caption["id"] for caption in page.all("caption")}
    for table in exhibits.tables(report):
        shown = page.table(table.name if table.name in ids else f"{table.name}-caption")
        if table.name == "base":  # the page has a small figure in each row
            shown = [[row[0], row[1].split(" · ")[0], *row[2:6], *row[7:]] for row in shown]
        elif table.name.startswith("scores-"):
            shown = [[*row[:2], row[2].split(" on")[0], *row[3:]] for row in shown]
            table = table._replace(rows=tuple(row[:6] for row in table.rows))
        elif table.name.startswith("map-") and "trained" not in table.name:
            shown = [list(row[1:]) for row in shown]
            largest = max(as_number(cell) for row in table.rows for cell in row[1:])
            for row, cells in zip(table.rows, shown, strict=True):
                for score, cell in zip(row[1:], cells, strict=True):
                    assert as_number(cell.split(",")[0]) == pytest.approx(
                        100 * as_number(score) / largest, abs=0.9
                    )
            continue
        elif table.name.startswith("map-"):
            shown = [row[1:] for row in shown]
            table = table._replace(rows=tuple(row[1:] for row in table.rows))
        assert [list(row) for row in table.rows] == [list(row) for row in shown], table.name


def test_every_listed_figure_names_a_macro_that_draws_it():
    source = (Path(charts.__file__).parent / "templates" / "figures.html").read_text()
    figures = exhibits.figures(view(fake_results(tasks=4, extended=True)))
    assert {figure.macro for figure in figures} == {"strip", "line", "chart"}
    for figure in figures:
        assert f"{{% macro {figure.macro}(" in source
        assert (figure.kind != "") == (figure.macro == "line")


# --- gold ----------------------------------------------------------------------------------------


def gold_report(folder):
    results = fake_results(
        tasks=4, sites=(3, 2), fractions=(0.2, 0.4), controls=3, extended=True, training=False
    )
    return view(results, examples_of(fake_folder(folder, results, examples=23), results))


def compared(path, found):
    if os.environ.get("LOBES_RENEW_GOLD"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_view_of_all_parts_equals_the_gold_file(tmp_path):
    found = dataclasses.asdict(gold_report(tmp_path))
    compared(GOLD / "view.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")


def test_tables_of_all_parts_equal_the_gold_file(tmp_path):
    lines = []
    for table in exhibits.tables(gold_report(tmp_path)):
        lines += [f"# {table.name}: {table.caption}", "\t".join(table.header)]
        lines += ["\t".join(row) for row in table.rows] + [""]
    compared(GOLD / "tables.txt", "\n".join(lines))
