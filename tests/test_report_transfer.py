"""The page of a transfer study: its verdict, its learning curves, its numbers.

`tests/gold/transfer_page.txt` holds the words and tables of a small study. After an intended change
look at the difference and renew it:
`LOBES_RENEW_GOLD=1 pytest tests/test_report_transfer.py -k gold`.
"""

import math
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fake_comparisons import fake_transfer, renewed
from lobes.report import formatting as fmt
from lobes.report.console import shown
from lobes.report.page import html
from lobes.report.seeds import transfer
from lobes.results import TransferResults, checked
from pages import Page, as_number, check_gold, page_text

GOLD = Path(__file__).parent / "gold" / "transfer_page.txt"


def page_of(study):
    return transfer.page_of(checked(study, TransferResults))


def render(study):
    return html(page_of(study))


def transfer_findings(study):
    return page_of(study).sections[0].findings


def spaced(sentences):
    return [sentence.replace("\u00a0", " ") for sentence in sentences]


def changed(change, **case):
    """A study whose scores of IAT are replaced by `change(scores of IAT, of ordinary training)`."""
    study = fake_transfer(**case)
    scores = {start: np.array(values) for start, values in study["scores"].items()}
    scores["iat"] = change(scores["iat"], scores["multi"])
    study["scores"] = {start: values.tolist() for start, values in scores.items()}
    return renewed(study)


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
            "Inconclusive: after IAT it is learned better with 17 and 170 examples, and worse with "
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
            fake_transfer(early=3),
            "open",
            "Inconclusive: in 3 of 5 seeds the chosen checkpoint is from before IAT began",
        ),
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
    stored = checked(study, TransferResults).verdicts
    assert [each.answer for each in stored] == [answer][: len(stored)]


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
    signed = partial(fmt.fixed, digits=4, sign=True)
    assert sizes[2] == (
        f"With 170 examples, {means[0]} after IAT and {means[1]} after ordinary multi-task "
        f"training: a difference of {signed(entry['mean'])} (95 % interval "
        f"{fmt.interval(entry['low'], entry['high'], signed)}, Holm-corrected "
        f"p = {entry['p_holm']:.3f})."
    )
    assert multi.startswith("Compared with the score from the pre-trained model, that after ordin")
    for sentence, found in ((multi, 1), (iat, 2)):
        gains = [signed(e["mean"]) for e in summary["differences"][found]["fractions"][1:]]
        assert sentence.endswith(
            "is higher with 17 ({}), 170 ({}) and 1\u202f702 ({}) examples.".format(*gains)
        )


def test_caveats():
    few, same, classes, weak = spaced(transfer_findings(fake_transfer(seeds=3, early=1)).caveats)
    assert few.startswith("3 seeds make wide intervals")
    assert same == (
        "In seed 0 (1 of 3) the checkpoint chosen on held-out data is from before IAT began: there "
        "IAT gives the same model as ordinary multi-task training, and a difference of 0."
    )
    assert classes.startswith("With 2 examples for 2 classes, hardly more than the choice")
    assert weak.startswith("With 2 examples no start is clearly above chance")


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


# --- the terminal, reading, gold -----------------------------------------------------------------


@pytest.mark.parametrize("case", [{}, {"seeds": 1}, {"starts": ("pretrained",)}])
def test_page_and_terminal_say_the_same_sentences(case):
    study = fake_transfer(**case)
    console = Console(width=2000, force_terminal=False, color_system=None)
    with console.capture() as capture:
        for part in shown(page_of(study)):
            console.print(part)
    text, page, found = capture.get(), Page(render(study)), transfer_findings(study)
    said = [e["text"] for e in page.all("li") + page.all("p") + page.all("h2")]
    for sentence in (found.headline, *found.sentences, *found.caveats):
        assert sentence in said
        assert sentence.replace("\u00a0%", "%").replace("\u00a0", " ") in text


def test_words_and_tables_are_those_of_the_gold_file():
    study = fake_transfer(seeds=3, sites=(3, 2), sizes=(5, 50))
    check_gold(GOLD, page_text(page_of(study)), "LOBES_RENEW_GOLD" in os.environ)
