"""What a folder holds to report: a study, a comparison, a transfer study, or several runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lobes.experiments.manifest import check_files
from lobes.experiments.outputs import OutputFolder, check_output
from lobes.experiments.pooled_runs import pooled_results
from lobes.files import read_json
from lobes.report.exporting import DPI, figure_files, table_files
from lobes.report.page import html, write_page
from lobes.report.pooled import page as pooled
from lobes.report.run import page as run
from lobes.report.sections import Page
from lobes.report.seeds import comparison, transfer
from lobes.results import (
    ComparisonResults,
    PooledResults,
    RunResults,
    TransferResults,
    as_bytes,
    read,
)
from lobes.results.base import Results


class Kind(NamedTuple):
    """How one kind of results is shown.

    `page_of` also gets the folder, where a run has its predictions, and whether the page is to
    hold all that files can.
    """

    results: type[Results]
    page_of: Callable[[Any, Path, bool], Page]

    @property
    def page(self) -> str:
        """The name of the page beside the file of results."""
        name = self.results.FILE.replace(".json", ".html")
        return "report.html" if name == "results.html" else name


KINDS = (
    Kind(RunResults, lambda results, folder, whole: run.page_of(results, folder, whole=whole)),
    Kind(ComparisonResults, lambda results, *_: comparison.page_of(results)),
    Kind(TransferResults, lambda results, *_: transfer.page_of(results)),
    Kind(PooledResults, lambda results, *_: pooled.page_of(results)),
)


def report_again(path: str | os.PathLike[str], page: Path | None = None) -> tuple[Results, Path]:
    """Write the page of finished results again; the results, and where the page is.

    `path` is a folder or a file in it; `page` is where to write, by default beside the file.
    Raises `RunError` where there is nothing to report, or it is damaged.
    """
    path = Path(path)
    kind, results = _read(path)
    folder = path if path.is_dir() else path.parent
    target = page or folder / kind.page
    check_output(target)
    return results, write_page(html(kind.page_of(results, folder, False)), target)


def report_runs(
    runs: Sequence[Path], folder: Path, page: Path | None = None
) -> tuple[Results, Path]:
    """Take finished runs together: `runs.json` and its page, in `folder` or at `page`.

    Returns the content and where the page is. Raises `RunError` as `pooled_results`, and where the
    files cannot be written.
    """
    kind = KINDS[-1]
    target = page or folder / kind.page
    check_output(target)
    check_output(folder / PooledResults.FILE)
    content = pooled_results(runs)
    _write([(content.FILE, as_bytes(content))], folder)
    return content, write_page(html(kind.page_of(content, folder, False)), target)


def write_exhibits(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    png: bool = True,
    dpi: int = DPI,
) -> list[Path]:
    """Write the figures and tables of finished results into `figures/` and `tables/` of `folder`.

    `path` is as in `report_again`. Raises what `write_figures` and `write_tables` raise.
    """
    path, folder = Path(path), Path(folder)
    kind, results = _read(path)
    page = kind.page_of(results, path if path.is_dir() else path.parent, True)
    figures = write_figures(page, folder / "figures", png=png, dpi=dpi)
    return [*figures, *write_tables(page, folder / "tables")]


def write_figures(page: Page, folder: Path, *, png: bool = True, dpi: int = DPI) -> list[Path]:
    """Write every figure of a report as SVG and, with `png`, as PNG; the paths of the files.

    Raises `ConfigError` for a `dpi` outside 24 to 1200, and `RunError` where PNG cannot be drawn or
    a file cannot be written. Nothing is written unless every figure can be drawn.
    """
    return _write([*figure_files(page, png=png, dpi=dpi)], folder)


def write_tables(page: Page, folder: Path) -> list[Path]:
    """Write every table of a report as CSV and LaTeX; the paths of the files.

    Raises `RunError` where a file cannot be written.
    """
    return _write([*table_files(page)], folder)


def _write(files: Sequence[tuple[str, bytes]], folder: Path) -> list[Path]:
    outputs = OutputFolder(folder, [name for name, _ in files])
    for name, content in files:
        with outputs.writing(name) as file:
            file.write(content)
    return [folder / name for name, _ in files]


def _read(path: Path) -> tuple[Kind, Results]:
    """What kind of results the path holds, and these, checked as `lobes` wrote them."""
    kind = _kind_of(path)
    if path.is_dir() or path.name == kind.results.FILE:
        folder = path if path.is_dir() else path.parent
        check_files(folder, kind.results.FILE, "predictions.parquet", "texts.parquet")
    return kind, read(path, kind.results)


def _kind_of(path: Path) -> Kind:
    """What the path holds; results of a study where that cannot be told."""
    if path.is_dir():
        fits = [kind for kind in KINDS if (path / kind.results.FILE).exists()]
    else:
        content = read_json(path)
        schema = content.get("schema") if isinstance(content, dict) else None
        fits = [kind for kind in KINDS if kind.results.schema_name() == schema]
        fits += [kind for kind in KINDS if path.name == kind.results.FILE]
    return fits[0] if fits else KINDS[0]
