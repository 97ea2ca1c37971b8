"""Every page in a real browser: no network, no error, hover and keyboard, dark, print, narrow.

Needs Chromium and the Python package playwright, which drives it; skipped where one is missing.
`LOBES_CHROMIUM` names the browser where it is not found by itself.
"""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fake_comparisons import comparison_page, transfer_page
from fake_extended import fake_folder
from fake_results import HOSTILE, fake_results
from fake_runs import fake_runs
from lobes.report.exporting import figure_files
from lobes.report.page import html
from lobes.report.pooled.page import page_of
from lobes.results import PooledResults, checked
from pages import runs_html
from run_pages import run_html, run_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = (
    os.environ.get("LOBES_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (apt install chromium)")

TEXTS = (
    "<script>window.__x = 1</script><b>bold</b>",
    '"><img src="https://example.org/x.png" onerror="window.__x = 2"> \u202ereversed\u202c \u200f',
    "</li></ol></details><style>* { display: none }</style> " + "long " * 200,
)
LARGE = {"tasks": 12, "sites": (16,) * 24, "controls": 29, "iat": True}


def full_report(folder, texts=(), **case):
    """A report with every part, examples among them; their texts are `texts` where given."""
    results = fake_results(extended=True, **case)
    fake_folder(folder, results)
    if texts:
        path = folder / "texts.parquet"
        table = pq.read_table(path)
        shown = pa.array([list(texts)] * len(table), pa.list_(pa.string()))
        pq.write_table(table.set_column(2, "texts", shown), path)
    return run_html(results, folder)


BUILD = {
    "report": lambda folder: full_report(folder, iat=True),
    "hostile": lambda folder: full_report(folder, TEXTS, tasks=HOSTILE, sites=(7, 5, 11)),
    "large": lambda folder: full_report(folder, **LARGE),
    "runs": lambda folder: runs_html(fake_runs(runs=5)),
    "hostile runs": lambda folder: runs_html(
        fake_runs(tasks=HOSTILE, names=HOSTILE, models=HOSTILE)
    ),
    "comparison": lambda folder: html(comparison_page(tasks=4)),
    "transfer": lambda folder: html(transfer_page()),
}
PLAIN = ("report", "runs", "comparison", "transfer")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Where the page of a name is; each is made once, when it is first asked for."""
    made: dict[str, Path] = {}

    def file(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("page")
            made[name] = folder / "page.html"
            made[name].write_text(BUILD[name](folder), encoding="utf-8")
        return made[name]

    return file


@pytest.fixture
def opened(browser, files):
    """Opens a page by its name; nothing may go wrong in it, and nothing may be loaded."""
    contexts, wrong, asked = [], [], []

    def open_page(name, width=1280, unfolded=True, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(files(name).as_uri())
        if unfolded:
            page.evaluate("document.querySelectorAll('.part').forEach((d) => { d.open = true; })")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []
    assert not [url for url in asked if not url.startswith(("file:", "data:,"))]
    assert len([url for url in asked if url.startswith("file:")]) == len(contexts)


# --- the page as a whole -------------------------------------------------------------------------


def test_the_answer_and_its_figures_come_first_and_a_link_unfolds_a_part(opened):
    page = opened("report", unfolded=False)
    figures = page.locator(".glance svg, .glance table")
    assert figures.count() == 3
    for k in range(3):
        box = figures.nth(k).bounding_box()
        assert box["y"] + box["height"] <= 900
    part = page.locator(".part", has=page.locator("#dissociation"))
    assert not page.locator("#dissociation").is_visible()
    page.locator("nav a", has_text="Dissociation").click()
    page.wait_for_function("document.querySelector('#dissociation').checkVisibility()")
    assert part.get_attribute("open") is not None
    part.locator("summary").first.click()
    assert not page.locator("#dissociation").is_visible()
    page.emulate_media(media="print")
    assert page.locator("#dissociation").is_visible()


@pytest.mark.parametrize("name", ["hostile", "hostile runs"])
def test_hostile_names_and_texts_are_text_and_run_nothing(opened, name):
    page = opened(name)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate("typeof window.__x") == "undefined"
    assert page.locator("img, iframe, object, embed, base, form").count() == 0
    assert page.locator("style").count() == 1
    body = page.locator("body").text_content()
    assert HOSTILE[0] in body
    assert HOSTILE[1] in body
    if name == "hostile":
        assert page.get_by_text(TEXTS[0]).count() > 1
        assert page.get_by_text("</li></ol></details><style>* { display: none }").count() > 1
        assert "\u202e" not in body
        said = page.locator(".said bdi[dir=auto]")
        assert said.count() == page.locator(".said").count() > 10


def test_a_large_page_is_small_and_quick(opened, files):
    assert files("large").stat().st_size < 10_000_000
    page = opened("large")
    ended = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < ended < 5000
    page.locator("table.heat[data-task] td[data-rank]").first.hover()
    assert page.locator("td.here").count() == 12


@pytest.mark.parametrize("name", [*PLAIN, "hostile", "large"])
def test_a_narrow_page_does_not_scroll_sideways(opened, name):
    page = opened(name, width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    beside = page.evaluate(
        """() => [...document.querySelectorAll("h1, h2, h3, p, li, dd, svg")].filter((e) => {
          const box = e.getBoundingClientRect();
          return box.width && box.right > 401 && !e.closest(".scroll, nav, .sr");
        }).map((e) => e.outerHTML.slice(0, 120))"""
    )
    assert beside == []


LONG = ("a-task-with-a-long-name-of-forty-letters", "MNLI-MATCHED-WMT-QQP-RTE", "b")


@pytest.mark.parametrize(
    "shown",
    [
        lambda: run_page(fake_results(tasks=LONG, extended=True, iat=True)),
        lambda: run_page(
            fake_results(tasks=12, sites=(16,) * 24, fractions=(0.3,), training=False)
        ),
        lambda: page_of(checked(fake_runs(tasks=LONG), PooledResults)),
        lambda: comparison_page(tasks=LONG),
        transfer_page,
    ],
    ids=["report", "large", "runs", "comparison", "transfer"],
)
def test_a_drawing_by_itself_shows_all_its_words(browser, tmp_path, shown):
    page = browser.new_page(offline=True)
    for name, content in figure_files(shown(), png=False):
        (tmp_path / name).write_bytes(content)
        page.goto((tmp_path / name).as_uri())
        cut = page.evaluate(
            """() => {
              const whole = document.documentElement.getBoundingClientRect();
              return [...document.querySelectorAll("text")].filter((text) => {
                const box = text.getBoundingClientRect();
                return box.left < whole.left - 1 || box.right > whole.right + 1
                  || box.top < whole.top - 1 || box.bottom > whole.bottom + 1;
              }).map((text) => text.textContent);
            }"""
        )
        assert cut == [], name
    page.close()


# --- colors and print ---------------------------------------------------------------------------

# The texts whose contrast with what is behind them is too low, as [ratio, needed, markup].
CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((c, k) => c * top[3] + under[k] * (1 - top[3]));
  const light = (c) => {
    const linear = (x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = c.map((x) => linear(x / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    if (!e) return [255, 255, 255];
    const own = parse(getComputedStyle(e).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(e.parentElement));
  };
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(e.tagName)) continue;
    if (!e.checkVisibility() || e.closest(".sr, .skip, title, desc")) continue;
    const style = getComputedStyle(e);
    const ground = behind(e);
    const color = over(parse(e.closest("svg") ? style.fill : style.color), ground);
    const [a, b] = [light(color), light(ground)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const needed = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = (a + 0.05) / (b + 0.05);
    const kind = e.tagName + style.color + style.fill + e.getAttribute("class");
    if (ratio < needed) found.set(kind, [ratio, needed, e.outerHTML.slice(0, 90)]);
  }
  return { low: [...found.values()], paper: getComputedStyle(document.body).backgroundColor };
}"""


@pytest.mark.parametrize("name", PLAIN)
def test_text_is_readable_in_light_and_dark(opened, name):
    page = opened(name)
    papers = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        found = page.evaluate(CONTRASTS)
        assert found["low"] == [], scheme
        papers.append(sum(map(int, found["paper"][4:-1].split(","))))
    assert papers[0] > 700 > 150 > papers[1]


@pytest.mark.parametrize("name", PLAIN)
def test_print_hides_the_controls_and_shows_the_rest(opened, name):
    page = opened(name)
    assert page.locator(".bar").is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator(".bar").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRASTS)["low"] == []
    if name == "report":
        shown = page.locator(".fraction")
        assert shown.count() > 1
        assert all(shown.nth(k).is_visible() for k in range(shown.count()))


# --- hover and keyboard --------------------------------------------------------------------------


def places(page):
    """Where the marked heads are, (map, site, head)."""
    return page.evaluate(
        """() => [...document.querySelectorAll("td.here")].map((cell) => [
          [...document.querySelectorAll("table.heat[data-task]")].indexOf(cell.closest("table")),
          cell.parentElement.sectionRowIndex, cell.cellIndex - 1])"""
    )


def cell_of(page, number, site, head):
    table = page.locator("table.heat[data-task]").nth(number)
    return table.locator("tbody tr").nth(site).locator("td").nth(head)


def test_pointing_at_a_head_shows_it_in_every_map(opened):
    page = opened("report")
    readout = page.locator("#readout")
    assert not readout.is_visible()
    cell_of(page, 1, 2, 7).hover()
    assert places(page) == [[0, 2, 7], [1, 2, 7], [2, 2, 7]]
    assert readout.locator(".where").text_content() == "Head 2:7"
    lines = readout.locator("li").all_text_contents()
    for number, task in enumerate(("sentiment", "domain", "domain-pair")):
        cell = cell_of(page, number, 2, 7)
        rank, score = cell.get_attribute("data-rank"), cell.get_attribute("data-score")
        assert lines[number].startswith(f"{task} rank {rank} of 72, score {score}")
        assert lines[number].endswith(", lesioned") == ("f2" in cell.get_attribute("class").split())
    page.locator("h1").hover()
    assert places(page) == []
    assert not readout.is_visible()


def test_the_maps_are_grids_that_the_keyboard_walks(opened):
    page = opened("report")
    maps = page.get_by_role("grid")
    assert maps.count() == 3
    for number in range(3):
        assert maps.nth(number).locator("[tabindex='0']").count() == 1
    cell_of(page, 0, 0, 0).focus()
    said = page.locator("#announce")
    assert said.get_attribute("aria-live") == "polite"
    for key, (site, head) in (
        ("ArrowRight", (0, 1)),
        ("ArrowDown", (1, 1)),
        ("ArrowLeft", (1, 0)),
        ("ArrowLeft", (1, 0)),  # no head is further left
        ("ArrowUp", (0, 0)),
        ("End", (0, 11)),
        ("Control+End", (5, 11)),
        ("Home", (5, 0)),
    ):
        page.keyboard.press(key)
        assert places(page) == [[number, site, head] for number in range(3)]
        assert said.text_content().startswith(f"Head {head} of site {site}. sentiment: rank ")
    assert said.text_content().count(" rank ") == 3
    assert maps.nth(0).locator("[tabindex='0']").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('table').dataset.task") == "domain"
    page.keyboard.press("Escape")
    assert places(page) == []
    assert said.text_content() == ""
    assert not page.locator("#readout").is_visible()


def test_the_switches_work(opened):
    page = opened("report")
    ring = "getComputedStyle(arguments[0], '::after').display".replace("arguments[0]", "cell")
    inside = page.locator("table.heat[data-task]").first.locator("td.f2:not(.f0)").first
    assert inside.evaluate(f"(cell) => {ring}") == "block"
    color = inside.evaluate("(cell) => getComputedStyle(cell).backgroundColor")
    page.locator("#fraction-0").check(force=True)
    assert inside.evaluate(f"(cell) => {ring}") == "none"
    assert page.locator(".fraction:visible").count() == page.locator(".fraction.only-0").count() > 0
    page.locator("#shade-rank").check(force=True)
    cells = page.locator("table.heat[data-task]").first.locator("td[data-rank]")
    changed = cells.evaluate_all("(all) => all.map((c) => getComputedStyle(c).backgroundColor)")
    assert len(set(changed)) > 10
    assert color not in ("", "rgba(0, 0, 0, 0)")


# --- accessibility -------------------------------------------------------------------------------

# What Tab reaches: the first of a group of radio buttons stands for all of it.
STOPS = """() => {
  const radios = new Set();
  return [...document.querySelectorAll("a[href], summary, input, [tabindex='0']")].filter((e) => {
    if (!e.checkVisibility() && !e.matches(".skip")) return false;
    if (e.type !== "radio") return true;
    return e.checked && !radios.has(e.name) && radios.add(e.name);
  }).length;
}"""
FOCUS = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const shown = e.matches(".switch input") ? e.nextElementSibling : e;
  const style = getComputedStyle(shown), box = shown.getBoundingClientRect();
  const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  return [outlined && box.width > 0 && box.bottom > 0 && box.top < innerHeight,
          e.outerHTML.slice(0, 90), [...document.querySelectorAll("*")].indexOf(e)];
}"""


@pytest.mark.parametrize("name", PLAIN)
def test_every_control_is_reached_by_tab_and_seen(opened, name):
    page = opened(
        name, reduced_motion="reduce"
    )  # else the page is still moving when it is looked at
    expected, seen, unseen = page.evaluate(STOPS), [], []
    for _ in range(expected + 5):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUS)
        if found is None or found[2] in seen:
            break
        visible, markup, place = found
        seen.append(place)
        if not visible:
            unseen.append(markup)
    assert unseen == []
    assert seen == sorted(seen)  # in the order of the page
    assert len(seen) == expected


@pytest.mark.parametrize("name", PLAIN)
def test_everything_has_a_role_and_a_name(opened, name):
    page = opened(name)
    for role in ("banner", "main", "contentinfo", "navigation"):
        assert page.get_by_role(role).count() == 1, role
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    named = {"image", "table", "grid", "region", "navigation", "radio", "link", "group", "heading"}
    named |= {"DisclosureTriangle", "columnheader", "rowheader"}
    roles, nameless = set(), []
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in named:
            continue
        roles.add(role)
        if not node.get("name", {}).get("value", "").strip():
            nameless.append((role, node.get("properties", [])[:2]))
    assert {"image", "table", "region", "link", "heading", "columnheader"} <= roles
    assert [each for each in nameless if each[0] != "group"] == []
