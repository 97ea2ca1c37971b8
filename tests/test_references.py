"""Every reference to a part of the project, in a docstring, a comment or a page, names what exists.

A reference is a file (`heads.py`, `docs/method.md#lesions`, a link of a page) or a dotted name
(`lobes.heads.HeadSet`). Files move, and prose that still names the old place misleads its reader.
"""

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "benchmarks", "scripts", "examples", "docs")
CODE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
CODE.remove(Path(__file__))
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
WHOLE = re.DOTALL | re.MULTILINE
# A user's own file.
OTHERS = {"script.py"}
# The names of files and loggers that look like names in Python.
NOT_NAMES = {"lobes.json", "lobes.log"}


def prose(path: Path) -> str:
    """Return the docstrings and comments of a Python file, or a whole page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n".join("".join(found) for found in re.findall(r'"""(.*?)"""|(#.*?)$', text, WHOLE))


@functools.cache
def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.M)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def files_named(text: str) -> Iterator[str]:
    """Yield the Python files that a text names, with or without their folders."""
    yield from re.findall(r"(?<![\w/.*{-])((?:[\w-]+/)*\w+\.py)\b", text)


@functools.cache
def is_file(name: str) -> bool:
    return name in OTHERS or any(str(path).endswith(f"/{name}") for path in CODE)


def is_page(reference: str, here: Path) -> bool:
    """Whether a link of the page `here` leads to a file and, with an anchor, to a heading."""
    name, _, anchor = reference.partition("#")
    page = (here.parent / name).resolve() if name else here
    return page.exists() and (not anchor or anchor in anchors(page))


@functools.cache
def is_name(name: str) -> bool:
    """Whether a dotted name is a module of lobes, or what one holds."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return part in getattr(found, "__annotations__", {})
            found = getattr(found, part)
        return True
    return False


def wrong(path: Path) -> Iterator[str]:
    """Yield the references of a file that lead nowhere."""
    text = prose(path)
    yield from (name for name in files_named(text) if not is_file(name))
    links = re.findall(r"\bdocs/[\w./-]+\.md(?:#[\w-]+)?", text)
    yield from (link for link in links if not is_page(link, ROOT / "README.md"))
    if path.suffix == ".md":
        links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
        yield from (link for link in links if not is_page(link, path))
    names = set(re.findall(r"\blobes(?:\.[A-Za-z_]\w*)+", text)) - NOT_NAMES
    yield from (name for name in sorted(names) if not is_name(name))
    yield from re.findall(r"\bMETHOD\s+sections?\s\d+", text)


def modules_amiss(path: Path) -> list[str]:
    """Return what a package's docstring names in the manner of its modules, and it has not."""
    package = ".".join(path.parent.relative_to(ROOT / "src").parts)
    names = re.findall(r"`([a-z]\w*)`", ast.get_docstring(ast.parse(path.read_text())) or "")
    return [name for name in names if not is_name(f"{package}.{name}")]


def test_every_reference_leads_somewhere():
    found = {str(path.relative_to(ROOT)): [*wrong(path)] for path in [*CODE, *PAGES]}
    assert {path: names for path, names in found.items() if names} == {}


def test_packages_name_their_modules():
    packages = [path for path in CODE if path.name == "__init__.py" and "src" in path.parts]
    assert packages
    assert {path: names for path in packages if (names := modules_amiss(path))} == {}


def test_what_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading, with `code`\n[a](#one-heading-with-code) [b](#other) [c](page.md) "
        "[d](gone.md) `heads.py` `gone.py` docs/method.md#lesions docs/method.md#gone "
        "lobes.heads.HeadSet.of lobes.Gone METHOD section 7"
    )
    gone = ["gone.py", "docs/method.md#gone", "#other", "gone.md", "lobes.Gone", "METHOD section 7"]
    assert [*wrong(page)] == gone
