"""Figures and tables as files: drawings that stand alone, numbers that are those of the results.

`tests/gold/export/` holds a drawing and a table of each kind. After an intended change look at the
difference and renew them: `LOBES_RENEW_GOLD=1 pytest tests/test_report_export.py -k gold`.
"""

import csv
import io
import json
import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fake_comparisons import comparison_page, fake_comparison, fake_transfer, transfer_page
from fake_results import HOSTILE, fake_results
from fake_runs import fake_runs, fake_sweep
from lobes.errors import ConfigError, RunError
from lobes.experiments.reports import write_exhibits, write_files
from lobes.report import exporting, sections
from lobes.report.exporting import figure_files, table_files, to_png
from lobes.report.pooled.page import page_of
from lobes.report.sweep import page_of as sweep_page
from lobes.report.table_files import latex, spreadsheet_cell, to_csv, to_latex
from lobes.report.tables import Cell, Column, Row, Table
from lobes.results import PooledResults, SweepResults, checked
from run_pages import run_page, table_of, texts_of

GOLD = Path(__file__).parent / "gold" / "export"
SVG = "{http://www.w3.org/2000/svg}"
SMALL = {"tasks": 2, "sites": (3, 2), "fractions": (0.2, 0.4), "controls": 3}


def runs_page(**case):
    return page_of(checked(fake_runs(**case), PooledResults))


VIEWS = {
    "report": lambda: run_page(fake_results(extended=True, iat=True)),
    "one task": lambda: run_page(fake_results(tasks=1, controls=0, training=False)),
    "hostile": lambda: run_page(fake_results(tasks=HOSTILE, sites=(7, 5, 11), extended=True)),
    "runs": lambda: runs_page(runs=4, tasks=HOSTILE, names=(*HOSTILE, "d")),
    "one run": lambda: runs_page(runs=1),
    "sweep": lambda: sweep_page(checked(fake_sweep(tasks=HOSTILE), SweepResults)),
    "models": lambda: sweep_page(checked(fake_sweep(axis="model"), SweepResults)),
    "comparison": lambda: comparison_page(tasks=HOSTILE, sites=(7, 5, 11)),
    "transfer": lambda: transfer_page(name=HOSTILE[1]),
}


@pytest.fixture(scope="module", params=VIEWS)
def shown(request):
    return VIEWS[request.param]()


def rows_of(content):
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))


def titles(table):
    """The titles of a table's columns in files."""
    return [c.title for c in table.columns if c.in_files and c.kind != "drawing"]


def columns_of(content):
    header, *rows = rows_of(content)
    return dict(zip(header, zip(*rows, strict=True), strict=True))


# --- drawings ------------------------------------------------------------------------------------


def test_a_drawing_stands_alone(shown):
    files = dict(figure_files(shown, png=False))
    names = [figure.name for figure in sections.figures(shown)]
    assert list(files) == [f"{name}.svg" for name in names]
    assert len(set(names)) == len(names) > 0
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    for content in files.values():
        text = content.decode("utf-8")
        assert not re.search(r"var\(|class=|<style|<script|href|url\(|@import|rgb\(", text)
        assert set(re.findall(r'https?://[^"]+', text)) == {"http://www.w3.org/2000/svg"}
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        title, description, ground, *_ = root
        assert (title.tag, description.tag) == (f"{SVG}title", f"{SVG}desc")
        assert title.text.strip()
        assert description.text.strip()
        assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
        box = [float(part) for part in root.get("viewBox").split()]
        assert [float(root.get(key)) for key in ("width", "height")] == box[2:]
        assert [float(ground.get(key)) for key in ("x", "y", "width", "height")] == box
        assert ground.get("fill") == "#ffffff"
        words = list(root.iter(f"{SVG}text"))
        assert words
        assert all(e.get("fill") and e.get("font-size") for e in words)


def test_colors_are_those_of_the_printed_page():
    text = dict(figure_files(run_page(fake_results()), png=False))["strip-0-0.svg"].decode()
    root = ElementTree.fromstring(text)
    marks = [e for e in root.iter(f"{SVG}path") if e.get("fill") not in (None, "none")]
    assert {(e.get("fill"), e.get("stroke")) for e in marks} == {
        ("#111", "#fff"),  # the mean of all tasks: --ink on --card
        ("#0b6464", "#fff"),  # a task: --accent
    }
    dots = next(e for e in root.iter(f"{SVG}path") if e.get("stroke-linecap") == "round")
    assert (dots.get("stroke"), dots.get("stroke-width"), dots.get("stroke-opacity")) == (
        "#777",
        "5",
        "0.5",
    )


def test_a_chart_of_several_curves_gets_a_key_and_the_name_of_its_axis():
    report = run_page(fake_results(extended=True))
    files = dict(figure_files(report, png=False))
    for name, expected in {
        "dose-0.svg": ["random lesions", "others’ lesions", "own lesion"],
        "growth-task-0.svg": ["base score", "stability of importance"],
        "agreement-0.svg": [],
    }.items():
        texts = [e.text for e in ElementTree.fromstring(files[name]).iter(f"{SVG}text")]
        assert [text for text in texts if text in expected] == expected
    texts = [e.text for e in ElementTree.fromstring(files["dose-0.svg"]).iter(f"{SVG}text")]
    dose = next(figure for figure in sections.figures(report) if figure.name == "dose-0")
    assert dose.drawing.above in texts


def test_grids_show_every_cell_of_maps_and_matrices():
    results = fake_results(sites=(7, 5, 11))
    report = run_page(results)
    files = dict(figure_files(report, png=False))
    root = ElementTree.fromstring(files["map-1.svg"])
    paths = list(root.iter(f"{SVG}path"))
    cells = [e for e in paths if e.get("fill") not in ("none", "#ffffff")]
    rings = [e for e in paths if e.get("stroke") == "#ffffff"]
    assert len(cells) == 23
    assert len(rings) == int(0.3 * 23)
    texts = [e.text for e in root.iter(f"{SVG}text")]
    maps = next(block for block in sections.blocks_of(report) if hasattr(block, "maps"))
    shown = {cell.text for row in maps.maps[1].rows for cell in row if cell}
    assert shown < set(texts)
    root = ElementTree.fromstring(files["raw-2.svg"])
    texts = [e.text for e in root.iter(f"{SVG}text")]
    for row in texts_of(table_of(report, "raw-2")):
        assert set(row) - {"–"} < set(texts), "random lesions have no interval"
    frames = [e for e in root.iter(f"{SVG}path") if e.get("stroke") == "#111"]
    assert len(frames) == 3


def test_a_letter_that_xml_forbids_does_not_stop_a_drawing():
    files = dict(figure_files(run_page(fake_results(tasks=("a\ufffe", "b\uffff"))), png=False))
    assert "a\ufffd" in ElementTree.fromstring(files["strip-0-0.svg"])[1].text


# --- PNG -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dpi", [96, 192, 300])
def test_png_has_the_size_and_its_words(dpi):
    report = run_page(fake_results(**SMALL))
    files = dict(figure_files(report, dpi=dpi))
    for name in ("strip-0-0", "raw-1", "map-0"):
        root = ElementTree.fromstring(files[f"{name}.svg"])
        image = Image.open(io.BytesIO(files[f"{name}.png"]))
        size = [float(root.get(key)) * dpi / 96 for key in ("width", "height")]
        assert image.size == pytest.approx(size, abs=1)
        for parent in list(root.iter()):
            for child in [e for e in parent if e.tag == f"{SVG}text"]:
                parent.remove(child)
        bare = ElementTree.tostring(root, encoding="unicode")
        without = np.asarray(Image.open(io.BytesIO(to_png(bare, dpi))).convert("L"), dtype=int)
        pixels = np.asarray(image.convert("L"), dtype=int)
        assert pixels[0, 0] == 255
        assert (without < 250).any()
        assert (abs(pixels - without) > 60).sum() > 100  # the words


def test_png_without_its_library_or_a_font_is_one_sentence(monkeypatch, tmp_path):
    report = run_page(fake_results(**SMALL))
    exporting._resvg.cache_clear()
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(
        RunError, match=r"resvg_py, which is not installed: pip install 'lobes\[fig"
    ):
        write_files([*figure_files(report)], tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
    assert write_files([*figure_files(report, png=False)], tmp_path / "figures")

    class Fontless:
        @staticmethod
        def svg_to_bytes(svg_string):
            return b"nothing"

    monkeypatch.setitem(sys.modules, "resvg_py", Fontless)
    with pytest.raises(RunError, match="this machine has no font: install one"):
        write_files([*figure_files(report)], tmp_path / "figures")
    exporting._resvg.cache_clear()


def test_pdf_has_the_size_and_its_words_and_is_always_the_same():
    pytest.importorskip("typst")
    report = run_page(fake_results(**SMALL))
    for name in ("strip-0-0", "raw-1"):
        files = dict(figure_files(report, png=False, pdf=True))
        found = files[f"{name}.pdf"]
        assert found == exporting.to_pdf(files[f"{name}.svg"].decode())
        root = ElementTree.fromstring(files[f"{name}.svg"])
        width, height = (0.75 * float(root.get(key)) for key in ("width", "height"))
        box = re.search(rb"/MediaBox\s*\[([\d. ]+)\]", found)
        assert box is not None
        assert [*map(float, box[1].split())] == pytest.approx([0, 0, width, height], abs=0.01)
        assert b"/FontFile" in found, "the fonts are embedded"
        assert b"/ToUnicode" in found, "words can be searched"


def test_pdf_without_its_library_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "typst", None)
    with pytest.raises(RunError, match=r"typst, which is not installed: pip install 'lobes\[fig"):
        list(figure_files(run_page(fake_results(**SMALL)), png=False, pdf=True))


@pytest.mark.parametrize("dpi", [0, 23, 1201])
def test_a_senseless_resolution_is_refused(dpi):
    with pytest.raises(ConfigError, match=f"at {dpi} dpi: expected 24 to 1200"):
        list(figure_files(run_page(fake_results(**SMALL)), dpi=dpi))


# --- tables --------------------------------------------------------------------------------------


def test_every_table_is_csv_and_latex(shown):
    files = dict(table_files(shown))
    tables = sections.tables(shown)
    assert list(files) == [f"{t.name}.{kind}" for t in tables for kind in ("csv", "tex")]
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        content = files[f"{table.name}.csv"]
        assert content.count(b"\r\n") >= 1 + len(table.rows)
        header, *rows = rows_of(content)
        assert {len(row) for row in rows} <= {len(header)}
        columns = titles(table)
        assert len(header) == len(set(header)) >= len(columns)
        assert len(rows) == len(table.rows)
        number = [cell for row in rows for cell in row if re.fullmatch(r"[+−\d\u202f.]+", cell)]
        assert not [cell for cell in number if set("+−\u202f") & set(cell)]
        lines = files[f"{table.name}.tex"].decode().splitlines()
        body = [line for line in lines if line.endswith(r" \\")]
        assert len(body) == 1 + len(table.rows)
        for line in body:
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
            assert line.isascii() or re.search("[À-ſ]", line)


def test_csv_values_are_those_of_the_results():
    results = fake_results(extended=True)
    files = dict(table_files(run_page(results)))
    entry = results["fractions"][2]
    scores = columns_of(files["raw-2.csv"])
    for j, task in enumerate(results["tasks"]):
        found = [float(value) for value in scores[task["name"]]][1:4]
        assert found == pytest.approx([row[j] for row in entry["scores"]], rel=1e-9)
    column, found = entry["dissociation"]["column"], columns_of(files["scores-2-0.csv"])
    intervals = np.array([column["mean_interval"], *column["interval"]])
    assert [float(v) for v in found["D"]] == pytest.approx(
        [column["mean"], *column["values"]], rel=1e-9
    )
    assert [float(v) for v in found["Interval low"]] == pytest.approx(intervals[:, 0], rel=1e-9)
    assert [float(v) for v in found["Interval high"]] == pytest.approx(intervals[:, 1], rel=1e-9)
    importance = columns_of(files["map-1.csv"])
    for head in range(12):
        values = [row[head] for row in results["importance"][1]["values"]]
        assert [float(v) for v in importance[f"Head {head}"]] == pytest.approx(values, rel=1e-9)
    pairs = columns_of(files["pairs-2.csv"])
    expected = [pair["effects"][1] for pair in entry["pairs"]]
    assert [float(v) for v in pairs["Second loses more"]] == pytest.approx(expected, rel=1e-9)
    assert {"First loses more Interval low", "First loses more p", "p (Holm)"} <= set(pairs)
    base = columns_of(files["base.csv"])
    assert base["Training"] == ("10000",) * 3
    assert [float(v) for v in base["Base"]] == pytest.approx(
        [task["base"] for task in results["tasks"]], rel=1e-9
    )


def words(header, rows):
    """A table of words."""
    return Table("any", "50 %\nof all", tuple(map(Column, header)), tuple(map(Row, rows)))


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_any_text_survives_csv(rows):
    _, *found = rows_of(to_csv(words("AB", rows)).encode("utf-8", "surrogatepass"))
    kept = [[cell.replace("\u00a0", " ") for cell in row] for row in rows]
    kept = [[re.sub(r"(?<=\d)\u202f(?=\d)", "", c) if c != "–" else "" for c in r] for r in kept]
    kept = [[re.sub(r"−(?=\d)", "-", cell) for cell in row] for row in kept]
    assert [[cell.removeprefix("'") for cell in row] for row in found] == [
        [cell.removeprefix("'") for cell in row] for row in kept
    ]


FORMULAS = [
    *('=HYPERLINK("http://x/?"&A2,"ok")', "@SUM(1+1)", "+1+cmd|' /C calc'!A0", "-2+3"),
    *("\t=1+1", "\r1", " =1+1", "\u200b=1+1", "＝1+1", "-pos", "--"),
]
PLAIN = ["", "3", "-0.25", "+1e-05", "-.5", "+", "-", "a=b", "x@y", "− 1", "[=1]", "'=1"]


@pytest.mark.parametrize("name", [*FORMULAS, *PLAIN])
def test_no_text_is_a_formula_to_a_spreadsheet(name):
    safe = f"'{name}" if name in FORMULAS else name
    table = words((name or "a", "Value"), [(name, "3")])
    header, row = csv.reader(io.StringIO(to_csv(table), newline=""))
    assert header == [safe or "a", "Value"]
    assert row == [safe, "3"]
    assert spreadsheet_cell(name) == safe


def test_latex_escapes():
    assert latex("50 % & a_b #1 $x {y} ~ ^ \\ −1 – ’ é") == (
        r"50 \% \& a\_b \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"$-$1 -- ' é"
    )
    assert latex("中 🙂 <b>\u00a0x\u202fy\nz") == r"[U+4E2D] [U+1F642] $<$b$>$~x\,y z"
    table = words(("[x]", "y"), (("*a", "1"), ("[1pt]", "2"), ("b", "3")))
    assert to_latex(table) == "\n".join(
        (
            "% 50 % of all",
            r"% needs \usepackage{booktabs}",
            r"\begin{tabular}{ll}",
            r"\toprule",
            r"{}[x] & y \\",
            r"\midrule",
            r"{}*a & 1 \\",
            r"{}[1pt] & 2 \\",
            r"b & 3 \\",
            r"\bottomrule",
            r"\end{tabular}",
            "",
        )
    )


def test_latex_marks_the_diagonal_the_ends_of_columns_and_what_is_significant():
    cells = (
        Cell(0.5, marks=frozenset({"own", "lowest"})),
        Cell(0.25, marks=frozenset({"lowest"})),
        Cell(0.01, marks=frozenset({"beyond"})),
    )
    columns = (Column("Task"), *(Column(name, "number") for name in "abc"))
    row = to_latex(Table("t", "caption", columns, (Row(("x", *cells)),))).splitlines()[6]
    own, low, beyond = r"\textbf{\underline{0.500}}", r"\underline{0.250}", r"\textbf{0.010}"
    assert row == rf"x & {own} & {low} & {beyond} \\"


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_no_text_leaves_latex_unescaped(text):
    shown = re.sub(r"\\[%&_#${}]|\$[^$]*\$|\\[a-z]+\{\}|\\,", "", latex(text))
    assert not set(shown) & set("%&_#$^\\{}\n")


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("results.json", fake_results(**SMALL)),
        ("comparison.json", fake_comparison(tasks=2, seeds=2, sites=(3, 2))),
        ("transfer.json", fake_transfer(seeds=2, sites=(3, 2))),
        ("runs.json", fake_runs(runs=2, tasks=2)),
    ],
)
def test_exhibits_of_a_folder(tmp_path, name, content):
    (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    written = write_exhibits(tmp_path, tmp_path / "paper" / "all", dpi=96)
    there = sorted(p for p in (tmp_path / "paper" / "all").rglob("*.*") if p.name != "files.json")
    assert sorted(written) == there
    assert {p.suffix for p in there if p.parent.name == "figures"} == {".svg", ".png"}
    assert {p.suffix for p in there if p.parent.name == "tables"} == {".csv", ".tex"}
    listed = (tmp_path / "paper" / "all" / "index.html").read_text("utf-8")
    links = set(re.findall('href="([^"]*)"', listed)) - {"data:,"}
    folders = {f"{p.parent.name}/{p.name}" for p in there if p.name != "index.html"}
    assert links == folders
    before = {path: path.read_bytes() for path in there}
    assert write_exhibits(tmp_path / name, tmp_path / "paper" / "all", dpi=96) == written
    assert {path: path.read_bytes() for path in there} == before


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "figures").write_text("in the way")
    files = [*figure_files(run_page(fake_results(**SMALL)), png=False)]
    with pytest.raises(RunError, match="figures"):
        write_files(files, tmp_path / "figures")


@pytest.mark.parametrize("name", ["strip-1-0.svg", "map-0.svg", "scores-1-0.csv", "pairs-1.tex"])
def test_files_equal_the_gold_files(name):
    report = run_page(fake_results(**SMALL))
    content = {**dict(figure_files(report, png=False)), **dict(table_files(report))}[name]
    if os.environ.get("LOBES_RENEW_GOLD"):
        GOLD.mkdir(exist_ok=True)
        (GOLD / name).write_bytes(content)
    assert content == (GOLD / name).read_bytes()


def test_every_name_is_in_the_documentation(shown):
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    listed = {
        re.sub(r"-([FTSDN]|0)\b", "-N", name)
        for name in re.findall("`([a-z]+[a-zFTSDN0-9-]*)`", text)
    }
    names = [*sections.figures(shown), *sections.tables(shown)]
    assert {re.sub(r"\d+", "N", each.name) for each in names} <= listed
