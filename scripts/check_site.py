"""Check the documentation site that `make docs` has built.

Every link within the site must lead to a file and, with an anchor, to an element of that name. No
page may load a script, style, font or image from another host.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What a browser loads by itself, and by which attribute.
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The names of elements of a page, its links, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.names |= {value for key in ("id", "name") if (value := given.get(key))}
        if tag == "a" and (link := given.get("href")):
            self.links.add(link)
        if (attribute := LOADED.get(tag)) and (address := given.get(attribute)):
            self.loaded.add(address)


def problems(site: Path) -> list[str]:
    """Return a sentence for each link that leads nowhere and each thing loaded from elsewhere."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    if not pages:
        return [f"{site} holds no page: run `make docs`."]
    found = []
    for path, page in sorted(pages.items()):
        here = path.relative_to(site.resolve())
        found += [f"{here} loads {each}" for each in sorted(page.loaded) if urlsplit(each).netloc]
        found += [
            f"{here} links to {link}, which does not exist"
            for link in sorted(page.links | page.loaded)
            if not _leads_somewhere(link, path, pages)
        ]
    return found


def _leads_somewhere(link: str, here: Path, pages: dict[Path, Page]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:  # another site, or data within the page
        return True
    target = (here.parent / unquote(parts.path)).resolve() if parts.path else here
    if not target.is_file():
        return False
    anchor = unquote(parts.fragment)
    return not anchor or target not in pages or anchor in pages[target].names


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or "Every link of the site works; nothing comes from other hosts.")
    sys.exit(bool(found))
