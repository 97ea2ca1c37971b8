"""What a folder holds to report: a study, a comparison, a transfer study, or several runs."""

import os
from collections.abc import Sequence
from pathlib import Path

from lobes.errors import RunError
from lobes.experiments.manifest import check_files
from lobes.experiments.outputs import OutputFolder, check_output, check_page
from lobes.experiments.pooled_runs import pooled_results
from lobes.experiments.store import SCHEMA
from lobes.files import read_json
from lobes.report.exporting import DPI, figure_files, index_of, table_files
from lobes.report.page import html, write_page
from lobes.report.pages import page_name, page_of
from lobes.results import PooledResults, RunResults, as_bytes, read
from lobes.results.base import Results
from lobes.results.files import KINDS


def report_again(path: str | os.PathLike[str], page: Path | None = None) -> tuple[Results, Path]:
    """Write the page of finished results again; the results, and where the page is.

    `path` is a folder or a file in it; `page` is where to write, by default beside the file.
    Raises `RunError` where there is nothing to report, or it is damaged.
    """
    path = Path(path)
    results, folder = _read(path)
    target = page or folder / page_name(type(results))
    check_page(target)
    return results, write_page(html(page_of(results, folder)), target)


def report_runs(
    runs: Sequence[Path], folder: Path, page: Path | None = None
) -> tuple[Results, Path]:
    """Take finished runs together: `runs.json` and its page, in `folder` or at `page`.

    Returns the content and where the page is. Raises `RunError` as `pooled_results`, and where the
    files cannot be written.
    """
    target = page or folder / page_name(PooledResults)
    check_pooled(folder, target)
    content = pooled_results(runs)
    write_files([(content.FILE, as_bytes(content))], folder)
    return content, write_page(html(page_of(content)), target)


def check_pooled(folder: Path, page: Path | None = None) -> None:
    """Raise `RunError` where `report_runs` would replace what is not its own."""
    check_page(page or folder / page_name(PooledResults))
    check_output(folder / PooledResults.FILE)


def write_exhibits(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    png: bool = True,
    pdf: bool = False,
    dpi: int = DPI,
) -> list[Path]:
    """Write the figures and tables of finished results into `figures/` and `tables/` of `folder`.

    Figures are SVG, with `png` also PNG, with `pdf` also PDF; tables are CSV and LaTeX;
    `index.html` shows them. `path` is as in `report_again`. Returns the paths of the files. Raises
    `ConfigError` for a `dpi` not in 24 to 1200, and `RunError` where PNG or PDF cannot be drawn or
    a file cannot be written; no figure is written unless every figure can be drawn.
    """
    target = Path(folder)
    page = page_of(*_read(Path(path)), whole=True)
    figures = write_files([*figure_files(page, png=png, pdf=pdf, dpi=dpi)], target / "figures")
    tables = write_files([*table_files(page)], target / "tables")
    index = write_files([("index.html", index_of(page, png=png, pdf=pdf).encode())], target)
    return [*figures, *tables, *index]


def write_files(files: Sequence[tuple[str, bytes]], folder: Path) -> list[Path]:
    """Write files, given as names and contents, to a folder; return their paths.

    Raises `RunError` where one cannot be written, or would replace what lobes did not write.
    """
    outputs = OutputFolder(folder, [name for name, _ in files])
    for name, content in files:
        with outputs.writing(name) as file:
            file.write(content)
    return [folder / name for name, _ in files]


def _read(path: Path) -> tuple[Results, Path]:
    """The results that the path holds, checked as `lobes` wrote them, and their folder."""
    kind, folder = _kind_of(path), path if path.is_dir() else path.parent
    if path.is_dir() and not (path / kind.FILE).exists():
        _check_holds_no_runs(path)
    if path.is_dir() or path.name == kind.FILE:
        check_files(folder, kind.FILE, "predictions.parquet", "texts.parquet")
    return read(path, kind), folder


def _check_holds_no_runs(folder: Path) -> None:
    """Refuse the folder of several runs that were not taken together yet."""
    runs = [each.parent for each in sorted(folder.glob("*/config.json")) if _is_of_run(each)]
    if runs:
        raise RunError(
            f"{folder} has no results of its own, but holds runs, such as {runs[0]}: give one of "
            f"them, or finish the sweep first: `lobes sweep` with its file continues it."
        )


def _is_of_run(config: Path) -> bool:
    """Whether this is the study of a run, and not the configuration of a model."""
    record = read_json(config)
    return isinstance(record, dict) and record.get("schema") == SCHEMA["schema"]


def _kind_of(path: Path) -> type[Results]:
    """What the path holds; results of a study where that cannot be told."""
    if path.is_dir():
        fits = [kind for kind in KINDS if (path / kind.FILE).exists()]
    else:
        content = read_json(path)
        schema = content.get("schema") if isinstance(content, dict) else None
        fits = [kind for kind in KINDS if kind.schema_name() == schema]
        fits += [kind for kind in KINDS if path.name == kind.FILE]
    return fits[0] if fits else RunResults
