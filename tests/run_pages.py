"""The page of one run, made of the content of its `results.json`, and what it shows."""

from pathlib import Path
from typing import Any

from rich.console import Console

from lobes.report import console
from lobes.report.page import html
from lobes.report.run.page import page_of
from lobes.report.sections import Findings, Page, tables
from lobes.report.tables import Table, text_of
from lobes.results import RunResults, checked


def run_page(content: dict[str, Any], folder: Path | None = None, *, whole: bool = False) -> Page:
    return page_of(checked(content, RunResults), folder, whole=whole)


def run_html(content: dict[str, Any], folder: Path | None = None) -> str:
    return html(run_page(content, folder))


def findings_of(page: Page) -> Findings:
    """The findings at the top of the page."""
    found = page.sections[0].findings
    assert found is not None
    return found


def table_of(page: Page, name: str) -> Table:
    return next(table for table in tables(page) if table.name == name)


def texts_of(table: Table) -> list[list[str]]:
    """What a reader sees in each row."""
    return [
        [text_of(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
        for row in table.rows
    ]


def printed(content: dict[str, Any], width: int = 100) -> str:
    """What a terminal of this width shows."""
    terminal = Console(width=width, force_terminal=False, color_system=None)
    with terminal.capture() as capture:
        for part in console.shown(run_page(content)):
            terminal.print(part)
    return capture.get()
