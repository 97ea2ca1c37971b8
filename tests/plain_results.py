"""Studies and files of results as plain values, for tests that look at numbers one by one."""

from pathlib import Path
from typing import Any

from lobes.experiments import compare, reports, run, transfer
from lobes.files import plain
from lobes.results import (
    ComparisonResults,
    PooledResults,
    RunResults,
    TransferResults,
    content_of,
    read,
)
from lobes.results.base import Results


def plain_results(found: Any) -> dict[str, Any]:
    """Results, or what a training recorded, as they would stand in a file."""
    return content_of(found) if isinstance(found, Results) else plain(found.model_dump())


def run_study(*arguments: Any, **settings: Any) -> dict[str, Any]:
    return plain_results(run.run_study(*arguments, **settings))


def compare_study(*arguments: Any, **settings: Any) -> dict[str, Any]:
    return plain_results(compare.compare_study(*arguments, **settings))


def transfer_study(*arguments: Any, **settings: Any) -> dict[str, Any]:
    return plain_results(transfer.transfer_study(*arguments, **settings))


def report_again(*arguments: Any, **settings: Any) -> tuple[dict[str, Any], Path]:
    results, page = reports.report_again(*arguments, **settings)
    return plain_results(results), page


def report_runs(*arguments: Any, **settings: Any) -> tuple[dict[str, Any], Path]:
    results, page = reports.report_runs(*arguments, **settings)
    return plain_results(results), page


def read_results(path: str | Path) -> dict[str, Any]:
    return content_of(read(path, RunResults))


def read_comparison(path: str | Path) -> dict[str, Any]:
    return content_of(read(path, ComparisonResults))


def read_transfer(path: str | Path) -> dict[str, Any]:
    return content_of(read(path, TransferResults))


def read_runs(path: str | Path) -> dict[str, Any]:
    return content_of(read(path, PooledResults))
