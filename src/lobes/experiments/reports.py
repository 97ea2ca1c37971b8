"""What a folder holds to report: a study, a comparison, a transfer study, or several runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from lobes.experiments.manifest import check_files
from lobes.experiments.outputs import OutputFolder, check_output
from lobes.experiments.pooled_runs import runs_results
from lobes.files import read_json, to_json
from lobes.report import comparison, html, transfer
from lobes.report import runs as several
from lobes.report.examples import examples_of
from lobes.report.exporting import DPI, figure_files, table_files
from lobes.report.listing import Shown
from lobes.report.page import write_page
from lobes.report.reading import read_results
from lobes.report.view import view


class Kind(NamedTuple):
    """One kind of results: the files in a folder, and the functions that read and show them.

    `render` and `view` also get the folder, where a run has its predictions.
    """

    file: str
    page: str
    read: Callable[[Path], dict[str, Any]]
    render: Callable[[dict[str, Any], Path], str]
    view: Callable[[dict[str, Any], Path], Shown]


def _kind(file: str, read: Callable[[Path], dict[str, Any]], module: ModuleType) -> Kind:
    """A kind whose page needs nothing but its JSON file."""
    return Kind(
        file,
        file.replace(".json", ".html"),
        read,
        lambda content, folder: str(module.render(content)),
        lambda content, folder: module.view(content),
    )


KINDS = {
    "lobes-results": Kind(
        "results.json",
        "report.html",
        read_results,
        lambda results, folder: html.render(results, examples_of(folder, results)),
        lambda results, folder: view(results, examples_of(folder, results, whole=True), whole=True),
    ),
    "lobes-comparison": _kind("comparison.json", comparison.read_comparison, comparison),
    "lobes-transfer": _kind("transfer.json", transfer.read_transfer, transfer),
    "lobes-runs": _kind("runs.json", several.read_runs, several),
}


def report_again(
    path: str | os.PathLike[str], page: Path | None = None
) -> tuple[dict[str, Any], Path]:
    """Write the page of finished results again; the results, and where the page is.

    `path` is a folder or a file in it; `page` is where to write, by default beside the file.
    Raises `RunError` where there is nothing to report, or it is damaged.
    """
    path = Path(path)
    kind, results = _read(path)
    folder = path if path.is_dir() else path.parent
    target = page or folder / kind.page
    check_output(target)
    return results, write_page(kind.render(results, folder), target)


def report_runs(
    runs: Sequence[Path], folder: Path, page: Path | None = None
) -> tuple[dict[str, Any], Path]:
    """Take finished runs together: `runs.json` and its page, in `folder` or at `page`.

    Returns the content and where the page is. Raises `RunError` as `runs_results`, and where the
    files cannot be written.
    """
    kind = KINDS["lobes-runs"]
    target = page or folder / kind.page
    check_output(target)
    check_output(folder / kind.file)
    content = runs_results(runs)
    _write([(kind.file, to_json(content, seal=True))], folder)
    return content, write_page(kind.render(content, folder), target)


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
    shown = kind.view(results, path if path.is_dir() else path.parent)
    figures = write_figures(shown, folder / "figures", png=png, dpi=dpi)
    return [*figures, *write_tables(shown, folder / "tables")]


def write_figures(report: Shown, folder: Path, *, png: bool = True, dpi: int = DPI) -> list[Path]:
    """Write every figure of a report as SVG and, with `png`, as PNG; the paths of the files.

    Raises `ConfigError` for a `dpi` outside 24 to 1200, and `RunError` where PNG cannot be drawn or
    a file cannot be written. Nothing is written unless every figure can be drawn.
    """
    return _write([*figure_files(report, png=png, dpi=dpi)], folder)


def write_tables(report: Shown, folder: Path) -> list[Path]:
    """Write every table of a report as CSV and LaTeX; the paths of the files.

    Raises `RunError` where a file cannot be written.
    """
    return _write([*table_files(report)], folder)


def _write(files: Sequence[tuple[str, bytes]], folder: Path) -> list[Path]:
    outputs = OutputFolder(folder, [name for name, _ in files])
    for name, content in files:
        with outputs.writing(name) as file:
            file.write(content)
    return [folder / name for name, _ in files]


def _read(path: Path) -> tuple[Kind, dict[str, Any]]:
    """What kind of results the path holds, and its content, checked as `lobes` wrote it."""
    kind = _kind_of(path)
    if path.is_dir() or path.name == kind.file:
        folder = path if path.is_dir() else path.parent
        check_files(folder, kind.file, "predictions.parquet", "texts.parquet")
    return kind, kind.read(path)


def _kind_of(path: Path) -> Kind:
    """What the path holds; results of a study where that cannot be told."""
    if not path.is_dir():
        content = read_json(path)
        schema = content.get("schema") if isinstance(content, dict) else None
        named = [kind for kind in KINDS.values() if kind.file == path.name]
        return KINDS.get(str(schema), named[0] if named else KINDS["lobes-results"])
    there = [kind for kind in KINDS.values() if (path / kind.file).exists()]
    return there[0] if there else KINDS["lobes-results"]
