"""One table, four readers: a page, a terminal, CSV with the values themselves, LaTeX."""

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lobes.report.charts import track
from lobes.report.console import table_lines
from lobes.report.page import draw
from lobes.report.table_files import spreadsheet_cell, to_csv, to_latex
from lobes.report.tables import TRACK_HEAD, Cell, Column, Row, Table, marked, stacked, text_of
from pages import Page

EFFECT = (
    Column("Effect", "points", strong=True),
    Column("Interval", "interval", under=True),
    Column("p", "p", under=True, lead="p "),
)
TABLE = Table(
    "scores",
    "Scores, in percent",
    (Column("Task"), *EFFECT, Column("Heads", "percent"), Column("Examples", "count")),
    (
        Row(("all tasks", 1.23456789, (0.5, 2.25), 0.0004, 0.07, 12345), "mean"),
        Row((Cell("a <b>", chip="near chance", marks=frozenset({"warn"})), -0.05,
             (math.nan, None), None, 0.3, 7)),
        Row(("c", None, (-1.0, 1.0), 0.0502, math.nan, "–")),
    ),
    terminal="The scores",
)  # fmt: skip


def printed(renderable):
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def rows_of(table):
    return list(csv.reader(io.StringIO(to_csv(table), newline="")))


@pytest.mark.parametrize(
    ("kind", "value", "text", "plain"),
    [
        ("text", "–", "–", ""),
        ("number", 0.8125, "0.812", "0.8125"),
        ("signed", 0.8125, "+0.812", "0.8125"),
        ("points", -12.3456789012345, "−12.3", "-12.3456789012345"),
        ("percent", 0.07, "7\u00a0%", "7.0"),
        ("significant", -1.23456e-7, "−1.23e−07", "-1.23456e-07"),
        ("p", 0.00012, "< 0.001", "0.00012"),
        ("p", 0.0502, "0.0502", "0.0502"),
        ("count", 22713216, "22\u202f713\u202f216", "22713216"),
        ("count", 3.0, "3", "3"),
        ("number", -0.0, "0.000", "0.0"),
        ("number", math.inf, "–", ""),
        ("number", None, "–", ""),
        ("points", "too few", "too few", "too few"),
    ],
)
def test_a_value_is_written_by_the_kind_of_its_column(kind, value, text, plain):
    column = Column("x", kind)
    assert text_of(value, column) == text
    table = Table("any", "Any", (Column("Task"), column), (Row(("a", value)),))
    assert rows_of(table)[1] == ["a", plain]


def test_digits_and_units():
    assert text_of(0.81256, Column("x", "signed", digits=4)) == "+0.8126"
    assert text_of(0.81255, Column("x", "number", digits=0, unit="%")) == "1\u00a0%"
    assert text_of(None, Column("x", "number", unit="%")) == "–"
    span = Column("x", "interval", ends="signed", digits=2)
    assert text_of((-1, 0.5), span) == "−1.00 to +0.50"
    assert text_of(Cell(0.5, text="half"), Column("x", "number")) == "half"


def test_csv_holds_the_values_and_takes_intervals_apart():
    assert rows_of(TABLE) == [
        ["Task", "Effect", "Interval low", "Interval high", "p", "Heads (%)", "Examples"],
        ["all tasks", "1.23456789", "0.5", "2.25", "0.0004", "7.0", "12345"],
        ["a <b>", "-0.05", "", "", "", "30.0", "7"],
        ["c", "", "-1.0", "1.0", "0.0502", "", ""],
    ]


def test_a_title_over_several_columns_is_put_behind_that_of_its_column():
    columns = (
        *(Column("Task"), Column("First", "points"), Column("p", "p")),
        *(Column("Second", "points"), Column("p", "p"), Column("p", "p")),
        *(Column("Figure", "drawing"), Column("Page only", in_files=False)),
    )
    table = Table("any", "Any", columns, (Row(("=a", 1, 2, 3, 4, 5, "x", "y")),))
    header, row = rows_of(table)
    assert header == ["Task", "First", "First p", "Second", "Second p", "Second p 2"]
    assert row == ["'=a", "1.0", "2.0", "3.0", "4.0", "5.0"]


@given(st.lists(st.tuples(st.text(), st.floats()), min_size=1))
def test_every_number_survives_csv(rows):
    table = Table("any", "Any", (Column("A"), Column("B", "number")), tuple(map(Row, rows)))
    for (name, value), found in zip(rows, rows_of(table)[1:], strict=True):
        assert found[1] == "" if not math.isfinite(value) else float(found[1]) == value
        cell = found[0]  # a name that begins with a quote itself is left as it is
        guarded = (spreadsheet_cell(cell), spreadsheet_cell(cell.removeprefix("'")))
        assert cell in guarded or not name.isascii()


def test_latex_shows_what_a_reader_sees():
    lines = to_latex(TABLE).splitlines()
    assert lines[0] == "% Scores, in percent"
    assert lines[2] == r"\begin{tabular}{lrrrrr}"
    assert lines[4] == r"Task & Effect & Interval & p & Heads & Examples \\"
    assert lines[6] == r"all tasks & +1.2 & +0.5 to +2.2 & $<$ 0.001 & 7~\% & 12\,345 \\"
    assert lines[7] == r"a $<$b$>$ & $-$0.1 & -- & -- & 30~\% & 7 \\"


def test_a_page_shows_a_table_with_what_stands_under_a_value():
    text = str(draw(TABLE))
    page = Page(text)
    assert page.table("scores") == [
        ["all tasks", "+1.2 +0.5 to +2.2, p < 0.001", "7\u00a0%", "12\u202f345"],
        ["a <b> near chance", "−0.1", "30\u00a0%", "7"],
        ["c", "– −1.0 to +1.0, p 0.0502", "–", "–"],
    ]
    region = page.elements[0]
    assert (region["role"], region["tabindex"], region["class"]) == ("region", "0", "scroll")
    assert region["aria-labelledby"] == page.all("caption")[0]["id"] == "scores-caption"
    assert [row.get("class") for row in page.all("tr")] == [None, "mean", None, None]
    assert {cell["scope"] for cell in page.all("th")} == {"row", "col"}
    assert [cell.get("class") for cell in page.all("td")][:3] == ["n strong", "n", "n"]
    assert page.all("span", **{"class": "chip warn"})[0]["text"] == "near chance"
    tall = Table("any", "Any", (Column("A"),), (Row(("a",)),) * 16)
    assert Page(str(draw(tall))).elements[0]["class"] == "scroll tall"


def test_cells_have_tints_marks_links_and_chips():
    cells = (
        *(marked("a", "quiet"), Cell(0.5, tint=-3, marks=frozenset({"own", "lowest"}))),
        *(Cell(0.7, tint=10), marked("yes", "chip", "good"), marked(0.01, "beyond")),
        Cell("see", href="growth", note=" · there"),
    )
    columns = (
        *(Column("Ablated"), Column("a", "number"), Column("b", "number")),
        *(Column("Double"), Column("p", "p"), Column("Claim")),
    )
    page = Page(str(draw(Table("raw-0", "Scores", columns, (Row(cells, "task"),), look="matrix"))))
    found = page.all("td")
    assert [cell.get("class") for cell in found] == ["loss3 own", "gain10", None, "beyond", None]
    assert found[0]["text"] == "0.500▾, lowest of its column, own lesion"
    assert page.all("span", **{"class": "chip good"})[0]["text"] == "yes"
    assert page.all("a")[0]["href"] == "growth"
    assert found[4]["text"] == "see · there"
    assert page.all("table")[0]["class"] == "matrix"
    tight = Page(str(draw(Table("scores", "All", columns, (Row(cells),)))))
    assert tight.all("table")[0]["class"] == "plain tight"
    assert tight.all("td")[3]["class"] == "n beyond"


def test_a_terminal_shows_the_same_texts():
    lines = printed(table_lines(TABLE)).splitlines()
    assert [line.split() for line in lines] == [
        ["The", "scores"],
        ["Task", "Effect", "Heads", "Examples"],
        ["all", "tasks", "+1.2", "7%", "12", "345"],
        [*["+0.5", "to", "+2.2,", "p", "<", "0.001"]],
        ["a", "<b>", "(near", "chance)", "−0.1", "30%", "7"],
        ["c", "–", "–", "–"],
        [*["−1.0", "to", "+1.0,", "p", "0.0502"]],
    ]
    matrix = Table(
        "raw-0",
        "Scores",
        (Column("Ablated"), Column("a", "number")),
        (Row(("[red]a[/]", Cell(0.25, marks=frozenset({"own", "lowest"})))),),
        look="matrix",
        terminal="Scores",
    )
    text = printed(table_lines(matrix))
    assert "[red]a[/]  0.250▾" in text
    assert "bold: a task under its own lesion" in text


def test_tables_of_the_same_columns_are_stacked():
    two = stacked("definition", {"column": TABLE, "row": TABLE}, "d", "D-scores")
    assert [row.cells[:2] for row in two.rows[:4]] == [
        ("column", "all tasks"), ("", TABLE.rows[1].cells[0]), ("", "c"), ("row", "all tasks"),
    ]  # fmt: skip
    assert two.rows[3].kind == "mean"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="'any' has 2 columns, a row of it 1 cells"):
        Table("any", "Any", (Column("A"), Column("B")), (Row(("a",)),))


def test_a_track_shows_a_score_beside_chance():
    column = Column("Figure", "drawing", head=TRACK_HEAD)
    table = Table("base", "Base", (Column("Task"), column), (Row(("a", track(0.75, 0.5))),))
    page = Page(str(draw(table)))
    assert [
        (e["class"], e.get("d") or e["cx"]) for e in page.all("td")[0]["children"][0]["children"]
    ] == [
        ("grid", "M0 8H100"),
        ("gain", "M50.0 8H75.0"),
        ("chance", "M50.0 2V14"),
        ("base", "75.0"),
    ]
    assert page.all("td")[0]["class"] == "track"
    assert 'class="lack" d="M50.0 8H25.0"' in track(-0.5, 0.0)
    assert track(math.nan, 0.5).count("<path") == 1
    assert rows_of(table) == [["Task"], ["a"]]
