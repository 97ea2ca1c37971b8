"""The page of several runs: its verdict, and that its numbers are those of the data."""

import copy
import json
import re

import numpy as np
import pytest
from rich.console import Console

from fake_results import HOSTILE
from fake_runs import fake_runs
from lobes.errors import RunError
from lobes.report import formatting as fmt
from lobes.report.runs import render, tables, view
from lobes.report.runs_findings import runs_findings
from pages import Page, as_number
from plain_results import read_runs

CASES = {
    "one run": {"runs": 1},
    "two runs, two tasks": {"runs": 2, "tasks": 2},
    "three runs": {},
    "ten runs, twelve tasks": {"runs": 10, "tasks": 12},
    "no controls": {"controls": 0},
    "hostile": {"tasks": HOSTILE, "names": HOSTILE, "models": HOSTILE},
}


def spaced(sentences):
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def changed(change, **case):
    """Runs whose entry of the largest fraction's column D-score went through `change`."""
    content = fake_runs(**case)
    change(content["fractions"][-1]["dissociation"]["column"])
    return content


def undefined(score):
    score["mean"] = dict.fromkeys(score["mean"])
    score["p_controls"] = None


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "answer", "headline"),
    [
        (fake_runs(), "yes", "Yes: over the runs, each task’s own heads matter more to it than"),
        (
            fake_runs(effect=0.0, noise=0.001),
            "no",
            "No: over the runs, the D-score does not stand out from random lesions, and its interv",
        ),
        (fake_runs(runs=1), "open", "Inconclusive: one run alone does not show how much anoth"),
        (fake_runs(controls=0), "open", "Inconclusive: no random lesions were measured to compa"),
        (
            fake_runs(controls=7),
            "open",
            "Inconclusive: 7 random lesions allow no p below 0.125; 19 or more can reach 0.05.",
        ),
        (
            changed(lambda score: score["mean"].update(low=-0.1)),
            "open",
            "Inconclusive: over the runs, the D-score exceeds random lesions, but its interval inc",
        ),
        (
            changed(lambda score: score["mean"].update(low=-2.0, high=-0.1)),
            "no",
            "No: over the runs, the tasks suffer less from their own lesion than from the others’.",
        ),
        (changed(undefined), "open", "Inconclusive: the mean D-score is undefined here."),
        (
            fake_runs(bases=(0.53, 0.45, 0.51)),
            "open",
            "Inconclusive: no task is done clearly better than chance, and a dissociation needs tw",
        ),
    ],
)
def test_answer(content, answer, headline):
    found = runs_findings(content)
    assert found.answer == answer
    assert found.headline.startswith(headline)


def test_sentences_speak_of_the_largest_fraction_and_of_column():
    content = fake_runs(controls=59)
    column = content["fractions"][-1]["dissociation"]["column"]
    found = runs_findings(content)
    assert found.question == (
        "Over 3 runs, do the 3 tasks (sentiment, domain and domain-pair) depend on different "
        "attention heads of all-MiniLM-L6-v2?"
    )
    main, spread, others, alone, pairs, rest = spaced(found.sentences)
    mean = column["mean"]
    assert main == (
        f"At 30 % of the heads the column D-score is {fmt.points(mean['mean'])} % on average "
        f"(95 % interval over runs and examples {fmt.interval(mean['low'], mean['high'])}); of "
        f"59 random lesions, each averaged over the runs, none does as much (p = 0.017)."
    )
    low, high = np.argmin(column["means"]), np.argmax(column["means"])
    share = 100 * mean["over_runs"] / (mean["over_runs"] + mean["over_examples"])
    assert spread == (
        f"Single runs lie between {fmt.points(column['means'][low])} % (run{low}) and "
        f"{fmt.points(column['means'][high])} % (run{high}); the runs make {share:.0f} % of the "
        f"variance of the mean, the validation examples the rest."
    )
    assert others.startswith("By the other two definitions: row +")
    assert alone == "One at a time (uncorrected), the interval lies above 0 for every task."
    assert pairs.startswith("All 3 pairs of tasks show a double dissociation over the runs (Holm")
    assert rest.startswith("At the other fractions the column D-score is +")
    assert "at 10 % of the heads" in rest


def test_means_over_other_tasks_than_the_headline_name_them():
    content = fake_runs()
    names = [task["name"] for task in content["tasks"]]
    small, large = content["fractions"]
    small["dissociation"]["column"]["tasks"][0]["mean"] = None
    large["dissociation"]["relative"]["tasks"][1]["mean"] = None
    sentences = spaced(runs_findings(content).sentences)
    assert sentences[2].endswith(f", over {names[0]} and {names[2]}.")
    assert sentences[-1].endswith(f", over {names[1]} and {names[2]}.")


def test_tasks_and_pairs_that_stand_out_are_named():
    content = fake_runs(controls=59)
    entry = content["fractions"][-1]
    entry["dissociation"]["column"]["tasks"][1]["low"] = -0.3
    for pair in entry["pairs"][1:]:
        pair["double_dissociation"] = False
    sentences = spaced(runs_findings(content).sentences)
    assert sentences[3].endswith("above 0 for sentiment and domain-pair, 2 of 3.")
    assert sentences[4].endswith(
        "1 shows a double dissociation over the runs (Holm-corrected p ≤ "
        "0.05): sentiment with domain."
    )


def test_caveats():
    (few,) = runs_findings(fake_runs(controls=59)).caveats
    assert few == "3 runs make wide intervals: only a large D-score can show. Take 5 or more."
    assert runs_findings(fake_runs(runs=5, controls=59)).caveats == ()
    (one,) = runs_findings(fake_runs(runs=1, controls=59)).caveats
    assert one.startswith("Nothing is known about other runs: with one run there is no interval")
    content = fake_runs(runs=6, controls=7, models=("one", "two"), bases=(0.846, 0.912, 0.51))
    content["runs"][4]["seed"] = 0
    content["fractions"][-1]["dissociation"]["column"]["tasks"][0] |= {"mean": None, "low": None}
    same, models, weak, controls, pairs, missing = spaced(runs_findings(content).caveats)
    assert same.startswith("Some runs have the same model and seed (run0 with run4): they may be")
    assert models.startswith("The runs are of different models (one and two): the interval is")
    assert weak.startswith("The models are near chance on domain-pair: ")
    assert controls.startswith("7 random lesions can give no p below 0.125: more runs do not")
    assert pairs.startswith("7 random lesions are too few to call any of 3 pairs of tasks a doub")
    assert missing == "Without a D-score in some run, and so left out of the mean: sentiment."


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    content = fake_runs(runs=5, names=tuple("abcde"))
    return content, Page(render(content))


def test_runs_table(planted):
    content, page = planted
    columns = [entry["dissociation"]["column"]["means"] for entry in content["fractions"]]
    rows = page.table("runs-caption")
    assert [row[:3] for row in rows] == [
        [name, "all-MiniLM-L6-v2", str(k)] for k, name in enumerate("abcde")
    ]
    for place, row in enumerate(rows):
        assert [as_number(cell) for cell in row[4:]] == pytest.approx(
            [column[place] for column in columns], abs=0.051
        )


@pytest.mark.parametrize(("place", "name"), list(enumerate(("column", "row", "relative"))))
def test_d_score_tables_and_figures(planted, place, name):
    content, page = planted
    data = content["fractions"][-1]["dissociation"][name]
    rows = page.table(f"d-scores-{place}-caption")
    assert [row[0] for row in rows] == ["all tasks", "sentiment", "domain", "domain-pair"]
    singles = np.column_stack([data["means"], np.array(data["values"])])
    for row, found, runs in zip(rows, [data["mean"], *data["tasks"]], singles.T, strict=True):
        ends = [as_number(end) for end in row[2].split(" to ")]
        expected = [found[key] for key in ("mean", "low", "high")]
        assert [as_number(row[1]), *ends] == pytest.approx(expected, abs=0.051)
        assert row[3] == fmt.interval(runs.min(), runs.max())
        share = found["over_runs"] / (found["over_runs"] + found["over_examples"])
        assert as_number(row[4]) == pytest.approx(100 * share, abs=0.51)
    description = next(e for e in page.all("desc", id=f"strip-{place}-text"))["text"]
    assert f"all tasks: {fmt.points(data['mean']['mean'])} %, interval" in description
    dots = [e for e in page.all("path") if e.get("class") == "dots"]
    assert all(path["d"].count("M") == 5 for path in dots)


def test_matrices_are_means_and_spreads_over_the_runs(planted):
    content, page = planted
    scores = np.array(content["fractions"][-1]["scores"])
    base = np.array(content["base"])
    stacked = np.concatenate([base[:, None], scores], axis=1)
    for caption, expected in (
        ("scores-caption", stacked.mean(axis=0)),
        ("spread-caption", stacked.std(axis=0, ddof=1)),
    ):
        rows = page.table(caption)
        assert [row[0] for row in rows] == ["nothing (base)", "sentiment", "domain", "domain-pair"]
        found = [[as_number(cell) for cell in row[1:]] for row in rows]
        np.testing.assert_allclose(found, expected, atol=5.1e-4)


def test_pairs_table(planted):
    content, page = planted
    pairs = content["fractions"][-1]["pairs"]
    for row, pair in zip(page.table("pairs-caption"), pairs, strict=True):
        assert row[:2] == [pair["first"], pair["second"]]
        found = [as_number(row[2]), as_number(row[5])]
        assert found == pytest.approx([effect["mean"] for effect in pair["effects"]], abs=5.1e-4)
        low, high = (as_number(end) for end in row[6].split(" to "))
        effect = pair["effects"][1]
        assert (low, high) == pytest.approx((effect["low"], effect["high"]), abs=5.1e-4)
        assert row[7] == fmt.p_value(effect["p"])
        assert row[8] == fmt.p_value(pair["p_holm"])
        assert row[9] == fmt.p_value(pair["p_controls_holm"])
        assert row[10] == "too few controls"


def test_base_scores(planted):
    content, page = planted
    base = np.array(content["base"])
    base[[0, 4]] += [[0.01], [0.02]]
    page = Page(render({**content, "base": base.tolist()}))
    for row, values in zip(page.table("base-caption"), base.T, strict=True):
        assert as_number(row[2]) == pytest.approx(values.mean(), abs=5.1e-4)
        assert as_number(row[3]) == pytest.approx(values.std(ddof=1), abs=5.1e-4)
        assert row[4] == fmt.interval(values.min(), values.max(), fmt.fixed)


def test_one_run_shows_no_spread():
    page = Page(render(fake_runs(runs=1)))
    captions = [caption["id"] for caption in page.all("caption")]
    assert "scores-caption" in captions
    assert "spread-caption" not in captions
    assert {row[2] for row in page.table("d-scores-0-caption")} == {"–"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_page_and_terminal_say_the_same_sentences(case):
    content = fake_runs(**case)
    page, console = Page(render(content)), Console(width=2000, color_system=None)
    with console.capture() as capture:
        for part in tables(content):
            console.print(part)
    shown, found = capture.get(), view(content).findings
    said = [e["text"] for e in page.all("li") + page.all("p") + page.all("h2")]
    for sentence in (found.headline, *found.sentences, *found.caveats):
        assert sentence in said
        assert sentence.replace("\u00a0%", "%").replace("\u00a0", " ") in shown
    assert not page.all("img")
    assert not page.all("script")
    assert "\x1b" not in shown + page.all("body")[0]["text"]


def test_figures_and_tables_are_those_of_the_page(planted):
    content, page = planted
    shown = view(content)
    svgs = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert [svg["aria-labelledby"].split("-title")[0] for svg in svgs] == [
        figure.name for figure in shown.figures()
    ]
    captions = {caption["id"].removesuffix("-caption") for caption in page.all("caption")}
    assert captions == {table.name for table in shown.tables()}
    for table in shown.tables():
        assert {len(row) for row in table.rows} == {len(table.header)}


# --- reading -------------------------------------------------------------------------------------


def test_runs_are_read_from_a_file_or_a_folder(tmp_path):
    content = fake_runs(runs=2)
    (tmp_path / "runs.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_runs(tmp_path) == read_runs(tmp_path / "runs.json") == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "lobes-results"}, 'not a summary of runs of lobes: "schema" is not "lobes-ru'),
        ({"version": 2}, "has version 2, newer than the 1 that this lobes reads"),
        ({"fractions": None}, 'is damaged: "fractions" is missing or broken'),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    with pytest.raises(RunError, match=r"There is no .*runs\.json: give the folder of a finished"):
        read_runs(tmp_path)
    (tmp_path / "runs.json").write_text(json.dumps({**fake_runs(), **change}))
    with pytest.raises(RunError, match=re.escape(message)):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    "path", [("tasks", 0, "name"), ("fractions", 0, "dissociation"), ("fractions",)]
)
def test_a_missing_part_is_one_clear_sentence(path):
    content = fake_runs()
    place = content
    for key in path[:-1]:
        place = place[key]
    if path == ("fractions",):
        content["fractions"] = []
    else:
        del place[path[-1]]
    with pytest.raises(RunError, match=r"damaged.*[Rr]un the study again"):
        render(content)


def test_rendering_changes_nothing_and_is_repeatable():
    content = fake_runs()
    before = copy.deepcopy(content)
    assert render(content) == render(content)
    assert content == before
