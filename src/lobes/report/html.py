"""The report of a run as one HTML page."""

from pathlib import Path

from lobes.report import figures
from lobes.report.findings import Results
from lobes.report.page import render_page, write_page
from lobes.report.source import read_results
from lobes.report.view import TINTS, view


def render(results: Results) -> str:
    """The whole page; `results` is the content of a `results.json`.

    Raises `RunError` when the results are damaged or of a newer version.
    """
    return render_page(
        "report.html",
        script="report.js",
        report=view(results),
        palette=figures.palette(),
        tints=TINTS,
    )


def write_report(results_path: str | Path, html_path: str | Path) -> Path:
    """Read `results.json`, write the page in one step, and return where it is.

    Raises `RunError` when the results cannot be read or the page cannot be written.
    """
    return write_page(render(read_results(results_path)), html_path)
