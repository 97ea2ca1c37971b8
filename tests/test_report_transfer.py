"""The page of a transfer study: its verdict, its learning curves, its numbers.

`tests/gold/transfer_view.json` holds the whole view of a small study. After an intended change
look at the difference and renew it:
`LOBES_RENEW_GOLD=1 pytest tests/test_report_transfer.py -k gold`.
"""

import dataclasses
import itertools
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fake_comparisons import fake_transfer
from lobes.dissociation.seeds import summarize_transfer
from lobes.errors import RunError
from lobes.report import formatting as fmt
from lobes.report.learning import Start, learning_curves
from lobes.report.transfer import render, tables, view
from lobes.report.transfer_findings import transfer_findings
from pages import Page, as_number
from plain_results import read_transfer

SCORES = st.integers(0, 1000).map(lambda n: n / 1000)
GOLD = Path(__file__).parent / "gold" / "transfer_view.json"


def spaced(sentences):
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def changed(change, **case):
    """A study whose scores of IAT are replaced by `change(scores of IAT, of ordinary training)`."""
    study = fake_transfer(**case)
    scores = {start: np.array(values) for start, values in study["scores"].items()}
    scores["iat"] = change(scores["iat"], scores["multi"])
    study["scores"] = {start: values.tolist() for start, values in scores.items()}
    return {**study, "summary": summarize_transfer(scores)}


@pytest.mark.parametrize(
    ("study", "answer", "headline"),
    [
        (
            fake_transfer(),
            "yes",
            "Yes: with 17, 170 and 1\u202f702 training examples the score is higher after IAT.",
        ),
        (
            fake_transfer(gain=-0.05),
            "no",
            "No: with 17, 170 and 1\u202f702 training examples the score is lower after IAT.",
        ),
        (
            changed(lambda iat, multi: iat + np.array([0, 0.1, 0, -0.3])),
            "open",
            "Inconclusive: after IAT it is learnt better with 17 and 170 examples, and worse with "
            "1\u202f702.",
        ),
        (
            changed(lambda iat, multi: multi + 0.02 * (iat - multi)),
            "yes",
            "Yes: with 17",
        ),
        (
            changed(lambda iat, multi: multi),
            "open",
            "Inconclusive: in every seed both starts give the same scores, so that nothing was co",
        ),
        (
            changed(lambda iat, multi: multi + 0.02 * (iat - iat.mean(0))),
            "no",
            "No: if there is any gain after IAT, it is below 0.005, the smallest of interest.",
        ),
        (
            changed(lambda iat, multi: multi + 5 * (iat - iat.mean(0))),
            "open",
            "Inconclusive: the seeds do not tell the score after IAT from that after ordinary "
            "multi-task training.",
        ),
        (fake_transfer(seeds=1), "open", "Inconclusive: one seed alone does not show"),
        (
            changed(lambda iat, multi: iat * math.nan),
            "open",
            "Inconclusive: every score is undefined in some seed.",
        ),
        (
            fake_transfer(starts=("multi",)),
            "open",
            "There is nothing to compare: there is only one start.",
        ),
        (
            fake_transfer(starts=("pretrained", "multi")),
            "yes",
            "Yes: with 17, 170 and 1\u202f702 training examples the score is higher after ordinary",
        ),
    ],
)
def test_answer(study, answer, headline):
    found = transfer_findings(study)
    assert found.answer == answer
    assert found.headline.startswith(headline)


def test_sentences_go_through_the_sizes_and_the_other_starts():
    study = fake_transfer()
    found = transfer_findings(study)
    assert found.question == (
        "Does all-MiniLM-L6-v2 learn the new task entailment better after IAT than after ordinary "
        "multi-task training?"
    )
    opening, *sizes, multi, iat = spaced(found.sentences)
    assert opening == "4 training sizes, 5 seeds each, scored by accuracy."
    summary = study["summary"]
    means = [fmt.fixed(summary["starts"][start][2]["mean"]) for start in ("iat", "multi")]
    entry = summary["differences"][0]["fractions"][2]
    assert sizes[2] == (
        f"With 170 examples, {means[0]} after IAT and {means[1]} after ordinary multi-task "
        f"training: a difference of {fmt.difference(entry['mean'])} (95 % interval "
        f"{fmt.interval(entry['low'], entry['high'], fmt.difference)}, Holm-corrected "
        f"p = {entry['p_holm']:.3f})."
    )
    assert multi.startswith("Compared with the score from the pre-trained model, that after ordin")
    assert multi.endswith("is higher with 17, 170 and 1\u202f702 examples.")
    assert iat.endswith("that after IAT is higher with 17, 170 and 1\u202f702 examples.")


def test_caveats():
    study = changed(lambda iat, multi: np.concatenate([multi[:1], iat[1:]]), seeds=3)
    few, same, classes, weak = spaced(transfer_findings(study).caveats)
    assert few.startswith("3 seeds make wide intervals")
    assert same.startswith("In 1 of 3 seeds both starts give the same score at every size, as they")
    assert same.endswith("(seed 0).")
    assert classes.startswith("With 2 examples for 2 classes, hardly more than the choice")
    assert weak.startswith("With 2 examples every start is near chance")


# --- the numbers are those of the study ----------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    study = fake_transfer()
    return study, Page(render(study))


def test_score_table(planted):
    study, page = planted
    rows = page.table("scores-caption")
    labels = ["2 (0.12\u00a0%)", "17 (1\u00a0%)", "170 (10\u00a0%)", "1\u202f702 (100\u00a0%)"]
    assert rows[0][0].startswith(labels[0])
    assert "near chance" in rows[0][0]
    assert [row[0] for row in rows[1:]] == labels[1:]
    for index, row in enumerate(rows):
        for start, cell in zip(study["starts"], row[1:-1], strict=True):
            expected = study["summary"]["starts"][start][index]
            mean, low, high = (as_number(text) for text in re.split(" to | ", cell))
            assert [mean, low, high] == pytest.approx(
                [expected[k] for k in ("mean", "low", "high")], abs=5e-4
            )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_difference_tables(planted, index):
    study, page = planted
    entry = study["summary"]["differences"][index]
    for row, expected in zip(page.table(f"difference-{index}"), entry["fractions"], strict=True):
        assert as_number(row[1]) == pytest.approx(expected["mean"], abs=5.1e-5)
        assert row[3:] == [
            fmt.p_value(expected["p"]),
            fmt.p_value(expected["p_holm"]),
        ]


def test_every_single_score_is_shown(planted):
    study, page = planted
    rows = page.table("seeds-caption")
    for seed, row in enumerate(rows):
        expected = [value for start in study["starts"] for value in study["scores"][start][seed]]
        assert [as_number(cell) for cell in row[1:]] == pytest.approx(expected, abs=5e-4)


# --- the figure ----------------------------------------------------------------------------------


def start(kind, means, reach=0.02):
    lows, highs = [m - reach for m in means], [m + reach for m in means]
    return Start(kind, kind, means, lows, highs)


def points(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_curves_stand_on_the_scales_of_their_ticks():
    starts = [start(k, [0.5, 0.6, 0.8]) for k in ("pretrained", "multi", "iat")]
    figure = learning_curves(starts, [10, 100, 1000], [0.5, 0.8], 0.5, "title")
    x = {tick.label: tick.at for tick in figure.x_ticks}
    y = {tick.label: tick.at for tick in figure.y_ticks}
    line = points(figure.curves[1].line)  # the middle one stands in its place
    assert [place for place, _ in line] == [x["10"], x["100"], x["1\u202f000"]]
    assert x["100"] == pytest.approx((x["10"] + x["1\u202f000"]) / 2, abs=0.11)
    unit = (y["0.5"] - y["0.8"]) / 3
    assert [height for _, height in line] == pytest.approx(
        [y["0.5"], y["0.5"] - unit, y["0.8"]], abs=0.11
    )
    assert figure.chance == y["0.5"]
    assert figure.description.startswith("pretrained: 0.500 with 10, 0.600 with 100, 0.800 with 1")
    left, _, right = (points(curve.line)[0][0] for curve in figure.curves)
    assert left < x["10"] < right
    assert len({curve.marks[:40] for curve in figure.curves}) == 3


def test_an_interval_wider_than_the_figure_is_cut_without_a_cap():
    figure = learning_curves([start("iat", [0.5, 0.6], reach=5)], [1, 10], [0.4, 0.7], 0.5, "t")
    heights = [
        float(h)
        for pair in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", figure.curves[0].intervals)
        for h in pair
    ]
    edges = {figure.y_ticks[0].at, figure.y_ticks[-1].at}
    assert set(heights) == edges
    assert "h6" not in figure.curves[0].intervals
    inside = learning_curves([start("iat", [0.5, 0.6])], [1, 10], [0.4, 0.7], 0.5, "t")
    assert inside.curves[0].intervals.count("h6") == 4


def test_an_undefined_point_breaks_the_line():
    figure = learning_curves(
        [start("iat", [0.5, math.nan, 0.7, 0.8])], [1, 10, 100, 1000], [], math.nan, "t"
    )
    assert figure.curves[0].line.count("M") == 2
    assert figure.curves[0].line.count("L") == 1
    assert figure.chance is None
    assert learning_curves([start("iat", [math.nan])], [1], [], 0.5, "t") is None


def test_labels_under_the_axis_do_not_touch():
    sizes = [900, 950, 1000, 10]
    figure = learning_curves([start("iat", [0.5] * 4)], sizes, [], 0.4, "t")
    assert [tick.label for tick in figure.x_ticks] == ["10", "", "", "1\u202f000"]


@given(
    st.lists(st.tuples(SCORES, SCORES), min_size=3, max_size=3),
    SCORES,
)
def test_names_beside_the_curves_never_overlap_and_keep_their_order(means, chance):
    kinds = ("pretrained", "multi", "iat")
    starts = [start(kind, values) for kind, values in zip(kinds, means, strict=True)]
    figure = learning_curves(starts, [1, 10], [], chance, "t")
    places = sorted([curve.label_y for curve in figure.curves] + [figure.chance_label])
    assert all(b - a >= 15.9 for a, b in itertools.pairwise(places))
    assert places[-1] <= figure.bottom + 4.1
    ends = sorted(
        zip([values[-1] for values in means], figure.curves, strict=True), key=lambda e: -e[0]
    )
    for (high, above), (low, below) in itertools.pairwise(ends):
        assert above.label_y < below.label_y or high - low < 0.01


# --- the terminal, reading, gold -----------------------------------------------------------------


@pytest.mark.parametrize("case", [{}, {"seeds": 1}, {"starts": ("pretrained",)}])
def test_page_and_terminal_say_the_same_sentences(case):
    study = fake_transfer(**case)
    console = Console(width=2000, force_terminal=False, color_system=None)
    with console.capture() as capture:
        for part in tables(study):
            console.print(part)
    shown, page, found = capture.get(), Page(render(study)), transfer_findings(study)
    said = [e["text"] for e in page.all("li") + page.all("p") + page.all("h2")]
    for sentence in (found.headline, *found.sentences, *found.caveats):
        assert sentence in said
        assert sentence.replace("\u00a0%", "%").replace("\u00a0", " ") in shown


def test_a_study_is_read_from_a_folder_and_another_kind_is_refused(tmp_path):
    with pytest.raises(
        RunError, match=r"There is no .*transfer\.json: give the folder of a finish"
    ):
        read_transfer(tmp_path)
    study = fake_transfer(seeds=2)
    (tmp_path / "transfer.json").write_text(json.dumps(study), encoding="utf-8")
    assert read_transfer(tmp_path) == study
    (tmp_path / "transfer.json").write_text(json.dumps({**study, "schema": "lobes-comparison"}))
    with pytest.raises(RunError, match="not a transfer study of lobes"):
        read_transfer(tmp_path)


@pytest.mark.parametrize("path", [("scores", "iat"), ("task", "metric"), ("summary", "starts")])
def test_a_missing_part_is_one_clear_sentence(path):
    study = fake_transfer()
    del study[path[0]][path[1]]
    with pytest.raises(RunError, match=r"damaged.*[Rr]un the study again"):
        render(study)


def test_view_equals_the_gold_file():
    study = fake_transfer(seeds=3, sites=(3, 2), sizes=(5, 50))
    found = json.loads(json.dumps(dataclasses.asdict(view(study)), ensure_ascii=False))
    if os.environ.get("LOBES_RENEW_GOLD"):
        GOLD.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(GOLD.read_text(encoding="utf-8"))
