"""Every page that lobes writes is sound: well-formed, self-contained, readable without eyes."""

import base64
import hashlib
import itertools
import re
import tempfile
from pathlib import Path

import pytest

from fake_comparisons import comparison_page, transfer_page
from fake_extended import fake_folder
from fake_results import HOSTILE, fake_results
from fake_runs import fake_runs, fake_sweep
from lobes.report.page import html
from pages import Page, runs_html, sweep_html
from run_pages import run_html

REPORTS = {
    "planted": {"controls": 23},
    "one task": {"tasks": 1},
    "no controls": {"controls": 0, "training": False},
    "IAT": {"sites": (7, 5, 11), "iat": True},
    "hostile": {"tasks": HOSTILE, "sites": (7, 5, 11), "controls": 19, "iat": True},
    "twelve tasks": {"tasks": 12, "sites": (16,) * 24, "controls": 29, "iat": True},
}
# every part of a report, with the examples of a run's folder
FULL = {
    "planted": {"tasks": 5, "controls": 23},
    "one task": {"tasks": 1},
    "no controls": {"controls": 0, "training": False},
    "hostile": {"tasks": HOSTILE, "sites": (7, 5, 11), "controls": 19, "iat": True},
    "twelve tasks": {"tasks": 12, "sites": (16,) * 24, "controls": 29, "iat": True},
}
COMPARISONS = {
    "planted": {},
    "one task": {"tasks": 1},
    "one seed": {"seeds": 1},
    "one method": {"methods": ("multi",)},
    "without IAT": {"methods": ("single", "multi", "probe")},
    "mostly early": {"seeds": 3, "early": 2},
    "hostile": {"tasks": HOSTILE, "sites": (7, 5, 11)},
    "twelve tasks": {"tasks": 12, "sites": (16,) * 24},
}
TRANSFERS = {
    "planted": {},
    "one seed": {"seeds": 1},
    "one start": {"starts": ("pretrained",)},
    "one size": {"sizes": (170,)},
    "hostile": {"name": HOSTILE[0], "sites": (7, 5, 11)},
}
RUNS = {
    "planted": {},
    "one run": {"runs": 1},
    "no controls": {"runs": 2, "tasks": 2, "controls": 0},
    "hostile": {"tasks": HOSTILE, "names": HOSTILE, "models": HOSTILE},
    "twelve tasks": {"runs": 10, "tasks": 12},
}
PAGES = {f"report: {name}": (run_html, fake_results, case) for name, case in REPORTS.items()}
PAGES |= {
    f"comparison: {name}": (html, comparison_page, case) for name, case in COMPARISONS.items()
}
PAGES |= {f"transfer: {name}": (html, transfer_page, case) for name, case in TRANSFERS.items()}
PAGES |= {f"runs: {name}": (runs_html, fake_runs, case) for name, case in RUNS.items()}
PAGES |= {
    f"sweep: {name}": (sweep_html, fake_sweep, case)
    for name, case in {
        "planted": {},
        "models": {"axis": "model"},
        "hostile": {"tasks": HOSTILE, "axis": HOSTILE[0], "why": HOSTILE[1]},
    }.items()
}


def render_full(results):
    with tempfile.TemporaryDirectory() as folder:
        return run_html(results, fake_folder(Path(folder), results))


PAGES |= {
    f"full: {name}": (render_full, fake_results, {**case, "extended": True})
    for name, case in FULL.items()
}


@pytest.fixture(scope="module", params=PAGES)
def rendered(request):
    render_any, build, case = PAGES[request.param]
    text = render_any(build(**case))
    return text, Page(text)


def test_page_is_well_formed_with_unique_ids_and_no_dead_references(rendered):
    page = rendered[1]
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        wanted = (element.get("aria-labelledby") or "").split()
        href = element.get("href", "")
        if element["tag"] == "a":
            if re.fullmatch(r"[\w=,.]+/(report|runs)\.html", href):
                continue  # of a sweep, to the pages in the folders beside it
            assert href.startswith("#")
            wanted.append(href[1:])
        assert set(wanted) <= set(ids)


def test_page_refers_to_nothing_outside_itself(rendered):
    text, page = rendered
    for element in page.elements:
        assert not {"src", "srcset", "action", "data", "poster", "xlink:href"} & element.keys()
        if element["tag"] == "link":
            assert element["href"] == "data:,"
    assert not re.search(r"https?:|url\(|@import|//[a-z]+\.[a-z]", text)


def test_only_the_reports_own_script_may_run(rendered):
    page = rendered[1]
    scripts = page.all("script")
    policy = next(meta for meta in page.all("meta") if "http-equiv" in meta)["content"]
    assert policy.startswith("default-src 'none'")
    assert len(scripts) == policy.count("script-src") <= 1
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}'" in policy
    handlers = [name for e in page.elements for name in e if name.startswith("on")]
    assert not handlers


def test_every_figure_and_table_has_words(rendered):
    page = rendered[1]
    for svg in page.all("svg"):
        if svg.get("aria-hidden") == "true":
            continue
        assert svg["role"] == "img"
        title, description = svg["children"][:2]
        assert (title["tag"], description["tag"]) == ("title", "desc")
        assert title["text"].strip()
        assert description["text"].strip()
        assert svg["aria-labelledby"].split() == [title["id"], description["id"]]
    for table in page.all("table"):
        assert table["children"][0]["tag"] == "caption"
        assert table["children"][0]["text"].strip()
    assert all(cell["scope"] in ("col", "row") and cell["text"].strip() for cell in page.all("th"))
    assert all(e.get("tabindex") in (None, "0") for e in page.elements)


def test_headings_do_not_skip_a_level(rendered):
    levels = [int(e["tag"][1]) for e in rendered[1].elements if re.fullmatch("h[1-6]", e["tag"])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_names_are_text_and_never_markup(rendered):
    text, page = rendered
    assert not page.all("img")
    assert "\x1b" not in text
    assert len(text) < 1_500_000
