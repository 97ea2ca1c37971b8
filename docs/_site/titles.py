"""Small changes to the site's pages: links by title, and an entrance at the site's root."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

ENTRANCE = '<!DOCTYPE html><title>lobes</title><meta http-equiv="refresh" content="0; url={}">\n'


def show_titles(app: Sphinx, tree: nodes.document, name: str) -> None:
    """Let a link that GitHub shows as a file's name, `study.md`, show the title of that page."""
    for link in tree.findall(nodes.reference):
        if re.fullmatch(r"[\w/-]+\.md", link.astext()) and link.get("internal"):
            place = f"{name}/../{link['refuri'].partition('#')[0]}"
            target = Path(app.srcdir, place).resolve().relative_to(app.srcdir).with_suffix("")
            if title := app.env.titles.get(str(target)):
                link.children = [nodes.Text(title.astext())]


def write_entrance(app: Sphinx, failure: Exception | None) -> None:
    """Lead from the site's root to its first page."""
    if failure is None:
        first = f"{app.config.root_doc}.html"
        Path(app.outdir, "index.html").write_text(ENTRANCE.format(first), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both, as Sphinx asks of an extension."""
    app.connect("doctree-resolved", show_titles)
    app.connect("build-finished", write_entrance)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
