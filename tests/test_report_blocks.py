"""A page made of every kind of block: one list of sections, shown, printed and exported."""

import io
import itertools

import numpy as np
import pytest
from markupsafe import Markup
from rich.console import Console

from lobes.heads import HeadSet
from lobes.report import glossary
from lobes.report.charts import Points, Start, Strip, chart, learning_curves, line_chart, strip_plot
from lobes.report.console import shown
from lobes.report.exporting import figure_files, table_files
from lobes.report.maps import CountMaps, HeatMaps, count_map, heat_map, site_labels
from lobes.report.page import html
from lobes.report.sections import (
    Alternatives,
    Beside,
    Choice,
    Details,
    Fact,
    Facts,
    Figure,
    Findings,
    Html,
    InFiles,
    InTerminal,
    Key,
    Keys,
    Page,
    Panel,
    Panels,
    Prose,
    Ramp,
    Section,
    Settings,
    figures,
    tables,
)
from lobes.report.tables import Cell, Column, Row, Table, marked
from lobes.results.base import Lesioning
from lobes.scores import HeadScores
from pages import Page as Parsed

HOSTILE = "<img src=x>\u2028[red]"
LESIONING = Lesioning(lesion="remove", value="zero")
SITES = site_labels(["encoder.layer.0.attention", "encoder.layer.1.attention"])


def plain(name, terminal=""):
    columns = (Column("Task"), Column("Score", "number"))
    return Table(name, f"Caption of {name}", columns, (Row((HOSTILE, 0.25)),), terminal=terminal)


def matrix(name, *, terminal=""):
    columns = (Column("Ablated"), Column("a", "number"), Column(HOSTILE, "number"))
    own = Cell(0.125, tint=-7, marks=frozenset({"own", "lowest"}))
    rows = (Row(("nothing (base)", 0.5, 0.75), "base"), Row(("a", own, 0.7), "task"))
    return Table(name, "Scores", columns, rows, look="matrix", terminal=terminal)


def heat_maps():
    scores = HeadScores(np.array([[0.5, -0.125, 0.0], [1.25e-3, 0.3, np.nan]]))
    lesions = [HeadSet([(0, 0)]), HeadSet([(0, 0), (1, 1)])]
    found = heat_map("map-0", HOSTILE, "Importance of each head", scores, lesions)
    return HeatMaps(SITES, (found,), ("20 %", "40 %"), 1)


def count_maps():
    found = count_map("map-trained-0", "Seeds", (3, 2), {(0, 1): ["seed 3", "seed 5"]}, 2)
    return CountMaps(SITES, (found,))


def curves():
    start = Start("iat", "IAT", [0.5, 0.7], [0.4, 0.6], [0.6, 0.8])
    return learning_curves([start], [8, 64], [0.45, 0.75], 0.5, "Learning curves")


@pytest.fixture(scope="module")
def page():
    strip = strip_plot([Strip("a", 3.0, 1.0, 5.0, [0.0, 1.0])], "D-scores")
    points = Points("own", "own lesion", [0, 10], [100, 80], mark="diamond")
    dose = chart([points], "Dose", axes=("heads", "%"), description="It falls.")
    loss = line_chart([(0, 1.0), (5, 0.5)], "loss", "loss")
    pair = Beside((Figure("strip-0-0", strip), plain("scores-0-0", terminal="D-scores")), "pair")
    panel = Panel(
        "column", (Prose(glossary.formula("column", LESIONING), "formula"), pair), "headline", True
    )
    fraction = Panel("20 % of the heads", (Panels((panel,)),))
    return Page(
        kind="report",
        source="results.json",
        name=HOSTILE,
        created="2026-11-26T02:13",
        version="0.7",
        title="Are they specialized?",
        choice=Choice("fraction", "Heads lesioned", ("20 %", "40 %"), 1),
        script="report.js",
        sections=(
            Section(
                "findings", "", (Facts((Fact("Model", HOSTILE),)),), "Findings",
                Findings("Are they specialized?", "yes", "Yes.", ("First.", "Second."), ("But.",)),
            ),
            Section("importance", "Importance", (heat_maps(),), "Importance"),
            Section(
                "lesions", "Lesions",
                (
                    Prose(Markup("<strong>Read</strong>")),
                    Prose(HOSTILE, "note"),
                    Ramp("12 %"),
                    Alternatives("fraction", (
                        Panel("20 %", (Beside((matrix("raw-0", terminal="Matrix"),
                                               matrix("change-0"))),)),
                        fraction,
                    )),
                ),
                "Lesions",
            ),
            Section(
                "curves", "Curves",
                (
                    Keys((Key("own", "own lesion", "diamond"), Key("random", "random", band=True))),
                    Panels((Panel(HOSTILE, (Figure("dose-0", dose),)),), "charts"),
                    Panels((Panel("a", (Prose("training loss", "axis"),
                                        Figure("loss-0", loss))),), "curves"),
                    Figure("learning", curves()),
                    Details("All numbers", (plain("dose"),)),
                    InFiles((plain("pairs-1"), matrix("overlap-1"))),
                    InTerminal((plain("only", terminal="Only here"),)),
                    Html(Markup("<p id='own'>x</p>"), "#own > b { top: 0 }", (plain("flips-0"),)),
                ),
                "Curves",
            ),
            Section("trained", "IAT", (count_maps(), Facts((Fact("a", "0:1"),), "heads"))),
            Section(
                "second", "", (), "",
                Findings("1. More than before?", "open", "Inconclusive."),
            ),
            Section("settings", "Settings",
                    (Settings((("Time", (Fact("total", "3 s"),)), ("Rest", ()))),), "Settings"),
        ),
        glossary=(
            ("Site", "One block."), *glossary.d_scores(LESIONING), *glossary.over_seeds("95 %")
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def parsed(page):
    return Parsed(html(page))


def test_a_page_is_well_formed_and_every_reference_leads_somewhere(parsed):
    ids = [element["id"] for element in parsed.elements if "id" in element]
    assert len(ids) == len(set(ids))
    for element in parsed.elements:
        wanted = (element.get("aria-labelledby") or "").split()
        wanted += [element["href"][1:]] if element["tag"] == "a" else []
        assert set(wanted) <= set(ids)
    assert not parsed.all("img")
    assert all(cell["text"].strip() for cell in parsed.all("th"))


def test_sections_stand_in_the_list_of_parts_and_have_their_titles(parsed):
    links = [a["href"] for a in parsed.all("a")][1:]
    assert links == [
        *("#findings", "#importance", "#lesions", "#curves", "#settings", "#glossary"),
    ]
    titles = [h["text"] for h in parsed.all("h2")]
    assert titles == [
        *("Yes.", "Importance", "Lesions", "Curves", "IAT", "Inconclusive.", "Settings"),
        "Glossary",
    ]
    verdicts = [s["class"] for s in parsed.all("section") if "class" in s]
    assert verdicts == ["verdict yes", "verdict open", "folded"]
    kickers = [p["text"] for p in parsed.all("p", **{"class": "kicker"})]
    assert kickers[1:] == ["1. More than before?"]
    levels = [int(e["tag"][1]) for e in parsed.elements if e["tag"] in ("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_a_choice_has_an_alternative_for_each_option(page, parsed):
    inputs = parsed.all("input", name="fraction")
    assert [(e["id"], "checked" in e) for e in inputs] == [
        ("fraction-0", False),
        ("fraction-1", True),
    ]
    parts = [e["class"] for e in parsed.all("div") if "only-" in (e.get("class") or "")]
    assert parts == ["fraction only-0", "fraction only-1"]
    style = parsed.all("style")[0]["text"]
    for k in (0, 1):
        rule = f":root:has(#fraction-{k}:checked) .fraction:not(.only-{k}) {{ display: none; }}"
        assert rule in style
    assert "#own > b { top: 0 }" in style


def test_maps_carry_what_the_script_reads(parsed):
    cells = [cell for cell in parsed.all("td") if "data-rank" in cell]
    assert [cell["data-rank"] for cell in cells] == ["1", "5", "4", "3", "2"]
    assert cells[0]["class"] == "s20 r20 f0 f1"
    assert cells[0]["data-score"] == "0.5"
    assert cells[4]["text"] == "60, lesioned at 40 %"
    counted = parsed.table("map-trained-0-caption")
    assert [row[1:] for row in counted] == [["0", "2", "0"], ["0", "0", ""]]


def test_every_table_and_figure_is_exported_under_its_name(page):
    names = [table.name for table in tables(page)]
    assert names == [
        *("map-0", "raw-0", "change-0", "scores-0-0", "dose", "pairs-1", "overlap-1"),
        *("flips-0", "map-trained-0"),
    ]
    drawn = [figure.name for figure in figures(page)]
    assert drawn == [
        *("map-0", "raw-0", "change-0", "strip-0-0", "dose-0", "loss-0", "learning"),
        *("overlap-1", "map-trained-0"),
    ]
    files = dict(figure_files(page, png=False)) | dict(table_files(page))
    assert set(files) == {
        *(f"{name}.svg" for name in drawn),
        *(f"{name}.{kind}" for name in names for kind in ("csv", "tex")),
    }
    first = files["map-0.csv"].decode().splitlines()
    assert first[:2] == [
        "Site,Head 0,Head 1,Head 2",
        "0 encoder.layer.0.attention,0.5,-0.125,0.0",
    ]
    assert first[2].endswith(",0.00125,0.3,")


def test_a_terminal_shows_titled_tables_then_the_findings(page):
    console = Console(width=100, file=io.StringIO(), color_system=None)
    for part in shown(page):
        console.print(part)
    text = console.file.getvalue()
    order = ["Matrix", "D-scores", "Only here", "Are they specialized?", "Yes.", "! But.",
             "1. More than before? Inconclusive."]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "Caption of" not in text
    assert "[red]" in text


def test_marked_cells():
    assert marked(3, "own", "beyond") == Cell(3, marks=frozenset({"own", "beyond"}))
