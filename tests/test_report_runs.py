"""The page of several runs: its verdict, and that its numbers are those of the data."""

import numpy as np
import pytest
from rich.console import Console

from fake_results import HOSTILE
from fake_runs import fake_runs, renewed
from lobes.dissociation.verdict import LESS_ALIKE
from lobes.report import formatting as fmt
from lobes.report import phrases, sections
from lobes.report.console import shown
from lobes.report.page import html
from lobes.report.pooled import growth
from lobes.report.pooled.findings import findings
from lobes.report.pooled.page import page_of
from lobes.results import PooledResults, checked
from pages import Page, as_number

CASES = {
    "one run": {"runs": 1},
    "two runs, two tasks": {"runs": 2, "tasks": 2},
    "three runs": {},
    "ten runs, twelve tasks": {"runs": 10, "tasks": 12},
    "no controls": {"controls": 0},
    "hostile": {"tasks": HOSTILE, "names": HOSTILE, "models": HOSTILE},
}


def typed(content):
    """The content as results, with the verdict that its numbers give."""
    return checked(renewed(content), PooledResults)


def rendered(content):
    return Page(html(page_of(typed(content))))


def found_in(content):
    return findings(typed(content))


def spaced(sentences):
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def changed(change, **case):
    """Runs of one fraction whose column D-score went through `change`."""
    content = fake_runs(fractions=(0.3,), **case)
    change(content["fractions"][-1]["dissociation"]["column"])
    return content


def undefined(score):
    score["mean"] = dict.fromkeys(score["mean"])
    score["p_controls"] = None


# --- the verdict ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "answer", "headline"),
    [
        (
            fake_runs(),
            "yes",
            "Yes: over the runs, over both fractions, each task’s own heads mat",
        ),
        (
            fake_runs(effect=0.0, noise=0.001),
            "no",
            "No: over the runs, over both fractions, the D-score does not stand out from that of ",
        ),
        (fake_runs(runs=1), "open", "Inconclusive: one run alone does not show how much anoth"),
        (fake_runs(controls=0), "open", "Inconclusive: no exchanged lesions were measured to co"),
        (
            fake_runs(controls=7),
            "open",
            "Inconclusive: 7 exchanges allow no p below 0.125; 19 or more can reach 0.05.",
        ),
        (
            changed(lambda score: score["mean"].update(low=-0.1)),
            "open",
            "Inconclusive: over the runs, the D-score exceeds that of exchanged heads, but its int",
        ),
        (
            changed(lambda score: score["mean"].update(low=-2.0, high=-0.1)),
            "no",
            "No: over the runs, the other tasks’ heads matter more to the tasks than their own.",
        ),
        (changed(undefined), "open", "Inconclusive: the mean D-score is undefined here."),
        (
            fake_runs(bases=(0.53, 0.45, 0.51)),
            "open",
            "Inconclusive: no task is clearly above chance, and a dissociation needs tw",
        ),
    ],
)
def test_answer(content, answer, headline):
    found = found_in(content)
    assert found.answer == answer
    assert found.headline.startswith(headline)


def test_sentences_speak_of_the_fraction_that_stands_out_most_and_of_column():
    content = fake_runs(controls=59)
    column = content["fractions"][-1]["dissociation"]["column"]
    found = found_in(content)
    assert found.question == (
        "Over 3 runs, do the 3 tasks (sentiment, domain and domain-pair) depend on different "
        "attention heads of all-MiniLM-L6-v2?"
    )
    over, main, random, spread, others, alone, pairs, rest = spaced(found.sentences)
    mean = column["mean"]
    assert over == (
        "Over both fractions p = 0.017, at least 21 heads that can be exchanged: the important "
        "heads were dealt out to the tasks again, 59 times, in each run, at all fractions "
        "together, and the D-score that stands out most was compared with that of each deal."
    )
    assert main == (
        f"At 30 % of the heads, where it stands out most, the column D-score is "
        f"{fmt.points(mean['mean'])} % on average (95 % interval over runs and examples "
        f"{fmt.interval(mean['low'], mean['high'])}), {column['standardized']:.1f} SDs above "
        f"exchanged heads; of 59 exchanges of the tasks’ heads, each averaged over the runs, none "
        f"dissociates as much (p = 0.017, at least 21 heads that can be exchanged)."
    )
    assert random == (
        "A second, weaker reading, which decides nothing: against 29 random lesions in each run "
        "p = 0.033."
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
    assert pairs.startswith("All 3 pairs of tasks show a double dissociation over the runs at 30 ")
    assert rest.startswith("At the other fractions the column D-score is +")
    assert "at 10 % of the heads" in rest


def test_means_over_other_tasks_than_the_headline_name_them():
    content = fake_runs()
    names = [task["name"] for task in content["tasks"]]
    small, large = content["fractions"]
    small["dissociation"]["column"]["tasks"][0]["mean"] = None
    large["dissociation"]["relative"]["tasks"][1]["mean"] = None
    large["dissociation"]["column"]["standardized"] = 999.0  # it stands out most
    sentences = spaced(found_in(content).sentences)
    assert sentences[4].endswith(f", over {names[0]} and {names[2]}.")
    assert sentences[-1].endswith(f", over {names[1]} and {names[2]}.")


def test_tasks_and_pairs_that_stand_out_are_named():
    content = fake_runs(controls=59)
    entry = content["fractions"][-1]
    entry["dissociation"]["column"]["tasks"][1]["low"] = -0.3
    for pair in entry["pairs"][1:]:
        pair["double_dissociation"] = False
    sentences = spaced(found_in(content).sentences)
    assert sentences[5].endswith("above 0 for sentiment and domain-pair, 2 of 3.")
    assert sentences[6].endswith(
        "1 shows a double dissociation over the runs at 30 % of the heads (Holm-corrected p ≤ "
        "0.05): sentiment with domain."
    )


def test_caveats():
    assert found_in(fake_runs(controls=59)).caveats == ()  # a yes took the width in
    few = found_in(fake_runs(effect=0.0, noise=0.3, controls=59)).caveats[0]
    assert few == "3 runs make wide intervals: only a large D-score can show. Take 5 or more."
    assert found_in(fake_runs(runs=5, controls=59)).caveats == ()
    (one,) = found_in(fake_runs(runs=1, controls=59)).caveats
    assert one.startswith("Nothing is known about other runs: with one run there is no interval")
    content = fake_runs(runs=6, controls=7, models=("one", "two"), bases=(0.846, 0.912, 0.51))
    content["runs"][4]["seed"] = 0
    content["fractions"][-1]["dissociation"]["column"]["tasks"][0] |= {"mean": None, "low": None}
    same, models, weak, controls, missing = spaced(found_in(content).caveats)
    assert same.startswith("Some runs have the same model and seed (run0 with run4): they may be")
    assert models.startswith("The runs are of different models (one and two): the interval is")
    assert weak.startswith("The models are near chance on domain-pair: ")
    assert controls.startswith("7 exchanges can give no p below 0.125: set 19 controls or more")
    assert missing == "Without a D-score in some run, and so left out of the mean: sentiment."


# --- the page ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    content = fake_runs(runs=5, names=tuple("abcde"))
    return content, rendered(content)


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
    strongest = content["over_fractions"]["strongest"]
    entry = next(each for each in content["fractions"] if each["fraction"] == strongest)
    data = entry["dissociation"][name]
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
        for effect, cell, p in zip(pair["effects"], row[2:6:2], row[3:6:2], strict=True):
            found = [as_number(part) for part in cell.replace(" to ", " ").split(" ")]
            expected = [effect[key] for key in ("mean", "low", "high")]
            assert found == pytest.approx(expected, abs=5.1e-4)
            assert p == fmt.p_value(effect["p"])
        assert row[6] == fmt.p_value(pair["p_holm"])
        p, corrected = (fmt.p_value(pair[key]) for key in ("p_controls", "p_controls_holm"))
        assert row[7:] == [f"{p} Holm\u00a0{corrected}", "too few exchanges"]


def test_base_scores(planted):
    content, page = planted
    base = np.array(content["base"])
    base[[0, 4]] += [[0.01], [0.02]]
    page = rendered({**content, "base": base.tolist()})
    for row, values in zip(page.table("base-caption"), base.T, strict=True):
        assert as_number(row[2]) == pytest.approx(values.mean(), abs=5.1e-4)
        assert as_number(row[3]) == pytest.approx(values.std(ddof=1), abs=5.1e-4)
        assert row[4] == fmt.interval(values.min(), values.max(), fmt.fixed)


def test_runs_trained_with_iat_are_named():
    content = fake_runs(runs=5, controls=59)
    for run, steps in zip(content["runs"], (130, None, 130, None, None), strict=True):
        run["iat_steps"] = steps
    (some,) = found_in(content).caveats
    assert some.startswith("In some runs (run0 and run2) the last training steps were IAT")
    for run in content["runs"]:
        run["iat_steps"] = 130
    (every,) = found_in(content).caveats
    assert every.startswith("In every run the last training steps were IAT")


def test_growth_over_the_runs():
    content = fake_runs(runs=4)
    page = rendered(content)
    *rows, mean = page.table("growth-caption")
    growth = content["growth"]
    assert [row[0] for row in rows] == [run["name"] for run in content["runs"]]
    for row, before, after in zip(rows, growth["before"], growth["after"], strict=True):
        assert row[1:4] == [fmt.points(value) for value in (before, after, after - before)]
    change = growth["change"]
    assert mean[3:] == [fmt.points(change["mean"]), fmt.interval(change["low"], change["high"])]
    said = [each["text"] for each in page.all("p")]
    answer = "Yes: the D-score is larger than before multi-task training."
    assert any(answer in text and "over runs and examples" in text for text in said)
    without = [each["id"] for each in rendered(fake_runs(beside=False)).all("caption")]
    assert not {"growth-caption", "trends-caption"} & {*without}


def test_tasks_that_growth_leaves_out_are_named():
    content = fake_runs(runs=3)
    first, second, third = (task["name"] for task in content["tasks"])
    content["growth"]["values"] = [[1.0, None, 2.0], [1.0, None, None], [1.0, None, 2.0]]
    said = [each["text"] for each in rendered(content).all("p")]
    (text,) = [each for each in said if "The means leave out" in each]
    assert text.endswith(f"from the D-scores of the runs above: {second}; {third} (in run1).")
    assert first not in text.partition("leave out")[2]
    section = growth.section(typed(content))
    (said,) = (block for block in section.blocks if isinstance(block, sections.InTerminal))
    assert text.endswith(*said.blocks[0].sentences)  # the terminal says the same
    content["growth"]["values"] = [[1.0, 1.0, 2.0]] * 3
    assert not any("leave out" in each["text"] for each in rendered(content).all("p"))


def test_what_runs_measured_in_another_way_weakens_the_answer():
    content = fake_runs(runs=5, controls=59)
    content["unlike"] = ["Growth over the training is left out."]
    assert found_in(content).caveats == ("Growth over the training is left out.",)


def test_similarity_over_the_runs():
    content = fake_runs(runs=4, tasks=5)
    page = rendered(content)
    gradient, overlap = page.table("trends-caption")
    (measure, _) = content["similarity"]["measures"]
    trend, own = measure["trend"], measure["correlations"]

    def signed(value):
        return fmt.fixed(value, 2, sign=True)

    assert gradient[2] == signed(trend["correlation"])
    assert gradient[3:5] == [
        fmt.interval(*span, signed) for span in (trend["interval"], (min(own), max(own)))
    ]
    assert gradient[5:] == ["0.040", "0.040"]
    assert overlap[2:] == ["–"] * 5
    said = [each["text"] for each in page.all("p")]
    answer = phrases.headline(typed(content).verdict_on(LESS_ALIKE))
    assert any(answer in text and "overlap: All pairs of" in text for text in said)
    note = content["similarity"]["measures"][1]["trend"]["note"]
    content["similarity"]["measures"][0] = {**content["similarity"]["measures"][1], "name": "cka"}
    (text,) = [e["text"] for e in rendered(content).all("p") if "All pairs of" in e["text"]]
    assert text.endswith(f" cka and overlap: {note}")


def test_one_run_shows_no_spread():
    page = rendered(fake_runs(runs=1))
    captions = [caption["id"] for caption in page.all("caption")]
    assert "scores-caption" in captions
    assert "spread-caption" not in captions
    assert {row[2] for row in page.table("d-scores-0-caption")} == {"–"}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_page_and_terminal_say_the_same_sentences(case):
    content = fake_runs(**case)
    page, console = rendered(content), Console(width=2000, color_system=None)
    with console.capture() as capture:
        for part in shown(page_of(typed(content))):
            console.print(part)
    printed, found = capture.get(), found_in(content)
    said = [e["text"] for e in page.all("li") + page.all("p") + page.all("h2")]
    for sentence in (found.headline, *found.sentences, *found.caveats):
        assert sentence in said
        assert sentence.replace("\u00a0%", "%").replace("\u00a0", " ") in printed
    assert not page.all("img")
    assert not page.all("script")
    assert "\x1b" not in printed + page.all("body")[0]["text"]


def test_the_terminal_shows_the_headline_and_every_definition():
    results = typed(fake_runs(runs=5))
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        for part in shown(page_of(results)):
            console.print(part)
    lines = [line.replace("< ", "<").split() for line in capture.get().splitlines()]
    column = results.strongest.dissociation.column
    (headline,) = [line for line in lines if line[:3] == ["column", "all", "tasks"]]
    assert headline[3] == fmt.points(column.mean.mean)
    distance = fmt.points(column.standardized)
    assert headline[-3:] == ["<0.001", distance, fmt.p_value(column.p_controls)]
    (over,) = [line for line in lines if line[:3] == ["column", "all", "fractions"]]
    assert over[-3:-1] == [fmt.p_value(results.over_fractions.p), "21"]
    starts = [line[:3] for line in lines]
    assert ["row", "all", "tasks"] in starts
    assert sum(line[0] == "sentiment" for line in starts if line) == 1


def test_figures_and_tables_are_those_of_the_page(planted):
    content, page = planted
    made = page_of(typed(content))
    svgs = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert [svg["aria-labelledby"].split("-title")[0] for svg in svgs] == [
        f"strip-{place}" for place in range(3)
    ]
    captions = {caption["id"].removesuffix("-caption") for caption in page.all("caption")}
    assert captions == {table.name for table in sections.tables(made)}
