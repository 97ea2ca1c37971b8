"""Which page shows which kind of results: the only place that tells them apart."""

from pathlib import Path

from lobes.report import sweep
from lobes.report.pooled import page as pooled
from lobes.report.run import page as run
from lobes.report.sections import Page
from lobes.report.seeds import comparison, transfer
from lobes.results import (
    ComparisonResults,
    PooledResults,
    RunResults,
    SweepResults,
    TransferResults,
)
from lobes.results.base import Results


def page_of(results: Results, folder: Path | None = None, *, whole: bool = False) -> Page:
    """Compose the page of results of any kind.

    `folder` is the folder of a run, whose predictions give the page's examples. With `whole` the
    page holds all that files can, where that of many tasks has less. Raises `RunError` where the
    predictions are damaged.
    """
    match results:
        case RunResults():
            return run.page_of(results, folder, whole=whole)
        case ComparisonResults():
            return comparison.page_of(results)
        case TransferResults():
            return transfer.page_of(results)
        case PooledResults():
            return pooled.page_of(results)
        case SweepResults():
            return sweep.page_of(results)
    raise TypeError(f"there is no page for {type(results).__name__}")


def page_name(kind: type[Results]) -> str:
    """The name of the page beside the file of results: `report.html`, `comparison.html`."""
    return "report.html" if kind is RunResults else kind.FILE.replace(".json", ".html")
