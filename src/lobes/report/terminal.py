"""The short form of the report, for the terminal: rich tables and the same sentences.

Names come from data: they are shown as plain text, never read as rich's markup.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lobes.report.claims import Claim
from lobes.report.findings import Findings
from lobes.report.formatting import GAP
from lobes.report.parts import Fraction, Report
from lobes.report.view import view
from lobes.results import RunResults

_TONES = {"yes": "green", "no": "bold", "open": "yellow"}


def tables(results: RunResults | Mapping[str, Any]) -> list[RenderableType]:
    """What the terminal shows of a `results.json`, from top to bottom.

    Base scores; then, at the largest fraction, the lesion matrix and the D-scores; then the
    findings in words. Raises `RunError` when the results are damaged.
    """
    report = view(results)
    shown: list[RenderableType] = [_base(report)]
    if report.fractions:
        headline = report.fractions[report.headline_fraction]
        shown.append(_summary(headline) if headline.summary else _matrix(report, headline))
        if headline.panels:
            shown.append(_d_scores(headline))
    shown.append(findings_lines(report.findings))
    return [*shown, *(_claim(claim) for claim in report.claims[1:])]


def plain_table(*columns: str, left: int = 1) -> Table:
    """A plain table whose first `left` columns are text, the others numbers."""
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        justify = "left" if index < left else "right"
        table.add_column(Text(column), justify=justify, overflow="fold")  # type: ignore[arg-type]
    return table


def _base(report: Report) -> Group:
    table = plain_table("task", "metric", "base", "chance", "above chance", left=2)
    for task in report.tasks:
        name = Text(task.name)
        if task.warning:
            name.append(f" ({task.warning})", style="yellow")
        table.add_row(
            name, Text(task.metric), Text(task.base, "bold"), Text(task.chance), Text(task.above)
        )
    return Group(title_line("Base scores"), table)


def title_line(text: str) -> Text:
    """The title over a table."""
    return Text(unbound(text), "bold underline")


def unbound(text: str) -> str:
    """The text without the page's no-break spaces, at which rich breaks a line all the same."""
    return text.replace(f"{GAP}%", "%").replace(GAP, " ")


def _matrix(report: Report, fraction: Fraction) -> Group:
    names = [task.name for task in report.tasks]
    table = plain_table("ablated", *names)
    for row in fraction.raw:
        quiet = "" if row.kind == "task" else "dim"
        cells = [
            Text(cell.text + ("▾" if cell.lowest else " "), "bold" if cell.own else quiet)
            for cell in row.cells
        ]
        table.add_row(Text(row.label, quiet), *cells)
    title = f"Scores under lesions of {fraction.title}; rows: whose heads are ablated"
    key = Text("bold: a task under its own lesion; ▾: the lowest of its column", "dim")
    return Group(title_line(title), table, key)


def _summary(fraction: Fraction) -> Group:
    assert fraction.summary is not None
    table = plain_table(*fraction.summary.header)
    for row in fraction.summary.rows:
        table.add_row(*map(Text, row))
    return Group(title_line(fraction.summary.caption), table)


def _d_scores(fraction: Fraction) -> Group:
    table = plain_table("definition", "task", "D", "interval", "random lesions", "p", left=2)
    title = title_line(f"D-scores in percent at {fraction.title}, against {fraction.controls}")
    notes = []
    for panel in fraction.panels:
        for row in panel.rows:
            table.add_row(
                Text(panel.definition if row.is_mean else "", "bold"),
                Text(row.label, "bold" if row.is_mean else ""),
                Text(row.value, "bold" if row.is_mean else ""),
                Text(row.interval),
                Text(row.controls),
                Text(row.p, "green" if row.beyond else ""),
            )
        if panel.note:
            notes.append(Text(f"{panel.definition}: {panel.note}", "yellow"))
    return Group(title, table, *notes)


def _claim(claim: Claim) -> Text:
    """A further claim and its answer on one line."""
    line = Text(f"{unbound(claim.statement)} ")
    return line.append(unbound(claim.headline), f"bold {_TONES[claim.answer]}")


def findings_lines(findings: Findings) -> Group:
    """The question, the answer in colour, the sentences and what weakens them."""
    lines = [
        Text(findings.question),
        Text(unbound(findings.headline), f"bold {_TONES[findings.answer]}"),
    ]
    lines += [Text(f"  {unbound(sentence)}") for sentence in findings.sentences]
    lines += [Text(f"  ! {unbound(caveat)}", "yellow") for caveat in findings.caveats]
    return Group(*lines)
