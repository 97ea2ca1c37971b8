"""A page's tables and findings for the terminal, with rich.

Names come from data: they are shown as plain text, never read as rich's markup.
"""

import re
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from lobes.report.formatting import GAP
from lobes.report.sections import Block, Findings, InTerminal, Page, blocks_of
from lobes.report.tables import (
    ENDS,
    Column,
    Row,
    Table,
    cell_of,
    end_key,
    spread,
    text_of,
    under_text,
)

_TONES = {"yes": "green", "no": "bold", "open": "yellow"}


def shown(page: Page) -> list[RenderableType]:
    """The tables that have a title for the terminal, then the findings, each from top to bottom."""
    blocks = list(blocks_of(page))
    tables = [table_lines(b) for b in _visible(blocks) if isinstance(b, Table) and b.terminal]
    return [*tables, *(findings_lines(b) for b in _visible(blocks) if isinstance(b, Findings))]


def _visible(blocks: list[Block]) -> Iterator[Block]:
    for block in blocks:
        if isinstance(block, InTerminal):
            yield from block.blocks
        else:
            yield block


def table_lines(table: Table) -> Group:
    """The table under its title; of a matrix also what its marks mean."""
    columns = tuple(column for column in table.columns if _is_shown(column))
    kept = [place for place, column in enumerate(table.columns) if _is_shown(column)]
    groups, is_matrix = spread(columns), table.look == "matrix"
    lines = RichTable(box=None, pad_edge=False)
    for group in groups:
        column = columns[group[0]]
        justify = "left" if (column.is_text and not is_matrix) or group[0] == 0 else "right"
        lines.add_column(Text(_unbound(column.title)), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in table.rows:
        part = Row(tuple(row.cells[place] for place in kept), row.kind)
        lines.add_row(*(_cell(part, columns, group, is_matrix) for group in groups))
    key = [Text(_key(table), "dim")] if is_matrix and _has_own(table) else []
    return Group(Text(_unbound(table.terminal), "bold underline"), lines, *key)


def _key(table: Table) -> str:
    """What the marks of a matrix mean."""
    return f"bold: a task under its own lesion{end_key(table)}"


def _is_shown(column: Column) -> bool:
    return column.in_terminal and column.kind != "drawing"


def _has_own(table: Table) -> bool:
    return any("own" in cell_of(cell).marks for row in table.rows for cell in row.cells)


def _cell(row: Row, columns: tuple[Column, ...], group: list[int], is_matrix: bool) -> Text:
    place, *under = group
    cell, column = cell_of(row.cells[place]), columns[place]
    style = ""
    if column.strong or "own" in cell.marks or (row.kind == "mean" and place == 0):
        style = "bold"
    elif "beyond" in cell.marks or "good" in cell.marks:
        style = "green"
    elif row.kind in ("base", "control"):
        style = "dim"
    text = Text(_unbound(text_of(cell, column)), style)
    if is_matrix and place:
        text.append(next((sign for end, sign in ENDS.items() if end in cell.marks), " "))
    if cell.chip:
        text.append(f" ({_unbound(cell.chip)})", style="yellow" if "warn" in cell.marks else "")
    below = under_text(row, columns, under)
    if below:
        text.append(f"\n{_unbound(below)}", style="not bold dim")
    return text


def findings_lines(findings: Findings) -> RenderableType:
    """The question, the answer in color, the sentences and what weakens them.

    An answer without any reason stands on one line with its question.
    """
    question = _unbound(findings.question)
    headline = Text(_unbound(findings.headline), f"bold {_TONES[findings.answer]}")
    if not findings.sentences and not findings.caveats:
        return Text(f"{question} ").append_text(headline)
    lines = [Text(question), headline]
    lines += [Text(f"  {_unbound(sentence)}") for sentence in findings.sentences]
    lines += [Text(f"  ! {_unbound(caveat)}", "yellow") for caveat in findings.caveats]
    return Group(*lines)


def _unbound(text: str) -> str:
    """The text without the page's no-break spaces, at which rich breaks a line all the same."""
    return re.sub(rf"(?<=\d)[ {GAP}]%", "%", text).replace(GAP, " ")
