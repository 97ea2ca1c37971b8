"""What a folder holds to report: the results of a study, a comparison, or a transfer study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lobes.report import comparison, html, transfer
from lobes.report.page import write_page
from lobes.report.source import read_results
from lobes.study.disk import read_json


class Kind(NamedTuple):
    """One kind of results: the files in a folder, and the functions that read and show them."""

    file: str
    page: str
    read: Callable[[Path], dict[str, Any]]
    render: Callable[[dict[str, Any]], str]


KINDS = {
    "lobes-results": Kind("results.json", "report.html", read_results, html.render),
    "lobes-comparison": Kind(
        "comparison.json", "comparison.html", comparison.read_comparison, comparison.render
    ),
    "lobes-transfer": Kind(
        "transfer.json", "transfer.html", transfer.read_transfer, transfer.render
    ),
}


def report_again(path: Path, page: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Write the page of finished results again; the results, and where the page is.

    `path` is a folder or a file in it; `page` is where to write, by default beside the file.
    Raises `RunError` where there is nothing to report, or it is damaged.
    """
    kind = _kind_of(path)
    results = kind.read(path)
    folder = path if path.is_dir() else path.parent
    return results, write_page(kind.render(results), page or folder / kind.page)


def _kind_of(path: Path) -> Kind:
    """What the path holds; results of a study where that cannot be told."""
    if not path.is_dir():
        content = read_json(path)
        schema = content.get("schema") if isinstance(content, dict) else None
        return KINDS.get(str(schema), KINDS["lobes-results"])
    there = [kind for kind in KINDS.values() if (path / kind.file).exists()]
    return there[0] if there else KINDS["lobes-results"]
