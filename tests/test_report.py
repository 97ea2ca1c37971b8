"""The report: what it says, that its numbers are those of the results, that its page is sound.

`tests/gold/report_view.json` holds the whole view of a small study. After an intended change look
at the difference and renew it: `LOBES_RENEW_GOLD=1 pytest tests/test_report.py -k gold`.
"""

import copy
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fake_results import HOSTILE, fake_results
from lobes.errors import RunError
from lobes.heads import HeadScores, HeadSet
from lobes.report import exhibits, listing
from lobes.report import formatting as fmt
from lobes.report.findings import findings, near_chance
from lobes.report.html import render, write_report
from lobes.report.lesions import double_of
from lobes.report.tabular import MOST_PAIRS
from lobes.report.terminal import tables
from lobes.report.view import view
from pages import Page, as_number, visible

GOLD = Path(__file__).parent / "gold" / "report_view.json"
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
    text = render(results)
    return results, text, Page(text)


@pytest.fixture(scope="module")
def planted():
    results = fake_results(**CASES["planted"])
    return results, Page(render(results))


# --- names and sizes ---------------------------------------------------------------------------


def test_hostile_names_are_text_everywhere():
    page = Page(render(fake_results(**CASES["hostile"])))
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
    page = render(results)
    assert "<img>" not in page
    page.encode("utf-8")
    results["tasks"][0]["metric"] = "<img>"
    with pytest.raises(RunError, match=r"results are damaged .'<img>' is not a metric"):
        render(results)


def test_a_page_of_twelve_tasks_stays_small():
    assert len(render(fake_results(**CASES["twelve tasks"]))) < 1_000_000


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
        name, metric, base, chance, above, share, _, n_validation, n_train = row
        assert name == task["name"]
        assert metric.startswith(task["metric"])
        assert as_number(base) == pytest.approx(task["base"], abs=5e-4)
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
    controls = [
        sum(row[j] for control in entry["control_scores"] for row in control)
        / (3 * len(entry["control_scores"]))
        for j in range(3)
    ]
    expected = [bases, *entry["scores"], controls]
    for texts, changes, scores in zip(raw, change, expected, strict=True):
        for text, shift, score, base in zip(texts[1:], changes[1:], scores, bases, strict=True):
            assert as_number(text) == pytest.approx(score, abs=5.1e-4)
            assert as_number(shift) == pytest.approx(100 * (score - base) / base, abs=0.051)


def test_own_lesions_and_lowest_scores_are_marked(planted):
    results, page = planted
    table = next(t for t in page.all("table") if t["children"][0].get("id") == "raw-2")
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
    raw = view(results).fractions[-1].raw
    assert [[cell.lowest for cell in row.cells] for row in raw[1:3]] == [
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
    for k, (_, value, interval, spread, p) in enumerate(rows):
        assert as_number(value) == pytest.approx(values[k], abs=0.051)
        ends = [as_number(end) for end in interval.split(" to ")]
        assert ends == pytest.approx(intervals[k], abs=0.051)
        ends = [as_number(end) for end in spread.split(" to ")]
        assert ends == pytest.approx([min(controls[k]), max(controls[k])], abs=0.051)
        assert as_number(p) == pytest.approx(p_values[k], abs=5.1e-4)


def test_pairs(planted):
    results, page = planted
    pairs, n_controls = (results["fractions"][0][key] for key in ("pairs", "n_controls"))
    for row, pair in zip(page.table("pairs-0"), pairs, strict=True):
        assert row[:2] == [pair["first"], pair["second"]]
        effects = [as_number(row[2]), as_number(row[4])]
        assert effects == pytest.approx(pair["effects"], abs=5.1e-4)
        expected = fmt.p_value(fmt.number(pair["p_controls_holm"]))
        assert row[7:] == [expected, double_of(pair, n_controls, len(pairs))]


def test_heat_maps_of_sites_with_different_numbers_of_heads():
    sites = (5, 2, 7)
    results = fake_results(tasks=2, sites=sites, fractions=(0.2, 0.5))
    page = Page(render(results))
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
    shown = view(results).importance.maps[0]
    assert shown.largest == "0.04"
    assert [cell.text for cell in shown.rows[0]] == ["−100", "25", "50"]
    assert [cell.rank for cell in shown.rows[0]] == [3, 2, 1]
    assert [cell.shade for cell in shown.rows[0]] == [0, 17, 20]


# --- the sentences -------------------------------------------------------------------------------


def changed(base=None, **column):
    """Results of a planted study whose headline D-score at the largest fraction is replaced."""
    results = fake_results(controls=59, bases=base)
    results["fractions"][-1]["dissociation"]["column"].update(column)
    return results


@pytest.mark.parametrize(
    ("results", "answer", "headline"),
    [
        (fake_results(controls=23), "yes", "Yes: each task’s own heads matter more to it"),
        (
            fake_results(controls=7),
            "open",
            "Inconclusive: 7 random lesions allow no p below 0.125; 19 or more can reach 0.05.",
        ),
        (fake_results(controls=0), "open", "Inconclusive: no random lesions were measured"),
        (
            fake_results(controls=23, effect=0.0),
            "no",
            "No: the D-score does not stand out from random lesions, and its interval ends below "
            "5\u00a0%, the smallest effect of interest.",
        ),
        (
            changed(mean=4.0, mean_interval=[1.5, 6.5], mean_p=0.25),
            "open",
            "Inconclusive: the D-score does not stand out from random lesions, but its interval "
            "(up to +6.5\u00a0%) reaches 5\u00a0%, the smallest effect of interest.",
        ),
        (fake_results(tasks=1), "open", "Inconclusive: a dissociation needs at least two tasks"),
        (
            changed(mean_interval=[-0.5, 3.0]),
            "open",
            "Inconclusive: the D-score exceeds random lesions, but its interval includes 0.",
        ),
        (
            changed(mean=-2.0, mean_interval=[-3.0, -1.0]),
            "no",
            "No: the tasks suffer less from their own lesion",
        ),
        (
            changed(mean=None, mean_interval=[None, None], mean_p=None, note="Base near 0."),
            "open",
            "Inconclusive: the D-score is undefined here.",
        ),
        (
            changed(base=(0.53, 0.45, 0.51)),
            "open",
            "Inconclusive: no task is done clearly better than chance, and a dissociation needs",
        ),
        (
            changed(base=(0.846, 0.45, 0.51)),
            "open",
            "Inconclusive: only one task is done clearly better than chance, and a dissociation",
        ),
        (
            {**fake_results(), "fractions": []},
            "open",
            "Inconclusive: no lesions of every task",
        ),
    ],
)
def test_answer(results, answer, headline):
    found = findings(results)
    assert found.answer == answer
    assert found.headline.startswith(headline)
    assert found.question.startswith(("Do the 3 tasks (sentiment, domain and dom", "Does the task"))


def spaced(sentences):
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def test_sentences_of_a_planted_study():
    results = fake_results(controls=59)
    column = results["fractions"][-1]["dissociation"]["column"]
    main, others, alone, pairs, fractions = spaced(findings(results).sentences)
    assert main.startswith("At 30 % of the heads (21 heads for each task) the model’s column D-sc")
    assert f"is {fmt.points(column['mean'])} % (95 % interval " in main
    assert main.endswith("of 59 random lesions matched by site, none does as much (p = 0.017).")
    assert others.startswith("By the other two definitions: row +")
    assert alone == "One at a time (uncorrected), every task is beyond random lesions."
    assert pairs == "All 3 pairs of tasks show a double dissociation (Holm-corrected p ≤ 0.05)."
    assert fractions.startswith("At the other fractions the column D-score is +")
    assert findings(results).caveats == ()


def test_a_mean_over_other_tasks_than_the_headline_names_them():
    results = fake_results(controls=23)
    names = [task["name"] for task in results["tasks"]]
    small, _, large = results["fractions"]
    small["dissociation"]["column"]["values"][0] = None
    large["dissociation"]["row"]["values"][1] = None
    _, others, *_, fractions = spaced(findings(results).sentences)
    assert re.search(rf"row [^,]*, over {names[0]} and {names[2]} and relative \+[^,]*\.$", others)
    first, second = fractions.split("; ")
    assert first.endswith(f"at 10 % of the heads, p = 0.042, over {names[1]} and {names[2]}")
    assert "over" not in second


def test_sentences_count_controls_tasks_and_pairs():
    results = fake_results(controls=59)
    entry = results["fractions"][-1]
    column = entry["dissociation"]["column"]
    column["control_means"][:2] = [column["mean"], column["mean"] + 1]
    column["mean_p"] = 3 / 60
    column["p_values"] = [0.01, 0.2, 0.3]
    entry["pairs"][0]["double_dissociation"] = False
    entry["pairs"][2]["double_dissociation"] = False
    main, _, alone, pairs, _ = spaced(findings(results).sentences)
    assert "of 59 random lesions matched by site, 2 do as much" in main
    assert alone == ("One at a time (uncorrected), sentiment is beyond random lesions, 1 of 3.")
    assert pairs == (
        "Of 3 pairs of tasks, 1 shows a double dissociation (Holm-corrected p ≤ 0.05): "
        "sentiment with domain-pair."
    )


def test_sentence_of_one_task_compares_with_random_lesions():
    results = fake_results(tasks=1, controls=11)
    (sentence,) = spaced(findings(results).sentences)
    assert sentence.startswith("Ablating the 30 % of heads most important to sentiment takes its ")
    assert "11 random lesions matched by site take it to 0.8" in sentence


def test_caveats_name_what_weakens_the_answer():
    few = spaced(findings(fake_results(controls=10)).caveats)
    assert few == [
        "10 random lesions can give no p below 0.091: set 19 controls or more to be able to reach "
        "p ≤ 0.05, 100 or more for p < 0.01.",
        "10 random lesions are too few to call any of 3 pairs of tasks a double dissociation: 59 "
        "or more can reach a Holm-corrected p ≤ 0.05.",
    ]
    weak = findings(fake_results(controls=59, bases=(0.85, 0.45, 0.3))).caveats
    assert weak[0].startswith("The model is near chance on domain: ")
    assert weak[1] == "The model is below chance on domain-pair; are the labels in another order?"
    doubtful = fake_results(controls=59, extended=True)
    for entry, rho in zip(doubtful["agreement"], (0.3, 0.71, 0.69), strict=True):
        entry["spearman"] = rho
    assert findings(doubtful).caveats[0] == (
        "The importance that chose the lesions is doubtful: its rank correlation with ablating "
        "every head by itself is below 0.7 for sentiment (0.30) and domain-pair (0.69)."
    )
    none = findings(fake_results(controls=0)).caveats
    assert none == ("Without random lesions nothing tells specialisation from mere damage.",)
    wide = findings(changed(mean_interval=[-1.0, 2.0], note="A note.")).caveats
    assert wide[0].startswith("The interval of the headline D-score includes 0")
    assert wide[1] == "On column: A note."
    same = changed(mean_interval=[0.0, 0.0])
    same["fractions"][-1]["lesions"] |= {"sentiment": "0:1,2", "domain": "0:1,2"}
    (alike,) = (c for c in findings(same).caveats if not c.startswith("The model is"))
    assert alike.startswith("The lesions of sentiment and domain are the same ")
    ascending = fake_results(controls=59)
    ascending["iap"]["order"] = "ascending"
    assert "least important heads first" in findings(ascending).caveats[0]


@pytest.mark.parametrize(
    ("base", "n", "expected"),
    [(0.54, 2003, True), (0.56, 2003, False), (0.56, 41, True), (None, 2003, True)],
)
def test_near_chance_knows_the_size_of_the_validation_set(base, n, expected):
    task = {"metric": "accuracy", "base": base, "chance": 0.5, "n_validation": n}
    assert near_chance(task) is expected


def test_page_and_terminal_say_the_same_sentences(case):
    results, _, page = case
    found = view(results).findings
    shown = printed(results, width=2000)
    said = [e["text"] for e in page.all("li") + page.all("p")]
    assert page.all("h2")[0]["text"] == found.headline
    for sentence in (*found.sentences, *found.caveats):
        assert sentence in said
        assert sentence.replace("\u00a0%", "%").replace("\u00a0", " ") in shown
    assert found.headline.replace("\u00a0%", "%").replace("\u00a0", " ") in shown


# --- the terminal --------------------------------------------------------------------------------


def printed(results, width=100):
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        for part in tables(results):
            console.print(part)
    return capture.get()


def test_terminal_shows_the_headline_fraction_and_reads_no_markup():
    text = printed(fake_results(tasks=("[red]a[/red]", "b\x1b[2J"), controls=19))
    assert "[red]a[/red]" in text
    assert "\x1b" not in text
    assert "Scores under lesions of 30% of the heads (21 heads)" in text
    assert "D-scores in percent at 30% of the heads" in text
    assert text.count("all tasks") == 3


def test_terminal_of_one_task_has_no_d_scores():
    text = printed(fake_results(tasks=1))
    assert "Base scores" in text
    assert "D-scores" not in text
    assert "Inconclusive" in text


# --- reading and writing -------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps(fake_results()), encoding="utf-8")
    return tmp_path


def test_undefined_numbers_are_dashes_not_zeros():
    results = fake_results(tasks=2, controls=19)
    results["tasks"][0]["base"] = 0.01
    results["fractions"][-1]["scores"][1] = [None, None]
    for data in results["fractions"][-1]["dissociation"].values():
        data.update(values=[None, None], interval=[[None, None]] * 2, p_values=[None, None])
        data.update(mean=None, mean_interval=[None, None], mean_p=None, control_values=[])
        data.update(control_means=[], note="The base is near 0.")
    last = view(results).fractions[-1]
    assert [cell.text for cell in last.raw[2].cells] == ["–", "–"]
    assert last.change[1].cells[0].text == "–"
    assert last.panels[0].plot is None
    assert [row.value for row in last.panels[0].rows] == ["–", "–", "–"]
    notes = Page(render(results)).all("p", **{"class": "note"})
    assert "The base is near 0." in [note["text"] for note in notes]


def test_writing_replaces_the_page_in_one_step(run, monkeypatch):
    page = run / "out" / "report.html"
    assert write_report(run, page) == page
    first = page.read_text(encoding="utf-8")
    assert first == render(fake_results())
    mask = os.umask(0)
    os.umask(mask)
    assert page.stat().st_mode & 0o777 == 0o666 & ~mask

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunError, match=r"The disk is full: cannot write .*report\.html; make room"):
        write_report(run, page)
    assert page.read_text(encoding="utf-8") == first
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


def test_rendering_changes_nothing_and_is_repeatable():
    results = fake_results()
    before = copy.deepcopy(results)
    assert render(results) == render(results)
    assert results == before


def test_the_report_loads_neither_torch_nor_transformers():
    code = (
        "import sys, lobes.report.html, lobes.report.terminal; "
        "sys.exit(bool({'torch', 'transformers', 'plotly'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- many tasks ----------------------------------------------------------------------------------


def test_many_tasks_are_summarized_and_exported_whole():
    results = fake_results(
        tasks=29, sites=(7, 5), fractions=(0.3, 0.5), controls=3, training=False, extended=True
    )
    page, whole = view(results), view(results, whole=True)
    names = [task["name"] for task in results["tasks"]]
    for shown, entry, full in zip(
        page.fractions, results["fractions"], whole.fractions, strict=True
    ):
        assert (shown.raw, shown.change, shown.overlap) == ((), (), ())
        assert (shown.n_pairs, len(shown.pairs)) == (29 * 14, MOST_PAIRS)
        assert shown.n_double == sum(pair["double_dissociation"] for pair in entry["pairs"])
        assert all(pair in full.pairs for pair in shown.pairs)
        assert shown.summary == full.summary
        scores = np.array(entry["scores"])
        for j, line in enumerate(shown.summary.rows):
            column = scores[:, j]
            overlaps = [cell.text for place, cell in enumerate(full.overlap[j].cells) if place != j]
            largest = max(overlaps, key=lambda text: float(text.split()[0]))
            assert line[:4] == (
                *(
                    names[j],
                    fmt.fixed(results["tasks"][j]["base"]),
                    fmt.fixed(column[j]),
                ),
                fmt.fixed(np.delete(column, j).mean()),
            )
            assert line[5] == names[column.argmin()]
            assert line[7] == largest.split()[0]
    found = {table.name: table for table in exhibits.tables(whole)}
    assert len(found["raw-1"].rows) == 31  # the base, 29 lesions, random lesions
    assert len(found["pairs-1"].rows) == len(found["likeness"].rows) == 29 * 14
    assert len(page.similarity.tables[1].rows) <= MOST_PAIRS
    assert found["likeness"].caption.startswith("Every pair of tasks")
    assert "evenly chosen" in page.similarity.tables[1].caption
    assert not {"raw-0", "overlap-1"} & {drawn.name for drawn in listing.figures_of(whole)}
    assert "Each task’s score under lesions" in str(tables(results)[1].renderables[0])


def test_a_page_grows_with_the_number_of_tasks_and_not_with_its_square():
    small, large = (
        len(render(fake_results(tasks=n, sites=(3, 2), fractions=(0.4,), controls=3)))
        for n in (31, 62)
    )
    assert large < 2 * small


# --- gold ----------------------------------------------------------------------------------------


def test_view_equals_the_gold_file():
    results = fake_results(tasks=2, sites=(3, 2), fractions=(0.2, 0.4), controls=5, iat=True)
    losses = results["training"]["losses"]
    results["training"]["losses"] = losses[:7]
    found = json.loads(json.dumps(dataclasses.asdict(view(results)), ensure_ascii=False))
    if os.environ.get("LOBES_RENEW_GOLD"):
        GOLD.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(GOLD.read_text(encoding="utf-8"))


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
