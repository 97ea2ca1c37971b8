"""The report's parts on claims, dose, overlap, similarity, growth and agreement.

`tests/gold/report/page.txt` holds the findings and every table of one made-up run that has all
parts. After an intended change look at the difference and renew it:
`LOBES_RENEW_GOLD=1 pytest tests/test_report_sections.py -k gold`.
"""

import copy
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest

from fake_extended import fake_folder
from fake_results import HOSTILE, fake_results, renewed
from lobes.heads import HeadSet
from lobes.report import formatting as fmt
from lobes.report.page import html
from lobes.report.run.agreement import bias
from lobes.report.sections import Prose, figures, tables
from lobes.results import RunResults, checked
from pages import Page, as_number, visible
from run_pages import findings_of, printed, run_html, run_page, table_of, texts_of

GOLD = Path(__file__).parent / "gold" / "report" / "page.txt"
FURTHER = ("claims", "likeness", "growth", "agreement", "examples")


@pytest.fixture(scope="module")
def full():
    """A run of five tasks that has every part; its page."""
    results = fake_results(tasks=5, controls=23, extended=True)
    return results, Page(run_html(results))


def section_of(results, name):
    """A section of the page of these results, whose verdicts are made anew."""
    return next(each for each in run_page(renewed(results)).sections if each.id == name)


def prose_of(results, name):
    """The text of a section's paragraphs."""
    return " ".join(str(b.text) for b in section_of(results, name).blocks if isinstance(b, Prose))


# --- what is absent stays absent -----------------------------------------------------------------


def test_a_run_that_measured_nothing_further_has_none_of_these_parts():
    page = Page(run_html(fake_results(controls=23)))
    assert not [part for part in FURTHER if page.part(part)]
    assert not page.all("path", **{"class": "sample"})


def test_one_task_has_neither_similarity_nor_overlap_nor_growth():
    page = Page(run_html(fake_results(tasks=1, extended=True)))
    for part in ("likeness", "overlap", "growth", "claims"):
        assert not page.part(part)
    assert page.part("dose")
    assert page.part("agreement")


# --- the claims ----------------------------------------------------------------------------------


def claims_of(results):
    """The rows of the table of claims, by the section with the details: answer, reason, sure."""
    table = table_of(run_page(renewed(results)), "claims-table")
    links = [row.cells[0].href.removeprefix("#") for row in table.rows]
    return {link: row[1:] for link, row in zip(links, texts_of(table), strict=True)}


def test_the_first_claim_is_the_finding(full):
    results, page = full
    found = findings_of(run_page(results))
    claims = claims_of(results)
    answer, headline, sure = claims["findings"]
    assert (found.answer, found.headline) == (answer, headline)
    assert answer == "yes"
    over = results["over_fractions"]
    (entry,) = (e for e in results["fractions"] if e["fraction"] == over["strongest"])
    mean = entry["dissociation"]["column"]["mean"]
    said = sure.replace("\u00a0", " ")
    assert said.startswith(f"D-score {fmt.points(mean)} %")
    assert f"p = {over['p']:.3f} over all 3 fractions, 23 exchanges, up to 21 heads that" in said
    assert [row[1:] for row in page.table("claims-table")] == [*claims.values()]
    assert [*claims] == ["findings", "growth", "likeness"]


@pytest.mark.parametrize(
    ("interval", "answer"),
    [([0.1, 9.0], "yes"), ([-3.0, -0.1], "no"), ([-0.1, 4.0], "inconclusive")],
)
def test_growth_is_judged_by_the_interval_of_the_change(interval, answer):
    results = fake_results(controls=23, extended=True)
    results["growth"]["change"]["column"]["mean_interval"] = interval
    said, _, sure = claims_of(results)["growth"]
    assert said == answer
    assert f"(interval {fmt.interval(*interval)}, paired bootstrap)" in sure


def test_growth_that_is_undefined_is_open():
    results = fake_results(controls=23, extended=True)
    results["growth"]["change"]["column"].update(mean=None, mean_interval=[None, None])
    assert claims_of(results)["growth"] == [
        "inconclusive",
        "Inconclusive: the D-score is undefined before or after the training.",
        "–",
    ]
    assert "is not defined here" in prose_of(results, "growth")


def test_similarity_is_said_with_the_numbers_of_the_measure_that_decides():
    results = fake_results(tasks=5, controls=23, extended=True)
    for one in results["similarity"]["measures"]:
        one["trend"].update(p=0.02, p_holm=0.08, interval=[-0.9, -0.2])
    answer, reason, sure = claims_of(results)["likeness"]
    assert answer == "inconclusive"
    assert "overlap, gradient and cka reaches a correlation of −0.3, the smallest" in reason
    assert sure == (
        "rank correlation of the importance maps, corrected for noise: correlation −0.62 "
        "(interval −0.90 to −0.20), "
        "p\u00a0=\u00a00.020 by exchanging tasks, p\u00a0=\u00a00.080 corrected for 4 measures"
    )
    few = fake_results(tasks=3, controls=23, extended=True)
    assert claims_of(few)["likeness"] == [
        "inconclusive",
        "Inconclusive: 3 tasks make 3 pairs, too few for a correlation.",
        "–",
    ]


def test_terminal_says_every_further_claim_on_one_line():
    lines = printed(fake_results(tasks=5, controls=23, extended=True), width=2000).splitlines()
    assert lines[-2:] == [
        "1b. The heads are more specialized after multi-task training than before. Yes: the "
        "D-score is larger than before multi-task training.",
        "2. The less alike two tasks are, the more they dissociate. Yes: the less alike two tasks "
        "are, the more they dissociate.",
    ]


# --- the numbers are those of the results --------------------------------------------------------


def test_dose_and_response(full):
    results, page = full
    rows = iter(page.table("dose"))
    for j, task in enumerate(results["tasks"]):
        for entry in results["fractions"]:
            name, heads, own, others, random, band = next(rows)
            scores = 100 * np.array(entry["scores"])[:, j] / task["base"]
            drawn = 100 * np.array(entry["random_scores"])[:, :, j].ravel() / task["base"]
            assert (name, as_number(heads)) == (task["name"], 100 * entry["fraction"])
            assert as_number(own) == pytest.approx(scores[j], abs=0.051)
            assert as_number(others) == pytest.approx(np.delete(scores, j).mean(), abs=0.051)
            assert as_number(random) == pytest.approx(drawn.mean(), abs=0.051)
            ends = [as_number(end) for end in band.split(" to ")]
            assert ends == pytest.approx(np.percentile(drawn, [5, 95]).tolist(), abs=0.051)
    assert next(rows, None) is None


def test_dose_curves_stand_where_the_axes_say():
    results = fake_results(tasks=2, controls=9, fractions=(0.2, 0.4))
    results["tasks"][0]["base"] = 0.8
    for entry, own in zip(results["fractions"], (0.72, 0.64), strict=True):
        entry["scores"][0][0] = own
    found = next(each.drawing for each in figures(run_page(results)) if each.name == "dose-0")
    (own,) = found.paths("accent")[:1]
    places = re.findall(r"[ML]([\d.]+) ([\d.]+)", own)
    xs = {text.text: text.x for text in found.texts("tick")}
    ys = {text.text: text.y - 4 for text in found.texts("end")}
    expected = [(xs["0"], ys["100"]), (xs["20"], ys["90"]), (xs["40"], ys["80"])]
    assert [(float(x), float(y)) for x, y in places] == expected
    assert "own lesion: 100.0 at 0 %, 90.0 at 20 %, 80.0 at 40 %." in found.description


def test_random_lesions_on_a_sample_are_relative_to_the_base_score_there():
    results = fake_results(tasks=2, controls=9, extended=True)
    before = run_page(results)
    results["controls"]["base"] = {task["name"]: task["base"] * 0.9 for task in results["tasks"]}
    after = run_page(results)
    for old, new in zip(*(table_of(page, "dose").rows for page in (before, after)), strict=True):
        assert old.cells[2:4] == new.cells[2:4]
        assert new.cells[4] == pytest.approx(old.cells[4] / 0.9)
    old, new = (table_of(page, "change-2").rows for page in (before, after))
    assert old[:-1] == new[:-1]
    shares = [[100 + cell.value for cell in rows[-1].cells[1:]] for rows in (old, new)]
    assert shares[1] == pytest.approx([share / 0.9 for share in shares[0]])


def test_a_base_score_near_zero_has_no_dose_curve():
    results = fake_results(tasks=2, controls=3)
    results["tasks"][1]["base"] = 0.01
    page = run_page(results)
    assert [f.name for f in figures(page) if f.name.startswith("dose")] == ["dose-0"]
    assert "No curve for domain:" in prose_of(results, "dose")
    assert {row[2] for row in texts_of(table_of(page, "dose")) if row[0] == "domain"} == {"–"}


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
    caption = table_of(run_page(results), "overlap-0").caption
    said = float(re.search(r"random lesions of this size: ([\d.]+) on average", caption)[1])
    assert said == pytest.approx(mean, abs=0.012)


def test_similarity_tables_and_scatters(full):
    results, page = full
    found = results["similarity"]
    pairs = list(itertools.combinations(range(5), 2))
    for row, (i, j) in zip(page.table("likeness"), pairs, strict=True):
        assert row[:2] == [results["tasks"][i]["name"], results["tasks"][j]["name"]]
        assert as_number(row[2]) == pytest.approx(found["pair_d_scores"][i][j], abs=0.051)
        values = [one["values"][i][j] for one in found["measures"]]
        assert [as_number(cell) for cell in row[3:]] == pytest.approx(values, abs=5.1e-4)
    for row, one in zip(page.table("trends"), found["measures"], strict=True):
        assert row[0] == one["name"]
        assert as_number(row[2]) == one["trend"]["correlation"]
        assert [as_number(end) for end in row[3].split(" to ")] == one["trend"]["interval"]
        assert as_number(row[4]) == one["trend"]["p"]
        assert as_number(row[5]) == pytest.approx(4 * one["trend"]["p"])
    assert len(page.all("path", **{"class": "marks accent faint"})) == 4 * len(pairs)


def test_growth_tables(full):
    results, page = full
    points = results["growth"]["points"]
    for row, point in zip(page.table("growth"), points, strict=True):
        assert (as_number(row[0]), row[1]) == (point["step"], point["classifiers"])
        for place, name in enumerate(("column", "row", "relative")):
            found = point["dissociation"][name]
            assert as_number(row[2 + 2 * place]) == pytest.approx(found["mean"], abs=0.051)
            ends = [as_number(end) for end in row[3 + 2 * place].split(" to ")]
            assert ends == pytest.approx(found["mean_interval"], abs=0.051)
    for name, key in (("growth-base", "base"), ("growth-stability", "stability")):
        for row, point in zip(page.table(name), points, strict=True):
            assert [as_number(cell) for cell in row[1:]] == pytest.approx(point[key], abs=5.1e-4)


@pytest.mark.parametrize(
    ("change", "interval", "said"),
    [
        (9.3, [7.0, 11.0], "rose from +3."),
        (-2.0, [-4.0, -1.0], "fell from +3."),
        (1.0, [-1.0, 3.0], "not distinguishable from zero with these validation examples."),
    ],
)
def test_growth_in_words(change, interval, said):
    results = fake_results(controls=23, extended=True)
    results["growth"]["change"]["column"].update(mean=change, mean_interval=interval)
    assert said in prose_of(results, "growth")


def test_growth_compares_the_same_tasks_at_both_ends():
    results = fake_results(tasks=3, controls=23, extended=True)
    first, middle, _, last = (p["dissociation"]["column"] for p in results["growth"]["points"])
    first.update(mean=-7.4, shared_mean=-18.8, shared_interval=[-21.0, -17.0])
    middle.update(mean=-3.5, shared_mean=-9.0, shared_interval=[None, None])
    last.update(mean=-5.55, shared_mean=-21.1, shared_interval=[-23.0, -19.0])
    change = results["growth"]["change"]["column"]
    change.update(values=[-2.3, None, None], mean=-2.3, mean_interval=[-4.0, -1.0])
    names = [task["name"] for task in results["tasks"]]
    text = prose_of(results, "growth")
    assert "fell from −18.8 % at step 0 to −21.1 % at step 300: a change of −2.3" in text
    assert (
        f"The means leave out {names[1]} and {names[2]}, without a D-score at one of the two steps."
    ) in text
    assert [row[2:4] for row in texts_of(table_of(run_page(results), "growth"))][:2] == [
        ["−18.8", "−21.0 to −17.0"],
        ["−9.0", "–"],
    ]
    sure = claims_of(results)["growth"][2]
    assert sure.startswith("−18.8 %")
    assert sure.endswith(f"without {names[1]} and {names[2]}")


def test_stability_is_found_by_the_name_of_its_task():
    results = fake_results(tasks=3, controls=23, extended=True)
    for point in results["growth"]["points"]:
        del point["importance"][0]
        point["stability"] = [0.25, 0.75]
    rows = texts_of(table_of(run_page(results), "growth-stability"))
    assert [row[1:] for row in rows] == [["–", "0.250", "0.750"]] * 4


def bias_of(results):
    return bias(checked(results, RunResults))


def test_an_estimate_that_is_biased_where_one_token_is_read_says_so():
    results = fake_results(tasks=2, controls=23, extended=True)
    assert bias_of(results) == ""  # a mean over the tokens reads all of them
    results["model"]["pooling"] = "first"
    for entry, rhos in zip(
        results["agreement"], ((0.2, 0.15, 0.5, 0.4), (0.24, 0.19, 0.48, None)), strict=True
    ):
        for estimate, rho in zip(entry["estimates"], rhos, strict=True):
            estimate["spearman"] = rho
    best = (
        'Agreeing best with exact ablation: aggregate = "sequence" 0.50 (rank correlation, mean '
        'over the tasks, without domain); then aggregate = "sequence" with normalize = '
        '"layer" 0.40, aggregate = "token" 0.20 and aggregate = "token" with normalize = '
        '"layer" 0.15.'
    )
    assert best in prose_of(results, "agreement")
    assert bias_of(results).startswith("The classifiers read the first token only.")
    assert bias_of(results).endswith(best)
    assert bias_of(results) in prose_of(results, "importance")
    results["agreement"] = None
    assert bias_of(results).endswith("`iap.agreement_examples = 200` does.")
    for entry in results["importance"]:
        entry["aggregate"] = "sequence"
    assert bias_of(results) == ""


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
    found = bias_of(results)
    assert f"read the {token} token only" in found if token else not found


def test_importance_that_is_noisy_says_how_many_examples_would_do():
    results = fake_results(tasks=4, sites=(3, 2))
    for entry, r in zip(results["importance"], (0.9, 0.5, 0.4, -0.2), strict=True):
        entry["reliability"] = r
    page = run_page(renewed(results))
    assert texts_of(table_of(page, "reliability")) == [
        ["sentiment", "0.90", "2 000", "4 000", ""],
        [
            *("domain", "0.50", "2 000", "4 000"),
            "about 8 000 examples; there are no more than 4 000",
        ],
        [
            *("domain-pair", "0.40", "2 000", "4 000"),
            "about 12 000 examples; there are no more than 4 000",
        ],
        [
            *("entailment", "−0.20", "2 000", "4 000"),
            "the halves do not agree at all: no number of examples can be told",
        ],
    ]
    assert any("is below 0.8 for domain (0.50), " in each for each in findings_of(page).caveats)
    assert "Reliability of the importance" in printed(renewed(results))
    results["importance"][1].update(reliability=0.7, n_examples=1000)
    page = run_page(renewed(results))
    needed = texts_of(table_of(page, "reliability"))[1][-1]
    assert needed == "about 1 800 examples (iap.importance_examples)"
    r, k = 0.7, 12 / 7  # by the formula of Spearman and Brown k times the examples give
    assert k * r / (1 + (k - 1) * r) == pytest.approx(0.8)
    for entry in results["importance"]:
        entry["reliability"] = 0.9
    reliable = table_of(run_page(renewed(results)), "reliability")
    assert [column.title for column in reliable.columns][-1] == "Available"


def test_maps_of_two_tasks_are_compared_without_their_noise():
    results = fake_results(tasks=3, sites=(5, 7))
    for entry in results["importance"]:
        entry["reliability"] = 0.64
    _, _, measured, corrected = zip(
        *texts_of(table_of(run_page(results), "importance-pairs")), strict=True
    )
    for before, after in zip(measured, corrected, strict=True):
        expected = np.clip(as_number(before) / 0.64, -1, 1)
        assert as_number(after) == pytest.approx(expected, abs=0.02)
    results["importance"][0]["reliability"] = None
    page = run_page(results)
    assert len(table_of(page, "importance-pairs").columns) == 3
    results["importance"] = [{**each, "reliability": None} for each in results["importance"]]
    assert "reliability" not in [table.name for table in tables(run_page(results))]


def test_agreement_table_and_doubts(full):
    results, page = full
    for row, entry in zip(page.table("agreement"), results["agreement"], strict=True):
        assert (row[0], as_number(row[1])) == (entry["task"], entry["n_examples"])
        assert as_number(row[2]) == pytest.approx(entry["spearman"], abs=5.1e-4)
        shares = [one["value"] for one in entry["overlap"]]
        assert [as_number(cell) for cell in row[3:-1]] == pytest.approx(shares, abs=5.1e-3)
        assert as_number(row[-1]) == entry["reliability"]
    weak = [entry["task"] for entry in results["agreement"] if entry["spearman"] < 0.7]
    doubt = "The estimate is doubtful (rank correlation below 0.7) for"
    assert f"{doubt} {', '.join(weak)}." in prose_of(results, "agreement")
    undefined = copy.deepcopy(results)
    undefined["agreement"][4]["spearman"] = None
    assert f"{doubt} {', '.join([*weak, 'paraphrase'])}." in prose_of(undefined, "agreement")


def test_dots_of_the_agreement_are_heads_that_exist():
    results = fake_results(tasks=2, sites=(7, 5, 11), extended=True)
    found = [each.drawing for each in figures(run_page(results)) if "agreement" in each.name]
    assert [drawing.description.split(";")[0] for drawing in found] == ["23 heads"] * 2
    dots = [re.findall(r"h0", path) for drawing in found for path in drawing.paths("cloud")]
    assert [len(each) for each in dots] == [23, 23]


def test_standardized_effects_and_values_on_the_sample(full):
    results, page = full
    column = results["fractions"][-1]["dissociation"]["column"]
    table = next(t for t in page.all("table") if t["children"][0].get("id") == "scores-2-0-caption")
    assert table["children"][1]["text"].endswith("SDsp")
    rows = [[visible(cell) for cell in row["children"]] for row in table["children"][2]["children"]]
    apart = [column["mean_standardized"], *column["standardized"]]
    sample = [column["compared_mean"], *column["compared"]]
    for row, distance, value in zip(rows, apart, sample, strict=True):
        assert as_number(row[4]) == pytest.approx(distance, abs=0.051)
        assert as_number(row[2].split("on the sample ")[1]) == pytest.approx(value, abs=0.051)
    drawn = next(each.drawing for each in figures(run_page(results)) if each.name == "strip-2-0")
    assert len(drawn.paths("sample")) == len(sample)


def test_controls_on_a_sample_or_stopped_early_are_said():
    results = fake_results(controls=23, extended=True)
    assert "a sample of 500 validation examples of each task" in prose_of(results, "dissociation")
    text = " ".join(section_of(results, "findings").findings.sentences)
    assert "Heads were exchanged 23 times, not 100: none of these deals dissociate" in text
    assert "p is that of 23 exchanges; with iap.stop = false the same command" in text
    page = html(run_page(results, None))
    assert "Hollow: on the exchanges’ sample" in page
    assert "framed: a task under its own lesion; ▾: the lowest of its column." in page
    results["controls"].update(stopped=False, sample=None, base=None)
    assert "validation examples" not in prose_of(results, "dissociation")
    assert "Hollow:" not in html(run_page(results, None))
    text = " ".join(section_of(results, "findings").findings.sentences)
    assert "After 39 exchanges p was not settled, so that all 100 were measured" in text
    results["controls"].update(look=None)
    assert "settled" not in " ".join(section_of(results, "findings").findings.sentences)
    names, bases = zip(*((t["name"], t["base"]) for t in results["tasks"]), strict=True)
    sample, base = (dict(zip(names, each, strict=True)) for each in ((500, 41, 97), bases))
    results["controls"].update(sample=sample, base=base)
    assert "a sample of 41 to 500 validation" in prose_of(results, "dissociation")


def test_pairs_have_intervals_and_relative_sizes(full):
    results, page = full
    for row, pair in zip(page.table("pairs-2"), results["fractions"][2]["pairs"], strict=True):
        for place, cell in enumerate((row[2], row[4])):
            value, ends, share = re.fullmatch(r"(\S+) (\S+ to \S+), (.+) of base", cell).groups()
            assert as_number(value) == pytest.approx(pair["effects"][place], abs=5.1e-4)
            found = [as_number(end) for end in ends.split(" to ")]
            assert found == pytest.approx(pair["effect_intervals"][place], abs=5.1e-4)
            relative = as_number(share.replace("\u00a0", " "))
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
    listed = run_page(results, fake_folder(tmp_path, results))
    page = Page(html(listed))
    drawn = [
        svg["aria-labelledby"].split()[0].removesuffix("-title")
        for svg in page.all("svg")
        if svg.get("aria-hidden") != "true"
    ]
    glance = [name for name in drawn if name.startswith("glance-")]
    drawn = [name for name in drawn if name not in glance]
    assert len(glance) == (2 if case.get("tasks") != 1 else 1)
    tabular = ("raw", "change", "overlap", "map", "maps")  # a page shows these as tables
    plotted = [each for each in figures(listed) if each.name.split("-")[0] not in tabular]
    assert [figure.name for figure in plotted] == drawn
    titles = [
        e["text"]
        for e in page.all("title")
        if e.get("id", "").endswith("-title") and not e["id"].startswith("glance-")
    ]
    assert [figure.drawing.title for figure in plotted] == titles
    captions = [caption["id"].removesuffix("-caption") for caption in page.all("caption")]
    captions = [name for name in captions if not name.startswith("glance-")]
    assert [name for name in names_of(listed) if name in captions] == captions
    assert len(names_of(listed)) == len({*names_of(listed)})


def names_of(page):
    return [table.name for table in tables(page)]


# --- gold ----------------------------------------------------------------------------------------


def test_findings_and_tables_of_all_parts_equal_the_gold_file(tmp_path):
    results = fake_results(
        tasks=4, sites=(3, 2), fractions=(0.2, 0.4), controls=3, extended=True, training=False
    )
    page = run_page(results, fake_folder(tmp_path, results, examples=23))
    said = findings_of(page)
    lines = [said.question, said.headline, *said.sentences, *said.caveats, ""]
    for table in tables(page):
        written = [column.kind != "drawing" for column in table.columns]
        rows = [[column.title for column in table.columns], *texts_of(table)]
        lines.append(f"# {table.name}: {table.caption}")
        lines += ["\t".join(itertools.compress(row, written)) for row in rows] + [""]
    found = "\n".join(lines)
    if os.environ.get("LOBES_RENEW_GOLD"):
        GOLD.write_text(found, encoding="utf-8")
    assert found == GOLD.read_text(encoding="utf-8")
