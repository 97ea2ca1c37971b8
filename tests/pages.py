"""A page as its elements, or as plain text, for tests that read what a report shows."""

from html.parser import HTMLParser
from pathlib import Path

from lobes.report import sections, sweep
from lobes.report.page import html
from lobes.report.pooled.page import page_of
from lobes.report.tables import cell_of, text_of
from lobes.results import PooledResults, SweepResults, checked

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """A page as a list of elements (tag, attributes, text), with its nesting checked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict] = []
        self.open: list[dict] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {[element['tag'] for element in self.open]}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        parents = [element["tag"] for element in self.open]
        element = {"tag": tag, "text": "", "inside": parents, "children": [], **dict(attrs)}
        if self.open:
            self.open[-1]["children"].append(element)
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert [e["tag"] for e in self.open[-1:]] == [tag], f"</{tag}> closes nothing"
        self.open.pop()

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and all(element.get(name) == value for name, value in attributes.items())
        ]

    def part(self, name):
        """The part of the page that a link to `name` leads to: one or none."""
        found = [e for e in self.all("section") if e.get("id") == name]
        return found + [e for e in self.all("div", **{"class": "inside"}) if e.get("id") == name]

    def table(self, caption_id):
        """The table whose caption has this id, as rows of cells' texts; or the table's name."""
        ids = (caption_id, f"{caption_id}-caption")
        table = next(table for table in self.all("table") if table["children"][0].get("id") in ids)
        body = next(part for part in table["children"] if part["tag"] == "tbody")
        return [[visible(cell) for cell in row["children"]] for row in body["children"]]


def visible(element):
    """An element's text without what only screen readers and nobody else get."""
    text = element["text"]
    for child in element["children"]:
        if child.get("class") in ("sr", "low"):
            text = text.replace(child["text"], "", 1)
    return text.strip()


def as_number(text):
    return float(text.replace("−", "-").replace("\u202f", "").rstrip(" %"))


def page_text(page):
    """The findings, facts, paragraphs and tables of a page as a reader sees them, a line each."""
    lines = []
    for block in sections.blocks_of(page):
        match block:
            case sections.Findings():
                said = (block.headline, *block.sentences, *block.caveats)
                lines += ["", f"## {block.question} [{block.answer}]", *said]
            case sections.Prose():
                lines.append(str(block.text))
            case sections.Facts():
                lines += [f"{fact.label}: {fact.value}" for fact in block.items]
            case sections.Figure():
                lines += ["", f"figure {block.name}: {block.drawing.title}"]
    for table in sections.tables(page):
        lines += ["", f"{table.name}: {table.caption}"]
        lines.append(" | ".join(column.title for column in table.columns))
        for row in table.rows:
            cells = zip(row.cells, table.columns, strict=True)
            shown = [
                f"{text_of(cell, column)}{cell_of(cell).chip and f' ({cell_of(cell).chip})'}"
                for cell, column in cells
            ]
            lines.append(" | ".join(shown))
    return "\n".join(lines).replace("\u00a0", " ").strip() + "\n"


def check_gold(path: Path, found: str, renew: bool) -> None:
    """That a text is that of a gold file, which `renew` writes anew."""
    if renew:
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def runs_html(content):
    """The page of several runs, of the content of their file."""
    return html(page_of(checked(content, PooledResults)))


def sweep_html(content):
    """The page of a sweep, of the content of its file."""
    return html(sweep.page_of(checked(content, SweepResults)))
