"""The report of a run as one HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lobes.dissociation.verdict import WORDS
from lobes.report import figures
from lobes.report.examples import Examples, examples_of
from lobes.report.lesions import TINTS
from lobes.report.page import render_page, write_page
from lobes.report.tabular import MOST_TASKS
from lobes.report.view import view
from lobes.results import RunResults, read


def render(results: RunResults | Mapping[str, Any], examples: Examples | None = None) -> str:
    """The whole page; `results` or the content of a `results.json`.

    `examples` are what `examples_of(folder, results)` reads of the predictions beside it.

    Raises `RunError` when the results are damaged or of a newer version.
    """
    return render_page(
        "report.html",
        script="report.js",
        report=view(results, examples),
        palette=figures.palette(),
        tints=TINTS,
        most_tasks=MOST_TASKS,
        answers=WORDS,
    )


def write_report(results_path: str | Path, html_path: str | Path) -> Path:
    """Read `results.json`, write the page in one step, and return where it is.

    The predictions in the same folder, where there are any, give the page's examples. Raises
    `RunError` when the results cannot be read or the page cannot be written.
    """
    path, results = Path(results_path), read(results_path, RunResults)
    examples = examples_of(path if path.is_dir() else path.parent, results)
    return write_page(render(results, examples), html_path)
